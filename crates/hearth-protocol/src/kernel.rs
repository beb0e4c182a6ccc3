//! Requests about kernels, interpreters that keep their state: group `kernel`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::secrets::validate_secret_name;
use crate::{ErrorCode, Fault, ProcessId, RawString, limits};

/// What a kernel runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum KernelLanguage {
    /// Python 3, by `python3`.
    Python,
    /// Bash, by `bash`.
    Bash,
    /// JavaScript, by `node`.
    Javascript,
}

impl KernelLanguage {
    /// The language's name on the wire, which is also that of its kernel where a request names none.
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Bash => "bash",
            Self::Javascript => "javascript",
        }
    }

    /// The program that has to be in the guest.
    pub fn program(self) -> &'static str {
        match self {
            Self::Python => "python3",
            Self::Bash => "bash",
            Self::Javascript => "node",
        }
    }
}

/// What may be asked about kernels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum KernelRequest {
    /// Starts a kernel ahead of its first code. One that is there already, of the same language, stays as it is. Result:
    /// [`KernelResult::Kernel`].
    Start(KernelStart),
    /// Runs code; the kernel is started when it is not there. Streams: the code as `stdin`, where it is no field; what it writes as
    /// `stdout` and `stderr`; a [`KernelEvent`] a line as `data`. Result: [`KernelResult::Ran`].
    ///
    /// Code given to a kernel that is busy waits for its turn. Once begun it runs to its end, whoever is still there to hear of it.
    Exec(KernelExec),
    /// Lists the kernels. Result: [`KernelResult::Kernels`].
    List {},
    /// Interrupts the code that runs, if any does; whether it heeds that is not waited for. Result: [`KernelResult::Done`].
    Interrupt(KernelName),
    /// Ends the interpreter and all that it has started, and starts a fresh one. Result: [`KernelResult::Kernel`].
    Restart(KernelName),
    /// Ends the interpreter and all that it has started, and forgets the kernel. Result: [`KernelResult::Done`].
    Stop(KernelName),
    /// Starts a Python interpreter that waits, unless one does: the first kernel that it fits takes it, and need not start one. Nobody is shown
    /// it before. It fits where the user is the default one and no variable differs that an interpreter looks at only when it starts;
    /// the seed of its text hashes and its addresses are those that it was started with, in every copy of this guest. Result:
    /// [`KernelResult::Done`].
    Warm {},
}

/// Names a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelName {
    /// Its name.
    pub name: String,
}

/// A kernel to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct KernelStart {
    /// What it runs.
    pub language: KernelLanguage,
    /// Its name, 1 to 64 of letters, digits, `.`, `_` and `-`; by default the language's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it starts; by default as a process does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<RawString>,
    /// Variables of its environment, for all its life.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, RawString>,
    /// More variables, whose values are secrets: the names of these by the names of those.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// The user to run as; by default the agent's default user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Modules to import ahead, outside the namespace of user code, so that importing them is quick. Again after each restart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<String>,
}

/// Code to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct KernelExec {
    /// What the kernel runs.
    pub language: KernelLanguage,
    /// The kernel's name; by default the language's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The code; without it the `stdin` stream is. At most [`limits::CODE`] bytes, not blank, without NUL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Variables of the environment for this code alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, RawString>,
    /// More of them, whose values are secrets: the names of these by the names of those.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// The deadline in milliseconds of guest time, from when the code begins. It is interrupted then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// The time that interrupted code has before the kernel is killed, in milliseconds; [`limits::KERNEL_GRACE_MS`] by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
    /// Gives the code up when whoever asked for it is gone or asks no more: it does not begin, or is interrupted. Otherwise it goes on, unheard.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel_on_detach: bool,
}

