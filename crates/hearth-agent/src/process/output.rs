//! One output stream of a process: a pump that empties the pipe into a ring, and followers that read the ring.
//!
//! Where there are values to hide, a [`Redactor`] stands between the pipe and the ring, so that nothing that was to be hidden is ever kept; positions
//! count what is kept. Where there are none the pipe is read straight into the ring.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use hearth_protocol::Budget;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::ring::{Memory, Ring};
use crate::secrets::{Automaton, Redactor};

/// The most that is sent in one chunk, in bytes. With its header that is two messages of a virtio-serial port, which takes
/// 32 KiB each, and not two and a bit.
pub(crate) const OUTPUT_PIECE: usize = 64 * 1024 - 256;
/// What is read at a time of a stream's beginning, and of one in which values are hidden, in bytes.
const SCRATCH_SIZE: usize = 64 * 1024;
/// The least that a redactor must be able to take before it is given any.
const FEED: usize = 4096;

/// What is read of one stream before others have their turn, in bytes.
const TURN: usize = 512 * 1024;
/// For how long that is done where each byte is looked at, for a screen or for values to hide: it takes many times as long as reading it.
const LOOKED_AT_TURN: Duration = Duration::from_millis(1);

thread_local! {
    /// One buffer for all streams: what is read is in a ring, or held by a redactor, before anything else runs.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_SIZE].into_boxed_slice());
}

/// An output stream.
pub(crate) struct Output {
    ring: RefCell<Ring>,
    redactor: RefCell<Option<Redactor>>,
    /// The bytes that were read, as the process wrote them.
    taken: Cell<u64>,
    /// Where a lossless follower stands; the pump never overtakes one by more than the ring holds.
    lossless: RefCell<Vec<Weak<Cell<u64>>>>,
    /// More bytes, or the end.
    pub(crate) changed: Notify,
    /// A lossless follower moved on or left.
    room: Notify,
    /// Where the stream ends for whoever waits for the process; bytes may still come from children it left behind.
    end: Cell<Option<u64>>,
    /// Once the process has exited: how many bytes are taken when all its own are.
    drain_to: Cell<Option<u64>>,
    /// How many bytes are taken whether there is room before the lossless followers or not.
    unheld_to: Cell<u64>,
    closed: Cell<bool>,
    /// Who is shown every byte that is kept, and where it stands.
    tap: RefCell<Option<(u64, Tap)>>,
    /// The pipe that is emptied, as long as it is.
    pipe: RefCell<Weak<AsyncFd<OwnedFd>>>,
}

/// Takes all bytes of a stream in their order, before anything else can happen to them.
type Tap = Box<dyn FnMut(&[u8])>;

/// A place in an output stream.
pub(crate) struct Cursor {
    output: Rc<Output>,
    position: Rc<Cell<u64>>,
}

impl Output {
    /// Makes a stream with nothing in it, in which `hidden` are hidden and of which `budget` is kept.
    pub(super) fn new(budget: Budget, memory: Rc<Memory>, hidden: Option<Rc<Automaton>>) -> Rc<Self> {
        Rc::new(Self {
            ring: RefCell::new(Ring::new(budget, memory)),
            redactor: RefCell::new(hidden.map(Redactor::new)),
            taken: Cell::new(0),
            lossless: RefCell::default(),
            changed: Notify::new(),
            room: Notify::new(),
            end: Cell::new(None),
            drain_to: Cell::new(None),
            unheld_to: Cell::new(0),
            closed: Cell::new(false),
            tap: RefCell::default(),
            pipe: RefCell::default(),
        })
    }

    /// Makes a stream that has ended already: the error output of a process on a terminal.
    pub(super) fn empty(memory: Rc<Memory>) -> Rc<Self> {
        let output = Self::new(Budget::default(), memory, None);
        output.close();
        output
    }

    /// Makes a stream that no process writes.
    #[cfg(test)]
    pub(crate) fn alone() -> Rc<Self> {
        Self::new(Budget::default(), Memory::new(usize::MAX), None)
    }

    /// Keeps bytes as if the process had written them.
    #[cfg(test)]
    pub(crate) fn write(&self, bytes: &[u8]) {
        self.ring.borrow_mut().write(bytes);
    }

