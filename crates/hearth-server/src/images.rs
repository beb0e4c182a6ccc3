//! Images: listed, described and removed. Building one takes minutes, tools of the host's and its network: that is the command's.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::NoContent;
use hearth_api::home::{ImageInfo, ImageList};

use crate::answer::Refusal;
use crate::{App, home};

pub(crate) async fn list(State(app): State<App>) -> Result<Json<ImageList>, Refusal> {
    Ok(Json(home::images(app.fleet().engine())?))
}

pub(crate) async fn inspect(State(app): State<App>, Path(image): Path<String>) -> Result<Json<ImageInfo>, Refusal> {
    Ok(Json(home::image(app.fleet().engine(), &image)?))
}

pub(crate) async fn remove(State(app): State<App>, Path(image): Path<String>) -> Result<NoContent, Refusal> {
    home::remove_image(app.fleet().engine(), &image)?;
    Ok(NoContent)
}
