//! The warm pool: machines that were restored ahead of time, ran a command each, and wait to be somebody's; and behind them, for whoever comes
//! while there is none, QEMUs that wait for their guest (`crate::standby`), which are made in a tenth of the time.
//!
//! One task (`task.rs`) owns the pool and does what a pure [`Policy`](policy::Policy) orders, one for each stage; each machine has a keeper
//! (`keeper.rs`) that asks it now and then whether it lives, and hands it over. What must stay true:
//!
//! - *A machine is handed out once.* A keeper gives what it keeps away by value. What is claimed and not taken comes back unchanged.
//! - *Claims never wait for the pool,* and never fail because of it: whoever gets nothing, or something that dies, restores as ever.
//! - *The pool comes last.* It makes nothing while as many creations as there are processors go on that somebody waits for, or while the
//!   host's memory is short; then it gives back what it has.
//!
//! A machine keeps the id that it was restored with, and so do its directory, the user and jail of its QEMU, the paths of its sockets and all
//! that its guest was told of itself. Nobody has had that id before, so a claim has just the time and fresh entropy to bring, or a guest, and nothing is
//! ever renamed under a running QEMU.

mod keeper;
mod policy;
mod task;

use std::time::{Duration, Instant};

use hearth_vmm::{CpuCount, MemoryMib};
use tokio::sync::{mpsc, oneshot, watch};

use crate::fleet::Gate;
use crate::{AcceleratorChoice, DiskMib, Engine, EngineError, Given, Sandbox, SandboxSpec, StartFrom};
use keeper::{Kept, Stamp};

/// The messages that wait for the pool's task.
const INBOX: usize = 64;

/// How much a pool may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Ready machines of each kind that has been asked for; 0 for no pool.
    pub ready: usize,
    /// QEMUs of each kind that wait for their guest.
    pub standby: usize,
    /// Kinds: those that were asked for last.
    pub kinds: usize,
    /// The most that are made at once, less the creations that go on.
    pub at_once: usize,
    /// How long a kind is kept that nobody asks for.
    pub idle: Duration,
    /// Memory of the host's that is to stay free, in MiB.
    pub floor_mib: u64,
}

impl PoolLimits {
    /// What suits this host: of each of the last two kinds one machine, and two QEMUs.
    pub fn of_host() -> Self {
        let at_once = std::thread::available_parallelism().map_or(1, usize::from);
        let floor_mib = crate::preflight::total_memory_mib().map_or(256, |mib| (mib / 16).max(256));
        Self { ready: 1, standby: 2, kinds: 2, at_once, idle: Duration::from_secs(600), floor_mib }
    }
}

/// What makes machines alike: any of a kind will do for whoever asks for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolKind {
    /// The image's digest.
    pub image: String,
    /// Processors.
    pub cpus: CpuCount,
    /// Memory.
    pub memory: MemoryMib,
    /// The disk.
    pub disk: Option<DiskMib>,
    /// What was to run it.
    pub accelerator: AcceleratorChoice,
}

impl PoolKind {
    /// The kind of a sandbox; `None` for one that cannot come from a pool. The rest of what its template depends on is one and the same for
    /// as long as a process lives, but for the QEMU, at whose file a keeper looks.
    fn of(spec: &SandboxSpec, engine: &Engine) -> Option<Self> {
        if spec.start != StartFrom::Template || spec.dialects.is_some() {
            return None;
        }
        // One that is not there is refused by whoever makes the sandbox.
        let image = engine.find_image(&spec.image).ok()?.digest.as_str().to_owned();
        let SandboxSpec { cpus, memory, disk, accelerator, .. } = *spec;
        Some(Self { image, cpus, memory, disk, accelerator })
    }

    fn spec(&self) -> SandboxSpec {
        let Self { image, cpus, memory, disk, accelerator } = self.clone();
        SandboxSpec { image, cpus, memory, disk, accelerator, ..SandboxSpec::default() }
    }
}

/// What a pool has, and has done since its process began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolStatus {
    /// The limits.
    pub limits: PoolLimits,
    /// The kinds that are kept; the one asked for last comes first.
    pub kinds: Vec<PoolShelf>,
    /// Whether it holds nothing because the host's memory is short.
    pub is_pressed: bool,
    /// The counts.
    pub counts: PoolCounts,
}

impl PoolStatus {
    /// What it has, of all kinds.
    pub(crate) fn count(&self) -> usize {
        self.kinds.iter().map(|shelf| shelf.ready + shelf.standby).sum()
    }
}

