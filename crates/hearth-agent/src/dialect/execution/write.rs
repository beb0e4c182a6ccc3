//! Files that clients write: from `write_file` over any number of chunks to `file_end`, many at a time.
//!
//! ```text
//! write_file ─> begun ──file_end─> committed, file_write_ack
//!                 └─ a fault ─> failed, error; what the client still sends is passed over up to its file_end
//! ```
//!
//! The second line is so that an operation has one last message: a client sends its chunks without waiting for answers.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};

use hearth_files::{FrameDecoder, Replacement, Root};
use hearth_protocol::files::Create;
use tokio::sync::mpsc;

use super::answer::{Answer, Answers};
use super::request::{ErrorType, OpId, Refusal};
use super::{Entry, cancelled, on_worker};

/// The largest file in bytes.
pub(super) const LARGEST: u64 = 500 * 1024 * 1024;
/// The chunks of one file that may wait for the disk. Whoever sends more waits, and so does what its client asks behind them.
const PIECES: usize = 2;
/// The failed writes that are remembered.
const FAILED: usize = 64;

/// The writes of one client.
#[derive(Default)]
pub(super) struct Writes {
    active: RefCell<HashMap<OpId, Active>>,
    failed: RefCell<VecDeque<OpId>>,
    next: Cell<u64>,
}

struct Active {
    number: u64,
    pieces: mpsc::Sender<Piece>,
}

enum Piece {
    Data(Vec<u8>),
    End,
}

/// What belongs to one write: its name and number, and what its client sends.
pub(super) struct Pieces {
    op_id: OpId,
    number: u64,
    queue: mpsc::Receiver<Piece>,
}

/// There is no write of this name.
pub(super) struct Unknown;

/// There is a write of this name already, which goes on.
pub(super) struct InUse;

impl Writes {
    /// Begins a write.
    ///
    /// # Errors
    /// [`InUse`].
    pub(super) fn begin(&self, op_id: OpId) -> Result<Pieces, InUse> {
        let mut active = self.active.borrow_mut();
        if active.contains_key(&op_id) {
            return Err(InUse);
        }
        let number = self.next.replace(self.next.get() + 1);
        let (pieces, queue) = mpsc::channel(PIECES);
        active.insert(op_id.clone(), Active { number, pieces });
        self.failed.borrow_mut().retain(|failed| *failed != op_id);
        Ok(Pieces { op_id, number, queue })
    }

    /// Notes a write that was refused before it began, so that what its client has sent behind it already is passed over.
    pub(super) fn refuse(&self, op_id: OpId) {
        // What comes is for the one of this name that goes on.
        if !self.active.borrow().contains_key(&op_id) {
            self.note_failed(op_id);
        }
    }

    fn note_failed(&self, op_id: OpId) {
        let mut failed = self.failed.borrow_mut();
        failed.retain(|other| *other != op_id);
        failed.truncate(FAILED - 1);
        failed.push_front(op_id);
    }

    /// Hands a chunk to its write.
    pub(super) async fn pass(&self, op_id: &OpId, data: Vec<u8>) -> Result<(), Unknown> {
        let pieces = self.active.borrow().get(op_id).map(|active| active.pieces.clone());
        match pieces {
            Some(pieces) => _ = pieces.send(Piece::Data(data)).await,
            None if self.failed.borrow().contains(op_id) => {}
            None => return Err(Unknown),
        }
        Ok(())
    }

    /// Tells a write that it is whole.
    pub(super) async fn end(&self, op_id: &OpId) -> Result<(), Unknown> {
        let ended = self.active.borrow_mut().remove(op_id);
        match ended {
            Some(Active { pieces, .. }) => _ = pieces.send(Piece::End).await,
            None => self.forget(op_id)?,
        }
        Ok(())
    }

    fn forget(&self, op_id: &OpId) -> Result<(), Unknown> {
        let mut failed = self.failed.borrow_mut();
        let at = failed.iter().position(|failed| failed == op_id).ok_or(Unknown)?;
        failed.remove(at);
        Ok(())
    }

    /// Gives up the write of this name, if there is one.
    pub(super) fn give_up(&self, op_id: &OpId) {
        self.active.borrow_mut().remove(op_id);
    }

    /// Gives up what has not ended.
    pub(super) fn cut_off(&self) {
        self.active.borrow_mut().clear();
    }

    fn fail(&self, op_id: &OpId, number: u64) {
        let mut active = self.active.borrow_mut();
        if active.get(op_id).is_some_and(|active| active.number == number) {
            active.remove(op_id);
            self.note_failed(op_id.clone());
        }
    }

    /// Carries one write to its end.
    pub(super) async fn run(
        &self,
        mut pieces: Pieces,
        root: Root,
        path: String,
        executable: bool,
        answers: Answers,
        entry: &Entry,
    ) {
        let mode = if executable { 0o755 } else { 0o644 };
        let written = tokio::select! {
            written = receive(&mut pieces.queue, root, path.clone(), mode) => written,
            () = entry.cancelled() => Err(cancelled()),
        };
        let told = match written {
            Ok(Some(bytes_written)) => answers.send(&Answer::FileWriteAck { path: &path, bytes_written }).await,
            // Cut off.
            Ok(None) => Ok(()),
            Err(refusal) => {
                self.fail(&pieces.op_id, pieces.number);
                drop(pieces);
                answers.refuse(&refusal).await
            }
        };
        drop(told);
    }
}

/// Takes a file in; `None` when the client gives it up.
async fn receive(
    pieces: &mut mpsc::Receiver<Piece>,
    root: Root,
    path: String,
    mode: u32,
) -> Result<Option<u64>, Refusal> {
    let mut content = on_worker(move || Content::begin(&root, &path, mode)).await?;
    while let Some(piece) = pieces.recv().await {
        content = match piece {
            Piece::Data(data) => on_worker(move || content.feed(&data)).await?,
            Piece::End => return on_worker(move || content.commit()).await.map(Some),
        };
    }
    Ok(None)
}

/// A file's new content, as far as it has come.
struct Content {
    file: Replacement,
    frame: FrameDecoder,
    written: u64,
}

impl Content {
    fn begin(root: &Root, path: &str, mode: u32) -> Result<Self, Refusal> {
        let frame = FrameDecoder::new().map_err(|error| Refusal::new(ErrorType::Io, error))?;
        let file = Replacement::begin(root, path.as_bytes(), Some(mode), Create::Any)?;
        // Not what the old file had: the client says what it is to be.
        file.set_mode(mode)?;
        Ok(Self { file, frame, written: 0 })
    }

    fn feed(mut self, data: &[u8]) -> Result<Self, Refusal> {
        let (file, written) = (&mut self.file, &mut self.written);
        self.frame.feed(data, |bytes| {
            *written += bytes.len() as u64;
            if *written > LARGEST {
                let message = format!("the file has more than the {} MiB that one may have", LARGEST >> 20);
                return Err(Refusal::new(ErrorType::Io, message));
            }
            Ok::<_, Refusal>(file.write_all(bytes)?)
        })?;
        Ok(self)
    }

    fn commit(self) -> Result<u64, Refusal> {
        self.frame.finish()?;
        self.file.commit()?;
        Ok(self.written)
    }
}
