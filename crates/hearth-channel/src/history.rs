//! The workspace's history: checkpoints, what has changed since one, patches, and the way back.

use bytes::Bytes;
use hearth_protocol::history::{
    Change, Checkpoint, CheckpointName, Diffed, HistoryRequest, HistoryResult, Named, NoFields, Patch, Patched,
    ResetDone,
};
use hearth_protocol::{Finished, RequestBody, StreamName};
use tokio::io::AsyncRead;

use crate::archives::send;
use crate::channel::{Channel, wrong_result};
use crate::error::ChannelError;
use crate::operation::{Operation, Sent};
use crate::records::Records;

/// A diff that is coming from the guest. Dropping it before its end stops it.
#[derive(Debug)]
pub struct Diffing {
    operation: Operation,
}

/// What comes of a diff.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiffPiece {
    /// The next bytes of the patch.
    Bytes(Bytes),
    /// Its end: it is whole.
    End(Diffed),
}

impl Channel {
    /// Takes a checkpoint of the workspace, in the place of one of the same name.
    ///
    /// # Errors
    /// As [`Self::operate`]; [`ChannelError::Fault`] when the guest's disk is full, or it has too many checkpoints.
    pub async fn checkpoint(&self, name: CheckpointName) -> Result<Checkpoint, ChannelError> {
        match self.history(HistoryRequest::Checkpoint(Named { name })).await?.finish().await? {
            Finished::History(HistoryResult::Taken(checkpoint)) => Ok(checkpoint),
            _ => Err(wrong_result("checkpoint")),
        }
    }

    /// Lists the checkpoints, the oldest first.
    ///
    /// # Errors
    /// As [`Self::operate`].
    pub async fn checkpoints(&self) -> Result<Vec<Checkpoint>, ChannelError> {
        let operation = self.history(HistoryRequest::List(NoFields {})).await?;
        match Records::new(operation, "checkpoints").collect().await? {
            (checkpoints, Finished::History(HistoryResult::Listed {})) => Ok(checkpoints),
            _ => Err(wrong_result("checkpoints")),
        }
    }

    /// Removes a checkpoint.
    ///
    /// # Errors
    /// As [`Self::operate`]; [`ChannelError::Fault`] with [`hearth_protocol::ErrorCode::UnknownName`].
    pub async fn remove_checkpoint(&self, name: CheckpointName) -> Result<(), ChannelError> {
        match self.history(HistoryRequest::Remove(Named { name })).await?.finish().await? {
            Finished::History(HistoryResult::Removed {}) => Ok(()),
            _ => Err(wrong_result("remove a checkpoint")),
        }
    }

    /// Begins to send what has changed since a checkpoint as a patch.
    ///
    /// # Errors
    /// As [`Self::operate`]; what the agent refuses, [`Diffing::next`] says.
    pub async fn diff(&self, since: CheckpointName) -> Result<Diffing, ChannelError> {
        let operation = self.history(HistoryRequest::Diff(Named { name: since })).await?;
        Ok(Diffing { operation })
    }

    /// Lists what has changed since a checkpoint, with the sums.
    ///
    /// # Errors
    /// As [`Self::operate`]; [`ChannelError::Fault`] with [`hearth_protocol::ErrorCode::UnknownName`].
    pub async fn changes(&self, since: CheckpointName) -> Result<(Vec<Change>, Diffed), ChannelError> {
        let operation = self.history(HistoryRequest::Changes(Named { name: since })).await?;
        match Records::new(operation, "changes").collect().await? {
            (changes, Finished::History(HistoryResult::Diffed(sums))) => Ok((changes, sums)),
            _ => Err(wrong_result("changes")),
        }
    }

    /// Applies a patch to the workspace, all of it or nothing: what fails, or is dropped, leaves everything as it was.
    ///
    /// # Errors
    /// [`ChannelError::Fault`] with [`hearth_protocol::ErrorCode::BadPatch`] for what is no patch and
    /// [`hearth_protocol::ErrorCode::PatchConflict`], naming file and hunk, for one that does not fit; [`ChannelError::Source`] when
    /// `text` cannot be read; else as [`Self::request`].
    pub async fn patch(&self, patch: Patch, text: impl AsyncRead + Unpin) -> Result<Patched, ChannelError> {
        let operation = self.history(HistoryRequest::Patch(patch)).await?;
        send(&operation, text).await?;
        match operation.finish().await? {
            Finished::History(HistoryResult::Patched(patched)) => Ok(patched),
            _ => Err(wrong_result("patch")),
        }
    }

    /// Makes the workspace what it was at a checkpoint, all of it or nothing.
    ///
    /// # Errors
    /// As [`Self::operate`]; [`ChannelError::Fault`] with [`hearth_protocol::ErrorCode::UnknownName`].
    pub async fn reset(&self, to: CheckpointName) -> Result<ResetDone, ChannelError> {
        match self.history(HistoryRequest::Reset(Named { name: to })).await?.finish().await? {
            Finished::History(HistoryResult::Reset(done)) => Ok(done),
            _ => Err(wrong_result("reset")),
        }
    }

    async fn history(&self, request: HistoryRequest) -> Result<Operation, ChannelError> {
        self.operate(RequestBody::History(request)).await
    }
}

impl Diffing {
    /// Waits for what comes next: pieces, at least one byte each, then [`DiffPiece::End`]; `None` after that. Without the end what came is
    /// no whole patch. Cancel-safe.
    ///
    /// # Errors
    /// [`ChannelError::Fault`] when there is no such checkpoint; [`ChannelError::Ended`] when the channel did.
    pub async fn next(&self) -> Result<Option<DiffPiece>, ChannelError> {
        loop {
            return Ok(Some(match self.operation.next().await? {
                Some(Sent::Piece(StreamName::Data, bytes)) => DiffPiece::Bytes(bytes),
                Some(Sent::Piece(..) | Sent::End(_)) => continue,
                Some(Sent::Finished(result)) => match *result {
                    Finished::History(HistoryResult::Diffed(sums)) => DiffPiece::End(sums),
                    _ => return Err(wrong_result("diff")),
                },
                None => return Ok(None),
            }));
        }
    }
}
