//! The `hearth` command: parses, calls the engine, prints. Everything else is below it.

mod arguments;
mod capture;
mod commands;
mod daemon;
mod failure;
mod home;
mod kept;
mod output;
mod pipes;
mod signals;
mod sys;
mod terminal;
mod times;
mod values;

use std::process::ExitCode;

use arguments::{Arguments, Command};
use failure::Failure;

/// The hidden first argument that makes this program the jail of a machine. A first argument only: it never gets to clap.
const JAIL: &str = "__jail";

fn main() -> ExitCode {
    let given: Vec<_> = std::env::args_os().collect();
    if given.get(1).is_some_and(|argument| argument == JAIL) {
        return hearth_engine::vmm::jail::main();
    }
    let arguments = match Arguments::read(&given) {
        Ok(arguments) => arguments,
        Err(error) => return failure::usage(&error),
    };
    let json = arguments.command.wants_json();
    home::choose_host(arguments.host);
    let code = match run(arguments.command) {
        Ok(code) => code,
        Err(failure) => failure.report(json),
    };
    std::process::exit(code)
}

fn run(command: Command) -> Result<i32, Failure> {
    if let Command::Daemon(options) = command {
        return commands::daemon::run(&options);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::runtime)?;
    let result = runtime.block_on(async {
        match command {
            Command::Run(options) => commands::run::run(options).await,
            Command::Create(options) => commands::sandbox::create(options).await,
            Command::Ls(options) => commands::sandbox::list(options).await,
            Command::Inspect { sandbox, .. } => commands::sandbox::inspect(&sandbox).await,
            Command::Exec(options) => commands::exec::run(options).await,
            Command::Shell(options) => commands::exec::run(options.into()).await,
            Command::Ps(options) => commands::guest::processes(options).await,
            Command::Attach(options) => commands::guest::attach(options).await,
            Command::Kill(options) => commands::guest::kill(options).await,
            Command::File(command) => commands::guest::file(command).await,
            Command::Install(options) => commands::guest::install(options).await,
            Command::Export(options) => commands::guest::export(options).await,
            Command::Cp(options) => commands::transfer::copy(options).await,
            Command::Sync(options) => commands::transfer::sync(options).await,
            Command::Diff(options) => commands::history::diff(options).await,
            Command::Patch(options) => commands::history::patch(options).await,
            Command::Reset(options) => commands::history::reset(options).await,
            Command::Checkpoint(command) => commands::history::checkpoint(command).await,
            Command::Service(command) => commands::service::run(command).await,
            Command::Kernel(command) => commands::kernel::run(command).await,
            Command::Ports(options) => commands::guest::ports(options).await,
            Command::Update(options) => commands::sandbox::update(options).await,
            Command::Pause(options) => commands::lifecycle::pause(options).await,
            Command::Resume(options) => commands::lifecycle::resume(options).await,
            Command::Stop(options) => commands::lifecycle::stop(options).await,
            Command::Start(options) => commands::lifecycle::start(options).await,
            Command::Fork(options) => commands::lifecycle::fork(options).await,
            Command::Snapshot(command) => commands::snapshot::run(command).await,
            Command::Rm(options) => commands::sandbox::remove(options).await,
            Command::Logs { sandbox, json } => commands::sandbox::logs(&sandbox, json).await,
            Command::Top(options) => commands::top::run(options).await,
            Command::Events(options) => commands::events::run(options).await,
            // It has a runtime of its own.
            Command::Daemon(_) => Ok(0),
            Command::Image(command) => commands::image::run(command).await,
            Command::Template(command) => commands::template::run(command).await,
            Command::Agent { arguments } => Err(commands::agent::run(&arguments)),
            Command::Mcp(options) => commands::mcp::run(options).await,
            Command::Audit(options) => commands::audit::run(&options),
            Command::Key(command) => commands::key::run(command),
            Command::Pool(options) => commands::pool::run(&options).await,
            Command::Doctor(options) => commands::doctor::run(&options).await,
            Command::Openapi => commands::help::openapi(),
            Command::Completions { shell } => commands::help::completions(shell),
            Command::Man { directory } => commands::help::man(&directory),
        }
    });
    // A thread may still sit in a read of the terminal that nobody waits for.
    runtime.shutdown_background();
    result
}
