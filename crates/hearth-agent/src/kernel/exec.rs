//! One piece of code, from its turn to its end.
//!
//! What runs it is a task of the kernel's, which a vanished client does not end; what tells the client of it is the request's own.
//! Between them are a few cells and a short queue:
//!
//! ```text
//! request ── waits for its turn ──> task: prepare, send the code, take answers, watch deadline and interrupts
//!    │<── begun: where output is, from which byte ──┤
//!    │<── events ───────────────────────────────────┤
//!    │<── ended: how, and at which byte ────────────┘
//!    └── copies output from the process's rings up to there
//! ```

use std::cell::Cell;
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hearth_protocol::kernel::{KernelError, KernelEvent, KernelExec, KernelRan};
use hearth_protocol::{ErrorCode, Fault, RawString, StreamName, limits};
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;

use super::driver::{Answer, Job};
use super::{Kernel, Live, Taken};
use crate::process::{Cursor, Processes};
use crate::secrets::{Automaton, redact_text};
use crate::session::operation::Outlet;

/// How long an interrupt may go unheeded before it goes to all that the interpreter waits for, too.
const PATIENCE: Duration = Duration::from_millis(150);
/// The events that may wait for a request.
const EVENTS: usize = 2;

/// What the request and the task of one piece of code share.
#[derive(Default)]
pub(super) struct Exec {
    /// Where its output ends, once that is known.
    ends: Cell<Option<[u64; 2]>>,
    ended: Notify,
    interrupted: Notify,
}

/// What a request needs to follow code that has begun.
struct Begun {
    stdout: Cursor,
    stderr: Cursor,
}

impl Exec {
    /// Asks the code to stop.
    pub(super) fn interrupt(&self) {
        self.interrupted.notify_one();
    }

    fn end(&self, ends: [u64; 2]) {
        self.ends.set(Some(ends));
        self.ended.notify_waiters();
    }

    fn end_of(&self, stream: StreamName) -> Option<u64> {
        self.ends.get().map(|ends| ends[usize::from(stream == StreamName::Stderr)])
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
    let exec = Rc::<Exec>::default();
    let (begun_sender, begun) = oneshot::channel();
    let (events_sender, mut events) = mpsc::channel::<Vec<u8>>(EVENTS);
    let (ran_sender, ran) = oneshot::channel();
    let task = {
        let exec = Rc::clone(&exec);
        async move {
            let ran = run_here(&kernel, &processes, &exec, (&request, &code), (begun_sender, events_sender)).await;
            drop(turn);
            let _ = ran_sender.send(ran);
        }
    };
    tokio::task::spawn_local(task);
    let lost = || Fault::failed(ErrorCode::Cancelled, "the agent is ending");
    let Ok(begun) = begun.await else { return ran.await.unwrap_or_else(|_| Err(lost())) };
    let pass_events = async {
        while let Some(line) = events.recv().await {
            outlet.send(StreamName::Data, Bytes::from(line)).await;
        }
    };
    let (dropped_out, dropped_err, (), ran) = tokio::join!(
        outlet.copy(StreamName::Stdout, &begun.stdout, || exec.end_of(StreamName::Stdout), &exec.ended),
        outlet.copy(StreamName::Stderr, &begun.stderr, || exec.end_of(StreamName::Stderr), &exec.ended),
        pass_events,
        ran,
    );
    ran.unwrap_or_else(|_| Err(lost())).map(|ran| KernelRan { dropped: dropped_out + dropped_err, ..ran })
}

type Told = (oneshot::Sender<Begun>, mpsc::Sender<Vec<u8>>);

/// Runs code to its end, whoever listens.
async fn run_here(
    kernel: &Rc<Kernel>,
    processes: &Rc<Processes>,
    exec: &Rc<Exec>,
    (request, code): (&KernelExec, &str),
    (begun, events): Told,
) -> Result<KernelRan, Fault> {
    let env = environment(request, processes)?;
    let (live, fresh) = kernel.ensure_live(processes).await?;
    let [stdout, stderr] = live.outputs();
    let [from_stdout, from_stderr] = live.told.get();
    let _ = begun.send(Begun { stdout: stdout.cursor(from_stdout, true), stderr: stderr.cursor(from_stderr, true) });
    let started = Instant::now();
    kernel.begin(exec);
    let mut error = None;
    let (taken, stopped) = {
        let job = Job::Run { code, env: &env };
        let take = async |answer| {
            let Answer::Event(mut event) = answer else { return };
            if let Some(values) = processes.hidden_in(&live.process) {
                redact(&mut event, &values);
            }
            error = short(&event).or(error.take());
            // Without a listener events go nowhere.
            let _ = events.send(event.to_line()).await;
        };
        let mut talk = pin!(live.talk(&job, take));
        let mut stopped = Stopped::default();
        let taken = tokio::select! {
            taken = &mut talk => taken,
            () = watch(&live, exec, request, &mut stopped) => unreachable!("the watch goes on until the code ends"),
        };
        (taken?, stopped)
    };
    if stopped.killed {
        processes.kill_tree(&live.process).await;
    }
    let duration_us = started.elapsed().as_micros() as u64;
    let ends = live.settle().await;
    live.told.set(ends);
    exec.end(ends);
    let state_lost = kernel.end(&live, &taken);
    let (code, signal, interrupted) = match taken {
        Taken::Done { code, interrupted } => (code, None, interrupted),
        Taken::Ended(status) => (status.shell_code(), status.signal, stopped.interrupted && !state_lost),
    };
    let (kernel, timed_out) = (kernel.name.clone(), stopped.timed_out);
    Ok(KernelRan { kernel, code, signal, error, interrupted, timed_out, fresh, state_lost, dropped: 0, duration_us })
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
    let (mut again, mut kill) = (None, None);
    loop {
        tokio::select! {
            () = exec.interrupted.notified() => {
                live.interrupt(live.waits_for_children());
                again = Some(Instant::now() + PATIENCE);
            }
            () = until(deadline) => {
                deadline = None;
                stopped.timed_out = true;
                live.interrupt(live.waits_for_children());
                again = Some(Instant::now() + PATIENCE);
                kill = after(Some(request.grace_ms.unwrap_or(limits::KERNEL_GRACE_MS)));
            }
            () = until(again) => {
                again = None;
                live.interrupt(true);
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
