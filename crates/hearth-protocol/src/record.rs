//! Records: one JSON value a line, as `data` and uploads carry lists, matches, events and edits of any length.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest line of a record in bytes, its newline included: a path of 64 KiB fits, however JSON escapes it.
pub const RECORD: usize = 1024 * 1024;

/// Adds a record to lines that will be sent.
pub fn encode_record(record: &impl Serialize, lines: &mut Vec<u8>) {
    serde_json::to_writer(&mut *lines, record)
        .expect("a message's types have a form in JSON, and memory takes everything");
    lines.push(b'\n');
}

/// Reads a line without its newline.
///
/// # Errors
/// What is wrong with it, in words.
pub fn decode_record<T: DeserializeOwned>(line: &[u8]) -> Result<T, String> {
    serde_json::from_slice(line).map_err(|error| error.to_string())
}
