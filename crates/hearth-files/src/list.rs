//! Listing a directory, or all that is in it.

use hearth_protocol::ErrorCode;
use hearth_protocol::files::{FileEntry, FileKind};
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::entry::{entry, join, kind_of, look_at, tidy};
use crate::error::{FileError, Reason};
use crate::root::Root;
use crate::walk::{DIRECTORY, Step, Walk};

/// What is to be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listing<'a> {
    /// How many levels, from 1.
    pub depth: usize,
    /// Goes on behind where an earlier list was: its [`Lister::position`].
    pub after: Option<&'a [u8]>,
}

/// A list that is under way: entries in the order of their names, each directory before what is in it.
///
/// What vanishes meanwhile is left out. A directory that cannot be looked into says so in its entry. Symbolic links are listed, not
/// followed; nothing but directories is opened.
#[derive(Debug)]
pub struct Lister {
    walk: Walk,
    depth: usize,
    /// The path of the directory that is listed.
    base: Vec<u8>,
}

/// What came of a short while of listing.
#[derive(Debug)]
pub enum Listed {
    /// The next entry.
    Entry(FileEntry),
    /// Nothing yet: a large directory is being read.
    Nothing,
    /// There are no more.
    End,
}

impl Lister {
    /// Opens the directory at `path`, through symbolic links that stay inside.
    ///
    /// # Errors
    /// [`FileError`]: no directory there, outside, or not to be read; a position that is none.
    pub fn open(root: &Root, path: &[u8], listing: Listing<'_>) -> Result<Self, FileError> {
        let directory = root.open_at("list", path, DIRECTORY.difference(rustix::fs::OFlags::NOFOLLOW))?;
        let base = tidy(root.relative("list", path)?);
        let mut lister = Self { walk: Walk::new(directory), depth: listing.depth, base };
        if let Some(after) = listing.after {
            if after.split(|&byte| byte == b'/').any(|part| matches!(part, b"" | b"." | b"..") || part.contains(&0)) {
                let message = "after is not where a list ended".to_owned();
                return Err(FileError::new("list", path, Reason::Rule { code: ErrorCode::InvalidField, message }));
            }
            lister.walk.resume(after, listing.depth);
        }
        Ok(lister)
    }

    /// Goes on for a short while.
    ///
    /// # Errors
    /// [`FileError`]: a disk failed.
    pub fn advance(&mut self) -> Result<Listed, FileError> {
        loop {
            match self.walk.step() {
                Ok(Step::Found(hint)) => {
                    if let Some(entry) = self.entry(hint) {
                        return Ok(Listed::Entry(entry));
                    }
                }
                Ok(Step::Reading) => return Ok(Listed::Nothing),
                Ok(Step::Left | Step::Lost) => {}
                Ok(Step::End) => return Ok(Listed::End),
                Err(error) => return Err(FileError::new("list", &join(&self.base, self.walk.path()), error)),
            }
        }
    }

    /// Where the list is: what [`Listing::after`] takes to go on behind the last entry.
    pub fn position(&self) -> &[u8] {
        self.walk.path()
    }

    /// Describes what was found, and goes into it if it is a directory to be listed.
    fn entry(&mut self, hint: FileType) -> Option<FileEntry> {
        let path = join(&self.base, self.walk.path());
        let mut entry = match look_at(self.walk.directory(), self.walk.name()) {
            Ok((stat, target)) => entry(path, &stat, target),
            Err(Errno::NOENT) => return None,
            Err(error) => unknown(path, hint, error),
        };
        if entry.kind == FileKind::Directory && self.walk.depth() < self.depth {
            match self.walk.enter() {
                // It has vanished, or is something else by now: it was a directory when it was looked at.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => entry.unreadable = Some(FileError::new("list", b"", error).code()),
            }
        }
        Some(entry)
    }
}

