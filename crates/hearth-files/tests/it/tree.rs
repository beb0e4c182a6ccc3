//! Trees to test with, and what is in them.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps};

/// What can be told of an entry.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) kind: &'static str,
    pub(crate) mode: u32,
    pub(crate) modified: (i64, i64),
    /// What is in a file, or what a link says.
    pub(crate) content: Vec<u8>,
    /// The first path of the same file, for one with several.
    pub(crate) same_as: Option<String>,
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, mode, modified: (seconds, nanoseconds), content, same_as } = self;
        let begin = content[..content.len().min(32)].escape_ascii();
        write!(f, "{kind} {mode:o} {seconds}.{nanoseconds:09} {} bytes '{begin}' {same_as:?}", content.len())
    }
}

pub(crate) type Tree = BTreeMap<String, Item>;

/// Reads a tree, all but its root. Paths are escaped.
pub(crate) fn read(root: &Path) -> Tree {
    let (mut tree, mut files) = (Tree::new(), HashMap::new());
    read_below(root, root, &mut tree, &mut files);
    tree
}

fn read_below(root: &Path, directory: &Path, tree: &mut Tree, files: &mut HashMap<u64, String>) {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let stat = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().escape_ascii().to_string();
        let (kind, content) = match stat.mode() & 0o170_000 {
            0o100_000 => ("file", fs::read(&path).unwrap()),
            0o120_000 => ("symlink", fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()),
            0o040_000 => ("directory", Vec::new()),
            0o010_000 => ("fifo", Vec::new()),
            _ => ("other", Vec::new()),
        };
        let is_shared = stat.nlink() > 1 && kind != "directory";
        let same_as = is_shared.then(|| files.entry(stat.ino()).or_insert_with(|| name.clone()).clone());
        let modified = (stat.mtime(), stat.mtime_nsec());
        tree.insert(name, Item { kind, mode: stat.mode() & 0o7777, modified, content, same_as });
        if kind == "directory" {
            read_below(root, &path, tree, files);
        }
    }
}

/// Fails with the first difference between two trees.
#[track_caller]
pub(crate) fn assert_same(there: &Tree, expected: &Tree, what: &str) {
    for path in there.keys().chain(expected.keys()) {
        assert_eq!(there.get(path), expected.get(path), "{what}: {path}");
    }
}

/// A tree without what some programs do not keep: the parts of seconds.
pub(crate) fn in_seconds(mut tree: Tree) -> Tree {
    tree.values_mut().for_each(|item| item.modified.1 = 0);
    tree
}

/// Sets what an entry itself bears.
pub(crate) fn dress(path: &Path, mode: Option<u32>, modified: (i64, i64)) {
    if let Some(mode) = mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let time = Timespec { tv_sec: modified.0, tv_nsec: modified.1 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

pub(crate) fn file(path: PathBuf, content: impl AsRef<[u8]>, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    dress(&path, Some(mode), (1_600_000_000, 123_456_789));
}

pub(crate) fn fifo(path: &Path) {
    rustix::fs::mkfifoat(CWD, path, Mode::from_raw_mode(0o640)).unwrap();
    dress(path, None, (1_500_000_000, 5));
}

/// Fills a directory with what a project can have: as a virtual environment, `node_modules` and a careless program leave it.
pub(crate) fn project(root: &Path) {
    file(root.join("README"), "read me\n", 0o644);
    file(root.join("bin/run"), "#!/bin/sh\n", 0o755);
    file(root.join("bin/secret"), "s", 0o600);
    file(root.join("bin/read-only"), "r", 0o444);
    file(root.join("empty"), "", 0o640);
    file(root.join("large"), (0..400_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>(), 0o644);
    for name in
        [&[b'n'; 255], b"a \"quoted\" 'name'".as_slice(), b"two\nlines", b"not \xff\xfe UTF-8", b"..%2f", b"-rf"]
    {
        file(root.join("names").join(OsStr::from_bytes(name)), name, 0o644);
    }
    let deep = root.join("deep").join("directory-with-a-long-name/".repeat(12));
    file(deep.join("file-with-a-long-name"), "deep", 0o644);
    file(root.join("node_modules/tool/cli.js"), "tool", 0o755);
    fs::create_dir_all(root.join("node_modules/.bin")).unwrap();
    symlink("../tool/cli.js", root.join("node_modules/.bin/tool")).unwrap();
    fs::create_dir_all(root.join("venv/bin")).unwrap();
    symlink("/usr/bin/python3", root.join("venv/bin/python")).unwrap();
    symlink("lib", root.join("venv/lib64")).unwrap();
    symlink("../..", root.join("venv/up")).unwrap();
    symlink("nowhere/at all", root.join("dangling")).unwrap();
    symlink("x".repeat(300), root.join("to-a-long-name")).unwrap();
    fs::hard_link(root.join("bin/run"), root.join("names/linked")).unwrap();
    fs::hard_link(root.join("bin/run"), root.join("third")).unwrap();
    fs::hard_link(deep.join("file-with-a-long-name"), root.join("linked-from-deep")).unwrap();
    fifo(&root.join("pipe"));
    fs::create_dir(root.join("nothing-in-it")).unwrap();
    dress(&root.join("dangling"), None, (1_400_000_000, 42));
    file(root.join("old"), "older than the epoch", 0o644);
    dress(&root.join("old"), None, (-86_400, 250_000_000));
    fs::create_dir(root.join("shared")).unwrap();
    file(root.join("closed/inside"), "closed", 0o644);
    for (directory, mode) in
        [("nothing-in-it", 0o700), ("shared", 0o3775), ("closed", 0o555), ("names", 0o750), ("bin", 0o755)]
    {
        dress(&root.join(directory), Some(mode), (1_300_000_000, 7));
    }
}
