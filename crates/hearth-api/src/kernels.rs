//! Kernels of a guest: interpreters that keep their state between two pieces of code.
//!
//! Requests are the wire's own ([`KernelStart`], [`KernelExec`]). Code runs in the kernel that the path names, which is started if it is not
//! there. Its answer is a line of JSON for each thing that it does, as it does it ([`KernelLine`]), of type [`LINES`]. What is refused before
//! the first of them is an [`ErrorBody`] with a status, as everywhere.
//!
//! Each stream is in its own order. A value may come before output that was written earlier; the end comes behind all.
//!
//! A client that goes detaches: code that has begun runs to its end, and the kernel's next waits for it.

use std::collections::BTreeMap;

use hearth_protocol::StreamName;
use hearth_protocol::kernel::{
    KernelEvent, KernelExec, KernelInfo, KernelRan, KernelRequest, KernelStart, KernelValue,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::output::{decode, encode};
use crate::{Encoding, ErrorBody, OwnCode};

/// The type of an answer whose every line is JSON.
pub const LINES: &str = "application/x-ndjson";

/// The kernels of a guest, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KernelList {
    /// Each of them.
    pub kernels: Vec<KernelInfo>,
}

/// A kernel that is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KernelReady {
    /// Which.
    #[serde(flatten)]
    pub kernel: KernelInfo,
    /// The imports that failed, each with the reason. It comes from the guest: escape it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failed_imports: BTreeMap<String, String>,
}

/// What code does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum KernelLine {
    /// It has written.
    Output {
        /// To `stdout` or `stderr`.
        stream: StreamName,
        /// How `data` is to be read.
        encoding: Encoding,
        /// What. Text is never cut within a character.
        data: String,
    },
    /// The value of its last expression.
    Result(KernelValue),
    /// Something shown on the way, such as a figure.
    Display(KernelValue),
    /// The error that ended it.
    Error {
        /// Its class.
        name: String,
        /// What it says.
        value: String,
        /// Where it came from, the user's lines only.
        traceback: String,
    },
    /// How it has ended. The last line, but for the next.
    Ran(KernelRan),
    /// It is lost: what it did is not known. The last line.
    Failed {
        /// Why.
        error: ErrorBody,
    },
}

impl KernelLine {
    /// Puts a piece of output into words.
    pub fn output(stream: StreamName, bytes: &[u8]) -> Self {
        let (encoding, data) = encode(bytes);
        Self::Output { stream, encoding, data }
    }

    /// The bytes of a piece of output; `None` when `data` is not what `encoding` says, and for any other line.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Output { encoding, data, .. } => decode(*encoding, data),
            _ => None,
        }
    }

    /// Writes it as a line.
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("plain data always becomes JSON");
        line.push(b'\n');
        line
    }
}

impl From<KernelEvent> for KernelLine {
    fn from(event: KernelEvent) -> Self {
        match event {
            KernelEvent::Result(value) => Self::Result(value),
            KernelEvent::Display(value) => Self::Display(value),
            KernelEvent::Error { name, value, traceback } => Self::Error { name, value, traceback },
        }
    }
}

/// What the guest is asked, for code to run in the kernel that a path names; and the code.
///
/// # Errors
/// A refusal that names the field.
pub fn exec_in(name: String, mut exec: KernelExec) -> Result<(KernelExec, String), ErrorBody> {
    let refused = |field: &str, message: &str| ErrorBody::new(OwnCode::InvalidValue, message).with_field(field);
    if exec.name.replace(name).is_some() {
        return Err(refused("name", "name is in the path already"));
    }
    let request = KernelRequest::Exec(exec);
    request.validate()?;
    match request {
        KernelRequest::Exec(mut exec) => match exec.code.take() {
            Some(code) => Ok((exec, code)),
            None => Err(ErrorBody::new(OwnCode::InvalidRequest, "missing field `code`").with_field("code")),
        },
        _ => unreachable!("it was made so above"),
    }
}

/// Checks a kernel to start.
///
/// # Errors
/// A refusal that names the field.
pub fn checked_start(start: KernelStart) -> Result<KernelStart, ErrorBody> {
    let request = KernelRequest::Start(start.clone());
    request.validate().map(|()| start).map_err(ErrorBody::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str) -> (Option<String>, u16) {
        let exec = serde_json::from_str(json).unwrap();
        let body = exec_in("one".into(), exec).expect_err("it is refused");
        (body.field, body.code.status())
    }

    #[test]
    fn refusals_name_the_field() {
        for (json, field, status) in [
            (r#"{"language":"python"}"#, "code", 400),
            (r#"{"language":"python","code":" "}"#, "code", 400),
            (r#"{"language":"python","code":"1","name":"two"}"#, "name", 400),
            (r#"{"language":"python","code":"1","timeout_ms":0}"#, "timeout_ms", 400),
        ] {
            assert_eq!(refused(json), (Some(field.to_owned()), status), "{json}");
        }
        let exec = serde_json::from_str(r#"{"language":"bash","code":"x"}"#).unwrap();
        let (exec, code) = exec_in("one".into(), exec).unwrap();
        assert_eq!((exec.name.as_deref(), exec.code, code.as_str()), (Some("one"), None, "x"));
    }

    #[test]
    fn lines_are_tagged_and_hold_any_bytes() {
        let line = KernelLine::output(StreamName::Stderr, b"\xff");
        assert_eq!(line.bytes().unwrap(), b"\xff");
        assert_eq!(
            line.to_line(),
            b"{\"type\":\"output\",\"stream\":\"stderr\",\"encoding\":\"base64\",\"data\":\"/w==\"}\n"
        );
        let value = KernelValue { data: [("text/plain".to_owned(), "1".into())].into(), omitted: BTreeMap::new() };
        let line = KernelLine::from(KernelEvent::Result(value));
        assert_eq!(line.to_line(), b"{\"type\":\"result\",\"data\":{\"text/plain\":\"1\"}}\n");
        assert_eq!(serde_json::from_slice::<KernelLine>(&line.to_line()).unwrap(), line);
    }
}