/// What comes of a request about kernels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelResult {
    /// It is done.
    Done {},
    /// The kernel is ready.
    Kernel {
        /// Which.
        #[serde(flatten)]
        kernel: KernelInfo,
        /// The imports that failed, each with the reason.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        failed_imports: BTreeMap<String, String>,
    },
    /// The code has ended.
    Ran(KernelRan),
    /// The kernels there are, by name.
    Kernels(Vec<KernelInfo>),
}

/// A kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct KernelInfo {
    /// Its name.
    pub name: String,
    /// What it runs.
    pub language: KernelLanguage,
    /// What it does.
    pub state: KernelState,
    /// The interpreter's process, the last one where it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessId>,
    /// How often code was run.
    pub execs: u64,
    /// Whether its interpreter was there before the kernel: it is the one that [`KernelRequest::Warm`] asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub warmed: bool,
}

/// What a kernel does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum KernelState {
    /// It waits for code.
    Idle,
    /// It runs code.
    Busy,
    /// Its interpreter has ended; the next code starts another.
    Ended,
}

/// How code ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct KernelRan {
    /// The kernel that ran it.
    pub kernel: String,
    /// 0 when it went well, 1 after an error that nothing caught, 130 after an interrupt, what the code itself exited with, or 128 + n when signal
    /// n ended the interpreter.
    pub code: i32,
    /// The signal that ended the interpreter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The error that nothing caught. Its traceback was sent as a [`KernelEvent`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<KernelError>,
    /// Whether an interrupt ended it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interrupted: bool,
    /// Whether its deadline passed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed_out: bool,
    /// Whether the kernel killed a process of its tree for want of memory, and that ended the interpreter.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub out_of_memory: bool,
    /// Whether it began in a fresh interpreter, without any earlier state.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fresh: bool,
    /// Whether the interpreter's state is gone with it: the next code begins fresh.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub state_lost: bool,
    /// The bytes of output and of events that were dropped: what background work wrote since the code before, past what is kept of a stream;
    /// and what this code said faster than it was read after an interrupt or its deadline, since it waits for no reader then.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
    /// From its begin to its end in microseconds, as the agent saw it.
    pub duration_us: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// An error that nothing caught, in short: both texts are cut to [`limits::MESSAGE`] characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct KernelError {
    /// Its class.
    pub name: String,
    /// What it says.
    pub value: String,
}

/// What code shows beside its output: one JSON object a line of the `data` stream, at most [`limits::KERNEL_EVENT`] bytes each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum KernelEvent {
    /// The value of the last expression.
    Result(KernelValue),
    /// Something shown on the way, such as a figure.
    Display(KernelValue),
    /// The error that ended the code.
    Error {
        /// Its class.
        name: String,
        /// What it says.
        value: String,
        /// Where it came from, as the language writes it, the user's lines only.
        traceback: String,
    },
}

/// A value in its forms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct KernelValue {
    /// By media type: text as it is, images and other bytes as base64, JSON as JSON. `text/plain` is always there for a result.
    pub data: BTreeMap<String, Value>,
    /// The sizes in bytes of forms that were too large to send.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub omitted: BTreeMap<String, u64>,
}

impl KernelEvent {
    /// Reads one line of `data`, without its newline.
    ///
    /// # Errors
    /// What is wrong with it: what a guest sends need not be right.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(line).map_err(|error| error.to_string())
    }

    /// Hands every text of a value or an error to `change`, those within JSON and their names included.
    pub fn change_texts(&mut self, change: &mut impl FnMut(&mut String)) {
        match self {
            Self::Result(value) | Self::Display(value) => {
                value.data.values_mut().for_each(|form| change_texts(form, change));
            }
            Self::Error { name, value, traceback } => [name, value, traceback].into_iter().for_each(change),
        }
    }

    /// Writes the event as a line.
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("an event is plain data");
        line.push(b'\n');
        line
    }
}

