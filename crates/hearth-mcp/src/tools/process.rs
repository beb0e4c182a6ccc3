//! Programs in a sandbox that is there: run, started, waited for, read, cancelled.
//!
//! A call that waits for a program ends it when it is cancelled. What [`Start`] has started, or [`Exec`] handed over because it took longer than
//! its wait, belongs to the sandbox alone.

use std::collections::BTreeMap;
use std::time::Duration;

use hearth_client::Client;
use hearth_client::api::exec::CommandLine;
use hearth_client::api::process::{AttachProcess, ReadProcess, SignalProcess};
use hearth_client::api::protocol::process::ProcessState;
use hearth_client::api::protocol::{Command, ExitStatus, ProcessId, Signal, SignalScope, StreamName};
use hearth_client::api::{Encoding, ExecRequest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::follow::{Feeding, Followed, Watch, feed_to_the_end, follow};
use crate::output::{Output, encode, whole_end};
use crate::refused::Refused;
use crate::schema;
use crate::tool::{Call, Effect, Entry, Profile};

/// What a call waits for a program where it does not say: less than most clients wait for a call.
const WAIT_MS: u64 = 45_000;
/// What a result has of each stream where the call does not say, in bytes.
pub(crate) const OUTPUT: u64 = 16 * 1024;
/// How long a program that was told to end has before it is killed, in milliseconds.
const GRACE_MS: u64 = 2_000;
/// How long a program that was handed over may take to read its input.
const HANDED_OVER: Duration = Duration::from_secs(60 * 60);
/// How long a killed program may take to be reported as such.
const KILLED: Duration = Duration::from_secs(10);

pub(crate) fn tools() -> Vec<Entry> {
    use Effect::{Changes, Reads};
    use Profile::Core;
    vec![
        Entry::new(Core, "exec", "Run a command in a sandbox and get its exit code, stdout and stderr. A non-zero exit code is a normal result. \
            If it takes longer than wait_ms it goes on in the sandbox, and the result has state \"running\" and a process number for \
            process_wait, process_output and process_cancel. Cancelling the call kills the command.", Changes, exec).stops_itself(),
        Entry::new(Core, "process_start", "Start a command that takes long in a sandbox and return at once with its process number. It goes on \
            whatever becomes of this client: get its end with process_wait, its output with process_output, stop it with process_cancel.",
            Changes, start),
        Entry::new(Core, "process_wait", "Wait, for at most wait_ms, until a process of a sandbox has ended, and get its state and output. \
            Pass the positions in `next` of the last result as stdout_from and stderr_from to get only what is new.", Reads, wait),
        Entry::new(Core, "process_output", "Read a piece of what a process of a sandbox has written, from any byte position, whether it still \
            runs or has ended. Begin the next read at `next`.", Reads, output),
        Entry::new(Core, "process_cancel", "Stop a process of a sandbox and everything it has started: a signal, then KILL after a grace. \
            One that has ended already is left as it is.", Changes, cancel),
        Entry::new(Core, "process_list", "List the processes that were started in a sandbox, those that have ended included.", Reads, list),
    ]
}

/// What is run, and how.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Exec {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// What to run: a string for /bin/sh -c, or an array of program and arguments.
    #[schemars(schema_with = "schema::command")]
    command: CommandLine,
    /// Working directory; /workspace by default.
    cwd: Option<String>,
    /// Variables beside those of the user.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Secrets of the sandbox to give it: names of secrets by names of variables.
    #[serde(default)]
    secrets: BTreeMap<String, String>,
    /// User, a name or number; `user` by default, who may use sudo.
    user: Option<String>,
    /// Text for its standard input, which is at its end without.
    #[schemars(length(max = 1_000_000))]
    stdin: Option<String>,
    /// Its deadline in milliseconds: it is killed then, with all it has started. None by default.
    #[schemars(range(min = 1, max = 86_400_000))]
    timeout_ms: Option<u64>,
    /// How long this call waits for its end, in milliseconds; 45000 by default. Longer than your client waits is of no use.
    #[schemars(range(min = 0, max = 600_000))]
    wait_ms: Option<u64>,
    /// The most of each stream in the result, in bytes, half from the beginning and half from the end; 16384 by default.
    #[schemars(range(min = 0, max = 1_048_576))]
    max_output_bytes: Option<u64>,
}

