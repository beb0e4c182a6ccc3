//! The order in which a walk comes to paths: that of the names of each directory, and all that is in a directory before what is beside it.

use std::cmp::Ordering;

/// Compares two paths.
pub(super) fn order(one: &[u8], other: &[u8]) -> Ordering {
    // Most are: this is asked of everything in a workspace.
    if one == other {
        return Ordering::Equal;
    }
    let same = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    // A slash stands before every other byte, since no name holds NUL.
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    one.get(same).map(rank).cmp(&other.get(same).map(rank))
}

/// Whether a path is in a directory, however deep.
pub(super) fn is_beneath(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.first() == Some(&b'/'))
}

/// Whether a path is, or is in, a repository's own directory.
pub(super) fn is_repository(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/').any(|name| name.eq_ignore_ascii_case(b".git"))
}

/// A path's directory and its last name.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_directory_comes_before_what_is_beside_it() {
        let sorted: [&[u8]; 9] = [b"A", b"a", b"a/b", b"a/b/c", b"a/b-", b"a-", b"a.b", b"ab", b"b\xff"];
        for (index, one) in sorted.iter().enumerate() {
            for (other_index, other) in sorted.iter().enumerate() {
                assert_eq!(order(one, other), index.cmp(&other_index), "{one:?} {other:?}");
            }
        }
        assert!(is_beneath(b"a/b/c", b"a/b") && !is_beneath(b"a/bc", b"a/b") && !is_beneath(b"a", b"a"));
        assert_eq!(
            (split(b"a/b/c"), split(b"a")),
            ((b"a/b".as_slice(), b"c".as_slice()), (b"".as_slice(), b"a".as_slice()))
        );
    }
}