    /// Hides other values from now on.
    pub(crate) fn hide(&self, values: Option<Rc<Automaton>>) {
        let mut redactor = self.redactor.borrow_mut();
        let mut ring = self.ring.borrow_mut();
        let mut keep = |bytes: &[u8]| ring.write(bytes);
        match (redactor.as_mut(), values) {
            (Some(redactor), Some(values)) => redactor.replace_values(values, &mut keep),
            (Some(old), None) => {
                old.flush(&mut keep);
                *redactor = None;
            }
            (None, values) => *redactor = values.map(Redactor::new),
        }
        drop((ring, redactor));
        self.show();
        self.changed.notify_waiters();
    }

    /// The bytes written so far.
    pub(crate) fn total(&self) -> u64 {
        self.ring.borrow().total()
    }

    /// The bytes that were written and are no longer kept, up to the stream's end.
    pub(crate) fn dropped(&self) -> u64 {
        self.ring.borrow().dropped(self.end.get().unwrap_or(u64::MAX))
    }

    /// Waits until all that was written when this is called is taken out of the pipe, and returns the position behind it. What could be the
    /// beginning of a hidden value stands behind that: it is shown when it turns out to be none.
    pub(crate) async fn settle(&self) -> u64 {
        let pipe = self.pipe.borrow().upgrade();
        let written = self.taken.get() + pipe.and_then(|pipe| bytes_waiting(pipe.get_ref()).ok()).unwrap_or(0);
        loop {
            let changed = self.changed.notified();
            if self.taken.get() >= written || self.closed.get() {
                return self.total();
            }
            changed.await;
        }
    }

    /// The memory in use.
    pub(crate) fn memory(&self) -> usize {
        self.ring.borrow().memory()
    }

    /// Whether more may come.
    pub(crate) fn is_open(&self) -> bool {
        !self.closed.get()
    }

    /// The end of what is kept, at most `limit` bytes, as text for people.
    pub(crate) fn last(&self, limit: usize) -> String {
        let ring = self.ring.borrow();
        let mut from = ring.total().saturating_sub(limit as u64);
        let mut text = Vec::with_capacity(limit);
        while let Some((at, piece)) = ring.read(from, limit) {
            text.extend_from_slice(piece);
            from = at + piece.len() as u64;
        }
        String::from_utf8_lossy(&text).trim().to_owned()
    }

    /// Where the stream ends, once that is known.
    pub(crate) fn end(&self) -> Option<u64> {
        self.end.get()
    }

    /// Shows `tap` every byte from here on.
    pub(crate) fn set_tap(&self, tap: impl FnMut(&[u8]) + 'static) {
        *self.tap.borrow_mut() = Some((self.total(), Box::new(tap)));
    }

    /// Ends what [`Self::set_tap`] began.
    pub(crate) fn clear_tap(&self) {
        self.tap.borrow_mut().take();
    }

    /// Shows the tap what is new in the ring.
    fn show(&self) {
        if let Some((position, tap)) = &mut *self.tap.borrow_mut() {
            let ring = self.ring.borrow();
            while let Some((at, piece)) = ring.read(*position, usize::MAX) {
                tap(piece);
                *position = at + piece.len() as u64;
            }
        }
    }

    /// The first bytes kept at or after `from`, at most `limit` and as far as they go without a gap, and the position of the first.
    pub(crate) fn piece(&self, from: u64, limit: usize) -> (u64, Vec<u8>) {
        let ring = self.ring.borrow();
        let Some((at, first)) = ring.read(from, limit) else { return (from, Vec::new()) };
        let mut piece = first.to_vec();
        while let Some((next, more)) = ring.read(at + piece.len() as u64, limit - piece.len())
            && next == at + piece.len() as u64
            && !more.is_empty()
        {
            piece.extend_from_slice(more);
        }
        (at, piece)
    }

    /// Waits until there is a byte at or behind `from`, or it is known that the stream ends before it.
    pub(crate) async fn wait_beyond(&self, from: u64) {
        loop {
            let changed = self.changed.notified();
            if self.total() > from || self.end.get().is_some() {
                return;
            }
            changed.await;
        }
    }

    /// Stands a reader at `position`; while a lossless one lives, the process waits rather than lose a byte of it.
    pub(crate) fn cursor(self: &Rc<Self>, position: u64, lossless: bool) -> Cursor {
        let position = Rc::new(Cell::new(position));
        if lossless {
            self.lossless.borrow_mut().push(Rc::downgrade(&position));
        }
        Cursor { output: Rc::clone(self), position }
    }

