//! One service: its processes, one after the other, and the task that attends to them.
//!
//! ```text
//!            ┌────────────── wait ◄── restarting ◄──┐ policy
//!            v                                      │
//! start ► starting ──ready──► running ──ends──► ended ──► exited, failed
//!            │ └─ends, not in time─────────────────^
//!            └──────── asked to stop ────────────────────► stopped
//! ```
//!
//! The task alone changes the state. An end is seen by waiting for the process. Whatever a process leaves behind ends with it, so that the next
//! finds its ports and files free.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use hearth_protocol::service::{LogPositions, Readiness, ServiceInfo, ServiceReason, ServiceStart, ServiceState};
use hearth_protocol::{ExitStatus, Fault, Signal, limits};
use tokio::sync::Notify;

use super::log::Log;
use super::policy::{Next, Restarts};
use super::probe;
use crate::process::{Process, Processes, Stopped};
use crate::secrets::{Automaton, Hidden, redact_command, redact_raw};

/// How long the status of a process that was ended may take to be there.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);

/// A service.
pub(super) struct Service {
    start: ServiceStart,
    processes: Rc<Processes>,
    hidden: Hidden,
    life: RefCell<Life>,
    pub(super) stdout: Log,
    pub(super) stderr: Log,
    /// The state, or the process whose output is the end of the log.
    pub(super) changed: Notify,
    /// The grace of a stop that was asked for.
    asked: Cell<Option<Duration>>,
    asking: Notify,
    /// Whether a task attends to it.
    attended: Cell<bool>,
}

/// What there is to say of a service.
struct Life {
    process: Rc<Process>,
    state: ServiceState,
    reason: Option<ServiceReason>,
    failure: Option<String>,
    started_unix_ms: u64,
    ready: Option<(Instant, u64)>,
    ended_unix_ms: Option<u64>,
    exit: Option<ExitStatus>,
    restarts: u64,
}

/// What ended the attendance of one process.
enum End {
    /// It did, itself.
    Itself,
    /// It was not ready in time.
    NotReady,
    /// A stop was asked for.
    Asked(Duration),
}

impl Life {
    fn begin(process: Rc<Process>, restarts: u64) -> Self {
        Self {
            process,
            state: ServiceState::Starting,
            reason: None,
            failure: None,
            started_unix_ms: unix_ms(),
            ready: None,
            ended_unix_ms: None,
            exit: None,
            restarts,
        }
    }

    fn note_end(&mut self, exit: Option<ExitStatus>) {
        (self.exit, self.ended_unix_ms) = (exit, Some(unix_ms()));
    }
}

impl Service {
    /// Starts a service.
    ///
    /// # Errors
    /// As for a process: nothing runs then.
    pub(super) fn start(start: ServiceStart, processes: &Rc<Processes>) -> Result<Rc<Self>, Fault> {
        let process = processes.start(&start.process)?;
        let service = Rc::new(Self {
            hidden: processes.secrets.hide_with(&start.process.redact),
            start,
            processes: Rc::clone(processes),
            life: RefCell::new(Life::begin(Rc::clone(&process), 0)),
            stdout: Log::default(),
            stderr: Log::default(),
            changed: Notify::new(),
            asked: Cell::new(None),
            asking: Notify::new(),
            attended: Cell::new(false),
        });
        service.take_on(&process);
        tokio::task::spawn_local(Rc::clone(&service).attend());
        Ok(service)
    }

    /// Starts one that has ended again, because somebody asked.
    ///
    /// # Errors
    /// As for a process: it stays ended then.
    pub(super) fn start_again(self: &Rc<Self>) -> Result<(), Fault> {
        let process = self.processes.start(&self.start.process)?;
        self.life.replace(Life::begin(Rc::clone(&process), 0));
        self.asked.set(None);
        self.take_on(&process);
        tokio::task::spawn_local(Rc::clone(self).attend());
        Ok(())
    }

    fn take_on(&self, process: &Process) {
        self.attended.set(true);
        self.stdout.follow_with(Rc::clone(&process.stdout));
        self.stderr.follow_with(Rc::clone(&process.stderr));
        self.changed.notify_waiters();
    }

