//! Where a path leads that may end in a symbolic link, for what is to be written there.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Gid, OFlags, Uid};
use rustix::io::Errno;

use super::{Name, Owner, Root};
use crate::error::FileError;

/// The most links on the way to one file, as the kernel has it.
const LINKS: usize = 40;

impl Root {
    /// As [`Self::parent`], but of what `path` leads to when it names a symbolic link: of a file that is there, or one that would be
    /// made through the link. With `make`, missing directories on the way to the first link are made.
    ///
    /// # Errors
    /// As [`Self::parent`]; [`crate::Reason::Outside`] for a link that leads out.
    pub(crate) fn follow(
        &self,
        operation: &'static str,
        path: &[u8],
        make: bool,
    ) -> Result<(OwnedFd, Name), FileError> {
        let fail = |error| match error {
            Errno::XDEV => self.outside(operation, path),
            other => FileError::new(operation, path, other),
        };
        let mut at = if make { self.make_parent(operation, path) } else { self.parent(operation, path) }?;
        let mut text = self.relative(operation, path)?.to_vec();
        for _ in 0..LINKS {
            let target = match rustix::fs::readlinkat(&at.0, &at.1, Vec::new()) {
                Ok(target) => target.into_bytes(),
                // No link, or nothing.
                Err(Errno::INVAL | Errno::NOENT) => return Ok(at),
                Err(error) => return Err(fail(error)),
            };
            text = self.beside(&text, &target).ok_or_else(|| self.outside(operation, path))?;
            let end = text.len() - text.iter().rev().take_while(|&&byte| byte == b'/').count();
            let start = text[..end].iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
            let name = match &text[start..end] {
                b"" | b"." | b".." => return Err(fail(Errno::ISDIR)),
                name => CString::new(name).expect("a link's text holds no NUL"),
            };
            let directory = self.resolve(&text[..start], OFlags::PATH | OFlags::DIRECTORY).map_err(fail)?;
            at = (directory, name);
        }
        Err(fail(Errno::LOOP))
    }

    /// The path that a link at `path` stands for, unless it leads out as it is written.
    fn beside(&self, path: &[u8], target: &[u8]) -> Option<Vec<u8>> {
        if target.starts_with(b"/") {
            return if self.whole { Some(target.to_vec()) } else { self.inside(target) };
        }
        let end = path.len() - path.iter().rev().take_while(|&&byte| byte == b'/').count();
        let start = path[..end].iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        Some([&path[..start], target].concat())
    }

    /// Gives a file that was just made to the root's owner.
    pub(crate) fn give_away_file(&self, file: impl AsFd) -> Result<(), Errno> {
        let Some(Owner { uid, gid }) = self.owner.filter(|_| rustix::process::geteuid().is_root()) else {
            return Ok(());
        };
        rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use hearth_protocol::ErrorCode;

    use super::*;

    #[test]
    fn b27_links_are_followed_as_far_as_they_stay_inside() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path(), "/workspace", None).unwrap();
        fs::create_dir_all(directory.path().join("a/b")).unwrap();
        for (name, target) in [
            ("a/near", "file"),
            ("up", "a/b/../near"),
            ("inner", "a/b"),
            ("through", "inner/../x"),
            ("out", "../x"),
            ("far", "/etc/hostname"),
            ("a/out", "../../x"),
            ("loop", "loop"),
            ("directory", "a/"),
            ("dots", "a/.."),
            ("hole", "no/where"),
        ] {
            symlink(target, directory.path().join(name)).unwrap();
        }
        let lead = |path: &str| root.follow("write", path.as_bytes(), false);
        for (path, name) in
            [("a/near", "file"), ("up", "file"), ("through", "x"), ("new", "new"), ("directory", "a"), ("inner/f", "f")]
        {
            assert_eq!(lead(path).unwrap().1.to_str().unwrap(), name, "{path}");
        }
        assert!(lead("through").is_ok_and(|(at, _)| {
            rustix::fs::fstat(at).unwrap().st_ino == rustix::fs::stat(directory.path().join("a")).unwrap().st_ino
        }));
        for (path, code) in [
            ("out", ErrorCode::OutsideRoot),
            ("far", ErrorCode::OutsideRoot),
            ("a/out", ErrorCode::OutsideRoot),
            ("loop", ErrorCode::Io),
            ("dots", ErrorCode::IsADirectory),
            ("hole", ErrorCode::NotFound),
        ] {
            assert_eq!(lead(path).unwrap_err().code(), code, "{path}");
        }
    }
}
