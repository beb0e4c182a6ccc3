//! Conversations written down as they are to be, one file a subject, spoken over every way there is.
//!
//! A line that begins with `>` is sent and one that begins with `<` must come, field by field. In what must come, `"<any>"` is anything,
//! `"<~text>"` is what begins with the text, and `"<frame text>"` is a zstd frame of the text; in what is sent, it makes one. `>>` sends
//! the rest of the line as it is.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::client::{Client, Served, WAYS, frame};

/// Replaces what stands for a frame.
fn with_frames(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(content) = text.strip_prefix("<frame ").and_then(|rest| rest.strip_suffix('>')) {
                *text = STANDARD.encode(frame(content.as_bytes()));
            }
        }
        Value::Object(fields) => fields.values_mut().for_each(with_frames),
        _ => {}
    }
}

fn matches(pattern: &Value, found: &Value) -> bool {
    let bracketed = |text: &str| Some(text.strip_prefix('<')?.strip_suffix('>')?.to_owned());
    match (pattern, found) {
        (Value::Object(pattern), Value::Object(found)) => {
            pattern.len() == found.len()
                && pattern.iter().all(|(key, value)| found.get(key).is_some_and(|found| matches(value, found)))
        }
        (Value::String(text), found) => match bracketed(text).as_deref() {
            Some("any") => true,
            Some(mark) if mark.starts_with('~') => found.as_str().is_some_and(|found| found.starts_with(&mark[1..])),
            Some(mark) if mark.starts_with("frame ") => {
                let packed = STANDARD.decode(found.as_str().unwrap_or_default()).unwrap_or_default();
                zstd::decode_all(packed.as_slice()).is_ok_and(|content| content == mark.as_bytes()["frame ".len()..])
            }
            _ => pattern == found,
        },
        _ => pattern == found,
    }
}

fn play(client: &mut Client, transcript: &str, name: &str) {
    for (number, line) in transcript.lines().enumerate() {
        let at = format!("{name}, line {}", number + 1);
        match line.split_once(' ').unwrap_or((line, "")) {
            (">>", bytes) => client.send_raw(format!("{bytes}\n").as_bytes()),
            (">", request) => {
                let mut request = serde_json::from_str(request).unwrap_or_else(|error| panic!("{at}: {error}"));
                with_frames(&mut request);
                client.send(&request);
            }
            ("<", pattern) => {
                let pattern = serde_json::from_str(pattern).unwrap_or_else(|error| panic!("{at}: {error}"));
                let found = client.receive_whole();
                assert!(matches(&pattern, &found), "{at}: expected {pattern}, got {found}");
            }
            ("" | "#", _) => {}
            _ => panic!("{at}: what is {line:?}?"),
        }
    }
    client.assert_alive();
}

fn check(name: &str, transcript: &str) {
    for way in WAYS {
        let served = Served::start();
        play(&mut served.connect(way), transcript, &format!("{name} over {way:?}"));
    }
}

macro_rules! transcripts {
    ($($name:ident),*) => {
        $(
            #[test]
            fn $name() {
                check(stringify!($name), include_str!(concat!("transcripts/", stringify!($name), ".txt")));
            }
        )*
    };
}

transcripts!(ping, requests, files, paths, code, environment, packages);
