//! Bytes of a guest in a result: text where they are text, with what is left out counted and placed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hearth_client::api::{Captured, Encoding};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::schema;

/// The most of a result that also stands in its text form, in bytes of JSON. Longer strings are shortened there.
const TEXT: usize = 32 * 1024;
/// What a shortened string keeps, in bytes.
const KEPT: usize = 2 * 1024;

/// What was written to a stream: all of it, or its beginning and its end.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Output {
    /// All that was written, or its beginning.
    pub(crate) text: String,
    /// How `text` and `tail` are to be read.
    #[schemars(schema_with = "schema::encoding")]
    pub(crate) encoding: Encoding,
    /// The bytes that were written in all, or from the position that was asked for.
    pub(crate) bytes: u64,
    /// What is not here, if not all is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) omitted: Option<Omitted>,
}

/// A gap, and what is behind it.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Omitted {
    /// The position of the first byte that is not here.
    pub(crate) from: u64,
    /// How many are not here.
    pub(crate) bytes: u64,
    /// What was written behind them, up to the end.
    pub(crate) tail: String,
    /// How to get the rest.
    pub(crate) rest: String,
}

impl Output {
    /// What came of a stream from the position `start` on. `rest` says how to get what is not here.
    pub(crate) fn new(captured: &Captured, start: u64, rest: &str) -> Self {
        let bytes = captured.bytes().unwrap_or_default();
        let total = bytes.len() as u64 + captured.dropped_bytes;
        let Some(cut) = captured.dropped_after else {
            let (encoding, text) = encode(&bytes);
            return Self { text, encoding, bytes: total, omitted: None };
        };
        let (head, tail) = bytes.split_at(usize::try_from(cut).map_or(bytes.len(), |cut| cut.min(bytes.len())));
        // A character that the gap has cut is left out whole.
        let (head, tail) = (whole_end(head), whole_begin(tail));
        let encoding = if [head, tail].iter().all(|part| std::str::from_utf8(part).is_ok()) {
            Encoding::Utf8
        } else {
            Encoding::Base64
        };
        let omitted = Omitted {
            from: start + head.len() as u64,
            bytes: total - (head.len() + tail.len()) as u64,
            tail: encode_as(encoding, tail),
            rest: rest.to_owned(),
        };
        Self { text: encode_as(encoding, head), encoding, bytes: total, omitted: Some(omitted) }
    }
}

/// Puts bytes into a string.
pub(crate) fn encode(bytes: &[u8]) -> (Encoding, String) {
    let captured = Captured::whole(bytes);
    (captured.encoding, captured.data)
}

fn encode_as(encoding: Encoding, bytes: &[u8]) -> String {
    match encoding {
        Encoding::Utf8 => String::from_utf8_lossy(bytes).into_owned(),
        Encoding::Base64 => STANDARD.encode(bytes),
    }
}

/// Takes the beginning of a character off the end of what is otherwise text.
pub(crate) fn whole_end(bytes: &[u8]) -> &[u8] {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => &bytes[..error.valid_up_to()],
        _ => bytes,
    }
}

/// Takes the end of a character off the beginning of what is otherwise text.
fn whole_begin(bytes: &[u8]) -> &[u8] {
    let rest = bytes.iter().take(3).take_while(|byte| (0x80..0xc0).contains(*byte)).count();
    if std::str::from_utf8(&bytes[rest..]).is_ok() { &bytes[rest..] } else { bytes }
}

/// The text form of a result, for clients that read no structured one: the same JSON, in which long strings of a long result are shortened.
pub(crate) fn in_short(result: &Value) -> String {
    let json = result.to_string();
    if json.len() <= TEXT {
        return json;
    }
    let mut result = result.clone();
    shorten(&mut result);
    result.to_string()
}

fn shorten(value: &mut Value) {
    match value {
        Value::String(text) if text.len() > KEPT => {
            let kept = text.floor_char_boundary(KEPT);
            let left = text.len() - kept;
            text.truncate(kept);
            text.push_str(&format!("[… {left} more bytes are in the structured result]"));
        }
        Value::Array(items) => items.iter_mut().for_each(shorten),
        Value::Object(fields) => fields.values_mut().for_each(shorten),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_whole_has_no_gap() {
        let output = Output::new(&Captured::whole("hé".as_bytes()), 0, "");
        assert_eq!((output.text.as_str(), output.bytes, output.omitted), ("hé", 3, None));
        assert_eq!(Output::new(&Captured::whole(b"\xff\x01"), 0, "").text, "/wE=");
    }

    #[test]
    fn a_gap_is_counted_and_cuts_no_character() {
        let (head, tail) = ("a中".as_bytes(), "中z".as_bytes());
        let output = Output::new(&Captured::parts(&head[..3], 10, &tail[1..]), 100, "read");
        let omitted = Omitted { from: 101, bytes: 14, tail: "z".into(), rest: "read".into() };
        assert_eq!((output.text.as_str(), output.encoding, output.bytes), ("a", Encoding::Utf8, 16));
        assert_eq!(output.omitted, Some(omitted));
    }

    #[test]
    fn a_text_form_is_the_result_unless_that_is_long() {
        let small = json!({ "text": "x".repeat(TEXT / 2), "code": 0 });
        assert_eq!(in_short(&small), small.to_string());
        let large = json!({ "stdout": { "text": "中".repeat(TEXT) }, "code": 0 });
        let short: Value = serde_json::from_str(&in_short(&large)).unwrap();
        assert_eq!(short["code"], 0);
        assert!(
            short["stdout"]["text"].as_str().is_some_and(|text| text.len() < KEPT + 100 && text.contains("more bytes"))
        );
    }
}
