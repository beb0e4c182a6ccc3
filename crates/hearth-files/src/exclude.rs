//! What of a tree is not meant, by patterns.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// Patterns as `.gitignore` has them, each a line of it at the tree's top.
#[derive(Debug)]
pub struct Exclude(Gitignore);

impl Exclude {
    /// Takes patterns; the later has the last word.
    ///
    /// # Errors
    /// What is wrong with a pattern, for people.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut builder = GitignoreBuilder::new("");
        for pattern in patterns {
            builder.add_line(None, pattern).map_err(|error| error.to_string())?;
        }
        builder.build().map(Self).map_err(|error| error.to_string())
    }

    /// Whether a path, from the tree's top, is left out, or is in a directory that is.
    pub fn excludes(&self, path: &[u8], is_directory: bool) -> bool {
        // An absolute path would be none of the tree's.
        let is_inside = !path.is_empty() && path[0] != b'/';
        is_inside && self.0.matched_path_or_any_parents(Path::new(OsStr::from_bytes(path)), is_directory).is_ignore()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_gitignore() {
        let exclude = Exclude::new(["*.pyc", "/build", "node_modules/", "logs/*", "!logs/kept"]).unwrap();
        for (path, is_directory, expected) in [
            ("a.pyc", false, true),
            ("d/a.pyc", false, true),
            ("build", true, true),
            ("build/x/y", false, true),
            ("d/build", true, false),
            ("d/node_modules", true, true),
            ("d/node_modules/x", false, true),
            ("node_modules", false, false),
            ("logs", true, false),
            ("logs/a", false, true),
            ("logs/kept", false, false),
            ("src/main.rs", false, false),
        ] {
            assert_eq!(exclude.excludes(path.as_bytes(), is_directory), expected, "{path}");
        }
        assert!(exclude.excludes(b"\xff.pyc", false));
        assert!(!Exclude::new([]).unwrap().excludes(b"a", false));
        assert!(Exclude::new(["[z-a]"]).is_err());
    }
}
