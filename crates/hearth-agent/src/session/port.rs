//! A virtio-serial port as a byte stream.
//!
//! The kernel reports a port whose host is not connected as hung up, reads nothing from it, and takes that back when a host
//! comes. A runtime that remembers "hung up" for good would spin, so the port sits in an epoll set of its own, edge-triggered, and
//! the runtime waits for that set: each change at the port, a host that goes included, is one event.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::event::epoll;
use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::sys;

/// An open port. It can be opened once only, so it is kept for the life of the agent.
pub(crate) struct Port {
    file: File,
    readable: Edge,
    /// Watched only while a write finds no room, or nobody is there: the kernel has an event for every message that the host has taken.
    /// One task waits for it at a time: a host, or room for what is written to one that is there.
    writable: Edge,
}

/// One kind of event at a port, in an epoll set of its own, so that reader and writer do not take each other's.
struct Edge {
    set: AsyncFd<OwnedFd>,
    interest: epoll::EventFlags,
    watching: Cell<bool>,
}

impl Edge {
    fn new(interest: epoll::EventFlags) -> io::Result<Self> {
        let set = sys::watch(epoll::create(epoll::CreateFlags::CLOEXEC)?)?;
        Ok(Self { set, interest: interest | epoll::EventFlags::ET, watching: Cell::new(false) })
    }

    /// Begins to watch, unless it does already. What is so at this moment counts as a change.
    fn watch(&self, file: &File) -> io::Result<()> {
        if !self.watching.replace(true) {
            epoll::add(self.set.get_ref(), file, epoll::EventData::new_u64(0), self.interest)?;
        }
        Ok(())
    }

    fn unwatch(&self, file: &File) -> io::Result<()> {
        if self.watching.replace(false) {
            epoll::delete(self.set.get_ref(), file)?;
        }
        Ok(())
    }

    /// Waits until something has changed since the last call. May report a change that was seen already, never misses one.
    fn poll_changed(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.set.poll_read_ready(context))?;
            let mut events =
                [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 4];
            let none = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
            match epoll::wait(self.set.get_ref(), &mut events, Some(&none)) {
                Ok(0) => ready.clear_ready(),
                Ok(_) => return Poll::Ready(Ok(())),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

impl Port {
    /// Opens the port named `name`, if the machine has one.
    ///
    /// # Errors
    /// When it is there and cannot be opened.
    pub(crate) fn open(name: &str) -> io::Result<Option<Rc<Self>>> {
        let Some(device) = find(Path::new("/sys/class/virtio-ports"), name) else { return Ok(None) };
        let nonblocking = OFlags::NONBLOCK.bits() as i32;
        let file = OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open(device)?;
        // A host that comes speaks first, and one that leaves is always reported, so data is all that a reader waits for.
        let readable = Edge::new(epoll::EventFlags::IN)?;
        readable.watch(&file)?;
        let writable = Edge::new(epoll::EventFlags::OUT)?;
        Ok(Some(Rc::new(Self { file, readable, writable })))
    }

    /// The port's two halves. Bytes that were read from one pair of halves are gone for the next.
    pub(crate) fn halves(self: &Rc<Self>) -> (super::Reader, super::Writer) {
        (Box::new(PortReader(Rc::clone(self))), Box::new(PortWriter(Rc::clone(self))))
    }

    /// Waits until a host is connected, who need not say anything.
    pub(crate) async fn wait_for_host(&self) -> io::Result<()> {
        while !self.has_host()? {
            self.writable.watch(&self.file)?;
            std::future::poll_fn(|context| self.writable.poll_changed(context)).await?;
        }
        self.writable.unwatch(&self.file)
    }

    fn has_host(&self) -> io::Result<bool> {
        let mut port = [rustix::event::PollFd::new(&self.file, rustix::event::PollFlags::empty())];
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut port, Some(&now))?;
        Ok(!port[0].revents().contains(rustix::event::PollFlags::HUP))
    }

    /// Waits for a change: after an end of file, for a host that speaks.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        std::future::poll_fn(|context| self.readable.poll_changed(context)).await
    }
}

fn find(class: &Path, name: &str) -> Option<PathBuf> {
    let named = |path: &PathBuf| std::fs::read_to_string(path.join("name")).is_ok_and(|text| text.trim_end() == name);
    let entry = std::fs::read_dir(class).ok()?.flatten().map(|entry| entry.path()).find(named)?;
    Some(Path::new("/dev").join(entry.file_name()?))
}

struct PortReader(Rc<Port>);

impl AsyncRead for PortReader {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            match hearth_socket::read(&self.0.file, buffer) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(Errno::AGAIN) => ready!(self.0.readable.poll_changed(context))?,
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

struct PortWriter(Rc<Port>);

impl AsyncWrite for PortWriter {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match rustix::io::write(&self.0.file, bytes) {
                Ok(count) => {
                    self.0.writable.unwatch(&self.0.file)?;
                    return Poll::Ready(Ok(count));
                }
                Err(Errno::AGAIN) => {
                    self.0.writable.watch(&self.0.file)?;
                    ready!(self.0.writable.poll_changed(context))?;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
