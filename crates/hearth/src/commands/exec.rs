//! `hearth exec`: a program in a sandbox that stays. Its streams are this process's own.

use std::os::unix::ffi::OsStringExt;

use hearth_client::Client;
use hearth_client::api::ExecRequest;
use hearth_client::api::exec::CommandLine;
use hearth_client::api::process::{ProcessStarted, SignalProcess};
use hearth_client::api::protocol::{RawString, ResourceLimits, Signal, SignalScope};
use tokio::time::timeout;

use super::conversation::{End, INTERRUPTED, LAST_WORDS, Manner, converse};
use super::sandbox::existing;
use crate::arguments::ExecOptions;
use crate::capture::Capture;
use crate::failure::{Failure, exit_code_of};
use crate::output;
use crate::signals::Signals;
use crate::terminal::{self, RawMode};
use crate::values::{EnvVar, Memory, Processors};

/// Runs a program, and returns its exit code.
pub(crate) async fn run(options: ExecOptions) -> Result<i32, Failure> {
    let request = request(&options);
    let client = existing(&options.sandbox).await?;
    // The handlers are there before the program is asked for: that follows upon an answer.
    let (held, signals) = tokio::join!(client.hold(&options.sandbox, &request), async { Signals::new() });
    let (mut held, mut signals) = (held?, signals.map_err(Failure::runtime)?);
    if options.detach {
        match options.json {
            true => output::print_json(&ProcessStarted { process: held.process(), pid: held.pid() })?,
            false => output::print(&held.process().0.to_string())?,
        }
        return Ok(0);
    }
    let mut capture = options.json.then(Capture::default);
    let _raw = match request.pty {
        Some(_) => Some(RawMode::enter().map_err(|error| Failure::host(format!("set the terminal: {error}")))?),
        None => None,
    };
    let manner = Manner { interactive: options.interactive, timeout: options.timeout.map(|time| time.0) };
    let end = converse(&mut held, manner, &mut signals, &mut capture).await?;
    match end {
        End::Cut(code) => {
            let process = held.process().0.to_string();
            // Nobody waits for one that cannot be told any more.
            let _ = timeout(LAST_WORDS, pass_end(&client, &options.sandbox, &process, code)).await;
            Ok(code)
        }
        End::Exited(status) => {
            let code = exit_code_of(&status);
            if let Some(capture) = capture {
                output::print_json(&capture.report(code, &status))?;
            } else if status.out_of_memory {
                output::say("hearth: the program was killed for want of memory");
            }
            Ok(code)
        }
    }
}

/// Tells the program what ended this process, as if it had run here: a signal, or an output that nobody reads any more. By a request of its own: what is
/// said on a connection that is left with something unread may be lost.
async fn pass_end(client: &Client, sandbox: &str, process: &str, code: i32) -> Result<(), Failure> {
    match Signal::from_number(code - 128).filter(|_| code != INTERRUPTED) {
        Some(signal) => {
            let request = SignalProcess { signal, scope: SignalScope::Tree };
            Ok(client.signal(sandbox, process, &request).await?)
        }
        None => Ok(()),
    }
}

fn request(options: &ExecOptions) -> ExecRequest {
    let argv = options.command.iter().map(|argument| RawString::from(argument.clone().into_vec())).collect();
    let mut request = ExecRequest::new(CommandLine::Argv(argv));
    request.cwd = options.program.workdir.clone().map(|directory| RawString::from(directory.into_vec()));
    request.env = options
        .program
        .env
        .iter()
        .filter_map(EnvVar::get)
        .map(|(name, value)| (name, RawString::from(value)))
        .collect();
    request.secrets = options.program.secret.iter().map(|named| secret(named)).collect();
    request.limits = ResourceLimits {
        memory_bytes: options.program.memory.map(|Memory(mib)| u64::from(mib) << 20),
        pids: options.program.pids_limit,
        cpu_percent: options.program.cpus.map(|Processors(percent)| percent),
    };
    request.user.clone_from(&options.program.user);
    request.timeout_ms = options.timeout.map(|time| u64::try_from(time.0.as_millis()).unwrap_or(u64::MAX));
    request.interactive = options.interactive;
    if options.tty && terminal::is_interactive() {
        request.pty = Some(terminal::size());
        if let Ok(term) = std::env::var("TERM") {
            request.env.entry("TERM".into()).or_insert_with(|| RawString::from(term));
        }
    }
    request
}

/// The variable and its secret.
pub(super) fn secret(named: &str) -> (String, String) {
    let (variable, secret) = named.split_once('=').unwrap_or((named, named));
    (variable.to_owned(), secret.to_owned())
}
