//! Requests about files: from the wire to `hearth-files` and back.
//!
//! What is short is done on the agent's thread: a look at one file, a small list, a small read. What may be long runs on a worker thread, which
//! reads and writes the operation's streams and so is cut off with them.

mod content;
mod list;
mod search;
mod watch;

use std::rc::Rc;

use hearth_files::{Permissions, Removal};
use hearth_protocol::files::{Chmod, FileRequest, FileResult, FileRoot, Mkdir, Place, Remove, Symlink, Transfer};
use hearth_protocol::{Fault, Finished};

use crate::agent::Agent;
use crate::session::operation::Streams;

/// Does what is asked.
pub(crate) async fn run(agent: Rc<Agent>, request: FileRequest, streams: Streams) -> Result<Finished, Fault> {
    let agent = &*agent;
    let result = match request {
        FileRequest::Stat(Place { root, path }) => entry(agent, root, path.as_bytes()),
        FileRequest::List(list) => list::list(agent, list, streams).await,
        FileRequest::Read(read) => content::read(agent, read, streams).await,
        FileRequest::Write(write) => content::write(agent, write, streams).await,
        FileRequest::Edit(place) => content::edit(agent, place, streams).await,
        FileRequest::Mkdir(mkdir) => make_directory(agent, &mkdir),
        FileRequest::Move(transfer) => move_to(agent, transfer, streams).await,
        FileRequest::Copy(transfer) => copy(agent, transfer, streams).await,
        FileRequest::Remove(remove) => self::remove(agent, remove, streams).await,
        FileRequest::Symlink(link) => symlink(agent, &link),
        FileRequest::Chmod(chmod) => self::chmod(agent, chmod, streams).await,
        FileRequest::Search(search) => search::search(agent, search, streams).await,
        FileRequest::Watch(watch) => watch::watch(agent, watch, streams).await,
    };
    result.map(Finished::File)
}

/// What is at a path now.
fn entry(agent: &Agent, root: FileRoot, path: &[u8]) -> Result<FileResult, Fault> {
    Ok(FileResult::Entry(hearth_files::stat(&agent.roots.open(root)?, path)?))
}

fn make_directory(agent: &Agent, mkdir: &Mkdir) -> Result<FileResult, Fault> {
    let root = agent.roots.open(mkdir.root)?;
    hearth_files::mkdir(&root, mkdir.path.as_bytes(), mkdir.mode, mkdir.parents)?;
    entry(agent, mkdir.root, mkdir.path.as_bytes())
}

fn symlink(agent: &Agent, link: &Symlink) -> Result<FileResult, Fault> {
    let root = agent.roots.open(link.root)?;
    hearth_files::symlink(&root, link.path.as_bytes(), link.target.as_bytes(), link.replace)?;
    entry(agent, link.root, link.path.as_bytes())
}

async fn move_to(agent: &Agent, transfer: Transfer, streams: Streams) -> Result<FileResult, Fault> {
    let root = agent.roots.open(transfer.root)?;
    let (asked, to) = (transfer.root, transfer.to.clone());
    if !hearth_files::rename_to(&root, transfer.path.as_bytes(), to.as_bytes(), transfer.replace)? {
        let carry = move |wanted: &dyn Fn() -> bool| {
            hearth_files::carry(&root, transfer.path.as_bytes(), transfer.to.as_bytes(), transfer.replace, wanted)
        };
        streams.on_worker(move |_, data| Ok(carry(&data.wanted())?)).await?;
    }
    entry(agent, asked, to.as_bytes())
}

async fn copy(agent: &Agent, transfer: Transfer, streams: Streams) -> Result<FileResult, Fault> {
    let root = agent.roots.open(transfer.root)?;
    streams
        .on_worker(move |_, data| {
            let (path, to) = (transfer.path.as_bytes(), transfer.to.as_bytes());
            let copied = hearth_files::copy(&root, path, to, transfer.replace, &data.wanted())?;
            Ok(FileResult::Copied { entries: copied.entries, bytes: copied.bytes, skipped: copied.skipped })
        })
        .await
}

async fn remove(agent: &Agent, remove: Remove, streams: Streams) -> Result<FileResult, Fault> {
    let root = agent.roots.open(remove.root)?;
    let removal = Removal { recursive: remove.recursive, missing_ok: remove.missing_ok };
    let entries = if remove.recursive {
        let path = remove.path;
        streams
            .on_worker(move |_, data| Ok(hearth_files::remove(&root, path.as_bytes(), removal, &data.wanted())?))
            .await?
    } else {
        hearth_files::remove(&root, remove.path.as_bytes(), removal, &|| true)?
    };
    Ok(FileResult::Removed { entries })
}

async fn chmod(agent: &Agent, chmod: Chmod, streams: Streams) -> Result<FileResult, Fault> {
    let root = agent.roots.open(chmod.root)?;
    let Chmod { path, mode, recursive, directory_mode: directories, .. } = chmod;
    let permissions = Permissions { mode, directories, recursive };
    let entries = if recursive {
        streams
            .on_worker(move |_, data| Ok(hearth_files::chmod(&root, path.as_bytes(), permissions, &data.wanted())?))
            .await?
    } else {
        hearth_files::chmod(&root, path.as_bytes(), permissions, &|| true)?
    };
    Ok(FileResult::Changed { entries })
}
