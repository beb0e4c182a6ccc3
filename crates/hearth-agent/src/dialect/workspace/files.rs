//! Files of the workspace: `read_workspace_file` and `write_workspace_file`; and what every action makes of paths.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hearth_files::{FileError, Reason, Replacement, Root};
use hearth_protocol::ErrorCode;
use hearth_protocol::files::{Create, FileEntry, FileKind, FileRoot};
use rustix::fs::OFlags;

use super::connection::Connection;
use super::path::{OUTSIDE, WorkspacePath};
use super::reply::Object;
use super::request::Request;
use super::texts::Refusal;
use super::worker;
use crate::agent::Agent;

/// The largest file that is read or written in one reply, in bytes.
const LARGEST: usize = 1024 * 1024;

/// `read_workspace_file`.
pub(super) async fn read(agent: &Agent, request: &Request, connection: &mut Connection) -> Result<(), Refusal> {
    let path = request.bytes("path", "/workspace")?;
    let limit = match request.integer("max_bytes", LARGEST as i64)? {
        ..=0 => return Err("max_bytes must be positive".into()),
        limit if limit > LARGEST as i64 => return Err(format!("max_bytes must be at most {LARGEST} bytes").into()),
        limit => limit.unsigned_abs(),
    };
    let path = WorkspacePath::parse(&path)?;
    let root = open(agent)?;
    let (path, content) = worker::run(move || {
        let content = read_content(&root, &path, limit)?;
        Ok((path, content))
    })
    .await?;
    let reply = Object::default()
        .name_field("path", &path.text)
        .field("size_bytes", content.len())
        .field("content_b64", BASE64_STANDARD.encode(content));
    connection.reply(reply).await;
    Ok(())
}

fn read_content(root: &Root, path: &WorkspacePath, limit: u64) -> Result<Vec<u8>, Refusal> {
    let refuse = |error: FileError| refusal(&error, path);
    let too_long = || Err(format!("workspace file exceeds the maximum supported size of {limit} bytes").into());
    if look_up(root, path)?.kind != FileKind::File {
        return Err("workspace file read only supports regular files".into());
    }
    let (file, size) = hearth_files::open_file(root, path.relative()).map_err(refuse)?;
    if size > limit {
        return too_long();
    }
    let mut content = Vec::with_capacity(size as usize);
    let failed = |error: std::io::Error| refuse(FileError::new("read", path.relative(), error));
    // It may be growing.
    file.take(limit + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > limit { too_long() } else { Ok(content) }
}

/// `write_workspace_file`.
pub(super) async fn write(agent: &Agent, request: &Request, connection: &mut Connection) -> Result<(), Refusal> {
    let path = request.bytes("path", "/workspace")?;
    let text = request.text("text", "")?;
    let length = text.len();
    if length > LARGEST {
        return Err(format!("text must be at most {LARGEST} bytes when encoded as UTF-8").into());
    }
    let path = WorkspacePath::parse(&path)?;
    let root = open(agent)?;
    let path = worker::run(move || {
        write_content(&root, &path, text.as_bytes())?;
        Ok(path)
    })
    .await?;
    let reply =
        Object::default().name_field("path", &path.text).field("size_bytes", length).field("bytes_written", length);
    connection.reply(reply).await;
    Ok(())
}

fn write_content(root: &Root, path: &WorkspacePath, content: &[u8]) -> Result<(), Refusal> {
    let refuse = |error: FileError| refusal(&error, path);
    for parent in path.parents() {
        match hearth_files::stat(root, parent) {
            Ok(entry) if entry.kind == FileKind::Symlink => {
                let text = format!("workspace path would traverse through a symlinked parent: {}", path.shown());
                return Err(text.into());
            }
            Ok(_) => {}
            Err(error) if error.code() == ErrorCode::NotFound => break,
            Err(error) => return Err(refuse(error)),
        }
    }
    match look_up(root, path) {
        Ok(entry) if entry.kind != FileKind::File => {
            return Err("workspace file write only supports regular file targets".into());
        }
        Err(error) if error != missing(path) => return Err(error),
        _ => {}
    }
    let mut file = Replacement::begin(root, path.relative(), None, Create::Any).map_err(refuse)?;
    file.write_all(content).map_err(refuse)?;
    file.commit().map(drop).map_err(refuse)
}

/// The workspace.
pub(super) fn open(agent: &Agent) -> Result<Root, Refusal> {
    agent.roots.open(FileRoot::Workspace).map_err(|error| error.to_string().into())
}

/// What is at a path, if it is of a kind that this dialect knows.
pub(super) fn look_up(root: &Root, path: &WorkspacePath) -> Result<FileEntry, Refusal> {
    let entry = hearth_files::stat(root, path.relative()).map_err(|error| refusal(&error, path))?;
    match artifact_type(entry.kind) {
        Some(_) => Ok(entry),
        None => Err(format!("unsupported workspace path type: {}", path.shown()).into()),
    }
}

/// Where a directory of the workspace really is, for a process to start in.
pub(super) fn directory(root: &Root, path: &WorkspacePath) -> Result<Vec<u8>, Refusal> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    root.open_at("enter", path.relative(), flags).map_err(|error| refusal(&error, path))?;
    Ok(place(root, path))
}

/// Where a path of the workspace really is. For what is looked at by name alone.
pub(super) fn place(root: &Root, path: &WorkspacePath) -> Vec<u8> {
    root.path().join(OsStr::from_bytes(path.relative())).into_os_string().into_vec()
}

/// What this dialect calls a kind; nothing, for those that it does not know.
pub(super) fn artifact_type(kind: FileKind) -> Option<&'static str> {
    match kind {
        FileKind::File => Some("file"),
        FileKind::Directory => Some("directory"),
        FileKind::Symlink => Some("symlink"),
        FileKind::Fifo | FileKind::Socket | FileKind::Device => None,
    }
}

/// What this dialect says to an error about a path.
pub(super) fn refusal(error: &FileError, path: &WorkspacePath) -> Refusal {
    match &error.reason {
        Reason::Outside { .. } => OUTSIDE.into(),
        _ if error.code() == ErrorCode::NotFound => missing(path),
        _ => error.to_string().into(),
    }
}

fn missing(path: &WorkspacePath) -> Refusal {
    format!("workspace path does not exist: {}", path.shown()).into()
}
