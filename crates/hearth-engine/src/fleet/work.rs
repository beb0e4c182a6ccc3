//! The work on a sandbox: what a task is asked, and what comes of it.
//!
//! Work that needs the sandbox whole takes it in hand and gives it back with its [`Done`]. Work that is dropped is given up, and undoes
//! itself; whoever waits for its end then learns that the sandbox was removed, since nothing else gives work up.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::secrets::Secret;
use hearth_vmm::SealedRam;
use tokio::sync::oneshot;
use tracing::{Instrument, Span, info_span};

use super::entry::Entry;
use super::{FleetError, Input, Member, SandboxName, Shared};
use crate::adopt::Adopted;
use crate::pool::Claimed;
use crate::store::{Kept, Lasting, PauseRecord};
use crate::{EngineError, ForkSpec, Paused, Refused, Sandbox, StopReport, Stopped, Taken};

/// A sandbox in one of the shapes in which it can last.
#[derive(Debug)]
pub(super) enum Body {
    /// With a machine. The task and what copies it share it.
    Running(Arc<Sandbox>),
    /// On disk.
    Paused(Box<Paused>),
    /// Without a machine: stopped, or failed under an earlier process.
    Stopped(Box<Stopped>),
}

impl Body {
    /// Leaves it to the next process.
    pub(super) fn let_go(self) {
        match self {
            Self::Running(sandbox) => match Arc::into_inner(sandbox) {
                Some(sandbox) => sandbox.let_go(),
                None => debug_assert!(false, "a sandbox is let go by its only holder"),
            },
            Self::Paused(paused) => paused.let_go(),
            Self::Stopped(stopped) => stopped.let_go(),
        }
    }

