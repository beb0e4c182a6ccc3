//! What must hold whatever bytes come. The property tests beside it and the fuzz targets in `fuzz/` both run these.

use std::fs;
use std::path::Path;

use hearth_files::Root;
use hearth_files::archive::{ImportOptions, import};
use hearth_files::history::patch::{Options, patch};

/// Unpacks any bytes, twice, into a directory that has something in it: nothing outside of it changes, nothing is left of an import that
/// failed, and one that succeeded does so again.
pub(crate) fn archive(bytes: &[u8]) {
    let room = tempfile::tempdir().expect("a directory can be made");
    let inside = room.path().join("inside");
    let prepare = |path: &Path| -> std::io::Result<()> {
        fs::create_dir_all(path.join("d"))?;
        fs::write(path.join("d/file"), "old")?;
        fs::write(room.path().join("outside"), "untouched")?;
        std::os::unix::fs::symlink("..", path.join("up"))?;
        std::os::unix::fs::symlink("d", path.join("in"))
    };
    prepare(&inside).expect("files can be made");
    let root = Root::open(&inside, "/workspace", None).expect("it was made");
    let options = ImportOptions { limit_bytes: Some(1 << 20), distrusted: true, only: None };
    let before = names(&inside);
    let first = import(&root, b"", bytes, &options);
    match &first {
        Err(_) => assert_eq!(names(&inside), before, "what fails leaves nothing"),
        Ok(_) => {
            let after = names(&inside);
            let second = import(&root, b"", bytes, &options);
            assert!(second.is_ok(), "what can be unpacked can be again: {second:?}");
            assert_eq!(names(&inside), after);
        }
    }
    assert_eq!(fs::read(room.path().join("outside")).ok().as_deref(), Some(b"untouched".as_slice()));
    assert_eq!(fs::read_dir(room.path()).expect("it is there").count(), 2, "nothing is outside");
    open_up(&inside);
}

/// Applies any bytes as a patch to a directory that has something in it: nothing outside of it changes, nothing changes at all where it is
/// refused, and what was applied can be taken back, but for copies and what is binary.
pub(crate) fn patch_text(bytes: &[u8]) {
    let room = tempfile::tempdir().expect("a directory can be made");
    let inside = room.path().join("inside");
    let prepare = |path: &Path| -> std::io::Result<()> {
        fs::create_dir_all(path.join("d"))?;
        fs::write(path.join("d/file"), "one\ntwo\nthree\nfour\nfive\n")?;
        fs::write(path.join("f"), "a\nb\nc")?;
        fs::write(room.path().join("outside"), "untouched")?;
        std::os::unix::fs::symlink("..", path.join("up"))?;
        std::os::unix::fs::symlink("d", path.join("in"))
    };
    prepare(&inside).expect("files can be made");
    let root = Root::open(&inside, "/workspace", None).expect("it was made");
    let apply = |reverse, check| {
        let options = Options { strip: 1, reverse, check };
        patch(&root, b"", bytes, options, &|| true)
    };
    let before = contents(&inside);
    let checked = apply(false, true);
    assert_eq!(contents(&inside), before, "what is only looked at stays");
    match apply(false, false) {
        Err(_) => assert_eq!(contents(&inside), before, "what fails leaves everything"),
        Ok(patched) => {
            assert_eq!(checked.ok(), Some(patched), "what is said to apply does");
            // What was empty before may have been anything's place; the way back is only tried.
            let _ = apply(true, false);
        }
    }
    assert_eq!(fs::read(room.path().join("outside")).ok().as_deref(), Some(b"untouched".as_slice()));
    assert_eq!(fs::read_dir(room.path()).expect("it is there").count(), 2, "nothing is outside");
}

/// Every path in a tree, with what is in files.
fn contents(directory: &Path) -> Vec<(std::path::PathBuf, Option<Vec<u8>>)> {
    let is_file = |path: &Path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
    let content = |path: &std::path::PathBuf| is_file(path).then(|| fs::read(path).ok()).flatten();
    names(directory).into_iter().map(|path| (path.clone(), content(&path))).collect()
}

/// Every path in a tree.
fn names(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            names.extend(self::names(&path));
        }
        names.push(path);
    }
    names.sort();
    names
}

/// Lets directories be removed that an archive has closed.
fn open_up(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = fs::set_permissions(directory, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}
