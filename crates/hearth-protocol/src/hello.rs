//! The handshake: who speaks, in which version, and where a session's first byte is.

use std::fmt;
use std::str::FromStr;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::{ErrorCode, Fault, PROTOCOL_MAX, PROTOCOL_MIN, limits};

/// Sixteen random bytes that name a session. Written as 32 lowercase hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch([u8; 16]);

impl Epoch {
    /// Makes an epoch of random bytes, which the caller has drawn.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Epoch {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "an epoch is 32 lowercase hexadecimal digits";
        let valid = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let number = if valid { u128::from_str_radix(text, 16).map_err(|_| RULE)? } else { return Err(RULE) };
        Ok(Self(number.to_be_bytes()))
    }
}

impl Serialize for Epoch {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Epoch {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Names one of a session's two byte streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Requests, replies, credit. No payload, ever.
    Control,
    /// Stream data.
    Bulk,
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    hello: T,
}

/// The first line the host sends on a lane. The epoch comes first in the line, so that it can be found in a byte stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostHello {
    /// The session.
    pub epoch: Epoch,
    /// The lane this connection is.
    pub lane: Lane,
    /// The oldest protocol version the host speaks.
    pub min: u32,
    /// The newest protocol version the host speaks.
    pub max: u32,
}

/// The first line of the session that the agent sends on a lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentHello {
    /// The session, as the host named it.
    pub epoch: Epoch,
    /// The lane, as the host named it.
    pub lane: Lane,
    /// The version that both will speak, or why there is none.
    #[serde(flatten)]
    pub answer: HelloAnswer,
    /// The agent's version, for people.
    pub agent: String,
}

/// What the agent makes of a host's hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HelloAnswer {
    /// The version that both will speak.
    Protocol(u32),
    /// Why the session cannot be.
    Error(Fault),
}

/// The bytes every hello line begins with; no request, reply or chunk header does.
pub const HELLO_PREFIX: &[u8] = b"{\"hello\"";

impl HostHello {
    /// Makes the hello of a host that speaks all this crate does.
    pub fn new(epoch: Epoch, lane: Lane) -> Self {
        Self { epoch, lane, min: PROTOCOL_MIN, max: PROTOCOL_MAX }
    }

    /// The bytes to send: a newline, which ends whatever line an earlier host left unfinished, then the hello's line.
    pub fn to_bytes(&self) -> Vec<u8> {
        framed(b"\n", &Envelope { hello: self })
    }

    /// Reads a line; `None` when it is not a hello.
    pub fn parse(line: &[u8]) -> Option<Self> {
        parse(line)
    }
}

impl AgentHello {
    /// The bytes to send.
    pub fn to_bytes(&self) -> Vec<u8> {
        framed(b"", &Envelope { hello: self })
    }

    /// Reads a line; `None` when it is not a hello.
    pub fn parse(line: &[u8]) -> Option<Self> {
        parse(line)
    }
}

fn framed(before: &[u8], message: &impl Serialize) -> Vec<u8> {
    let mut out = before.to_vec();
    serde_json::to_writer(&mut out, message).expect("a hello is plain data and a Vec takes every write");
    out.push(b'\n');
    out
}

fn parse<T: for<'de> Deserialize<'de>>(line: &[u8]) -> Option<T> {
    if !line.starts_with(HELLO_PREFIX) {
        return None;
    }
    serde_json::from_slice::<Envelope<T>>(line).ok().map(|envelope| envelope.hello)
}

/// Chooses the newest version that both ends speak.
///
/// # Errors
/// [`ErrorCode::UnsupportedVersion`] when there is none.
pub fn negotiate(min: u32, max: u32) -> Result<u32, Fault> {
    let version = max.min(PROTOCOL_MAX);
    if min <= max && version >= min.max(PROTOCOL_MIN) {
        return Ok(version);
    }
    let message = format!("this agent speaks protocol {PROTOCOL_MIN} to {PROTOCOL_MAX}, the host {min} to {max}");
    Err(Fault::never_started(ErrorCode::UnsupportedVersion, message))
}

/// Discards a lane's bytes until the hello of one epoch, wherever it stands: behind stale lines or inside the payload
/// that an earlier session left unfinished. Needs constant memory. 128 random bits make a false match impossible in practice.
#[derive(Debug)]
pub struct HelloScanner {
    mark: Vec<u8>,
    /// With a mark at the buffer's front: how many of its bytes are known to hold no newline. Else 0.
    searched: usize,
}

impl HelloScanner {
    /// Makes a scanner for the hello of `epoch`.
    pub fn new(epoch: Epoch) -> Self {
        Self { mark: format!("{{\"hello\":{{\"epoch\":\"{epoch}\"").into_bytes(), searched: 0 }
    }

    /// Discards from the front of `buffer` what cannot belong to the hello, and takes the hello's line, without its newline, when it
    /// is whole. `None` when more bytes are needed; a marked line that grows past [`limits::HEADER`] is discarded too.
    pub fn scan(&mut self, buffer: &mut BytesMut) -> Option<Bytes> {
        loop {
            if !self.at_mark(buffer) {
                return None;
            }
            let fresh = buffer.iter().take(limits::HEADER).skip(self.searched);
            match fresh.copied().position(|byte| byte == b'\n') {
                Some(offset) => {
                    let line = buffer.split_to(self.searched + offset).freeze();
                    let _ = buffer.split_to(1);
                    self.searched = 0;
                    return Some(line);
                }
                None if buffer.len() < limits::HEADER => {
                    self.searched = buffer.len();
                    return None;
                }
                None => {
                    let _ = buffer.split_to(self.mark.len());
                    self.searched = 0;
                }
            }
        }
    }

    /// Discards what is before the mark; `false` when there is none, and all is discarded that cannot be a part of one.
    fn at_mark(&mut self, buffer: &mut BytesMut) -> bool {
        if self.searched > 0 && buffer.starts_with(&self.mark) {
            return true;
        }
        self.searched = 0;
        let found = find(buffer, &self.mark);
        let discard = found.unwrap_or_else(|| buffer.len().saturating_sub(self.mark.len() - 1));
        let _ = buffer.split_to(discard);
        found.is_some()
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(offset) = haystack.get(from..)?.iter().position(|&byte| byte == first) {
        let start = from + offset;
        if haystack[start..].starts_with(needle) {
            return Some(start);
        }
        from = start + 1;
    }
    None
}
