//! Secrets of the guest.

use hearth_protocol::secrets::{Secret, SecretList, SecretRequest, SecretResult};
use hearth_protocol::{Finished, RequestBody};

use crate::channel::{Channel, wrong_result};
use crate::error::ChannelError;

impl Channel {
    /// Adds secrets, or gives new values to those that are there. All or none.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn set_secrets(&self, secrets: Vec<Secret>) -> Result<(), ChannelError> {
        self.secret("set secrets", SecretRequest::Set { secrets }).await
    }

    /// Makes these the only secrets there are. All or none.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn replace_secrets(&self, secrets: Vec<Secret>) -> Result<(), ChannelError> {
        self.secret("replace secrets", SecretRequest::Replace { secrets }).await
    }

    /// Removes secrets. All, or none where one is not there.
    ///
    /// # Errors
    /// As [`Self::request`]; [`hearth_protocol::ErrorCode::UnknownName`].
    pub async fn remove_secrets(&self, names: Vec<String>) -> Result<(), ChannelError> {
        self.secret("remove secrets", SecretRequest::Remove { names }).await
    }

    /// Lists the secrets, without their values.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn list_secrets(&self) -> Result<SecretList, ChannelError> {
        match self.finish(RequestBody::Secret(SecretRequest::List {})).await? {
            Finished::Secret(SecretResult::List(list)) => Ok(list),
            _ => Err(wrong_result("list secrets")),
        }
    }

    async fn secret(&self, asked: &'static str, request: SecretRequest) -> Result<(), ChannelError> {
        match self.finish(RequestBody::Secret(request)).await? {
            Finished::Secret(SecretResult::Done {}) => Ok(()),
            _ => Err(wrong_result(asked)),
        }
    }
}
