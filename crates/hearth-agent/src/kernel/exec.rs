//! One piece of code, from its turn to its end.
//!
//! What runs it is a task of the kernel's, which a vanished client does not end; what tells the client of it is the request's own.
//! Between them is a [`Listener`], which is the request's:
//!
//! ```text
//! request ── waits for its turn ──> task: prepare, send the code, take answers, watch deadline and interrupts
//!    │<── begun: a listener ────────────────────────┤
//!    │    output and events, from the listener      │
//!    │<── ended: how ───────────────────────────────┘
//!    └── the rest of output and events
//! ```
//!
//! Code waits for a listener that does not read, but only code does: at its end, and from an interrupt or its deadline on, the listener
//! has to make do with what is kept for it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;
use hearth_protocol::kernel::{KernelError, KernelEvent, KernelExec, KernelRan};
use hearth_protocol::{ErrorCode, Fault, RawString, StreamName, limits};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::driver::{Answer, Job};
use super::{Kernel, Live, Taken};
use crate::process::{Part, Processes};
use crate::secrets::{Automaton, redact_text};
use crate::session::operation::Outlet;

/// How long an interrupt may go unheeded before it goes to all that the interpreter waits for, too.
const PATIENCE: Duration = Duration::from_millis(150);

/// How often an interrupt goes to a shell and what it waits for, while it goes unheeded. A shell passes over one that comes just when a child
/// of it ends by itself, which short commands in a loop do again and again.
const TRIES: usize = 10;

/// How long an interpreter may take to heed a hint.
const LEISURE: Duration = Duration::from_millis(50);
/// What the events that wait for a request may take, in bytes; one may wait whatever it takes.
const EVENTS: usize = limits::KERNEL_EVENT;

/// What the kernel knows of one piece of code.
#[derive(Default)]
pub(super) struct Exec {
    interrupted: Notify,
    listener: RefCell<Weak<Listener>>,
    /// The listener has taken an event, waits for no more, or is gone.
    room: Notify,
}

/// What a request follows code by.
struct Listener {
    exec: Rc<Exec>,
    stdout: Part,
    stderr: Part,
    events: RefCell<VecDeque<Vec<u8>>>,
    /// The bytes of `events`.
    waiting: Cell<usize>,
    /// Those that there was no room for.
    dropped: Cell<u64>,
    /// The code does not wait for it any more.
    let_go: Cell<bool>,
    ended: Cell<bool>,
    /// Without it the code is given up.
    is_needed: bool,
    changed: Notify,
}

impl Exec {
    /// Asks the code to stop.
    pub(super) fn interrupt(&self) {
        self.interrupted.notify_one();
    }

    fn listener(&self) -> Option<Rc<Listener>> {
        self.listener.borrow().upgrade()
    }

    /// Has the code wait for its listener no longer.
    pub(super) fn let_go(&self) {
        if let Some(listener) = self.listener() {
            listener.let_go.set(true);
            listener.stdout.let_go();
            listener.stderr.let_go();
            self.room.notify_waiters();
        }
    }

    /// Tells the listener of an event, once there is room. Without a listener events go nowhere.
    async fn tell(&self, line: Vec<u8>) {
        loop {
            let room = self.room.notified();
            let Some(listener) = self.listener() else { return };
            if listener.has_room(line.len()) {
                return listener.take_in(line);
            }
            if listener.let_go.get() {
                return listener.dropped.set(listener.dropped.get() + line.len() as u64);
            }
            drop(listener);
            room.await;
        }
    }

    /// Ends the code's output where `live` has written to.
    async fn end(&self, live: &Live) -> [u64; 2] {
        let Some(listener) = self.listener() else { return live.settle().await };
        let ends = tokio::join!(listener.stdout.end(), listener.stderr.end());
        listener.ended.set(true);
        listener.changed.notify_waiters();
        ends.into()
    }
}

