//! Shells of a guest.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::NoContent;
use hearth_api::shells::{
    CloseShell, OpenShell, ReadScreen, ReadShell, Screen, ShellList, SignalShell, WaitShell, WriteShell, resized,
    shell_name,
};
use hearth_engine::protocol::process::Written;
use hearth_engine::protocol::shell::{IdleEnd, Opened};
use hearth_engine::protocol::{ExitStatus, PtySize, limits};

use crate::App;
use crate::answer::{Created, Piece, Refusal};
use crate::input::{Asked, Body, Raw};

type Answer<T> = Result<Json<T>, Refusal>;
/// A sandbox and a shell of it.
type Named = Path<(String, String)>;

pub(crate) async fn list(State(app): State<App>, Path(sandbox): Path<String>) -> Answer<ShellList> {
    Ok(Json(ShellList { shells: app.member(&sandbox)?.channel().await?.shells().await? }))
}

pub(crate) async fn open(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Body(request): Body<OpenShell>,
) -> Result<Created<Opened>, Refusal> {
    let open = request.open()?;
    Ok(Created(app.member(&sandbox)?.channel().await?.open_shell(open).await?))
}

pub(crate) async fn output(
    State(app): State<App>,
    Path((sandbox, name)): Named,
    Asked(query): Asked<ReadShell>,
) -> Result<Piece, Refusal> {
    let read = query.read(shell_name(&name)?)?;
    let (read, bytes) = app.member(&sandbox)?.channel().await?.read_shell(read).await?;
    Ok(Piece(read, bytes))
}

pub(crate) async fn screen(
    State(app): State<App>,
    Path((sandbox, name)): Named,
    Asked(query): Asked<ReadScreen>,
) -> Answer<Screen> {
    let read = query.read(shell_name(&name)?)?;
    let (read, text) = app.member(&sandbox)?.channel().await?.read_shell_plain(read).await?;
    Ok(Json(Screen { read, text }))
}

pub(crate) async fn input(
    State(app): State<App>,
    Path((sandbox, name)): Named,
    Asked(query): Asked<WriteShell>,
    Raw(bytes): Raw,
) -> Answer<Written> {
    let write = query.write(shell_name(&name)?)?;
    let wait = Duration::from_millis(write.wait_ms);
    Ok(Json(app.member(&sandbox)?.channel().await?.write_shell(write.name, bytes, write.newline, wait).await?))
}

pub(crate) async fn wait(
    State(app): State<App>,
    Path((sandbox, name)): Named,
    Body(request): Body<WaitShell>,
) -> Answer<IdleEnd> {
    let wait = request.wait(shell_name(&name)?)?;
    Ok(Json(app.member(&sandbox)?.channel().await?.wait_shell(wait).await?))
}

pub(crate) async fn signal(
    State(app): State<App>,
    Path((sandbox, name)): Named,
    Body(request): Body<SignalShell>,
) -> Result<NoContent, Refusal> {
    let name = shell_name(&name)?;
    app.member(&sandbox)?.channel().await?.signal_shell(name, request.signal, request.scope).await?;
    Ok(NoContent)
}

pub(crate) async fn resize(
    State(app): State<App>,
    Path((sandbox, name)): Named,
    Body(size): Body<PtySize>,
) -> Result<NoContent, Refusal> {
    let resize = resized(shell_name(&name)?, size)?;
    app.member(&sandbox)?.channel().await?.resize_shell(resize.name, resize.size).await?;
    Ok(NoContent)
}

pub(crate) async fn close(
    State(app): State<App>,
    Path((sandbox, name)): Named,
    Asked(query): Asked<CloseShell>,
) -> Answer<ExitStatus> {
    let close = query.close(shell_name(&name)?)?;
    let grace = Duration::from_millis(close.grace_ms.unwrap_or(limits::DEFAULT_GRACE_MS));
    Ok(Json(app.member(&sandbox)?.channel().await?.close_shell(close.name, grace).await?))
}
