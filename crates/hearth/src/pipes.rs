//! This process's own input and output, whatever they are: a pipe of an event loop's may be non-blocking.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::FileType;
use rustix::io::Errno;

/// What is read at a time, in bytes.
const READ: usize = 64 * 1024;

/// Whether standard input can bring anything: the null device, which scripts give where there is no input, never does.
pub(crate) fn has_input() -> bool {
    let null = rustix::fs::makedev(1, 3);
    let is_null =
        |stat: rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode).is_char_device() && stat.st_rdev == null;
    !rustix::fs::fstat(rustix::stdio::stdin()).is_ok_and(is_null)
}

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

/// Standard input as it comes.
pub(crate) fn stdin() -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    unfold((), |()| async {
        match read_stdin().await {
            Ok(bytes) if bytes.is_empty() => None,
            read => Some((read.map(Into::into), ())),
        }
    })
}

/// A file, from where it stands, as it comes.
pub(crate) fn file(file: File) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    unfold(Some(file), |file| async {
        let mut file = file?;
        let read = on_thread(move || {
            let mut buffer = vec![0; READ];
            let count = file.read(&mut buffer)?;
            buffer.truncate(count);
            Ok((buffer, file))
        });
        match read.await {
            Ok((bytes, _)) if bytes.is_empty() => None,
            Ok((bytes, file)) => Some((Ok(bytes.into()), Some(file))),
            Err(error) => Some((Err(error), None)),
        }
    })
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
