//! What is there already.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;

use hearth_files::archive::{ArchiveError, ImportOptions, Rule, import};
use hearth_protocol::ErrorCode;

use super::{Room, Tar};
use crate::tree;

#[test]
fn what_is_there_is_replaced_and_never_written_to() {
    let room = Room::new();
    fs::write(room.path().join("file"), "old").unwrap();
    fs::hard_link(room.path().join("file"), room.path().join("other-name")).unwrap();
    symlink(room.outside().join("outside"), room.path().join("link")).unwrap();
    tree::fifo(&room.path().join("pipe"));
    let _socket = UnixListener::bind(room.path().join("socket")).unwrap();
    let names = ["file", "link", "pipe", "socket"];
    let archive = names.iter().fold(Tar::default(), |tar, name| tar.file(name, "new")).finish();
    room.import(&archive).unwrap();
    for name in names {
        assert!(fs::symlink_metadata(room.path().join(name)).unwrap().is_file(), "{name}");
        assert_eq!(fs::read(room.path().join(name)).unwrap(), b"new", "{name}");
    }
    assert_eq!(fs::read(room.path().join("other-name")).unwrap(), b"old");
    assert_eq!(fs::read(room.outside().join("outside")).unwrap(), b"untouched");
    assert_eq!(tree::read(room.path()).len(), 5, "nothing else is left");
}

#[test]
fn directories_are_entered_and_keep_what_the_archive_does_not_have() {
    let room = Room::new();
    tree::file(room.path().join("a/kept"), "kept", 0o600);
    tree::file(room.path().join("a/b/kept"), "kept", 0o600);
    tree::dress(&room.path().join("a"), Some(0o700), (5, 5));
    tree::dress(&room.path().join("a/b"), Some(0o711), (6, 6));
    let here = fs::metadata(room.path()).unwrap().mode();
    let archive =
        Tar::default().directory(".").directory("a").file("a/new", "n").file("a/b/new", "n").file("c/d", "n").finish();
    room.import(&archive).unwrap();
    let tree = tree::read(room.path());
    assert_eq!((tree["a"].mode, tree["a"].modified.0), (0o755, 0o14_000_000_000), "as the archive has it");
    assert_eq!(tree["a/b"].mode, 0o711, "the archive says nothing about it");
    assert_ne!(tree["a/b"].modified, (6, 6), "something new is in it");
    assert_eq!(tree["a/kept"].content, b"kept");
    assert_eq!(tree["a/b/new"].content, b"n");
    assert_eq!(tree["c"].mode, 0o755);
    assert_eq!(fs::metadata(room.path()).unwrap().mode(), here, "the destination keeps its mode");
    // One that is made has the archive's.
    let tar = Tar::default().directory("./").file("x", "x").finish();
    room.import_to("made", &tar).unwrap();
    assert_eq!(fs::metadata(room.path().join("made")).unwrap().mtime(), 0o14_000_000_000);
}

#[test]
fn hard_links_may_lead_to_what_is_there() {
    let room = Room::new();
    tree::file(room.path().join("sub/there"), "there", 0o600);
    let before = fs::metadata(room.path().join("sub/there")).unwrap();
    room.import(&Tar::default().hard_link("a/link", "sub/there").finish()).unwrap();
    let link = fs::metadata(room.path().join("a/link")).unwrap();
    assert_eq!(link.ino(), before.ino());
    assert_eq!((link.mode(), link.mtime()), (before.mode(), before.mtime()), "it stays as it is");
    let outside = Tar::default().hard_link("link", "there").finish();
    room.import_to("sub", &outside).unwrap();
    let rule = room.import_to("a", &Tar::default().hard_link("x", "../sub/there").finish()).unwrap_err();
    assert!(
        matches!(rule, ArchiveError::Member { rule: Rule::LinkOutside { .. }, .. }),
        "outside the destination: {rule}"
    );
}

#[test]
fn conflicts_are_found_before_anything_changes() {
    let room = Room::new();
    tree::file(room.path().join("dir/kept"), "kept", 0o600);
    tree::file(room.path().join("file"), "old", 0o600);
    tree::dress(&room.path().join("dir"), None, (9, 9));
    let rule = room.refusal(&Tar::default().file("file", "new").file("dir", "no longer a directory").finish());
    assert!(matches!(rule, Rule::OverDirectory), "{rule}");
    let rule = room.refusal(&Tar::default().file("dir/kept", "new").directory("file").finish());
    assert!(matches!(rule, Rule::NoDirectory { .. }), "{rule}");
    let rule = room.refusal(&Tar::default().file("dir/kept", "new").file("file/below", "x").finish());
    assert!(matches!(rule, Rule::NoDirectory { found: "a regular file", .. }), "{rule}");
}

#[test]
fn destinations_that_are_none_are_refused() {
    let room = Room::new();
    fs::write(room.path().join("file"), "").unwrap();
    symlink(room.outside(), room.path().join("out")).unwrap();
    symlink("missing", room.path().join("dangling")).unwrap();
    let archive = Tar::default().file("a", "x").finish();
    let before = room.everything();
    for (destination, code) in [
        ("file", ErrorCode::NotADirectory),
        ("file/below", ErrorCode::NotADirectory),
        ("out", ErrorCode::OutsideRoot),
        ("out/below", ErrorCode::OutsideRoot),
        ("../x", ErrorCode::OutsideRoot),
        ("/etc", ErrorCode::OutsideRoot),
        ("dangling/below", ErrorCode::NotADirectory),
        ("a\0b", ErrorCode::InvalidField),
        (&"n".repeat(256), ErrorCode::NameTooLong),
    ] {
        let error = room.import_to(destination, &archive).unwrap_err();
        assert_eq!(error.code(), code, "{destination}: {error}");
        tree::assert_same(&room.everything(), &before, destination);
    }
    symlink("inside", room.path().join("in")).unwrap();
    fs::create_dir(room.path().join("inside")).unwrap();
    room.import_to("/workspace/in/new", &archive).unwrap();
    assert!(room.path().join("inside/new/a").exists());
}

#[test]
fn b33_a_full_disk_leaves_everything_as_it_was() {
    let room = Room::new();
    let mounted = room.path().join("small");
    fs::create_dir(&mounted).unwrap();
    let size = c"size=1m,mode=755";
    if let Err(error) = rustix::mount::mount("none", &mounted, "tmpfs", rustix::mount::MountFlags::empty(), size) {
        eprintln!("skipped: no small file system can be mounted: {error}");
        return;
    }
    tree::file(mounted.join("old"), "old", 0o600);
    let before = tree::read(&mounted);
    let root = hearth_files::Root::open(&mounted, "/workspace", None).unwrap();
    let archive = Tar::default().file("old", "new").member(b'0', b"large", b"", &vec![1; 2_000_000]).finish();
    let error = import(&root, b"", archive.as_slice(), &ImportOptions::default()).unwrap_err();
    let after = tree::read(&mounted);
    drop(root);
    rustix::mount::unmount(&mounted, rustix::mount::UnmountFlags::empty()).unwrap();
    assert_eq!(error.code(), ErrorCode::NoSpace, "{error}");
    assert_eq!(after, before);
}
