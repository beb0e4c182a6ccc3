//! Unix sockets whose ends are woken only for what they wait for, and descriptors that the runtime watches.
//!
//! A runtime watches a socket for bytes and for room at once, and the kernel tells of room whenever the other end has taken something: each
//! message that is sent wakes its sender once more, for nothing, and its receiver pays for the call. Here nobody watches for room but a write
//! that has found none.

mod sys;
#[cfg(test)]
mod tests;

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

pub use sys::{read, watch};

/// Takes a stream apart. It is over for good, for the other end too, once both halves are dropped.
///
/// # Errors
/// When the kernel has no memory left for one more that is watched.
pub fn split(stream: UnixStream) -> io::Result<(ReadHalf, WriteHalf)> {
    let socket = Arc::new(OwnedFd::from(stream.into_std()?));
    let watched = sys::watch_shared(Arc::clone(&socket), Interest::READABLE)?;
    Ok((ReadHalf(watched), WriteHalf { socket, room: None }))
}

/// The end that reads.
#[derive(Debug)]
pub struct ReadHalf(AsyncFd<Arc<OwnedFd>>);

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(context))?;
            let room = buffer.remaining();
            match read(self.0.get_ref(), buffer) {
                Ok(count) => {
                    // Whoever finds less than there is room for has read all there was, and is told of more.
                    if (1..room).contains(&count) {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

/// The end that writes. Dropping it ends what the other end reads.
#[derive(Debug)]
pub struct WriteHalf {
    socket: Arc<OwnedFd>,
    /// Watches for room, for a write that waits.
    room: Option<AsyncFd<OwnedFd>>,
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let no_descriptors = &mut SendAncillaryBuffer::default();
            match rustix::net::sendmsg(&self.socket, slices, no_descriptors, SendFlags::NOSIGNAL) {
                Ok(count) => {
                    self.room = None;
                    return Poll::Ready(Ok(count));
                }
                Err(Errno::AGAIN) => {
                    if self.room.is_none() {
                        // One descriptor is watched once; this is another name of the socket.
                        self.room = Some(watch(self.socket.try_clone()?, Interest::WRITABLE)?);
                    }
                    if let Some(room) = &self.room {
                        ready!(room.poll_write_ready(context))?.clear_ready();
                    }
                }
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(rustix::net::shutdown(&self.socket, Shutdown::Write).map_err(Into::into))
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        // One that is over already needs no end.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
    }
}
