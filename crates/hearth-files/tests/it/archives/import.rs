//! What other programs make comes in as it was.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use hearth_files::archive::{ArchiveError, ImportOptions, Rule, import, is_staging, sweep};
use hearth_protocol::{ErrorCode, Fault, Outcome};

use super::{Room, Tar, python, run};
use crate::tree::{self, in_seconds};

/// What GNU tar makes of a project in one of its formats.
fn packed(room: &Room, options: &[&str]) -> Vec<u8> {
    let arguments = [&["--create", "--sort=name"], options, &["."]].concat();
    run("tar", &arguments, room.path(), b"").unwrap()
}

#[test]
fn b34_import_keeps_modes_times_symlinks_and_hard_links() {
    let (source, destination) = (Room::new(), Room::new());
    tree::project(source.path());
    let expected = tree::read(source.path());
    let imported = destination.import(&packed(&source, &["--format=posix"])).unwrap();
    tree::assert_same(&tree::read(destination.path()), &expected, "it");
    assert_eq!(imported.members as usize, expected.len() + 1, "and the directory itself");
    // Beneath a directory that is not there yet, too.
    destination.import_to("new/deep/er", &packed(&source, &["--format=posix"])).unwrap();
    tree::assert_same(&tree::read(&destination.path().join("new/deep/er")), &expected, "it");
    // Formats that cannot say parts of seconds, nor what is older than the epoch.
    fs::remove_file(source.path().join("old")).unwrap();
    let expected = in_seconds(tree::read(source.path()));
    for format in ["--format=gnu", "--format=oldgnu", "--format=posix"] {
        let destination = Room::new();
        destination.import(&packed(&source, &[format])).unwrap();
        tree::assert_same(&in_seconds(tree::read(destination.path())), &expected, "{format}");
    }
}

#[test]
fn b34_old_formats_and_python_s_archives_are_read() {
    let source = Room::new();
    tree::file(source.path().join("some/file"), "content", 0o750);
    tree::file(source.path().join(format!("{}/{}", "p".repeat(90), "n".repeat(90))), "long", 0o644);
    symlink("some/file", source.path().join("link")).unwrap();
    fs::hard_link(source.path().join("some/file"), source.path().join("other")).unwrap();
    let expected = in_seconds(tree::read(source.path()));
    let check = |archive: &[u8], what: &str| {
        let destination = Room::new();
        destination.import(archive).unwrap_or_else(|error| panic!("{what}: {error}"));
        tree::assert_same(&in_seconds(tree::read(destination.path())), &expected, "{what}");
    };
    check(&packed(&source, &["--format=ustar"]), "ustar");
    for format in ["USTAR_FORMAT", "GNU_FORMAT", "PAX_FORMAT"] {
        let script = format!(
            "import sys, tarfile\n\
             with tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=tarfile.{format}) as t: t.add('.')"
        );
        if let Some(archive) = python(&script, source.path(), b"") {
            check(&archive, format);
        }
    }
    fs::remove_dir_all(source.path().join("p".repeat(90))).unwrap();
    let destination = Room::new();
    destination.import(&packed(&source, &["--format=v7"])).unwrap();
    assert_eq!(fs::read(destination.path().join("some/file")).unwrap(), b"content");
}

#[test]
fn compressed_archives_are_known_by_their_bytes() {
    let source = Room::new();
    tree::project(source.path());
    let expected = tree::read(source.path());
    let plain = packed(&source, &["--format=posix"]);
    for (program, arguments) in [
        ("gzip", vec!["-c"]),
        ("zstd", vec!["-qc"]),
        ("zstd", vec!["-qc", "--long=27"]),
        ("bzip2", vec!["-c"]),
        ("xz", vec!["-c"]),
    ] {
        let Some(archive) = run(program, &arguments, source.path(), &plain) else { continue };
        let destination = Room::new();
        destination.import(&archive).unwrap_or_else(|error| panic!("{program}: {error}"));
        tree::assert_same(&tree::read(destination.path()), &expected, "{program}");
        // Compressed in two parts, as parallel compressors do.
        let (first, second) = plain.split_at(plain.len() / 3);
        let parts = [first, second].map(|part| run(program, &arguments, source.path(), part).unwrap());
        let destination = Room::new();
        destination.import(&parts.concat()).unwrap_or_else(|error| panic!("{program} twice: {error}"));
        tree::assert_same(&tree::read(destination.path()), &expected, "{program} twice");
    }
}

