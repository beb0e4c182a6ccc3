//! Shells: the actions of those that have `_shell` in their names.
//!
//! A shell of this dialect is a shell of the agent's like any other; under its own name, where that is fit for one. What the dialect adds
//! is kept here: the id as its client wrote it, times of day, and the [`Transcript`]. It stays until it is closed, ended or not.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use hearth_protocol::secrets::SecretValue;
use hearth_protocol::shell::{OpenShell, ShellName, ShellRequest, ShellResult};
use hearth_protocol::{Command, ErrorCode, Fault, Finished, PtySize, Signal, SignalScope, limits};

use super::connection::Connection;
use super::exec::exit_code;
use super::files;
use super::path::WorkspacePath;
use super::reply::Object;
use super::request::{Request, Value};
use super::texts::{Refusal, repr};
use super::transcript::Transcript;
use crate::agent::Agent;
use crate::process::{Process, Source, write_input};
use crate::session::operation::Streams;

/// How long a shell that is closed may take between HUP and KILL.
const GRACE: Duration = Duration::from_secs(5);
/// How long a write waits for a job that does not read, in milliseconds.
const WRITE_MS: u64 = 1000;
/// The signals that a client may name.
const SIGNALS: [(&str, Signal); 4] =
    [("HUP", Signal::Hup), ("INT", Signal::Int), ("TERM", Signal::Term), ("KILL", Signal::Kill)];

/// The shells that this dialect's clients have opened and not closed.
#[derive(Default)]
pub(super) struct Shells {
    all: RefCell<BTreeMap<String, Rc<Shell>>>,
    /// How many were opened whose ids are no names.
    unnamed: Cell<u64>,
}

struct Shell {
    id: String,
    cwd: Vec<u8>,
    size: PtySize,
    process: Rc<Process>,
    transcript: Rc<Transcript>,
    started_at: f64,
    ended_at: Cell<Option<f64>>,
}

/// Seconds since 1970.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

impl Shell {
    /// The fields that every reply about a shell has.
    fn summary(&self) -> Object {
        let status = self.process.status();
        Object::default()
            .field("shell_id", &self.id)
            .name_field("cwd", &self.cwd)
            .field("cols", self.size.columns)
            .field("rows", self.size.rows)
            .field("state", if status.is_some() { "stopped" } else { "running" })
            .field("started_at", self.started_at)
            .field("ended_at", self.ended_at.get())
            .field("exit_code", status.as_ref().map(exit_code))
    }

    fn not_running(&self) -> Refusal {
        format!("shell {} is not running", self.id).into()
    }

    /// What the dialect says to the core's refusal.
    fn refusal(&self, fault: &Fault) -> Refusal {
        match fault.code {
            ErrorCode::NotRunning | ErrorCode::UnknownName => self.not_running(),
            _ => Refusal::of(fault),
        }
    }
}

impl Shells {
    fn get(&self, request: &Request) -> Result<Rc<Shell>, Refusal> {
        self.find(&shell_id(request)?)
    }

    fn find(&self, id: &str) -> Result<Rc<Shell>, Refusal> {
        self.all.borrow().get(id).cloned().ok_or_else(|| unknown(id))
    }

    /// A name for the agent's own list: the id, where it is fit to be one.
    fn name(&self, id: &str) -> Result<ShellName, Refusal> {
        if let Ok(name) = ShellName::new(id) {
            return Ok(name);
        }
        let number = self.unnamed.replace(self.unnamed.get() + 1);
        ShellName::new(format!("workspace-rpc.{number}")).map_err(|fault| Refusal::of(&fault))
    }

    fn check_is_free(&self, id: &str) -> Result<(), Refusal> {
        if self.all.borrow().contains_key(id) { Err(exists(id)) } else { Ok(()) }
    }
}

fn exists(id: &str) -> Refusal {
    format!("shell {} already exists", repr(id)).into()
}

fn unknown(id: &str) -> Refusal {
    format!("shell {} does not exist", repr(id)).into()
}

fn shell_id(request: &Request) -> Result<String, Refusal> {
    match request.text("shell_id", "")?.trim() {
        "" => Err("shell_id is required".into()),
        id => Ok(id.to_owned()),
    }
}

/// Does something with a shell, as the agent's own protocol would ask for it.
async fn ask(agent: &Rc<Agent>, request: ShellRequest) -> Result<ShellResult, Fault> {
    let (streams, _input, _data) = Streams::local();
    match crate::shell::run(Rc::clone(agent), request, streams).await? {
        Finished::Shell(result) => Ok(result),
        _ => Err(Fault::failed(ErrorCode::Internal, "a request about a shell had another result")),
    }
}

/// `open_shell`.
pub(super) async fn open(
    agent: &Rc<Agent>,
    shells: &Shells,
    request: &Request,
    connection: &mut Connection,
) -> Result<(), Refusal> {
    let id = shell_id(request)?;
    let path = WorkspacePath::parse(&request.bytes("cwd", "/workspace")?)?;
    let variables = request.environment("shell")?;
    let size = PtySize { columns: cells(request.integer("cols", 120)?), rows: cells(request.integer("rows", 30)?) };
    shells.check_is_free(&id)?;
    let mut open = OpenShell::new(shells.name(&id)?);
    open.cwd = Some(files::directory(&files::open(agent)?, &path)?.into());
    open.size = size;
    open.redact = redact_values(request)?;
    let own = [("PS1", b"pyro$ ".to_vec()), ("PROMPT_COMMAND", Vec::new())];
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
    open.env = own.chain(variables).map(|(name, value)| (name, value.into())).collect();
    let process = start(agent, open.clone()).await.map_err(|fault| match fault.code {
        ErrorCode::AlreadyExists => exists(&id),
        _ => Refusal::of(&fault),
    })?;
    let transcript = Transcript::follow(&process.stdout);
    let (started_at, ended_at) = (now(), Cell::new(None));
    let shell = Rc::new(Shell { id, cwd: path.text, size, process, transcript, started_at, ended_at });
    let watched = Rc::downgrade(&shell);
    let process = Rc::clone(&shell.process);
    tokio::task::spawn_local(async move {
        process.wait().await;
        if let Some(shell) = watched.upgrade() {
            shell.ended_at.set(Some(now()));
        }
    });
    shells.all.borrow_mut().insert(shell.id.clone(), Rc::clone(&shell));
    connection.reply(shell.summary()).await;
    Ok(())
}

