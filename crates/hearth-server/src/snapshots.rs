//! Snapshots: listed, described, removed, and moved as one stream of bytes each. A thread makes or takes the stream; between it and the
//! connection few pieces wait.

use std::io::{self, Read, Write};
use std::time::Duration;

use axum::Json;
use axum::body::{Body as Bytestream, BodyDataStream};
use axum::extract::{Path, Request, State};
use axum::response::NoContent;
use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use futures_util::stream::unfold;
use hearth_api::home::{SnapshotInfo, SnapshotList};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::answer::{Content, Created, Refusal, SnapshotFile};
use crate::uploads::heard_out;
use crate::{App, home};

/// The pieces of an export that wait for its client.
const PIECES: usize = 4;
/// How long a client may neither send nor take anything: it keeps a thread, and an import keeps templates from being removed.
const SILENCE: Duration = Duration::from_secs(60);

pub(crate) async fn list(State(app): State<App>) -> Json<SnapshotList> {
    Json(home::snapshots(app.fleet().engine()))
}

pub(crate) async fn inspect(State(app): State<App>, Path(name): Path<String>) -> Result<Json<SnapshotInfo>, Refusal> {
    Ok(Json(home::snapshot(app.fleet().engine(), &name)?))
}

pub(crate) async fn remove(State(app): State<App>, Path(name): Path<String>) -> Result<NoContent, Refusal> {
    home::remove_snapshot(app.fleet().engine(), &name)?;
    Ok(NoContent)
}

/// Sends one. It goes on when the snapshot is removed meanwhile, and ends with its connection.
pub(crate) async fn export(State(app): State<App>, Path(name): Path<String>) -> Result<Content<SnapshotFile>, Refusal> {
    let export = app.fleet().engine().open_snapshot(&home::snapshot_name(&name)?)?;
    let place = app.transfer()?;
    let (sender, coming) = mpsc::channel(PIECES);
    let pieces = Pieces { sender, runtime: Handle::current(), _place: place };
    let writing = tokio::task::spawn_blocking(move || export.write_to(pieces));
    let bytes = unfold(Some((coming, writing)), async |turn| {
        let (mut coming, writing) = turn?;
        if let Some(piece) = coming.recv().await {
            return Some((Ok(piece), Some((coming, writing))));
        }
        match writing.await {
            Ok(Ok(())) => None,
            // The end of the connection, without that of the body, is all there is to tell it by.
            Ok(Err(_)) | Err(_) => Some((Err(io::Error::other("it broke off")), None)),
        }
    });
    Ok(Content::new(Bytestream::from_stream(bytes)))
}

/// Takes one in, whole or not at all.
pub(crate) async fn import(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Created<SnapshotInfo>, Refusal> {
    heard_out(request, async |request| {
        let name = home::snapshot_name(&name)?;
        let place = app.transfer()?;
        let body = request.into_body().into_data_stream();
        let upload = Upload { body, piece: Bytes::new(), runtime: Handle::current(), _place: place };
        let record = app.fleet().engine().import_snapshot(upload, &name).await?;
        Ok(Created(home::snapshot_info(record)))
    })
    .await
}

/// What a thread writes to a connection.
struct Pieces {
    sender: mpsc::Sender<Bytes>,
    runtime: Handle,
    _place: OwnedSemaphorePermit,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        let sent = self.runtime.block_on(async { tokio::time::timeout(SILENCE, self.sender.send(piece)).await });
        match sent {
            Ok(Ok(())) => Ok(bytes.len()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(silent()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("the client did nothing for {SILENCE:?}"))
}

/// A request's body, for a thread to read.
struct Upload {
    body: BodyDataStream,
    piece: Bytes,
    runtime: Handle,
    _place: OwnedSemaphorePermit,
}

impl Read for Upload {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let next = self.runtime.block_on(async { tokio::time::timeout(SILENCE, self.body.next()).await });
            match next.map_err(|_| silent())? {
                Some(piece) => self.piece = piece.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let count = self.piece.len().min(into.len());
        self.piece.copy_to_slice(&mut into[..count]);
        Ok(count)
    }
}
