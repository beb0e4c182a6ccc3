//! The guest's serial console: the last of what it said is kept, and its progress can be waited for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;

/// How much of the console is kept, in bytes.
pub const CONSOLE_TAIL: usize = 64 * 1024;

/// The last bytes of a stream that may be endless.
#[derive(Debug)]
pub(crate) struct Tail {
    bytes: VecDeque<u8>,
    limit: usize,
}

impl Tail {
    pub(crate) fn new(limit: usize) -> Self {
        Self { bytes: VecDeque::new(), limit }
    }

    pub(crate) fn push(&mut self, chunk: &[u8]) {
        let kept = &chunk[chunk.len().saturating_sub(self.limit)..];
        let excess = (self.bytes.len() + kept.len()).saturating_sub(self.limit);
        self.bytes.drain(..excess);
        self.bytes.extend(kept);
    }

    pub(crate) fn to_vec(&self) -> Vec<u8> {
        self.bytes.iter().copied().collect()
    }
}

/// A stream's tail and how far it has come, fed by one task and read by many.
#[derive(Clone, Debug)]
pub struct Console {
    tail: Arc<Mutex<Tail>>,
    seen: watch::Receiver<u64>,
}

impl Console {
    /// Begins to keep the last `limit` bytes of a stream, and returns the task that does so, which ends with the stream.
    pub(crate) fn follow(
        mut source: impl AsyncRead + Unpin + Send + 'static,
        limit: usize,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let tail = Arc::new(Mutex::new(Tail::new(limit)));
        let (progress, seen) = watch::channel(0);
        let console = Self { tail: tail.clone(), seen };
        let task = tokio::spawn(async move {
            let mut chunk = vec![0; 8192];
            while let Ok(length @ 1..) = source.read(&mut chunk).await {
                tail.lock().unwrap_or_else(PoisonError::into_inner).push(&chunk[..length]);
                progress.send_modify(|seen| *seen += length as u64);
            }
        });
        (console, task)
    }

    /// Returns the last of what was said, at most [`CONSOLE_TAIL`] bytes, raw: it is the guest's, so escape it before it reaches a terminal.
    pub fn tail(&self) -> Vec<u8> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).to_vec()
    }

    /// Returns the number of bytes seen so far, as something to wait on. It closes when the console has ended.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.seen.clone()
    }

    /// Waits until the console has said nothing for too long: `first_output` before its first byte, `between_outputs`
    /// after any other. Returns never while it goes on speaking, and never once it has ended: an end is for
    /// [`crate::Machine::exited`] to tell.
    pub async fn stalled(&self, first_output: Duration, between_outputs: Duration) -> Stall {
        let mut seen = self.seen.clone();
        loop {
            let so_far = *seen.borrow_and_update();
            let patience = if so_far == 0 { first_output } else { between_outputs };
            match tokio::time::timeout(patience, seen.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => std::future::pending().await,
                Err(_) => return Stall { bytes_seen: so_far, silent_for: patience },
            }
        }
    }
}

/// A guest that stopped speaking before it was ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// How much it had said; 0 means that its kernel never came up, as under a KVM that cannot run it.
    pub bytes_seen: u64,
    /// How long it had been silent.
    pub silent_for: Duration,
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const FIRST: Duration = Duration::from_secs(60);
    const BETWEEN: Duration = Duration::from_secs(10);

    #[test]
    fn tail_keeps_the_last_bytes_in_any_cut() {
        for cut in [1, 3, 7, 100] {
            let text: Vec<u8> = (0..50).collect();
            let mut tail = Tail::new(20);
            text.chunks(cut).for_each(|chunk| tail.push(chunk));
            assert_eq!(tail.to_vec(), &text[30..], "cut into {cut}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn guest_that_never_speaks_is_stalled() {
        let (_guest, source) = tokio::io::duplex(64);
        let (console, _task) = Console::follow(source, 64);
        assert_eq!(console.stalled(FIRST, BETWEEN).await, Stall { bytes_seen: 0, silent_for: FIRST });
    }

    #[tokio::test(start_paused = true)]
    async fn guest_that_falls_silent_is_stalled_and_one_that_speaks_is_not() {
        let (mut guest, source) = tokio::io::duplex(64);
        let (console, _task) = Console::follow(source, 64);
        let speaking = async {
            for _ in 0..20 {
                tokio::time::sleep(BETWEEN - Duration::from_secs(1)).await;
                guest.write_all(b"line\n").await.unwrap();
            }
            std::future::pending::<()>().await
        };
        let stall = tokio::select! {
            stall = console.stalled(FIRST, BETWEEN) => stall,
            () = speaking => unreachable!(),
        };
        assert_eq!(stall, Stall { bytes_seen: 100, silent_for: BETWEEN });
    }

    #[tokio::test(start_paused = true)]
    async fn console_that_ended_is_not_called_stalled() {
        let (guest, source) = tokio::io::duplex(64);
        let (console, task) = Console::follow(source, 64);
        drop(guest);
        task.await.unwrap();
        assert!(tokio::time::timeout(FIRST * 10, console.stalled(FIRST, BETWEEN)).await.is_err());
    }
}