/// A program that is not waited for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Start {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// What to run: a string for /bin/sh -c, or an array of program and arguments.
    #[schemars(schema_with = "schema::command")]
    command: CommandLine,
    /// Working directory; /workspace by default.
    cwd: Option<String>,
    /// Variables beside those of the user.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Secrets of the sandbox to give it: names of secrets by names of variables.
    #[serde(default)]
    secrets: BTreeMap<String, String>,
    /// User, a name or number; `user` by default, who may use sudo.
    user: Option<String>,
    /// Its deadline in milliseconds: it is killed then, with all it has started. None by default.
    #[schemars(range(min = 1, max = 86_400_000))]
    timeout_ms: Option<u64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Wait {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// The process number.
    process: u64,
    /// How long to wait at most, in milliseconds; 45000 by default. Longer than your client waits is of no use.
    #[schemars(range(min = 0, max = 600_000))]
    wait_ms: Option<u64>,
    /// Leave out what stdout has before this position; 0 by default.
    #[serde(default)]
    stdout_from: u64,
    /// Leave out what stderr has before this position; 0 by default.
    #[serde(default)]
    stderr_from: u64,
    /// The most of each stream in the result, in bytes, half from the beginning and half from the end; 16384 by default.
    #[schemars(range(min = 0, max = 1_048_576))]
    max_output_bytes: Option<u64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReadOutput {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// The process number.
    process: u64,
    /// Which stream; stdout by default.
    #[serde(default)]
    stream: Stream,
    /// The position of the first byte that is wanted; 0 by default.
    #[serde(default)]
    from: u64,
    /// The most bytes; 16384 by default.
    #[schemars(range(min = 4, max = 1_048_576))]
    limit: Option<u64>,
    /// How long to wait for the first byte, in milliseconds; 0 by default.
    #[schemars(range(min = 0, max = 600_000))]
    wait_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Stream {
    #[default]
    Stdout,
    Stderr,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Cancel {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// The process number.
    process: u64,
    /// The signal that asks it to end, such as INT; TERM by default.
    #[serde(default)]
    #[schemars(schema_with = "schema::text")]
    signal: Option<Signal>,
    /// How long it then has before it is killed, in milliseconds; 2000 by default.
    #[schemars(range(min = 0, max = 60_000))]
    grace_ms: Option<u64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListProcesses {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
}

/// Where a program stands, and what it has written.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Ran {
    /// Its number, for process_wait, process_output and process_cancel.
    process: u64,
    /// Whether it has ended.
    #[serde(flatten)]
    end: End,
    /// What it wrote.
    stdout: Output,
    /// What it wrote to its error output.
    stderr: Output,
    /// The positions behind what is told here.
    next: Positions,
}

/// Whether a program has ended, and how.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct End {
    /// `running` or `exited`.
    state: State,
    /// What a shell would report: its code, or 128 + n for signal n.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    /// The signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<String>,
    /// Whether its own deadline ended it.
    timed_out: bool,
    /// Whether it was killed for want of memory.
    out_of_memory: bool,
    /// How long it ran, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    Running,
    Exited,
}

/// Positions in what a program writes.
#[derive(Debug, Clone, Copy, Default, Serialize, JsonSchema)]
pub(crate) struct Positions {
    /// In stdout.
    pub(super) stdout: u64,
    /// In stderr.
    pub(super) stderr: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Started {
    /// Its number, for process_wait, process_output and process_cancel.
    process: u64,
    /// Its number in the guest.
    pid: u32,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Piece {
    /// The bytes.
    text: String,
    /// How `text` is to be read.
    #[schemars(schema_with = "schema::encoding")]
    encoding: Encoding,
    /// The position of the first of them. What lies between it and the position that was asked for is no longer kept.
    from: u64,
    /// Where to go on.
    next: u64,
    /// The length of the stream so far.
    total: u64,
    /// Whether nothing lies behind this, nor ever will.
    ended: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Processes {
    /// The processes, the oldest first.
    processes: Vec<Process>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Process {
    /// Its number, for process_wait, process_output and process_cancel.
    process: u64,
    /// What it runs, shortened.
    command: String,
    /// Whether it has ended.
    #[serde(flatten)]
    end: End,
    /// How much it has written.
    written: Positions,
}

impl End {
    pub(crate) fn of(status: Option<&ExitStatus>) -> Self {
        let name = |number| Signal::from_number(number).map_or_else(|| number.to_string(), |signal| signal.to_string());
        Self {
            state: if status.is_some() { State::Exited } else { State::Running },
            exit_code: status.map(ExitStatus::shell_code),
            signal: status.and_then(|status| status.signal).map(name),
            timed_out: status.is_some_and(|status| status.timed_out),
            out_of_memory: status.is_some_and(|status| status.out_of_memory),
            duration_ms: status.map(|status| status.duration_us / 1000),
        }
    }
}

async fn exec(call: Call, asked: Exec) -> Result<Ran, Refused> {
    let start = Start {
        sandbox: asked.sandbox.clone(),
        command: asked.command,
        cwd: asked.cwd,
        env: asked.env,
        secrets: asked.secrets,
        user: asked.user,
        timeout_ms: asked.timeout_ms,
    };
    let request = ExecRequest { interactive: asked.stdin.is_some(), ..start.into() };
    let place = match &asked.stdin {
        None => None,
        Some(_) => tokio::select! {
            place = call.inputs.clone().acquire_owned() => place.ok(),
            () = call.cancelled.cancelled() => return Err(Refused::cancelled()),
        },
    };
    // Not given up when the call is cancelled: a program that is just starting could then not be found.
    let mut held = call.client.hold(&asked.sandbox, &request).await?;
    let process = held.process();
    let limit = asked.max_output_bytes.unwrap_or(OUTPUT);
    let wait = Duration::from_millis(asked.wait_ms.unwrap_or(WAIT_MS));
    let watch = Watch { from: Positions::default(), limit, wait: Some(wait) };
    let mut feeding = Feeding::new(&mut held, asked.stdin);
    match follow(&mut held, &call, &mut feeding, watch).await? {
        None => {
            stop(&call.client, &asked.sandbox, process).await?;
            Err(Refused::cancelled())
        }
        Some(followed) => {
            if followed.status.is_none() && place.is_some() {
                let rest = feed_to_the_end(held, feeding);
                call.calls.spawn(async move {
                    let _ = tokio::time::timeout(HANDED_OVER, rest).await;
                    drop(place);
                });
            }
            Ok(followed.ran(process))
        }
    }
}

/// Kills a program and all that it has started.
pub(crate) async fn stop(client: &Client, sandbox: &str, process: ProcessId) -> Result<(), Refused> {
    let signal = SignalProcess { signal: Signal::Kill, scope: SignalScope::Tree };
    Ok(client.signal(sandbox, &process.0.to_string(), &signal).await?)
}

impl Followed {
    fn ran(self, process: ProcessId) -> Ran {
        let next = self.streams.at;
        let rest =
            |stream: &str| format!("process_output with process {}, stream {stream} and from as here", process.0);
        let (stdout, stderr) = self.streams.outputs(rest);
        Ran { process: process.0, end: End::of(self.status.as_ref()), stdout, stderr, next }
    }
}

impl From<Start> for ExecRequest {
    fn from(start: Start) -> Self {
        Self {
            cwd: start.cwd.map(|cwd| cwd.into_bytes().into()),
            env: start.env.into_iter().map(|(name, value)| (name, value.into_bytes().into())).collect(),
            secrets: start.secrets,
            user: start.user,
            timeout_ms: start.timeout_ms,
            ..Self::new(start.command)
        }
    }
}

async fn start(call: Call, asked: Start) -> Result<Started, Refused> {
    let sandbox = asked.sandbox.clone();
    let started = call.client.start(&sandbox, &asked.into()).await?;
    Ok(Started { process: started.process.0, pid: started.pid })
}

async fn wait(call: Call, asked: Wait) -> Result<Ran, Refused> {
    let from = Positions { stdout: asked.stdout_from, stderr: asked.stderr_from };
    let attach = AttachProcess { stdout: Some(from.stdout), stderr: Some(from.stderr), delivery: None };
    let mut held = call.client.attach(&asked.sandbox, &asked.process.to_string(), &attach).await?;
    let wait = Some(Duration::from_millis(asked.wait_ms.unwrap_or(WAIT_MS)));
    let watch = Watch { from, limit: asked.max_output_bytes.unwrap_or(OUTPUT), wait };
    match follow(&mut held, &call, &mut Feeding::none(), watch).await? {
        None => Err(Refused::cancelled()),
        Some(followed) => Ok(followed.ran(ProcessId(asked.process))),
    }
}

async fn output(call: Call, asked: ReadOutput) -> Result<Piece, Refused> {
    let stream = match asked.stream {
        Stream::Stdout => StreamName::Stdout,
        Stream::Stderr => StreamName::Stderr,
    };
    let read = ReadProcess {
        stream: Some(stream),
        from: Some(asked.from),
        limit: Some(asked.limit.unwrap_or(OUTPUT)),
        wait_ms: asked.wait_ms,
    };
    let (place, bytes) = call.client.read_process(&asked.sandbox, &asked.process.to_string(), &read).await?;
    // The rest of a character that is cut comes with the next piece.
    let bytes = if place.ended { &bytes[..] } else { whole_end(&bytes) };
    let (encoding, text) = encode(bytes);
    Ok(Piece {
        text,
        encoding,
        from: place.at,
        next: place.at + bytes.len() as u64,
        total: place.total,
        ended: place.ended,
    })
}

async fn cancel(call: Call, asked: Cancel) -> Result<Ran, Refused> {
    let process = ProcessId(asked.process);
    let mut held = call.client.attach(&asked.sandbox, &asked.process.to_string(), &AttachProcess::default()).await?;
    let signal = SignalProcess { signal: asked.signal.unwrap_or(Signal::Term), scope: SignalScope::Tree };
    // One that has ended cannot be signalled, and its end is what follows.
    let sent = call.client.signal(&asked.sandbox, &asked.process.to_string(), &signal).await;
    let grace = Duration::from_millis(asked.grace_ms.unwrap_or(GRACE_MS));
    let watch = |wait| Watch { from: Positions::default(), limit: OUTPUT, wait: Some(wait) };
    match follow(&mut held, &call, &mut Feeding::none(), watch(grace)).await? {
        None => return Err(Refused::cancelled()),
        Some(followed) if followed.status.is_some() => return Ok(followed.ran(process)),
        Some(_) => sent?,
    }
    stop(&call.client, &asked.sandbox, process).await?;
    let mut held = call.client.attach(&asked.sandbox, &asked.process.to_string(), &AttachProcess::default()).await?;
    match follow(&mut held, &call, &mut Feeding::none(), watch(KILLED)).await? {
        None => Err(Refused::cancelled()),
        Some(followed) => Ok(followed.ran(process)),
    }
}

async fn list(call: Call, asked: ListProcesses) -> Result<Processes, Refused> {
    let listed = call.client.processes(&asked.sandbox).await?.processes;
    let processes = listed.into_iter().map(|process| {
        let status = match &process.state {
            ProcessState::Exited(status) => Some(status),
            ProcessState::Running => None,
        };
        Process {
            process: process.process.0,
            command: spoken(&process.command),
            end: End::of(status),
            written: Positions { stdout: process.output.stdout, stderr: process.output.stderr },
        }
    });
    Ok(Processes { processes: processes.collect() })
}

/// A command on one line.
pub(crate) fn spoken(command: &Command) -> String {
    match command {
        Command::Shell(text) => text.to_string_lossy().into_owned(),
        Command::Argv(argv) => argv.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" "),
    }
}
