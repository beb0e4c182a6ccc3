//! Requests about archives: from the wire to `hearth-files` and back.

use std::rc::Rc;

use hearth_files::archive::{self, ImportOptions};
use hearth_protocol::archive::{ArchiveRequest, ArchiveResult, Export, Import};
use hearth_protocol::{Fault, Finished};

use crate::agent::Agent;
use crate::session::operation::Streams;

/// Does what is asked.
pub(crate) async fn run(agent: Rc<Agent>, request: ArchiveRequest, streams: Streams) -> Result<Finished, Fault> {
    let result = match request {
        ArchiveRequest::Import(import) => unpack(&agent, import, streams).await?,
        ArchiveRequest::Export(export) => pack(&agent, export, streams).await?,
    };
    Ok(Finished::Archive(result))
}

async fn unpack(
    agent: &Agent,
    Import { root, path, limit_bytes }: Import,
    streams: Streams,
) -> Result<ArchiveResult, Fault> {
    let root = agent.roots.open(root)?;
    let options = ImportOptions { limit_bytes, ..ImportOptions::default() };
    let work = streams.on_worker(move |upload, _| Ok(archive::import(&root, path.as_bytes(), upload, &options)?));
    work.await.map(ArchiveResult::Imported)
}

async fn pack(
    agent: &Agent,
    Export { root, path, compression }: Export,
    streams: Streams,
) -> Result<ArchiveResult, Fault> {
    let root = agent.roots.open(root)?;
    let work = streams.on_worker(move |_, data| {
        Ok(archive::export_pieces(&root, path.as_bytes(), |piece| data.hand_on(piece.into()), compression)?)
    });
    work.await.map(ArchiveResult::Exported)
}
