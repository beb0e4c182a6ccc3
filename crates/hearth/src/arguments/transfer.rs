//! What can be typed about trees between this host and a sandbox.

use std::ffi::OsString;

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "\
A directory that is there gets what is copied under its own name; SOURCE/. copies what is in SOURCE. Times and permissions are kept, \
and what comes out of a sandbox lands in the place that was named: no link there is followed, no device is made, no set-user-id bit \
is kept. - is a tar archive on standard input or output.

  hearth cp src web:              # to /workspace/src
  hearth cp web:dist/. public     # what is in it
  hearth cp web:result.json .
  tar c . | hearth cp - web:/srv")]
pub(crate) struct CopyOptions {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// What to copy: a path here, SANDBOX:PATH, or -
    pub(crate) source: OsString,
    /// Where to: a path here, SANDBOX:PATH, or -
    pub(crate) destination: OsString,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Sends what is other there, by kind, size, time, permissions and what links say, all of it or nothing; what is there alone stays, \
unless --delete. Patterns are those of .gitignore; what fits one is neither sent nor deleted.

  hearth sync . web:.  --exclude .git --exclude node_modules/ --delete
  hearth sync web:dist dist")]
pub(crate) struct SyncOptions {
    /// Remove what is in the destination alone
    #[arg(long)]
    pub(crate) delete: bool,
    /// Leave alone what fits a pattern, on both sides
    #[arg(short = 'x', long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Directory to send: here, or SANDBOX:PATH
    pub(crate) source: OsString,
    /// Directory to make like it: SANDBOX:PATH, or here
    pub(crate) destination: OsString,
}
