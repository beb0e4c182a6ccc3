//! `hearth run`: a sandbox for one command.
//!
//! The program's streams are this process's own. Three things go on at once until the program has ended: its output goes
//! out, input goes in, signals go where they belong.

use std::convert::Infallible;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use hearth_engine::channel::{Event, Process, Stdin};
use hearth_engine::protocol::{
    Command, Delivery, ExitStatus, RawString, Request, RequestBody, RequestId, Start, StreamName, encode_line,
};
use hearth_engine::vmm::{Accelerator, CpuCount, MemoryMib};
use hearth_engine::{
    AcceleratorChoice, DialectAddresses, DialectSpec, DiskMib, Engine, EngineError, Sandbox, SandboxSpec, StartFrom,
};

use crate::arguments::{Accel, RunOptions};
use crate::capture::Capture;
use crate::failure::{BROKEN_PIPE, Failure, TIMED_OUT, exit_code_of};
use crate::signals::Signals;
use crate::terminal::{self, RawMode};
use crate::values::EnvVar;
use crate::{home, output, pipes};

/// What the guest may need beyond the deadline, to stop the program and to say so, before it is held to have failed to.
const DEADLINE_MARGIN: Duration = Duration::from_secs(20);
/// How long the end of a machine whose channel has ended may take to be seen.
const END_AFTER_HANG_UP: Duration = Duration::from_secs(2);

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
        created = engine.create(&spec) => match created {
            Ok(sandbox) => sandbox,
            Err(error) => return Err(boot_failed(&engine, &options, error)),
        },
        code = signals.first() => return Ok(code),
    };
    for failed in sandbox.failed_before() {
        output::say(&format!("hearth: {failed}; using {} from now on", sandbox.accelerator()));
    }
    // A JSON report has the warning in it.
    if let Some(warning) = sandbox.jail().warning().filter(|_| !options.json) {
        output::say(&format!("hearth: warning: {warning}"));
    }
    if let Some(addresses) = sandbox.dialects() {
        say_dialects(addresses);
    }
    let result = drive(&sandbox, &options, start, &mut signals).await;
    let kept = options.keep_logs.then(|| keep_console(&engine, sandbox.id().as_str(), &sandbox.console_tail()));
    let result = result.map(|end| (end, Summary::of(&sandbox)));
    sandbox.remove().await;
    if let Some(kept) = kept {
        output::say(&format!("hearth: the guest's console is in {}", kept?));
    }
    let ((end, capture), summary) = result?;
    let code = exit_code(&end);
    if matches!(&end, End::Exited(status) if status.out_of_memory) && !options.json {
        output::say(
            "hearth: the guest ran out of memory; give it more with --memory, or a disk for what is written with --disk",
        );
    }
    if let (Some(capture), End::Exited(status)) = (capture, &end) {
        let mut report = capture.report(code, status);
        report["sandbox"] = summary.into_json();
        output::print_json(&report)?;
    }
    Ok(code)
}

/// For whoever is to connect; on standard error, since standard output is the program's.
fn say_dialects(addresses: &DialectAddresses) {
    output::say(&format!("hearth: workspace agent on {}", addresses.workspace.display()));
    output::say(&format!(
        "hearth: execution channel on {} and {}",
        addresses.command.display(),
        addresses.event.display()
    ));
    if let Some(port) = addresses.port {
        output::say(&format!("hearth: execution channel on 127.0.0.1:{port}, for every user of this host"));
    }
}

fn exit_code(end: &End) -> i32 {
    match end {
        End::Exited(status) => exit_code_of(status),
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
        start: if options.boot { StartFrom::Boot } else { StartFrom::Template },
        dialects: options.dialects.then_some(DialectSpec { port: options.dialect_port }),
    })
}

