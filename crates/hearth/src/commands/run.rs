//! `hearth run`: a sandbox for one command.
//!
//! The program's streams are this process's own. Three things go on at once until the program has ended: its output goes
//! out, input goes in, signals go where they belong.

use std::io;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use hearth_engine::channel::{Event, Process, Stdin};
use hearth_engine::protocol::{Command, Delivery, ExitStatus, RawString, Signal, SignalScope, Start, StreamName};
use hearth_engine::vmm::{Accelerator, CpuCount, MemoryMib};
use hearth_engine::{AcceleratorChoice, DiskMib, EngineError, Sandbox, SandboxSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::{Accel, RunOptions};
use crate::failure::Failure;
use crate::terminal::{self, RawMode};
use crate::{home, output};

mod capture;

use capture::Capture;

/// The exit code when the deadline passed.
const TIMED_OUT: i32 = 124;
/// The exit codes when a signal made this process end the sandbox.
const INTERRUPTED: i32 = 130;
const TERMINATED: i32 = 143;
/// The exit code when nobody reads the output any more, as a program in a pipe has it.
const BROKEN_PIPE: i32 = 141;
/// What is read from standard input at a time, in bytes.
const READ: usize = 64 * 1024;

/// How the program, or this process, came to its end.
enum End {
    Exited(ExitStatus),
    /// This process was told to end, or nobody reads its output: the exit code says why.
    Cut(i32),
}

/// Runs the command and returns the exit code.
pub(crate) async fn run(options: RunOptions) -> Result<i32, Failure> {
    let spec = sandbox_spec(&options)?;
    let start = start_request(&options)?;
    let engine = home::open()?;
    let mut signals = Signals::new().map_err(Failure::runtime)?;
    let sandbox = tokio::select! {
        created = engine.create(&spec) => created?,
        code = signals.first() => return Ok(code),
    };
    for failed in sandbox.failed_before() {
        output::say(&format!("hearth: {failed}; using {} from now on", sandbox.accelerator()));
    }
    // A JSON report has the warning in it.
    if let Some(warning) = sandbox.jail().warning().filter(|_| !options.json) {
        output::say(&format!("hearth: warning: {warning}"));
    }
    let result = drive(&sandbox, &options, start, &mut signals).await;
    let kept = if options.keep_logs { Some(keep_console(&engine, &sandbox)) } else { None };
    let result = result.map(|end| (end, Summary::of(&sandbox)));
    sandbox.remove().await;
    if let Some(kept) = kept {
        output::say(&format!("hearth: the guest's console is in {}", kept?));
    }
    let ((end, capture), summary) = result?;
    let code = exit_code(&end);
    if let (Some(capture), End::Exited(status)) = (capture, &end) {
        output::print_json(&capture.report(code, status, &summary.into_json()));
    }
    Ok(code)
}

fn exit_code(end: &End) -> i32 {
    match end {
        End::Exited(status) if status.timed_out => TIMED_OUT,
        End::Exited(status) => status.shell_code(),
        End::Cut(code) => *code,
    }
}

fn sandbox_spec(options: &RunOptions) -> Result<SandboxSpec, Failure> {
    let accelerator = match options.accel {
        Accel::Auto => AcceleratorChoice::Auto,
        Accel::Kvm => AcceleratorChoice::Only(Accelerator::Kvm),
        Accel::Tcg => AcceleratorChoice::Only(Accelerator::Tcg),
    };
    Ok(SandboxSpec {
        image: options.image.clone(),
        cpus: CpuCount::new(options.cpus).map_err(EngineError::from)?,
        memory: MemoryMib::new(options.memory.0).map_err(EngineError::from)?,
        disk: options.disk.map(|disk| DiskMib::new(disk.0)).transpose()?,
        accelerator,
    })
}

fn start_request(options: &RunOptions) -> Result<Start, Failure> {
    let argv = options.command.iter().map(|argument| RawString::from(argument.clone().into_vec())).collect();
    let mut start = Start::new(Command::Argv(argv));
    start.cwd = options.workdir.clone().map(|directory| RawString::from(directory.into_vec()));
    start.env =
        options.env.iter().map(|variable| (variable.name.clone(), RawString::from(variable.value.clone()))).collect();
    start.user = options.user.clone();
    start.timeout_ms = options.timeout.map(|time| time.0.as_millis() as u64);
    start.attach = Some(Delivery::Lossless);
    start.stdin = true;
    if options.tty && terminal::is_interactive() && !options.json {
        start.pty = Some(terminal::size());
        if let Ok(term) = std::env::var("TERM") {
            start.env.entry("TERM".into()).or_insert_with(|| RawString::from(term));
        }
    }
    start.validate().map_err(|fault| Failure::invalid(fault.message))?;
    Ok(start)
}

async fn drive(
    sandbox: &Sandbox,
    options: &RunOptions,
    start: Start,
    signals: &mut Signals,
) -> Result<(End, Option<Capture>), Failure> {
    let terminal = start.pty.is_some();
    let process = sandbox.channel().start(start).await?;
    let _raw = if terminal {
        Some(RawMode::enter().map_err(|error| Failure::host(format!("set the terminal: {error}")))?)
    } else {
        None
    };
    let mut sink = if options.json { Sink::Capture(Capture::default()) } else { Sink::Streams };
    let stdin = process.stdin();
    let end = tokio::select! {
        end = pass_output(&process, &mut sink) => end?,
        code = pass_signals(&process, signals, terminal) => End::Cut(code),
        error = pass_input(stdin) => return Err(error),
        how = sandbox.ended() => return Err(Failure::host(format!("the machine ended under the program: {how}"))),
    };
    let capture = match sink {
        Sink::Capture(capture) => Some(capture),
        Sink::Streams => None,
    };
    Ok((end, capture))
}

/// Where output goes.
enum Sink {
    Streams,
    Capture(Capture),
}

async fn pass_output(process: &Process, sink: &mut Sink) -> Result<End, Failure> {
    while let Some(event) = process.next_event().await? {
        match event {
            Event::Output { stream, bytes, .. } => match sink {
                Sink::Capture(capture) => capture.take(stream, &bytes),
                Sink::Streams => {
                    if write_out(stream, &bytes).await.is_err() {
                        return Ok(End::Cut(BROKEN_PIPE));
                    }
                }
            },
            Event::Exit { status, .. } => return Ok(End::Exited(status)),
        }
    }
    Err(Failure::host("the program's end was not reported".into()))
}

async fn write_out(stream: StreamName, bytes: &[u8]) -> io::Result<()> {
    if stream == StreamName::Stderr {
        let mut stderr = tokio::io::stderr();
        stderr.write_all(bytes).await?;
        stderr.flush().await
    } else {
        let mut stdout = tokio::io::stdout();
        stdout.write_all(bytes).await?;
        stdout.flush().await
    }
}

/// Passes standard input on. Returns only when that fails for a reason of the machine's; at its end it waits for ever, since the
/// program goes on.
async fn pass_input(stdin: Option<Stdin>) -> Failure {
    let Some(mut stdin) = stdin else { return std::future::pending().await };
    let mut source = tokio::io::stdin();
    let mut buffer = vec![0; READ];
    loop {
        match source.read(&mut buffer).await {
            // What cannot be read is at its end.
            Ok(0) | Err(_) => break,
            Ok(count) => {
                if stdin.write(buffer[..count].to_vec().into()).await.is_err() {
                    // The program takes no more; how it ends is told by its output.
                    break;
                }
            }
        }
    }
    stdin.close();
    std::future::pending().await
}

/// The signals that this process gets.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
    resize: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            resize: signal(SignalKind::window_change())?,
        })
    }

    /// Waits for the first that ends this process, and returns its exit code.
    async fn first(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPTED,
            _ = self.terminate.recv() => TERMINATED,
            _ = self.hang_up.recv() => 129,
        }
    }
}

