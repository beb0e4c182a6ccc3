//! The work on a sandbox: what a task is asked, and what comes of it.
//!
//! Work that needs the sandbox whole takes it in hand and gives it back with its [`Done`]. Work that is dropped is given up, and undoes
//! itself; whoever waits for its end then learns that the sandbox was removed, since nothing else gives work up.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::entry::Entry;
use super::{FleetError, Input, Member, SandboxName, Shared};
use crate::pool::Claimed;
use crate::{EngineError, ForkSpec, Paused, Refused, Sandbox, SandboxId, Taken};

/// A sandbox in one of the two shapes in which it can last.
#[derive(Debug)]
pub(super) enum Body {
    /// With a machine. The task and what copies it share it.
    Running(Arc<Sandbox>),
    /// On disk.
    Paused(Box<Paused>),
}

impl Body {
    /// Leaves nothing of it.
    pub(super) async fn remove(self) {
        match self {
            // The task has dropped all work on it before.
            Self::Running(sandbox) => match Arc::into_inner(sandbox) {
                Some(sandbox) => sandbox.remove().await,
                None => debug_assert!(false, "a sandbox is removed by its only holder"),
            },
            Self::Paused(paused) => drop(paused),
        }
    }
}

/// Where to tell what came of an order.
pub(super) type Reply<T> = oneshot::Sender<Result<T, FleetError>>;

/// What came of a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PauseReport {
    /// How long it took until the machine was gone.
    pub took: Duration,
    /// What of the sandbox's memory lies on disk, in bytes.
    pub saved_bytes: u64,
}

/// What came of a fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForkReport {
    /// For how long the source's processes stood still.
    pub stopped: Duration,
    /// What the source had changed of its template's memory, in bytes: each copy has so much of its own.
    pub changed_bytes: u64,
}

/// A copy to make: its id, and where to hand it over.
pub(super) type Copy = (SandboxId, oneshot::Sender<Sandbox>);

/// Work that is asked for.
#[derive(Debug)]
pub(super) enum Order {
    /// Nobody waits where idleness asks.
    Pause(Option<Reply<PauseReport>>),
    Resume(Reply<()>),
    Fork {
        copies: Vec<Copy>,
        secrets: bool,
        reply: Reply<ForkReport>,
    },
    Snapshot {
        name: SandboxName,
        reply: Reply<Taken>,
    },
}

impl Order {
    pub(super) fn input(&self) -> Input {
        match self {
            Self::Pause(_) => Input::Pause,
            Self::Resume(_) => Input::Resume,
            Self::Fork { .. } | Self::Snapshot { .. } => Input::Capture,
        }
    }

    /// Tells whoever waits that nothing has come of it. One that is gone need not be told.
    pub(super) fn refuse(self, error: FleetError) {
        match self {
            Self::Pause(reply) => drop(reply.map(|reply| reply.send(Err(error)))),
            Self::Resume(reply) => drop(reply.send(Err(error))),
            Self::Fork { reply, .. } => drop(reply.send(Err(error))),
            Self::Snapshot { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

/// What came of a piece of work.
pub(super) enum Done {
    Created(Box<Result<Sandbox, EngineError>>),
    /// The fork that was to make it came to nothing.
    NotForked,
    Paused(Box<Result<Paused, Refused<Sandbox>>>, Option<Reply<PauseReport>>),
    Resumed(Box<Result<Sandbox, Refused<Paused>>>, Reply<()>),
    Forked(Result<ForkReport, EngineError>, Reply<ForkReport>),
    Saved(Box<Result<Taken, EngineError>>, Reply<Taken>),
    Removed,
}

/// Work that goes on. Dropping it gives it up, and with it the sandbox it has in hand.
pub(super) type Job = Pin<Box<dyn Future<Output = Done> + Send>>;

/// What a new sandbox comes from.
pub(super) enum Origin {
    /// Its specification.
    Specification,
    /// The pool, which was asked at that time.
    Ready(Claimed, std::time::Instant),
    /// Another sandbox, which hands it over.
    Fork(oneshot::Receiver<Sandbox>),
}

pub(super) fn create(member: &Member, origin: Origin) -> Job {
    let (shared, entry) = (member.shared.clone(), member.entry.clone());
    match origin {
        Origin::Specification => Box::pin(async move { Done::Created(Box::new(make(&shared, &entry).await)) }),
        Origin::Ready(ready, begun) => Box::pin(async move {
            let sandbox = match ready.take(begun, &entry.spec.given).await {
                Ok(sandbox) => Ok(sandbox),
                // It has died meanwhile, nothing of it is left, and its id is free for another.
                Err(_) => make(&shared, &entry).await,
            };
            Done::Created(Box::new(sandbox))
        }),
        Origin::Fork(copy) => Box::pin(async move {
            match copy.await {
                Ok(sandbox) => Done::Created(Box::new(Ok(sandbox))),
                Err(_) => Done::NotForked,
            }
        }),
    }
}

/// Makes a machine, when its turn has come.
async fn make(shared: &Shared, entry: &Entry) -> Result<Sandbox, EngineError> {
    let _turn = shared.gate.pass().await?;
    shared.engine.create_as(entry.id.clone(), &entry.spec).await
}

pub(super) fn pause(shared: Arc<Shared>, sandbox: Sandbox, reply: Option<Reply<PauseReport>>) -> Job {
    Box::pin(async move { Done::Paused(Box::new(shared.engine.pause(sandbox).await), reply) })
}

pub(super) fn resume(shared: Arc<Shared>, paused: Paused, reply: Reply<()>) -> Job {
    Box::pin(async move { Done::Resumed(Box::new(shared.engine.resume(paused).await), reply) })
}

pub(super) fn fork(
    shared: Arc<Shared>,
    source: Arc<Sandbox>,
    copies: Vec<Copy>,
    secrets: bool,
    reply: Reply<ForkReport>,
) -> Job {
    Box::pin(async move {
        let spec = ForkSpec { copies: copies.len(), secrets };
        let (ids, takers): (Vec<_>, Vec<_>) = copies.into_iter().unzip();
        let forked = shared.engine.fork_as(ids, &source, spec).await;
        let report = forked.map(|forked| {
            // A copy that was removed meanwhile is dropped here, and nothing is left of it.
            forked.copies.into_iter().zip(takers).for_each(|(copy, taker)| drop(taker.send(copy)));
            ForkReport { stopped: forked.stopped, changed_bytes: forked.changed_bytes }
        });
        Done::Forked(report, reply)
    })
}

pub(super) fn snapshot(shared: Arc<Shared>, source: Arc<Sandbox>, name: SandboxName, reply: Reply<Taken>) -> Job {
    Box::pin(async move { Done::Saved(Box::new(shared.engine.snapshot(&source, &name).await), reply) })
}
