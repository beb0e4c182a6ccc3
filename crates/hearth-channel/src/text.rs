//! Makes text from a guest fit for an error: bounded, on one line, unable to drive a terminal.

/// The most characters of a guest's text that an error repeats.
const LIMIT: usize = 1000;

/// Escapes what is not plainly visible and cuts what is too long.
pub(crate) fn tame(text: &str) -> String {
    let mut tame = String::with_capacity(text.len().min(LIMIT));
    let mut characters = text.chars();
    for character in characters.by_ref().take(LIMIT) {
        if character.is_control() || reorders(character) {
            tame.extend(character.escape_default());
        } else {
            tame.push(character);
        }
    }
    if characters.next().is_some() {
        tame.push('…');
    }
    tame
}

/// As [`tame`], for bytes that should be text.
pub(crate) fn tame_bytes(bytes: &[u8]) -> String {
    tame(&String::from_utf8_lossy(bytes))
}

/// Whether a character is invisible or changes the order in which others are shown.
fn reorders(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_reordering_characters_are_escaped() {
        assert_eq!(tame("a\x1b[2Jb\r\n\u{202e}ü"), "a\\u{1b}[2Jb\\r\\n\\u{202e}ü");
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(tame(&"x".repeat(1_000_000)).chars().count(), LIMIT + 1);
        assert_eq!(tame(&"x".repeat(LIMIT)).chars().count(), LIMIT);
    }
}
