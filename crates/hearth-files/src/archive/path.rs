//! The paths in an archive: which of them name something beneath its destination, and in what one form.

use super::error::Rule;

/// The longest path, and the longest name in it, in bytes.
const LONGEST: usize = 4095;
const LONGEST_NAME: usize = 255;

/// Writes a member's path in its one form: names with one slash between them, no dots. Empty is the destination itself.
///
/// # Errors
/// For what does not name something beneath the destination just as it is written.
pub(super) fn clean(path: &[u8], out: &mut Vec<u8>) -> Result<(), Rule> {
    out.clear();
    match path {
        [] => return Err(Rule::Empty),
        [b'/', ..] => return Err(Rule::Absolute),
        _ if path.contains(&0) => return Err(Rule::Nul),
        _ => {}
    }
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => continue,
            b".." => return Err(Rule::Climbs),
            name if name.len() > LONGEST_NAME || out.len() + 1 + name.len() > LONGEST => return Err(Rule::TooLong),
            _ => {}
        }
        if !out.is_empty() {
            out.push(b'/');
        }
        out.extend_from_slice(name);
    }
    Ok(())
}

/// Splits a clean path in the directory and the name in it.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Puts a name behind a directory's clean path.
pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// Checks a symbolic link's target, which may say anything that a link can.
pub(super) fn check_target(target: &[u8]) -> Result<(), Rule> {
    match target {
        [] => Err(Rule::NoTarget),
        _ if target.contains(&0) => Err(Rule::Nul),
        _ if target.len() > LONGEST => Err(Rule::TooLong),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(path: &[u8]) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        clean(path, &mut out).map(|()| out).map_err(|rule| rule.to_string())
    }

    #[test]
    fn b34_only_paths_beneath_the_destination_are_taken() {
        for (path, expected) in
            [("a/b", "a/b"), ("./a//b/", "a/b"), (".", ""), ("./", ""), ("a/./b", "a/b"), ("..a", "..a")]
        {
            assert_eq!(cleaned(path.as_bytes()).unwrap(), expected.as_bytes(), "{path}");
        }
        let long = "x".repeat(256);
        for path in ["", "/etc/x", "../x", "a/../b", "a/..", "a\0b", &long, &"a/".repeat(2100)] {
            assert!(cleaned(path.as_bytes()).is_err(), "{path}");
        }
        assert!(cleaned(&[b'x'; 255]).is_ok());
    }
}