    /// Makes a ring that keeps `budget` and takes from the same memory.
    pub(super) fn ring_beside(&self, budget: Budget) -> Ring {
        self.ring.borrow().beside(budget)
    }

    /// Empties `pipe` into the ring until its end.
    pub(crate) async fn pump(self: Rc<Self>, pipe: Rc<AsyncFd<OwnedFd>>) {
        let (mut turn, mut begun) = (0, Instant::now());
        *self.pipe.borrow_mut() = Rc::downgrade(&pipe);
        loop {
            let Ok(mut ready) = pipe.readable().await else { break };
            let room = self.wait_for_room().await;
            match ready.try_io(|fd| self.read_once(fd.get_ref(), room)) {
                Ok(Ok(0)) => break,
                Ok(Err(error)) if error.kind() != io::ErrorKind::Interrupted => break,
                Ok(Ok(count)) => turn += count,
                Ok(Err(_)) | Err(_) => {}
            }
            // A process that writes as fast as it is read must not keep everybody else from their turn.
            if turn >= TURN || self.is_looked_at() && begun.elapsed() >= LOOKED_AT_TURN {
                tokio::task::yield_now().await;
                (turn, begun) = (0, Instant::now());
            }
        }
        self.close();
    }

    fn is_looked_at(&self) -> bool {
        self.tap.borrow().is_some() || self.redactor.borrow().is_some()
    }

    /// Reads once; 0 is the end. A terminal whose last user has left says EIO instead.
    fn read_once(&self, pipe: &OwnedFd, room: usize) -> io::Result<usize> {
        let mut ring = self.ring.borrow_mut();
        let mut redactor = self.redactor.borrow_mut();
        let count = match redactor.as_mut() {
            Some(redactor) => read_to_scratch(pipe, redactor.most(room).max(FEED), |bytes| {
                redactor.feed(bytes, &mut |shown| ring.write(shown));
            })?,
            None if ring.is_past_head() => ring.fill(room, |place| rustix::io::read(pipe, place))?,
            None => read_to_scratch(pipe, room, |bytes| ring.write(bytes))?,
        };
        drop((ring, redactor));
        self.taken.set(self.taken.get() + count as u64);
        self.show();
        self.note_drained();
        self.changed.notify_waiters();
        Ok(count)
    }

    fn close(&self) {
        self.closed.set(true);
        self.note_drained();
        self.changed.notify_waiters();
    }

    fn note_drained(&self) {
        let drained = self.closed.get() || self.drain_to.get().is_some_and(|target| self.taken.get() >= target);
        if drained && self.end.get().is_none() {
            self.flush();
            self.end.set(Some(self.total()));
        } else if self.closed.get() {
            self.flush();
        }
    }

    /// Keeps what was held back because it could have been the beginning of a hidden value.
    fn flush(&self) {
        if let Some(redactor) = self.redactor.borrow_mut().as_mut() {
            let mut ring = self.ring.borrow_mut();
            redactor.flush(&mut |bytes| ring.write(bytes));
        }
        self.show();
    }

    async fn wait_for_room(&self) -> usize {
        loop {
            let moved = self.room.notified();
            self.ring.borrow_mut().prepare();
            let room = self.room_now();
            if let Some(needed) = self.needed_by_rest() {
                self.ring.borrow_mut().extend(needed.saturating_sub(room));
                return room.max(needed);
            }
            // Not less: a nearly full ring would be filled byte by byte, with a switch to the process and back each time.
            let held = self.redactor.borrow().as_ref().map_or(0, |redactor| redactor.room_for(FEED));
            let (fill, window) = (self.ring.borrow().fill_limit(), self.ring.borrow().window());
            // Not more than there is: a tail too small for all that a mark could make of what is held shows a gap instead.
            if room >= fill.max(held).min(window) {
                return room;
            }
            moved.await;
        }
    }

    fn room_now(&self) -> usize {
        let ring = self.ring.borrow();
        let mut room = usize::MAX;
        self.lossless.borrow_mut().retain(|follower| {
            let position = follower.upgrade();
            room = room.min(position.as_ref().map_or(usize::MAX, |position| ring.room_before(position.get())));
            position.is_some()
        });
        room
    }

    /// The room that the next read needs of what is taken whoever is slow.
    fn needed_by_rest(&self) -> Option<usize> {
        let left = self.unheld_to.get().saturating_sub(self.taken.get());
        let next = left.min(SCRATCH_SIZE as u64) as usize;
        (left > 0).then(|| self.redactor.borrow().as_ref().map_or(next, |redactor| redactor.room_for(next)))
    }

