//! The drivers: how each language's interpreter is started, asked, and understood.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{OwnedFd, RawFd};

use hearth_protocol::kernel::{KernelEvent, KernelLanguage, KernelStart, KernelValue};
use hearth_protocol::{Command, ErrorCode, ExitStatus, Fault, RawString, Signal, Start, hex};
use rustix::fs::MemfdFlags;
use rustix::process::Resource;
use serde::{Deserialize, Serialize};

use super::bash::Bash;
use super::control::{Control, DriverEnds};
use crate::process::Extra;
use crate::sys;

const PYTHON: &str = include_str!("driver.py");
const JAVASCRIPT: &str = include_str!("driver.js");

/// Runs the driver that is behind the third descriptor, as code of no module; `sys.argv` names the descriptors.
const BEGIN_PYTHON: &str = "import sys,os
f=int(sys.argv[3])
s=b''.join(iter(lambda:os.read(f,65536),b''))
os.close(f)
exec(compile(s,'<hearth>','exec'),{'__name__':'hearth','__builtins__':dict(vars(__builtins__))})";

/// As for Python. What imports modules must be in node's first script: only that knows how.
const BEGIN_JAVASCRIPT: &str = "{const fs=require('fs'),vm=require('vm'),[a,b,c]=process.argv.slice(1).map(Number);\
    const s=fs.readFileSync(c,'utf8');fs.closeSync(c);process.argv.length=1;\
    vm.runInNewContext(s,Object.create(null),{filename:'hearth-driver'})({require,process,global:globalThis,load:m=>import(m)},a,b)}";

/// Where a driver's descriptors begin, unless the limit is lower: far above what a program closes in a loop or names itself.
const FIRST_DESCRIPTOR: RawFd = 1000;
/// The descriptors that a driver needs from there on.
pub(super) const DESCRIPTORS: RawFd = 24;

/// What a driver is asked.
pub(super) enum Job<'a> {
    /// Runs code of the user's.
    Run { code: &'a str, env: &'a BTreeMap<String, RawString> },
    /// Gets ready, before the first code: imports modules, or takes up the state of a shell that has ended.
    Prepare { imports: &'a [String] },
    /// Runs code of no consequence, so that all that the first code needs is in memory. Python alone.
    Rehearse,
    /// Becomes what an interpreter started now would be. Code 0 says that it is. Python alone.
    Adopt(&'a Adoption),
}

/// What an interpreter that has waited takes over.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Adoption {
    /// Where it goes: an absolute path.
    pub(super) cwd: RawString,
    /// The variables that are not as they were, those without a value to be removed.
    pub(super) env: BTreeMap<String, Option<RawString>>,
}

/// What a record of the driver's says.
#[derive(Debug)]
pub(super) enum Answer {
    /// Code has shown something.
    Event(KernelEvent),
    /// A module could not be imported.
    NotImported { name: String, reason: String },
    /// What an interpreter looks at when it starts, and not again.
    LookedAt(Vec<RawString>),
    /// The job is done.
    Done { code: i32, interrupted: bool },
    /// Nothing, or it is not the driver's.
    Nothing,
    /// The driver can no longer be relied on.
    Broken,
}

/// A driver that runs, as far as it has to be known how to speak to it.
pub(super) enum Driver {
    /// One that takes and gives lines of JSON.
    Json { token: String, language: KernelLanguage },
    /// Bash, which has no room of its own: it takes text to evaluate.
    Bash(Box<Bash>),
}

/// A driver to be started.
pub(super) struct Plan {
    pub(super) start: Start,
    pub(super) extra: Vec<Extra>,
    pub(super) control: Control,
    pub(super) driver: Driver,
}

#[derive(Serialize)]
struct Request<'a> {
    token: &'a str,
    code: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    imports: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    adopt: Option<&'a Adoption>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    rehearse: bool,
    env: &'a BTreeMap<String, RawString>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Said {
    Result(KernelValue),
    Display(KernelValue),
    Error { name: String, value: String, traceback: String },
    NotImported { name: String, reason: String },
    LookedAt { paths: Vec<RawString> },
    Done { code: i32, interrupted: bool },
}

impl Plan {
    /// Plans the interpreter that `kernel` asks for; `state` is that of a shell which has ended.
    pub(super) fn new(kernel: &KernelStart, state: Option<Bash>) -> io::Result<Self> {
        let first = first_descriptor();
        let (separator, program): (u8, &[&str]) = match kernel.language {
            KernelLanguage::Python => (b'\n', &["-c", BEGIN_PYTHON]),
            KernelLanguage::Javascript => (b'\n', &["-e", BEGIN_JAVASCRIPT, "--"]),
            KernelLanguage::Bash => (0, &["--norc", "--noprofile", "-c"]),
        };
        let (control, DriverEnds { requests, answers }) = Control::new(separator)?;
        let mut descriptors = vec![requests, answers];
        let mut arguments: Vec<RawString> = program.iter().map(|&argument| argument.into()).collect();
        let driver = match kernel.language {
            KernelLanguage::Bash => {
                let bash =
                    state.map_or_else(|| Bash::new(first, kernel.env.keys().chain(kernel.secrets.keys())), Ok)?;
                arguments.extend([bash.driver().into(), "bash".into()]);
                descriptors.extend(bash.descriptors()?);
                Driver::Bash(Box::new(bash))
            }
            language => {
                descriptors.push(source(if language == KernelLanguage::Python { PYTHON } else { JAVASCRIPT })?);
                arguments.extend((first..first + 3).map(|number| number.to_string().into()));
                Driver::Json { token: String::new(), language }
            }
        };
        arguments.insert(0, kernel.language.program().into());
        let start = start_of(kernel, arguments);
        let extra = descriptors.into_iter().zip(first..).map(|(fd, number)| Extra { fd, number }).collect();
        Ok(Self { start, extra, control, driver })
    }
}

