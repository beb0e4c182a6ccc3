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
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::Execution;
use super::lines::Lines;
use super::link::{Link, Outgoing};
use crate::listen::{self, Service};
use crate::session::port::Port;
use crate::session::{Reader, Writer};

/// A pair of ways.
pub(crate) struct Dual {
    execution: Rc<Execution>,
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
        Rc::new(Self { execution: Rc::clone(execution), session: RefCell::default() })
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
        let session = Rc::clone(self.session.borrow_mut().get_or_insert_with(|| Session::begin(&self.execution)));
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
    fn begin(execution: &Rc<Execution>) -> Rc<Self> {
        let (link, outgoing) = Link::new(Rc::clone(execution));
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
            biased;
            written = writer.write_all(line) => written.is_ok(),
            () = self.replaced(number) => false,
        };
        if written && self.number.get() == number {
            self.writer.replace(Some(writer));
        }
        written
    }
}

/// Serves a pair of virtio-serial ports for the life of the agent.
pub(super) async fn serve_ports(dual: Rc<Dual>, command: Rc<Port>, event: Rc<Port>) {
    let commands = async {
        while command.wait_for_host().await.is_ok() {
            let (reader, writer) = command.halves();
            Rc::clone(&dual).serve_command(reader, writer).await;
        }
    };
    let events = async {
        while event.wait_for_host().await.is_ok() {
            let (reader, writer) = event.halves();
            Rc::clone(&dual).serve_event(reader, writer).await;
        }
    };
    tokio::join!(commands, events);
}
