//! One process: its streams, its terminal, its signals and its end.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hearth_protocol::{
    Command, ErrorCode, ExitStatus, Fault, OutputTotals, ProcessId, ProcessInfo, ProcessState, PtySize, Signal,
    SignalScope, StreamName, Tag, limits,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::input::Input;
use super::output::Output;
use super::spawn;
use super::tree::{self, Tree};
use crate::secrets::{Automaton, Hidden, redact_command, redact_tag};
use crate::sys::{self, Reaped};

/// How long the rest of a terminal's output may take once its process has exited.
const TERMINAL_PATIENCE: Duration = Duration::from_secs(1);
/// How much that may be, in bytes: what the kernel keeps of a terminal is less.
const TERMINAL_REST: u64 = 64 * 1024;

/// A process that was started.
pub(crate) struct Process {
    pub(crate) id: ProcessId,
    pub(crate) pid: u32,
    /// As it may be shown.
    pub(super) command: RefCell<Command>,
    pub(super) hidden: Hidden,
    pub(super) tag: Option<Tag>,
    /// The tag as others are shown it.
    pub(super) shown_tag: RefCell<Option<Tag>>,
    pub(super) tree: Tree,
    pub(crate) stdout: Rc<Output>,
    pub(crate) stderr: Rc<Output>,
    pub(crate) input: Option<Rc<Input>>,
    pub(super) terminal: Option<Rc<AsyncFd<OwnedFd>>>,
    pub(super) started: Cell<Instant>,
    pub(super) reaped: Cell<Option<Reaped>>,
    /// It was reaped.
    pub(super) reaping: Notify,
    pub(super) status: RefCell<Option<ExitStatus>>,
    /// Whether it is forgotten as soon as it has ended.
    pub(super) passing: Cell<bool>,
    /// Whether nobody is shown it.
    pub(super) withheld: Cell<bool>,
    /// How many threads its tree has while it waits for more to do; none for a program that is at work as long as it runs.
    pub(super) at_rest: Cell<Option<u32>>,
    /// The status is there.
    pub(super) ended: Notify,
}

/// The output descriptors that the supervisor looks into when the process has exited.
pub(super) struct Pipes {
    pub(super) stdout: Rc<AsyncFd<OwnedFd>>,
    pub(super) stderr: Option<Rc<AsyncFd<OwnedFd>>>,
}

impl Process {
    /// Asks it and all that it has started to end. Its terminal hangs up: a shell there heeds no TERM.
    pub(super) fn ask_to_end(&self) {
        let hang_up = self.terminal.as_ref().map(|_| Signal::Hup);
        // What is stopped must run to see the signals.
        hang_up.into_iter().chain([Signal::Term, Signal::Cont]).for_each(|signal| self.tree.signal(signal));
    }

