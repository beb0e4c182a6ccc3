//! Kernels of a sandbox: interpreters that remember what they ran.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use hearth_client::ClientError;
use hearth_client::api::Capture;
use hearth_client::api::kernels::KernelLine;
use hearth_client::api::protocol::StreamName;
use hearth_client::api::protocol::kernel::{KernelExec, KernelLanguage, KernelRan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::output::Output;
use crate::refused::Refused;
use crate::tool::{Call, Effect, Entry, Profile};

/// What a result has of each stream, in bytes.
const OUTPUT: u64 = 32 * 1024;
/// The largest form of a value that is in a result, in bytes of JSON.
const FORM: usize = 1024 * 1024;

pub(crate) fn tools() -> Vec<Entry> {
    use Effect::Changes;
    use Profile::Full;
    vec![
        Entry::new(Full, "kernel_run", "Run code in an interpreter of a sandbox that remembers variables, imports and functions from one call \
            to the next, and get what it wrote and the value of its last expression. An error in the code is a normal result. Cancelling \
            the call interrupts the code, or it does not begin; the interpreter's state stays.", Changes, run).stops_itself(),
        Entry::new(Full, "kernel_restart", "End an interpreter of a sandbox, with all that it remembers, and start a fresh one.", Changes, restart),
    ]
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Run {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// The code.
    #[schemars(length(min = 1, max = 1_000_000))]
    code: String,
    /// What the code is written in; python by default.
    #[serde(default)]
    language: Language,
    /// The kernel's name; by default the language's. Kernels of different names know nothing of each other.
    #[schemars(length(min = 1, max = 64))]
    kernel: Option<String>,
    /// Its deadline in milliseconds: it is interrupted then. None by default.
    #[schemars(range(min = 1, max = 86_400_000))]
    timeout_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Language {
    #[default]
    Python,
    Bash,
    Javascript,
}

impl From<Language> for KernelLanguage {
    fn from(language: Language) -> Self {
        match language {
            Language::Python => Self::Python,
            Language::Bash => Self::Bash,
            Language::Javascript => Self::Javascript,
        }
    }
}

impl Language {
    fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Bash => "bash",
            Self::Javascript => "javascript",
        }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
struct Ran {
    /// 0 when it went well, 1 after an error that nothing caught, 130 after an interrupt, or what the code itself exited with.
    code: i32,
    /// The value of its last expression, by media type.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<BTreeMap<String, Value>>,
    /// What it has shown on the way, such as figures, by media type.
    displays: Vec<BTreeMap<String, Value>>,
    /// The error that nothing caught, with its traceback.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// What it wrote.
    stdout: Output,
    /// What it wrote to its error output.
    stderr: Output,
    /// Whether its deadline passed.
    timed_out: bool,
    /// Whether it was killed for want of memory.
    out_of_memory: bool,
    /// Whether it began without any earlier state.
    fresh: bool,
    /// Whether the interpreter's state is gone with it.
    state_lost: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Restart {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// The kernel's name, such as python.
    #[schemars(length(min = 1, max = 64))]
    kernel: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Restarted {
    /// The kernel's name.
    kernel: String,
}

/// What code has done so far.
struct Done {
    stdout: (u64, Capture),
    stderr: (u64, Capture),
    result: Option<BTreeMap<String, Value>>,
    displays: Vec<BTreeMap<String, Value>>,
    error: Option<String>,
}

impl Done {
    fn new() -> Self {
        let stream = || (0, Capture::new(OUTPUT));
        Self { stdout: stream(), stderr: stream(), result: None, displays: Vec::new(), error: None }
    }

    fn take(&mut self, line: KernelLine, call: &Call) -> Option<KernelRan> {
        match line {
            KernelLine::Output { stream, .. } => {
                let bytes = line.bytes().unwrap_or_default();
                call.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                let (at, capture) = if stream == StreamName::Stderr { &mut self.stderr } else { &mut self.stdout };
                capture.take(*at, &bytes);
                *at += bytes.len() as u64;
            }
            KernelLine::Result(value) => self.result = Some(forms(value.data)),
            KernelLine::Display(value) if self.displays.len() < 16 => self.displays.push(forms(value.data)),
            KernelLine::Error { traceback, .. } => self.error = Some(traceback),
            KernelLine::Ran(ran) => return Some(ran),
            KernelLine::Display(_) | KernelLine::Failed { .. } => {}
        }
        None
    }

    fn ran(self, ran: KernelRan) -> Ran {
        let rest = "write it to a file and read that with file_read";
        let said = ran.error.map(|error| format!("{}: {}", error.name, error.value));
        Ran {
            code: ran.code,
            result: self.result,
            displays: self.displays,
            error: self.error.or(said),
            stdout: Output::new(&self.stdout.1.finish(), 0, rest),
            stderr: Output::new(&self.stderr.1.finish(), 0, rest),
            timed_out: ran.timed_out,
            out_of_memory: ran.out_of_memory,
            fresh: ran.fresh,
            state_lost: ran.state_lost,
        }
    }
}

/// The forms of a value that are not too large, each other one as its size.
fn forms(forms: BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let fits = |value: Value| match value.to_string().len() {
        size if size <= FORM => value,
        size => Value::String(format!("left out: {size} bytes")),
    };
    forms.into_iter().map(|(kind, value)| (kind, fits(value))).collect()
}

async fn run(call: Call, asked: Run) -> Result<Ran, Refused> {
    let kernel = asked.kernel.unwrap_or_else(|| asked.language.name().to_owned());
    let exec = KernelExec {
        language: asked.language.into(),
        name: None,
        code: Some(asked.code),
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        timeout_ms: asked.timeout_ms,
        grace_ms: None,
        // What the call gives up is its own code alone: another's may be running.
        cancel_on_detach: true,
    };
    let work = async {
        let mut running = call.client.exec_in_kernel(&asked.sandbox, &kernel, &exec).await?;
        let mut done = Done::new();
        loop {
            let line = running.next().await?.ok_or(ClientError::HungUp)?;
            if let Some(ran) = done.take(line, &call) {
                return Ok(done.ran(ran));
            }
        }
    };
    tokio::select! {
        ran = work => ran,
        () = call.cancelled.cancelled() => Err(Refused::cancelled()),
    }
}

async fn restart(call: Call, asked: Restart) -> Result<Restarted, Refused> {
    let ready = call.client.restart_kernel(&asked.sandbox, &asked.kernel).await?;
    Ok(Restarted { kernel: ready.kernel.name })
}
