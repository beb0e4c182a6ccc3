//! Searches.

use std::io::Write;
use std::time::{Duration, Instant};

use hearth_protocol::files::{FileResult, Line, Search};
use hearth_protocol::{Fault, encode_record};

use crate::agent::Agent;
use crate::session::operation::Streams;

/// How long a line that was found waits for others to be sent with.
const PATIENCE: Duration = Duration::from_millis(50);

pub(super) async fn search(agent: &Agent, search: Search, streams: Streams) -> Result<FileResult, Fault> {
    let root = agent.roots.open(search.root)?;
    streams
        .on_worker(move |_, data| {
            let (wanted, mut lines, mut sent) = (data.wanted(), Vec::new(), Instant::now());
            let mut found = |line: Line| {
                lines.clear();
                encode_record(&line, &mut lines);
                data.write_all(&lines)?;
                if sent.elapsed() < PATIENCE {
                    return Ok(());
                }
                sent = Instant::now();
                data.flush()
            };
            let searched = hearth_files::search(&root, &search, &mut found, &wanted)?;
            Ok(FileResult::Searched {
                matches: searched.matches,
                files: searched.files,
                skipped: searched.skipped,
                bytes: searched.bytes,
                enough: searched.enough,
            })
        })
        .await
}
