//! Paths as this dialect writes them: relative to `/workspace`, or absolute and inside it.

use super::texts::Refusal;

/// What clients call the workspace, wherever it is.
const WORKSPACE: &[u8] = b"/workspace";
/// The refusal of a path that leads elsewhere.
pub(super) const OUTSIDE: &str = "destination must stay inside /workspace";

/// A path in the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WorkspacePath {
    /// As it is answered: absolute, without empty parts and single dots. Parts of two dots stay: what they mean depends on links.
    pub(super) text: Vec<u8>,
}

impl WorkspacePath {
    /// Reads what a client wrote.
    pub(super) fn parse(path: &[u8]) -> Result<Self, Refusal> {
        if String::from_utf8_lossy(path).trim().is_empty() {
            return Err("destination must not be empty".into());
        }
        let (base, absolute) = (WORKSPACE.strip_prefix(b"/").unwrap_or_default(), path.starts_with(b"/"));
        let mut parts = path.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
        if absolute && parts.next() != Some(base) {
            return Err(OUTSIDE.into());
        }
        let mut text = WORKSPACE.to_vec();
        for part in parts {
            text.push(b'/');
            text.extend_from_slice(part);
        }
        let path = Self { text };
        if path.climbs_out() { Err(OUTSIDE.into()) } else { Ok(path) }
    }

    /// The path below the workspace; empty for the workspace itself.
    pub(super) fn relative(&self) -> &[u8] {
        self.text.get(WORKSPACE.len() + 1..).unwrap_or_default()
    }

    /// The whole path of something in it.
    pub(super) fn join(&self, inner: &[u8]) -> Vec<u8> {
        [self.text.as_slice(), b"/", inner].concat()
    }

    /// The path as an error names it.
    pub(super) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }

    /// Every directory on the way to it, the outermost first, without itself and the workspace.
    pub(super) fn parents(&self) -> impl Iterator<Item = &[u8]> {
        let relative = self.relative();
        relative.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &relative[..at])
    }

    /// Whether its parts of two dots outnumber the names before them. The kernel sees to the others when it resolves them.
    fn climbs_out(&self) -> bool {
        let mut depth = 0_usize;
        for part in self.relative().split(|&byte| byte == b'/') {
            match (part, depth.checked_sub(1)) {
                (b"..", None) => return true,
                (b"..", Some(less)) => depth = less,
                _ => depth += 1,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_means_below_the_workspace() {
        for (path, text, relative) in [
            ("a/b", "/workspace/a/b", "a/b"),
            ("/workspace", "/workspace", ""),
            ("/workspace/", "/workspace", ""),
            (".", "/workspace", ""),
            ("./a//b/./", "/workspace/a/b", "a/b"),
            ("/workspace/a", "/workspace/a", "a"),
            ("//workspace//a", "/workspace/a", "a"),
            ("workspace", "/workspace/workspace", "workspace"),
            ("a/../b", "/workspace/a/../b", "a/../b"),
            (" a ", "/workspace/ a ", " a "),
            ("..%2f", "/workspace/..%2f", "..%2f"),
        ] {
            let parsed = WorkspacePath::parse(path.as_bytes()).unwrap();
            assert_eq!((parsed.shown().as_str(), parsed.relative()), (text, relative.as_bytes()), "{path:?}");
        }
        let deep = WorkspacePath::parse(b"a/b/c").unwrap();
        assert_eq!(deep.parents().collect::<Vec<_>>(), [b"a".as_slice(), b"a/b"]);
    }

    #[test]
    fn nothing_outside_can_be_named() {
        for path in
            ["/", "/etc", "/workspaces", "/workspace/..", "..", "a/../../b", "/workspace/../etc/hostname", "/.."]
        {
            assert_eq!(WorkspacePath::parse(path.as_bytes()).unwrap_err(), OUTSIDE.into(), "{path}");
        }
        for path in ["", " ", "\t\n"] {
            assert_eq!(WorkspacePath::parse(path.as_bytes()).unwrap_err(), "destination must not be empty".into());
        }
    }
}
