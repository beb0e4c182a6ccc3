//! Templates: listed, made ahead of their first use, and removed.

use axum::Json;
use axum::extract::{Path, State};
use hearth_api::home::{BuildTemplate, RemovedTemplate, TemplateInfo, TemplateList};

use crate::answer::{Created, Refusal};
use crate::input::Body;
use crate::{App, home};

pub(crate) async fn list(State(app): State<App>) -> Json<TemplateList> {
    Json(home::templates(app.fleet().engine()))
}

pub(crate) async fn build(
    State(app): State<App>,
    Body(request): Body<BuildTemplate>,
) -> Result<Created<TemplateInfo>, Refusal> {
    let made = app.fleet().build_template(home::template_spec(request)?).await?;
    Ok(Created(home::template(app.fleet().engine(), &made.id)?))
}

pub(crate) async fn remove(
    State(app): State<App>,
    Path(template): Path<String>,
) -> Result<Json<RemovedTemplate>, Refusal> {
    Ok(Json(home::remove_template(app.fleet().engine(), &template)?))
}
