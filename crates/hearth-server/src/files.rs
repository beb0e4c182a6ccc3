//! Files and trees of a guest. What may be long is a stream both ways, never whole in memory.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Json;
use axum::body::{Body as Bytestream, BodyDataStream};
use axum::extract::{Path, Request, State};
use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use futures_util::stream::unfold;
use hearth_api::files::{Count, EditFile, Edited, ExportTree, FileList, Found, ImportTree, ReadFile, WriteFile};
use hearth_engine::channel::{ArchivePiece, ChannelError, Exporting, Operation, Sent};
use hearth_engine::fleet::Guest;
use hearth_engine::protocol::archive::{Export, Import, Imported};
use hearth_engine::protocol::files::{
    Chmod, FileEntry, FileResult, List, Mkdir, Place, Read, Remove, Search, Symlink, Transfer, Write,
};
use hearth_engine::protocol::{ErrorCode, Fault, Finished};
use tokio::io::{AsyncRead, ReadBuf};

use crate::App;
use crate::answer::{Content, Octets, Refusal, Tar, invalid};
use crate::input::{Asked, Body};
use crate::uploads::heard_out;

type Answer<T> = Result<Json<T>, Refusal>;

pub(crate) async fn stat(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Body(place): Body<Place>,
) -> Answer<FileEntry> {
    Ok(Json(app.member(&sandbox)?.channel().await?.stat(place).await?))
}

pub(crate) async fn list(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Body(list): Body<List>,
) -> Answer<FileList> {
    let listing = app.member(&sandbox)?.channel().await?.list_files(list).await?;
    Ok(Json(FileList { entries: listing.entries, next: listing.next }))
}

pub(crate) async fn mkdir(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Body(mkdir): Body<Mkdir>,
) -> Answer<FileEntry> {
    Ok(Json(app.member(&sandbox)?.channel().await?.mkdir(mkdir).await?))
}

pub(crate) async fn rename(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Body(transfer): Body<Transfer>,
) -> Answer<FileEntry> {
    Ok(Json(app.member(&sandbox)?.channel().await?.move_file(transfer).await?))
}

pub(crate) async fn copy(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Body(transfer): Body<Transfer>,
) -> Answer<Count> {
    Ok(Json(Count { entries: app.member(&sandbox)?.channel().await?.copy_file(transfer).await? }))
}

pub(crate) async fn remove(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Body(remove): Body<Remove>,
) -> Answer<Count> {
    Ok(Json(Count { entries: app.member(&sandbox)?.channel().await?.remove_file(remove).await? }))
}

pub(crate) async fn symlink(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Body(link): Body<Symlink>,
) -> Answer<FileEntry> {
    Ok(Json(app.member(&sandbox)?.channel().await?.symlink(link).await?))
}

pub(crate) async fn chmod(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Body(chmod): Body<Chmod>,
) -> Answer<Count> {
    Ok(Json(Count { entries: app.member(&sandbox)?.channel().await?.chmod(chmod).await? }))
}

pub(crate) async fn edit(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Body(edit): Body<EditFile>,
) -> Answer<Edited> {
    let place = Place { root: edit.root, path: edit.path };
    let (replaced, entry) = app.member(&sandbox)?.channel().await?.edit(place, &edit.edits).await?;
    Ok(Json(Edited { replaced, entry }))
}

pub(crate) async fn search(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Body(search): Body<Search>,
) -> Answer<Found> {
    let found = app.member(&sandbox)?.channel().await?.search(search).await?;
    Ok(Json(Found { lines: found.lines, matches: found.matches, enough: found.enough }))
}

/// Sends a file. A failure behind the first byte ends the connection: what came is then not whole.
pub(crate) async fn read(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Asked(query): Asked<ReadFile>,
) -> Result<Content<Octets>, Refusal> {
    let (root, path) = query.place()?;
    let mut read = Read::new(Place { root, path });
    read.offset = query.offset.unwrap_or(0);
    read.length = query.length;
    let guest = app.member(&sandbox)?.channel().await?;
    let operation = guest.read_with(read).await?;
    stream((operation, guest)).await
}

/// Takes a file, whole or not at all.
pub(crate) async fn write(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Asked(query): Asked<WriteFile>,
    request: Request,
) -> Answer<FileEntry> {
    heard_out(request, async |request| {
        let (root, path) = query.place()?;
        let mut write = Write::new(Place { root, path });
        write.mode = query.mode;
        write.create = query.create.unwrap_or_default();
        write.append = query.append.unwrap_or(false);
        let guest = app.member(&sandbox)?.channel().await?;
        let operation = guest.write_with(write).await?;
        upload(&operation, request).await?;
        match operation.finish().await? {
            Finished::File(FileResult::Entry(entry)) => Ok(Json(entry)),
            _ => Err(ChannelError::UnexpectedReply { asked: "write", answered: "another result" }.into()),
        }
    })
    .await
}

