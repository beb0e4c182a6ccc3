//! Processes: started, watched, remembered. The one primitive that shells, services and kernels are made of.
//!
//! A process belongs to the agent, not to the connection that started it. Three tasks serve it: a pump for each output
//! ([`output`]), one that feeds its input ([`input`]), and a supervisor that waits for its end or its deadline:
//!
//! ```text
//! running ──exited──────────────────────────────────────> drained ──> ended
//!    └─deadline─> TERM to the tree ─grace─> KILL ─empty──────┘
//! ```
//!
//! Everything runs on one thread, so that between two awaits nothing changes.

mod input;
mod output;
mod ring;
mod spawn;
mod tree;
mod users;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hearth_protocol::{
    Command, ErrorCode, ExitStatus, Fault, OutputTotals, ProcessId, ProcessInfo, ProcessState, PtySize, RawString,
    Signal, SignalScope, Start, limits,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::secrets::{Automaton, Change, Hidden, Secrets, redact_command, redact_fault};
use crate::sys::{self, Reaped};
pub(crate) use input::{Input, Intake, Piece};
pub(crate) use output::{Cursor, OUTPUT_PIECE, Output};
use spawn::Surroundings;
pub(crate) use spawn::{Defaults, home_of};
pub(crate) use tree::Trees;
use tree::{Group, Tree};
pub(crate) use users::User;

/// The ended processes that are remembered.
const REMEMBERED: usize = 256;
/// The memory that the output of ended processes may take, in bytes.
const REMEMBERED_MEMORY: usize = 16 * 1024 * 1024;
/// How long a killed tree may take to be gone before its end is reported all the same: a process in an uninterruptible
/// wait of the kernel dies later.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// How long the rest of a terminal's output may take once its process has exited.
const TERMINAL_PATIENCE: Duration = Duration::from_secs(1);

/// A process that was started.
pub(crate) struct Process {
    pub(crate) id: ProcessId,
    pub(crate) pid: u32,
    /// As it may be shown.
    command: RefCell<Command>,
    hidden: Hidden,
    tree: Tree,
    pub(crate) stdout: Rc<Output>,
    pub(crate) stderr: Rc<Output>,
    pub(crate) input: Option<Rc<Input>>,
    terminal: Option<Rc<AsyncFd<OwnedFd>>>,
    started: Instant,
    reaped: Cell<Option<Reaped>>,
    status: RefCell<Option<ExitStatus>>,
    /// Whether it is forgotten as soon as it has ended.
    passing: Cell<bool>,
    /// The status is there.
    ended: Notify,
}

/// The output descriptors that the supervisor looks into when the process has exited.
struct Pipes {
    stdout: Rc<AsyncFd<OwnedFd>>,
    stderr: Option<Rc<AsyncFd<OwnedFd>>>,
}

/// All processes of an agent.
pub(crate) struct Processes {
    defaults: Defaults,
    trees: Rc<Trees>,
    pub(crate) secrets: Rc<Secrets>,
    /// Variables of every process.
    variables: RefCell<BTreeMap<String, RawString>>,
    next: Cell<u64>,
    /// The agent is about to end: nothing is started any more.
    ending: Cell<bool>,
    all: RefCell<BTreeMap<ProcessId, Rc<Process>>>,
    by_pid: RefCell<HashMap<u32, Rc<Process>>>,
    /// Some child was reaped.
    reaped: Notify,
}

impl Processes {
    /// Makes the table. Its caller must run [`Processes::reap`] beside everything else.
    pub(crate) fn new(defaults: Defaults, trees: Rc<Trees>, secrets: Rc<Secrets>) -> Rc<Self> {
        Rc::new(Self {
            defaults,
            trees,
            secrets,
            variables: RefCell::default(),
            next: Cell::new(1),
            ending: Cell::new(false),
            all: RefCell::default(),
            by_pid: RefCell::default(),
            reaped: Notify::new(),
        })
    }

    /// How process trees are tracked.
    pub(crate) fn describe_trees(&self) -> String {
        self.trees.describe()
    }