/// Ctrl-C goes to the program, as a terminal would send it to the whole foreground job; the second one ends the sandbox.
async fn pass_signals(process: &Process, signals: &mut Signals, terminal: bool) -> i32 {
    let mut interrupted = false;
    loop {
        tokio::select! {
            _ = signals.interrupt.recv() => {
                if std::mem::replace(&mut interrupted, true) {
                    return INTERRUPTED;
                }
                // A program that has just ended needs no signal; that it ended arrives by its output.
                let _ = process.signal(Signal::Int, SignalScope::Tree).await;
            }
            _ = signals.terminate.recv() => return TERMINATED,
            _ = signals.hang_up.recv() => return 129,
            _ = signals.resize.recv(), if terminal => {
                let _ = process.resize(terminal::size()).await;
            }
        }
    }
}

fn keep_console(engine: &hearth_engine::Engine, sandbox: &Sandbox) -> Result<String, Failure> {
    let path = engine.directories().logs().join(format!("{}.console", sandbox.id()));
    std::fs::write(&path, sandbox.console_tail())
        .map_err(|error| Failure::host(format!("write {}: {error}", path.display())))?;
    Ok(path.display().to_string())
}

/// What a report says of the sandbox.
struct Summary {
    id: String,
    accelerator: &'static str,
    board: &'static str,
    jail_warning: Option<String>,
    phases: Vec<(&'static str, Duration)>,
}

impl Summary {
    fn of(sandbox: &Sandbox) -> Self {
        Self {
            id: sandbox.id().to_string(),
            accelerator: sandbox.accelerator(),
            board: sandbox.board(),
            jail_warning: sandbox.jail().warning(),
            phases: sandbox.phases().iter().map(|(phase, time)| (phase.name(), *time)).collect(),
        }
    }

    fn into_json(self) -> serde_json::Value {
        let phases: serde_json::Map<_, _> =
            self.phases.into_iter().map(|(name, time)| (name.to_owned(), (time.as_micros() as u64).into())).collect();
        serde_json::json!({
            "id": self.id, "accelerator": self.accelerator, "board": self.board, "jail_warning": self.jail_warning,
            "phases_us": phases,
        })
    }
}
