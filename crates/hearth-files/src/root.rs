//! A directory that paths cannot leave.

mod follow;
mod links;

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use hearth_protocol::ErrorCode;
use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use crate::error::{FileError, Reason};

/// How often a resolution is tried again that a concurrent rename has made uncertain.
const RACES: usize = 64;
/// The longest path in bytes, as the kernel has it.
const LONGEST: usize = 4095;

/// Whom new files belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

/// A directory and all that is beneath it.
#[derive(Debug)]
pub struct Root {
    directory: OwnedFd,
    /// Where it really is.
    path: PathBuf,
    /// What clients call it: `/workspace`.
    name: String,
    owner: Option<Owner>,
    /// Whether it is the whole file system: absolute links then lead where they say, since nothing is outside.
    whole: bool,
}

/// The last part of a path: not empty, no slash, neither `.` nor `..`.
pub type Name = CString;

impl Root {
    /// Opens the directory at `path`, absolute and without symbolic links, which clients call `name`. What is made in it will belong to `owner`, where the agent may give
    /// it away.
    ///
    /// # Errors
    /// When it is not there, or not a directory.
    pub fn open(path: &Path, name: &str, owner: Option<Owner>) -> Result<Self, FileError> {
        let fail = |error: Reason| FileError::new("open", path.as_os_str().as_bytes(), error);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| fail(error.into()))?;
        let whole = path == Path::new("/");
        Ok(Self { directory, path: path.to_owned(), name: name.to_owned(), owner, whole })
    }

    /// The directory.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Where it really is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What clients call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whom new files belong to; `None` for whoever the agent runs as.
    pub fn owner(&self) -> Option<Owner> {
        self.owner
    }

    /// Turns what a client wrote into a path relative to the root: what is relative already, or begins with the root's name or its
    /// real path. Empty and `.` are the root itself. A `..` that leads out as it is written is refused here, so that nothing is made on
    /// the way; the others stay, and the kernel resolves them.
    ///
    /// # Errors
    /// [`Reason::Outside`] for another absolute path, [`ErrorCode::InvalidField`] for NUL, [`ErrorCode::NameTooLong`].
    pub fn relative<'a>(&self, operation: &'static str, path: &'a [u8]) -> Result<&'a [u8], FileError> {
        if path.contains(&0) {
            let rule = Reason::Rule { code: ErrorCode::InvalidField, message: "a path holds a NUL byte".into() };
            return Err(FileError::new(operation, path, rule));
        }
        if path.len() > LONGEST {
            return Err(FileError::new(operation, &path[..256], Errno::NAMETOOLONG));
        }
        let bases = [self.name.as_bytes(), self.path.as_os_str().as_bytes()];
        let inside = match path {
            [b'/', ..] => bases.into_iter().find_map(|base| strip_base(path, base)),
            relative => Some(relative),
        };
        inside.filter(|relative| !climbs_out(relative)).ok_or_else(|| self.outside(operation, path))
    }

    fn outside(&self, operation: &'static str, path: &[u8]) -> FileError {
        FileError::new(operation, path, Reason::Outside { root: self.name.clone() })
    }

    /// Opens what is at `path`, following symbolic links that stay in the root. Always adds `CLOEXEC`, and `NONBLOCK` so that no FIFO
    /// is waited for; [`OFlags::NOFOLLOW`] is the caller's to add. Not for making files: see [`Self::parent`].
    ///
    /// # Errors
    /// [`Reason::Outside`], or what the system says.
    pub fn open_at(&self, operation: &'static str, path: &[u8], flags: OFlags) -> Result<OwnedFd, FileError> {
        let relative = self.relative(operation, path)?;
        self.resolve(relative, flags).map_err(|error| match error {
            Errno::XDEV => self.outside(operation, path),
            other => FileError::new(operation, path, other),
        })
    }

    fn resolve(&self, relative: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        match self.resolve_beneath(relative, flags) {
            // To the kernel every absolute link leads out; those that lead back in are written out for it.
            Err(Errno::XDEV) => match self.without_absolute_links(relative, flags)? {
                Some(rewritten) => self.resolve_beneath(&rewritten, flags),
                None => Err(Errno::XDEV),
            },
            resolved => resolved,
        }
    }

    fn resolve_beneath(&self, relative: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let relative = if relative.is_empty() { b".".as_slice() } else { relative };
        let flags = if flags.contains(OFlags::PATH) { flags } else { flags | OFlags::NONBLOCK | OFlags::NOCTTY };
        let within = if self.whole { ResolveFlags::IN_ROOT } else { ResolveFlags::BENEATH };
        for _ in 0..RACES {
            let resolve = within | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(&self.directory, relative, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// Opens the directory that holds `path`, and names what is, or is to be, in it. Operations on the name itself (`unlinkat`,
    /// `renameat`, `mkdirat`, `O_NOFOLLOW`) then follow no link.
    ///
    /// # Errors
    /// [`Reason::Outside`], what the system says about the parent, or [`ErrorCode::InvalidField`] for a path whose end is no name: the
    /// root itself, or something that ends in `..`.
    pub fn parent(&self, operation: &'static str, path: &[u8]) -> Result<(OwnedFd, Name), FileError> {
        let (parent, name) = self.split(operation, path)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let directory = self.resolve(parent, flags).map_err(|error| match error {
            Errno::XDEV => self.outside(operation, path),
            other => FileError::new(operation, path, other),
        })?;
        Ok((directory, name))
    }

    /// As [`Self::parent`], making the directories that are missing on the way, for the root's owner.
    ///
    /// # Errors
    /// As [`Self::parent`].
    pub fn make_parent(&self, operation: &'static str, path: &[u8]) -> Result<(OwnedFd, Name), FileError> {
        match self.parent(operation, path) {
            Err(error) if error.code() == ErrorCode::NotFound => {
                let (parent, _) = self.split(operation, path)?;
                self.make_directories(operation, parent)?;
                self.parent(operation, path)
            }
            other => other,
        }
    }

    /// Makes a directory, mode 0755, and those that are missing above it. One that is there already is no error.
    ///
    /// # Errors
    /// [`Reason::Outside`], or what the system says.
    pub fn make_directories(&self, operation: &'static str, path: &[u8]) -> Result<(), FileError> {
        let relative = self.relative(operation, path)?;
        let fail = |error| match error {
            Errno::XDEV => self.outside(operation, path),
            other => FileError::new(operation, path, other),
        };
        let ends = relative.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(index, _)| index);
        for end in ends.chain([relative.len()]) {
            let (prefix, flags) = (&relative[..end], OFlags::PATH | OFlags::DIRECTORY);
            match self.resolve(prefix, flags) {
                Ok(_) => {}
                Err(Errno::NOENT) => {
                    let (directory, name) = self.parent(operation, prefix)?;
                    match rustix::fs::mkdirat(&directory, &name, Mode::from_raw_mode(0o755)) {
                        Ok(()) => self.give_away(&directory, &name).map_err(fail)?,
                        Err(Errno::EXIST) => drop(self.resolve(prefix, flags).map_err(fail)?),
                        Err(error) => return Err(fail(error)),
                    }
                }
                Err(error) => return Err(fail(error)),
            }
        }
        Ok(())
    }

    /// Gives something that was just made to the root's owner; the thing itself, not what a link points to.
    ///
    /// # Errors
    /// What the system says, unless the agent may not give anything away.
    pub fn give_away(&self, directory: impl AsFd, name: &Name) -> Result<(), Errno> {
        let Some(Owner { uid, gid }) = self.owner.filter(|_| rustix::process::geteuid().is_root()) else {
            return Ok(());
        };
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(directory, name, uid, gid, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
    }

    fn split<'a>(&self, operation: &'static str, path: &'a [u8]) -> Result<(&'a [u8], Name), FileError> {
        let relative = self.relative(operation, path)?;
        let trimmed = &relative[..relative.len() - relative.iter().rev().take_while(|&&byte| byte == b'/').count()];
        let (parent, name) = match trimmed.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&trimmed[..slash], &trimmed[slash + 1..]),
            None => (b"".as_slice(), trimmed),
        };
        let named = match name {
            b"" | b"." => Err(format!("the path is {} itself, or ends in a dot", self.name)),
            b".." => Err("the path ends in '..'".to_owned()),
            name => CString::new(name).map_err(|_| "the path holds a NUL byte".to_owned()),
        };
        let escapes = |path| matches!(self.resolve(path, OFlags::PATH), Err(Errno::XDEV));
        let name = named.map_err(|message| match name {
            b".." if escapes(trimmed) => self.outside(operation, path),
            _ => FileError::new(operation, path, Reason::Rule { code: ErrorCode::InvalidField, message }),
        })?;
        Ok((parent, name))
    }
}

