//! Two ways for one client: what it asks comes by one, what it is told leaves by the other, and each may break and come again by itself.
//!
//! A *session* lasts as long as one of the two is there. Whoever comes when both have gone is another client, and gets nothing that was
//! meant for the one before: its transfers are given up, and what its code says goes nowhere.
//!
//! ```text
//!   nobody ──one comes──> session ──both have gone──> nobody
//!                        └ events: a line that was not written whole is written again to whoever comes next ┘
//! ```

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::Execution;
use super::lines::Lines;
use super::link::{Link, Outgoing, Way};
use crate::listen::{self, Service};
use crate::session::port::Port;
use crate::session::{Reader, Writer};

/// A pair of ways.
pub(crate) struct Dual {
    execution: Rc<Execution>,
    way: Way,
    session: RefCell<Option<Rc<Session>>>,
}

/// One client's time.
struct Session {
    link: Rc<Link>,
    events: Rc<Events>,
    /// The connections that are there, of either kind.
    present: Cell<usize>,
    writer: AbortHandle,
}

/// A connection's part in a session.
struct Presence<'a> {
    dual: &'a Dual,
    session: Rc<Session>,
}

impl Dual {
    pub(crate) fn new(execution: &Rc<Execution>) -> Rc<Self> {
        Self::with(execution, Way::Connection)
    }

    fn with(execution: &Rc<Execution>, way: Way) -> Rc<Self> {
        Rc::new(Self { execution: Rc::clone(execution), way, session: RefCell::default() })
    }

    /// Speaks on each connection: those by which a client asks, and those by which it is told.
    pub(crate) fn services(self: &Rc<Self>) -> [Service; 2] {
        let (commands, events) = (Rc::clone(self), Rc::clone(self));
        [
            listen::service(move |reader, writer| Rc::clone(&commands).serve_command(reader, writer)),
            listen::service(move |reader, writer| Rc::clone(&events).serve_event(reader, writer)),
        ]
    }

    fn join(&self) -> Presence<'_> {
        let session =
            Rc::clone(self.session.borrow_mut().get_or_insert_with(|| Session::begin(&self.execution, self.way)));
        session.present.set(session.present.get() + 1);
        Presence { dual: self, session }
    }

    /// Serves the way by which a client asks. Nothing is written there.
    async fn serve_command(self: Rc<Self>, reader: Reader, _kept_open: Writer) {
        let presence = self.join();
        presence.session.link.serve(Lines::new(reader, Rc::clone(&self.execution.memory))).await;
    }

    /// Serves the way by which a client is told, as long as it is there, or until it comes anew. What it says there is nothing.
    async fn serve_event(self: Rc<Self>, mut reader: Reader, writer: Writer) {
        let presence = self.join();
        let events = Rc::clone(&presence.session.events);
        let number = events.attach(writer);
        let mut ignored = [0; 1024];
        let gone = async { while matches!(reader.read(&mut ignored).await, Ok(count) if count > 0) {} };
        tokio::select! {
            () = gone => events.detach(number),
            () = events.replaced(number) => {}
        }
    }
}

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        let left = self.session.present.get() - 1;
        self.session.present.set(left);
        if left == 0 {
            self.session.end();
            self.dual.session.take();
        }
    }
}

impl Session {
    fn begin(execution: &Rc<Execution>, way: Way) -> Rc<Self> {
        let (link, outgoing) = Link::new(Rc::clone(execution), way);
        let events = Rc::<Events>::default();
        let writer = tokio::task::spawn_local(write(outgoing, Rc::clone(&events))).abort_handle();
        Rc::new(Self { link, events, present: Cell::new(0), writer })
    }

    fn end(&self) {
        self.link.abandon();
        self.writer.abort();
    }
}

async fn write(mut outgoing: Outgoing, events: Rc<Events>) {
    while let Some(line) = outgoing.next().await {
        while !events.write(&line).await {}
    }
}

/// Where a session's messages go: the connection that came last.
#[derive(Default)]
struct Events {
    writer: RefCell<Option<Writer>>,
    /// Which connection that is, counted from 1.
    number: Cell<u64>,
    /// One has come or gone.
    changed: Notify,
}

