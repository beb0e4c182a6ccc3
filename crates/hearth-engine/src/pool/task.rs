//! The one task of a pool.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use hearth_protocol::{Command, Delivery, Start};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::Instrument;

use super::keeper::{Kept, Outcome, Stamp, Wanted, keep};
use super::policy::{Host, Number, Order, Policy};
use super::{Claimed, Message, PoolCounts, PoolKind, PoolLimits, PoolShelf, PoolStatus};
use crate::preflight::needed_memory;
use crate::pressure::Pressure;
use crate::{Engine, EngineError, Sandbox, SandboxId};

/// How often the host's memory is looked at while there is something to give back.
const LOOK: Duration = Duration::from_secs(5);

/// What a machine runs before it is ready, so that the caller's command is not the one for which QEMU translates the code of starting one.
const THROWAWAY: &str = "true";
/// How often: the second still finds code that was not translated, such as what tidies up behind the first.
const THROWAWAYS: usize = 6;

/// A bound on it: what hangs then does not answer either.
const PATIENCE: Duration = Duration::from_secs(60);

/// How far a machine of the pool's is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Ready,
    Standby,
}

/// Work that has come to an end.
enum Done {
    Made(Stage, PoolKind, Result<Kept, EngineError>),
    Kept(Stage, Number, Outcome),
}

enum Next {
    Told(Message),
    Done(Done),
    /// Something may be to be done.
    Look,
    End(Option<oneshot::Sender<()>>),
}

/// The task.
pub(super) struct Task {
    engine: Engine,
    ready: Policy<PoolKind>,
    standby: Policy<PoolKind>,
    limits: PoolLimits,
    /// Creations that somebody waits for.
    busy: watch::Receiver<usize>,
    back: mpsc::WeakSender<Message>,
    status: watch::Sender<PoolStatus>,
    begun: Instant,
    keepers: HashMap<Number, (oneshot::Sender<Wanted>, Stamp)>,
    last: Number,
    makes: JoinSet<Done>,
    keeping: JoinSet<Done>,
    counts: PoolCounts,
    is_pressed: bool,
}

impl Task {
    pub(super) fn new(
        engine: Engine,
        limits: PoolLimits,
        busy: watch::Receiver<usize>,
        back: mpsc::WeakSender<Message>,
        status: watch::Sender<PoolStatus>,
    ) -> Self {
        Self {
            engine,
            ready: Policy::new(limits),
            standby: Policy::new(PoolLimits { ready: limits.standby, ..limits }),
            limits,
            busy,
            back,
            status,
            begun: Instant::now(),
            keepers: HashMap::new(),
            last: 0,
            makes: JoinSet::new(),
            keeping: JoinSet::new(),
            counts: PoolCounts::default(),
            is_pressed: false,
        }
    }

