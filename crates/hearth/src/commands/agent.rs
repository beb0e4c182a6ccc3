//! `hearth agent`: this process becomes the guest agent.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use hearth_engine::AgentProgram;

use crate::failure::Failure;

/// Becomes the agent. Returns only when that fails.
pub(crate) fn run(arguments: &[OsString]) -> Failure {
    let error = match AgentProgram::new() {
        Ok(agent) => Command::new(agent.path()).arg0("hearth-agent").args(arguments).exec(),
        Err(error) => error,
    };
    Failure::host(format!("cannot run the agent: {error}"))
}