impl Listener {
    fn new(exec: &Rc<Exec>, live: &Live, is_needed: bool) -> Rc<Self> {
        let ([stdout, stderr], [from_stdout, from_stderr]) = (live.outputs(), live.told.get());
        let listener = Rc::new(Self {
            exec: Rc::clone(exec),
            stdout: Part::new(stdout, from_stdout),
            stderr: Part::new(stderr, from_stderr),
            events: RefCell::default(),
            waiting: Cell::new(0),
            dropped: Cell::new(0),
            let_go: Cell::new(false),
            ended: Cell::new(false),
            is_needed,
            changed: Notify::new(),
        });
        *exec.listener.borrow_mut() = Rc::downgrade(&listener);
        listener
    }

    fn has_room(&self, length: usize) -> bool {
        self.waiting.get() == 0 || self.waiting.get() + length <= EVENTS
    }

    fn take_in(&self, line: Vec<u8>) {
        self.waiting.set(self.waiting.get() + line.len());
        self.events.borrow_mut().push_back(line);
        self.changed.notify_waiters();
    }

    async fn next_event(&self) -> Option<Vec<u8>> {
        loop {
            let changed = self.changed.notified();
            let line = self.events.borrow_mut().pop_front();
            if let Some(line) = line {
                self.waiting.set(self.waiting.get() - line.len());
                self.exec.room.notify_waiters();
                return Some(line);
            }
            if self.ended.get() {
                return None;
            }
            changed.await;
        }
    }

    /// Passes everything on, to the end.
    async fn pass_on(&self, outlet: &Outlet) {
        let output = async |stream, part: &Part| {
            while let Some(bytes) = part.next().await {
                outlet.send(stream, bytes).await;
            }
        };
        let events = async {
            while let Some(line) = self.next_event().await {
                outlet.send(StreamName::Data, Bytes::from(line)).await;
            }
        };
        tokio::join!(output(StreamName::Stdout, &self.stdout), output(StreamName::Stderr, &self.stderr), events);
    }

    /// What of the output and the events it could not be told.
    fn dropped(&self) -> u64 {
        self.stdout.dropped() + self.stderr.dropped() + self.dropped.get()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.exec.room.notify_waiters();
        if self.is_needed {
            // Code that has ended takes no notice.
            self.exec.interrupt();
        }
    }
}

/// Runs code in `kernel`, whose turn it is, and tells `outlet` of it.
pub(super) async fn run(
    kernel: Rc<Kernel>,
    processes: Rc<Processes>,
    turn: OwnedSemaphorePermit,
    (request, code): (KernelExec, String),
    outlet: Outlet,
) -> Result<KernelRan, Fault> {
    let (begun_sender, begun) = oneshot::channel();
    let (ran_sender, ran) = oneshot::channel();
    let task = async move {
        let ran = run_here(&kernel, &processes, (&request, &code), begun_sender).await;
        drop(turn);
        let _ = ran_sender.send(ran);
    };
    tokio::task::spawn_local(task);
    let ran = async { ran.await.unwrap_or_else(|_| Err(Fault::failed(ErrorCode::Cancelled, "the agent is ending"))) };
    let Ok(listener) = begun.await else { return ran.await };
    let (ran, ()) = tokio::join!(ran, listener.pass_on(&outlet));
    ran.map(|ran| KernelRan { dropped: listener.dropped(), ..ran })
}

