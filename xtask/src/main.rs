//! Work on the project itself, run from a checkout: `cargo run --release -p xtask -- bench`.

mod bench;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

/// The hidden first argument that makes this program the jail of a machine, as in the `hearth` binary.
const JAIL: &str = "__jail";

#[derive(Debug, Parser)]
#[command(name = "xtask", about = "Work on the project itself")]
enum Task {
    /// Measure Hearth against what it stands on, and write target/bench.json
    Bench(bench::Options),
}

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == JAIL) {
        return hearth_engine::vmm::jail::main();
    }
    let Task::Bench(options) = Task::parse();
    match bench::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where standard error is gone, so is whom to tell.
            let _ = writeln!(io::stderr(), "xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
