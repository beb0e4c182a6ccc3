//! Shells: processes on a terminal that have a name.
//!
//! A shell is a process like any other ([`crate::process`]); here it gets its name, and a [`Terminal`] that is shown every byte of its
//! output at once, so that what its screen shows can be read as text at any time, whoever else follows the process.

mod buffer;
mod history;
mod row;
mod screen;
mod terminal;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hearth_protocol::shell::{
    CloseShell, Idle, IdleEnd, IdleReason, OpenShell, Opened, PlainRead, ReadPlain, ShellInfo, ShellName, ShellRequest,
    ShellResult, WaitIdle,
};
use hearth_protocol::{Command, ErrorCode, ExitStatus, Fault, Finished, PtySize, Signal, StreamName, limits};
use tokio::time::timeout;

use crate::agent::Agent;
use crate::process::{Process, Processes, Source, read_output, write_input};
use crate::secrets::redact_text;
use crate::session::operation::{Outlet, Streams};
use terminal::Terminal;

/// All shells that were not closed.
#[derive(Default)]
pub(crate) struct Shells {
    all: RefCell<BTreeMap<ShellName, Rc<Shell>>>,
}

struct Shell {
    process: Rc<Process>,
    terminal: Rc<RefCell<Terminal>>,
    size: Cell<PtySize>,
    opened: Instant,
}

/// Does what is asked.
pub(crate) async fn run(agent: Rc<Agent>, request: ShellRequest, streams: Streams) -> Result<Finished, Fault> {
    let shells = &agent.shells;
    let result = match request {
        ShellRequest::Open(open) => ShellResult::Opened(shells.open(&agent.processes, &open)?),
        ShellRequest::List(_) => ShellResult::List(shells.list()),
        ShellRequest::Write(write) => {
            let source = Source::new(write.text, write.newline, streams.input);
            ShellResult::Written(write_input(&shells.get(&write.name)?.process, source, write.wait_ms).await?)
        }
        ShellRequest::Read(read) => {
            let shell = shells.get(&read.name)?;
            let range = (read.from, read.limit);
            ShellResult::Read(read_output(&shell.process.stdout, range, read.wait_ms, &streams.output).await?)
        }
        ShellRequest::ReadPlain(read) => {
            let shell = shells.get(&read.name)?;
            ShellResult::Plain(shell.read_plain(&agent.processes, &read, &streams.output).await)
        }
        ShellRequest::WaitIdle(wait) => ShellResult::Idle(shells.get(&wait.name)?.wait_idle(&wait).await),
        ShellRequest::Signal(signal) => {
            shells.get(&signal.name)?.process.signal(signal.signal, signal.scope)?;
            ShellResult::Done {}
        }
        ShellRequest::Resize(resize) => {
            shells.get(&resize.name)?.resize(resize.size)?;
            ShellResult::Done {}
        }
        ShellRequest::Close(close) => ShellResult::Closed(shells.close(&agent.processes, &close).await?),
    };
    Ok(Finished::Shell(result))
}

impl Shells {
    fn open(&self, processes: &Rc<Processes>, open: &OpenShell) -> Result<Opened, Fault> {
        let mut all = self.all.borrow_mut();
        if let Some(shell) = all.get(&open.name) {
            if shell.process.status().is_none() {
                let message = format!("the shell {:?} is there already", open.name.as_str());
                return Err(Fault::never_started(ErrorCode::AlreadyExists, message));
            }
        } else if all.len() >= limits::SHELLS {
            let message = format!("there are {} shells; close one", limits::SHELLS);
            return Err(Fault::never_started(ErrorCode::Busy, message));
        }
        let command = match &open.command {
            Some(command) => command.clone(),
            None => Command::Argv(vec![processes.login_shell(open.user.as_deref())?.into()]),
        };
        let process = processes.start(&open.start(command))?;
        if open.command.is_none() {
            process.rest_with(Some(1));
        }
        let terminal = Rc::new(RefCell::new(Terminal::new(open.size.columns, open.size.rows)));
        let shown = Rc::clone(&terminal);
        process.stdout.set_tap(move |bytes| shown.borrow_mut().feed(bytes));
        let opened = Opened { process: process.id, pid: process.pid };
        let shell = Shell { process, terminal, size: Cell::new(open.size), opened: Instant::now() };
        all.insert(open.name.clone(), Rc::new(shell));
        Ok(opened)
    }