/// Sends all of a body. One that breaks off is not the end of the file: the operation is dropped, and nothing has changed.
async fn upload(operation: &Operation, request: Request) -> Result<(), Refusal> {
    let Some(mut upload) = operation.upload() else { return Ok(()) };
    let mut body = request.into_body().into_data_stream();
    // The first write waits for the guest, and must come even for an empty file.
    let mut sent = upload.write(Bytes::new()).await;
    while sent.is_ok() {
        match body.next().await {
            Some(piece) => sent = upload.write(piece.map_err(|_| invalid("the body broke off"))?).await,
            None => {
                upload.finish();
                return Ok(());
            }
        }
    }
    match sent {
        // It has ended, and says why.
        Err(ChannelError::StdinClosed) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Sends a tree as an archive.
pub(crate) async fn export(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Asked(query): Asked<ExportTree>,
) -> Result<Content<Tar>, Refusal> {
    let (root, path) = query.place()?;
    let export = Export { root, path, compression: query.compression.unwrap_or_default() };
    let guest = app.member(&sandbox)?.channel().await?;
    let exporting = guest.export(export).await?;
    stream((exporting, guest)).await
}

/// Sends a part of a tree as an archive: what the body names, a NUL behind each.
pub(crate) async fn export_only(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Asked(query): Asked<ExportTree>,
    request: Request,
) -> Result<Content<Tar>, Refusal> {
    heard_out(request, async |request| {
        let (root, path) = query.place()?;
        let export = Export { root, path, compression: query.compression.unwrap_or_default() };
        let guest = app.member(&sandbox)?.channel().await?;
        let exporting = guest.export_only(export, Reader::of(request)).await?;
        stream((exporting, guest)).await
    })
    .await
}

/// Unpacks an archive, all of it or nothing.
pub(crate) async fn import(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Asked(query): Asked<ImportTree>,
    request: Request,
) -> Answer<Imported> {
    heard_out(request, async |request| {
        let (root, path) = query.place()?;
        let import = Import { root, path, limit_bytes: query.limit_bytes };
        Ok(Json(app.member(&sandbox)?.channel().await?.import(import, Reader::of(request)).await?))
    })
    .await
}

/// What sends bytes, and then says that they are all.
pub(crate) trait Pieces: Send + 'static {
    /// The next bytes; `None` once they are all there.
    fn piece(&mut self) -> impl Future<Output = Result<Option<Bytes>, ChannelError>> + Send;
}

impl Pieces for Operation {
    async fn piece(&mut self) -> Result<Option<Bytes>, ChannelError> {
        loop {
            match self.next().await? {
                Some(Sent::Piece(_, bytes)) => return Ok(Some(bytes)),
                Some(Sent::End(_)) => {}
                Some(Sent::Finished(_)) => return Ok(None),
                None => return Err(cut_off()),
            }
        }
    }
}

/// As long as bytes are sent, the sandbox is not idle.
impl<P: Pieces> Pieces for (P, Guest) {
    async fn piece(&mut self) -> Result<Option<Bytes>, ChannelError> {
        self.0.piece().await
    }
}

impl Pieces for Exporting {
    async fn piece(&mut self) -> Result<Option<Bytes>, ChannelError> {
        match self.next().await? {
            Some(ArchivePiece::Bytes(bytes)) => Ok(Some(bytes)),
            Some(ArchivePiece::End(_)) => Ok(None),
            None => Err(cut_off()),
        }
    }
}

pub(crate) fn cut_off() -> ChannelError {
    ChannelError::Fault { source: Fault::failed(ErrorCode::Cancelled, "it ended before its end") }
}

/// Where a stream of bytes stands.
enum Turn<P> {
    /// This comes next, and then what has yet to come.
    Send(Bytes, P),
    Wait(P),
    Over,
}

/// Answers with a stream of bytes, each piece as soon as it is there. What is refused before the first of them gets an error of its own.
pub(crate) async fn stream<K>(mut pieces: impl Pieces) -> Result<Content<K>, Refusal> {
    let first = pieces.piece().await?.map_or(Turn::Over, |bytes| Turn::Send(bytes, pieces));
    let bytes = unfold(first, async |turn| match turn {
        Turn::Send(bytes, pieces) => Some((Ok(bytes), Turn::Wait(pieces))),
        Turn::Wait(mut pieces) => match pieces.piece().await {
            Ok(bytes) => bytes.map(|bytes| (Ok(bytes), Turn::Wait(pieces))),
            // The end of the connection, without that of the body, is all there is to tell it by.
            Err(_) => Some((Err(io::Error::other("it broke off")), Turn::Over)),
        },
        Turn::Over => None,
    });
    Ok(Content::new(Bytestream::from_stream(bytes)))
}

/// A request's body, as something to read from.
pub(crate) struct Reader {
    stream: BodyDataStream,
    piece: Bytes,
}

impl Reader {
    pub(crate) fn of(request: Request) -> Self {
        Self { stream: request.into_body().into_data_stream(), piece: Bytes::new() }
    }
}

impl AsyncRead for Reader {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.piece.is_empty() {
            match self.stream.poll_next_unpin(context) {
                Poll::Ready(Some(piece)) => self.piece = piece.map_err(io::Error::other)?,
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
        let count = self.piece.len().min(into.remaining());
        into.put_slice(&self.piece[..count]);
        self.piece.advance(count);
        Poll::Ready(Ok(()))
    }
}
