//! `hearth cp`: files and trees, as `docker cp` has it.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use hearth_client::api::Code;
use hearth_client::api::files::{ExportTree, ImportTree, ReadFile};
use hearth_client::api::protocol::archive::Compression;
use hearth_client::api::protocol::files::{FileEntry, FileKind};
use hearth_client::api::protocol::{ErrorCode, RawString};
use hearth_client::{Client, ClientError, Download};
use hearth_files::archive::{ImportOptions, export_named, export_pieces, import};
use hearth_files::{FileError, Replacement, symlink};
use serde_json::{Value, json};

use super::local::{Found, Local, failed, look, name, refuse_link};
use super::stream::{Came, Incoming, Progress, outgoing, send, take};
use super::{Side, There};
use crate::arguments::CopyOptions;
use crate::commands::guest::to_stdout;
use crate::commands::sandbox::existing;
use crate::failure::Failure;
use crate::{output, pipes};

/// The permissions that what comes out of a guest may have.
const PERMISSIONS: u32 = 0o777;

/// Copies one way or the other.
pub(crate) async fn copy(options: CopyOptions) -> Result<i32, Failure> {
    let report = match (Side::parse(options.source)?, Side::parse(options.destination)?) {
        (Side::There(source), Side::Stream) => {
            let client = existing(&source.sandbox).await?;
            let tree = ExportTree::at(source.root, &RawString::from(source.path));
            return to_stdout(client.export(&source.sandbox, &tree).await?).await;
        }
        (Side::There(source), Side::Here(destination)) => {
            let client = existing(&source.sandbox).await?;
            match fetch(&client, &source, &destination).await? {
                Came::All(report) => report,
                Came::Cut(code) => return Ok(code),
            }
        }
        (Side::Stream, Side::There(destination)) => {
            let client = existing(&destination.sandbox).await?;
            json!(client.import(&destination.sandbox, &tree(&destination), pipes::stdin()).await?)
        }
        (Side::Here(source), Side::There(destination)) => {
            let found = look(&source)?;
            if found == Found::Nothing {
                return Err(Failure::host(format!("there is nothing at {}", source.display())));
            }
            put(&existing(&destination.sandbox).await?, (&source, found), &destination).await?
        }
        _ => {
            let message = "one side is SANDBOX:PATH, and the other a path here or -".to_owned();
            return Err(Failure::invalid(message).with_hint("./a:b names a file here that has a colon"));
        }
    };
    if options.json {
        output::print_json(&report)?;
    }
    Ok(0)
}

fn tree(there: &There) -> ImportTree {
    ImportTree::at(there.root, &RawString::from(there.path.clone()))
}