/// The process that a kernel asks for.
pub(super) fn start_of(kernel: &KernelStart, arguments: Vec<RawString>) -> Start {
    let mut start = Start::new(Command::Argv(arguments));
    start.cwd.clone_from(&kernel.cwd);
    start.env.clone_from(&kernel.env);
    start.secrets.clone_from(&kernel.secrets);
    start.user.clone_from(&kernel.user);
    start
}

/// The number of the first descriptor: below the limit that the child will have.
fn first_descriptor() -> RawFd {
    let own = || rustix::process::getrlimit(Resource::Nofile).current;
    let limit = sys::children_descriptor_limit().or_else(own).unwrap_or(u64::MAX);
    let most = RawFd::try_from(limit).unwrap_or(RawFd::MAX).saturating_sub(DESCRIPTORS);
    FIRST_DESCRIPTOR.min(most)
}

/// Puts a driver's text where only the driver finds it.
pub(super) fn source(text: &str) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create("hearth-driver", MemfdFlags::CLOEXEC)?;
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        rest = &rest[rustix::io::write(&fd, rest)?..];
    }
    rustix::fs::seek(&fd, rustix::fs::SeekFrom::Start(0))?;
    Ok(fd)
}

/// Draws the name of a request, which only the driver is told.
pub(super) fn draw_token() -> Result<String, Fault> {
    let mut bytes = [0; 16];
    let drawn = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    match drawn {
        Ok(16) => Ok(hex::encode(&bytes)),
        _ => Err(Fault::never_started(ErrorCode::Io, "the system gave no random bytes")),
    }
}

impl Driver {
    /// Writes the request for a job, named by `token`.
    pub(super) fn request(&mut self, token: String, job: &Job<'_>) -> Vec<u8> {
        match self {
            Self::Bash(bash) => bash.request(token, job),
            Self::Json { token: current, .. } => {
                *current = token;
                json_request(current, job)
            }
        }
    }

    /// Understands one record.
    pub(super) fn answer(&mut self, record: &[u8]) -> Answer {
        match self {
            Self::Bash(bash) => bash.answer(record),
            Self::Json { token, .. } => {
                let said = record.strip_prefix(token.as_bytes()).and_then(|rest| rest.strip_prefix(b" "));
                said.filter(|_| !token.is_empty())
                    .and_then(|said| serde_json::from_slice(said).ok())
                    .map_or(Answer::Nothing, Said::into_answer)
            }
        }
    }

    /// What of the interpreter's state outlives it, now that it has ended so.
    pub(super) fn survives(self, status: &ExitStatus) -> Option<Bash> {
        match self {
            Self::Bash(bash) => bash.survives(status),
            Self::Json { .. } => None,
        }
    }

    /// The signal by which the interpreter takes an interrupt at its leisure, if it has one: node is asked by it first, since a SIGINT that
    /// comes just when node leaves code that was to be broken by it is lost, or ends node, or strikes the next code.
    pub(super) fn hint(&self) -> Option<Signal> {
        match self {
            Self::Json { language: KernelLanguage::Javascript, .. } => Some(Signal::Urg),
            Self::Json { .. } | Self::Bash(_) => None,
        }
    }

    /// Whether an interrupt has to reach what the interpreter waits for, too, from the start.
    pub(super) fn waits_for_children(&self) -> bool {
        matches!(self, Self::Bash(_))
    }
}

fn json_request(token: &str, job: &Job<'_>) -> Vec<u8> {
    let none = BTreeMap::new();
    let plain = Request { token, code: 0, imports: None, adopt: None, rehearse: false, env: &none };
    let (code, request) = match *job {
        Job::Run { code, env } => (code, Request { code: code.len(), env, ..plain }),
        Job::Prepare { imports } => ("", Request { imports: Some(imports), ..plain }),
        Job::Rehearse => ("", Request { rehearse: true, ..plain }),
        Job::Adopt(adoption) => ("", Request { adopt: Some(adoption), ..plain }),
    };
    let mut bytes = serde_json::to_vec(&request).expect("a request is plain data");
    bytes.push(b'\n');
    bytes.extend_from_slice(code.as_bytes());
    bytes
}

impl Said {
    fn into_answer(self) -> Answer {
        match self {
            Self::Result(value) => Answer::Event(KernelEvent::Result(value)),
            Self::Display(value) => Answer::Event(KernelEvent::Display(value)),
            Self::Error { name, value, traceback } => Answer::Event(KernelEvent::Error { name, value, traceback }),
            Self::NotImported { name, reason } => Answer::NotImported { name, reason },
            Self::LookedAt { paths } => Answer::LookedAt(paths),
            Self::Done { code, interrupted } => Answer::Done { code, interrupted },
        }
    }
}