/// What may be named, but not looked at.
fn unknown(path: Vec<u8>, hint: FileType, error: Errno) -> FileEntry {
    FileEntry {
        path: path.into(),
        kind: kind_of(hint),
        size: 0,
        allocated: 0,
        mode: 0,
        uid: 0,
        gid: 0,
        links: 0,
        modified_ns: 0,
        target: None,
        unreadable: Some(FileError::new("list", b"", error).code()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn list(root: &Root, path: &str, depth: usize) -> Vec<FileEntry> {
        all(Lister::open(root, path.as_bytes(), Listing { depth, after: None }).unwrap())
    }

    fn all(mut lister: Lister) -> Vec<FileEntry> {
        let mut entries = Vec::new();
        loop {
            match lister.advance().unwrap() {
                Listed::Entry(entry) => entries.push(entry),
                Listed::Nothing => {}
                Listed::End => return entries,
            }
        }
    }

    fn names(entries: &[FileEntry]) -> Vec<String> {
        entries.iter().map(|entry| entry.path.to_string_lossy().into_owned()).collect()
    }

    fn root() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path(), "/workspace", None).unwrap();
        (directory, root)
    }

    #[test]
    fn b30_what_is_no_file_is_listed_and_never_opened() {
        let (directory, root) = root();
        let at = directory.path();
        rustix::fs::mkfifoat(rustix::fs::CWD, at.join("fifo"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at.join("socket")).unwrap();
        std::os::unix::fs::symlink("nowhere", at.join("link")).unwrap();
        fs::create_dir(at.join("sub")).unwrap();
        fs::write(at.join("sub/file"), "four").unwrap();
        fs::hard_link(at.join("sub/file"), at.join("sub/same")).unwrap();
        let entries = list(&root, "/workspace/./", 9);
        assert_eq!(names(&entries), ["fifo", "link", "socket", "sub", "sub/file", "sub/same"]);
        let kinds: Vec<FileKind> = entries.iter().map(|entry| entry.kind).collect();
        use FileKind::{Directory, Fifo, File, Socket, Symlink};
        assert_eq!(kinds, [Fifo, Symlink, Socket, Directory, File, File]);
        assert_eq!(entries[1].target, Some("nowhere".into()));
        assert_eq!((entries[4].size, entries[4].links), (4, 2));
        assert_eq!(names(&list(&root, "sub/../sub", 1)), ["sub/../sub/file", "sub/../sub/same"]);
        for path in ["fifo", "link", "nowhere", "sub/file", "../x"] {
            assert!(Lister::open(&root, path.as_bytes(), Listing { depth: 1, after: None }).is_err(), "{path}");
        }
    }

    #[test]
    fn b29_any_name_comes_back_as_the_bytes_it_is() {
        let (directory, root) = root();
        let odd: [&[u8]; 5] = [b" blank ", b"\"quote'", b"new\nline", b"\xff\x01", &[b'x'; 255]];
        for name in odd {
            fs::write(directory.path().join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
        }
        let mut expected = odd.map(<[u8]>::to_vec);
        expected.sort();
        let entries = list(&root, "", 1);
        let found: Vec<_> = entries.iter().map(|entry| entry.path.as_bytes().to_vec()).collect();
        assert_eq!(found, expected);
        for entry in entries {
            assert_eq!(crate::stat(&root, entry.path.as_bytes()).unwrap(), entry);
        }
    }

    #[test]
    fn b32_a_sparse_file_of_100_gb_tells_what_it_takes() {
        let (directory, root) = root();
        let file = fs::File::create(directory.path().join("sparse")).unwrap();
        file.set_len(100_000_000_000).unwrap();
        let entries = list(&root, "", 1);
        assert_eq!(entries[0].size, 100_000_000_000);
        assert!(entries[0].allocated < 1 << 20, "{}", entries[0].allocated);
    }

    #[test]
    fn pages_of_any_size_make_the_whole_list() {
        let (directory, root) = root();
        for path in ["a/1", "a/2/x", "a-/1", "b", "c/d/e/f"] {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let whole = names(&list(&root, "", 9));
        for size in 1..=whole.len() {
            let (mut pages, mut after): (Vec<FileEntry>, Option<Vec<u8>>) = (Vec::new(), None);
            'pages: loop {
                let listing = Listing { depth: 9, after: after.as_deref() };
                let mut lister = Lister::open(&root, b"", listing).unwrap();
                let before = pages.len();
                while pages.len() < before + size {
                    match lister.advance().unwrap() {
                        Listed::Entry(entry) => pages.push(entry),
                        Listed::Nothing => {}
                        Listed::End => break 'pages,
                    }
                }
                after = Some(lister.position().to_vec());
            }
            assert_eq!(names(&pages), whole, "pages of {size}");
        }
        for after in ["", "/", "a//b", "../x", "a/."] {
            assert!(
                Lister::open(&root, b"", Listing { depth: 1, after: Some(after.as_bytes()) }).is_err(),
                "{after:?}"
            );
        }
    }

    #[test]
    fn a_directory_that_may_not_be_read_says_so_and_the_rest_is_listed() {
        let (directory, root) = root();
        fs::create_dir_all(directory.path().join("closed/in")).unwrap();
        fs::write(directory.path().join("open"), "").unwrap();
        fs::set_permissions(directory.path().join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        let entries = list(&root, "", 9);
        if rustix::process::geteuid().is_root() {
            // Root may read everything: then there is nothing to say.
            assert_eq!(names(&entries), ["closed", "closed/in", "open"]);
        } else {
            assert_eq!(names(&entries), ["closed", "open"]);
            assert_eq!(entries[0].unreadable, Some(ErrorCode::PermissionDenied));
        }
        fs::set_permissions(directory.path().join("closed"), fs::Permissions::from_mode(0o755)).unwrap();
    }
}
