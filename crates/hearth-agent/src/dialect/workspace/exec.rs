//! `exec`: a command to its end.

use std::cell::Cell;
use std::rc::Rc;

use hearth_protocol::{Budget, Command, ExitStatus, Keep, RawString, Start, limits};

use super::connection::{Connection, TextPiece};
use super::reply::Object;
use super::request::Request;
use super::texts::Refusal;
use crate::agent::Agent;
use crate::process::{OUTPUT_PIECE, Output};

/// What is kept of each output: the first of it and the last.
const KEPT: Budget = Budget { head: 1024 * 1024, tail: 7 * 1024 * 1024 };
/// The exit code of a command that took too long.
const TIMED_OUT: i32 = 124;

/// Runs a command, and answers with what came of it.
pub(super) async fn run(agent: &Agent, request: &Request, connection: &mut Connection) -> Result<(), Refusal> {
    let command = request.bytes("command", "")?;
    let seconds = request.integer("timeout_seconds", 30)?;
    let mut start = Start::new(login_shell(command));
    start.cwd = Some("/".into());
    start.env = request.environment("exec")?.into_iter().map(|(name, value)| (name, value.into())).collect();
    start.timeout_ms = Some(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000).clamp(1, limits::TIMEOUT_MS));
    start.keep = Keep { stdout: KEPT, stderr: KEPT };
    start.validate().map_err(|fault| Refusal::of(&fault))?;
    let process = agent.processes.start(&start).map_err(|fault| Refusal::of(&fault))?;
    let (status, output) = process.wait().await;
    let reason = status.timed_out.then(|| format!("command timed out after {seconds}s"));
    connection.send(&Object::default().begun("stdout")).await;
    send_output(connection, &process.stdout, output.stdout, None).await;
    connection.send(b",\"stderr\":").await;
    send_output(connection, &process.stderr, output.stderr, reason).await;
    let end = Object::default().field("exit_code", exit_code(&status)).field("duration_ms", status.duration_us / 1000);
    connection.send(&end.ending()).await;
    Ok(())
}

/// A command as this dialect runs it.
pub(super) fn login_shell(command: Vec<u8>) -> Command {
    Command::Argv(["/bin/sh".into(), "-lc".into(), RawString::from(command)].into())
}

/// The exit code as Python has it: negative for a signal.
pub(super) fn exit_code(status: &ExitStatus) -> i32 {
    match (status.timed_out, status.signal) {
        (true, _) => TIMED_OUT,
        (false, Some(signal)) => -signal,
        (false, None) => status.code.unwrap_or_default(),
    }
}

/// Sends what is kept of an output up to `end` as a string, and behind it a line of ours. It is read as it is sent: its memory is the
/// output's own.
async fn send_output(connection: &mut Connection, output: &Rc<Output>, end: u64, reason: Option<String>) {
    connection.send(b"\"").await;
    let (cursor, mut text) = (output.cursor(0, false), TextPiece::default());
    let expected = Cell::new(0);
    while !connection.is_broken() && expected.get() < end {
        let read = cursor.read(OUTPUT_PIECE, |at, bytes| {
            let at = at.min(end);
            if at > expected.get() {
                text.say(&format!("\n[hearth: {} bytes left out]\n", at - expected.get()));
            }
            let bytes = &bytes[..bytes.len().min((end - at) as usize)];
            text.add(bytes);
            expected.set(at + bytes.len() as u64);
        });
        if read.is_none() {
            break;
        }
        connection.send(&text.take()).await;
    }
    text.end();
    if let Some(reason) = reason {
        if text.last().is_some_and(|last| last != '\n') {
            text.say("\n");
        }
        text.say(&reason);
    }
    connection.send(&text.take()).await;
    connection.send(b"\"").await;
}