impl Events {
    fn attach(&self, writer: Writer) -> u64 {
        self.number.set(self.number.get() + 1);
        self.writer.replace(Some(writer));
        self.changed.notify_waiters();
        self.number.get()
    }

    fn detach(&self, number: u64) {
        if self.number.get() == number {
            self.number.set(number + 1);
            self.writer.take();
            self.changed.notify_waiters();
        }
    }

    async fn replaced(&self, number: u64) {
        loop {
            let changed = self.changed.notified();
            if self.number.get() != number {
                return;
            }
            changed.await;
        }
    }

    /// Writes a line to whoever is there, or comes; false when it was not written whole.
    async fn write(&self, line: &[u8]) -> bool {
        let (number, mut writer) = loop {
            let changed = self.changed.notified();
            if let Some(writer) = self.writer.take() {
                break (self.number.get(), writer);
            }
            changed.await;
        };
        let written = tokio::select! {
            // A port has one waiter: who writes to one that has no host any more would take the word that the next has come from
            // whoever waits for that.
            biased;
            () = self.replaced(number) => false,
            written = writer.write_all(line) => written.is_ok(),
        };
        if written && self.number.get() == number {
            self.writer.replace(Some(writer));
        }
        written
    }
}

/// Serves a pair of virtio-serial ports for the life of the agent.
pub(super) async fn serve_ports(execution: &Rc<Execution>, command: Rc<Port>, event: Rc<Port>) {
    let dual = Dual::with(execution, Way::Port);
    let commands = async {
        while command.wait_for_host().await.is_ok() {
            let (reader, writer) = command.halves();
            Rc::clone(&dual).serve_command(reader, writer).await;
        }
    };
    let events = async {
        let within_line = Rc::<Cell<bool>>::default();
        while event.wait_for_host().await.is_ok() {
            let (reader, writer) = event.halves();
            let lines = WholeLines { writer, within_line: Rc::clone(&within_line), is_new: true };
            Rc::clone(&dual).serve_event(reader, Box::new(lines)).await;
        }
    };
    tokio::join!(commands, events);
}

/// Writes lines to a port. Where the line before was not written whole, it ends that first, so that it is no part of the next.
struct WholeLines {
    writer: Writer,
    /// Whether the port's last byte is not the end of a line.
    within_line: Rc<Cell<bool>>,
    /// Nothing was written yet. Until then the one before it may still write.
    is_new: bool,
}

impl AsyncWrite for WholeLines {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_new && self.within_line.get() {
            ready!(Pin::new(&mut self.writer).poll_write(context, b"\n"))?;
            self.within_line.set(false);
        }
        self.is_new = false;
        let count = ready!(Pin::new(&mut self.writer).poll_write(context, bytes))?;
        if let Some(last) = bytes[..count].last() {
            self.within_line.set(*last != b'\n');
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A port: what any of its writers has written.
    #[derive(Clone, Default)]
    struct Written(Rc<RefCell<Vec<u8>>>);

    impl AsyncWrite for Written {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// A way that has no room, and how often it was asked.
    #[derive(Clone, Default)]
    struct Full(Rc<Cell<usize>>);

    impl AsyncWrite for Full {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            self.0.set(self.0.get() + 1);
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_way_that_has_gone_is_not_asked_for_room_again() {
        let (events, way) = (Events::default(), Full::default());
        let number = events.attach(Box::new(way.clone()));
        let written = async { events.write(b"line\n").await };
        let gone = async {
            assert_eq!(way.0.get(), 1);
            events.detach(number);
        };
        assert!(!tokio::join!(biased; written, gone).0);
        assert_eq!(way.0.get(), 1);
    }

    #[tokio::test]
    async fn a_line_that_was_begun_after_the_next_writer_came_is_ended_by_that_too() {
        let (port, within_line) = (Written::default(), Rc::<Cell<bool>>::default());
        let writer =
            || WholeLines { writer: Box::new(port.clone()), within_line: Rc::clone(&within_line), is_new: true };
        let (mut before, mut next) = (writer(), writer());
        before.write_all(b"one\n{\"half").await.unwrap();
        next.write_all(b"two\n").await.unwrap();
        next.write_all(b"three\n").await.unwrap();
        assert_eq!(*port.0.borrow(), b"one\n{\"half\ntwo\nthree\n");
    }
}