    /// Has the next `bytes` be taken at once, whoever is slow to read: nothing more holds their writer back. The ring grows by what it must so
    /// that lossless followers find them all the same; where it may not, they find a gap.
    pub(super) fn take_rest(&self, bytes: u64) {
        self.unheld_to.set(self.taken.get() + bytes);
        self.room.notify_waiters();
    }

    /// Tells the stream that its process has exited, and waits until all that the process itself wrote is in the ring, which no follower
    /// delays. What is in the pipe at this moment is that, and perhaps some bytes of children that still hold the pipe.
    pub(crate) async fn drain(&self, pipe: Option<&AsyncFd<OwnedFd>>) {
        let waiting = pipe.and_then(|pipe| bytes_waiting(pipe.get_ref()).ok()).unwrap_or(0);
        self.drain_to.set(Some(self.taken.get() + waiting));
        self.take_rest(waiting);
        self.note_drained();
        self.wait_for_end().await;
    }

    /// Waits until the stream has ended.
    pub(crate) async fn wait_for_end(&self) {
        loop {
            let changed = self.changed.notified();
            if self.end.get().is_some() {
                return self.changed.notify_waiters();
            }
            changed.await;
        }
    }

    /// Ends the stream where it stands.
    pub(crate) fn end_now(&self) {
        self.drain_to.set(Some(0));
        self.note_drained();
        self.changed.notify_waiters();
    }
}

/// Reads once, and hands on what was read.
fn read_to_scratch(pipe: &OwnedFd, room: usize, take: impl FnOnce(&[u8])) -> io::Result<usize> {
    SCRATCH.with_borrow_mut(|scratch| {
        let count = rustix::io::read(pipe, &mut scratch[..SCRATCH_SIZE.min(room)])?;
        take(&scratch[..count]);
        Ok(count)
    })
}

fn bytes_waiting(fd: &OwnedFd) -> Result<u64, Errno> {
    rustix::io::ioctl_fionread(fd)
}

impl Cursor {
    /// Where it stands.
    pub(crate) fn position(&self) -> u64 {
        self.position.get()
    }

    /// The stream it reads.
    pub(crate) fn output(&self) -> &Output {
        &self.output
    }

    /// Has the process wait for this reader no longer.
    pub(crate) fn release(&self) {
        let is_other = |other: &Weak<Cell<u64>>| !std::ptr::eq(other.as_ptr(), Rc::as_ptr(&self.position));
        self.output.lossless.borrow_mut().retain(is_other);
        self.output.room.notify_waiters();
    }

    /// Hands the next bytes, at most `limit` and with their position, to `take`, and moves behind them.
    pub(crate) fn read<T>(&self, limit: usize, take: impl FnOnce(u64, &[u8]) -> T) -> Option<T> {
        let ring = self.output.ring.borrow();
        let (at, piece) = ring.read(self.position.get(), limit)?;
        self.position.set(at + piece.len() as u64);
        let taken = take(at, piece);
        self.output.room.notify_waiters();
        Some(taken)
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        // The weak reference dies with `position`, which is dropped after this: replace it first, so that the pump sees it gone.
        self.position = Rc::default();
        self.output.room.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::sys;

    #[tokio::test]
    async fn others_have_their_turn_sooner_where_each_byte_is_looked_at() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let held = rustix::pipe::fcntl_setpipe_size(&read, 2 * TURN).unwrap();
        rustix::io::ioctl_fionbio(&read, true).unwrap();
        std::fs::File::from(write).write_all(&vec![b'x'; held]).unwrap();
        let hidden = Automaton::new([b"secret".as_slice()]).map(Rc::new);
        let output = Output::new(Budget::default(), Memory::new(usize::MAX), hidden);
        output.set_tap(|_| std::thread::sleep(LOOKED_AT_TURN));
        let tasks = tokio::task::LocalSet::new();
        tasks.spawn_local(Rc::clone(&output).pump(Rc::new(sys::watch(read).unwrap())));
        let others = async {
            let (mut before, mut most) = (0, 0);
            while output.is_open() {
                most = most.max(output.total() - before);
                before = output.total();
                tokio::task::yield_now().await;
            }
            (before, most)
        };
        let (taken, most) = tasks.run_until(others).await;
        assert_eq!(taken, held as u64);
        assert!(most <= SCRATCH_SIZE as u64, "{most} in one turn");
    }
}
