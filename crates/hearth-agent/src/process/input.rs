//! The input of a process: bytes that wait for a pipe or terminal to take them.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use bytes::Bytes;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

/// What is typed at a terminal to end its input: the default VEOF.
const END_OF_TRANSMISSION: &[u8] = b"\x04";

/// Where a process's input goes.
pub(crate) enum Target {
    /// A pipe, closed to end the input.
    Pipe(AsyncFd<OwnedFd>),
    /// A terminal, which stays open.
    Terminal(Rc<AsyncFd<OwnedFd>>),
}

/// Some bytes, and what to do once the process has them. The senders' credit bounds how many wait.
pub(crate) struct Piece {
    pub(crate) bytes: Bytes,
    pub(crate) taken: Box<dyn FnOnce(u64)>,
}

/// The input of a process.
pub(crate) struct Input {
    queue: RefCell<Option<mpsc::UnboundedSender<Piece>>>,
    ended: Rc<Cell<bool>>,
}

/// The other end of an input that no process reads: the bytes of an upload.
pub(crate) struct Intake {
    queue: mpsc::UnboundedReceiver<Piece>,
    ended: Rc<Cell<bool>>,
    /// Tells the sender that it may begin.
    open: Option<Box<dyn FnOnce()>>,
}

/// The sender went away before the end of the input.
#[derive(Debug)]
pub(crate) struct CutOff;

impl Intake {
    /// The next bytes; `None` at the end. The first call lets the host begin; taking bytes is what grants the host credit for more. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, CutOff> {
        if let Some(open) = self.open.take() {
            open();
        }
        match self.queue.recv().await {
            Some(piece) => {
                (piece.taken)(piece.bytes.len() as u64);
                Ok(Some(piece.bytes))
            }
            None if self.ended.get() => Ok(None),
            None => Err(CutOff),
        }
    }
}

impl Input {
    /// Starts to feed `target`.
    pub(crate) fn new(target: Target) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::task::spawn_local(feed(target, receiver));
        Self { queue: RefCell::new(Some(sender)), ended: Rc::default() }
    }

    /// Makes an input that is read here; `open` is called when that begins.
    pub(crate) fn taken_in(open: impl FnOnce() + 'static) -> (Self, Intake) {
        let (sender, queue) = mpsc::unbounded_channel();
        let ended = Rc::<Cell<bool>>::default();
        (
            Self { queue: RefCell::new(Some(sender)), ended: Rc::clone(&ended) },
            Intake { queue, ended, open: Some(Box::new(open)) },
        )
    }

    #[allow(dead_code, reason = "for the dialects")]
    /// Queues bytes and waits until they are taken.
    pub(crate) async fn pass(&self, bytes: Bytes) {
        let (sender, taken) = oneshot::channel();
        self.write(Piece { bytes, taken: Box::new(|_| _ = sender.send(())) });
        // Whoever drops the piece takes nothing any more.
        let _ = taken.await;
    }

    /// Queues bytes. After the end they go nowhere, but count as taken.
    pub(crate) fn write(&self, piece: Piece) {
        let queue = self.queue.borrow();
        let refused = match &*queue {
            Some(sender) => sender.send(piece).err().map(|error| error.0),
            None => Some(piece),
        };
        if let Some(piece) = refused {
            (piece.taken)(piece.bytes.len() as u64);
        }
    }

    /// Ends the input behind what is queued.
    pub(crate) fn close(&self) {
        self.ended.set(true);
        self.queue.borrow_mut().take();
    }
}

async fn feed(target: Target, mut queue: mpsc::UnboundedReceiver<Piece>) {
    let fd = match &target {
        Target::Pipe(fd) => fd,
        Target::Terminal(fd) => fd,
    };
    let mut broken = false;
    while let Some(piece) = queue.recv().await {
        // A process that no longer reads must not hold up who writes.
        broken = broken || write_all(fd, &piece.bytes).await.is_err();
        (piece.taken)(piece.bytes.len() as u64);
    }
    if let Target::Terminal(fd) = &target {
        let _ = write_all(fd, END_OF_TRANSMISSION).await;
    }
}

async fn write_all(fd: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let mut ready = fd.writable().await?;
        match ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
            Ok(Ok(count)) => bytes = &bytes[count..],
            Ok(Err(error)) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
            Ok(Err(error)) => return Err(error),
            Err(_not_ready) => {}
        }
    }
    Ok(())
}
