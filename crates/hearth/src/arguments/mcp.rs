//! What can be typed about MCP.

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_value_name = "COMMAND",
    after_help = "\
Speaks the Model Context Protocol on standard input and output, for a client that starts this command; `hearth mcp install` tells \
one to. The daemon speaks it too, over HTTP on its socket: /mcp, /mcp/run and /mcp/full.

  hearth mcp install claude-code
  hearth mcp install vscode --scope project --print"
)]
pub(crate) struct McpOptions {
    #[command(subcommand)]
    pub(crate) command: Option<McpCommand>,
    /// Tools that the client is shown
    #[arg(long, value_enum, default_value_t = McpProfile::Core)]
    pub(crate) profile: McpProfile,
}

#[derive(Debug, Subcommand)]
pub(crate) enum McpCommand {
    /// Tell a client of Hearth, in its own configuration
    #[command(after_help = "\
All else in the file stays as it is, comments included; a file that cannot be read is left alone. The user's configuration names this \
program by its path, a project's, which others may share, only as hearth.

  hearth mcp install codex
  hearth mcp install opencode --profile full --print")]
    Install(McpInstallOptions),
}

#[derive(Debug, Args)]
pub(crate) struct McpInstallOptions {
    /// Client to tell
    #[arg(value_enum)]
    pub(crate) client: McpClient,
    /// Whose configuration: yours, or that of the project in this directory
    #[arg(long, value_enum, default_value_t = McpScope::User)]
    pub(crate) scope: McpScope,
    /// Tools that the client is shown
    #[arg(long, value_enum, default_value_t = McpProfile::Core)]
    pub(crate) profile: McpProfile,
    /// Print what the file would be, and write nothing
    #[arg(long)]
    pub(crate) print: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum McpProfile {
    /// One that runs code
    Run,
    /// Sandboxes that stay: programs, files, patches
    Core,
    /// Snapshots, forks, services, ports, shells and kernels as well
    Full,
}

impl From<McpProfile> for hearth_mcp::Profile {
    fn from(profile: McpProfile) -> Self {
        match profile {
            McpProfile::Run => Self::Run,
            McpProfile::Core => Self::Core,
            McpProfile::Full => Self::Full,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum McpClient {
    /// Claude Code
    ClaudeCode,
    /// Codex CLI
    Codex,
    /// opencode
    Opencode,
    /// Cursor
    Cursor,
    /// Visual Studio Code
    Vscode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum McpScope {
    /// Yours, in all projects
    User,
    /// The project's, in this directory
    Project,
}
