//! Searching files.

use serde::{Deserialize, Serialize};

use super::FileRoot;
use crate::RawString;

/// What to search files for, and which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// Beneath which root.
    #[serde(default, skip_serializing_if = "FileRoot::is_default")]
    pub root: FileRoot,
    /// Which file, or which directory with all that is in it. Links in it are not followed.
    pub path: RawString,
    /// A regular expression in the syntax of Rust's `regex` crate. It is held against one line at a time. A byte order mark is no text; behind
    /// one of UTF-16 text is searched as UTF-8.
    pub pattern: String,
    /// Takes the pattern for the text itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub literal: bool,
    /// Whether upper and lower case differ.
    #[serde(default, skip_serializing_if = "Case::is_default")]
    pub case: Case,
    /// Whether a match must be whole words.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub word: bool,
    /// Which files, as lines of a `.gitignore` would name them: those that a glob fits and no later one with `!` takes away. All by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub globs: Vec<String>,
    /// Also files and directories whose name begins with a dot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
    /// Also what a `.gitignore` or `.ignore` there excludes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignored: bool,
    /// Lines to send before each match.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub before: u32,
    /// Lines to send behind each match.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub after: u32,
    /// The most lines with a match; [`Self::MATCHES`] by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// The most lines with a match in one file; all by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_per_file: Option<u64>,
    /// The most bytes of a line that are sent; [`Self::LINE`] by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line_bytes: Option<u32>,
    /// The longest time in milliseconds; [`Self::TIMEOUT_MS`] by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Search {
    /// The most lines with a match where no other number is asked for.
    pub const MATCHES: u64 = 1000;
    /// The most that may be asked for.
    pub const MOST_MATCHES: u64 = 1_000_000;
    /// What is sent of a line where no other number is asked for, in bytes.
    pub const LINE: u32 = 512;
    /// The most that may be asked for.
    pub const LONGEST_LINE: u32 = 16 * 1024;
    /// The time that a search may take where no other is asked for, in milliseconds.
    pub const TIMEOUT_MS: u64 = 30_000;
    /// The most lines before and behind a match.
    pub const CONTEXT: u32 = 100;
    /// The most globs.
    pub const GLOBS: usize = 100;

    /// The plainest search for `pattern` in the workspace's directory `path`.
    pub fn new(place: impl Into<super::Place>, pattern: impl Into<String>) -> Self {
        let super::Place { root, path } = place.into();
        Self {
            root,
            path,
            pattern: pattern.into(),
            literal: false,
            case: Case::default(),
            word: false,
            globs: Vec::new(),
            hidden: false,
            ignored: false,
            before: 0,
            after: 0,
            limit: None,
            limit_per_file: None,
            line_bytes: None,
            timeout_ms: None,
        }
    }
}

/// Whether upper and lower case differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Case {
    /// They do.
    #[default]
    Sensitive,
    /// They do not.
    Insensitive,
    /// Only if there is an upper case letter in the pattern.
    Smart,
}

impl Case {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A line that was found, or one beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Line {
    /// The file, relative to the root of the request.
    pub path: RawString,
    /// Its number in the file, from 1.
    pub line: u64,
    /// The line without its end.
    pub text: RawString,
    /// Where the matches are in `text`, each from its first byte to behind its last. Empty for a line of context.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spans: Vec<(u32, u32)>,
    /// Whether `text` is a part of the line only: it was too long.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

/// A bound that a search has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Enough {
    /// Of lines.
    Matches,
    /// Of time.
    Time,
}