#[test]
fn b34_members_that_would_land_outside_fail_the_whole_import() {
    let room = Room::new();
    symlink(room.outside(), room.path().join("t")).unwrap();
    symlink("/tmp", room.path().join("tmp")).unwrap();
    let first = || Tar::default().file("first", "1").directory("d");
    assert!(matches!(room.refusal(&first().file("../x", "x").finish()), Rule::Climbs));
    assert!(matches!(room.refusal(&first().file("d/../../x", "x").finish()), Rule::Climbs));
    assert!(matches!(room.refusal(&first().file("/etc/x", "x").finish()), Rule::Absolute));
    assert!(matches!(room.refusal(&first().file("", "x").finish()), Rule::Empty));
    assert!(matches!(room.refusal(&first().file(".", "x").finish()), Rule::Destination));
    assert!(matches!(room.refusal(&first().directory("../x").finish()), Rule::Climbs));
    assert!(matches!(room.refusal(&first().file("t/x", "x").finish()), Rule::ThroughSymlink { .. }), "on disk");
    assert!(matches!(room.refusal(&first().directory("tmp").finish()), Rule::ThroughSymlink { .. }));
    let through = first().symlink("l", "/tmp").file("l/x", "x");
    assert!(matches!(room.refusal(&through.finish()), Rule::ThroughSymlink { .. }), "in the archive");
    let inward = first().symlink("l", "d").file("l/x", "x");
    assert!(matches!(room.refusal(&inward.finish()), Rule::ThroughSymlink { .. }), "even inside");
    assert!(matches!(room.refusal(&first().hard_link("h", "../outside").finish()), Rule::LinkOutside { .. }));
    assert!(matches!(room.refusal(&first().hard_link("h", "/etc/passwd").finish()), Rule::LinkOutside { .. }));
    assert!(matches!(room.refusal(&first().hard_link("h", "t/outside").finish()), Rule::LinkOutside { .. }));
    assert!(matches!(room.refusal(&first().hard_link("h", "missing").finish()), Rule::LinkNowhere { .. }));
    assert!(matches!(room.refusal(&first().hard_link("h", "d").finish()), Rule::LinkNowhere { .. }));
    assert!(matches!(room.refusal(&first().hard_link("h", "h").finish()), Rule::LinkNowhere { .. }));
    assert!(matches!(room.refusal(&first().symlink("l", "").finish()), Rule::NoTarget));
    let in_record = first().record(b'x', "path", b"/etc/x").file("harmless", "x");
    assert!(matches!(room.refusal(&in_record.finish()), Rule::Absolute));
    let in_record = first().record(b'x', "path", b"a\0b").file("harmless", "x");
    assert!(matches!(room.refusal(&in_record.finish()), Rule::Nul));
    let in_long_name = first().member(b'L', b"long", b"", b"../x\0").file("harmless", "x");
    assert!(matches!(room.refusal(&in_long_name.finish()), Rule::Climbs));
}

#[test]
fn devices_and_unknown_members_are_refused_by_name() {
    let room = Room::new();
    for (kind, named) in [(b'3', "character device"), (b'4', "block device"), (b'M', "volume"), (b'Z', "'Z'")] {
        let archive = Tar::default().file("first", "1").member(kind, b"thing", b"", b"").finish();
        let error = room.import(&archive).unwrap_err();
        let fault = Fault::from(error);
        assert_eq!((fault.code, fault.outcome), (ErrorCode::BadArchive, Outcome::NeverStarted));
        assert!(fault.message.contains("thing") && fault.message.contains(named), "{}", fault.message);
        assert!(tree::read(room.path()).is_empty());
    }
}

#[test]
fn b29_names_of_255_bytes_work_and_of_256_do_not() {
    let room = Room::new();
    let named = |name: &[u8]| Tar::default().record(b'x', "path", name).file("short", "x").finish();
    room.import(&named(&[b'n'; 255])).unwrap();
    assert!(matches!(room.refusal(&named(&[b'n'; 256])), Rule::TooLong));
    assert!(matches!(room.refusal(&named("d/".repeat(2049).as_bytes())), Rule::TooLong));
    room.import(&named(b"new\nline \xff")).unwrap();
    assert!(tree::read(room.path()).contains_key("new\\nline \\xff"));
}

#[test]
fn the_later_of_two_members_of_one_path_counts() {
    let room = Room::new();
    let archive = Tar::default()
        .file("a", "first")
        .hard_link("kept", "a")
        .file("a", "second")
        .symlink("l", "/etc/passwd")
        .file("l", "no longer a link")
        .file("d/x", "x")
        .directory("d")
        .symlink("a-link", "d")
        .finish();
    room.import(&archive).unwrap();
    let read = |path: &str| fs::read_to_string(room.path().join(path)).unwrap();
    assert_eq!((read("a"), read("kept"), read("l")), ("second".into(), "first".into(), "no longer a link".into()));
    assert_eq!(fs::metadata(room.path().join("d")).unwrap().mtime(), 0o14_000_000_000);
    for conflict in [
        Tar::default().directory("d").file("d", "over a directory"),
        Tar::default().file("f", "x").directory("f"),
        Tar::default().file("f", "x").file("f/below", "x"),
    ] {
        let rule = Room::new().refusal(&conflict.finish());
        assert!(matches!(rule, Rule::OverDirectory | Rule::NoDirectory { .. }), "{rule}");
    }
}

