//! How a machine ends, and the task that sees it.

use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::console::Console;
use crate::jail::Groups;
use crate::process::Child;

/// How much of what QEMU said on standard error is kept, in bytes.
pub const STDERR_TAIL: usize = 16 * 1024;
/// How long the readers may take to reach the end of what a dead QEMU had written. Its end of each is closed by then.
const READ_OUT: Duration = Duration::from_secs(2);

/// How a machine ended.
#[derive(Clone, Debug)]
pub struct Exit {
    /// QEMU's exit status: 0 when its guest shut down, rebooted or panicked, or when it was asked to leave. None when the
    /// runtime shut down before it could be seen, and for a machine that was taken over: the system tells only whoever has started it.
    pub status: Option<ExitStatus>,
    /// The last of what QEMU said on standard error, at most [`STDERR_TAIL`] bytes.
    pub stderr: Arc<[u8]>,
    /// The last of what the guest said on its console, at most [`crate::CONSOLE_TAIL`] bytes. It is the guest's: escape it.
    pub console: Arc<[u8]>,
}

impl Exit {
    pub(super) fn unknown() -> Self {
        Self { status: None, stderr: Arc::default(), console: Arc::default() }
    }
}

/// A stream that is read to its end by a task.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) stream: Console,
    pub(super) task: JoinHandle<()>,
}

impl Followed {
    async fn read_out(self) -> Arc<[u8]> {
        drop(tokio::time::timeout(READ_OUT, self.task).await);
        self.stream.tail().into()
    }
}

async fn read_out(followed: Option<Followed>) -> Arc<[u8]> {
    match followed {
        Some(followed) => followed.read_out().await,
        None => Arc::default(),
    }
}

/// Watches over a child to its end and removes its control groups.
pub(super) fn supervise(
    mut child: Child,
    stderr: Option<Followed>,
    console: Option<Followed>,
    groups: Groups,
) -> watch::Receiver<Option<Exit>> {
    let (publish, ended) = watch::channel(None);
    tokio::spawn(async move {
        let status = child.wait().await.ok().flatten();
        // An error of waiting leaves a child that is killed here.
        drop(child);
        // They are empty now.
        drop(groups);
        let (stderr, console) = (read_out(stderr).await, read_out(console).await);
        publish.send_replace(Some(Exit { status, stderr, console }));
    });
    ended
}
