//! `list_workspace` and `delete_workspace_path`.

use std::io::Write;

use hearth_files::{FileError, Listed, Lister, Listing, Removal, Root};
use hearth_protocol::files::{FileEntry, FileKind};

use super::connection::Connection;
use super::files::{artifact_type, look_up, open, refusal};
use super::path::WorkspacePath;
use super::reply::Object;
use super::request::Request;
use super::texts::Refusal;
use super::worker;
use crate::agent::Agent;
use crate::session::operation::Download;

/// `list_workspace`.
pub(super) async fn list(agent: &Agent, request: &Request, connection: &mut Connection) -> Result<(), Refusal> {
    let path = WorkspacePath::parse(&request.bytes("path", "/workspace")?)?;
    let depth = if request.flag("recursive", false) { usize::MAX } else { 1 };
    let root = open(agent)?;
    worker::send(connection, move |data| send_list(&root, &path, depth, data)).await
}

/// Writes a list as it comes, however long: a directory's entries, or what there is in its place.
fn send_list(root: &Root, path: &WorkspacePath, depth: usize, data: &mut Download) -> Result<(), Refusal> {
    let failed = |error: FileError| refusal(&error, path);
    let gone = |error: std::io::Error| failed(FileError::new("list", path.relative(), error));
    let found = look_up(root, path)?;
    let mut json = Object::default()
        .name_field("path", &path.text)
        .field("artifact_type", artifact_type(found.kind))
        .begun("entries");
    json.push(b'[');
    if found.kind == FileKind::Directory {
        let mut lister = Lister::open(root, path.relative(), Listing { depth, after: None }).map_err(failed)?;
        let mut is_first = true;
        loop {
            match lister.advance().map_err(failed)? {
                Listed::Entry(entry) => {
                    let Some(entry) = describe(&path.join(lister.position()), &entry) else { continue };
                    if !std::mem::take(&mut is_first) {
                        json.push(b',');
                    }
                    json.extend_from_slice(&entry);
                    data.write_all(&std::mem::take(&mut json)).map_err(gone)?;
                }
                Listed::Nothing => {}
                Listed::End => break,
            }
        }
    } else {
        json.extend(describe(&path.text, &found).unwrap_or_default());
    }
    json.extend_from_slice(b"]}\n");
    data.write_all(&json).map_err(gone)
}

/// An entry of a list; none, for what this dialect has no name for.
fn describe(path: &[u8], entry: &FileEntry) -> Option<Vec<u8>> {
    let kind = artifact_type(entry.kind)?;
    let size = if entry.kind == FileKind::Directory { 0 } else { entry.size };
    let object = Object::default().name_field("path", path).field("artifact_type", kind).field("size_bytes", size);
    let object = match &entry.target {
        Some(target) => object.name_field("link_target", target.as_bytes()),
        None => object.field("link_target", ()),
    };
    Some(object.finish())
}

/// `delete_workspace_path`.
pub(super) async fn delete(agent: &Agent, request: &Request, connection: &mut Connection) -> Result<(), Refusal> {
    let path = WorkspacePath::parse(&request.bytes("path", "/workspace")?)?;
    let root = open(agent)?;
    let path = worker::run(move || {
        if look_up(&root, &path)?.kind == FileKind::Directory {
            return Err("workspace file delete does not support directories".into());
        }
        // Not into a directory that has taken its place meanwhile.
        hearth_files::remove(&root, path.relative(), Removal::default(), &|| true)
            .map_err(|error| refusal(&error, &path))?;
        Ok(path)
    })
    .await?;
    connection.reply(Object::default().name_field("path", &path.text).field("deleted", true)).await;
    Ok(())
}
