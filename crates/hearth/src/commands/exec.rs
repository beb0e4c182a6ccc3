//! `hearth exec`: a program in a sandbox that stays. Its streams are this process's own.
//!
//! Output goes out in one future; input, signals and the terminal's size go in by another, which alone writes to the connection.

use std::convert::Infallible;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use bytes::Bytes;
use hearth_client::api::ExecRequest;
use hearth_client::api::exec::CommandLine;
use hearth_client::api::protocol::{ExitStatus, RawString, Signal, SignalScope, StreamName};
use hearth_client::{Held, HeldEvent, HeldInput};
use tokio::sync::mpsc;

use super::sandbox::existing;
use crate::arguments::ExecOptions;
use crate::capture::Capture;
use crate::failure::{BROKEN_PIPE, Failure, TIMED_OUT, exit_code_of};
use crate::signals::{Signals, Told};
use crate::terminal::{self, RawMode};
use crate::values::EnvVar;
use crate::{output, pipes};

/// What the guest may need beyond the deadline, to stop the program and to say so, before it is held to have failed to.
const DEADLINE_MARGIN: Duration = Duration::from_secs(20);
/// The exit code after a second Ctrl-C.
const INTERRUPTED: i32 = 130;

/// How it came to its end: with the program's, or before it, with a code of our own.
enum End {
    Exited(ExitStatus),
    Cut(i32),
}

/// Runs a program, and returns its exit code.
pub(crate) async fn run(options: ExecOptions) -> Result<i32, Failure> {
    let request = request(&options);
    let client = existing(&options.sandbox).await?;
    let mut signals = Signals::new().map_err(Failure::runtime)?;
    let held = client.hold(&options.sandbox, &request).await?;
    if options.detach {
        output::print(&held.process().0.to_string())?;
        return Ok(0);
    }
    let mut capture = options.json.then(Capture::default);
    let _raw = match request.pty {
        Some(_) => Some(RawMode::enter().map_err(|error| Failure::host(format!("set the terminal: {error}")))?),
        None => None,
    };
    let end = converse(held, &options, &mut signals, &mut capture).await?;
    match end {
        End::Cut(code) => Ok(code),
        End::Exited(status) => {
            let code = exit_code_of(&status);
            if let Some(capture) = capture {
                output::print_json(&capture.report(code, &status))?;
            } else if status.out_of_memory {
                output::say("hearth: the program was killed for want of memory");
            }
            Ok(code)
        }
    }
}

fn request(options: &ExecOptions) -> ExecRequest {
    let argv = options.command.iter().map(|argument| RawString::from(argument.clone().into_vec())).collect();
    let mut request = ExecRequest::new(CommandLine::Argv(argv));
    request.cwd = options.workdir.clone().map(|directory| RawString::from(directory.into_vec()));
    request.env =
        options.env.iter().filter_map(EnvVar::get).map(|(name, value)| (name, RawString::from(value))).collect();
    request.user.clone_from(&options.user);
    request.timeout_ms = options.timeout.map(|time| u64::try_from(time.0.as_millis()).unwrap_or(u64::MAX));
    request.interactive = options.interactive;
    if options.tty && terminal::is_interactive() {
        request.pty = Some(terminal::size());
        if let Ok(term) = std::env::var("TERM") {
            request.env.entry("TERM".into()).or_insert_with(|| RawString::from(term));
        }
    }
    request
}

async fn converse(
    mut held: Held,
    options: &ExecOptions,
    signals: &mut Signals,
    capture: &mut Option<Capture>,
) -> Result<End, Failure> {
    let Some(input) = held.input() else { return Err(Failure::host("the program takes no input".to_owned())) };
    let (sender, pieces) = mpsc::channel(1);
    tokio::select! {
        end = pass_output(&mut held, capture) => end,
        end = pass_input(input, pieces, signals) => end,
        never = read_input(options.interactive.then_some(sender)) => match never {},
        () = pass_deadline(options) => {
            output::say("hearth: the guest did not keep the deadline");
            Ok(End::Cut(TIMED_OUT))
        }
    }
}

async fn pass_output(held: &mut Held, capture: &mut Option<Capture>) -> Result<End, Failure> {
    loop {
        match (held.next().await?, &mut *capture) {
            (HeldEvent::Exit(status, _), _) => return Ok(End::Exited(status)),
            (HeldEvent::Output(stream, bytes), Some(capture)) => capture.take(stream, &bytes),
            (HeldEvent::Output(stream, bytes), None) => match pipes::write(stream == StreamName::Stderr, bytes).await {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(End::Cut(BROKEN_PIPE)),
                Err(error) => return Err(Failure::host(format!("cannot write the program's output: {error}"))),
            },
            (HeldEvent::Dropped(stream, bytes), Some(capture)) => capture.drop_bytes(stream, bytes),
            (HeldEvent::Dropped(stream, bytes), None) => {
                output::say(&format!("hearth: {bytes} bytes of {stream:?} were dropped in the guest"));
            }
        }
    }
}

/// Reads standard input piece by piece; its end is the end of the pieces. Never returns, since the program goes on.
async fn read_input(sender: Option<mpsc::Sender<Bytes>>) -> Infallible {
    if let Some(sender) = sender {
        // What cannot be read is at its end.
        while let Some(bytes) = pipes::read_stdin().await.ok().filter(|bytes| !bytes.is_empty()) {
            if sender.send(bytes.into()).await.is_err() {
                break;
            }
        }
    }
    std::future::pending().await
}

/// Passes input, signals and sizes on, until a signal ends this process.
async fn pass_input(
    mut input: HeldInput,
    mut pieces: mpsc::Receiver<Bytes>,
    signals: &mut Signals,
) -> Result<End, Failure> {
    // Without input to pass on, the end of it is not passed on either: a terminal takes that for Ctrl-D.
    let (mut rest, mut is_open, mut was_interrupted) = (Bytes::new(), !pieces.is_closed(), false);
    loop {
        tokio::select! {
            told = signals.told() => match told {
                Told::Interrupt if was_interrupted => return Ok(End::Cut(INTERRUPTED)),
                Told::Interrupt => {
                    was_interrupted = true;
                    input.signal(Signal::Int, SignalScope::Tree).await?;
                }
                Told::End(code) => {
                    let signal = Signal::from_number(code - 128).unwrap_or(Signal::Term);
                    input.signal(signal, SignalScope::Tree).await?;
                    return Ok(End::Cut(code));
                }
                Told::Resized => input.resize(terminal::size()).await?,
            },
            piece = pieces.recv(), if is_open && rest.is_empty() => match piece {
                Some(bytes) => rest = bytes,
                None => {
                    is_open = false;
                    input.close().await?;
                }
            },
            () = input.room(), if !rest.is_empty() => rest = input.write(rest).await?,
        }
    }
}

/// Waits for longer than the guest can need to keep the deadline itself. One that is frozen or hostile does not.
async fn pass_deadline(options: &ExecOptions) {
    match options.timeout {
        Some(timeout) => tokio::time::sleep(timeout.0 + DEADLINE_MARGIN).await,
        None => std::future::pending().await,
    }
}