    /// Starts a process.
    ///
    /// # Errors
    /// A [`Fault`] that says nothing has run.
    pub(crate) fn start(self: &Rc<Self>, start: &Start) -> Result<Rc<Process>, Fault> {
        let started = Instant::now();
        if self.ending.get() {
            return Err(Fault::never_started(ErrorCode::Busy, "the agent is about to end"));
        }
        let tree = self.trees.prepare();
        let group = tree.group();
        let variables = self.variables.borrow();
        let surroundings = Surroundings { defaults: &self.defaults, secrets: &self.secrets, variables: &variables };
        let spawned = spawn::spawn(start, &surroundings, group.as_deref().map(Group::directory));
        drop(group);
        let hidden = self.secrets.hide_with(&start.redact);
        let values = self.secrets.automaton(&hidden);
        let spawned = spawned.map_err(|fault| {
            tree.release();
            redact_fault(values.as_ref(), fault)
        })?;
        tree.set_leader(spawned.pid);
        let id = ProcessId(self.next.replace(self.next.get() + 1));
        let process = Rc::new(Process {
            id,
            pid: spawned.pid,
            command: RefCell::new(redact_command(values.as_ref(), &start.command)),
            hidden,
            tree,
            stdout: Output::new(values.clone()),
            stderr: if spawned.stderr.is_some() { Output::new(values) } else { Output::empty() },
            input: spawned.stdin.map(|target| Rc::new(Input::new(target))),
            terminal: spawned.terminal,
            started,
            reaped: Cell::new(None),
            status: RefCell::default(),
            passing: Cell::new(false),
            ended: Notify::new(),
        });
        self.all.borrow_mut().insert(id, Rc::clone(&process));
        self.by_pid.borrow_mut().insert(process.pid, Rc::clone(&process));
        let pipes = Pipes { stdout: spawned.stdout, stderr: spawned.stderr };
        tokio::task::spawn_local(Rc::clone(&process.stdout).pump(Rc::clone(&pipes.stdout)));
        if let Some(stderr) = &pipes.stderr {
            tokio::task::spawn_local(Rc::clone(&process.stderr).pump(Rc::clone(stderr)));
        }
        tokio::task::spawn_local(Rc::clone(self).supervise(Rc::clone(&process), pipes, Limits::of(start)));
        Ok(process)
    }

    /// The working directory that a process would be started in.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownUser`].
    pub(crate) fn directory_of(&self, start: &Start) -> Result<PathBuf, Fault> {
        spawn::directory_of(start, &self.defaults)
    }

    /// Finds a process.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownProcess`].
    pub(crate) fn get(&self, id: ProcessId) -> Result<Rc<Process>, Fault> {
        let found = self.all.borrow().get(&id).cloned();
        found.ok_or_else(|| {
            Fault::never_started(
                ErrorCode::UnknownProcess,
                format!("there is no process {}, or it was forgotten since", id.0),
            )
        })
    }

