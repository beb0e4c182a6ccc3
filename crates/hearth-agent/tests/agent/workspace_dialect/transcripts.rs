//! Runs the transcripts. Their lines:
//!
//! - `# ...`: for people.
//! - `$ ...`: a command for the host's shell, in the workspace, before what follows.
//! - `> {...}`: a request.
//! - `+ ...`: a file in the workspace that is sent behind the request; `SIZE` in the request is its length.
//! - `- ...`: a file in the workspace that is made of what follows the reply: `archive_size` bytes.
//! - `~ {"shell_id":...,"shows":TEXT}` or `~ {"shell_id":...,"state":"stopped"}`: reads a shell until that is so.
//! - `< {...}`: the whole reply. `"#number"`, `"#time"` (a recent one in seconds), `"#any"` and `"#has TEXT"` stand for what differs.

use std::process::Command;
use std::time::SystemTime;

use serde_json::Value;

use super::Rpc;
use super::client::Connection;

macro_rules! transcripts {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            play(include_str!(concat!(stringify!($name), ".transcript")));
        }
    )*};
}

transcripts! { requests execs file_contents listings archives shells services secrets }

fn play(transcript: &str) {
    let mut player = Player { rpc: Rpc::start(), request: String::new(), upload: Vec::new(), answered: None };
    for (number, line) in transcript.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
        let (kind, text) = line.split_once(' ').unwrap_or((line, ""));
        if let Err(error) = player.line(kind, text) {
            panic!("line {}: {line}\n> {}\n{error}", number + 1, player.request);
        }
    }
}

struct Player {
    rpc: Rpc,
    request: String,
    upload: Vec<u8>,
    answered: Option<(Connection, Value)>,
}

impl Player {
    fn line(&mut self, kind: &str, text: &str) -> Result<(), String> {
        match kind {
            "#" => {}
            "$" => shell(&self.rpc, text),
            ">" => (self.request, self.upload) = (text.to_owned(), Vec::new()),
            "+" => {
                self.upload = std::fs::read(self.rpc.place(text)).unwrap();
                self.request = self.request.replace("SIZE", &self.upload.len().to_string());
            }
            "<" => {
                let expected = serde_json::from_str(text).map_err(|error| error.to_string())?;
                let mut connection = self.rpc.connect();
                connection.send(&[self.request.as_bytes(), b"\n", &self.upload].concat());
                let reply = connection.reply();
                if !matches(&expected, &reply) {
                    return Err(format!("< {reply}"));
                }
                self.answered = Some((connection, reply));
            }
            "-" => {
                let (mut connection, reply) = self.answered.take().ok_or("no reply")?;
                let rest = connection.rest();
                assert_eq!(reply["archive_size"], rest.len());
                std::fs::write(self.rpc.place(text), rest).unwrap();
            }
            "~" => self.rpc.wait_for_shell(&serde_json::from_str(text).map_err(|error| error.to_string())?),
            _ => return Err("what is this?".to_owned()),
        }
        Ok(())
    }
}

fn shell(rpc: &Rpc, text: &str) {
    let status = Command::new("/bin/sh").args(["-ec", text]).current_dir(rpc.agent.workspace()).status().unwrap();
    assert!(status.success(), "{text}");
}

/// Whether a reply is what a transcript expects: the same fields, the same values where they are said.
fn matches(expected: &Value, actual: &Value) -> bool {
    match (expected, actual) {
        (Value::String(pattern), actual) if pattern.starts_with('#') => is_like(pattern, actual),
        (Value::Object(expected), Value::Object(actual)) => {
            expected.len() == actual.len()
                && expected.iter().all(|(name, value)| actual.get(name).is_some_and(|actual| matches(value, actual)))
        }
        (Value::Array(expected), Value::Array(actual)) => {
            expected.len() == actual.len() && expected.iter().zip(actual).all(|(value, actual)| matches(value, actual))
        }
        (expected, actual) => expected == actual,
    }
}

fn is_like(pattern: &str, actual: &Value) -> bool {
    match pattern.split_once(' ').unwrap_or((pattern, "")) {
        ("#any", _) => true,
        ("#number", _) => actual.is_u64(),
        ("#time", _) => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
            actual.as_f64().is_some_and(|time| (now - 600.0..=now).contains(&time))
        }
        ("#has", text) => actual.as_str().is_some_and(|actual| actual.contains(text)),
        _ => panic!("{pattern}"),
    }
}