/// Runs code to its end, whoever listens.
async fn run_here(
    kernel: &Rc<Kernel>,
    processes: &Rc<Processes>,
    (request, code): (&KernelExec, &str),
    begun: oneshot::Sender<Rc<Listener>>,
) -> Result<KernelRan, Fault> {
    let env = environment(request, processes)?;
    let (live, fresh) = kernel.ensure_live(processes).await?;
    let exec = Rc::<Exec>::default();
    let listens = begun.send(Listener::new(&exec, &live, request.cancel_on_detach)).is_ok();
    if request.cancel_on_detach && !listens {
        return Err(Fault::failed(ErrorCode::Cancelled, "nobody waits for this code any more"));
    }
    let started = Instant::now();
    kernel.begin(&live, &exec);
    let mut error = None;
    let (taken, stopped) = {
        let job = Job::Run { code, env: &env };
        let take = async |answer| {
            let Answer::Event(mut event) = answer else { return };
            if let Some(values) = processes.hidden_in(&live.process) {
                redact(&mut event, &values);
            }
            error = short(&event).or(error.take());
            exec.tell(event.to_line()).await;
        };
        let mut talk = pin!(live.talk(&job, take, || exec.let_go()));
        let mut stopped = Stopped::default();
        let taken = tokio::select! {
            taken = &mut talk => taken,
            () = watch(&live, &exec, request, &mut stopped) => unreachable!("the watch goes on until the code ends"),
        };
        (taken?, stopped)
    };
    if stopped.killed {
        processes.kill_tree(&live.process).await;
    }
    let duration_us = started.elapsed().as_micros() as u64;
    live.told.set(exec.end(&live).await);
    let state_lost = kernel.end(&live, &taken);
    let (code, signal, interrupted, out_of_memory) = match taken {
        Taken::Done { code, interrupted } => (code, None, interrupted, false),
        Taken::Ended(status) => {
            (status.shell_code(), status.signal, stopped.interrupted && !state_lost, status.out_of_memory)
        }
    };
    Ok(KernelRan {
        kernel: kernel.name.clone(),
        code,
        signal,
        error,
        interrupted,
        timed_out: stopped.timed_out,
        out_of_memory,
        fresh,
        state_lost,
        dropped: 0,
        duration_us,
    })
}

/// The variables that code is given, secrets included.
fn environment(request: &KernelExec, processes: &Processes) -> Result<BTreeMap<String, RawString>, Fault> {
    let mut env = request.env.clone();
    for (variable, secret) in &request.secrets {
        env.insert(variable.clone(), processes.secrets.variable(secret)?);
    }
    Ok(env)
}

/// An error in short.
fn short(event: &KernelEvent) -> Option<KernelError> {
    let KernelEvent::Error { name, value, .. } = event else { return None };
    let short = |text: &str| text.chars().take(limits::MESSAGE).collect();
    Some(KernelError { name: short(name), value: short(value) })
}

/// Hides values in all text of an event.
fn redact(event: &mut KernelEvent, values: &Rc<Automaton>) {
    event.change_texts(&mut |text| {
        if let Some(redacted) = redact_text(values, text) {
            *text = redacted;
        }
    });
}

#[derive(Default)]
struct Stopped {
    interrupted: bool,
    timed_out: bool,
    killed: bool,
}

/// Interrupts the code when that is asked for or its deadline has passed, and kills the kernel when the second is of no use. Never
/// returns.
async fn watch(live: &Live, exec: &Exec, request: &KernelExec, stopped: &mut Stopped) {
    let after = |ms: Option<u64>| ms.map(|ms| Instant::now() + Duration::from_millis(ms));
    let mut deadline = after(request.timeout_ms);
    let (mut now, mut again, mut kill) = (None, None, None);
    let mut tries = 0;
    loop {
        tokio::select! {
            () = exec.interrupted.notified() => {
                exec.let_go();
                now = Some(Instant::now() + if live.hint_interrupt() { LEISURE } else { Duration::ZERO });
            }
            () = until(deadline) => {
                deadline = None;
                stopped.timed_out = true;
                exec.let_go();
                now = Some(Instant::now() + if live.hint_interrupt() { LEISURE } else { Duration::ZERO });
                kill = after(Some(request.grace_ms.unwrap_or(limits::KERNEL_GRACE_MS)));
            }
            () = until(now) => {
                now = None;
                live.interrupt(live.waits_for_children());
                again = Some(Instant::now() + PATIENCE);
                tries = if live.waits_for_children() { TRIES } else { 1 };
            }
            () = until(again) => {
                live.interrupt(true);
                tries -= 1;
                again = (tries > 0).then(|| Instant::now() + PATIENCE);
            }
            () = until(kill) => {
                kill = None;
                stopped.killed = true;
                live.kill();
            }
        }
        stopped.interrupted = true;
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
