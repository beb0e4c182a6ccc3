//! Joins a connection on the host to something that listens in a guest.

use std::io;

use bytes::BytesMut;
use hearth_channel::{ChannelError, Dialled};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What is read of a client at once, in bytes.
const PIECE: usize = 64 * 1024;

/// Why a connection was not carried to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// On the host's side.
    #[error("the client's connection broke")]
    Client(#[from] io::Error),
    /// On the guest's side.
    #[error("the way into the guest broke")]
    Guest(#[from] ChannelError),
}

/// How long a connection is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Until the guest has said all, whatever the client might still say.
    GuestIsDone,
    /// Until both have said all.
    BothAreDone,
}

/// Carries what each side says to the other, and each side's end.
pub(crate) async fn carry(
    stream: &Dialled,
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    until: Until,
) -> Result<(), Broken> {
    let inward = async {
        let Some(mut upload) = stream.writer() else { return Ok(()) };
        loop {
            let mut buffer = BytesMut::with_capacity(PIECE);
            match reader.read_buf(&mut buffer).await? {
                0 => break,
                _ => upload.write(buffer.freeze()).await?,
            }
        }
        upload.finish();
        Ok::<(), Broken>(())
    };
    let outward = async {
        while let Some(bytes) = stream.read().await? {
            writer.write_all(&bytes).await?;
        }
        writer.shutdown().await?;
        Ok::<(), Broken>(())
    };
    match until {
        Until::BothAreDone => tokio::try_join!(inward, outward).map(|_| ()),
        Until::GuestIsDone => tokio::select! {
            ended = outward => ended,
            broken = async {
                match inward.await {
                    Ok(()) => std::future::pending().await,
                    Err(broken) => Err(broken),
                }
            } => broken,
        },
    }
}
