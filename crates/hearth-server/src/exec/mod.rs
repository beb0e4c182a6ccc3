//! Programs: run to their end, or held over a WebSocket.

mod held;

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use bytes::Bytes;
use hearth_api::{Capture, ErrorBody, ExecRequest, ExecResult, OwnCode};
use hearth_engine::channel::{ChannelError, Event, Process, Stdin};
use hearth_engine::fleet::Guest;
use hearth_engine::protocol::{ExitStatus, Outcome, Start, StreamName};

use crate::App;
use crate::answer::Refusal;
use crate::input::Body;

pub(crate) use held::{attached, held, run};

/// What the guest may need beyond a deadline, to end the program and to say so, before it is held to have failed to.
const DEADLINE_MARGIN: Duration = Duration::from_secs(20);

/// Runs a program to its end. When the connection ends before it, the program goes on.
pub(crate) async fn one_shot(
    State(app): State<App>,
    Path(reference): Path<String>,
    Body(request): Body<ExecRequest>,
) -> Result<Json<ExecResult>, Refusal> {
    let limit = request.output_limit()?;
    let input = request.stdin.clone();
    let start = request.one_shot()?;
    let guest = app.member(&reference)?.channel().await?;
    within(start.timeout_ms, to_end(guest, start, input, limit)).await
}

/// Waits for what a guest is to end by a deadline, and not much longer.
pub(crate) async fn within<T>(
    timeout_ms: Option<u64>,
    whole: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    match timeout_ms.map(|time| Duration::from_millis(time) + DEADLINE_MARGIN) {
        None => whole.await,
        Some(bound) => tokio::time::timeout(bound, whole).await.unwrap_or_else(|_| Err(unkept(bound))),
    }
}

fn unkept(bound: Duration) -> Refusal {
    let message = format!("the guest did not keep the deadline: no end within {bound:?}");
    let mut body = ErrorBody::new(OwnCode::NoAnswer, message);
    body.outcome = Some(Outcome::MayHaveRun);
    body.into()
}

async fn to_end(guest: Guest, start: Start, input: Option<String>, limit: u64) -> Result<Json<ExecResult>, Refusal> {
    let process = guest.start(start).await?;
    let stdin = process.stdin();
    let mut output = Output { stdout: Capture::new(limit), stderr: Capture::new(limit) };
    let (status, ()) = tokio::join!(output.take(&process), feed(stdin, input));
    let status = status?;
    Ok(Json(ExecResult {
        process: process.id(),
        exit_code: status.shell_code(),
        status,
        stdout: output.stdout.finish(),
        stderr: output.stderr.finish(),
    }))
}

async fn feed(stdin: Option<Stdin>, input: Option<String>) {
    if let Some(mut stdin) = stdin {
        // A program that ends without reading all has had what it wanted.
        let _ = stdin.write(Bytes::from(input.unwrap_or_default())).await;
        stdin.close();
    }
}

struct Output {
    stdout: Capture,
    stderr: Capture,
}

impl Output {
    async fn take(&mut self, process: &Process) -> Result<ExitStatus, ChannelError> {
        while let Some(event) = process.next_event().await? {
            match event {
                Event::Output { stream: StreamName::Stderr, at, bytes } => self.stderr.take(at, &bytes),
                Event::Output { at, bytes, .. } => self.stdout.take(at, &bytes),
                Event::Exit { status, output } => {
                    self.stdout.end(output.stdout);
                    self.stderr.end(output.stderr);
                    return Ok(status);
                }
            }
        }
        // A process that is followed ends with an exit or an error.
        Err(ChannelError::StdinClosed)
    }
}
