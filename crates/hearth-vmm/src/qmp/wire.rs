//! The lines of QMP: what may come from QEMU, and what is sent. Pure; the peer is taken to be hostile.
//!
//! The format is that of QEMU's `docs/interop/qmp-spec.rst`: one JSON object a line.

use serde_json::{Value, json};

/// The longest line accepted, in bytes. The longest real answer, a schema, has some 200 KiB.
pub const MAX_LINE: usize = 1 << 20;
/// How much of a peer's text is kept for a message to people, in characters.
const EXCERPT: usize = 200;

/// Something that happened in the machine, as QEMU tells it unasked.
#[derive(Clone, Debug, PartialEq)]
pub struct QmpEvent {
    /// Its name, such as `SHUTDOWN`.
    pub name: String,
    /// Its data; null when it has none.
    pub data: Value,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Incoming {
    Greeting,
    Return {
        id: u64,
        value: Value,
    },
    Failure {
        id: u64,
        class: String,
        description: String,
    },
    Event(QmpEvent),
    /// Well-formed, and nothing we asked for: newer versions may say more.
    Other,
}

/// A line that is no QMP message; holds its beginning.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) String);

pub(crate) fn parse(line: &[u8]) -> Result<Incoming, Malformed> {
    match serde_json::from_slice(line) {
        Ok(Value::Object(object)) => Ok(classify(object)),
        _ => Err(Malformed(excerpt(&String::from_utf8_lossy(line)))),
    }
}

fn classify(mut object: serde_json::Map<String, Value>) -> Incoming {
    if object.contains_key("QMP") {
        return Incoming::Greeting;
    }
    if let Some(Value::String(name)) = object.remove("event") {
        return Incoming::Event(QmpEvent { name, data: object.remove("data").unwrap_or(Value::Null) });
    }
    let Some(id) = object.get("id").and_then(Value::as_u64) else { return Incoming::Other };
    if let Some(value) = object.remove("return") {
        return Incoming::Return { id, value };
    }
    match object.remove("error") {
        Some(error) => Incoming::Failure { id, class: text(&error, "class"), description: text(&error, "desc") },
        None => Incoming::Other,
    }
}

fn text(error: &Value, field: &str) -> String {
    excerpt(error.get(field).and_then(Value::as_str).unwrap_or("unknown"))
}

fn excerpt(text: &str) -> String {
    text.chars().take(EXCERPT).flat_map(char::escape_debug).collect()
}

pub(crate) fn command_line(id: u64, command: &str, arguments: Option<&Value>) -> Vec<u8> {
    let mut message = json!({ "execute": command, "id": id });
    if let Some(arguments) = arguments {
        message["arguments"] = arguments.clone();
    }
    let mut line = message.to_string().into_bytes();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_kind_of_line_is_recognised() {
        let greeting = br#"{"QMP": {"version": {"qemu": {"micro": 22}}, "capabilities": ["oob"]}}"#;
        assert_eq!(parse(greeting), Ok(Incoming::Greeting));
        assert_eq!(parse(br#"{"return": {}, "id": 7}"#), Ok(Incoming::Return { id: 7, value: json!({}) }));
        let failure = br#"{"id": 8, "error": {"class": "GenericError", "desc": "no such device"}}"#;
        let expected = Incoming::Failure { id: 8, class: "GenericError".into(), description: "no such device".into() };
        assert_eq!(parse(failure), Ok(expected));
        let event = br#"{"timestamp": {"seconds": 1}, "event": "SHUTDOWN", "data": {"guest": true}}"#;
        let expected = QmpEvent { name: "SHUTDOWN".into(), data: json!({"guest": true}) };
        assert_eq!(parse(event), Ok(Incoming::Event(expected)));
    }

    #[test]
    fn odd_but_well_formed_lines_are_passed_over() {
        for line in [
            r#"{}"#,
            r#"{"return": {}}"#,
            r#"{"id": "a", "return": 1}"#,
            r#"{"id": -1, "return": 1}"#,
            r#"{"event": 3}"#,
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(Incoming::Other), "{line}");
        }
        let bare = parse(br#"{"id": 1, "error": []}"#).unwrap();
        assert!(matches!(bare, Incoming::Failure { class, .. } if class == "unknown"));
    }

    #[test]
    fn terminal_escapes_of_a_peer_do_not_reach_messages() {
        let Err(Malformed(text)) = parse(b"\x1b[2Jgotcha") else { panic!("taken") };
        assert!(!text.contains('\x1b') && text.contains("gotcha"), "{text}");
    }

    #[test]
    fn nesting_without_end_is_malformed() {
        let deep = "[".repeat(100_000);
        assert!(parse(format!("{{\"return\": {deep}").as_bytes()).is_err());
    }

    #[test]
    fn command_is_one_line() {
        let line = command_line(3, "getfd", Some(&json!({"fdname": "a\nb"})));
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(line.last(), Some(&b'\n'));
        let parsed: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(parsed, json!({"execute": "getfd", "id": 3, "arguments": {"fdname": "a\nb"}}));
    }

    proptest! {
        #[test]
        fn no_line_panics(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(parse(&line));
        }

        #[test]
        fn no_json_panics(text in r#"\{("(QMP|event|return|error|id|data)": ?(\{\}|\[\]|1|-1|"x"|null),? ?){0,4}\}"#) {
            drop(parse(text.as_bytes()));
        }
    }
}