/// What is behind `base` in an absolute path, if it is at or below it.
fn strip_base<'a>(path: &'a [u8], base: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(base)?;
    let at_boundary = rest.is_empty() || rest[0] == b'/' || base == b"/";
    let start = rest.iter().take_while(|&&byte| byte == b'/').count();
    at_boundary.then(|| &rest[start..])
}

/// Whether the `..` of a relative path outnumber the names before them.
fn climbs_out(relative: &[u8]) -> bool {
    let depth = relative.split(|&byte| byte == b'/').try_fold(0_usize, |depth, part| match part {
        b"" | b"." => Some(depth),
        b".." => depth.checked_sub(1),
        _ => Some(depth + 1),
    });
    depth.is_none()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path(), "/workspace", None).unwrap();
        (directory, root)
    }

    fn read(root: &Root, path: &str) -> Result<OwnedFd, ErrorCode> {
        root.open_at("read", path.as_bytes(), OFlags::RDONLY).map_err(|error| error.code())
    }

    #[test]
    fn b27_no_path_leaves_the_root() {
        let (directory, root) = root();
        symlink("/tmp", directory.path().join("t")).unwrap();
        symlink("..", directory.path().join("up")).unwrap();
        fs::write(directory.path().join("..%2f"), "").unwrap();
        for path in [
            "../etc/hostname",
            "/workspace/../etc/hostname",
            "t/x",
            "/etc/hostname",
            "up",
            "/workspaces",
            "a/../../b",
            "..",
            "t",
        ] {
            assert_eq!(read(&root, path).unwrap_err(), ErrorCode::OutsideRoot, "{path}");
        }
        for path in ["..", "t/x", "up/x", "../x", "/x"] {
            let error = root.parent("write", path.as_bytes()).unwrap_err();
            assert_eq!(error.code(), ErrorCode::OutsideRoot, "{path}: {error}");
            assert!(root.make_parent("write", path.as_bytes()).is_err(), "{path}");
        }
        assert!(root.make_directories("make", b"t/x").is_err());
        assert!(read(&root, "..%2f").is_ok());
    }

    #[test]
    fn paths_are_relative_or_begin_with_the_name_or_the_place_of_the_root() {
        let (directory, root) = root();
        fs::create_dir(directory.path().join("a")).unwrap();
        fs::write(directory.path().join("a/b"), "").unwrap();
        symlink("a", directory.path().join("inner")).unwrap();
        let real = directory.path().join("a/b").display().to_string();
        for path in ["a/b", "./a//b", "/workspace/a/b", "/workspace//a/b", "inner/b", "a/../a/b", &real] {
            assert!(read(&root, path).is_ok(), "{path}");
        }
        assert!(root.open_at("list", b"", OFlags::PATH).is_ok());
        let (_, name) = root.parent("write", b"a/new/").unwrap();
        assert_eq!(name.as_bytes(), b"new");
        for path in ["", ".", "/workspace", "a/..", "a/."] {
            assert_eq!(root.parent("write", path.as_bytes()).unwrap_err().code(), ErrorCode::InvalidField, "{path:?}");
        }
    }

    #[test]
    fn missing_parents_are_made() {
        let (directory, root) = root();
        root.make_parent("write", b"x/y/z").unwrap();
        assert!(directory.path().join("x/y").is_dir());
        fs::write(directory.path().join("file"), "").unwrap();
        assert_eq!(root.make_parent("write", b"file/y/z").unwrap_err().code(), ErrorCode::NotADirectory);
    }
}