    /// Lists those that are remembered and come behind `after`, as many as one reply may hold; and whether there are more.
    pub(crate) fn list(&self, after: Option<ProcessId>) -> (Vec<ProcessInfo>, bool) {
        let all = self.all.borrow();
        let mut rest =
            all.range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)).map(|(_, process)| process);
        let page = rest.by_ref().take(limits::LISTED).map(|process| process.info()).collect();
        (page, rest.next().is_some())
    }

    /// Gives these variables to every process that starts from now on, in place of those it was given before.
    pub(crate) fn give_variables(&self, variables: BTreeMap<String, RawString>) {
        self.variables.replace(variables);
    }

    /// Makes a change of the secrets, and hides the new values in the output of every process, those that run already included.
    ///
    /// # Errors
    /// As [`Secrets::apply`].
    pub(crate) fn change_secrets(&self, change: Change) -> Result<(), Fault> {
        let all: Vec<_> = self.all.borrow().values().cloned().collect();
        self.secrets.apply(change, all.iter().any(|process| process.may_write()))?;
        for process in all {
            process.hide(self.secrets.automaton(&process.hidden));
        }
        Ok(())
    }

    /// Reaps children until the agent ends: its own, and, as PID 1 or subreaper, every orphan.
    pub(crate) async fn reap(self: Rc<Self>, mut child_signals: tokio::signal::unix::Signal) {
        loop {
            while let Some(child) = sys::reap_one() {
                if let Some(process) = self.by_pid.borrow_mut().remove(&child.pid) {
                    process.reaped.set(Some(child));
                }
            }
            self.reaped.notify_waiters();
            if child_signals.recv().await.is_none() {
                return;
            }
        }
    }

    /// Stops every process tree, and leaves no control group behind. For the end of the agent.
    pub(crate) async fn stop_all(&self) {
        self.ending.set(true);
        let running: Vec<_> = self.all.borrow().values().filter(|process| !process.tree.release()).cloned().collect();
        running.iter().for_each(|process| process.tree.signal(Signal::Kill));
        for process in running {
            self.wait_until_empty(&process.tree, KILL_PATIENCE).await;
            process.tree.release();
        }
        self.trees.remove();
    }

    async fn supervise(self: Rc<Self>, process: Rc<Process>, pipes: Pipes, limits: Limits) {
        let timed_out = match limits.timeout {
            Some(timeout) => tokio::time::timeout(timeout, self.wait_until_reaped(&process)).await.is_err(),
            None => {
                self.wait_until_reaped(&process).await;
                false
            }
        };
        if timed_out {
            self.stop(&process, Signal::Term, limits.grace).await;
            // What is dead may not be reaped yet; what even a KILL does not end is reported as killed.
            let _ = tokio::time::timeout(KILL_PATIENCE, self.wait_until_reaped(&process)).await;
        }
        process.finish(&pipes, timed_out).await;
        // Whoever waits for the end is told before the house is tidied.
        tokio::task::yield_now().await;
        process.tree.release();
        drop((process, pipes));
        self.forget_oldest();
        self.trees.refill();
    }

    async fn wait_until_reaped(&self, process: &Process) {
        loop {
            let reaped = self.reaped.notified();
            if process.reaped.get().is_some() {
                return;
            }
            reaped.await;
        }
    }

    /// Ends a process and all it has started: a signal, a grace, KILL. Returns once nothing of the tree is left.
    pub(crate) async fn stop(&self, process: &Process, signal: Signal, grace: Duration) -> Stopped {
        process.tree.signal(signal);
        // What is stopped must run to see the signal.
        process.tree.signal(Signal::Cont);
        if self.wait_until_empty(&process.tree, grace).await {
            return Stopped::InTime;
        }
        process.tree.signal(Signal::Kill);
        self.wait_until_empty(&process.tree, KILL_PATIENCE).await;
        Stopped::Killed
    }

    /// Every member that dies is in the end reaped by the agent, so a reaped child is when to look again.
    async fn wait_until_empty(&self, tree: &Tree, patience: Duration) -> bool {
        let empty = async {
            loop {
                let reaped = self.reaped.notified();
                if tree.is_empty() {
                    return;
                }
                reaped.await;
            }
        };
        tokio::time::timeout(patience, empty).await.is_ok()
    }

    /// Forgets ended processes, the oldest first, past what may be remembered.
    fn forget_oldest(&self) {
        let mut all = self.all.borrow_mut();
        all.retain(|_, process| !(process.passing.get() && process.has_ended() && process.tree.release()));
        let ended: Vec<_> = all.values().filter(|process| process.has_ended()).map(|p| (p.id, p.memory())).collect();
        let mut memory: usize = ended.iter().map(|(_, bytes)| bytes).sum();
        let mut count = ended.len();
        for (id, bytes) in ended {
            if count <= REMEMBERED && memory <= REMEMBERED_MEMORY {
                return;
            }
            // One that has left children behind is remembered as long as they live, so that they can be stopped.
            if all.get(&id).is_some_and(|process| process.tree.release()) {
                all.remove(&id);
            }
            count -= 1;
            memory -= bytes;
        }
    }
}

/// How a tree that was to be stopped has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// Within its grace.
    InTime,
    /// By KILL.
    Killed,
}

struct Limits {
    timeout: Option<Duration>,
    grace: Duration,
}

impl Limits {
    fn of(start: &Start) -> Self {
        Self {
            timeout: start.timeout_ms.map(Duration::from_millis),
            grace: Duration::from_millis(start.grace_ms.unwrap_or(limits::DEFAULT_GRACE_MS)),
        }
    }
}