/// What is at a place in a sandbox, a link itself; `None` for nothing.
pub(super) async fn stat(client: &Client, there: &There) -> Result<Option<FileEntry>, Failure> {
    match client.stat(&there.sandbox, &there.place()).await {
        Ok(entry) => Ok(Some(entry)),
        Err(ClientError::Refused { body }) if body.code == Code::Guest(ErrorCode::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The same, of something that must be there.
pub(super) async fn must_be_there(client: &Client, there: &There) -> Result<FileEntry, Failure> {
    Ok(client.stat(&there.sandbox, &there.place()).await?)
}

/// Sends something to a sandbox. A directory that is there gets it under its own name, unless that ends in `/.`.
async fn put(client: &Client, (source, found): (&Path, Found), destination: &There) -> Result<Value, Failure> {
    let there = match stat(client, destination).await? {
        // Where it leads counts.
        Some(entry) if entry.kind == FileKind::Symlink => stat(client, &destination.join(b".")).await.unwrap_or(None),
        there => there,
    };
    let is_directory = there.is_some_and(|entry| entry.kind == FileKind::Directory);
    let (into, name) = match (is_directory, name(source), destination.split()) {
        (true, Some(name), _) => (destination.clone(), Some(name.as_bytes().to_vec())),
        (true, None, _) | (false, _, None) => (destination.clone(), None),
        (false, _, Some(_)) if destination.path.ends_with(b"/") && found != Found::Directory => {
            return Err(Failure::invalid("there is no such directory in the sandbox".to_owned()));
        }
        (false, _, Some((parent, name))) => (parent, Some(name)),
    };
    let local = if found == Found::Directory { Local::directory(source)? } else { Local::named(source)? };
    let made = outgoing(move |output| match name {
        Some(name) => export_named(&local.root, &local.name, &name, output, Compression::None),
        None => export_pieces(&local.root, &local.name, output, Compression::None),
    });
    let (sandbox, tree) = (&into.sandbox, &tree(&into));
    let (imported, exported) =
        send(made, Progress::new("sending", None), |pieces| client.import(sandbox, tree, pieces)).await?;
    Ok(json!({ "members": imported.members, "bytes": imported.bytes, "skipped": exported.skipped }))
}

/// Fetches something from a sandbox. Its kind is looked at first, and a file lands in the one place that was named for it, whatever the
/// guest then sends.
async fn fetch(client: &Client, source: &There, destination: &Path) -> Result<Came<Value>, Failure> {
    let entry = must_be_there(client, source).await?;
    let own = source.split().map(|(_, name)| name);
    match entry.kind {
        FileKind::Directory => fetch_tree(client, (source, own.as_deref()), &entry, destination).await,
        FileKind::File => fetch_file(client, (source, own.as_deref()), &entry, destination).await,
        FileKind::Symlink => {
            let place = place_of_one(own.as_deref(), destination)?;
            let target = entry.target.unwrap_or_default();
            symlink(&place.root, &place.name, target.as_bytes(), true)?;
            Ok(Came::All(json!({ "members": 1, "bytes": 0 })))
        }
        _ => Err(Failure::invalid("this is neither a file, a directory nor a link".to_owned())),
    }
}

async fn fetch_tree(
    client: &Client,
    (source, own): (&There, Option<&[u8]>),
    entry: &FileEntry,
    destination: &Path,
) -> Result<Came<Value>, Failure> {
    let target = match (look(destination)?, own) {
        (Found::Directory, Some(own)) => destination.join(OsStr::from_bytes(own)),
        _ => destination.to_owned(),
    };
    let (place, is_new) = match look(&target)? {
        Found::Nothing => (Local::named(&target)?, true),
        Found::Directory => (Local::directory(&target)?, false),
        Found::Link => return Err(refuse_link(&target)),
        Found::Other => return Err(Failure::invalid(format!("{} is no directory", target.display()))),
    };
    let tree = ExportTree::at(source.root, &RawString::from(source.path.clone()));
    let download = client.export(&source.sandbox, &tree).await?;
    let mode = Permissions::from_mode(entry.mode & PERMISSIONS);
    let unpack = move |incoming: Incoming| {
        let options = ImportOptions { distrusted: true, ..ImportOptions::default() };
        let imported = import(&place.root, &place.name, incoming, &options)?;
        if is_new {
            let path = place.path();
            fs::set_permissions(&path, mode).map_err(|error| failed("set the mode of", &path, &error))?;
        }
        Ok::<_, Failure>(json!(imported))
    };
    take(download, Progress::new("fetching", None), unpack).await
}

/// Where a single file or link goes.
fn place_of_one(own: Option<&[u8]>, destination: &Path) -> Result<Local, Failure> {
    let is_directory = look(destination)? == Found::Directory;
    let place = match own {
        Some(own) if is_directory => destination.join(OsStr::from_bytes(own)),
        _ if is_directory || destination.as_os_str().as_bytes().ends_with(b"/") => {
            return Err(Failure::invalid(format!("{} is no place for a file", destination.display())));
        }
        _ => destination.to_owned(),
    };
    match look(&place)? {
        Found::Link => Err(refuse_link(&place)),
        _ => Local::named(&place),
    }
}

async fn fetch_file(
    client: &Client,
    (source, own): (&There, Option<&[u8]>),
    entry: &FileEntry,
    destination: &Path,
) -> Result<Came<Value>, Failure> {
    let place = place_of_one(own, destination)?;
    let file = ReadFile::at(source.root, &RawString::from(source.path.clone()));
    let download = client.read_file(&source.sandbox, &file).await?;
    let (mode, modified) = (entry.mode & PERMISSIONS, entry.modified_ns);
    let write = move |incoming: Incoming| {
        let bytes = write_file(&place, incoming, mode, Some(modified))?;
        Ok::<_, FileError>(json!({ "members": 1, "bytes": bytes }))
    };
    take(download, Progress::new("fetching", Some(entry.size)), write).await
}

/// Writes a file that appears when it is whole, and returns its length.
fn write_file(place: &Local, mut incoming: Incoming, mode: u32, modified: Option<i64>) -> Result<u64, FileError> {
    let mut file = Replacement::begin_over(&place.root, &place.name, mode)?;
    let mut bytes = 0;
    while let Some(piece) = incoming.next().map_err(|error| FileError::new("write", &place.name, error))? {
        file.write_all(&piece)?;
        bytes += piece.len() as u64;
    }
    modified.map_or(Ok(()), |modified| file.set_modified(modified))?;
    file.commit().map(|_| bytes)
}

/// Keeps what comes in a file of this host's, which appears when it is whole.
pub(crate) async fn save(download: Download, path: &Path, mode: u32) -> Result<i32, Failure> {
    let place = Local::named(path)?;
    let write = move |incoming: Incoming| write_file(&place, incoming, mode, None);
    match take(download, Progress::new("fetching", None), write).await? {
        Came::All(_) => Ok(0),
        Came::Cut(code) => Ok(code),
    }
}
