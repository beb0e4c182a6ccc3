//! Lists.

use hearth_files::{FileError, Listed, Lister, Listing};
use hearth_protocol::files::{FileResult, FileRow, List};
use hearth_protocol::{Fault, StreamName, encode_record};

use crate::agent::Agent;
use crate::session::operation::{Streams, cancelled};

/// Steps that are made on the agent's own thread: most directories are done then, and it takes about a millisecond.
const STEPS: usize = 512;
/// What is gathered before it is sent, in bytes.
const PIECE: usize = 64 * 1024;
/// Room for what most directories take, in bytes.
const FEW: usize = 2 * 1024;
/// What is gathered on the agent's own thread: the client reads it while the next entries are looked up.
const EARLY: usize = 16 * 1024;

/// A list under way.
struct Page {
    lister: Lister,
    left: u64,
    entries: u64,
    lines: Vec<u8>,
    ended: bool,
}

pub(super) async fn list(agent: &Agent, list: List, streams: Streams) -> Result<FileResult, Fault> {
    let root = agent.roots.open(list.root)?;
    let depth = match list.depth {
        _ if !list.recursive => 1,
        Some(depth) => depth as usize,
        None => usize::MAX,
    };
    let after = list.after.as_ref().map(|after| after.as_bytes());
    let lister = Lister::open(&root, list.path.as_bytes(), Listing { depth, after })?;
    let left = list.limit.unwrap_or(u64::MAX);
    let mut page = Page { lister, left, entries: 0, lines: Vec::with_capacity(FEW), ended: false };
    for _ in 0..STEPS {
        if page.is_full() {
            break;
        }
        page.advance()?;
        if page.lines.len() >= EARLY {
            streams.output.send(StreamName::Data, std::mem::take(&mut page.lines).into()).await;
            // The lane's writer has its turn on this thread.
            tokio::task::yield_now().await;
        }
    }
    let lines = std::mem::take(&mut page.lines).into();
    if page.is_full() {
        streams.output.send_at_end(lines).await;
        return Ok(page.result());
    }
    streams.output.send(StreamName::Data, lines).await;
    streams
        .on_worker(move |_, data| {
            while !page.is_full() {
                page.advance()?;
                if page.lines.len() >= PIECE || page.is_full() {
                    let lines = std::mem::replace(&mut page.lines, Vec::with_capacity(PIECE + PIECE / 4));
                    data.hand_on(lines.into()).map_err(|error| cancelled(&error))?;
                }
            }
            Ok(page.result())
        })
        .await
}

impl Page {
    fn is_full(&self) -> bool {
        self.ended || self.left == 0
    }

    fn advance(&mut self) -> Result<(), FileError> {
        match self.lister.advance()? {
            Listed::Entry(entry) => {
                encode_record(&FileRow(&entry), &mut self.lines);
                self.entries += 1;
                self.left -= 1;
            }
            Listed::Nothing => {}
            Listed::End => self.ended = true,
        }
        Ok(())
    }

    fn result(&self) -> FileResult {
        let next = (!self.ended).then(|| self.lister.position().into());
        FileResult::Listed { entries: self.entries, next }
    }
}
