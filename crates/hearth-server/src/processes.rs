//! Processes of a guest: started, listed, read, written to, signalled, followed.

use std::time::Duration;

use axum::Json;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Extension, Path, State};
use axum::response::NoContent;
use hearth_api::process::{AttachProcess, ProcessList, ProcessStarted, ReadProcess, SignalProcess, WriteProcess};
use hearth_api::{ErrorBody, ExecRequest, OwnCode};
use hearth_engine::channel::ChannelError;
use hearth_engine::protocol::process::{ReadOutput, Written};
use hearth_engine::protocol::{Attach, Delivery, ErrorCode, ProcessId, ProcessRef, Tag, limits};

use crate::App;
use crate::answer::{Created, Piece, Refusal, Upgraded};
use crate::audit::Entry;
use crate::connection::Place;
use crate::exec::attached;
use crate::input::{Asked, Body, Raw};

/// Starts a program, and does not wait for it.
pub(crate) async fn start(
    State(app): State<App>,
    Path(reference): Path<String>,
    Body(request): Body<ExecRequest>,
) -> Result<Created<ProcessStarted>, Refusal> {
    if request.stdin.is_some() || request.max_output_bytes.is_some() {
        let message = "stdin and max_output_bytes are for a program that is waited for";
        return Err(ErrorBody::new(OwnCode::InvalidValue, message).with_field("stdin").into());
    }
    let mut start = request.held()?;
    start.attach = None;
    let process = app.member(&reference)?.channel().await?.start(start).await?;
    Ok(Created(ProcessStarted { process: process.id(), pid: process.pid() }))
}

pub(crate) async fn list(State(app): State<App>, Path(reference): Path<String>) -> Result<Json<ProcessList>, Refusal> {
    let processes = app.member(&reference)?.channel().await?.list().await?;
    Ok(Json(ProcessList { processes }))
}

/// Which process is meant: all digits are its id, everything else its tag.
fn process(text: &str) -> Result<ProcessRef, Refusal> {
    match text.parse() {
        Ok(id) => Ok(ProcessId(id).into()),
        Err(_) => Tag::new(text).map(Into::into).map_err(|fault| ErrorBody::from(fault).with_field("process").into()),
    }
}

pub(crate) async fn output(
    State(app): State<App>,
    Path((reference, named)): Path<(String, String)>,
    Asked(query): Asked<ReadProcess>,
) -> Result<Piece, Refusal> {
    let mut read = ReadOutput::new(process(&named)?);
    read.stream = query.stream.unwrap_or(read.stream);
    read.from = query.from.unwrap_or(read.from);
    read.limit = query.limit.unwrap_or(read.limit);
    read.wait_ms = query.wait_ms.unwrap_or(read.wait_ms);
    check_wait(query.wait_ms)?;
    let (read, bytes) = app.member(&reference)?.channel().await?.read_output(read).await?;
    Ok(Piece(read, bytes))
}

pub(crate) async fn input(
    State(app): State<App>,
    Path((reference, named)): Path<(String, String)>,
    Asked(query): Asked<WriteProcess>,
    Raw(bytes): Raw,
) -> Result<Json<Written>, Refusal> {
    let process = process(&named)?;
    check_wait(query.wait_ms)?;
    let wait = Duration::from_millis(query.wait_ms.unwrap_or(limits::DEFAULT_WRITE_WAIT_MS));
    let channel = app.member(&reference)?.channel().await?;
    let length = bytes.len() as u64;
    let written = match length {
        0 => Written { accepted: 0 },
        _ => channel.write_input(process.clone(), bytes, wait).await?,
    };
    if query.close == Some(true) && written.accepted == length {
        match channel.close_stdin(process).await {
            // It has read what it wanted, and ended.
            Err(ChannelError::Fault { source }) if length > 0 && source.code == ErrorCode::NotRunning => {}
            closed => closed?,
        }
    }
    Ok(Json(written))
}

/// The guest checks it too, but the wait for its answer is this end's.
fn check_wait(wait_ms: Option<u64>) -> Result<(), Refusal> {
    if wait_ms.is_none_or(|wait| wait <= limits::WAIT_MS) {
        return Ok(());
    }
    let message = format!("wait_ms must be at most {}", limits::WAIT_MS);
    Err(ErrorBody::new(OwnCode::InvalidValue, message).with_field("wait_ms").into())
}

pub(crate) async fn signal(
    State(app): State<App>,
    Path((reference, named)): Path<(String, String)>,
    Body(request): Body<SignalProcess>,
) -> Result<NoContent, Refusal> {
    let process = process(&named)?;
    app.member(&reference)?.channel().await?.signal(process, request.signal, request.scope).await?;
    Ok(NoContent)
}

/// Upgrades, and follows a process that is there already.
pub(crate) async fn attach(
    State(app): State<App>,
    Path((reference, named)): Path<(String, String)>,
    Extension(entry): Extension<Entry>,
    Extension(place): Extension<Place>,
    Asked(query): Asked<AttachProcess>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Upgraded<()>, Refusal> {
    let attach = Attach {
        process: process(&named)?,
        stdout: query.stdout.unwrap_or(0),
        stderr: query.stderr.unwrap_or(0),
        delivery: query.delivery.unwrap_or(Delivery::Lossless),
    };
    attached((app, entry, place), reference, attach, upgrade)
}
