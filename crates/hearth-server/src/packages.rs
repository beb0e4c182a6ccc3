//! Packages of a guest's languages, installed.

use axum::Json;
use axum::extract::{Path, State};
use hearth_api::Capture;
use hearth_api::packages::{InstallPackages, InstallResult};
use hearth_engine::channel::{Operation, Sent};
use hearth_engine::protocol::packages::PackageResult;
use hearth_engine::protocol::{Finished, StreamName};

use crate::App;
use crate::answer::Refusal;
use crate::exec::within;
use crate::files::cut_off;
use crate::input::Body;

/// Installs packages. When the connection ends before that, so does the installer.
pub(crate) async fn install(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Body(request): Body<InstallPackages>,
) -> Result<Json<InstallResult>, Refusal> {
    let (install, limit) = request.checked()?;
    let guest = app.member(&sandbox)?.channel().await?;
    let timeout_ms = install.timeout_ms;
    within(timeout_ms, async {
        let operation = guest.install_packages(install).await?;
        to_end(operation, limit).await.map(Json)
    })
    .await
}

async fn to_end(operation: Operation, limit: u64) -> Result<InstallResult, Refusal> {
    let (mut stdout, mut stderr) = (Capture::new(limit), Capture::new(limit));
    loop {
        match operation.next().await?.ok_or_else(cut_off)? {
            Sent::Piece(StreamName::Stderr, bytes) => stderr.push(&bytes),
            Sent::Piece(_, bytes) => stdout.push(&bytes),
            Sent::End(_) => {}
            Sent::Finished(result) => match *result {
                Finished::Packages(PackageResult::Installed(status)) => {
                    let (exit_code, stdout, stderr) = (status.shell_code(), stdout.finish(), stderr.finish());
                    return Ok(InstallResult { exit_code, status, stdout, stderr });
                }
                _ => return Err(cut_off().into()),
            },
        }
    }
}
