//! What this dialect says when it refuses, and how it writes values into such texts: as Python would, in which its first agent was written.

use hearth_protocol::Fault;

/// A request that is answered with an error: `{"error": text}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) String);

impl<T: Into<String>> From<T> for Refusal {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl Refusal {
    /// Takes over what the core says, where the dialect has no text of its own.
    pub(super) fn of(fault: &Fault) -> Self {
        Self(fault.message.clone())
    }
}

/// A string as Python's `repr` shows it.
pub(super) fn repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut shown = String::with_capacity(text.len() + 2);
    shown.push(quote);
    for character in text.chars() {
        match character {
            '\\' => shown.push_str("\\\\"),
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            _ if character == quote => shown.extend(['\\', quote]),
            _ if !character.is_control() => shown.push(character),
            _ => shown.push_str(&format!("\\x{:02x}", u32::from(character))),
        }
    }
    shown.push(quote);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted_as_python_does() {
        for (text, shown) in [
            ("main", "'main'"),
            ("it's", r#""it's""#),
            (r#"'both"#, r#""'both""#),
            (r#"'"both"#, r#"'\'"both'"#),
            ("a\\b\n\t\u{1b}\u{85}é", r"'a\\b\n\t\x1b\x85é'"),
        ] {
            assert_eq!(repr(text), shown);
        }
    }
}
