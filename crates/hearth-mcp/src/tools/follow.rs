//! Programs that a call follows: what they write comes, what they are given goes.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hearth_client::api::Capture;
use hearth_client::api::protocol::{ExitStatus, OutputTotals, StreamName};
use hearth_client::{Held, HeldEvent, HeldInput};
use tokio::time::{Instant, sleep_until};

use super::process::Positions;
use crate::output::Output;
use crate::refused::Refused;
use crate::tool::Call;

/// What is wanted of a program that is followed.
pub(super) struct Watch {
    pub(super) from: Positions,
    /// The most of each stream.
    pub(super) limit: u64,
    /// For how long; until its end without.
    pub(super) wait: Option<Duration>,
}

/// A program that was followed to its end, or to the end of the wait.
pub(super) struct Followed {
    pub(super) streams: Streams,
    /// How it has ended, if it has.
    pub(super) status: Option<ExitStatus>,
}

/// What has come of a program's streams.
pub(super) struct Streams {
    from: Positions,
    pub(super) at: Positions,
    stdout: Capture,
    stderr: Capture,
}

impl Streams {
    fn new(watch: &Watch) -> Self {
        let (stdout, stderr) = (Capture::new(watch.limit), Capture::new(watch.limit));
        Self { from: watch.from, at: watch.from, stdout, stderr }
    }

    fn of(&mut self, stream: StreamName) -> (&mut u64, &mut Capture, u64) {
        match stream {
            StreamName::Stderr => (&mut self.at.stderr, &mut self.stderr, self.from.stderr),
            _ => (&mut self.at.stdout, &mut self.stdout, self.from.stdout),
        }
    }

    fn take(&mut self, stream: StreamName, bytes: &[u8]) {
        let (at, capture, from) = self.of(stream);
        // A capture counts from what was asked for.
        capture.take(*at - from, bytes);
        *at += bytes.len() as u64;
    }

    fn end(&mut self, totals: &OutputTotals) {
        for (stream, total) in [(StreamName::Stdout, totals.stdout), (StreamName::Stderr, totals.stderr)] {
            let (at, capture, from) = self.of(stream);
            capture.end(total.saturating_sub(from));
            *at = total.max(*at);
        }
    }

    /// What was written, and how to get what is not here.
    pub(super) fn outputs(self, rest: impl Fn(&str) -> String) -> (Output, Output) {
        let stdout = Output::new(&self.stdout.finish(), self.from.stdout, &rest("stdout"));
        (stdout, Output::new(&self.stderr.finish(), self.from.stderr, &rest("stderr")))
    }
}

/// Follows a program to its end or the end of the wait; `None` when the call is cancelled.
pub(super) async fn follow(
    held: &mut Held,
    call: &Call,
    feeding: &mut Feeding,
    watch: Watch,
) -> Result<Option<Followed>, Refused> {
    let mut streams = Streams::new(&watch);
    let until = watch.wait.map(|wait| Instant::now() + wait);
    let over = async {
        match until {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    };
    let mut over = pin!(over);
    loop {
        let event = tokio::select! {
            biased;
            () = call.cancelled.cancelled() => return Ok(None),
            event = held.next() => event?,
            () = feeding.go_on() => continue,
            () = &mut over => return Ok(Some(Followed { streams, status: None })),
        };
        match event {
            HeldEvent::Output(stream, bytes) => {
                call.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                streams.take(stream, &bytes);
            }
            HeldEvent::Dropped(stream, bytes) => *streams.of(stream).0 += bytes,
            HeldEvent::Exit(status, totals) => {
                streams.end(&totals);
                return Ok(Some(Followed { streams, status: Some(status) }));
            }
        }
    }
}

/// A program's input on its way. A program that does not read all of it is none of ours.
pub(super) struct Feeding(Option<BoxFuture<'static, ()>>);

impl Feeding {
    /// None, for a program that has its input from elsewhere.
    pub(super) fn none() -> Self {
        Self(None)
    }

    pub(super) fn new(held: &mut Held, stdin: Option<String>) -> Self {
        let feed = |(mut input, text): (HeldInput, String)| {
            async move {
                let mut rest = bytes::Bytes::from(text);
                let fed = async {
                    while !rest.is_empty() {
                        input.room().await;
                        rest = input.write(std::mem::take(&mut rest)).await?;
                    }
                    input.close().await
                };
                if fed.await.is_ok() {
                    input.taken().await;
                }
            }
            .boxed()
        };
        Self(held.input().zip(stdin).map(feed))
    }

    /// Whether all of it is on its way to the guest.
    fn is_over(&self) -> bool {
        self.0.is_none()
    }

    /// Waits until that is so; for ever once it is. Cancel-safe.
    async fn go_on(&mut self) {
        match &mut self.0 {
            Some(feeding) => feeding.await,
            None => std::future::pending().await,
        }
        self.0 = None;
    }
}

/// Gives a program that nobody waits for any more the rest of its input, and the end of it.
pub(super) async fn feed_to_the_end(mut held: Held, mut feeding: Feeding) {
    while !feeding.is_over() {
        tokio::select! {
            () = feeding.go_on() => {}
            event = held.next() => if matches!(event, Err(_) | Ok(HeldEvent::Exit(..))) { return },
        }
    }
}