    /// Hangs up for what of its terminal's programs waits for input all the same: the signal came too early for it.
    pub(super) fn hang_up_again(&self) {
        if self.terminal.is_some() {
            self.tree.signal_the_waiting(Signal::Hup);
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// [`ErrorCode::NotRunning`] when there is nothing to send it to, [`ErrorCode::NotATerminal`], [`ErrorCode::PermissionDenied`].
    pub(crate) fn signal(&self, signal: Signal, scope: SignalScope) -> Result<(), Fault> {
        match scope {
            SignalScope::Process if self.reaped.get().is_none() => self.kill(self.pid as i32, signal),
            SignalScope::Tree if !self.tree.is_empty() => {
                self.tree.signal(signal);
                Ok(())
            }
            SignalScope::Foreground => self.kill(-(self.foreground()? as i32), signal),
            SignalScope::Process | SignalScope::Tree => Err(self.not_running("has exited already")),
        }
    }

    /// Sends a signal to its process group: itself, and what it waits for.
    ///
    /// # Errors
    /// As [`Self::signal`].
    pub(crate) fn signal_group(&self, signal: Signal) -> Result<(), Fault> {
        match self.reaped.get() {
            None => self.kill(-(self.pid as i32), signal),
            Some(_) => Err(self.not_running("has exited already")),
        }
    }

    fn kill(&self, target: i32, signal: Signal) -> Result<(), Fault> {
        sys::kill(target, signal.number()).map_err(|error| {
            if error.kind() == io::ErrorKind::PermissionDenied {
                let message = format!("the agent may not send a signal to process {}: {error}", self.id.0);
                return Fault::failed(ErrorCode::PermissionDenied, message);
            }
            self.not_running("has exited already")
        })
    }

    /// The process group in the foreground of its terminal.
    ///
    /// # Errors
    /// [`ErrorCode::NotATerminal`]; [`ErrorCode::NotRunning`] when nothing is.
    pub(crate) fn foreground(&self) -> Result<u32, Fault> {
        let group = rustix::termios::tcgetpgrp(self.terminal()?.get_ref());
        group
            .map(|group| group.as_raw_nonzero().get() as u32)
            .map_err(|_| self.not_running("has no job in the foreground"))
    }

    /// Whether it waits for input at its terminal, with nothing to read and nothing else in the foreground: a shell at its prompt.
    pub(crate) fn is_at_prompt(&self) -> bool {
        let all_written = || self.input.as_ref().is_none_or(|input| input.is_empty());
        let all_read = || self.terminal().is_ok_and(|terminal| spawn::has_read_all(terminal.get_ref()));
        self.foreground().is_ok_and(|group| group == self.pid)
            && all_written()
            && all_read()
            && tree::waits_for_input(self.pid)
    }

    fn not_running(&self, what: &str) -> Fault {
        Fault::never_started(ErrorCode::NotRunning, format!("process {} {what}", self.id.0))
    }

    /// The stream of its output that has this name.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidField`] for one that is no output.
    pub(crate) fn output(&self, stream: StreamName) -> Result<&Rc<Output>, Fault> {
        match stream {
            StreamName::Stdout => Ok(&self.stdout),
            StreamName::Stderr => Ok(&self.stderr),
            StreamName::Stdin | StreamName::Data => {
                Err(Fault::never_started(ErrorCode::InvalidField, "stream must be stdout or stderr"))
            }
        }
    }

    /// Its input.
    ///
    /// # Errors
    /// [`ErrorCode::NotRunning`], [`ErrorCode::InvalidField`] for one that was started without.
    pub(crate) fn open_input(&self) -> Result<&Rc<Input>, Fault> {
        if self.reaped.get().is_some() {
            return Err(self.not_running("has exited already"));
        }
        let message = || format!("process {} was started without input", self.id.0);
        self.input.as_ref().ok_or_else(|| Fault::never_started(ErrorCode::InvalidField, message()))
    }

    fn terminal(&self) -> Result<&AsyncFd<OwnedFd>, Fault> {
        self.terminal.as_deref().ok_or_else(|| {
            let message = format!("process {} was started without a terminal", self.id.0);
            Fault::never_started(ErrorCode::NotATerminal, message)
        })
    }

    /// Sends a signal to all that it has started, and not to itself.
    pub(crate) fn signal_children(&self, signal: Signal) {
        let children = self.tree.members().into_iter().filter(|&pid| pid != self.pid);
        children.for_each(|pid| tree::signal_process(pid, signal));
    }

    /// Whether the program has a handler of its own for a signal, and is not simply ended by it.
    pub(crate) fn handles(&self, signal: Signal) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let caught = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigCgt:")?.trim(), 16).ok());
        caught.unwrap_or(0) & 1 << (signal.number() - 1) != 0
    }

    /// Changes the terminal's size.
    ///
    /// # Errors
    /// [`ErrorCode::NotATerminal`], [`ErrorCode::Io`].
    pub(crate) fn resize(&self, size: PtySize) -> Result<(), Fault> {
        spawn::set_size(self.terminal()?.get_ref(), size)
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

    /// How it ended, once it has.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        self.status.borrow().clone()
    }

    /// Whether it, or a child that it left behind, may still write.
    pub(super) fn may_write(&self) -> bool {
        !self.has_ended() || self.stdout.is_open() || self.stderr.is_open()
    }

    /// Hides other values from now on.
    pub(super) fn hide(&self, values: Option<Rc<Automaton>>) {
        self.command.replace_with(|command| redact_command(values.as_ref(), command));
        self.shown_tag.replace_with(|tag| tag.as_ref().map(|tag| redact_tag(values.as_ref(), tag)));
        self.stdout.hide(values.clone());
        self.stderr.hide(values);
    }

    /// Lets it be forgotten as soon as it has ended: nobody will ask for it.
    pub(crate) fn forget_when_ended(&self) {
        self.passing.set(true);
    }

    /// Has nobody be shown it until [`Self::reveal`]; if it ends before, nobody ever is.
    pub(crate) fn withhold(&self) {
        self.withheld.set(true);
        self.passing.set(true);
    }

    /// Makes it a process like any other, that has begun now.
    pub(crate) fn reveal(&self) {
        self.withheld.set(false);
        self.passing.set(false);
        self.started.set(Instant::now());
    }

    /// Says whether it only waits for more to do when its tree has no more than so many threads.
    pub(crate) fn rest_with(&self, threads: Option<u32>) {
        self.at_rest.set(threads);
    }

    /// How many threads its tree has.
    pub(crate) fn threads(&self) -> u32 {
        self.tree.members().into_iter().filter_map(tree::threads).sum()
    }

    fn until_waiting(&self) -> bool {
        let Some(most) = self.at_rest.get().filter(|_| !self.has_ended()) else { return false };
        self.threads() <= most && (self.terminal.is_none() || self.is_at_prompt())
    }

    /// Whether its end is known.
    pub(crate) fn has_ended(&self) -> bool {
        self.status.borrow().is_some()
    }

    pub(super) fn memory(&self) -> usize {
        self.stdout.memory() + self.stderr.memory()
    }

    fn totals(&self) -> OutputTotals {
        let position = |output: &Output| output.end().unwrap_or_else(|| output.total());
        OutputTotals {
            stdout: position(&self.stdout),
            stderr: position(&self.stderr),
            data: 0,
            stdout_dropped: self.stdout.dropped(),
            stderr_dropped: self.stderr.dropped(),
        }
    }

    pub(super) fn info(&self) -> ProcessInfo {
        let state = self.status.borrow().clone().map_or(ProcessState::Running, ProcessState::Exited);
        let left_running = if self.has_ended() { self.tree.members().len() as u32 } else { 0 };
        ProcessInfo {
            process: self.id,
            pid: self.pid,
            tag: self.shown_tag.borrow().clone(),
            command: self.command.borrow().shortened(limits::LISTED_COMMAND),
            state,
            waiting: self.until_waiting(),
            left_running,
            output: self.totals(),
        }
    }

    pub(super) async fn finish(&self, pipes: &Pipes, timed_out: bool) {
        let duration_us = self.started.get().elapsed().as_micros() as u64;
        if self.terminal.is_some() {
            self.stdout.take_rest(TERMINAL_REST);
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
            out_of_memory: self.ran_out_of_memory(reaped.and_then(|child| child.code), signal),
            duration_us,
            cpu_us: reaped.map_or(0, |child| child.cpu_us),
            peak_memory_bytes: self.tree.peak_memory().or_else(|| reaped.and_then(peak_resident)),
        });
        self.ended.notify_waiters();
    }

    /// Whether the kernel killed one of its tree for want of memory. Looked into only where it may be: it costs a read of a file.
    fn ran_out_of_memory(&self, code: Option<i32>, signal: Option<i32>) -> bool {
        let kill = Signal::Kill.number();
        // What a shell says of a program of its own that was killed.
        let may_be = signal == Some(kill) || code == Some(128 + kill) || self.tree.is_limited();
        may_be && self.tree.ran_out_of_memory()
    }
}

/// The largest resident memory of what was reaped, where that can be told from the agent's: a child begins in the agent's own memory, which the
/// kernel counts as the child's until it has become the program, and keeps counting.
fn peak_resident(child: Reaped) -> Option<u64> {
    Some(child.resident_bytes).filter(|&bytes| bytes > sys::own_resident_bytes())
}
