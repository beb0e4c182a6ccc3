//! Parts of trees, other names, and archives of somebody who is not to be trusted.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use hearth_files::archive::{ArchiveError, ImportOptions, Rule, export_named, export_only, import};
use hearth_files::{Replacement, Root};
use hearth_protocol::archive::{Compression, Exported};

use super::{Room, Tar};
use crate::tree;

fn only(room: &Room, path: &str, paths: &[&str]) -> Result<(Exported, Vec<u8>), ArchiveError> {
    let (mut archive, paths) = (Vec::new(), paths.iter().map(|path| path.as_bytes().to_vec()));
    let output = |piece: Vec<u8>| {
        archive.extend_from_slice(&piece);
        Ok(())
    };
    let exported = export_only(&room.root, path.as_bytes(), paths, output, Compression::None)?;
    Ok((exported, archive))
}

#[test]
fn a_tree_and_a_file_are_exported_under_another_name() {
    let (source, expected) = (Room::new(), Room::new());
    tree::project(&source.path().join("project"));
    tree::dress(&source.path().join("project"), Some(0o750), (1_500_000_000, 5));
    expected.import_to("project", &source.export("project")).unwrap();
    let export = |path: &str, name: &str| {
        let mut archive = Vec::new();
        let output = |piece: Vec<u8>| {
            archive.extend_from_slice(&piece);
            Ok(())
        };
        export_named(&source.root, path.as_bytes(), name.as_bytes(), output, Compression::None).unwrap();
        let room = Room::new();
        room.import(&archive).unwrap();
        room
    };
    let renamed = export("project", "other");
    let there = renamed.path().join("other");
    tree::assert_same(&tree::read(&there), &tree::read(&expected.path().join("project")), "renamed");
    let stat = fs::metadata(&there).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.mtime(), stat.mtime_nsec()), (0o750, 1_500_000_000, 5));
    tree::file(source.path().join("one"), "content", 0o741);
    let room = export("one", "two");
    assert_eq!(fs::read(room.path().join("two")).unwrap(), b"content");
    assert_eq!(fs::read_dir(room.path()).unwrap().count(), 1);
}

#[test]
fn only_what_is_named_is_exported_and_nothing_from_outside() {
    let room = Room::new();
    let at = room.path();
    fs::create_dir_all(at.join("w/a/b")).unwrap();
    tree::file(at.join("w/a/b/one"), "1", 0o600);
    tree::file(at.join("w/a/two"), "2", 0o644);
    fs::hard_link(at.join("w/a/two"), at.join("w/a/same")).unwrap();
    tree::file(at.join("w/rest"), "3", 0o644);
    symlink("rest", at.join("w/link")).unwrap();
    symlink("../..", at.join("w/out")).unwrap();
    tree::dress(&at.join("w/a"), Some(0o711), (5, 6));
    let names = ["a", "a/b/one", "./a//two", "a/same", "link", "gone", "a/gone/x", "out/outside", "rest/x"];
    let (exported, archive) = only(&room, "w", &names).unwrap();
    assert_eq!((exported.members, exported.skipped), (5, 4), "{exported:?}");
    let copy = Room::new();
    copy.import(&archive).unwrap();
    let mut expected = tree::read(&at.join("w"));
    for left in ["rest", "out", "a/b"] {
        expected.remove(left).unwrap();
    }
    let mut there = tree::read(copy.path());
    // No member describes it.
    assert!(there.remove("a/b").is_some());
    tree::assert_same(&there, &expected, "only");
    for outside in ["../outside", "/etc/hostname", "a/../../outside"] {
        assert!(matches!(only(&room, "w", &[outside]), Err(ArchiveError::Member { .. })), "{outside}");
    }
    assert!(only(&room, "w/rest", &["x"]).is_err());
}

#[test]
fn b53_an_archive_has_no_members_but_those_that_were_asked_for() {
    let asked: BTreeSet<Vec<u8>> = [b"a".to_vec(), b"d/b".to_vec(), b"l".to_vec()].into();
    let options = ImportOptions { distrusted: true, only: Some(&asked), ..ImportOptions::default() };
    let room = Room::new();
    let good = Tar::default().file("a", "x").file("./d//b", "y").finish();
    import(&room.root, b"", good.as_slice(), &options).unwrap();
    assert_eq!(fs::read(room.path().join("d/b")).unwrap(), b"y");
    for bad in [
        Tar::default().file("a", "z").file(".git/hooks/pre-commit", "evil").finish(),
        Tar::default().directory("e").finish(),
        Tar::default().symlink("s", "/etc").finish(),
        Tar::default().hard_link("h", "a").finish(),
    ] {
        let before = room.everything();
        let error = import(&room.root, b"", bad.as_slice(), &options).unwrap_err();
        assert!(matches!(error, ArchiveError::Member { rule: Rule::Unasked, .. }), "{error}");
        tree::assert_same(&room.everything(), &before, "refused");
    }
}

#[test]
fn b53_a_hard_link_out_of_a_guest_reaches_nothing_that_was_there() {
    let room = Room::new();
    tree::file(room.path().join("own"), "secret", 0o600);
    let archive = Tar::default().file("a", "x").hard_link("b", "a").finish();
    let options = ImportOptions { distrusted: true, ..ImportOptions::default() };
    import(&room.root, b"", archive.as_slice(), &options).unwrap();
    assert_eq!(fs::metadata(room.path().join("b")).unwrap().nlink(), 2);
    let archive = Tar::default().hard_link("c", "own").finish();
    let error = import(&room.root, b"", archive.as_slice(), &options).unwrap_err();
    assert!(matches!(error, ArchiveError::Member { rule: Rule::LinkNowhere { .. }, .. }), "{error}");
    room.import(&archive).unwrap();
}

#[test]
fn b53_a_file_is_made_over_a_link_and_never_through_it() {
    let room = Room::new();
    let kept = room.outside().join("outside");
    symlink(&kept, room.path().join("link")).unwrap();
    tree::file(room.path().join("inner"), "kept", 0o600);
    symlink("inner", room.path().join("inside")).unwrap();
    fs::create_dir(room.path().join("directory")).unwrap();
    let write = |root: &Root, path: &str| {
        let mut file = Replacement::begin_over(root, path.as_bytes(), 0o640)?;
        file.write_all(b"new")?;
        file.set_modified(-1)?;
        file.commit()
    };
    for path in ["link", "inside", "fresh"] {
        assert_eq!(write(&room.root, path).unwrap().modified_ns, -1);
        let stat = fs::symlink_metadata(room.path().join(path)).unwrap();
        assert_eq!((stat.is_file(), stat.mode() & 0o7777, stat.mtime()), (true, 0o640, -1), "{path}");
        assert_eq!(fs::read(room.path().join(path)).unwrap(), b"new");
    }
    assert_eq!(fs::read(&kept).unwrap(), b"untouched");
    assert_eq!(fs::read(room.path().join("inner")).unwrap(), b"kept");
    for path in ["directory", "../outside", "no/such"] {
        assert!(write(&room.root, path).is_err(), "{path}");
    }
}