/// Starts a plain interactive shell: bash, or what is there in its place.
async fn start(agent: &Rc<Agent>, open: OpenShell) -> Result<Rc<Process>, Fault> {
    let plain = |argv: &[&str]| Command::Argv(argv.iter().map(|&argument| argument.into()).collect());
    let bash = OpenShell { command: Some(plain(&["bash", "--noprofile", "--norc", "-i"])), ..open.clone() };
    let opened = match ask(agent, ShellRequest::Open(bash)).await {
        Err(fault) if fault.code == ErrorCode::CommandNotFound => {
            let sh = OpenShell { command: Some(plain(&["/bin/sh", "-i"])), ..open };
            ask(agent, ShellRequest::Open(sh)).await
        }
        other => other,
    };
    match opened? {
        ShellResult::Opened(opened) => agent.processes.get(&opened.process.into()),
        _ => Err(Fault::failed(ErrorCode::Internal, "a shell that was opened had another result")),
    }
}

fn cells(number: i64) -> u16 {
    number.clamp(1, limits::SHELL_CELLS.into()) as u16
}

fn redact_values(request: &Request) -> Result<Vec<SecretValue>, Refusal> {
    let values = match request.given("redact_values") {
        None => return Ok(Vec::new()),
        Some(Value::List(values)) => values,
        Some(_) => return Err("redact_values must be a list".into()),
    };
    let text = |value| Ok(request.text_of(value)?.into_bytes());
    let values: Vec<Vec<u8>> = values.iter().map(text).collect::<Result<_, Refusal>>()?;
    let values: Vec<_> = values.into_iter().filter(|value| !value.is_empty()).map(SecretValue::from).collect();
    if values.len() > limits::REDACTED_VALUES {
        return Err(format!("redact_values may hold {} values", limits::REDACTED_VALUES).into());
    }
    Ok(values)
}

/// `read_shell`.
pub(super) async fn read(shells: &Shells, request: &Request, connection: &mut Connection) -> Result<(), Refusal> {
    let shell = shells.get(request)?;
    let from = u64::try_from(request.integer("cursor", 0)?).unwrap_or(0);
    let limit = u64::try_from(request.integer("max_chars", 65536)?).unwrap_or(0);
    let piece = shell.transcript.read(from, limit);
    let reply = shell
        .summary()
        .field("cursor", piece.start)
        .field("next_cursor", piece.end)
        .field("output", piece.text)
        .field("truncated", piece.more);
    connection.reply(reply).await;
    Ok(())
}

/// `write_shell`.
pub(super) async fn write(shells: &Shells, request: &Request, connection: &mut Connection) -> Result<(), Refusal> {
    let shell = shells.get(request)?;
    let (text, newline) = (request.text("input", "")?, request.flag("append_newline", true));
    if shell.process.status().is_some() {
        return Err(shell.not_running());
    }
    let input = Source::Text([text.as_bytes(), if newline { b"\n".as_slice() } else { b"" }].concat().into());
    let written = write_input(&shell.process, input, WRITE_MS).await.map_err(|fault| shell.refusal(&fault))?;
    // Of what the job does not take, as much is told as it takes.
    let accepted = text.char_indices().take_while(|(at, _)| (*at as u64) < written.accepted).count();
    let reply = shell.summary().field("input_length", accepted).field("append_newline", newline);
    connection.reply(reply).await;
    Ok(())
}

/// `signal_shell`.
pub(super) async fn signal(shells: &Shells, request: &Request, connection: &mut Connection) -> Result<(), Refusal> {
    let id = shell_id(request)?;
    let wanted = request.text("signal", "INT")?.to_uppercase();
    let Some((name, signal)) = SIGNALS.into_iter().find(|(name, _)| *name == wanted) else {
        let names = SIGNALS.map(|(name, _)| name).join(", ");
        return Err(format!("signal must be one of: {names}").into());
    };
    let shell = shells.find(&id)?;
    // What ends a shell is for the shell, whose end hangs up its jobs; what ends a job is for the job.
    let scope = match signal {
        Signal::Int | Signal::Term => SignalScope::Foreground,
        _ => SignalScope::Process,
    };
    shell.process.signal(signal, scope).map_err(|fault| shell.refusal(&fault))?;
    connection.reply(shell.summary().field("signal", name)).await;
    Ok(())
}

/// `close_shell`.
pub(super) async fn close(
    agent: &Rc<Agent>,
    shells: &Shells,
    request: &Request,
    connection: &mut Connection,
) -> Result<(), Refusal> {
    let id = shell_id(request)?;
    let shell = shells.all.borrow_mut().remove(&id).ok_or_else(|| unknown(&id))?;
    let ended = agent.processes.stop_and_wait(&shell.process, Signal::Hup, GRACE).await;
    agent.shells.forget(&shell.process);
    if ended.is_none() {
        return Err(format!("shell {id} was killed and has not ended yet").into());
    }
    shell.ended_at.set(shell.ended_at.get().or_else(|| Some(now())));
    connection.reply(shell.summary().field("closed", true)).await;
    Ok(())
}
