//! What people call a sandbox: a name and labels.

use std::collections::BTreeMap;
use std::fmt;

use super::FleetError;

/// A name that a person gave: unique among the sandboxes there are.
///
/// 1 to 63 of ASCII letters, digits, `_`, `.` and `-`, beginning with a letter or digit, and not with `sb-`, as ids do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SandboxName(String);

impl SandboxName {
    /// The most bytes of a name: that of a host name's part.
    pub const LONGEST: usize = 63;

    /// Checks a name.
    ///
    /// # Errors
    /// [`FleetError::Name`].
    pub fn new(name: impl Into<String>) -> Result<Self, FleetError> {
        let name = name.into();
        let begins_well = name.starts_with(|letter: char| letter.is_ascii_alphanumeric());
        let fits = (1..=Self::LONGEST).contains(&name.len()) && !name.starts_with("sb-");
        if begins_well && fits && name.bytes().all(is_plain) { Ok(Self(name)) } else { Err(FleetError::Name { name }) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SandboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

/// What people note on a sandbox, for filters: at most [`Labels::MOST`].
///
/// A key is 1 to 63 of ASCII letters, digits, `_`, `.`, `-` and `/`, beginning with a letter or digit; a value is up to 255 bytes without
/// control characters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// The most labels of one sandbox.
    pub const MOST: usize = 64;
    const LONGEST_VALUE: usize = 255;

    /// Checks labels.
    ///
    /// # Errors
    /// [`FleetError::Labels`], [`FleetError::Label`].
    pub fn new(labels: BTreeMap<String, String>) -> Result<Self, FleetError> {
        if labels.len() > Self::MOST {
            return Err(FleetError::Labels { count: labels.len() });
        }
        match labels.iter().find(|(key, value)| !(is_key(key) && is_value(value))) {
            None => Ok(Self(labels)),
            Some((key, _)) => Err(FleetError::Label { key: key.clone() }),
        }
    }

    /// The labels by key.
    pub fn get(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// Whether a label is there, with this value where one is named.
    pub fn matches(&self, key: &str, value: Option<&str>) -> bool {
        self.0.get(key).is_some_and(|found| value.is_none_or(|value| value == found))
    }
}

fn is_key(key: &str) -> bool {
    let begins_well = key.starts_with(|letter: char| letter.is_ascii_alphanumeric());
    begins_well && key.len() <= SandboxName::LONGEST && key.bytes().all(|byte| is_plain(byte) || byte == b'/')
}

fn is_value(value: &str) -> bool {
    value.len() <= Labels::LONGEST_VALUE && !value.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_no_ids() {
        for good in ["a", "7", "web-1", "A_b.c", &"x".repeat(63)] {
            assert!(SandboxName::new(good).is_ok(), "{good:?}");
        }
        for bad in ["", "-a", ".a", "a b", "a/b", "sb-1", "ü", "a\n", "a\x1b[2J", &"x".repeat(64)] {
            assert!(SandboxName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn labels_have_bounds() {
        let one = |key: &str, value: &str| Labels::new([(key.to_owned(), value.to_owned())].into());
        assert!(one("team/project", "ünï ").is_ok());
        for (key, value) in [("", "x"), ("a b", "x"), ("a", "x\n"), ("a", &*"x".repeat(256)), (&*"k".repeat(64), "x")] {
            assert!(one(key, value).is_err(), "{key:?} {value:?}");
        }
        let many = (0..65).map(|number| (format!("k{number}"), String::new())).collect();
        assert!(matches!(Labels::new(many), Err(FleetError::Labels { count: 65 })));
    }

    #[test]
    fn filters_look_for_a_key_or_for_key_and_value() {
        let labels = Labels::new([("a".to_owned(), "1".to_owned())].into()).unwrap();
        assert!(labels.matches("a", None) && labels.matches("a", Some("1")));
        assert!(!labels.matches("a", Some("2")) && !labels.matches("b", None));
    }
}
