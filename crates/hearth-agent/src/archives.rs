//! Requests about archives: from the wire to `hearth-files` and back.

use std::io::Read;
use std::rc::Rc;

use hearth_files::archive::{self, ImportOptions};
use hearth_protocol::archive::{ArchiveRequest, ArchiveResult, Export, Import};
use hearth_protocol::{ErrorCode, Fault, Finished, limits};

use crate::agent::Agent;
use crate::session::operation::{Streams, Upload, cancelled};

/// Does what is asked.
pub(crate) async fn run(agent: Rc<Agent>, request: ArchiveRequest, streams: Streams) -> Result<Finished, Fault> {
    let result = match request {
        ArchiveRequest::Import(import) => unpack(&agent, import, streams).await?,
        ArchiveRequest::Export(export) => pack(&agent, export, streams).await?,
        ArchiveRequest::ExportOnly(export) => pack_only(&agent, export, streams).await?,
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

async fn pack_only(
    agent: &Agent,
    Export { root, path, compression }: Export,
    streams: Streams,
) -> Result<ArchiveResult, Fault> {
    let root = agent.roots.open(root)?;
    let work = streams.on_worker(move |upload, data| {
        let names = names(upload)?;
        let only = names.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec);
        let output = |piece: Vec<u8>| data.hand_on(piece.into());
        Ok(archive::export_only(&root, path.as_bytes(), only, output, compression)?)
    });
    work.await.map(ArchiveResult::Exported)
}

/// Reads what is named, all of it: names that were cut off would choose another part.
fn names(upload: &mut Upload) -> Result<Vec<u8>, Fault> {
    let mut names = Vec::new();
    upload.take(limits::SELECTION as u64 + 1).read_to_end(&mut names).map_err(|error| cancelled(&error))?;
    if names.len() > limits::SELECTION {
        let message = format!("the names have more than {} bytes together", limits::SELECTION);
        return Err(Fault::never_started(ErrorCode::TooLarge, message));
    }
    Ok(names)
}
