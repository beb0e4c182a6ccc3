//! `hearth mcp`: the daemon's API as an MCP server at this process's standard streams.

mod config;
mod install;

use std::sync::Arc;

use futures_util::FutureExt;
use hearth_client::api::ErrorBody;

use crate::arguments::{McpCommand, McpOptions};
use crate::daemon;
use crate::failure::Failure;
use crate::signals::Signals;

/// Serves the client until it is gone, or writes another's configuration.
pub(crate) async fn run(options: McpOptions) -> Result<i32, Failure> {
    if let Some(McpCommand::Install(options)) = options.command {
        return install::run(&options);
    }
    // Each call finds the daemon anew: it may have ended since, or have been killed.
    let connect: hearth_mcp::Connect =
        Arc::new(|_| async { Ok(daemon::client().await.map_err(ErrorBody::from)?.via("mcp")) }.boxed());
    let mut signals = Signals::new().map_err(Failure::runtime)?;
    let served = hearth_mcp::stdio(connect, options.profile.into(), signals.first()).await;
    let told =
        served.map_err(|error| Failure::invalid(format!("the client at standard input does not speak MCP: {error}")));
    Ok(told?.unwrap_or(0))
}
