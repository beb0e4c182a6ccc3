//! A line from a client, turned into something that can be done, or into the refusal to answer it with.
//!
//! Pure, and of nothing else in the agent: the fuzz target `execution_line` is made of these files. Every text is looked at here, so that
//! what comes out holds to the rules; what only the guest knows (files, interpreters) is found out later.

mod fields;
mod refusal;
mod rules;

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use fields::Fields;
use hearth_protocol::packages::PackageLanguage;
pub(crate) use refusal::{ErrorType, Refusal};

/// The longest line that is read, in bytes, its newline included.
pub(crate) const LINE: usize = 16_000_000;
/// The most code of one exec, in bytes.
pub(crate) const CODE: usize = 1024 * 1024;
/// The most environment variables of one exec.
pub(crate) const VARIABLES: usize = 100;
/// The most packages of one installation.
pub(crate) const PACKAGES: usize = 50;
/// Where a request may begin behind one that was cut off, that are looked at in a line.
const PLACES: usize = 256;
/// The longest time that code may run, and what it has where none is named.
const LONGEST: Duration = Duration::from_secs(300);

/// What a client calls one operation. Every answer repeats it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
pub(crate) enum OpId {
    Text(String),
    Positive(u64),
    Negative(i64),
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) op_id: Option<OpId>,
    pub(crate) action: Action,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Ping,
    WarmRepl {
        language: Language,
    },
    Exec(Exec),
    InstallPackages(Packages),
    WriteFile {
        op_id: OpId,
        /// Or why it is refused: what follows of the write is to be known as its.
        path: Result<String, Refusal>,
        executable: bool,
    },
    FileChunk {
        op_id: OpId,
        data: Vec<u8>,
    },
    FileEnd {
        op_id: OpId,
    },
    ReadFile {
        path: String,
    },
    ListFiles {
        path: String,
    },
    /// Ends the operation of this name. Not in the reference, whose only way to stop code was to give up its machine.
    Cancel {
        op_id: OpId,
    },
}

/// Code to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exec {
    pub(crate) language: Language,
    pub(crate) code: String,
    pub(crate) timeout: Duration,
    pub(crate) variables: BTreeMap<String, String>,
}

/// Packages to install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packages {
    pub(crate) language: PackageLanguage,
    pub(crate) packages: Vec<String>,
    pub(crate) timeout: Duration,
}

/// What code is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Language {
    Python,
    Javascript,
    /// The shell; or, where the code says so in its first line, any interpreter.
    Raw,
}

impl Language {
    /// As the wire has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Javascript => "javascript",
            Self::Raw => "raw",
        }
    }
}

/// Reads a line.
///
/// # Errors
/// The refusal, and whom to address it to, if the line says so much.
pub(crate) fn parse(line: &[u8]) -> Result<Request, (Option<OpId>, Refusal)> {
    let fields = fields::parse(line)?;
    let op_id = fields.op_id.clone();
    match action(fields) {
        Ok(action) => Ok(Request { op_id, action }),
        Err(refusal) => Err((op_id, refusal)),
    }
}

/// Reads a line that is no request, in case it begins with what another client had sent of one when it died, and ends with a whole one. A
/// request that was cut off lacks the end of its object, so no line that is a request can be two.
pub(crate) fn parse_behind_a_cut(line: &[u8]) -> Option<Result<Request, (Option<OpId>, Refusal)>> {
    // Within a string a quote has a backslash, so few places look like the beginning of an object and are none.
    let begins = |&at: &usize| line[at] == b'{' && line[at + 1..].trim_ascii_start().starts_with(b"\"");
    let places = (1..line.len()).filter(begins).take(PLACES);
    places.map(|at| &line[at..]).find(|rest| fields::parse(rest).is_ok_and(|fields| fields.action.is_some())).map(parse)
}

fn action(fields: Fields<'_>) -> Result<Action, Refusal> {
    let Some(name) = fields.action.as_deref() else { return Err(Refusal::request("a request needs an action")) };
    Ok(match name {
        "ping" => Action::Ping,
        "warm_repl" => Action::WarmRepl { language: language(&fields)? },
        "exec" => Action::Exec(exec(fields)?),
        "install_packages" => install_packages(fields)?,
        "write_file" => Action::WriteFile {
            op_id: needed_op_id(&fields)?,
            executable: fields.make_executable.unwrap_or(false),
            path: needed_path(fields),
        },
        "file_chunk" => Action::FileChunk { op_id: needed_op_id(&fields)?, data: data(&fields)? },
        "file_end" => Action::FileEnd { op_id: needed_op_id(&fields)? },
        "read_file" => {
            needed_op_id(&fields)?;
            Action::ReadFile { path: needed_path(fields)? }
        }
        "list_files" => {
            let path = fields.path.as_deref().unwrap_or_default();
            rules::check_path(path)?;
            Action::ListFiles { path: path.to_owned() }
        }
        "cancel" => Action::Cancel { op_id: needed_op_id(&fields)? },
        other => return Err(Refusal::request(format!("there is no action {other:?}"))),
    })
}