#[test]
fn special_bits_are_kept_in_a_guest_and_not_on_a_host() {
    let source = Room::new();
    tree::file(source.path().join("program"), "x", 0o4755);
    fs::create_dir(source.path().join("shared")).unwrap();
    tree::dress(&source.path().join("shared"), Some(0o3777), (1, 0));
    let archive = source.export("");
    let mode = |room: &Room, name: &str| fs::metadata(room.path().join(name)).unwrap().mode() & 0o7777;
    let guest = Room::new();
    guest.import(&archive).unwrap();
    assert_eq!((mode(&guest, "program"), mode(&guest, "shared")), (0o4755, 0o3777));
    let host = Room::new();
    let options = ImportOptions { distrusted: true, ..ImportOptions::default() };
    import(&host.root, b"", archive.as_slice(), &options).unwrap();
    assert_eq!((mode(&host, "program"), mode(&host, "shared")), (0o755, 0o777));
}

#[test]
fn what_is_unpacked_belongs_to_the_root_s_owner() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can give files away");
        return;
    }
    let source = Room::new();
    tree::project(source.path());
    let directory = tempfile::tempdir().unwrap();
    let owner = hearth_files::Owner { uid: 12_345, gid: 54_321 };
    let root = hearth_files::Root::open(directory.path(), "/workspace", Some(owner)).unwrap();
    import(&root, b"a/b", source.export("").as_slice(), &ImportOptions::default()).unwrap();
    let expected = tree::read(source.path());
    assert_eq!(
        tree::read(&directory.path().join("a/b")),
        expected,
        "with the special bits that a new owner would take"
    );
    let mut paths: Vec<_> =
        ["", "a", "a/b", "a/b/dangling", "a/b/pipe", "a/b/nothing-in-it"].map(String::from).to_vec();
    paths.push("a/b/names/linked".into());
    for path in &paths[1..] {
        let stat = fs::symlink_metadata(directory.path().join(path)).unwrap();
        assert_eq!((stat.uid(), stat.gid()), (12_345, 54_321), "{path}");
    }
}

#[test]
fn a_limit_is_for_what_the_archive_is_without_compression() {
    let room = Room::new();
    let plain = Tar::default().member(b'0', b"zeros", b"", &vec![0; 10_000_000]).finish();
    let bomb = run("gzip", &["-c"], room.path(), &plain).unwrap();
    let with_limit = |limit| {
        let options = ImportOptions { limit_bytes: Some(limit), ..ImportOptions::default() };
        import(&room.root, b"", bomb.as_slice(), &options)
    };
    let error = with_limit(9_999_999).unwrap_err();
    assert!(matches!(error, ArchiveError::TooLarge { limit: 9_999_999 }) && error.code() == ErrorCode::TooLarge);
    assert!(tree::read(room.path()).is_empty());
    assert_eq!(with_limit(plain.len() as u64).unwrap().bytes, 10_000_000);
}

#[test]
fn leftovers_of_a_killed_import_are_removed_and_nothing_else() {
    let room = Room::new();
    let abandoned = room.path().join(".hearth-import-1-0");
    let make = |path: &std::path::Path| {
        tree::file(path.join("tree/closed/deep/file"), "x", 0o600);
        tree::dress(&path.join("tree/closed"), Some(0o555), (1, 0));
        tree::dress(path, Some(0o700), (1, 0));
    };
    make(&abandoned);
    let live = room.path().join(".hearth-import-1-1");
    make(&live);
    let lock = fs::File::open(&live).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let somebody_s = room.path().join(".hearth-import-of-mine");
    make(&somebody_s);
    tree::dress(&somebody_s, Some(0o755), (1, 0));
    room.import(&Tar::default().file("a", "x").finish()).unwrap();
    assert!(!abandoned.exists() && live.exists() && somebody_s.exists());
    drop(lock);
    sweep(&room.root);
    assert!(!live.exists() && somebody_s.exists());
    assert!(is_staging(b".hearth-import-1-1") && !is_staging(b".hearth"));
}

#[test]
fn a_directory_of_another_file_system_is_unpacked_into() {
    let shared = std::path::Path::new("/dev/shm");
    let device = |path: &std::path::Path| fs::metadata(path).map(|meta| meta.dev()).ok();
    if device(shared).is_none() || device(shared) == device(std::path::Path::new("/")) {
        eprintln!("skipped: /dev/shm is no file system of its own");
        return;
    }
    let directory = tempfile::tempdir_in(shared).unwrap();
    let root = hearth_files::Root::open(std::path::Path::new("/"), "/", None).unwrap();
    let to = format!("{}/new", directory.path().display());
    let archive = Tar::default().file("a/b", "x").finish();
    import(&root, to.as_bytes(), archive.as_slice(), &ImportOptions::default()).unwrap();
    assert_eq!(fs::read(directory.path().join("new/a/b")).unwrap(), b"x");
    import(&root, to.as_bytes(), archive.as_slice(), &ImportOptions::default()).unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left");
}
