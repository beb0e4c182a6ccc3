use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::*;

fn root() -> (tempfile::TempDir, Root) {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::open(directory.path(), "/workspace", None).unwrap();
    (directory, root)
}

fn copied(root: &Root, from: &str, to: &str, replace: bool) -> Result<Copied, ErrorCode> {
    copy(root, from.as_bytes(), to.as_bytes(), replace, &|| true).map_err(|error| error.code())
}

fn age(path: &Path) -> SystemTime {
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    fs::File::open(path).unwrap().set_modified(then).unwrap();
    then
}

#[test]
fn a_copy_of_a_tree_has_its_modes_times_links_and_holes() {
    let (directory, root) = root();
    let at = |path: &str| directory.path().join(path);
    fs::create_dir_all(at("a/sub")).unwrap();
    let sparse = fs::File::create(at("a/sparse")).unwrap();
    sparse.set_len(10_000_000_000).unwrap();
    sparse.write_all_at(b"middle", 5_000_000_000).unwrap();
    fs::write(at("a/sub/tool"), "text").unwrap();
    fs::hard_link(at("a/sub/tool"), at("a/same")).unwrap();
    fs::set_permissions(at("a/same"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::set_permissions(at("a/sub"), fs::Permissions::from_mode(0o555)).unwrap();
    symlink("/no/where", at("a/link")).unwrap();
    rustix::fs::mkfifoat(CWD, at("a/fifo"), Mode::from_raw_mode(0o600)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("a/socket")).unwrap();
    let then = age(&at("a/same"));
    age(&at("a/sub"));
    age(&at("a"));
    let made = copied(&root, "a", "new/b", false).unwrap();
    assert_eq!((made.entries, made.skipped), (7, 1));
    assert!(made.bytes < 1 << 20, "{made:?}");
    let (tool, same) = (fs::metadata(at("new/b/sub/tool")).unwrap(), fs::metadata(at("new/b/same")).unwrap());
    assert_eq!((tool.ino(), tool.nlink()), (same.ino(), 2));
    assert_ne!(tool.ino(), fs::metadata(at("a/same")).unwrap().ino());
    assert_eq!(tool.mode() & 0o7777, 0o750);
    for path in ["new/b/same", "new/b/sub", "new/b"] {
        assert_eq!(fs::metadata(at(path)).unwrap().modified().unwrap(), then, "{path}");
    }
    assert_eq!(fs::metadata(at("new/b/sub")).unwrap().mode() & 0o7777, 0o555);
    assert_eq!(fs::read_link(at("new/b/link")).unwrap(), Path::new("/no/where"));
    let sparse = fs::File::open(at("new/b/sparse")).unwrap();
    let mut text = [0; 6];
    sparse.read_exact_at(&mut text, 5_000_000_000).unwrap();
    let metadata = sparse.metadata().unwrap();
    assert_eq!((&text, metadata.len()), (b"middle", 10_000_000_000));
    assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
    fs::set_permissions(at("a/sub"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(at("new/b/sub"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_copy_takes_a_place_only_when_asked_and_stays_inside() {
    let (directory, root) = root();
    let at = |path: &str| directory.path().join(path);
    fs::create_dir_all(at("d/sub")).unwrap();
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("a"), "a").unwrap();
    fs::write(at("b"), "b").unwrap();
    symlink("/tmp", at("t")).unwrap();
    assert_eq!(copied(&root, "a", "b", false), Err(ErrorCode::AlreadyExists));
    assert_eq!(copied(&root, "a", "b", true).unwrap().bytes, 1);
    assert_eq!(fs::read(at("b")).unwrap(), b"a");
    assert_eq!(copied(&root, "a", "d", true), Err(ErrorCode::IsADirectory));
    assert_eq!(copied(&root, "d", "empty", true).unwrap().entries, 2);
    assert_eq!(copied(&root, "empty", "d", true), Err(ErrorCode::NotEmpty));
    for into in ["d/x", "d/sub/x", "d/sub/y/z"] {
        assert_eq!(copied(&root, "d", into, false), Err(ErrorCode::InvalidField), "{into}");
    }
    for (from, to) in [("t/x", "y"), ("a", "t/x"), ("../x", "y"), ("a", "../y"), ("/etc/hostname", "y")] {
        assert_eq!(copied(&root, from, to, true), Err(ErrorCode::OutsideRoot), "{from} to {to}");
    }
    assert_eq!(copied(&root, "t", "link", false).unwrap().entries, 1);
    assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("/tmp"));
    let names = fs::read_dir(directory.path()).unwrap().flatten().map(|entry| entry.file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().starts_with(".hearth")));
}

#[test]
fn a_copy_that_is_given_up_leaves_nothing() {
    let (directory, root) = root();
    fs::create_dir(directory.path().join("a")).unwrap();
    for n in 0..100 {
        fs::write(directory.path().join(format!("a/{n}")), "text").unwrap();
    }
    let asked = std::cell::Cell::new(0);
    let wanted = || asked.replace(asked.get() + 1) < 50;
    let error = copy(&root, b"a", b"b", false, &wanted).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Cancelled);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn to_another_file_system_is_moved_by_copying() {
    let (directory, root) = root();
    let at = |path: &str| directory.path().join(path);
    fs::create_dir_all(at("a/b")).unwrap();
    fs::write(at("a/b/file"), "text").unwrap();
    fs::set_permissions(at("a/b/file"), fs::Permissions::from_mode(0o4711)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("a/socket")).unwrap();
    carry(&root, b"a", b"c", false, &|| true).unwrap();
    assert!(!at("a").exists());
    assert_eq!(fs::metadata(at("c/b/file")).unwrap().mode() & 0o7777, 0o4711);
    assert_eq!(kind(&rustix::fs::stat(at("c/socket")).unwrap()), FileKind::Socket);
}

#[test]
fn depth_takes_no_descriptors() {
    let (directory, root) = root();
    let path = "d/".repeat(500);
    fs::create_dir_all(directory.path().join("a").join(path)).unwrap();
    assert_eq!(copied(&root, "a", "b", false).unwrap().entries, 501);
}

#[test]
fn a_copy_keeps_the_attributes_that_users_give() {
    let (directory, root) = root();
    let at = |path: &str| directory.path().join(path);
    fs::create_dir_all(at("a/sub")).unwrap();
    fs::write(at("a/sub/file"), "text").unwrap();
    let large = vec![7_u8; 2000];
    let given: [(&str, &[u8]); 3] = [("a", b"top"), ("a/sub", b""), ("a/sub/file", &large)];
    for (path, value) in given {
        let set = rustix::fs::setxattr(at(path), c"user.hearth", value, rustix::fs::XattrFlags::empty());
        if set.is_err() {
            return eprintln!("skipped: the file system has no attributes of users: {set:?}");
        }
    }
    fs::set_permissions(at("a/sub"), fs::Permissions::from_mode(0o555)).unwrap();
    let kept = |copy: &str| {
        for (path, value) in given {
            let path = at(copy).join(path.trim_start_matches("a").trim_start_matches('/'));
            let mut found = vec![0; 4096];
            let length = rustix::fs::getxattr(&path, c"user.hearth", &mut found[..]);
            let length = length.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(&found[..length], value, "{}", path.display());
        }
    };
    copied(&root, "a", "b", false).unwrap();
    kept("b");
    carry(&root, b"a", b"c", false, &|| true).unwrap();
    kept("c");
    for path in ["b/sub", "c/sub"] {
        fs::set_permissions(at(path), fs::Permissions::from_mode(0o755)).unwrap();
    }
}
