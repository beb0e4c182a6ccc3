//! Absolute symbolic links that lead back into the root.
//!
//! `RESOLVE_BENEATH` refuses every absolute link, where it leads to or not. A path that was refused is written out here, link by link, for the
//! kernel to resolve once more. This only makes text: whatever it is, the kernel keeps it beneath the root.

use std::os::unix::ffi::OsStrExt;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Root, strip_base};

/// The most links in one path, as the kernel has it.
const LINKS: usize = 40;

impl Root {
    /// The path with the links on its way, up to the last absolute one, replaced by what they say; `None` when one leads out, or none is
    /// absolute. A link at its end is left alone where `flags` say [`OFlags::NOFOLLOW`].
    pub(super) fn without_absolute_links(&self, relative: &[u8], flags: OFlags) -> Result<Option<Vec<u8>>, Errno> {
        let (mut path, mut changed) = (relative.to_vec(), false);
        for _ in 0..LINKS {
            let Some((start, end, target)) = self.first_link(&path, flags.contains(OFlags::NOFOLLOW))? else {
                return Ok(changed.then_some(path));
            };
            let before = match target.first() {
                Some(b'/') => {
                    changed = true;
                    let Some(inside) = self.inside(&target) else { return Ok(None) };
                    inside
                }
                _ => [&path[..start], &target].concat(),
            };
            path = [before.as_slice(), &path[end..]].concat();
        }
        Err(Errno::LOOP)
    }

    /// What an absolute link's target is from the root, if it is at or below it. Programs know the root by its place, not by its name.
    pub(super) fn inside(&self, target: &[u8]) -> Option<Vec<u8>> {
        let relative = strip_base(target, self.path.as_os_str().as_bytes())?;
        Some(if relative.is_empty() { b".".to_vec() } else { relative.to_vec() })
    }

    /// The first link on a path: where its name begins and ends, and what it says.
    fn first_link(&self, path: &[u8], spare_last: bool) -> Result<Option<(usize, usize, Vec<u8>)>, Errno> {
        let mut end = 0;
        while end < path.len() {
            let start = end + path[end..].iter().take_while(|&&byte| byte == b'/').count();
            end = start + path[start..].iter().take_while(|&&byte| byte != b'/').count();
            let is_last = end == path.len();
            if matches!(&path[start..end], b"" | b"." | b"..") || (is_last && spare_last) {
                continue;
            }
            let found = match self.resolve_beneath(&path[..end], OFlags::PATH | OFlags::NOFOLLOW) {
                // Made through a link, perhaps: whoever makes it says what is wrong.
                Err(Errno::NOENT) => return Ok(None),
                found => found?,
            };
            match rustix::fs::readlinkat(&found, c"", Vec::new()) {
                Ok(target) => return Ok(Some((start, end, target.into_bytes()))),
                // It is no link.
                Err(Errno::INVAL | Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use hearth_protocol::ErrorCode;

    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().canonicalize().unwrap();
        fs::create_dir_all(place.join("a/b")).unwrap();
        fs::write(place.join("a/b/file"), "").unwrap();
        let inside = |path: &str| place.join(path).display().to_string();
        for (name, target) in [
            ("whole", inside("")),
            ("to-b", inside("a/b")),
            ("a/up", inside("a/../to-b")),
            ("a/far", "../to-b/./file".to_owned()),
            ("named", "/workspace/a".to_owned()),
            ("out", "/etc".to_owned()),
            ("climbs", inside("../x")),
            ("beside", format!("{}x/y", place.display())),
            ("round", inside("round")),
            ("new", inside("a/new")),
        ] {
            symlink(target, place.join(name)).unwrap();
        }
        let root = Root::open(&place, "/workspace", None).unwrap();
        (directory, root)
    }

    #[test]
    fn b27_absolute_links_are_followed_as_far_as_they_stay_inside() {
        let (_directory, root) = root();
        let read = |path: &str| root.open_at("read", path.as_bytes(), OFlags::RDONLY).map_err(|error| error.code());
        for path in ["to-b/file", "whole/to-b/file", "a/up/file", "a/far", "whole", "to-b", "to-b/../b/file"] {
            assert!(read(path).is_ok(), "{path}");
        }
        for path in ["out/hostname", "out", "named", "climbs", "climbs/y", "beside", "whole/out/x", "to-b/../../../x"] {
            assert_eq!(read(path).unwrap_err(), ErrorCode::OutsideRoot, "{path}");
        }
        assert_eq!(read("round").unwrap_err(), ErrorCode::Io);
        assert_eq!(read("to-b/none").unwrap_err(), ErrorCode::NotFound);
        let link = root.open_at("stat", b"whole/to-b", OFlags::PATH | OFlags::NOFOLLOW).unwrap();
        assert!(rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(link).unwrap().st_mode).is_symlink());
    }

    #[test]
    fn b27_what_is_written_goes_through_absolute_links_that_stay_inside() {
        let (_directory, root) = root();
        for (path, name) in [("to-b/new", "new"), ("new", "new"), ("whole/x", "x")] {
            assert_eq!(root.follow("write", path.as_bytes(), false).unwrap().1.to_str().unwrap(), name, "{path}");
        }
        for path in ["out/x", "named", "beside", "climbs"] {
            assert_eq!(
                root.follow("write", path.as_bytes(), false).unwrap_err().code(),
                ErrorCode::OutsideRoot,
                "{path}"
            );
        }
        root.make_parent("write", b"to-b/c/d/file").unwrap();
        assert!(root.path().join("a/b/c/d").is_dir());
    }
}
