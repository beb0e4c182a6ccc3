//! Code and packages: from a request to its last message.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time;

use super::answer::{Answer, Answers};
use super::output::{Output, OverLimit, Stream};
use super::request::{ErrorType, Exec, Language, Packages, Refusal};
use super::{Entry, Execution, interpreter, packages, script};

/// The time between the TERM and the KILL of what has to be stopped.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// How code ended by itself.
pub(super) struct Complete {
    pub(super) exit_code: i32,
    pub(super) spawned: Option<Duration>,
    pub(super) process: Option<Duration>,
}

/// Runs code and tells how it went. Goes on when nobody listens any more.
pub(super) async fn run(execution: &Execution, exec: Exec, answers: Answers, entry: &Entry) {
    tell(answers, async |output| match script::interpreter(&exec.code) {
        Some(_) if exec.language == Language::Raw => script::run(execution, exec, output, entry).await,
        _ => interpreter::run(execution, exec, output, entry).await,
    })
    .await;
}

/// Installs packages and tells how it went. Goes on when nobody listens any more.
pub(super) async fn install(execution: &Execution, wanted: Packages, answers: Answers, entry: &Entry) {
    tell(answers, async |output| packages::install(execution, wanted, output, entry).await).await;
}

/// Does what has output, and tells how it went, last of all.
async fn tell(answers: Answers, work: impl AsyncFnOnce(&mut Output) -> Result<Complete, Refusal>) {
    let begun = Instant::now();
    let mut output = Output::new(answers.clone());
    let ended = work(&mut output).await;
    output.finish().await;
    let milliseconds = |duration: Duration| duration.as_millis() as u64;
    let told = match ended {
        Ok(Complete { exit_code, spawned, process }) => {
            let execution_time_ms = milliseconds(begun.elapsed());
            let (spawn_ms, process_ms) = (spawned.map(milliseconds), process.map(milliseconds));
            answers.send(&Answer::Complete { exit_code, execution_time_ms, spawn_ms, process_ms }).await
        }
        Err(refusal) => answers.refuse(&refusal).await,
    };
    drop(told);
}

/// Passes on what `next` brings, until its end.
pub(super) async fn relay(
    output: &mut Output,
    mut next: impl AsyncFnMut() -> Option<(Stream, Bytes)>,
) -> Result<(), OverLimit> {
    loop {
        let due = output.due();
        tokio::select! {
            biased;
            () = time::sleep_until(due.unwrap_or_else(time::Instant::now)), if due.is_some() => output.send_due().await,
            piece = next() => match piece {
                Some((stream, bytes)) => output.take(stream, &bytes).await?,
                None => return Ok(()),
            },
        }
    }
}

/// What code ends with that had to be stopped at its timeout.
pub(super) fn timed_out(timeout: Duration) -> Refusal {
    Refusal::new(ErrorType::Timeout, format_args!("it ran longer than its {} s and was stopped", timeout.as_secs_f64()))
}
