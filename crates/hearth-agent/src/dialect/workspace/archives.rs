//! Archives: `extract_archive` and `export_archive`.

use std::io::{BufWriter, Read, Seek, SeekFrom, Write};

use hearth_files::archive::{ArchiveError, ImportOptions, Rule, export, import};
use hearth_files::{FileError, Root};
use hearth_protocol::archive::Compression;

use super::connection::Connection;
use super::path::WorkspacePath;
use super::reply::Object;
use super::request::Request;
use super::texts::Refusal;
use super::{files, worker};
use crate::agent::Agent;
use crate::session::operation::Download;

/// What is read of a finished archive at a time, in bytes.
const PIECE: usize = 256 * 1024;

/// How many bytes follow the request.
pub(super) fn archive_size(request: &Request) -> Result<u64, Refusal> {
    let size = request.integer("archive_size", 0)?;
    u64::try_from(size).map_err(|_| "archive_size must not be negative".into())
}

/// `extract_archive`.
pub(super) async fn extract(agent: &Agent, request: &Request, connection: &mut Connection) -> Result<(), Refusal> {
    connection.expect(archive_size(request)?);
    let path = WorkspacePath::parse(&request.bytes("destination", "/workspace")?)?;
    let root = files::open(agent)?;
    let destination = path.clone();
    let imported = worker::receive(connection, move |upload| {
        import(&root, destination.relative(), upload, &ImportOptions::default())
            .map_err(|error| refusal(&error, &destination))
    })
    .await?;
    let reply = Object::default()
        .name_field("destination", &path.text)
        .field("entry_count", imported.members)
        .field("bytes_written", imported.bytes);
    connection.reply(reply).await;
    Ok(())
}

/// `export_archive`. Its reply begins with the archive's size, so it is made before it is sent, as a file without a name beside what it is of.
pub(super) async fn send(agent: &Agent, request: &Request, connection: &mut Connection) -> Result<(), Refusal> {
    let path = WorkspacePath::parse(&request.bytes("path", "/workspace")?)?;
    let root = files::open(agent)?;
    worker::send(connection, move |data| make_and_send(&root, &path, data)).await
}

fn make_and_send(root: &Root, path: &WorkspacePath, data: &mut Download) -> Result<(), Refusal> {
    let failed = |error: std::io::Error| files::refusal(&FileError::new("export", path.relative(), error), path);
    let entry = files::look_up(root, path)?;
    let mut spool = hearth_files::unnamed(root, "export").map_err(|error| files::refusal(&error, path))?;
    let exported = export(root, path.relative(), BufWriter::with_capacity(PIECE, &spool), Compression::None)
        .map_err(|error| refusal(&error, path))?;
    let size = spool.stream_position().map_err(failed)?;
    spool.seek(SeekFrom::Start(0)).map_err(failed)?;
    let head = Object::default()
        .name_field("workspace_path", &path.text)
        .field("artifact_type", files::artifact_type(exported.kind).or(files::artifact_type(entry.kind)))
        .field("archive_size", size)
        .field("entry_count", exported.members)
        .field("bytes_written", exported.bytes);
    // What fails from here on has nobody who could be told; the peer sees an archive that is cut off.
    data.write_all(&head.line()).map_err(failed)?;
    let mut left = spool.take(size);
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        match left.by_ref().take(PIECE as u64).read_to_end(&mut piece).map_err(failed)? {
            0 => return Ok(()),
            _ => data.hand_on(piece.into()).map_err(failed)?,
        }
    }
}

/// What this dialect says to an error about an archive.
pub(super) fn refusal(error: &ArchiveError, path: &WorkspacePath) -> Refusal {
    match error {
        ArchiveError::File(error) => files::refusal(error, path),
        ArchiveError::Member { member, rule } => {
            member_refusal(member, rule).unwrap_or_else(|| error.to_string().into())
        }
        ArchiveError::Transfer(_) => "unexpected EOF while reading archive payload".into(),
        _ => error.to_string().into(),
    }
}

fn member_refusal(member: &[u8], rule: &Rule) -> Option<Refusal> {
    let name = String::from_utf8_lossy(member.strip_suffix(b"/").unwrap_or(member));
    let text = match rule {
        Rule::Empty => "archive member path is empty".to_owned(),
        Rule::Absolute => format!("absolute archive member paths are not allowed: {name}"),
        Rule::Climbs | Rule::Destination | Rule::Nul => format!("unsafe archive member path: {name}"),
        Rule::ThroughSymlink { .. } => format!("archive member would traverse through a symlinked path: {name}"),
        Rule::NoDirectory { .. } => format!("directory conflicts with existing path: {name}"),
        Rule::OverDirectory => format!("file conflicts with existing path: {name}"),
        Rule::NoTarget => format!("symlink {name} has an empty target"),
        Rule::Unsupported { .. } => format!("unsupported archive member type: {name}"),
        _ => return None,
    };
    Some(text.into())
}
