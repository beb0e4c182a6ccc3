//! Byte streams to what listens inside the guest.

use bytes::Bytes;
use hearth_protocol::dial::DialRequest;
use hearth_protocol::{RequestBody, StreamName};

use crate::channel::Channel;
use crate::error::ChannelError;
use crate::operation::{Operation, Sent, Upload};

/// A byte stream to a port or socket in the guest. Both ways end on their own; dropping it ends both at once.
#[derive(Debug)]
pub struct Dialled {
    operation: Operation,
}

impl Channel {
    /// Connects to a port or socket in the guest. Returns once the connection is made.
    ///
    /// # Errors
    /// [`ChannelError::Fault`] with [`hearth_protocol::ErrorCode::ConnectionFailed`] when nobody listens there; else as [`Self::request`].
    pub async fn dial(&self, to: DialRequest) -> Result<Dialled, ChannelError> {
        let operation = self.operate(RequestBody::Dial(to)).await?;
        operation.accepted().await?;
        Ok(Dialled { operation })
    }
}

impl Dialled {
    /// The next bytes from the guest; `None` once it has said all. Cancel-safe.
    ///
    /// # Errors
    /// [`ChannelError::Fault`] with [`hearth_protocol::ErrorCode::ConnectionFailed`] when the guest's side broke the connection, behind all that came
    /// before; [`ChannelError::Ended`] when the channel did.
    pub async fn read(&self) -> Result<Option<Bytes>, ChannelError> {
        loop {
            match self.operation.next().await? {
                Some(Sent::Piece(StreamName::Data, bytes)) => return Ok(Some(bytes)),
                Some(Sent::Piece(..)) => {}
                Some(Sent::End(StreamName::Data) | Sent::Finished(_)) | None => return Ok(None),
                Some(Sent::End(_)) => {}
            }
        }
    }

    /// Hands out the way to the guest, once. [`Upload::finish`] is a half-close: the guest can go on sending.
    pub fn writer(&self) -> Option<Upload> {
        self.operation.upload()
    }
}
