//! The words a caller may use: names of images, suites and packages, and digests.
//!
//! Each is checked once, where it enters, and trusted from there on: these strings become file names, arguments
//! of `apt-get`, and lines of a `sources.list`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Says why a string cannot be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is no {kind}: {rule}")]
pub struct NameError {
    /// What the string was meant to be, for example `image name`.
    pub kind: &'static str,
    /// The string, cut to its first 80 characters.
    pub value: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl NameError {
    pub(crate) fn new(kind: &'static str, value: &str, rule: &'static str) -> Self {
        NameError { kind, value: value.chars().take(80).collect(), rule }
    }
}

macro_rules! checked_string {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks a string.
            ///
            /// # Errors
            /// The rule above, when the string breaks it.
            pub fn new(value: impl Into<String>) -> Result<Self, NameError> {
                let value = value.into();
                let check: fn(&str) -> bool = $check;
                if check(&value) { Ok($name(value)) } else { Err(NameError::new($kind, &value, $rule)) }
            }

            /// Returns the string.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(value: &str) -> Result<Self, NameError> {
                $name::new(value)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(value: String) -> Result<Self, NameError> {
                $name::new(value)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

checked_string!(
    /// Names an image: 1 to 63 of `a-z 0-9 . _ -`, beginning with a letter or digit.
    ImageName, "image name", "1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit",
    |s| s.len() <= 63 && starts_alphanumeric(s) && s.bytes().all(|b| plain(b) || b"._-".contains(&b))
);

checked_string!(
    /// Names a Debian suite, such as `bookworm` or `trixie`: 1 to 40 of `a-z 0-9 -`, beginning with a letter.
    Suite, "suite", "1 to 40 of a-z, 0-9 and '-', beginning with a letter, such as bookworm",
    |s| s.len() <= 40
        && s.starts_with(|c: char| c.is_ascii_lowercase())
        && s.bytes().all(|b| plain(b) || b == b'-')
);

checked_string!(
    /// Names a Debian package (Debian Policy, section 5.6.1): 2 to 120 of `a-z 0-9 + - .`, beginning with a letter or
    /// digit. A last `-` is refused although the policy allows it, because apt would read it as "remove".
    PackageName, "package name", "2 to 120 of a-z, 0-9, '+', '-' and '.', beginning with a letter or a digit, not ending in '-'",
    |s| (2..=120).contains(&s.len())
        && starts_alphanumeric(s)
        && !s.ends_with('-')
        && s.bytes().all(|b| plain(b) || b"+-.".contains(&b))
);

checked_string!(
    /// Names an image by its content: 64 hexadecimal digits, a SHA-256.
    Digest, "digest", "64 hexadecimal digits in lower case",
    |s| s.len() == 64 && is_hexadecimal(s)
);

impl Default for Suite {
    fn default() -> Self {
        Suite("bookworm".to_owned())
    }
}

impl Suite {
    /// Tells whether the suite has `-updates` and `-security` companions; the rolling ones have none.
    pub(crate) fn has_updates(&self) -> bool {
        !matches!(self.as_str(), "sid" | "unstable" | "experimental")
    }
}

impl Digest {
    /// Returns the first twelve digits, enough for people.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Digest(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

pub(crate) fn is_hexadecimal(s: &str) -> bool {
    s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn plain(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn starts_alphanumeric(s: &str) -> bool {
    s.bytes().next().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts<T>(parse: fn(&'static str) -> Result<T, NameError>, good: &[&'static str], bad: &[&'static str]) {
        for value in good {
            assert!(parse(value).is_ok(), "{value:?} was refused");
        }
        for value in bad {
            assert!(parse(value).is_err(), "{value:?} was accepted");
        }
    }

    #[test]
    fn image_names_are_plain_file_names() {
        let long = "a".repeat(64);
        accepts(
            ImageName::new,
            &["debian", "a", "my_image-2.0", "0"],
            &["", ".", "..", ".a", "-a", "a/b", "A", "a b", "a\0", "ä", long.leak()],
        );
    }

    #[test]
    fn package_names_cannot_become_options_or_removals() {
        accepts(
            PackageName::new,
            &["g++", "libc6", "python3.11", "0ad"],
            &["", "a", "-y", "python3-", "a=1", "a/b", "~i", "?essential", "a b", "a,b", "Git"],
        );
    }

    #[test]
    fn suites_cannot_break_a_sources_list() {
        accepts(Suite::new, &["bookworm", "trixie", "bookworm-backports"], &["", "a b", "../x", "a\nb", "1x", "[x]"]);
    }

    #[test]
    fn a_digest_is_sixty_four_lower_case_digits() {
        let good: &'static str = "ab".repeat(32).leak();
        accepts(Digest::new, &[good], &["", "ab", "zz"]);
        assert_eq!(Digest::new(good).unwrap().short(), "abababababab");
    }

    #[test]
    fn a_refusal_says_what_was_wrong() {
        let error = PackageName::new("-y").unwrap_err().to_string();
        assert!(error.starts_with("\"-y\" is no package name: 2 to 120 of"), "{error}");
    }
}
