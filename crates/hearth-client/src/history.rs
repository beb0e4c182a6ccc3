//! Calls about the history of a guest's workspace.

use std::io;

use bytes::Bytes;
use futures_util::Stream;
use hearth_api::history::{ApplyPatch, ChangeList, CheckpointList, Since};
use hearth_api::protocol::history::{Checkpoint, Named, Patched, ResetDone};
use hyper::Method;

use crate::{Client, ClientError, Download, escaped, path, with_query};

/// Each call fails with any [`ClientError`].
impl Client {
    /// Fetches what has changed in the workspace as a patch.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn diff(&self, sandbox: &str, since: &Since) -> Result<Download, ClientError> {
        self.download(&with_query(&path(sandbox, "/diff"), since)).await
    }

    /// Lists what has changed in the workspace.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn changes(&self, sandbox: &str, since: &Since) -> Result<ChangeList, ClientError> {
        self.get(&with_query(&path(sandbox, "/changes"), since)).await
    }

    /// Applies a patch to the workspace, all of it or nothing: text that ends in an error changes nothing.
    ///
    /// # Errors
    /// Any [`ClientError`]; one that does not fit is refused with the file and the hunk.
    pub async fn patch(
        &self,
        sandbox: &str,
        apply: &ApplyPatch,
        text: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<Patched, ClientError> {
        self.connect().await?.upload(Method::POST, &with_query(&path(sandbox, "/patch"), apply), text).await
    }

    /// Makes the workspace what it was at a checkpoint, all of it or nothing.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn reset(&self, sandbox: &str, to: &Named) -> Result<ResetDone, ClientError> {
        self.ask(sandbox, "/reset", to).await
    }

    /// Lists the checkpoints of the workspace, the oldest first.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn checkpoints(&self, sandbox: &str) -> Result<CheckpointList, ClientError> {
        self.get(&path(sandbox, "/checkpoints")).await
    }

    /// Takes a checkpoint of the workspace, in the place of one of the same name.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn checkpoint(&self, sandbox: &str, named: &Named) -> Result<Checkpoint, ClientError> {
        self.ask(sandbox, "/checkpoints", named).await
    }

    /// Removes a checkpoint.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn remove_checkpoint(&self, sandbox: &str, name: &str) -> Result<(), ClientError> {
        self.delete(&path(sandbox, &format!("/checkpoints/{}", escaped(name)))).await
    }
}
