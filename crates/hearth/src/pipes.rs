//! This process's own input and output, whatever they are: a pipe of an event loop's may be non-blocking.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// What is read at a time, in bytes.
const READ: usize = 64 * 1024;

/// Reads some of standard input; nothing is its end. Uses a thread, which may stay in the read when nobody waits for it any more.
pub(crate) async fn read_stdin() -> io::Result<Vec<u8>> {
    on_thread(|| {
        let mut buffer = vec![0; READ];
        let count =
            retrying(rustix::stdio::stdin().as_fd(), PollFlags::IN, |fd| rustix::io::read(fd, &mut buffer[..]))?;
        buffer.truncate(count);
        Ok(buffer)
    })
    .await
}

/// Writes all of `bytes` to standard output, or to standard error.
pub(crate) async fn write(to_stderr: bool, bytes: impl AsRef<[u8]> + Send + 'static) -> io::Result<()> {
    on_thread(move || {
        let fd = if to_stderr { rustix::stdio::stderr() } else { rustix::stdio::stdout() };
        let mut rest = bytes.as_ref();
        while !rest.is_empty() {
            let count = retrying(fd.as_fd(), PollFlags::OUT, |fd| rustix::io::write(fd, rest))?;
            rest = &rest[count..];
        }
        Ok(())
    })
    .await
}

async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Does it again after a signal, and, where the descriptor does not block, after waiting until it can be done.
fn retrying<T>(
    fd: BorrowedFd<'_>,
    wanted: PollFlags,
    mut work: impl FnMut(BorrowedFd<'_>) -> Result<T, Errno>,
) -> io::Result<T> {
    loop {
        match work(fd) {
            Err(Errno::AGAIN) => match poll(&mut [PollFd::new(&fd, wanted)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            },
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}