impl Process {
    /// Sends a signal.
    ///
    /// # Errors
    /// [`ErrorCode::NotRunning`] when there is nothing to send it to.
    pub(crate) fn signal(&self, signal: Signal, scope: SignalScope) -> Result<(), Fault> {
        match scope {
            SignalScope::Process if self.reaped.get().is_none() => tree::signal_process(self.pid, signal),
            SignalScope::Tree if !self.tree.is_empty() => self.tree.signal(signal),
            _ => {
                let message = format!("process {} has exited already", self.id.0);
                return Err(Fault::never_started(ErrorCode::NotRunning, message));
            }
        }
        Ok(())
    }

    /// Changes the terminal's size.
    ///
    /// # Errors
    /// [`ErrorCode::NotATerminal`], [`ErrorCode::Io`].
    pub(crate) fn resize(&self, size: PtySize) -> Result<(), Fault> {
        let Some(terminal) = &self.terminal else {
            let message = format!("process {} was started without a terminal", self.id.0);
            return Err(Fault::never_started(ErrorCode::NotATerminal, message));
        };
        spawn::set_size(terminal.get_ref(), size)
            .map_err(|error| Fault::failed(ErrorCode::Io, format!("resize process {}: {error}", self.id.0)))
    }

    /// Waits for the end, and tells how and where the streams end.
    pub(crate) async fn wait(&self) -> (ExitStatus, OutputTotals) {
        loop {
            let ended = self.ended.notified();
            if let Some(status) = self.status.borrow().clone() {
                return (status, self.totals());
            }
            ended.await;
        }
    }

    /// Whether it, or a child that it left behind, may still write.
    fn may_write(&self) -> bool {
        !self.has_ended() || self.stdout.is_open() || self.stderr.is_open()
    }

    fn hide(&self, values: Option<Rc<Automaton>>) {
        self.command.replace_with(|command| redact_command(values.as_ref(), command));
        self.stdout.hide(values.clone());
        self.stderr.hide(values);
    }

    /// How it ended, once it has.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        self.status.borrow().clone()
    }

    /// Lets it be forgotten as soon as it has ended: nobody will ask for it.
    pub(crate) fn forget_when_ended(&self) {
        self.passing.set(true);
    }

    fn has_ended(&self) -> bool {
        self.status.borrow().is_some()
    }

    fn memory(&self) -> usize {
        self.stdout.memory() + self.stderr.memory()
    }

    fn totals(&self) -> OutputTotals {
        let position = |output: &Output| output.end().unwrap_or_else(|| output.total());
        OutputTotals { stdout: position(&self.stdout), stderr: position(&self.stderr), data: 0 }
    }

    fn info(&self) -> ProcessInfo {
        let state = self.status.borrow().clone().map_or(ProcessState::Running, ProcessState::Exited);
        ProcessInfo {
            process: self.id,
            pid: self.pid,
            command: self.command.borrow().shortened(limits::LISTED_COMMAND),
            state,
            output: self.totals(),
        }
    }

    async fn finish(&self, pipes: &Pipes, timed_out: bool) {
        let duration_us = self.started.elapsed().as_micros() as u64;
        if self.terminal.is_some() {
            // The kernel hangs the terminal up when its session's leader exits, and the pump then sees its end.
            let _ = tokio::time::timeout(TERMINAL_PATIENCE, self.stdout.wait_for_end()).await;
            self.stdout.end_now();
        } else {
            tokio::join!(self.stdout.drain(Some(&pipes.stdout)), self.stderr.drain(pipes.stderr.as_deref()));
        }
        let reaped = self.reaped.get();
        let signal = reaped.map_or(Some(Signal::Kill.number()), |child| child.signal);
        *self.status.borrow_mut() = Some(ExitStatus {
            code: reaped.and_then(|child| child.code),
            signal,
            timed_out,
            out_of_memory: signal == Some(Signal::Kill.number()) && self.tree.ran_out_of_memory(),
            duration_us,
            cpu_us: reaped.map_or(0, |child| child.cpu_us),
            peak_memory_bytes: reaped.map_or(0, |child| child.peak_memory_bytes),
        });
        self.ended.notify_waiters();
    }
}
