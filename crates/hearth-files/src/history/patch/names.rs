//! The paths in a patch.

use rustix::fs::OFlags;

use super::error::PatchError;
use crate::entry::tidy;
use crate::history::order::is_repository;
use crate::root::Root;

/// The directory that a patch's paths begin at, from the root.
pub(super) fn base(root: &Root, directory: &[u8]) -> Result<Vec<u8>, PatchError> {
    const OPERATION: &str = "apply the patch in";
    root.open_at(OPERATION, directory, OFlags::PATH | OFlags::DIRECTORY)?;
    Ok(tidy(root.relative(OPERATION, directory)?))
}

/// Reads a name at the front of `text`: in quotes, or up to a tab or the end. Returns it with what is behind.
pub(super) fn read(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    if text.first() == Some(&b'"') {
        return unquote(text);
    }
    let end = memchr::memchr(b'\t', text).unwrap_or(text.len());
    Some((text[..end].to_vec(), &text[end..]))
}

/// Reads a name in quotes, as C has them.
fn unquote(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut name = Vec::new();
    let mut rest = text.strip_prefix(b"\"")?;
    loop {
        let (&byte, behind) = rest.split_first()?;
        rest = behind;
        match byte {
            b'"' => return Some((name, rest)),
            b'\\' => {
                let (&escape, behind) = rest.split_first()?;
                rest = behind;
                name.push(match escape {
                    b'a' => 7,
                    b'b' => 8,
                    b't' => b'\t',
                    b'n' => b'\n',
                    b'v' => 11,
                    b'f' => 12,
                    b'r' => b'\r',
                    b'"' | b'\\' => escape,
                    b'0'..=b'3' => {
                        let digits = rest.get(..2)?;
                        let digit = |byte: u8| (b'0'..=b'7').contains(&byte).then(|| byte - b'0');
                        rest = &rest[2..];
                        (escape - b'0') << 6 | digit(digits[0])? << 3 | digit(digits[1])?
                    }
                    _ => return None,
                });
            }
            byte => name.push(byte),
        }
    }
}

/// Reads the two names of a `diff --git` line, which are one but for what is stripped.
pub(super) fn of_header(text: &[u8], strip: u32) -> Option<Vec<u8>> {
    let same = |old: &[u8], new: &[u8]| {
        let (old, new) = (stripped(old, strip)?, stripped(new, strip)?);
        (old == new && !old.is_empty()).then(|| old.to_vec())
    };
    if text.first() == Some(&b'"') {
        let (old, rest) = unquote(text)?;
        let rest = rest.strip_prefix(b" ")?;
        let new = if rest.first() == Some(&b'"') { unquote(rest)?.0 } else { rest.to_vec() };
        return same(&old, &new);
    }
    // Names may hold spaces: where one ends shows in the other.
    memchr::memchr_iter(b' ', text).find_map(|at| {
        let rest = &text[at + 1..];
        let new = if rest.first() == Some(&b'"') { unquote(rest)?.0 } else { rest.to_vec() };
        same(&text[..at], &new)
    })
}

/// Takes names off the front of a path.
pub(super) fn stripped(path: &[u8], strip: u32) -> Option<&[u8]> {
    let mut rest = path;
    for _ in 0..strip {
        let slash = memchr::memchr(b'/', rest)?;
        rest = &rest[slash + 1..];
        while let Some(behind) = rest.strip_prefix(b"/") {
            rest = behind;
        }
    }
    Some(rest)
}

/// A path from the root, of one that a patch has.
///
/// # Errors
/// When it is none, or leads out.
pub(super) fn placed(base: &[u8], path: &[u8]) -> Result<Vec<u8>, PatchError> {
    let outside = |reason| Err(PatchError::Outside { path: path.to_vec(), reason });
    if path.first() == Some(&b'/') {
        return outside("is absolute");
    }
    let parts: Vec<&[u8]> = path.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.contains(&b"..".as_slice()) {
        return outside("goes through '..'");
    }
    if parts.is_empty() || path.contains(&0) || path.len() > 4095 || parts.iter().any(|part| part.len() > 255) {
        return outside("is empty, too long, or holds a NUL byte");
    }
    if is_repository(path) {
        return outside("leads into a repository's own directory");
    }
    Ok(crate::entry::join(base, &parts.join(&b'/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_git_writes_them() {
        assert_eq!(read(b"a/x y\t2020").unwrap(), (b"a/x y".to_vec(), b"\t2020".as_slice()));
        assert_eq!(read(b"\"a/\\303\\274\\t\\\"\"\tz").unwrap(), (b"a/\xc3\xbc\t\"".to_vec(), b"\tz".as_slice()));
        for broken in [b"\"a".as_slice(), b"\"a\\", b"\"\\9\"", b"\"\\18\""] {
            assert_eq!(read(broken), None);
        }
        assert_eq!(of_header(b"a/x y b/x y", 1).unwrap(), b"x y");
        assert_eq!(of_header(b"a/b b/b b/b b/b", 1).unwrap(), b"b b/b");
        assert_eq!(of_header(b"\"a/\\t\" \"b/\\t\"", 1).unwrap(), b"\t");
        assert_eq!(of_header(b"x x", 0).unwrap(), b"x");
        assert_eq!(of_header(b"a/x b/y", 1), None);
        assert_eq!(stripped(b"a//b/c", 1).unwrap(), b"b/c");
        assert_eq!(stripped(b"a", 1), None);
    }

    #[test]
    fn b27_paths_that_lead_out_are_refused() {
        for path in [b"/etc/x".as_slice(), b"../x", b"a/../b", b"", b".", b"a\0b", b".git/hooks/x", b"a/.GIT"] {
            assert!(matches!(placed(b"", path), Err(PatchError::Outside { .. })), "{path:?}");
        }
        assert_eq!(placed(b"d", b"./a//b").unwrap(), b"d/a/b");
        assert_eq!(placed(b"", b"..%2f").unwrap(), b"..%2f");
    }
}
