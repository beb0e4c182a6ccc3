//! Code and packages: from a request to its last message.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

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
    tell(execution, answers, async |output| match script::interpreter(&exec.code) {
        Some(_) if exec.language == Language::Raw => script::run(execution, exec, output, entry).await,
        _ => interpreter::run(execution, exec, output, entry).await,
    })
    .await;
}

/// Installs packages and tells how it went. Goes on when nobody listens any more.
pub(super) async fn install(execution: &Execution, wanted: Packages, answers: Answers, entry: &Entry) {
    tell(execution, answers, async |output| packages::install(execution, wanted, output, entry).await).await;
}

/// Does what has output, and tells how it went, last of all. The work does not wait for what the client has not read.
async fn tell(execution: &Execution, answers: Answers, work: impl AsyncFnOnce(&Output) -> Result<Complete, Refusal>) {
    let begun = Instant::now();
    let output = Output::new(answers.clone(), Rc::clone(&execution.held));
    let work = async {
        let ended = work(&output).await;
        output.end();
        (ended, begun.elapsed())
    };
    let ((ended, elapsed), ()) = tokio::join!(work, output.send_all());
    let milliseconds = |duration: Duration| duration.as_millis() as u64;
    let told = match ended {
        Ok(Complete { exit_code, spawned, process }) => {
            let execution_time_ms = milliseconds(elapsed);
            let (spawn_ms, process_ms) = (spawned.map(milliseconds), process.map(milliseconds));
            answers.send(&Answer::Complete { exit_code, execution_time_ms, spawn_ms, process_ms }).await
        }
        Err(refusal) => answers.refuse(&refusal).await,
    };
    drop(told);
}

/// Takes what `next` brings, until its end.
pub(super) async fn relay(
    output: &Output,
    mut next: impl AsyncFnMut() -> Option<(Stream, Bytes)>,
) -> Result<(), OverLimit> {
    while let Some((stream, bytes)) = next().await {
        output.take(stream, &bytes).await?;
    }
    Ok(())
}

/// What code ends with that had to be stopped at its timeout.
pub(super) fn timed_out(timeout: Duration) -> Refusal {
    Refusal::new(ErrorType::Timeout, format_args!("it ran longer than its {} s and was stopped", timeout.as_secs_f64()))
}
