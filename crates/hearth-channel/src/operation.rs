//! An operation as its user holds it: streams on the way, one result at the end.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use hearth_protocol::{ErrorCode, Fault, Finished, StreamName};

use crate::error::ChannelError;
use crate::inbox::{Last, Taken};
use crate::process::{Following, Stdin};

/// What an operation has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// A piece of one of its streams, at least one byte. Pieces of a stream follow each other without a gap.
    Piece(StreamName, Bytes),
    /// The end of a stream that ended before the operation did.
    End(StreamName),
    /// Its result. The last.
    Finished(Box<Finished>),
}

/// An operation that was asked for. Dropping it before its end cancels it: what it was about to change stays as it was.
pub struct Operation {
    following: Following,
    takes_upload: AtomicBool,
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation").field("request", &self.following.follower.id).finish_non_exhaustive()
    }
}

impl Operation {
    pub(crate) fn new(following: Following) -> Self {
        Self { following, takes_upload: AtomicBool::new(true) }
    }

    /// Waits for what comes next: pieces of its streams, then [`Sent::Finished`]; `None` after that.
    ///
    /// Taking pieces is what allows the agent to send more of them. Cancel-safe.
    ///
    /// # Errors
    /// [`ChannelError::Fault`] when the operation failed, [`ChannelError::Ended`] when the channel did.
    pub async fn next(&self) -> Result<Option<Sent>, ChannelError> {
        Ok(match self.following.next().await? {
            Some(Taken::Output { stream, bytes, .. }) => Some(Sent::Piece(stream, bytes)),
            Some(Taken::End(stream)) => Some(Sent::End(stream)),
            Some(Taken::Last(Last::Finished(result), _)) => Some(Sent::Finished(result)),
            // The follower lets no exit through to an operation.
            Some(Taken::Last(Last::Exit(_), _)) | None => None,
        })
    }

    /// Waits until the agent is there to take the upload.
    ///
    /// # Errors
    /// As [`Self::next`], when the operation ended instead.
    pub(crate) async fn accepted(&self) -> Result<(), ChannelError> {
        loop {
            let changed = self.following.follower.changed.notified();
            match self.following.follower.input_credit() {
                Some(0) => changed.await,
                Some(_) => return Ok(()),
                None => return self.following.outcome(),
            }
        }
    }

    /// Hands out the way to send it bytes, once.
    pub fn upload(&self) -> Option<Upload> {
        self.takes_upload.swap(false, Ordering::AcqRel).then(|| Upload(self.following.stdin().for_upload()))
    }

    /// Sends `content` as the whole upload. An operation that has ended meanwhile says why at its end.
    pub(crate) async fn send_all(&self, content: Bytes) -> Result<(), ChannelError> {
        let Some(mut upload) = self.upload() else { return Ok(()) };
        match upload.write(content).await {
            Ok(()) => upload.finish(),
            Err(ChannelError::StdinClosed) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Waits for the end, and drops what comes before.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn finish(self) -> Result<Finished, ChannelError> {
        self.collect(0).await.map(|(result, _)| result)
    }

    /// Waits for the end, and keeps up to `limit` bytes of `data`, which must not be more unless `limit` is 0.
    pub(crate) async fn collect(self, limit: usize) -> Result<(Finished, Bytes), ChannelError> {
        let mut data = BytesMut::new();
        loop {
            match self.next().await? {
                Some(Sent::Piece(StreamName::Data, bytes)) if limit > 0 => {
                    if data.len() + bytes.len() > limit {
                        let message = format!("more than {limit} bytes came");
                        return Err(ChannelError::Fault { source: Fault::failed(ErrorCode::TooLarge, message) });
                    }
                    data.extend_from_slice(&bytes);
                }
                Some(Sent::Piece(..) | Sent::End(_)) => {}
                Some(Sent::Finished(result)) => return Ok((*result, data.freeze())),
                None => return Err(self.following.session.cut_off(true)),
            }
        }
    }
}

/// The way to send bytes to an operation. Only [`Self::finish`] ends them: dropping it without leaves the operation waiting, and the
/// operation's own drop then cancels it.
#[derive(Debug)]
pub struct Upload(Stdin);

impl Upload {
    /// Sends all of `data`, waiting for credit as often as needed; waits until the agent wants any even when it is empty.
    ///
    /// Not cancel-safe: a part may have been sent.
    ///
    /// # Errors
    /// [`ChannelError::StdinClosed`] when the operation has ended: its own end says why. Else as for a request.
    pub async fn write(&mut self, data: Bytes) -> Result<(), ChannelError> {
        self.0.credit().await?;
        self.0.write(data).await
    }

    /// Says that this was all. A [`Self::write`] must come before: an end that overtook its request, on the other lane, would be lost.
    pub fn finish(self) {
        self.0.end();
    }
}