fn change_texts(form: &mut Value, change: &mut impl FnMut(&mut String)) {
    match form {
        Value::String(text) => change(text),
        Value::Array(forms) => forms.iter_mut().for_each(|form| change_texts(form, change)),
        Value::Object(named) => {
            let changed = std::mem::take(named).into_iter().map(|(mut name, mut form)| {
                change(&mut name);
                change_texts(&mut form, change);
                (name, form)
            });
            *named = changed.collect();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

impl KernelStart {
    /// Makes the plainest start of a kernel.
    pub fn new(language: KernelLanguage) -> Self {
        Self {
            language,
            name: None,
            cwd: None,
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            user: None,
            imports: Vec::new(),
        }
    }
}

impl KernelExec {
    /// Makes the plainest exec; the code comes by the `stdin` stream.
    pub fn new(language: KernelLanguage) -> Self {
        Self {
            language,
            name: None,
            code: None,
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            timeout_ms: None,
            grace_ms: None,
            cancel_on_detach: false,
        }
    }
}

impl KernelRequest {
    /// Checks what types alone do not.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidField`] naming the field and the rule.
    pub fn validate(&self) -> Result<(), Fault> {
        match self {
            Self::Start(start) => {
                start.name.as_deref().map_or(Ok(()), check_name)?;
                check_env(&start.env, &start.secrets)?;
                check_imports(start.language, &start.imports)
            }
            Self::Exec(exec) => {
                exec.name.as_deref().map_or(Ok(()), check_name)?;
                check_env(&exec.env, &exec.secrets)?;
                if exec.timeout_ms.is_some_and(|ms| ms == 0 || ms > limits::TIMEOUT_MS) {
                    return invalid(format!("timeout_ms must be 1 to {}", limits::TIMEOUT_MS));
                }
                if exec.grace_ms.is_some_and(|ms| ms > limits::GRACE_MS) {
                    return invalid(format!("grace_ms must be at most {}", limits::GRACE_MS));
                }
                exec.code.as_deref().map_or(Ok(()), |code| check_code(code.as_bytes()))
            }
            Self::List {} | Self::Warm {} => Ok(()),
            Self::Interrupt(kernel) | Self::Restart(kernel) | Self::Stop(kernel) => check_name(&kernel.name),
        }
    }
}

fn invalid(message: impl Into<String>) -> Result<(), Fault> {
    Err(Fault::never_started(ErrorCode::InvalidField, message))
}

fn check_name(name: &str) -> Result<(), Fault> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if (1..=64).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(());
    }
    invalid("name must be 1 to 64 letters, digits, '.', '_' and '-'")
}

fn is_identifier(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn check_env(env: &BTreeMap<String, RawString>, secrets: &BTreeMap<String, String>) -> Result<(), Fault> {
    let count = env.len() + secrets.len();
    if count > limits::ARGUMENTS {
        return invalid(format!("env and secrets have {count} entries, over the limit of {}", limits::ARGUMENTS));
    }
    if let Some(name) = env.keys().chain(secrets.keys()).find(|name| !is_identifier(name)) {
        return invalid(format!("the variable {name:?} is not letters, digits and '_'"));
    }
    if let Some(name) = secrets.keys().find(|name| env.contains_key(*name)) {
        return invalid(format!("{name} is in env and in secrets"));
    }
    secrets.values().try_for_each(|name| validate_secret_name(name))
}

fn check_imports(language: KernelLanguage, imports: &[String]) -> Result<(), Fault> {
    if imports.len() > limits::IMPORTS {
        return invalid(format!("imports has {} entries, over the limit of {}", imports.len(), limits::IMPORTS));
    }
    let fits = |name: &str| match language {
        KernelLanguage::Python => name.split('.').all(is_identifier),
        KernelLanguage::Bash => false,
        KernelLanguage::Javascript => {
            let fits =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/' | b'@' | b':');
            !name.is_empty() && !name.starts_with(['.', '/']) && name.bytes().all(fits)
        }
    };
    match imports.iter().find(|name| name.len() > 256 || !fits(name)) {
        Some(name) => invalid(format!("imports: {name:?} is no name of a {} module", language.name())),
        None => Ok(()),
    }
}

/// Checks code, however it came, and returns it without the byte order mark it may begin with.
///
/// # Errors
/// [`ErrorCode::InvalidField`] for code that is blank, holds NUL or is no UTF-8, [`ErrorCode::TooLarge`] for too much of it.
pub fn checked_code(code: &[u8]) -> Result<&str, Fault> {
    check_code(code)?;
    let code = std::str::from_utf8(code)
        .map_err(|_| Fault::never_started(ErrorCode::InvalidField, "code is not UTF-8 text"))?;
    Ok(without_mark(code))
}

fn without_mark(code: &str) -> &str {
    code.strip_prefix('\u{feff}').unwrap_or(code)
}

fn check_code(code: &[u8]) -> Result<(), Fault> {
    if code.len() > limits::CODE {
        let message = format!("code has {} bytes, over the limit of {}", code.len(), limits::CODE);
        return Err(Fault::never_started(ErrorCode::TooLarge, message));
    }
    if code.contains(&0) {
        return invalid("code holds a NUL byte");
    }
    if String::from_utf8_lossy(code).trim_start_matches('\u{feff}').trim().is_empty() {
        return invalid("code cannot be empty");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: &[u8]) -> ErrorCode {
        checked_code(code).expect_err("refused").code
    }

    #[test]
    fn b26_code_is_refused_when_blank_with_nul_too_long_or_no_text() {
        for code in [&b""[..], b" \n\t", "\u{feff}".as_bytes(), "\u{feff}\n".as_bytes(), b"a\0b", b"\xff"] {
            assert_eq!(refusal(code), ErrorCode::InvalidField, "{code:?}");
        }
        assert_eq!(refusal(&vec![b'x'; limits::CODE + 1]), ErrorCode::TooLarge);
        assert_eq!(checked_code(&vec![b'x'; limits::CODE]).unwrap().len(), limits::CODE);
        assert_eq!(checked_code("\u{feff}pass\n".as_bytes()).unwrap(), "pass\n");
    }

    #[test]
    fn names_variables_and_imports_are_checked() {
        let valid = |request: &str| {
            let line = format!(r#"{{"id":1,"type":"kernel",{request}}}"#);
            crate::parse_request(line.as_bytes()).is_ok()
        };
        for good in [
            r#""op":"list""#,
            r#""op":"start","language":"python","imports":["os.path"]"#,
            r#""op":"start","language":"javascript","imports":["@a/b-c","node:fs"]"#,
            r#""op":"exec","language":"bash","name":"a.B_1-2","code":"x","env":{"A_1":"b"},"timeout_ms":1,"grace_ms":0"#,
        ] {
            assert!(valid(good), "{good}");
        }
        for bad in [
            r#""op":"dance""#,
            r#""op":"list","more":1"#,
            r#""op":"stop","name":"a","more":1"#,
            r#""op":"stop","name":"""#,
            r#""op":"stop","name":"a/b""#,
            r#""op":"exec","language":"ruby","code":"x""#,
            r#""op":"exec","language":"bash","code":" ""#,
            r#""op":"exec","language":"bash","code":"x","extra":1"#,
            r#""op":"exec","language":"bash","code":"x","timeout_ms":0"#,
            r#""op":"exec","language":"bash","code":"x","env":{"A-B":"c"}"#,
            r#""op":"exec","language":"bash","code":"x","env":{"1A":"c"}"#,
            r#""op":"start","language":"bash","imports":["x"]"#,
            r#""op":"start","language":"python","imports":["os; x"]"#,
            r#""op":"start","language":"python","imports":["os..path"]"#,
            r#""op":"start","language":"javascript","imports":["../x"]"#,
        ] {
            assert!(!valid(bad), "{bad}");
        }
    }
}
