//! Directory trees of the guest as archives.

use bytes::{Bytes, BytesMut};
use hearth_protocol::archive::{ArchiveRequest, ArchiveResult, Export, Exported, Import, Imported};
use hearth_protocol::{Finished, RequestBody, StreamName};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::channel::{Channel, wrong_result};
use crate::error::ChannelError;
use crate::operation::{Operation, Sent};

/// What is read of an archive at a time, in bytes.
const PIECE: usize = 256 * 1024;

/// An archive that is coming from the guest. Dropping it before its end stops it.
#[derive(Debug)]
pub struct Exporting {
    operation: Operation,
}

/// What comes of an archive from the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchivePiece {
    /// The next bytes of it.
    Bytes(Bytes),
    /// Its end: it is whole.
    End(Exported),
}

impl Channel {
    /// Unpacks an archive in the guest, all of it or nothing: what fails, or is dropped, leaves everything as it was.
    ///
    /// # Errors
    /// [`ChannelError::Fault`] with [`hearth_protocol::ErrorCode::BadArchive`] for a damaged archive or a member that may not be
    /// unpacked, [`ChannelError::Source`] when `archive` cannot be read; else as [`Self::request`].
    pub async fn import(&self, import: Import, archive: impl AsyncRead + Unpin) -> Result<Imported, ChannelError> {
        let operation = self.operate(RequestBody::Archive(ArchiveRequest::Import(import))).await?;
        send(&operation, archive).await?;
        match operation.finish().await? {
            Finished::Archive(ArchiveResult::Imported(imported)) => Ok(imported),
            _ => Err(wrong_result("import")),
        }
    }

    /// Begins to send what is at a place in the guest as an archive.
    ///
    /// # Errors
    /// As [`Self::operate`]; what the agent refuses, [`Exporting::next`] says.
    pub async fn export(&self, export: Export) -> Result<Exporting, ChannelError> {
        let operation = self.operate(RequestBody::Archive(ArchiveRequest::Export(export))).await?;
        Ok(Exporting { operation })
    }

    /// As [`Self::export`], of a directory only what `names` has: paths from there, a NUL behind each.
    ///
    /// # Errors
    /// As [`Self::export`]; [`ChannelError::Source`] when `names` cannot be read.
    pub async fn export_only(&self, export: Export, names: impl AsyncRead + Unpin) -> Result<Exporting, ChannelError> {
        let operation = self.operate(RequestBody::Archive(ArchiveRequest::ExportOnly(export))).await?;
        send(&operation, names).await?;
        Ok(Exporting { operation })
    }
}

/// Sends all that a reader has. An operation that ends meanwhile says why at its end.
pub(crate) async fn send(operation: &Operation, mut archive: impl AsyncRead + Unpin) -> Result<(), ChannelError> {
    let Some(mut upload) = operation.upload() else { return Ok(()) };
    let mut buffer = BytesMut::new();
    // The first write waits for the guest, and must come even where there is nothing to send.
    loop {
        match upload.write(buffer.split().freeze()).await {
            Err(ChannelError::StdinClosed) => return Ok(()),
            sent => sent?,
        }
        buffer.reserve(PIECE);
        let count = archive.read_buf(&mut buffer).await.map_err(|source| ChannelError::Source { source })?;
        if count == 0 {
            upload.finish();
            return Ok(());
        }
    }
}

impl Exporting {
    /// Waits for what comes next: pieces, at least one byte each, then [`ArchivePiece::End`]; `None` after that. Without the end what came
    /// is no whole archive. Cancel-safe.
    ///
    /// # Errors
    /// [`ChannelError::Fault`] when there is nothing to export, or it cannot be read; [`ChannelError::Ended`] when the channel did.
    pub async fn next(&self) -> Result<Option<ArchivePiece>, ChannelError> {
        loop {
            return Ok(Some(match self.operation.next().await? {
                Some(Sent::Piece(StreamName::Data, bytes)) => ArchivePiece::Bytes(bytes),
                Some(Sent::Piece(..) | Sent::End(_)) => continue,
                Some(Sent::Finished(result)) => match *result {
                    Finished::Archive(ArchiveResult::Exported(exported)) => ArchivePiece::End(exported),
                    _ => return Err(wrong_result("export")),
                },
                None => return Ok(None),
            }));
        }
    }
}