    /// Leaves nothing of it.
    pub(super) async fn remove(self) {
        match self {
            // The task has dropped all work on it before.
            Self::Running(sandbox) => match Arc::into_inner(sandbox) {
                Some(sandbox) => sandbox.remove().await,
                None => debug_assert!(false, "a sandbox is removed by its only holder"),
            },
            Self::Paused(paused) => drop(paused),
            Self::Stopped(stopped) => drop(stopped),
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

/// A copy to make, and where to hand it over.
pub(super) type Copy = (Arc<Entry>, oneshot::Sender<Sandbox>);

/// Work that is asked for.
#[derive(Debug)]
pub(super) enum Order {
    /// Nobody waits where idleness asks.
    Pause(Option<Reply<PauseReport>>),
    Resume(Reply<()>),
    Stop {
        grace: Duration,
        reply: Reply<StopReport>,
    },
    Start {
        secrets: Vec<Secret>,
        reply: Reply<()>,
    },
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
            Self::Stop { .. } => Input::Stop,
            Self::Start { .. } => Input::Start,
            Self::Fork { .. } | Self::Snapshot { .. } => Input::Capture,
        }
    }

    /// Tells whoever waits that nothing has come of it. One that is gone need not be told.
    pub(super) fn refuse(self, error: FleetError) {
        match self {
            Self::Pause(reply) => drop(reply.map(|reply| reply.send(Err(error)))),
            Self::Resume(reply) | Self::Start { reply, .. } => drop(reply.send(Err(error))),
            Self::Stop { reply, .. } => drop(reply.send(Err(error))),
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
    Adopted(Box<Result<Adopted, EngineError>>, Vec<String>),
    Paused(Box<Result<Paused, Refused<Sandbox>>>, Option<Reply<PauseReport>>),
    Resumed(Box<Result<Sandbox, Refused<Paused>>>, Reply<()>),
    Stopped(Box<Result<(Stopped, StopReport), Refused<Sandbox>>>, Reply<StopReport>),
    Started(Box<Result<Sandbox, Refused<Stopped>>>, Reply<()>),
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
    /// An earlier process.
    Left(Left),
}

/// What there is of a sandbox without a machine that runs.
pub(super) enum Remains {
    Stopped(Box<Stopped>),
    /// Its machine has ended by itself.
    Failed(Box<Sandbox>),
}

/// What an earlier process has left of a sandbox.
pub(super) struct Left {
    pub(super) last: Box<Lasting>,
    /// What of it is lost already.
    pub(super) lost: Vec<String>,
    /// What its machine has mapped of a template.
    pub(super) mapped: Option<Arc<SealedRam>>,
}

/// Begins work as a part of what asks for it, and apart from its task: a span that ends with it stands for it.
fn job(work: impl Future<Output = Done> + Send + 'static, span: Span) -> Job {
    Box::pin(work.instrument(span))
}

pub(super) fn create(member: &Member, origin: Origin) -> Job {
    let (shared, entry) = (member.shared.clone(), member.entry.clone());
    let id = &member.entry.id;
    match origin {
        Origin::Specification => job(
            async move {
                let made = make(&shared, &entry).await;
                Done::Created(Box::new(kept(&shared, &entry, made).await))
            },
            info_span!("create", hearth.sandbox = %id),
        ),
        Origin::Ready(ready, begun) => job(
            async move {
                let made = take(&shared, &entry, ready, begun).await;
                Done::Created(Box::new(kept(&shared, &entry, made).await))
            },
            info_span!("create", hearth.sandbox = %id),
        ),
        Origin::Left(Left { last, lost, mapped }) => job(
            async move {
                let adopted = shared.engine.adopt(&last).await;
                drop(mapped);
                Done::Adopted(Box::new(adopted), lost)
            },
            info_span!("adopt", hearth.sandbox = %id),
        ),
        // The fork is the work.
        Origin::Fork(copy) => Box::pin(async move {
            match copy.await {
                Ok(sandbox) => Done::Created(Box::new(Ok(sandbox))),
                Err(_) => Done::NotForked,
            }
        }),
    }
}

/// Notes that a sandbox is there. One that cannot be noted is none.
async fn kept(shared: &Shared, entry: &Entry, made: Result<Sandbox, EngineError>) -> Result<Sandbox, EngineError> {
    let sandbox = made?;
    match shared.keep([(entry, &sandbox)].into_iter()) {
        Ok(()) => Ok(sandbox),
        Err(source) => {
            sandbox.remove().await;
            Err(source.into())
        }
    }
}

/// Takes what the pool has given; a guest that has yet to begin does so when its turn has come.
async fn take(
    shared: &Shared,
    entry: &Entry,
    ready: Claimed,
    begun: std::time::Instant,
) -> Result<Sandbox, EngineError> {
    let turn = match ready.is_standby() {
        true => {
            shared.engine.check_room(&entry.spec)?;
            Some(shared.gate.pass().await?)
        }
        false => None,
    };
    match ready.take(begun, &entry.spec.given).await {
        Ok(sandbox) => Ok(sandbox),
        // It has died meanwhile, nothing of it is left, and its id is free for another.
        Err(_) => {
            drop(turn);
            make(shared, entry).await
        }
    }
}

/// Makes a machine, when its turn has come.
async fn make(shared: &Shared, entry: &Entry) -> Result<Sandbox, EngineError> {
    let _turn = shared.gate.pass().await?;
    shared.engine.create_as(entry.id.clone(), &entry.spec).await
}

pub(super) fn pause(member: &Member, sandbox: Sandbox, reply: Option<Reply<PauseReport>>) -> Job {
    let Member { entry, shared } = member.clone();
    let span = info_span!("pause", hearth.sandbox = %entry.id);
    let work = async move {
        let keeper = shared.clone();
        let note = move |record: &PauseRecord| keeper.keep_state(&entry, &Kept::Paused(record.clone()));
        Done::Paused(Box::new(shared.engine.pause_noting(sandbox, Box::new(note)).await), reply)
    };
    job(work, span)
}

pub(super) fn resume(member: &Member, paused: Paused, reply: Reply<()>) -> Job {
    let Member { entry, shared } = member.clone();
    let span = info_span!("resume", hearth.sandbox = %entry.id);
    let work = async move {
        let keeper = shared.clone();
        let note = move |_: &Sandbox| keeper.keep_state(&entry, &Kept::Running);
        Done::Resumed(Box::new(shared.engine.resume_noting(paused, Box::new(note)).await), reply)
    };
    job(work, span)
}

pub(super) fn stop(member: &Member, sandbox: Sandbox, grace: Duration, reply: Reply<StopReport>) -> Job {
    let Member { entry, shared } = member.clone();
    Box::pin(async move {
        let keeper = shared.clone();
        let note = move |(): &()| keeper.keep_state(&entry, &Kept::Stopped);
        Done::Stopped(Box::new(shared.engine.stop_noting(sandbox, grace, Box::new(note)).await), reply)
    })
}

/// Boots what is left of one that is stopped or has failed, when its turn has come.
pub(super) fn start(member: &Member, remains: Remains, secrets: Vec<Secret>, reply: Reply<()>) -> Job {
    let Member { entry, shared } = member.clone();
    Box::pin(async move {
        let stopped = match remains {
            Remains::Stopped(stopped) => *stopped,
            Remains::Failed(sandbox) => sandbox.into_stopped().await,
        };
        let _turn = match shared.gate.pass().await {
            Ok(turn) => turn,
            Err(error) => {
                return Done::Started(Box::new(Err(Refused { sandbox: stopped, error })), reply);
            }
        };
        let keeper = shared.clone();
        // What it is made of has changed as well: it lies on no template any more.
        let note = move |sandbox: &Sandbox| keeper.keep([(&*entry, sandbox)].into_iter());
        Done::Started(Box::new(shared.engine.start_noting(stopped, secrets, Box::new(note)).await), reply)
    })
}

pub(super) fn fork(
    shared: Arc<Shared>,
    source: Arc<Sandbox>,
    copies: Vec<Copy>,
    secrets: bool,
    reply: Reply<ForkReport>,
) -> Job {
    let span = info_span!("fork", hearth.sandbox = %source.id());
    let work = async move {
        let spec = ForkSpec { copies: copies.len(), secrets };
        let ids = copies.iter().map(|(entry, _)| entry.id.clone()).collect();
        let forked = shared.engine.fork_as(ids, &source, spec).await;
        let report = forked.and_then(|forked| {
            // All of them, or none.
            shared.keep(copies.iter().map(|(entry, _)| &**entry).zip(&forked.copies))?;
            for (copy, (entry, taker)) in forked.copies.into_iter().zip(copies) {
                if let Err(copy) = taker.send(copy) {
                    // It was removed meanwhile, before it was noted.
                    shared.forget(&entry);
                    drop(copy);
                }
            }
            Ok(ForkReport { stopped: forked.stopped, changed_bytes: forked.changed_bytes })
        });
        Done::Forked(report, reply)
    };
    job(work, span)
}

pub(super) fn snapshot(shared: Arc<Shared>, source: Arc<Sandbox>, name: SandboxName, reply: Reply<Taken>) -> Job {
    let span = info_span!("snapshot", hearth.sandbox = %source.id());
    job(async move { Done::Saved(Box::new(shared.engine.snapshot(&source, &name).await), reply) }, span)
}
