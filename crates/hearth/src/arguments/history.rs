//! What can be typed about the history of a sandbox's workspace.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use hearth_client::api::protocol::history::BASELINE;

use super::SandboxOptions;

#[derive(Debug, Args)]
#[command(after_help = "\
The patch is one that git apply and hearth patch take. What none can carry (FIFOs, devices, huge files, what is in a .git) is counted \
on standard error.

  hearth diff web > work.patch
  hearth diff web --since before-lunch --stat")]
pub(crate) struct DiffOptions {
    /// Checkpoint to compare with
    #[arg(long, value_name = "CHECKPOINT", default_value = BASELINE)]
    pub(crate) since: String,
    /// List what has changed in place of the patch
    #[arg(long, conflicts_with = "json")]
    pub(crate) stat: bool,
    /// List what has changed as JSON in place of the patch
    #[arg(long)]
    pub(crate) json: bool,
    /// Sandbox: an id, a name, or the beginning of an id
    pub(crate) sandbox: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Takes what git diff, git format-patch and diff -ru write. A hunk that does not fit fails it all, and is named with its file.

  git diff | hearth patch web
  hearth patch web -R work.patch")]
pub(crate) struct PatchOptions {
    /// Undo it instead
    #[arg(short = 'R', long)]
    pub(crate) reverse: bool,
    /// Only find out whether it applies
    #[arg(long)]
    pub(crate) check: bool,
    /// Take so many names off the front of each path
    #[arg(short = 'p', long, value_name = "N", default_value_t = 1)]
    pub(crate) strip: u32,
    /// Directory of the workspace that the patch's paths begin at
    #[arg(short, long, value_name = "DIR")]
    pub(crate) directory: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Sandbox: an id, a name, or the beginning of an id
    pub(crate) sandbox: String,
    /// File with the patch; - is standard input
    #[arg(default_value = "-")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ResetOptions {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Sandbox: an id, a name, or the beginning of an id
    pub(crate) sandbox: String,
    /// Checkpoint to go back to
    #[arg(default_value = BASELINE)]
    pub(crate) checkpoint: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CheckpointCommand {
    /// Take a checkpoint of the workspace, in the place of one of the same name
    Create {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Sandbox: an id, a name, or the beginning of an id
        sandbox: String,
        /// Name for the checkpoint
        #[arg(default_value = BASELINE)]
        name: String,
    },
    /// List checkpoints
    Ls(SandboxOptions),
    /// Remove a checkpoint
    Rm {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Sandbox: an id, a name, or the beginning of an id
        sandbox: String,
        /// Checkpoint
        name: String,
    },
}

impl CheckpointCommand {
    pub(super) fn wants_json(&self) -> bool {
        matches!(
            self,
            Self::Create { json: true, .. } | Self::Ls(SandboxOptions { json: true, .. }) | Self::Rm { json: true, .. }
        )
    }
}
