//! `hearth run`: a sandbox for one command.

mod direct;
mod held;
mod report;

use std::os::unix::ffi::OsStringExt;

use hearth_client::api::ExecRequest;
use hearth_engine::protocol::{Command, Delivery, RawString, Request, RequestBody, RequestId, Start, encode_line};
use hearth_engine::vmm::{Accelerator, CpuCount, MemoryMib};
use hearth_engine::{AcceleratorChoice, DialectSpec, DiskMib, EngineError, Given, SandboxSpec, StartFrom};

use super::conversation::End;
use super::sandbox::secrets;
use crate::arguments::{Accel, RunOptions};
use crate::capture::Capture;
use crate::failure::{Failure, exit_code_of};
use crate::signals::Signals;
use crate::terminal;
use crate::values::EnvVar;
use crate::{home, output, pipes};
use report::{Summary, Timings};

/// What came of a run.
struct Ran {
    end: End,
    capture: Option<Capture>,
    /// There once there was a sandbox.
    summary: Option<Summary>,
    timings: Timings,
}

impl Ran {
    /// This process was told to end before there was a program.
    fn cut(code: i32) -> Self {
        let timings = Timings::since(std::time::Instant::now());
        Self { end: End::Cut(code), capture: None, summary: None, timings }
    }
}

/// Runs the command and returns the exit code.
pub(crate) async fn run(options: RunOptions) -> Result<i32, Failure> {
    let spec = sandbox_spec(&options)?;
    let start = start_request(&options)?;
    let directories = home::directories()?;
    let mut signals = Signals::new().map_err(Failure::runtime)?;
    let ran = match held::is_possible(&options, &directories)? {
        true => held::run(&directories, &options, &spec, ExecRequest::from(start), &mut signals).await?,
        false => direct::run(&home::open()?, &options, &spec, start, &mut signals).await?,
    };
    let code = exit_code(&ran.end);
    if matches!(&ran.end, End::Exited(status) if status.out_of_memory) && !options.json {
        output::say(
            "hearth: the guest ran out of memory; give it more with --memory, or a disk for what is written with --disk",
        );
    }
    if options.timings {
        ran.timings.say(ran.summary.as_ref());
    }
    if let (Some(capture), End::Exited(status)) = (ran.capture, &ran.end) {
        let mut report = capture.report(code, status);
        report["sandbox"] = ran.summary.map(|summary| summary.json()).into();
        report["timings_us"] = ran.timings.json();
        output::print_json(&report)?;
    }
    Ok(code)
}

fn exit_code(end: &End) -> i32 {
    match end {
        End::Exited(status) => exit_code_of(status),
        End::Cut(code) => *code,
    }
}
fn sandbox_spec(options: &RunOptions) -> Result<SandboxSpec, Failure> {
    let accelerator = match options.accel {
        Accel::Auto => AcceleratorChoice::Auto,
        Accel::Kvm => AcceleratorChoice::Only(Accelerator::Kvm),
        Accel::Tcg => AcceleratorChoice::Only(Accelerator::Tcg),
    };
    Ok(SandboxSpec {
        image: options.image.clone(),
        cpus: CpuCount::new(options.cpus).map_err(EngineError::from)?,
        memory: MemoryMib::new(options.memory.0).map_err(EngineError::from)?,
        disk: options.disk.map(|disk| DiskMib::new(disk.0)).transpose()?,
        accelerator,
        start: if options.boot { StartFrom::Boot } else { StartFrom::Template },
        dialects: options.dialects.then_some(DialectSpec { port: options.dialect_port }),
        given: Given { secrets: secrets(&options.secret)?, ..Given::default() },
    })
}

fn start_request(options: &RunOptions) -> Result<Start, Failure> {
    let argv = options.command.iter().map(|argument| RawString::from(argument.clone().into_vec())).collect();
    let mut start = Start::new(Command::Argv(argv));
    start.cwd = options.workdir.clone().map(|directory| RawString::from(directory.into_vec()));
    start.env =
        options.env.iter().filter_map(EnvVar::get).map(|(name, value)| (name, RawString::from(value))).collect();
    start.secrets = options.secret.iter().map(|secret| (secret.name.clone(), secret.name.clone())).collect();
    start.user = options.user.clone();
    start.timeout_ms = options.timeout.map(|time| time.0.as_millis() as u64);
    start.attach = Some(Delivery::Lossless);
    start.stdin = pipes::has_input();
    if options.tty && terminal::is_interactive() && !options.json {
        start.pty = Some(terminal::size());
        if let Ok(term) = std::env::var("TERM") {
            start.env.entry("TERM".into()).or_insert_with(|| RawString::from(term));
        }
    }
    start.validate().map_err(|fault| Failure::invalid(fault.message))?;
    check_size(&start)?;
    Ok(start)
}

/// Checks that the request fits a line, with the longest id there can be.
fn check_size(start: &Start) -> Result<(), Failure> {
    let request = Request { id: RequestId(u64::MAX), body: RequestBody::Start(start.clone()) };
    encode_line(&request, &mut Vec::new()).map_err(|error| {
        Failure::invalid(format!("the command and its variables are too long together: {error}"))
            .with_hint("pass a long script or data by standard input")
    })
}