/// What a pool has of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolShelf {
    /// The kind.
    pub kind: PoolKind,
    /// Machines that are ready.
    pub ready: usize,
    /// QEMUs that wait for their guest.
    pub standby: usize,
    /// How many of either are being made.
    pub making: usize,
}

/// What a pool has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolCounts {
    /// Ready machines handed out.
    pub claimed: u64,
    /// QEMUs handed out that waited for their guest, where there was no ready machine.
    pub standby: u64,
    /// Requests for which there was neither.
    pub missed: u64,
    /// What was made, of either.
    pub made: u64,
    /// What could not be made.
    pub failed: u64,
    /// What died while it waited, or was left behind by an upgrade of QEMU.
    pub lost: u64,
    /// What was let go: nobody wanted it, or the memory was short.
    pub drained: u64,
}

/// What the pool's task is told.
enum Message {
    Claim { kind: PoolKind, reply: oneshot::Sender<Option<Claimed>> },
    GiveBack { kind: PoolKind, kept: Kept, stamp: Stamp },
    End(oneshot::Sender<()>),
}

/// A pool, for whoever wants something of it.
#[derive(Debug)]
pub(crate) struct Pool {
    inbox: mpsc::Sender<Message>,
    status: watch::Receiver<PoolStatus>,
}

impl Pool {
    /// Begins one. Needs a tokio runtime.
    pub(crate) fn start(engine: Engine, limits: PoolLimits, gate: &Gate) -> Self {
        let (sender, inbox) = mpsc::channel(INBOX);
        let counts = PoolCounts::default();
        let status = watch::Sender::new(PoolStatus { limits, kinds: Vec::new(), is_pressed: false, counts });
        let pool = Self { inbox: sender.clone(), status: status.subscribe() };
        tokio::spawn(task::Task::new(engine, limits, gate.busy(), sender.downgrade(), status).run(inbox));
        pool
    }

    /// Hands out a ready machine for such a sandbox, else a QEMU that waits, and notes that it was asked for.
    pub(crate) async fn claim(&self, spec: &SandboxSpec, engine: &Engine) -> Option<Claimed> {
        let kind = PoolKind::of(spec, engine)?;
        let (reply, given) = oneshot::channel();
        self.inbox.send(Message::Claim { kind, reply }).await.ok()?;
        given.await.ok()?
    }

    pub(crate) fn status(&self) -> PoolStatus {
        self.status.borrow().clone()
    }

    pub(crate) fn follow(&self) -> watch::Receiver<PoolStatus> {
        self.status.clone()
    }

    /// Lets go of all there is, and waits until nothing of it is left.
    pub(crate) async fn end(&self) {
        let (reply, ended) = oneshot::channel();
        if self.inbox.send(Message::End(reply)).await.is_ok() {
            let _ = ended.await;
        }
    }
}

/// What was handed out. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Claimed {
    kept: Option<(PoolKind, Kept, Stamp)>,
    pool: mpsc::WeakSender<Message>,
}

impl Claimed {
    /// The id that the sandbox has.
    pub(crate) fn id(&self) -> &crate::SandboxId {
        let (_, kept, _) = self.kept.as_ref().expect("only taking it and dropping it leave nothing");
        kept.id()
    }

    /// Whether its guest has yet to begin.
    pub(crate) fn is_standby(&self) -> bool {
        matches!(self.kept, Some((_, Kept::Standby(_), _)))
    }

    /// Makes it the caller's, who has asked for it at `begun`: brings it the time, fresh entropy and what its programs are given. One that does
    /// not answer is removed.
    ///
    /// # Errors
    /// [`EngineError::Channel`], and of a guest that has yet to begin those of [`Engine::create`].
    pub(crate) async fn take(mut self, begun: Instant, given: &Given) -> Result<Sandbox, EngineError> {
        let (_, kept, _) = self.kept.take().expect("only taking it and dropping it leave nothing");
        match kept {
            Kept::Ready(mut sandbox) => match sandbox.claim(begun, given).await {
                Ok(()) => Ok(*sandbox),
                Err(error) => {
                    sandbox.remove().await;
                    Err(error)
                }
            },
            Kept::Standby(standby) => standby.take(begun, given).await,
        }
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let (Some((kind, kept, stamp)), Some(pool)) = (self.kept.take(), self.pool.upgrade()) else { return };
        // Where the pool has no place for it, it is dropped and gone.
        let _ = pool.try_send(Message::GiveBack { kind, kept, stamp });
    }
}