fn start_request(options: &RunOptions) -> Result<Start, Failure> {
    let argv = options.command.iter().map(|argument| RawString::from(argument.clone().into_vec())).collect();
    let mut start = Start::new(Command::Argv(argv));
    start.cwd = options.workdir.clone().map(|directory| RawString::from(directory.into_vec()));
    start.env =
        options.env.iter().filter_map(EnvVar::get).map(|(name, value)| (name, RawString::from(value))).collect();
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
    check_size(&start)?;
    Ok(start)
}

/// Checks that the request fits a line, with the longest id there can be.
fn check_size(start: &Start) -> Result<(), Failure> {
    let request = Request { id: RequestId(u64::MAX), body: RequestBody::Start(start.clone()) };
    encode_line(&request, &mut Vec::new()).map_err(|error| {
        Failure::invalid(format!("the command and its variables are too long together: {error}"))
            .with_hint("pass a long script or data by standard input")
    })
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
        end = pass_output(&process, &mut sink) => end,
        code = signals.pass_on(&process, terminal) => Ok(End::Cut(code)),
        never = pass_input(stdin) => match never {},
        () = pass_deadline(options) => {
            output::say("hearth: the guest did not keep the deadline");
            Ok(End::Cut(TIMED_OUT))
        }
        how = sandbox.ended() => Err(machine_ended(sandbox, &how)),
    };
    let end = match end {
        // The first sign of a machine that ends may be its end of the channel; how it ended says more.
        Err(failure) => match tokio::time::timeout(END_AFTER_HANG_UP, sandbox.ended()).await {
            Ok(how) => return Err(machine_ended(sandbox, &how)),
            Err(_) => return Err(failure),
        },
        Ok(end) => end,
    };
    let capture = match sink {
        Sink::Capture(capture) => Some(capture),
        Sink::Streams => None,
    };
    Ok((end, capture))
}

fn machine_ended(sandbox: &Sandbox, how: &str) -> Failure {
    Failure::machine(format!("the machine ended under the program: {how}")).with_detail(sandbox.console_tail())
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
                Sink::Streams => match pipes::write(stream == StreamName::Stderr, bytes).await {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(End::Cut(BROKEN_PIPE)),
                    Err(error) => return Err(Failure::host(format!("cannot write the program's output: {error}"))),
                },
            },
            Event::Exit { status, .. } => return Ok(End::Exited(status)),
        }
    }
    Err(Failure::host("the program's end was not reported".into()))
}

/// Passes standard input on. Never returns: at its end, or when the program takes no more, the program goes on.
async fn pass_input(stdin: Option<Stdin>) -> Infallible {
    if let Some(mut stdin) = stdin {
        // What cannot be read is at its end.
        while let Some(bytes) = pipes::read_stdin().await.ok().filter(|bytes| !bytes.is_empty()) {
            if stdin.write(bytes.into()).await.is_err() {
                break;
            }
        }
        stdin.close();
    }
    std::future::pending().await
}

/// Waits for longer than the guest can need to keep the deadline itself. One that is frozen or hostile does not.
async fn pass_deadline(options: &RunOptions) {
    match options.timeout {
        Some(timeout) => tokio::time::sleep(timeout.0 + DEADLINE_MARGIN).await,
        None => std::future::pending().await,
    }
}

fn keep_console(engine: &Engine, name: &str, console: &str) -> Result<String, Failure> {
    let path = engine.directories().logs().join(format!("{name}.console"));
    std::fs::write(&path, console).map_err(|error| Failure::host(format!("write {}: {error}", path.display())))?;
    Ok(path.display().to_string())
}

/// A boot that failed is when its console is wanted most.
fn boot_failed(engine: &Engine, options: &RunOptions, error: EngineError) -> Failure {
    if let (true, Some(console)) = (options.keep_logs, error.detail()) {
        match keep_console(engine, &format!("failed-{}", std::process::id()), console) {
            Ok(path) => output::say(&format!("hearth: the guest's console is in {path}")),
            Err(failure) => drop(failure.report(false)),
        }
    }
    error.into()
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
