//! The execution channel: code in three languages, packages and files, as one JSON object a line in both directions.
//!
//! ```text
//!                     ┌─ pong, refusals ────────────────────> express ┐
//! Lines ─> request ─> Link ─ files ─> worker ─┐                       ├─> one connection, or the event port
//!                     └─ exec, install ─> kernel or process ─> queue ──┘
//! ```
//!
//! A [`Link`](link::Link) is one client: a connection of its own ([`serve`]), or a pair of ports whose ends come and go ([`dual`]). What
//! must stay true:
//!
//! - every operation ends with one message that is its last: `complete`, `error`, or the one answer it has;
//! - operations run beside each other; what was asked of one language runs in turn;
//! - a client that does not read holds up what it is to read, and nothing else: no language's turn, no code; what waits for it is bounded;
//! - a client that leaves ends its files' transfers. Its code runs on, to its end or its timeout, as if somebody were listening: the state
//!   is for whoever comes next.

mod answer;
pub(crate) mod dual;
mod exec;
mod interpreter;
mod lines;
mod link;
mod output;
mod packages;
mod read;
mod request;
#[cfg(test)]
mod request_invariant;
mod script;
mod write;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use hearth_files::{FileError, FrameError, Root};
use hearth_protocol::files::FileRoot;
use hearth_protocol::{ErrorCode, Fault};
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore};

use crate::agent::Agent;
use crate::listen::{self, Address, Service};
use crate::session::port::Port;
use crate::session::{Reader, Writer};
use dual::Dual;
use lines::Memory;
use link::{Link, Way};
use output::Held;
use request::{ErrorType, OpId, Refusal};

/// The reference's port on the guest's loopback.
const PORT: u16 = 5000;
/// The names of the reference's virtio-serial ports.
const COMMAND_PORT: &str = "org.dualeai.cmd";
const EVENT_PORT: &str = "org.dualeai.event";
/// The operations of all clients that may be under way.
const OPERATIONS: usize = 256;

/// What all clients of the execution channel share.
pub(crate) struct Execution {
    agent: Rc<Agent>,
    memory: Rc<Memory>,
    held: Rc<Held>,
    places: Arc<Semaphore>,
    running: RefCell<HashMap<u64, Running>>,
    next: Cell<u64>,
    /// Whose turn it is to run code, by language.
    turns: [Mutex<()>; 3],
}

/// An operation under way.
struct Running {
    op_id: Option<OpId>,
    cancel: Rc<Notify>,
}

/// One operation's entry among those under way.
struct Entry {
    execution: Rc<Execution>,
    number: u64,
    cancel: Rc<Notify>,
    /// One of its client's, and one of all clients'.
    _places: [OwnedSemaphorePermit; 2],
}

impl Execution {
    pub(crate) fn new(agent: Rc<Agent>) -> Rc<Self> {
        Rc::new(Self {
            agent,
            memory: Rc::default(),
            held: Rc::default(),
            places: Arc::new(Semaphore::new(OPERATIONS)),
            running: RefCell::default(),
            next: Cell::new(0),
            turns: Default::default(),
        })
    }

    /// Enters an operation among those under way, if there is a place; `own` is its client's.
    fn enter(self: &Rc<Self>, op_id: Option<OpId>, own: OwnedSemaphorePermit) -> Result<Entry, Refusal> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| Refusal::request(format_args!("{OPERATIONS} operations have not ended")))?;
        let (number, cancel) = (self.next.replace(self.next.get() + 1), Rc::<Notify>::default());
        self.running.borrow_mut().insert(number, Running { op_id, cancel: Rc::clone(&cancel) });
        Ok(Entry { execution: Rc::clone(self), number, cancel, _places: [own, place] })
    }

    /// Ends the operations of this name, whoever asked for them; false when there are none.
    fn cancel(&self, op_id: &OpId) -> bool {
        let running = self.running.borrow();
        let named = running.values().filter(|running| running.op_id.as_ref() == Some(op_id));
        named.map(|running| running.cancel.notify_one()).count() > 0
    }

    /// The directory that clients' paths are relative to.
    fn home(&self) -> Result<Root, Refusal> {
        Ok(self.agent.roots.open(FileRoot::Home)?)
    }
}

impl Entry {
    /// Waits until a client wants no more of it.
    async fn cancelled(&self) {
        self.cancel.notified().await;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.execution.running.borrow_mut().remove(&self.number);
    }
}

/// What an operation that a client has cancelled ends with.
fn cancelled() -> Refusal {
    Refusal::new(ErrorType::Execution, "cancelled")
}

/// What is served in a machine, and where: a pair of sockets in `directory`, which the host dials, and the reference's own port.
pub(crate) fn in_machine(execution: &Rc<Execution>, directory: &Path) -> Vec<(Address, Service)> {
    let [commands, events] = Dual::new(execution).services();
    vec![
        (Address::Unix(directory.join("cmd.sock")), commands),
        (Address::Unix(directory.join("event.sock")), events),
        (Address::Tcp(format!("127.0.0.1:{PORT}")), service(execution)),
    ]
}

/// Serves the reference's own pair of virtio-serial ports as soon as the machine has them, for the life of the agent: the host may
/// announce them when all else is there already, or never. `changed` waits for news of devices.
///
/// # Errors
/// When they are there and cannot be opened.
pub(crate) async fn serve_ports(execution: Rc<Execution>, changed: impl AsyncFn() -> io::Result<()>) -> io::Result<()> {
    let open = async |name| {
        loop {
            match Port::open(name)? {
                Some(port) => return Ok::<_, io::Error>(port),
                None => changed().await?,
            }
        }
    };
    let (command, event) = (open(COMMAND_PORT).await?, open(EVENT_PORT).await?);
    dual::serve_ports(&execution, command, event).await;
    Ok(())
}

/// Speaks the dialect on each connection for both directions.
pub(crate) fn service(execution: &Rc<Execution>) -> Service {
    let execution = Rc::clone(execution);
    listen::service(move |reader, writer| serve(Rc::clone(&execution), reader, writer))
}

/// Serves a client that has one connection for both directions.
async fn serve(execution: Rc<Execution>, reader: Reader, mut writer: Writer) {
    let (link, mut outgoing) = Link::new(Rc::clone(&execution), Way::Connection);
    let mut write = std::pin::pin!(outgoing.write_to(&mut writer));
    let lines = lines::Lines::new(reader, Rc::clone(&execution.memory));
    tokio::select! {
        // Nothing can be told any more, so nothing needs to be asked.
        () = &mut write => return,
        () = link.serve(lines) => {}
    }
    // It may listen on although it asks for nothing more.
    let _transfers = link.close();
    write.await;
}

/// Runs what may take long, or block, on a thread of its own. No thread is held between two of a transfer's steps, however long its
/// client takes.
async fn on_worker<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        Err(Refusal::new(ErrorType::Io, format_args!("a worker of the agent's failed: {error}")))
    })
}

impl From<FileError> for Refusal {
    fn from(error: FileError) -> Self {
        Fault::from(error).into()
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let error_type = match fault.code {
            ErrorCode::OutsideRoot | ErrorCode::NameTooLong | ErrorCode::InvalidField => ErrorType::Path,
            _ => ErrorType::Io,
        };
        Self::new(error_type, fault.message)
    }
}

impl From<FrameError> for Refusal {
    fn from(error: FrameError) -> Self {
        Self::new(ErrorType::Io, error)
    }
}
