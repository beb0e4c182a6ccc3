//! `hearth completions` and `hearth man`: what can be typed, for shells and for `man`, made from the same description as the parser; and
//! `hearth openapi`: what can be asked over HTTP, made from what answers it.

use std::io;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::arguments::Arguments;
use crate::failure::Failure;
use crate::output;

/// Prints the description of the daemon's HTTP API.
pub(crate) fn openapi() -> Result<i32, Failure> {
    output::print_json(&hearth_server::openapi(env!("CARGO_PKG_VERSION")))?;
    Ok(0)
}

/// Prints what makes a shell complete the command's words.
pub(crate) fn completions(shell: Shell) -> Result<i32, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "hearth", &mut script);
    output::print(String::from_utf8_lossy(&script).trim_end())?;
    Ok(0)
}

/// Writes a page for the command, and one for each of its commands, into a directory, which is made where it is missing.
pub(crate) fn man(directory: &Path) -> Result<i32, Failure> {
    let written = std::fs::create_dir_all(directory).and_then(|()| pages(directory));
    written.map_err(|error| Failure::host(format!("cannot write man pages to {}: {error}", directory.display())))?;
    Ok(0)
}

fn pages(directory: &Path) -> io::Result<()> {
    // Without pages for `help`, which has nothing to say of itself.
    clap_mangen::generate_to(Arguments::command().disable_help_subcommand(true), directory)
}
