//! Packages: installed by the agent's own core, in their language's turn, where code of that language finds them.

use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use hearth_protocol::packages::{Install, PackageLanguage};
use hearth_protocol::{ErrorCode, Fault};

use super::exec::{Complete, GRACE};
use super::output::Output;
use super::request::{ErrorType, Language, Packages, Refusal};
use super::script::{Bounds, follow};
use super::{Entry, Execution, cancelled};
use crate::packages;

/// Installs packages: Python's for the user, JavaScript's in the home directory, where this dialect's code runs.
pub(super) async fn install(
    execution: &Execution,
    wanted: Packages,
    output: &Output,
    entry: &Entry,
) -> Result<Complete, Refusal> {
    let language = match wanted.language {
        PackageLanguage::Python => Language::Python,
        PackageLanguage::Javascript => Language::Javascript,
    };
    // Two installers of one language would be in each other's way, and code that was asked for behind an installation wants its packages.
    let _turn = tokio::select! {
        turn = execution.turns[language as usize].lock() => turn,
        () = entry.cancelled() => return Err(cancelled()),
    };
    let begun = Instant::now();
    let mut install = Install::new(wanted.language, wanted.packages);
    install.timeout_ms = Some(wanted.timeout.as_millis().max(1) as u64);
    if language == Language::Javascript {
        install.directory = Some(execution.home()?.path().as_os_str().as_bytes().into());
    }
    let process = tokio::select! {
        started = packages::start(&execution.agent, &install, Some(GRACE.as_millis() as u64)) => started.map_err(not_begun)?,
        () = entry.cancelled() => return Err(cancelled()),
    };
    follow(process, &Bounds { timeout: wanted.timeout, begun, entry }, output).await
}

fn not_begun(fault: Fault) -> Refusal {
    let error_type = match fault.code {
        ErrorCode::Unavailable | ErrorCode::InvalidField => ErrorType::Package,
        _ => ErrorType::Execution,
    };
    Refusal::new(error_type, fault.message)
}