fn exec(fields: Fields<'_>) -> Result<Exec, Refusal> {
    let (language, timeout) = (language(&fields)?, timeout(&fields)?);
    let code = needed(&fields, fields.code.as_deref(), "code")?;
    let code = rules::check_code(code)?.to_owned();
    let variables = fields.env_vars.unwrap_or_default();
    let variables = variables.kept().map_err(|count| {
        Refusal::new(ErrorType::EnvVar, format!("{count} environment variables, over the limit of {VARIABLES}"))
    })?;
    variables.iter().try_for_each(|(name, value)| rules::check_variable(language, name, value))?;
    Ok(Exec { language, code, timeout, variables })
}

fn install_packages(fields: Fields<'_>) -> Result<Action, Refusal> {
    let (language, timeout) = (language(&fields)?, timeout(&fields)?);
    let packages = fields.packages.unwrap_or_default().kept().map_err(|count| {
        Refusal::new(ErrorType::Package, format!("{count} packages, over the limit of {PACKAGES} at a time"))
    })?;
    if packages.is_empty() {
        return Err(Refusal::new(ErrorType::Package, "no packages are named"));
    }
    let language = match language {
        Language::Python => PackageLanguage::Python,
        Language::Javascript => PackageLanguage::Javascript,
        Language::Raw => {
            let message = "there are no packages for raw: they are for python and javascript";
            return Err(Refusal::new(ErrorType::Package, message));
        }
    };
    packages.iter().try_for_each(|package| rules::check_package(language, package))?;
    Ok(Action::InstallPackages(Packages { language, packages, timeout }))
}

fn needed<T>(fields: &Fields<'_>, value: Option<T>, name: &str) -> Result<T, Refusal> {
    let action = fields.action.as_deref().unwrap_or_default();
    value.ok_or_else(|| Refusal::request(format!("{action} needs {name}")))
}

fn needed_op_id(fields: &Fields<'_>) -> Result<OpId, Refusal> {
    needed(fields, fields.op_id.clone(), "an op_id")
}

fn needed_path(fields: Fields<'_>) -> Result<String, Refusal> {
    let path = needed(&fields, fields.path.as_deref(), "a path")?;
    if path.is_empty() {
        return Err(Refusal::new(ErrorType::Path, "the path is empty"));
    }
    rules::check_path(path)?;
    Ok(path.to_owned())
}

fn language(fields: &Fields<'_>) -> Result<Language, Refusal> {
    match needed(fields, fields.language.as_deref(), "a language")? {
        "python" => Ok(Language::Python),
        "javascript" => Ok(Language::Javascript),
        "raw" => Ok(Language::Raw),
        other => Err(Refusal::request(format!("there is no language {other:?}: it is python, javascript or raw"))),
    }
}

fn timeout(fields: &Fields<'_>) -> Result<Duration, Refusal> {
    match fields.timeout.unwrap_or_default() {
        0.0 => Ok(LONGEST),
        seconds if (0.0..=LONGEST.as_secs_f64()).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        seconds => Err(Refusal::request(format!("a timeout of {seconds} s: it is 0 to {} s", LONGEST.as_secs()))),
    }
}

fn data(fields: &Fields<'_>) -> Result<Vec<u8>, Refusal> {
    let text = needed(fields, fields.data.as_deref(), "data")?;
    STANDARD.decode(text).map_err(|error| Refusal::request(format!("data is not base64: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_found_behind_one_that_was_cut_off_anywhere() {
        let whole = br#"{"action":"exec","op_id":"{","language":"python","code":"d = {\"a\": {}}","env_vars":{"A":"{","B":"}"}}"#;
        let next = br#"{ "op_id":7,"action":"ping"}"#;
        for cut in 1..=whole.len() {
            let line = [&whole[..cut], next].concat();
            assert!(parse(&line).is_err(), "{cut}");
            let found = parse_behind_a_cut(&line).unwrap().unwrap();
            assert_eq!(found, Request { op_id: Some(OpId::Positive(7)), action: Action::Ping }, "{cut}");
        }
        let line = [&whole[..20], br#"{"action":"dance","op_id":7}"#.as_slice()].concat();
        assert_eq!(parse_behind_a_cut(&line).unwrap().unwrap_err().0, Some(OpId::Positive(7)));
    }

    #[test]
    fn nothing_is_found_in_what_holds_no_request() {
        for line in ["", "{", "x", "[]", "{\"a\":{\"b\":1}", "{\"action\":\"ping\"} x", "{{{{{{{{", "{\"a"] {
            assert!(parse_behind_a_cut(line.as_bytes()).is_none(), "{line}");
        }
        assert!(parse_behind_a_cut(&b"{\"".repeat(1 << 20)).is_none());
    }
}
