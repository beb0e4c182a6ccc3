//! A program that is held through the daemon: its streams are this process's own.
//!
//! Output goes out in one future; input, signals and the terminal's size go in by another, which alone writes to the connection.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use hearth_client::api::protocol::{ExitStatus, Signal, SignalScope, StreamName};
use hearth_client::{Held, HeldEvent, HeldInput};
use tokio::sync::mpsc;

use crate::capture::Capture;
use crate::failure::{BROKEN_PIPE, Failure, TIMED_OUT};
use crate::signals::{Signals, Told};
use crate::{output, pipes, terminal};

/// What the guest may need beyond the deadline, to stop the program and to say so, before it is held to have failed to.
const DEADLINE_MARGIN: Duration = Duration::from_secs(20);
/// How long the end of a program is waited for on a connection that takes nothing more.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(5);
/// The exit code after a second Ctrl-C.
pub(super) const INTERRUPTED: i32 = 130;

/// How a program came to its end: by itself, or for this process, which then has a code of its own.
pub(super) enum End {
    Exited(ExitStatus),
    /// This process was told to end, or nobody reads its output: the exit code says why.
    Cut(i32),
}

/// How a program is held.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// Whether it gets this process's input.
    pub(super) interactive: bool,
    /// Its deadline.
    pub(super) timeout: Option<Duration>,
}

/// Passes all on until the program, or this process, is to end.
pub(super) async fn converse(
    held: &mut Held,
    manner: Manner,
    signals: &mut Signals,
    capture: &mut Option<Capture>,
) -> Result<End, Failure> {
    let Some(input) = held.input() else { return Err(Failure::host("the program takes no input".to_owned())) };
    let (sender, pieces) = mpsc::channel(1);
    let mut output = pin!(pass_output(held, capture));
    tokio::select! {
        end = &mut output => end,
        end = pass_input(input, pieces, signals) => match end {
            // The program may have ended, and the connection with it, while this was on its way: what came before says so.
            Err(error) => tokio::time::timeout(LAST_WORDS, output).await.ok().and_then(Result::ok).ok_or(error),
            end => end,
        },
        never = read_input(manner.interactive.then_some(sender)) => match never {},
        () = pass_deadline(manner.timeout) => {
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
                Told::End(code) => return Ok(End::Cut(code)),
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
pub(super) async fn pass_deadline(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout + DEADLINE_MARGIN).await,
        None => std::future::pending().await,
    }
}