    /// Whether it has ended, and nothing of it is left.
    pub(super) fn is_over(&self) -> bool {
        !self.attended.get()
    }

    /// Whether nothing more will happen by itself.
    pub(super) fn is_final(&self) -> bool {
        self.life.borrow().state.is_final()
    }

    /// Stops it, within `grace` or its own, and waits until nothing of it is left.
    pub(super) async fn stop(&self, grace: Option<Duration>) {
        if !self.is_final() {
            self.asked.set(Some(grace.unwrap_or_else(|| self.grace())));
            self.asking.notify_waiters();
        }
        self.wait_until(Self::is_over).await;
    }

    /// Waits until it is ready, has failed, or waits to be started again.
    pub(super) async fn wait_until_decided(&self) {
        self.wait_until(|service| service.life.borrow().state != ServiceState::Starting).await;
    }

    async fn wait_until(&self, holds: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            if holds(self) {
                return;
            }
            changed.await;
        }
    }

    fn grace(&self) -> Duration {
        Duration::from_millis(self.start.process.grace_ms.unwrap_or(limits::SERVICE_GRACE_MS))
    }

    async fn attend(self: Rc<Self>) {
        let mut restarts = Restarts::new(self.start.restart);
        while let Some(wait) = self.attend_to_one(&mut restarts).await {
            if !self.start_after(wait, &mut restarts).await {
                break;
            }
        }
        self.attended.set(false);
        self.changed.notify_waiters();
    }

    /// Attends to the process there is until nothing of it is left. Returns the wait for the next, if there is to be one.
    async fn attend_to_one(&self, restarts: &mut Restarts) -> Option<Duration> {
        let process = Rc::clone(&self.life.borrow().process);
        match self.watch(&process).await {
            End::Asked(grace) => {
                let reason = match self.end(&process, grace).await {
                    Stopped::InTime => ServiceReason::Sigterm,
                    Stopped::Killed => ServiceReason::Sigkill,
                };
                self.life.borrow_mut().note_end(process.status());
                self.decide(ServiceState::Stopped, Some(reason));
                None
            }
            End::NotReady => {
                self.end(&process, self.grace()).await;
                self.conclude(&process, true, restarts)
            }
            End::Itself => {
                // It is told at once, before what it has left behind is ended.
                let wait = self.conclude(&process, false, restarts);
                self.end(&process, self.grace()).await;
                wait
            }
        }
    }

    async fn watch(&self, process: &Process) -> End {
        let readiness = async {
            if !self.becomes_ready().await {
                return;
            }
            self.life.borrow_mut().ready = Some((Instant::now(), unix_ms()));
            self.decide(ServiceState::Running, None);
            std::future::pending().await
        };
        tokio::select! {
            biased;
            _ = process.wait() => End::Itself,
            grace = self.asked() => End::Asked(grace),
            () = readiness => End::NotReady,
        }
    }

    /// Looks for the readiness until it is there; tells whether that was in time.
    async fn becomes_ready(&self) -> bool {
        let milliseconds = |given: Option<u64>, default| Duration::from_millis(given.unwrap_or(default));
        let Some(readiness) = &self.start.readiness else {
            tokio::time::sleep(Duration::from_millis(limits::SETTLED_MS)).await;
            return true;
        };
        let interval = milliseconds(self.start.ready_interval_ms, limits::READY_INTERVAL_MS);
        let look = async {
            while !probe::is_ready(readiness, &self.start.process, &self.processes).await {
                tokio::time::sleep(interval).await;
            }
        };
        let patience = milliseconds(self.start.ready_timeout_ms, limits::READY_TIMEOUT_MS);
        tokio::time::timeout(patience, look).await.is_ok()
    }

    async fn asked(&self) -> Duration {
        loop {
            let asking = self.asking.notified();
            if let Some(grace) = self.asked.take() {
                return grace;
            }
            asking.await;
        }
    }

    /// Ends a process and all that it has started.
    async fn end(&self, process: &Process, grace: Duration) -> Stopped {
        let stopped = self.processes.stop(process, Signal::Term, grace).await;
        // What even a KILL does not end has no status; that is then all there is to say.
        let _ = tokio::time::timeout(STATUS_PATIENCE, process.wait()).await;
        stopped
    }

    /// Notes that a process has ended, and decides what becomes of the service. Returns the wait for the next process.
    fn conclude(&self, process: &Process, not_in_time: bool, restarts: &mut Restarts) -> Option<Duration> {
        let mut life = self.life.borrow_mut();
        life.note_end(process.status());
        let ready_for = life.ready.map(|(since, _)| since.elapsed());
        let succeeded = life.exit.as_ref().is_some_and(|exit| exit.code == Some(0));
        drop(life);
        let reason = match ready_for {
            _ if not_in_time => Some(ServiceReason::ReadinessTimeout),
            None => Some(ServiceReason::ProcessExitedBeforeReady),
            Some(_) => None,
        };
        self.decide_next(restarts.next(reason.is_some() || !succeeded, ready_for), reason)
    }

    fn decide_next(&self, next: Next, reason: Option<ServiceReason>) -> Option<Duration> {
        match next {
            Next::After(wait) => {
                self.decide(ServiceState::Restarting, reason);
                return Some(wait);
            }
            Next::TooMany => self.decide(ServiceState::Failed, Some(ServiceReason::TooManyRestarts)),
            Next::Stay if reason.is_some() => self.decide(ServiceState::Failed, reason),
            Next::Stay => self.decide(ServiceState::Exited, None),
        }
        None
    }

    /// Starts the next process after `wait`, or as much later as it takes. Tells whether there is one.
    async fn start_after(&self, mut wait: Duration, restarts: &mut Restarts) -> bool {
        loop {
            if tokio::time::timeout(wait, self.asked()).await.is_ok() {
                self.decide(ServiceState::Stopped, None);
                return false;
            }
            match self.processes.start(&self.start.process) {
                Ok(process) => {
                    let restarts = self.life.borrow().restarts + 1;
                    self.life.replace(Life::begin(Rc::clone(&process), restarts));
                    self.take_on(&process);
                    return true;
                }
                Err(fault) => {
                    self.life.borrow_mut().failure = Some(fault.message);
                    match self.decide_next(restarts.next(true, None), Some(ServiceReason::StartFailed)) {
                        Some(longer) => wait = longer,
                        None => return false,
                    }
                }
            }
        }
    }

    fn decide(&self, state: ServiceState, reason: Option<ServiceReason>) {
        let mut life = self.life.borrow_mut();
        (life.state, life.reason) = (state, reason);
        drop(life);
        self.changed.notify_waiters();
    }

    /// Describes it, without what must not be shown.
    pub(super) fn info(&self) -> ServiceInfo {
        let values = self.processes.secrets.automaton(&self.hidden);
        let values = values.as_ref();
        let (life, process) = (self.life.borrow(), &self.start.process);
        ServiceInfo {
            name: self.start.name.clone(),
            command: redact_command(values, &process.command).shortened(limits::LISTED_COMMAND),
            cwd: process.cwd.as_ref().map(|cwd| redact_raw(values, cwd)),
            readiness: self.start.readiness.as_ref().map(|readiness| redact_readiness(values, readiness)),
            state: life.state,
            reason: life.reason,
            failure: life.failure.clone(),
            process: life.process.id,
            pid: life.process.pid,
            started_unix_ms: life.started_unix_ms,
            ready_unix_ms: life.ready.map(|(_, time)| time),
            ended_unix_ms: life.ended_unix_ms,
            exit: life.exit.clone(),
            restarts: life.restarts,
            log: LogPositions { stdout: self.stdout.end(), stderr: self.stderr.end() },
        }
    }
}

fn redact_readiness(values: Option<&Rc<Automaton>>, readiness: &Readiness) -> Readiness {
    let hide = |text: &str| redact_raw(values, &text.into()).to_string_lossy().into_owned();
    match readiness {
        Readiness::File { path } => Readiness::File { path: redact_raw(values, path) },
        Readiness::Tcp { address } => Readiness::Tcp { address: hide(address) },
        Readiness::Http { url } => Readiness::Http { url: hide(url) },
        Readiness::Command { command } => {
            let command = redact_command(values, command).shortened(limits::LISTED_COMMAND);
            Readiness::Command { command }
        }
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
