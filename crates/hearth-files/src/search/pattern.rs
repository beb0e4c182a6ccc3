//! From what is asked to a regular expression.

use hearth_protocol::ErrorCode;
use hearth_protocol::files::{Case, Search};
use regex::bytes::{Regex, RegexBuilder};

use crate::error::Reason;

/// What a compiled expression, and what it remembers while it searches, may take of memory, in bytes.
const SIZE: usize = 4 * 1024 * 1024;

/// Compiles the expression of a search.
///
/// # Errors
/// [`ErrorCode::InvalidField`] with what is wrong and where.
pub(super) fn compile(search: &Search) -> Result<Regex, Reason> {
    if !search.literal
        && let Some(anchor) = text_anchor(&search.pattern)
    {
        let message = format!(
            "pattern: \\{anchor} is the text's beginning or end, and it is lines that are searched: use ^ and $"
        );
        return Err(Reason::Rule { code: ErrorCode::InvalidField, message });
    }
    let plain = if search.literal { regex::escape(&search.pattern) } else { search.pattern.clone() };
    let build = |pattern: &str| {
        RegexBuilder::new(pattern)
            .multi_line(true)
            .crlf(true)
            .case_insensitive(match search.case {
                Case::Sensitive => false,
                Case::Insensitive => true,
                Case::Smart => !has_upper_case(&search.pattern),
            })
            .size_limit(SIZE)
            .dfa_size_limit(SIZE)
            .build()
    };
    // First as it is: an error is to show what was asked, not what was made of it.
    let compiled = build(&plain);
    let compiled = match (compiled, search.word) {
        (Ok(_), true) => build(&format!(r"\b{{start-half}}(?:{plain})\b{{end-half}}")),
        (compiled, _) => compiled,
    };
    compiled.map_err(|error| Reason::Rule { code: ErrorCode::InvalidField, message: format!("pattern: {error}") })
}

/// An escape that stands for the beginning or the end of the whole text.
fn text_anchor(pattern: &str) -> Option<char> {
    let mut characters = pattern.chars();
    std::iter::from_fn(|| {
        characters.find(|&character| character == '\\')?;
        characters.next()
    })
    .find(|escaped| matches!(escaped, 'A' | 'z'))
}

/// Whether there is an upper case letter that stands for itself: `\S` has none.
fn has_upper_case(pattern: &str) -> bool {
    let mut escaped = false;
    pattern.chars().any(|character| {
        let counts = !escaped && character.is_uppercase();
        escaped = character == '\\' && !escaped;
        counts
    })
}
