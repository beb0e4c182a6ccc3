//! Requests about the workspace's history: from the wire to `hearth-files` and back.

use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hearth_files::Root;
use hearth_files::history::{self, History, HistoryError, patch};
use hearth_protocol::files::FileRoot;
use hearth_protocol::history::{HistoryRequest, HistoryResult, Patch};
use hearth_protocol::{ErrorCode, Fault, Finished, encode_record};
use serde::Serialize;
use tokio::sync::RwLock;

use crate::agent::Agent;
use crate::runtime::Runtime;
use crate::session::operation::{Download, Streams, Upload};

/// Where the history of an agent's workspace is, and whose turn it is: what only looks happens at once, what changes the history or the
/// workspace alone. Turns are waited for on the agent's own thread, so that whoever leaves meanwhile has asked for nothing.
pub(crate) struct Histories {
    runtime: Rc<Runtime>,
    turns: Arc<RwLock<()>>,
}

impl Histories {
    /// The history that is kept in a directory.
    pub(crate) fn new(runtime: Rc<Runtime>) -> Self {
        Self { runtime, turns: Arc::default() }
    }

    /// Makes the directory, where it is missing.
    fn place(&self) -> Result<PathBuf, Fault> {
        let place = self.runtime.path().join("history");
        let make = || DirBuilder::new().recursive(true).mode(0o700).create(&place);
        self.runtime.make().and_then(|()| make()).map_err(|error| {
            let message = format!("cannot make the place for history, {}: {error}", place.display());
            Fault::never_started(ErrorCode::Io, message)
        })?;
        Ok(place)
    }
}

/// Does what is asked.
pub(crate) async fn run(agent: Rc<Agent>, request: HistoryRequest, streams: Streams) -> Result<Finished, Fault> {
    let (place, root) = (agent.histories.place()?, agent.roots.open(FileRoot::Workspace)?);
    let turns = Arc::clone(&agent.histories.turns);
    let only_looks = matches!(request, HistoryRequest::List(_) | HistoryRequest::Diff(_) | HistoryRequest::Changes(_));
    let (looking, changing) = match only_looks {
        true => (Some(turns.read_owned().await), None),
        false => (None, Some(turns.write_owned().await)),
    };
    let work = streams.on_worker(move |upload, data| {
        let _turn = (looking, changing);
        act(&History::open(&place)?, &root, request, upload, data)
    });
    work.await.map(Finished::History)
}

fn act(
    history: &History,
    root: &Root,
    request: HistoryRequest,
    upload: &mut Upload,
    data: &mut Download,
) -> Result<HistoryResult, Fault> {
    let wanted = data.wanted();
    Ok(match request {
        HistoryRequest::Checkpoint(named) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
            HistoryResult::Taken(history::take(history, root, named.name.as_str(), now, &wanted)?)
        }
        HistoryRequest::List(_) => {
            let sent = history.list()?.iter().try_for_each(|checkpoint| send(checkpoint, data));
            sent.map_err(HistoryError::Transfer)?;
            HistoryResult::Listed {}
        }
        HistoryRequest::Remove(named) => {
            history.remove(named.name.as_str())?;
            HistoryResult::Removed {}
        }
        HistoryRequest::Diff(named) => {
            HistoryResult::Diffed(history::diff(history, root, named.name.as_str(), &wanted, data)?)
        }
        HistoryRequest::Changes(named) => {
            let each = |change: &_| send(change, data);
            HistoryResult::Diffed(history::changes(history, root, named.name.as_str(), &wanted, each)?)
        }
        HistoryRequest::Patch(Patch { path, strip, reverse, check }) => {
            let options = patch::Options { strip, reverse, check };
            HistoryResult::Patched(patch::patch(root, path.as_bytes(), upload, options, &wanted)?)
        }
        HistoryRequest::Reset(named) => {
            let (done, leftovers) = history::reset(history, root, named.name.as_str(), &wanted)?;
            // Nobody has to wait for these.
            tokio::task::spawn_blocking(move || drop(leftovers));
            HistoryResult::Reset(done)
        }
    })
}

fn send(record: &impl Serialize, data: &mut Download) -> io::Result<()> {
    let mut line = Vec::new();
    encode_record(record, &mut line);
    data.write_all(&line)
}
