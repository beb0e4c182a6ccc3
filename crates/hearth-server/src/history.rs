//! The history of a guest's workspace.

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::NoContent;
use bytes::Bytes;
use hearth_api::history::{ApplyPatch, ChangeList, CheckpointList, Since, checkpoint_name};
use hearth_engine::channel::{ChannelError, DiffPiece, Diffing};
use hearth_engine::protocol::history::{Checkpoint, Named, Patched, ResetDone};

use crate::App;
use crate::answer::{Content, Created, Diff, Refusal};
use crate::files::{Pieces, Reader, cut_off, stream};
use crate::input::{Asked, Body};
use crate::uploads::heard_out;

type Answer<T> = Result<Json<T>, Refusal>;

/// Sends a patch. One that breaks off is told by the end of the connection, as every stream is.
pub(crate) async fn diff(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Asked(Since { since }): Asked<Since>,
) -> Result<Content<Diff>, Refusal> {
    let guest = app.member(&sandbox)?.channel().await?;
    let diffing = guest.diff(since.unwrap_or_default()).await?;
    stream((diffing, guest)).await
}

impl Pieces for Diffing {
    async fn piece(&mut self) -> Result<Option<Bytes>, ChannelError> {
        match self.next().await? {
            Some(DiffPiece::Bytes(bytes)) => Ok(Some(bytes)),
            Some(DiffPiece::End(_)) => Ok(None),
            None => Err(cut_off()),
        }
    }
}

pub(crate) async fn changes(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Asked(Since { since }): Asked<Since>,
) -> Answer<ChangeList> {
    let (changes, totals) = app.member(&sandbox)?.channel().await?.changes(since.unwrap_or_default()).await?;
    Ok(Json(ChangeList { changes, totals }))
}

/// Applies a patch, all of it or nothing. A body that breaks off is no patch.
pub(crate) async fn patch(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Asked(query): Asked<ApplyPatch>,
    request: Request,
) -> Answer<Patched> {
    heard_out(request, async |request| {
        let patch = query.patch()?;
        Ok(Json(app.member(&sandbox)?.channel().await?.patch(patch, Reader::of(request)).await?))
    })
    .await
}

pub(crate) async fn reset(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Body(to): Body<Named>,
) -> Answer<ResetDone> {
    Ok(Json(app.member(&sandbox)?.channel().await?.reset(to.name).await?))
}

pub(crate) async fn checkpoints(State(app): State<App>, Path(sandbox): Path<String>) -> Answer<CheckpointList> {
    Ok(Json(CheckpointList { checkpoints: app.member(&sandbox)?.channel().await?.checkpoints().await? }))
}

pub(crate) async fn checkpoint(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Body(named): Body<Named>,
) -> Result<Created<Checkpoint>, Refusal> {
    let taken = app.member(&sandbox)?.channel().await?.checkpoint(named.name).await?;
    Ok(Created(taken))
}

pub(crate) async fn remove_checkpoint(
    State(app): State<App>,
    Path((sandbox, name)): Path<(String, String)>,
) -> Result<NoContent, Refusal> {
    let name = checkpoint_name(&name, "name")?;
    app.member(&sandbox)?.channel().await?.remove_checkpoint(name).await?;
    Ok(NoContent)
}
