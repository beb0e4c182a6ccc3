//! Output that is kept for a report instead of passed on.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hearth_engine::protocol::{ExitStatus, Signal, StreamName};
use serde_json::{Value, json};

/// The bytes of each stream that a report holds; the rest is counted.
const KEPT: usize = 16 * 1024 * 1024;

/// What a program wrote, up to a bound.
#[derive(Debug, Default)]
pub(crate) struct Capture {
    stdout: Kept,
    stderr: Kept,
}

#[derive(Debug, Default)]
struct Kept {
    bytes: Vec<u8>,
    dropped: u64,
}

impl Kept {
    fn take(&mut self, bytes: &[u8]) {
        let room = bytes.len().min(KEPT - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..room]);
        self.dropped += (bytes.len() - room) as u64;
    }

    /// Text where it is text, else base64: nothing is replaced.
    fn report(&self) -> Value {
        let (encoding, data) = match std::str::from_utf8(&self.bytes) {
            Ok(text) => ("utf-8", text.to_owned()),
            Err(_) => ("base64", STANDARD.encode(&self.bytes)),
        };
        json!({ "encoding": encoding, "data": data, "dropped_bytes": self.dropped })
    }
}

impl Capture {
    /// Takes a piece of output.
    pub(crate) fn take(&mut self, stream: StreamName, bytes: &[u8]) {
        match stream {
            StreamName::Stderr => self.stderr.take(bytes),
            _ => self.stdout.take(bytes),
        }
    }

    /// Counts bytes that did not come.
    pub(crate) fn drop_bytes(&mut self, stream: StreamName, bytes: u64) {
        match stream {
            StreamName::Stderr => self.stderr.dropped += bytes,
            _ => self.stdout.dropped += bytes,
        }
    }

    /// What was written to standard output, and to standard error.
    pub(crate) fn streams(&self) -> (Value, Value) {
        (self.stdout.report(), self.stderr.report())
    }

    /// The whole report.
    pub(crate) fn report(&self, exit_code: i32, status: &ExitStatus) -> Value {
        let (stdout, stderr) = self.streams();
        json!({
            "exit_code": exit_code,
            "code": status.code,
            "signal": status.signal.map(|number| Signal::from_number(number).map_or_else(|| number.to_string(), |s| s.name().to_owned())),
            "timed_out": status.timed_out,
            "out_of_memory": status.out_of_memory,
            "duration_us": status.duration_us,
            "cpu_us": status.cpu_us,
            "peak_memory_bytes": status.peak_memory_bytes,
            "stdout": stdout,
            "stderr": stderr,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_survive_a_report() {
        let mut kept = Kept::default();
        kept.take(b"\xff\x01");
        assert_eq!(kept.report(), json!({ "encoding": "base64", "data": "/wE=", "dropped_bytes": 0 }));
    }

    #[test]
    fn what_is_over_the_bound_is_counted() {
        let mut kept = Kept::default();
        kept.take(&vec![b'a'; KEPT - 1]);
        kept.take(b"bcd");
        assert_eq!((kept.bytes.len(), kept.dropped), (KEPT, 2));
    }
}
