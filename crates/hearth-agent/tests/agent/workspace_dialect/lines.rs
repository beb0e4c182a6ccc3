//! Request lines of any kind, by chance.

use proptest::prelude::*;

use super::invariants::workspace_line;

/// What lines are made of, so that many of them are requests.
fn token() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\u",
        "\\udcff",
        "\\ud83d",
        "\\ude00",
        "\"path\":",
        "\"env\":",
        "\"a\":",
        "\"command\":",
        "\"..\"",
        "\"/workspace/",
        "/",
        "..",
        ".",
        "\"\\u0000\"",
        "null",
        "true",
        "-1",
        "1e999",
        "0.5",
        "99999999999999999999",
        "中",
        " ",
        "\u{10ff80}",
        "\"A\":\"b\"",
    ])
}

proptest! {
    #[test]
    fn any_line_is_a_request_or_is_refused(line in prop::collection::vec(any::<u8>(), 0..200)) {
        workspace_line(&line);
    }

    #[test]
    fn so_is_any_line_of_fitting_pieces(tokens in prop::collection::vec(token(), 0..40)) {
        workspace_line(tokens.concat().as_bytes());
    }

    #[test]
    fn so_is_any_object_of_known_fields(
        name in prop::sample::select(vec!["path", "env", "command", "cursor", "a"]),
        tokens in prop::collection::vec(token(), 0..8),
    ) {
        workspace_line(format!("{{\"{name}\":\"{}\"}}", tokens.concat().replace('"', "")).as_bytes());
        workspace_line(format!("{{\"{name}\":{}}}", tokens.concat()).as_bytes());
    }
}
