//! A run through the daemon, which has the template in memory: one connection that makes the sandbox, starts the program and holds it. When
//! it ends, the daemon removes the sandbox, however this process ended.

use std::io::IsTerminal;
use std::time::Instant;

use hearth_client::api::exec::RunRequest;
use hearth_client::api::{CreateSandbox, ErrorBody, ExecRequest, StartFrom};
use hearth_client::{Client, ClientError, Run};
use hearth_engine::{Directories, SandboxSpec};

use super::Ran;
use super::report::{Summary, Timings, keep_console, keep_failed_console, tell_of_start};
use crate::arguments::RunOptions;
use crate::capture::Capture;
use crate::commands::conversation::{Manner, converse};
use crate::commands::sandbox::accelerator;
use crate::failure::Failure;
use crate::signals::Signals;
use crate::terminal::RawMode;
use crate::{daemon, home, output};

/// Whether a daemon can do it: none of another build, whose sandboxes would not be this one's, and for none of the options that it does not
/// have. One of another host that was named does it or nobody.
pub(super) fn is_possible(options: &RunOptions, directories: &Directories) -> Result<bool, Failure> {
    if options.no_daemon || options.dialects {
        return Ok(false);
    }
    if home::remote()?.is_some() {
        return Ok(true);
    }
    if home::names_qemu() {
        return Ok(false);
    }
    let is_other = daemon::is_of_another_build(directories);
    if is_other && std::io::stderr().is_terminal() {
        output::say("hearth: the daemon that runs is of another build, so this runs without it");
    }
    Ok(!is_other)
}

/// Runs the program. The daemon is started if none runs, but not only to refuse.
pub(super) async fn run(
    directories: &Directories,
    options: &RunOptions,
    spec: &SandboxSpec,
    exec: ExecRequest,
    signals: &mut Signals,
) -> Result<Ran, Failure> {
    let request = RunRequest { sandbox: sandbox(options, spec), exec };
    let mut timings = Timings::since(Instant::now());
    let (client, run) = tokio::select! {
        asked = ask(directories, options, spec, &request) => asked?,
        code = signals.first() => return Ok(Ran::cut(code)),
    };
    timings.note("ready");
    let info = run.info.clone();
    let summary = Summary::of_info(&info);
    tell_of_start(&summary, &info.failed_before, options.json);
    let mut held = tokio::select! {
        held = run.started() => held?,
        code = signals.first() => return Ok(Ran::cut(code)),
    };
    timings.note("started");
    let mut capture = options.json.then(Capture::default);
    let raw = request.exec.pty.map(|_| RawMode::enter()).transpose();
    let raw = raw.map_err(|error| Failure::host(format!("set the terminal: {error}")))?;
    let manner = Manner { interactive: request.exec.interactive, timeout: options.timeout.map(|time| time.0) };
    let end = converse(&mut held, manner, signals, &mut capture).await;
    drop(raw);
    timings.note("ended");
    if options.keep_logs {
        let path = keep_console(directories, &info.id, &client.logs(&info.id).await?)?;
        output::say(&format!("hearth: the guest's console is in {path}"));
    }
    Ok(Ran { end: end?, capture, summary: Some(summary), timings })
}

fn sandbox(options: &RunOptions, spec: &SandboxSpec) -> CreateSandbox {
    CreateSandbox {
        image: Some(options.image.clone()),
        cpus: Some(options.cpus),
        memory_mib: Some(options.memory.0),
        disk_mib: options.disk.map(|disk| disk.0),
        accelerator: accelerator(options.accel),
        start: if options.boot { StartFrom::Boot } else { StartFrom::Template },
        secrets: spec.given.secrets.clone(),
        ..CreateSandbox::default()
    }
}

async fn ask(
    directories: &Directories,
    options: &RunOptions,
    spec: &SandboxSpec,
    request: &RunRequest,
) -> Result<(Client, Run), Failure> {
    let mut client = match home::remote()? {
        Some(remote) => remote,
        None => Client::new(daemon::socket(directories)),
    };
    let mut asked = client.run(request).await;
    if let Err(ClientError::NotRunning { .. } | ClientError::Connect { .. }) = asked {
        // What can be refused is, before a daemon is started for it.
        home::open()?.check(spec)?;
    }
    if let Err(ClientError::NotRunning { .. }) = asked {
        // What is said on standard error is the program's own, unless a person reads it.
        client = daemon::client_saying(std::io::stderr().is_terminal()).await?;
        asked = client.run(request).await;
    }
    match asked {
        Ok(run) => Ok((client, run)),
        Err(error) => {
            if let (true, ClientError::Refused { body }) = (options.keep_logs, &error)
                && let ErrorBody { detail: Some(console), .. } = body.as_ref()
            {
                keep_failed_console(directories, console);
            }
            Err(error.into())
        }
    }
}
