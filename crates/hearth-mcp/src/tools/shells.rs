//! Shells of a sandbox: programs on a terminal that have a name and outlive whoever talks to them.

use hearth_client::api::exec::CommandLine;
use hearth_client::api::protocol::shell::{Idle, IdleReason, ShellName};
use hearth_client::api::protocol::{Signal, SignalScope};
use hearth_client::api::shells::{CloseShell, OpenShell, ReadScreen, SignalShell, WaitShell, WriteShell, shell_name};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::process::End;
use crate::refused::Refused;
use crate::schema;
use crate::tool::{Call, Effect, Entry, Profile};

/// How long a shell is waited for where the call does not say, in milliseconds.
const WAIT_MS: u64 = 30_000;
/// The most bytes of a screen in a result.
const SCREEN: u64 = 32 * 1024;

pub(crate) fn tools() -> Vec<Entry> {
    use Effect::{Adds, Changes};
    use Profile::Full;
    vec![
        Entry::new(
            Full,
            "shell_open",
            "Open a shell on a terminal in a sandbox, for programs that are talked to: prompts, debuggers, \
            editors. Talk to it with shell_send.",
            Adds,
            open,
        ),
        Entry::new(
            Full,
            "shell_send",
            "Type at a shell of a sandbox, or send its foreground job a signal, wait until it has nothing more to \
            say or shows its prompt, and get the lines of its screen that are new. Without text and signal it only waits and reads.",
            Changes,
            send,
        ),
        Entry::new(Full, "shell_close", "End a shell of a sandbox and everything it has started.", Changes, close),
    ]
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Open {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// The shell's name: letters, digits, `.`, `_` and `-`.
    #[schemars(length(min = 1, max = 64))]
    name: String,
    /// What to run in place of the user's own shell: a string for /bin/sh -c, or an array of program and arguments.
    #[serde(default)]
    #[schemars(schema_with = "schema::command")]
    command: Option<CommandLine>,
    /// Working directory; /workspace by default.
    cwd: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Opened {
    /// Its process number: process_output reads its terminal byte for byte.
    process: u64,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Send {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// The shell's name.
    #[schemars(length(min = 1, max = 64))]
    name: String,
    /// What to type. Control characters reach the terminal as keys do.
    #[schemars(length(max = 100_000))]
    text: Option<String>,
    /// Whether Enter follows the text; true by default.
    newline: Option<bool>,
    /// A signal for the job in its foreground, such as INT for Ctrl-C; sent before the text.
    #[schemars(schema_with = "schema::text")]
    #[serde(default)]
    signal: Option<Signal>,
    /// What to wait for: `quiet`, until nothing was written for a moment, by default; `prompt`, until the shell waits for input itself.
    #[serde(default)]
    #[schemars(schema_with = "until")]
    until: Idle,
    /// How long to wait for that at most, in milliseconds; 30000 by default.
    #[schemars(range(min = 1, max = 600_000))]
    wait_ms: Option<u64>,
    /// The `next` of an earlier result: lines that have not changed since are left out. 0 by default, for all there is.
    #[serde(default)]
    since: u64,
}

fn until(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "enum": ["quiet", "prompt"] })
}

#[derive(Debug, Serialize, JsonSchema)]
struct Sent {
    /// The lines of the screen that have changed.
    screen: String,
    /// The `since` of the next call.
    next: u64,
    /// Whether there are more lines than a result holds: call again with `next` and no text.
    more: bool,
    /// Whether what was waited for has come; else the wait was over.
    idle: bool,
    /// Whether a job of the shell's runs in the foreground.
    job: bool,
    /// Whether the shell has ended.
    ended: bool,
    /// How many bytes of the text were taken, where the job in the foreground did not take all.
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted_bytes: Option<u64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Close {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// The shell's name.
    #[schemars(length(min = 1, max = 64))]
    name: String,
}

fn named(name: &str) -> Result<ShellName, Refused> {
    Ok(shell_name(name)?)
}

async fn open(call: Call, asked: Open) -> Result<Opened, Refused> {
    let open = OpenShell {
        command: asked.command,
        cwd: asked.cwd.map(|cwd| cwd.into_bytes().into()),
        ..OpenShell::new(named(&asked.name)?)
    };
    let opened = call.client.open_shell(&asked.sandbox, &open).await?;
    Ok(Opened { process: opened.process.0 })
}

async fn send(call: Call, asked: Send) -> Result<Sent, Refused> {
    let (client, sandbox, name) = (&call.client, &asked.sandbox, &asked.name);
    if let Some(signal) = asked.signal {
        client.signal_shell(sandbox, name, &SignalShell { signal, scope: SignalScope::Foreground }).await?;
    }
    let mut accepted = None;
    if let Some(text) = asked.text {
        let newline = asked.newline.unwrap_or(true);
        let length = text.len() as u64 + u64::from(newline);
        let write = WriteShell { newline: Some(newline), wait_ms: None };
        let written = client.write_shell(sandbox, name, &write, text.into()).await?;
        accepted = (written.accepted < length).then_some(written.accepted);
    }
    let wait = WaitShell { quiet_ms: None, timeout_ms: Some(asked.wait_ms.unwrap_or(WAIT_MS)), until: asked.until };
    let end = client.wait_shell(sandbox, name, &wait).await?;
    let read = ReadScreen { since: Some(asked.since), limit: Some(SCREEN), wait_ms: None };
    let screen = client.read_screen(sandbox, name, &read).await?;
    Ok(Sent {
        screen: screen.text,
        next: screen.read.next,
        more: screen.read.more,
        idle: end.reason == IdleReason::Idle,
        job: end.job,
        ended: screen.read.ended,
        accepted_bytes: accepted,
    })
}

async fn close(call: Call, asked: Close) -> Result<End, Refused> {
    let status = call.client.close_shell(&asked.sandbox, &asked.name, &CloseShell::default()).await?;
    Ok(End::of(Some(&status)))
}