    /// Runs until it is told to end, or nobody is left who could tell it anything.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Message>) {
        loop {
            match self.next(&mut inbox).await {
                Next::Told(Message::Claim { kind, reply }) => self.claim(kind, reply),
                Next::Told(Message::GiveBack { kind, kept, stamp }) => self.put(&kind, kept, stamp),
                Next::Told(Message::End(reply)) => return self.end(inbox, Some(reply)).await,
                Next::End(reply) => return self.end(inbox, reply).await,
                Next::Done(done) => self.finish(done),
                Next::Look => {}
            }
            self.obey();
            self.publish();
        }
    }

    async fn next(&mut self, inbox: &mut mpsc::Receiver<Message>) -> Next {
        let wake = self.wake();
        let waiting = async {
            match wake {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Whoever claims is served first.
            biased;
            message = inbox.recv() => message.map_or(Next::End(None), Next::Told),
            Some(done) = self.keeping.join_next() => done.map_or(Next::Look, Next::Done),
            Some(done) = self.makes.join_next() => done.map_or(Next::Look, Next::Done),
            Ok(()) = self.busy.changed() => Next::Look,
            () = waiting => Next::Look,
        }
    }

    fn policy(&mut self, stage: Stage) -> &mut Policy<PoolKind> {
        match stage {
            Stage::Ready => &mut self.ready,
            Stage::Standby => &mut self.standby,
        }
    }

    /// When to look again: when the policies say so, and at the host's memory while there is something to give back or to make.
    fn wake(&self) -> Option<Instant> {
        let own = [&self.ready, &self.standby].into_iter().filter_map(|policy| policy.next(self.begun.elapsed())).min();
        let look = (!self.ready.shelves().is_empty()).then(|| Instant::now() + LOOK);
        [own.map(|at| self.begun + at), look].into_iter().flatten().min()
    }

    /// Notes the use, and hands out the first that is there and lives.
    fn claim(&mut self, kind: PoolKind, reply: oneshot::Sender<Option<Claimed>>) {
        let now = self.begun.elapsed();
        [Stage::Ready, Stage::Standby].into_iter().for_each(|stage| self.policy(stage).used(&kind, now));
        let (to, given) = oneshot::channel();
        let Some(stamp) = self.ask_for(&kind, to) else {
            self.counts.missed += 1;
            // Whoever no longer waits needs no answer.
            let _ = reply.send(None);
            return;
        };
        let pool = self.back.clone();
        tokio::spawn(async move {
            match given.await {
                Ok(kept) => drop(reply.send(Some(Claimed { kept: Some((kind, kept, stamp)), pool }))),
                // It has just died. There may be another.
                Err(_) => {
                    if let Some(pool) = pool.upgrade() {
                        let _ = pool.send(Message::Claim { kind, reply }).await;
                    }
                }
            }
        });
    }

    /// Asks the keepers of a kind, one after another, until one is there.
    fn ask_for(&mut self, kind: &PoolKind, mut to: oneshot::Sender<Kept>) -> Option<Stamp> {
        for stage in [Stage::Ready, Stage::Standby] {
            while let Some(number) = self.policy(stage).claim(kind) {
                let Some((keeper, stamp)) = self.keepers.remove(&number) else { continue };
                match keeper.send(Wanted::Give(to)) {
                    Ok(()) => {
                        match stage {
                            Stage::Ready => self.counts.claimed += 1,
                            Stage::Standby => self.counts.standby += 1,
                        }
                        return Some(stamp);
                    }
                    Err(Wanted::Give(unused)) => to = unused,
                    Err(Wanted::Remove) => return None,
                }
            }
        }
        None
    }

    fn put(&mut self, kind: &PoolKind, kept: Kept, stamp: Stamp) {
        self.last += 1;
        let number = self.last;
        let stage = match kept {
            Kept::Ready(_) => Stage::Ready,
            Kept::Standby(_) => Stage::Standby,
        };
        let (keeper, wanted) = oneshot::channel();
        self.keepers.insert(number, (keeper, stamp.clone()));
        self.keeping.spawn(async move { Done::Kept(stage, number, keep(kept, stamp, wanted).await) });
        if let Some(order) = self.policy(stage).put(kind, number) {
            self.carry_out(stage, order);
        }
    }

    fn finish(&mut self, done: Done) {
        match done {
            Done::Made(stage, kind, made) => {
                let now = self.begun.elapsed();
                self.policy(stage).made(&kind, made.is_ok(), now);
                match made {
                    Ok(kept) => {
                        self.counts.made += 1;
                        let stamp = Stamp::of(kept.qemu_path().unwrap_or(Path::new("")).to_owned());
                        self.put(&kind, kept, stamp);
                    }
                    // It is tried again later; a caller who is refused the same learns why.
                    Err(_) => self.counts.failed += 1,
                }
            }
            Done::Kept(stage, number, outcome) => {
                self.keepers.remove(&number);
                self.policy(stage).lost(number);
                self.counts.lost += u64::from(outcome == Outcome::Lost);
            }
        }
    }

    fn obey(&mut self) {
        let pressure = Pressure::now();
        let floor = self.limits.floor_mib << 20;
        let largest = self.ready.shelves().iter().map(|shelf| needed_memory(shelf.kind.memory)).max();
        self.is_pressed = pressure.is_short(floor);
        let mut room = pressure.room_for(largest.unwrap_or(0), floor);
        let busy = *self.busy.borrow_and_update();
        // What is made for either is one work, and takes of one room.
        for (stage, other) in [(Stage::Ready, Stage::Standby), (Stage::Standby, Stage::Ready)] {
            let host = Host { is_pressed: self.is_pressed, busy: busy + self.policy(other).making(), room };
            let now = self.begun.elapsed();
            for order in self.policy(stage).orders(now, host) {
                room = room.saturating_sub(usize::from(matches!(order, Order::Make(_))));
                self.carry_out(stage, order);
            }
        }
    }

    fn carry_out(&mut self, stage: Stage, order: Order<PoolKind>) {
        match order {
            Order::Make(kind) => {
                let engine = self.engine.clone();
                self.makes.spawn(async move {
                    let made = match stage {
                        Stage::Ready => make(&engine, &kind).await.map(Kept::Ready),
                        Stage::Standby => {
                            let (spec, span) = (kind.spec(), tracing::info_span!("make standby"));
                            engine.stand_by(&spec).instrument(span).await.map(|made| Kept::Standby(Box::new(made)))
                        }
                    };
                    Done::Made(stage, kind, made)
                });
            }
            Order::Drop(number) => {
                if let Some((keeper, _)) = self.keepers.remove(&number) {
                    self.counts.drained += 1;
                    let _ = keeper.send(Wanted::Remove);
                }
            }
        }
    }

    fn publish(&self) {
        let kinds = self.ready.shelves().iter().rev().map(|shelf| {
            let standby = self.standby.shelves().iter().find(|other| other.kind == shelf.kind);
            PoolShelf {
                kind: shelf.kind.clone(),
                ready: shelf.ready.len(),
                standby: standby.map_or(0, |other| other.ready.len()),
                making: shelf.making + standby.map_or(0, |other| other.making),
            }
        });
        let (limits, is_pressed, counts) = (self.limits, self.is_pressed, self.counts);
        let status = PoolStatus { limits, kinds: kinds.collect(), is_pressed, counts };
        self.status.send_if_modified(|known| {
            let changed = *known != status;
            *known = status;
            changed
        });
    }

    /// Lets go of everything. What is being made is dropped, and undoes itself.
    async fn end(mut self, mut inbox: mpsc::Receiver<Message>, reply: Option<oneshot::Sender<()>>) {
        inbox.close();
        for (_, (keeper, _)) in self.keepers.drain() {
            let _ = keeper.send(Wanted::Remove);
        }
        while let Some(message) = inbox.recv().await {
            if let Message::GiveBack { kept, .. } = message {
                kept.remove().await;
            }
        }
        self.makes.shutdown().await;
        while self.keeping.join_next().await.is_some() {}
        // Whoever no longer waits needs no answer.
        reply.map(|reply| reply.send(()));
    }
}

/// Makes a machine ready.
async fn make(engine: &Engine, kind: &PoolKind) -> Result<Box<Sandbox>, EngineError> {
    let id = SandboxId::random();
    let span = tracing::info_span!("make ready", hearth.sandbox = %id);
    let sandbox = engine.create_as(id, &kind.spec()).instrument(span).await?;
    let ran = async {
        for _ in 0..THROWAWAYS {
            let mut start = Start::new(Command::Argv(vec![THROWAWAY.into()]));
            start.attach = Some(Delivery::Lossless);
            // An image may lack the program, which is no fault of the machine's.
            let Ok(process) = sandbox.channel().start(start).await else { return };
            while let Ok(Some(_)) = process.next_event().await {}
        }
    };
    let _ = timeout(PATIENCE, ran).await;
    let answered = sandbox.channel().ping().await;
    answered.map_err(|source| EngineError::Channel { what: "reach the agent of a machine for the pool", source })?;
    Ok(Box::new(sandbox))
}
