//! Code that names its own interpreter (`#!`): a file of its own, and a process.

use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_files::{Replacement, Root};
use hearth_protocol::files::{Create, FileRoot};
use hearth_protocol::{Command, ExitStatus, Fault, RawString, Signal, SignalScope, Start, hex};
use rustix::fs::AtFlags;
use rustix::rand::GetRandomFlags;

use super::exec::{Complete, GRACE, relay, timed_out};
use super::output::{Output, Stream};
use super::request::{ErrorType, Exec, Refusal};
use super::{Entry, Execution, cancelled, on_worker};
use crate::process::{Cursor, Process};

/// What is read of a stream at a time, in bytes.
const PIECE: usize = 64 * 1024;

/// The interpreter that code names in its first line, and the one argument that may stand behind it.
pub(super) fn interpreter(code: &str) -> Option<Vec<&str>> {
    let line = code.strip_prefix("#!")?.lines().next().unwrap_or_default();
    let line = line.trim_matches([' ', '\t']);
    let (program, argument) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    Some([program, argument.trim_start_matches([' ', '\t'])].into_iter().filter(|word| !word.is_empty()).collect())
}

/// Runs code by its interpreter, in a process of its own.
pub(super) async fn run(
    execution: &Execution,
    exec: Exec,
    output: &Output,
    entry: &Entry,
) -> Result<Complete, Refusal> {
    let begun = Instant::now();
    let argv: Vec<RawString> = interpreter(&exec.code).into_iter().flatten().map(RawString::from).collect();
    if argv.is_empty() {
        return Err(Refusal::new(ErrorType::Code, "the code begins with #! and names no interpreter"));
    }
    let root = execution.agent.roots.open(FileRoot::System)?;
    let code = exec.code;
    let file = on_worker(move || ScriptFile::write(root, &code)).await?;
    let mut start = Start::new(Command::Argv([argv, vec![file.path.as_bytes().into()]].concat()));
    start.cwd = Some(execution.home()?.path().as_os_str().as_bytes().into());
    start.env = exec.variables.into_iter().map(|(name, value)| (name, value.into())).collect();
    start.timeout_ms = Some(exec.timeout.as_millis().max(1) as u64);
    start.grace_ms = Some(GRACE.as_millis() as u64);
    let process = execution.agent.processes.start(&start).map_err(not_run)?;
    follow(process, &Bounds { timeout: exec.timeout, begun, entry }, output).await
}

/// What bounds a process, beside the deadline that it was started with.
pub(super) struct Bounds<'a> {
    pub(super) timeout: Duration,
    pub(super) begun: Instant,
    pub(super) entry: &'a Entry,
}

/// Passes on what a process writes, to its end; ends it when it is cancelled, or writes too much.
pub(super) async fn follow(process: Rc<Process>, bounds: &Bounds<'_>, output: &Output) -> Result<Complete, Refusal> {
    let spawned = bounds.begun.elapsed();
    let reader = Reading { stdout: process.stdout.cursor(0, true), stderr: process.stderr.cursor(0, true), process };
    let relayed = tokio::select! {
        relayed = relay(output, async || reader.next().await) => relayed.map_err(Refusal::from),
        () = bounds.entry.cancelled() => Err(cancelled()),
    };
    let process = reader.end();
    if let Err(refusal) = relayed {
        stop(&process).await;
        return Err(refusal);
    }
    let (status, _) = process.wait().await;
    complete(&status, bounds.timeout, spawned)
}

fn not_run(fault: Fault) -> Refusal {
    Refusal::new(ErrorType::Execution, fault)
}

fn complete(status: &ExitStatus, timeout: Duration, spawned: Duration) -> Result<Complete, Refusal> {
    match (status.code, status.signal) {
        // One that takes the TERM of its deadline for an order to end has the last word.
        (None, _) if status.timed_out => Err(timed_out(timeout)),
        (code, signal) => {
            let exit_code = code.unwrap_or_else(|| 128 + signal.unwrap_or_default());
            let process = Duration::from_micros(status.duration_us);
            Ok(Complete { exit_code, spawned: Some(spawned), process: Some(process) })
        }
    }
}

/// Ends a process and all it has started: TERM, a grace, KILL.
async fn stop(process: &Process) {
    // One that has ended meanwhile needs no signal.
    let _ = process.signal(Signal::Term, SignalScope::Tree);
    if tokio::time::timeout(GRACE, process.wait()).await.is_err() {
        let _ = process.signal(Signal::Kill, SignalScope::Tree);
        process.wait().await;
    }
}

/// A process whose output is read.
struct Reading {
    process: Rc<Process>,
    stdout: Cursor,
    stderr: Cursor,
}

impl Reading {
    /// Reads no more: what the process still writes holds it up no longer.
    fn end(self) -> Rc<Process> {
        self.process
    }

    /// What it writes next; `None` at its end. Cancel-safe.
    async fn next(&self) -> Option<(Stream, Bytes)> {
        loop {
            let changed = (self.stdout.output().changed.notified(), self.stderr.output().changed.notified());
            for (stream, cursor) in [(Stream::Stdout, &self.stdout), (Stream::Stderr, &self.stderr)] {
                if let Some(bytes) = cursor.read(PIECE, |_, bytes| Bytes::copy_from_slice(bytes)) {
                    return Some((stream, bytes));
                }
            }
            if [&self.stdout, &self.stderr].iter().all(|cursor| cursor.output().end().is_some()) {
                return None;
            }
            tokio::select! { () = changed.0 => {}, () = changed.1 => {} }
        }
    }
}

/// A file with code in it, for as long as it runs.
struct ScriptFile {
    root: Root,
    path: String,
}

impl ScriptFile {
    fn write(root: Root, code: &str) -> Result<Self, Refusal> {
        let mut random = [0; 16];
        rustix::rand::getrandom(&mut random, GetRandomFlags::empty())
            .map_err(|error| Refusal::new(ErrorType::Io, format_args!("no random name: {error}")))?;
        // Nobody can guess the name, and so put something else there before.
        let path = format!("/tmp/.hearth-{}", hex::encode(&random));
        let mut file = Replacement::begin(&root, path.as_bytes(), Some(0o700), Create::New)?;
        file.write_all(code.as_bytes())?;
        file.commit()?;
        Ok(Self { root, path })
    }
}

impl Drop for ScriptFile {
    fn drop(&mut self) {
        if let Ok((directory, name)) = self.root.parent("remove", self.path.as_bytes()) {
            let _ = rustix::fs::unlinkat(directory, &name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_read_as_the_kernel_reads_it_whatever_ends_it() {
        let read = |code| interpreter(code);
        assert_eq!(read("#!/bin/sh\ntrue"), Some(vec!["/bin/sh"]));
        assert_eq!(read("#! /usr/bin/env  -S python3 -u \r\nx"), Some(vec!["/usr/bin/env", "-S python3 -u"]));
        assert_eq!(read("#!/bin/sh"), Some(vec!["/bin/sh"]));
        assert_eq!(read("#!\t\nx"), Some(vec![]));
        assert_eq!(read("echo\n#!/bin/sh"), None);
    }
}
