//! What happens to sandboxes, as it comes: the reader's end of server-sent events.

use bytes::BytesMut;
use hearth_api::Event;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;

use crate::{ClientError, Connection};

/// The longest line that is taken, in bytes.
const LINE: usize = 1024 * 1024;

/// Events that are followed. Dropping it ends that.
#[derive(Debug)]
pub struct Followed {
    body: Incoming,
    lines: Lines,
    _connection: Connection,
}

/// What comes of following.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Something has happened.
    Event(Event),
    /// So many events are no longer kept.
    Missed(u64),
}

impl Followed {
    pub(crate) async fn open(mut connection: Connection, path: &str) -> Result<Self, ClientError> {
        let body = connection.send(Method::GET, path, None).await?.into_body();
        Ok(Self { body, lines: Lines::default(), _connection: connection })
    }

    /// Waits for the next; `None` when the daemon ends, or there are no more. Cancel-safe.
    ///
    /// # Errors
    /// [`ClientError::Lost`], [`ClientError::BadAnswer`].
    pub async fn next(&mut self) -> Result<Option<Item>, ClientError> {
        loop {
            if let Some(item) = self.lines.next()? {
                return Ok(Some(item));
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(bytes) = frame?.into_data() {
                        self.lines.buffer.extend_from_slice(&bytes);
                    }
                }
                None => return Ok(None),
            }
        }
    }
}

/// Lines of the stream, as far as they have come.
#[derive(Debug, Default)]
struct Lines {
    buffer: BytesMut,
    is_missed: bool,
}

impl Lines {
    /// The next item of which all has come. The daemon writes each item's data on one line.
    fn next(&mut self) -> Result<Option<Item>, ClientError> {
        while let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
            let line = self.buffer.split_to(end + 1);
            let line = String::from_utf8_lossy(&line[..end]);
            if let Some(kind) = line.strip_prefix("event:") {
                self.is_missed = kind.trim() == "missed";
            } else if let Some(data) = line.strip_prefix("data:") {
                return read(data.trim(), std::mem::take(&mut self.is_missed)).map(Some);
            }
        }
        if self.buffer.len() > LINE {
            return Err(ClientError::BadAnswer { what: "an event is too long".to_owned() });
        }
        Ok(None)
    }
}

fn read(data: &str, is_missed: bool) -> Result<Item, ClientError> {
    let bad = |what: String| ClientError::BadAnswer { what };
    match is_missed {
        true => data.parse().map(Item::Missed).map_err(|error| bad(format!("{error}"))),
        false => serde_json::from_str(data).map(Item::Event).map_err(|error| bad(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_read_however_they_are_cut() {
        let json = r#"{"position":7,"at_unix_ms":5,"sandbox":"sb-1","event":"changed"}"#;
        let text = format!("event: missed\ndata: 3\n\n: comment\n\nid: 7\ndata: {json}\n\n");
        let mut lines = Lines::default();
        let mut items = Vec::new();
        for byte in text.bytes() {
            lines.buffer.extend_from_slice(&[byte]);
            items.extend(lines.next().unwrap());
        }
        assert_eq!(items[0], Item::Missed(3));
        assert!(matches!(&items[1], Item::Event(event) if event.position == 7));
        assert_eq!(items.len(), 2);
    }
}
