//! The input of a process: bytes that wait for a pipe or terminal to take them.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use bytes::Bytes;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc, oneshot};

/// What is typed at a terminal to end its input, twice: the default VEOF.
const END_OF_TRANSMISSION: &[u8] = b"\x04\x04";
/// What waits at most of what is [offered](Input::offer), in bytes.
const OFFERED: usize = 64 * 1024;

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
    waiting: Rc<Waiting>,
    is_terminal: bool,
    /// Whether what was written last, to a terminal, has begun a line.
    in_line: Cell<bool>,
}

/// What a process has still to take.
#[derive(Default)]
struct Waiting {
    bytes: Cell<usize>,
    /// The process takes nothing any more: it has closed its end.
    refused: Cell<bool>,
    /// Some of it was taken, or never will be.
    moved: Notify,
}

impl Waiting {
    fn taken(&self, bytes: usize) {
        self.bytes.set(self.bytes.get().saturating_sub(bytes));
        self.moved.notify_waiters();
    }
}

/// Nothing more can be written: the input was ended, or the process reads no more.
#[derive(Debug)]
pub(crate) struct Closed;

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

    /// Whether there are no bytes that [`Intake::next`] would return at once.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl Input {
    /// Starts to feed `target`.
    pub(crate) fn new(target: Target) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let waiting = Rc::<Waiting>::default();
        let is_terminal = matches!(target, Target::Terminal(_));
        tokio::task::spawn_local(feed(target, receiver, Rc::clone(&waiting)));
        Self { queue: RefCell::new(Some(sender)), ended: Rc::default(), waiting, is_terminal, in_line: Cell::default() }
    }

    /// Makes an input that is read here; `open` is called when that begins.
    pub(crate) fn taken_in(open: impl FnOnce() + 'static) -> (Self, Intake) {
        let (sender, queue) = mpsc::unbounded_channel();
        let ended = Rc::<Cell<bool>>::default();
        (
            Self {
                queue: RefCell::new(Some(sender)),
                ended: Rc::clone(&ended),
                waiting: Rc::default(),
                is_terminal: false,
                in_line: Cell::default(),
            },
            Intake { queue, ended, open: Some(Box::new(open)) },
        )
    }

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
        let length = piece.bytes.len();
        if let Some(last) = piece.bytes.last() {
            self.in_line.set(!last.is_ascii_control() || *last == b'\t');
        }
        let refused = match &*queue {
            Some(sender) => sender.send(piece).err().map(|error| error.0),
            None => Some(piece),
        };
        if refused.is_none() {
            self.waiting.bytes.set(self.waiting.bytes.get() + length);
        }
        if let Some(piece) = refused {
            (piece.taken)(piece.bytes.len() as u64);
        }
    }

    /// Queues as much of `bytes` as may wait here, and tells how much that is: a process that does not read takes none.
    ///
    /// # Errors
    /// [`Closed`].
    pub(crate) fn offer(&self, bytes: &Bytes) -> Result<usize, Closed> {
        if self.queue.borrow().is_none() || self.waiting.refused.get() {
            return Err(Closed);
        }
        let accepted = bytes.len().min(OFFERED.saturating_sub(self.waiting.bytes.get()));
        if accepted > 0 {
            self.write(Piece { bytes: bytes.slice(..accepted), taken: Box::new(|_| ()) });
        }
        Ok(accepted)
    }

    /// Whether nothing waits for the process.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.bytes.get() == 0
    }

    /// Waits until there may be room for more of an offer.
    pub(crate) async fn room(&self) {
        loop {
            let moved = self.waiting.moved.notified();
            if self.waiting.bytes.get() < OFFERED || self.waiting.refused.get() {
                return;
            }
            moved.await;
        }
    }

    /// Ends the input behind what is queued. A terminal stays: its program is told, and may be typed at again.
    pub(crate) fn close(&self) {
        if self.is_terminal {
            // In a line that has begun the first only hands over what there is of it.
            let bytes = Bytes::from_static(&END_OF_TRANSMISSION[usize::from(!self.in_line.get())..]);
            return self.write(Piece { bytes, taken: Box::new(|_| ()) });
        }
        self.ended.set(true);
        self.queue.borrow_mut().take();
    }
}

async fn feed(target: Target, mut queue: mpsc::UnboundedReceiver<Piece>, waiting: Rc<Waiting>) {
    let fd = match &target {
        Target::Pipe(fd) => fd,
        Target::Terminal(fd) => fd,
    };
    while let Some(piece) = queue.recv().await {
        // A process that no longer reads must not hold up who writes.
        if waiting.refused.get() || write_all(fd, &piece.bytes, &waiting).await.is_err() {
            waiting.refused.set(true);
            waiting.bytes.set(0);
            waiting.taken(0);
        }
        (piece.taken)(piece.bytes.len() as u64);
    }
}

async fn write_all(fd: &AsyncFd<OwnedFd>, mut bytes: &[u8], waiting: &Waiting) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let mut ready = fd.writable().await?;
        let hung_up = ready.ready().is_write_closed();
        match ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
            Ok(Ok(count)) => {
                bytes = &bytes[count..];
                waiting.taken(count);
            }
            Ok(Err(error)) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
            Ok(Err(error)) => return Err(error),
            // A terminal that everybody has left is full for ever, and never again not ready.
            Err(_not_ready) if hung_up => return Err(std::io::ErrorKind::BrokenPipe.into()),
            Err(_not_ready) => {}
        }
    }
    Ok(())
}
