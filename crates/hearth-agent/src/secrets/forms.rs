//! The ways in which a value is written out: those that common programs, and this agent's own messages, produce without meaning to hide
//! anything. What is encoded on purpose (base64, reversed, a letter at a time) is out of reach.

use std::fmt::Write;

/// Lists the forms in which to look for `value`: at least itself, each once, none longer than `longest` but itself. Empty for an empty value.
pub(crate) fn forms(value: &[u8], longest: usize) -> Vec<Vec<u8>> {
    let mut forms = vec![value.to_vec()];
    // A key file ends with a newline, which `$(cat ...)` drops, as other programs drop blanks on either side.
    let core = value.trim_ascii();
    let core = if core.is_empty() { value } else { core };
    forms.push(core.to_vec());
    // A terminal puts a carriage return before each newline.
    forms.push(core.split(|&byte| byte == b'\n').collect::<Vec<_>>().join(b"\r\n".as_slice()));
    let text = String::from_utf8_lossy(core);
    forms.push(text.as_bytes().to_vec());
    forms.push(text.escape_debug().to_string().into_bytes());
    forms.push(json(&text, |_| false).into_bytes());
    forms.push(json(&text, |character| !character.is_ascii()).into_bytes());
    let mut distinct: Vec<Vec<u8>> = Vec::new();
    for form in forms {
        let fits = form.len() <= longest.max(value.len()) && !form.is_empty();
        if fits && !distinct.contains(&form) {
            distinct.push(form);
        }
    }
    distinct
}

/// The text inside a JSON string; `unicode` says which characters beside the control characters become `\u` escapes.
fn json(text: &str, unicode: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' => escaped.push_str("\\\""),
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            '\u{8}' => escaped.push_str("\\b"),
            '\u{c}' => escaped.push_str("\\f"),
            control if control < ' ' || unicode(control) => {
                for unit in control.encode_utf16(&mut [0; 2]) {
                    write!(escaped, "\\u{unit:04x}").expect("a string takes everything");
                }
            }
            plain => escaped.push(plain),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: &[u8], expected: &[&[u8]]) {
        let forms = forms(value, 1000);
        let shown = |list: &[Vec<u8>]| list.iter().map(|form| form.escape_ascii().to_string()).collect::<Vec<_>>();
        assert_eq!(shown(&forms), shown(&expected.iter().map(|form| form.to_vec()).collect::<Vec<_>>()));
    }

    #[test]
    fn a_plain_value_has_one_form() {
        check(b"ghp_0123456789", &[b"ghp_0123456789"]);
    }

    #[test]
    fn a_key_of_several_lines_is_found_as_a_file_a_terminal_and_json_show_it() {
        check(b"-a\nb-\n", &[b"-a\nb-\n", b"-a\nb-", b"-a\r\nb-", b"-a\\nb-"]);
    }

    #[test]
    fn quotes_and_other_scripts_are_found_escaped() {
        check(b"p\"\xc3\xa9", &[b"p\"\xc3\xa9", b"p\\\"\xc3\xa9", b"p\\\"\\u00e9"]);
        check("😀".as_bytes(), &["😀".as_bytes(), b"\\ud83d\\ude00"]);
    }

    #[test]
    fn bytes_that_are_no_text_are_found_as_messages_show_them() {
        check(b"\xffx", &[b"\xffx", "\u{fffd}x".as_bytes(), b"\\ufffdx"]);
    }

    #[test]
    fn blanks_alone_are_a_value_and_nothing_is_none() {
        check(b" ", &[b" "]);
        check(b"", &[]);
        assert_eq!(forms(b"\"\"\"", 3), [b"\"\"\""], "an escaped form that would be too long is left out");
    }
}