    fn get(&self, name: &ShellName) -> Result<Rc<Shell>, Fault> {
        self.all.borrow().get(name).cloned().ok_or_else(|| {
            Fault::never_started(ErrorCode::UnknownName, format!("there is no shell {:?}", name.as_str()))
        })
    }

    fn list(&self) -> Vec<ShellInfo> {
        let info = |(name, shell): (&ShellName, &Rc<Shell>)| ShellInfo {
            name: name.clone(),
            process: shell.process.id,
            pid: shell.process.pid,
            size: shell.size.get(),
            age_ms: shell.opened.elapsed().as_millis() as u64,
            output: shell.process.stdout.total(),
            exit: shell.process.status(),
        };
        self.all.borrow().iter().map(info).collect()
    }

    /// Takes a shell off the list, whatever it is called.
    pub(crate) fn forget(&self, process: &Rc<Process>) {
        self.all.borrow_mut().retain(|_, shell| !Rc::ptr_eq(&shell.process, process));
    }

    async fn close(&self, processes: &Processes, close: &CloseShell) -> Result<ExitStatus, Fault> {
        let shell = self.get(&close.name)?;
        let grace = Duration::from_millis(close.grace_ms.unwrap_or(limits::DEFAULT_GRACE_MS));
        let status = processes.stop_and_wait(&shell.process, Signal::Hup, grace).await;
        let mut all = self.all.borrow_mut();
        // Somebody else may have closed it meanwhile, and opened another of its name.
        if all.get(&close.name).is_some_and(|now| Rc::ptr_eq(now, &shell)) {
            all.remove(&close.name);
        }
        status.ok_or_else(|| {
            let message = format!("the shell {:?} was killed and has not ended yet", close.name.as_str());
            Fault::failed(ErrorCode::TimedOut, message)
        })
    }
}

impl Shell {
    fn resize(&self, size: PtySize) -> Result<(), Fault> {
        self.process.resize(size)?;
        self.terminal.borrow_mut().resize(size.columns, size.rows);
        self.size.set(size);
        Ok(())
    }

    async fn read_plain(&self, processes: &Processes, read: &ReadPlain, outlet: &Outlet) -> PlainRead {
        let changed = async {
            loop {
                let changed = self.process.stdout.changed.notified();
                if self.terminal.borrow().has_changed(read.since) || self.has_ended() {
                    return;
                }
                changed.await;
            }
        };
        // What is there when the time has passed is read all the same.
        let _ = timeout(Duration::from_millis(read.wait_ms), changed).await;
        let lines = self.terminal.borrow().read(read.since, read.limit as usize);
        let plain = PlainRead {
            next: lines.next,
            lines: lines.count,
            first: lines.first,
            more: lines.more,
            gap: lines.gap,
            alternate: lines.alternate,
            ended: self.has_ended() && !lines.more,
        };
        // A value that was written in pieces, with colours or movements between them, is whole on the screen only.
        let values = processes.hidden_in(&self.process);
        let text = values.and_then(|values| redact_text(&values, &lines.text)).unwrap_or(lines.text);
        outlet.send(StreamName::Data, text.into()).await;
        plain
    }

    fn has_ended(&self) -> bool {
        self.process.stdout.end().is_some()
    }

    async fn wait_idle(&self, wait: &WaitIdle) -> IdleEnd {
        let quiet = Duration::from_millis(wait.quiet_ms);
        let idle = async {
            loop {
                let from = self.process.stdout.total();
                let said_more = timeout(quiet, self.process.stdout.wait_beyond(from)).await.is_ok();
                if self.has_ended() {
                    return IdleReason::Ended;
                }
                match wait.until {
                    _ if said_more => {}
                    Idle::Quiet => return IdleReason::Idle,
                    Idle::Prompt if self.process.is_at_prompt() => return IdleReason::Idle,
                    // A job that ends brings the prompt, which is output.
                    Idle::Prompt if self.has_job() => self.process.stdout.wait_beyond(from).await,
                    // The shell itself works, and may come to its prompt without a word.
                    Idle::Prompt => {}
                }
            }
        };
        let reason = timeout(Duration::from_millis(wait.timeout_ms), idle).await.unwrap_or(IdleReason::Timeout);
        IdleEnd { reason, job: self.has_job() }
    }

    /// Whether somebody else than the shell is in the foreground.
    fn has_job(&self) -> bool {
        self.process.foreground().is_ok_and(|group| group != self.process.pid)
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // The process is remembered for a while; its screen need not be.
        self.process.stdout.clear_tap();
    }
}
