//! A run in this process, which then owns the machine: for what does not go through the daemon, and for whoever wants none.

use std::convert::Infallible;
use std::io;
use std::time::{Duration, Instant};

use hearth_engine::channel::{Event, Process, Stdin};
use hearth_engine::protocol::{Start, StreamName};
use hearth_engine::{DialectAddresses, Engine, EngineError, Sandbox, SandboxSpec};

use super::Ran;
use super::report::{Summary, Timings, keep_console, keep_failed_console, tell_of_start};
use crate::arguments::RunOptions;
use crate::capture::Capture;
use crate::commands::conversation::{End, pass_deadline};
use crate::failure::{BROKEN_PIPE, Failure, TIMED_OUT};
use crate::signals::Signals;
use crate::terminal::RawMode;
use crate::{output, pipes};

/// How long the end of a machine whose channel has ended may take to be seen.
const END_AFTER_HANG_UP: Duration = Duration::from_secs(2);

/// Runs the program, and waits until nothing of its sandbox is left.
pub(super) async fn run(
    engine: &Engine,
    options: &RunOptions,
    spec: &SandboxSpec,
    start: Start,
    signals: &mut Signals,
) -> Result<Ran, Failure> {
    let mut timings = Timings::since(Instant::now());
    let sandbox = tokio::select! {
        created = engine.create(spec) => match created {
            Ok(sandbox) => sandbox,
            Err(error) => return Err(boot_failed(engine, options, error)),
        },
        code = signals.first() => return Ok(Ran::cut(code)),
    };
    timings.note("ready");
    let summary = Summary::of(&sandbox);
    tell_of_start(&summary, sandbox.failed_before(), options.json);
    if let Some(addresses) = sandbox.dialects() {
        say_dialects(addresses);
    }
    let result = drive(&sandbox, options, start, signals, &mut timings).await;
    timings.note("ended");
    let directories = engine.directories();
    let kept = options.keep_logs.then(|| keep_console(directories, sandbox.id().as_str(), &sandbox.console_tail()));
    sandbox.remove().await;
    if let Some(kept) = kept {
        output::say(&format!("hearth: the guest's console is in {}", kept?));
    }
    let (end, capture) = result?;
    Ok(Ran { end, capture, summary: Some(summary), timings })
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

async fn drive(
    sandbox: &Sandbox,
    options: &RunOptions,
    start: Start,
    signals: &mut Signals,
    timings: &mut Timings,
) -> Result<(End, Option<Capture>), Failure> {
    let terminal = start.pty.is_some();
    let process = sandbox.channel().start(start).await?;
    timings.note("started");
    let _raw = terminal.then(RawMode::enter).transpose();
    let _raw = _raw.map_err(|error| Failure::host(format!("set the terminal: {error}")))?;
    let mut sink = if options.json { Sink::Capture(Capture::default()) } else { Sink::Streams };
    let stdin = process.stdin();
    let end = tokio::select! {
        end = pass_output(&process, &mut sink) => end,
        code = signals.pass_on(&process, terminal) => Ok(End::Cut(code)),
        never = pass_input(stdin) => match never {},
        () = pass_deadline(options.timeout.map(|time| time.0)) => {
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

/// A boot that failed is when its console is wanted most.
fn boot_failed(engine: &Engine, options: &RunOptions, error: EngineError) -> Failure {
    if let (true, Some(console)) = (options.keep_logs, error.detail()) {
        keep_failed_console(engine.directories(), console);
    }
    error.into()
}
