//! The two pipes between the agent and a driver: requests one way, answers the other.
//!
//! What comes back is cut into records here, and is not to be trusted: code that runs in the interpreter may write to the pipe whatever it
//! likes, if it goes looking for it. Only records that bear the token of the request count; their length is bounded.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use hearth_protocol::limits;
use rustix::pipe::PipeFlags;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// What is read of the answers at a time, in bytes.
const READ: usize = 64 * 1024;
/// The longest record: an event, its token, and the room that JSON needs around it.
const LONGEST: usize = limits::KERNEL_EVENT + 64 * 1024;

/// The agent's ends.
pub(super) struct Control {
    requests: RefCell<Option<Rc<AsyncFd<OwnedFd>>>>,
    answers: AsyncFd<OwnedFd>,
    received: RefCell<Received>,
    /// What stands between two records.
    separator: u8,
}

/// Bytes that have come, up to `searched` without a separator.
#[derive(Default)]
struct Received {
    bytes: Vec<u8>,
    searched: usize,
}

/// The driver's ends.
pub(super) struct DriverEnds {
    pub(super) requests: OwnedFd,
    pub(super) answers: OwnedFd,
}

impl Control {
    /// Makes both pipes.
    pub(super) fn new(separator: u8) -> io::Result<(Self, DriverEnds)> {
        let (their_requests, requests) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (answers, their_answers) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        for ours in [&requests, &answers] {
            rustix::io::ioctl_fionbio(ours, true)?;
        }
        let control = Self {
            requests: RefCell::new(Some(Rc::new(sys::watch(requests)?))),
            answers: sys::watch(answers)?,
            received: RefCell::default(),
            separator,
        };
        Ok((control, DriverEnds { requests: their_requests, answers: their_answers }))
    }

    /// Sends a request. A driver that is gone is noticed by its end, not here.
    pub(super) async fn send(&self, mut bytes: &[u8]) {
        let Some(pipe) = self.requests.borrow().clone() else { return };
        while !bytes.is_empty() {
            let Ok(mut ready) = pipe.writable().await else { return };
            match ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                Ok(Ok(count)) => bytes = &bytes[count..],
                Ok(Err(error)) if error.kind() != io::ErrorKind::Interrupted => return,
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    /// Tells the driver that nothing more will be asked: it ends when it comes to read.
    pub(super) fn hang_up(&self) {
        self.requests.borrow_mut().take();
    }

    /// The next record; `None` when there will be no more, or one is longer than any answer. Cancel-safe.
    pub(super) async fn next(&self) -> Option<Vec<u8>> {
        loop {
            if let Some(record) = self.take() {
                return Some(record);
            }
            let mut ready = self.answers.readable().await.ok()?;
            match ready.try_io(|fd| self.read(fd.get_ref())) {
                Ok(Ok(0)) => return None,
                Ok(Err(error)) if error.kind() != io::ErrorKind::Interrupted => return None,
                Ok(Ok(_)) if self.received.borrow().bytes.len() > LONGEST => return None,
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// The next record that is here already, once the driver has ended.
    pub(super) fn next_now(&self) -> Option<Vec<u8>> {
        loop {
            if let Some(record) = self.take() {
                return Some(record);
            }
            match self.read(self.answers.get_ref()) {
                Ok(count) if count > 0 && self.received.borrow().bytes.len() <= LONGEST => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return None,
            }
        }
    }

    fn read(&self, pipe: &OwnedFd) -> io::Result<usize> {
        let mut received = self.received.borrow_mut();
        received.bytes.reserve(READ);
        Ok(rustix::io::read(pipe, rustix::buffer::spare_capacity(&mut received.bytes))?)
    }

    fn take(&self) -> Option<Vec<u8>> {
        let mut received = self.received.borrow_mut();
        let fresh = &received.bytes[received.searched..];
        let Some(offset) = fresh.iter().position(|&byte| byte == self.separator) else {
            received.searched = received.bytes.len();
            return None;
        };
        let end = received.searched + offset;
        let rest = received.bytes.split_off(end + 1);
        let mut record = std::mem::replace(&mut received.bytes, rest);
        received.searched = 0;
        record.truncate(end);
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs on a runtime, which watching pipes needs.
    fn with_runtime<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    #[test]
    fn answers_are_cut_at_their_separator_wherever_the_pipe_cuts_them() {
        with_runtime(async {
            let (control, theirs) = Control::new(b'\n').unwrap();
            for piece in ["on", "e\n\ntwo", "\nthr"] {
                rustix::io::write(&theirs.answers, piece.as_bytes()).unwrap();
            }
            assert_eq!(control.next().await.unwrap(), b"one");
            assert_eq!(control.next().await.unwrap(), b"");
            assert_eq!(control.next_now().unwrap(), b"two");
            assert_eq!(control.next_now(), None);
            rustix::io::write(&theirs.answers, b"ee\n").unwrap();
            drop(theirs);
            assert_eq!(control.next().await.unwrap(), b"three");
            assert_eq!(control.next().await, None);
        });
    }

    #[test]
    fn a_record_without_an_end_is_given_up_at_the_bound() {
        with_runtime(async {
            let (control, theirs) = Control::new(b'\n').unwrap();
            let flood = std::thread::spawn(move || {
                let piece = [b'x'; 65536];
                (0..2 * LONGEST / piece.len())
                    .take_while(|_| rustix::io::write(&theirs.answers, &piece).is_ok())
                    .count()
            });
            assert_eq!(control.next().await, None);
            assert!(control.received.borrow().bytes.len() <= LONGEST + READ);
            drop(control);
            flood.join().unwrap();
        });
    }
}
