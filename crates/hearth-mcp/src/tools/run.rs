//! The one tool of the smallest profile: code, run in a sandbox that is thrown away or has a name.

use std::time::Duration;

use hearth_client::api::exec::{CommandLine, RunRequest};
use hearth_client::api::{Code, CreateSandbox, ExecRequest, Idle, IdleAction, OwnCode};
use hearth_client::{Client, ClientError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::follow::{Feeding, Watch, follow};
use super::process::{End, OUTPUT, Positions, stop};
use crate::output::Output;
use crate::refused::Refused;
use crate::schema;
use crate::tool::{Call, Effect, Entry, Profile};

/// After this time without use, in seconds, a sandbox is removed that a run has made under a name.
const IDLE_SECONDS: u64 = 30 * 60;

pub(crate) fn tools() -> Vec<Entry> {
    let about = "Run code or a command in a virtual machine of its own and get its exit code, stdout and stderr: nothing it does reaches this \
        computer. Give either `command`, or `code` with its `language`. Without `sandbox` the machine is made for this run and thrown away; \
        with a name, files stay for later runs with that name, until it was not used for half an hour. There is no network. A non-zero \
        exit code is a normal result. Cancelling the call ends the run.";
    vec![Entry::new(Profile::Run, "run", about, Effect::Adds, run).stops_itself()]
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Run {
    /// What to run: a string for /bin/sh -c, or an array of program and arguments.
    #[schemars(schema_with = "schema::command")]
    #[serde(default)]
    command: Option<CommandLine>,
    /// Code to run in place of a command.
    #[schemars(length(min = 1, max = 100_000))]
    code: Option<String>,
    /// What the code is written in; python by default.
    language: Option<Language>,
    /// Name of a sandbox that files stay in; it is made if it is not there. Without it, a fresh one is used and thrown away.
    #[schemars(length(min = 1, max = 63))]
    sandbox: Option<String>,
    /// Text for its standard input, which is at its end without.
    #[schemars(length(max = 1_000_000))]
    stdin: Option<String>,
    /// Its deadline in milliseconds: it is killed then, with all it has started. None by default.
    #[schemars(range(min = 1, max = 86_400_000))]
    timeout_ms: Option<u64>,
    /// The most of each stream in the result, in bytes, half from the beginning and half from the end; 16384 by default.
    #[schemars(range(min = 0, max = 1_048_576))]
    max_output_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Language {
    #[default]
    Python,
    Bash,
    Javascript,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Finished {
    /// How it has ended.
    #[serde(flatten)]
    end: End,
    /// What it wrote.
    stdout: Output,
    /// What it wrote to its error output.
    stderr: Output,
    /// The sandbox that is still there, if it has a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<String>,
}

impl Run {
    fn command(&mut self) -> Result<CommandLine, Refused> {
        match (self.command.take(), self.code.take()) {
            (Some(_), Some(_)) => Err(Refused::invalid("code", "command and code exclude each other")),
            (Some(_), None) if self.language.is_some() => Err(Refused::invalid("language", "language is for code")),
            (Some(command), None) => Ok(command),
            (None, None) => Err(Refused::invalid("command", "command or code is missing")),
            (None, Some(code)) if code.contains('\0') => Err(Refused::invalid("code", "code must not hold NUL")),
            (None, Some(code)) => {
                let (program, flag) = match self.language.unwrap_or_default() {
                    Language::Python => ("python3", "-c"),
                    Language::Bash => ("bash", "-c"),
                    Language::Javascript => ("node", "-e"),
                };
                Ok(CommandLine::Argv(vec![program.into(), flag.into(), code.into_bytes().into()]))
            }
        }
    }
}

async fn run(call: Call, mut asked: Run) -> Result<Finished, Refused> {
    let request = ExecRequest {
        timeout_ms: asked.timeout_ms,
        interactive: asked.stdin.is_some(),
        ..ExecRequest::new(asked.command()?)
    };
    let begin = async {
        match &asked.sandbox {
            Some(name) => {
                let id = make_named(&call.client, name).await?;
                Ok((call.client.hold(&id, &request).await?, Some(id)))
            }
            None => {
                let run = RunRequest { sandbox: CreateSandbox::default(), exec: request };
                Ok::<_, Refused>((call.client.run(&run).await?.started().await?, None))
            }
        }
    };
    let (mut held, named) = match &asked.sandbox {
        // Not given up when the call is cancelled: a program that is just starting could then not be found.
        Some(_) => begin.await?,
        None => tokio::select! {
            held = begin => held?,
            () = call.cancelled.cancelled() => return Err(Refused::cancelled()),
        },
    };
    let limit = asked.max_output_bytes.unwrap_or(OUTPUT);
    let watch = Watch { from: Positions::default(), limit, wait: None::<Duration> };
    let mut feeding = Feeding::new(&mut held, asked.stdin);
    match follow(&mut held, &call, &mut feeding, watch).await? {
        None => {
            // A fresh sandbox goes with the connection.
            if let Some(id) = &named {
                stop(&call.client, id, held.process()).await?;
            }
            Err(Refused::cancelled())
        }
        Some(followed) => {
            let rest = |_: &str| {
                "run it again with a larger max_output_bytes, or write to a file in a sandbox with a name".to_owned()
            };
            let (stdout, stderr) = followed.streams.outputs(rest);
            Ok(Finished { end: End::of(followed.status.as_ref()), stdout, stderr, sandbox: asked.sandbox })
        }
    }
}

/// Makes a sandbox of just this name, unless there is one; tells its id.
async fn make_named(client: &Client, name: &str) -> Result<String, Refused> {
    let is = |error: &ClientError, code: OwnCode| matches!(error, ClientError::Refused { body } if body.code == Code::Own(code));
    match client.inspect(name).await {
        Ok(info) if info.name.as_deref() == Some(name) || info.id == name => return Ok(info.id),
        // What has another name that begins so, or another id, is not meant.
        Ok(_) => {}
        Err(error) if is(&error, OwnCode::UnknownSandbox) || is(&error, OwnCode::AmbiguousSandbox) => {}
        Err(error) => return Err(error.into()),
    }
    let idle = Some(Idle { action: IdleAction::Remove, after_seconds: IDLE_SECONDS });
    let request = CreateSandbox { name: Some(name.to_owned()), idle, ..CreateSandbox::default() };
    match client.create(&request).await {
        // Another run of this name was quicker.
        Err(error) if is(&error, OwnCode::NameTaken) => Ok(client.inspect(name).await?.id),
        made => Ok(made?.id),
    }
}
