//! The one task of a sandbox. It owns the sandbox, and alone takes it from state to state.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tracing::Span;

use super::work::{self, Body, Done, Job, Order, Origin, PauseReport, Remains, Reply};
use super::{
    About, FleetError, Happening, IdleAction, IdlePolicy, Input, Lifecycle, Member, Refused, Removal, Share, State,
    Work, idle, reclaim,
};
use crate::adopt::Adopted;
use crate::store::Kept;
use crate::{EngineError, Paused, Sandbox, StopReport, Stopped, chain};

/// What a task is asked.
#[derive(Debug)]
pub(super) enum Message {
    /// What its console last said.
    Console(oneshot::Sender<String>),
    /// The number of its machine's process, if it has one.
    Machine(oneshot::Sender<Option<u32>>),
    /// The host's memory is short, and it is not used.
    GiveWay,
    /// To have it outlive this process.
    Keep(Reply<()>),
    /// To do something with the whole of the sandbox, as a part of what the span stands for.
    Order(Order, Span),
}

/// What happens next.
enum Next {
    Done(Done),
    Ended(String),
    Remove(Removal),
    Idle(IdlePolicy),
    Message(Message),
}

/// A sandbox's task.
pub(super) struct Task {
    member: Member,
    life: Lifecycle,
    inbox: mpsc::Receiver<Message>,
    removal: watch::Receiver<Option<Removal>>,
    expires: watch::Receiver<Option<(Instant, SystemTime)>>,
    idleness: idle::Watch,
    /// There while no work has it in hand.
    body: Option<Body>,
    job: Option<Job>,
    creator: Option<oneshot::Sender<Result<(), EngineError>>>,
    /// Whether it was left to the next process.
    let_go: bool,
}

impl Task {
    pub(super) fn new(
        member: Member,
        origin: Origin,
        inbox: mpsc::Receiver<Message>,
        creator: oneshot::Sender<Result<(), EngineError>>,
    ) -> Self {
        Self {
            life: if matches!(origin, Origin::Left(..)) { Lifecycle::adopt() } else { Lifecycle::begin() },
            inbox,
            removal: member.entry.removal.subscribe(),
            expires: member.entry.expires.subscribe(),
            idleness: idle::Watch::new(&member.entry),
            body: None,
            job: Some(work::create(&member, origin)),
            creator: Some(creator),
            let_go: false,
            member,
        }
    }

    /// Runs until nothing of the sandbox is left, or it is left to the next process.
    pub(super) async fn run(mut self) {
        while self.life.state() != State::Removed && !self.let_go {
            match self.next().await {
                Next::Done(done) => {
                    self.job = None;
                    self.finish(done);
                }
                Next::Ended(how) => self.failed(Input::MachineEnded, format!("its machine has ended: {how}")),
                // It may have been asked for while work was waited for: see `next`.
                Next::Remove(Removal::Ending) if self.is_held_up() => {}
                Next::Remove(Removal::Ending) if self.lasts() => self.let_go(),
                Next::Remove(why) => self.remove(why),
                Next::Idle(policy) => self.idle(policy),
                Next::Message(Message::Console(reply)) => {
                    let tail = self.running().map(|sandbox| sandbox.console_tail());
                    // Whoever no longer waits needs no answer.
                    let _ = reply.send(tail.unwrap_or_default());
                }
                Next::Message(Message::Machine(reply)) => {
                    let _ = reply.send(self.running().map(|sandbox| sandbox.machine().pid()));
                }
                Next::Message(Message::Order(order, asked)) => asked.in_scope(|| self.take(order, None)),
                Next::Message(Message::GiveWay) => self.give_way(),
                Next::Message(Message::Keep(reply)) => tell(reply, self.keep()),
            }
        }
    }

    async fn next(&mut self) -> Next {
        let state = self.life.state();
        let sandbox = match &self.body {
            Some(Body::Running(sandbox)) if state == State::Running => Some(sandbox),
            _ => None,
        };
        let is_held_up = self.is_held_up();
        tokio::select! {
            done = work(&mut self.job) => Next::Done(done),
            why = wanted(&mut self.removal), if state != State::Removing && !is_held_up => Next::Remove(why),
            () = expired(&mut self.expires), if state != State::Removing => Next::Remove(Removal::Expired),
            how = ended(sandbox.map(Arc::as_ref)) => Next::Ended(how),
            policy = self.idleness.idle(sandbox.map(|sandbox| sandbox.share_channel())) => Next::Idle(policy),
            Some(message) = self.inbox.recv() => Next::Message(message),
        }
    }

    /// Whether the end of the process has to wait: work that goes on comes to its end first, where there is something to leave to the next.
    fn is_held_up(&self) -> bool {
        *self.removal.borrow() == Some(Removal::Ending) && self.lasts() && self.life.state().is_passing()
    }

    /// Whether there is something of it that the next process can take over.
    fn lasts(&self) -> bool {
        self.member.entry.lasts() && self.member.shared.store.is_some() && self.life.state() != State::Creating
    }

    /// Whether it is known what its memory lies on.
    fn can_be_paused(&self) -> bool {
        self.running().is_some_and(|sandbox| sandbox.lies_on().is_ok())
    }

    fn running(&self) -> Option<&Arc<Sandbox>> {
        match &self.body {
            Some(Body::Running(sandbox)) => Some(sandbox),
            _ => None,
        }
    }

    fn finish(&mut self, done: Done) {
        match done {
            Done::Created(created) => self.created(*created),
            Done::Adopted(adopted, told) => self.adopted(*adopted, told),
            Done::NotForked => self.step(Input::CreateFailed, Some("the fork came to nothing".to_owned())),
            Done::Paused(paused, reply) => self.paused(*paused, reply),
            Done::Resumed(resumed, reply) => self.resumed(*resumed, reply),
            Done::Stopped(stopped, reply) => self.stopped(*stopped, reply),
            Done::Started(started, reply) => self.started(*started, reply),
            Done::Forked(forked, reply) => {
                self.step(Input::Captured, None);
                tell(reply, forked.map_err(FleetError::from));
            }
            Done::Saved(saved, reply) => {
                self.step(Input::Captured, None);
                tell(reply, saved.map_err(FleetError::from));
            }
            Done::Removed => {
                let why = *self.removal.borrow();
                self.step(Input::RemoveDone, why.map(|why| why.reason().to_owned()));
            }
        }
    }

    fn created(&mut self, created: Result<Sandbox, EngineError>) {
        let outcome = match created {
            Ok(sandbox) => {
                self.body = Some(Body::Running(Arc::new(sandbox)));
                self.step(Input::Created, None);
                Ok(())
            }
            Err(error) => {
                self.step(Input::CreateFailed, Some(chain(&error)));
                Err(error)
            }
        };
        if let Some(creator) = self.creator.take() {
            // One that is gone has had the sandbox removed.
            let _ = creator.send(outcome);
        }
    }

    fn adopted(&mut self, adopted: Result<Adopted, EngineError>, mut told: Vec<String>) {
        match adopted {
            Ok(Adopted::Running(sandbox, what)) => {
                told.extend(what.map(str::to_owned));
                self.body = Some(Body::Running(Arc::new(*sandbox)));
                // Where that cannot be noted, the next process finds its machine all the same.
                let _ = self.member.shared.keep_state(&self.member.entry, &Kept::Running);
                self.step(Input::FoundRunning, None);
            }
            Ok(Adopted::Paused(paused)) => {
                self.body = Some(Body::Paused(paused));
                self.step(Input::FoundPaused, None);
            }
            Ok(Adopted::Stopped(stopped)) => {
                self.body = Some(Body::Stopped(stopped));
                self.step(Input::FoundStopped, None);
            }
            Ok(Adopted::Lost(stopped, why)) => {
                self.body = Some(Body::Stopped(stopped));
                self.failed(Input::Lost, why);
            }
            Err(error) => self.failed(Input::Lost, chain(&error)),
        }
        self.member.note_adopted(told);
    }

    /// Notes that its machine is gone, and why. Where that cannot be noted, the next process finds it so.
    fn failed(&mut self, input: Input, why: String) {
        let Member { entry, shared } = &self.member;
        let _ = shared.keep_state(entry, &Kept::Failed(why.clone()));
        self.step(input, Some(why));
    }

    /// Notes that it is there, as is done beforehand with one that is bound to nothing.
    fn keep(&self) -> Result<(), FleetError> {
        let Member { entry, shared } = &self.member;
        let state = self.life.state();
        let sandbox = self.running().filter(|_| matches!(state, State::Running | State::Capturing));
        let sandbox = sandbox.ok_or_else(|| self.member.refused(state, Input::Capture))?;
        entry.set_lasts(true);
        let kept = shared.keep([(&**entry, &**sandbox)].into_iter());
        kept.map_err(|source| {
            entry.set_lasts(false);
            EngineError::from(source).into()
        })
    }

    /// Leaves it to the next process.
    fn let_go(&mut self) {
        if let Some(body) = self.body.take() {
            body.let_go();
        }
        self.let_go = true;
        let Member { entry, shared } = &self.member;
        entry.ports.close();
        entry.status.send_modify(|status| status.channel = None);
        let mut registry = shared.registry();
        registry.release(&entry.id);
        shared.population.send_replace(registry.len());
    }

    fn paused(&mut self, paused: Result<Paused, crate::Refused<Sandbox>>, reply: Option<Reply<PauseReport>>) {
        let outcome = match paused {
            Ok(paused) => {
                let report = PauseReport { took: paused.took(), saved_bytes: paused.saved_bytes() };
                self.body = Some(Body::Paused(Box::new(paused)));
                // Why it was begun is why it is.
                let why = self.member.entry.status.borrow().reason.clone().filter(|_| reply.is_none());
                self.step(Input::Paused, why);
                Ok(report)
            }
            Err(crate::Refused { sandbox, error }) => {
                self.body = Some(Body::Running(Arc::new(sandbox)));
                self.step(Input::PauseFailed, Some(format!("it could not be paused: {}", chain(&error))));
                Err(error.into())
            }
        };
        if let Some(reply) = reply {
            tell(reply, outcome);
        }
    }

    fn resumed(&mut self, resumed: Result<Sandbox, crate::Refused<Paused>>, reply: Reply<()>) {
        let outcome = match resumed {
            Ok(sandbox) => {
                self.body = Some(Body::Running(Arc::new(sandbox)));
                self.step(Input::Resumed, None);
                Ok(())
            }
            Err(crate::Refused { sandbox, error }) => {
                self.body = Some(Body::Paused(Box::new(sandbox)));
                self.step(Input::ResumeFailed, Some(format!("it could not be resumed: {}", chain(&error))));
                Err(error.into())
            }
        };
        tell(reply, outcome);
    }

    fn stopped(&mut self, stopped: Result<(Stopped, StopReport), crate::Refused<Sandbox>>, reply: Reply<StopReport>) {
        let outcome = match stopped {
            Ok((stopped, report)) => {
                self.body = Some(Body::Stopped(Box::new(stopped)));
                self.member.unpublish_services();
                self.step(Input::Stopped, report.unclean.clone());
                Ok(report)
            }
            Err(crate::Refused { sandbox, error }) => {
                self.body = Some(Body::Running(Arc::new(sandbox)));
                self.step(Input::StopFailed, Some(format!("it could not be stopped: {}", chain(&error))));
                Err(error.into())
            }
        };
        tell(reply, outcome);
    }

    fn started(&mut self, started: Result<Sandbox, crate::Refused<Stopped>>, reply: Reply<()>) {
        let outcome = match started {
            Ok(sandbox) => {
                self.body = Some(Body::Running(Arc::new(sandbox)));
                // Another machine runs it.
                self.member.entry.status.send_modify(|status| status.about = None);
                self.step(Input::Started, None);
                Ok(())
            }
            Err(crate::Refused { sandbox, error }) => {
                self.body = Some(Body::Stopped(Box::new(sandbox)));
                let Member { entry, shared } = &self.member;
                // It may have failed before. Where that cannot be noted, the next process finds it so, and can start it all the same.
                let _ = shared.keep_state(entry, &Kept::Stopped);
                self.step(Input::StartFailed, Some(format!("it could not be started: {}", chain(&error))));
                Err(error.into())
            }
        };
        tell(reply, outcome);
    }

    /// Does what is asked, if the state allows it.
    fn take(&mut self, order: Order, reason: Option<String>) {
        let input = order.input();
        match self.allow(&order) {
            Ok(()) => {
                // It was just looked at.
                let _ = self.life.take(input);
                self.begin(order, reason);
            }
            Err(error) => order.refuse(error),
        }
    }

    /// Refuses what cannot be. A sandbox without a machine takes none of the memory that all may have; one that goes on or starts does again.
    fn allow(&self, order: &Order) -> Result<(), FleetError> {
        let Member { entry, shared } = &self.member;
        self.life.allows(order.input()).map_err(|source| self.member.refused(source.state, source.input))?;
        if matches!(order, Order::Stop { .. } | Order::Start { .. }) && entry.spec.disk.is_none() {
            return Err(EngineError::NoDisk.into());
        }
        if matches!(order, Order::Resume(_) | Order::Start { .. }) {
            shared.registry().charge(&entry.id, Share::of(&entry.spec))?;
        }
        Ok(())
    }

    fn begin(&mut self, order: Order, reason: Option<String>) {
        let shared = self.member.shared.clone();
        let job = match (order, self.body.take()) {
            (Order::Pause(reply), Some(Body::Running(sandbox))) => {
                Arc::into_inner(sandbox).map(|sandbox| work::pause(&self.member, sandbox, reply))
            }
            (Order::Resume(reply), Some(Body::Paused(paused))) => Some(work::resume(&self.member, *paused, reply)),
            (Order::Stop { grace, reply }, Some(Body::Running(sandbox))) => {
                Arc::into_inner(sandbox).map(|sandbox| work::stop(&self.member, sandbox, grace, reply))
            }
            (Order::Start { secrets, reply }, Some(Body::Stopped(stopped))) => {
                Some(work::start(&self.member, Remains::Stopped(stopped), secrets, reply))
            }
            (Order::Start { secrets, reply }, Some(Body::Running(sandbox))) => Arc::into_inner(sandbox)
                .map(|sandbox| work::start(&self.member, Remains::Failed(Box::new(sandbox)), secrets, reply)),
            (Order::Fork { copies, secrets, reply }, Some(Body::Running(sandbox))) => {
                self.body = Some(Body::Running(sandbox.clone()));
                Some(work::fork(shared, sandbox, copies, secrets, reply))
            }
            (Order::Snapshot { name, reply }, Some(Body::Running(sandbox))) => {
                self.body = Some(Body::Running(sandbox.clone()));
                Some(work::snapshot(shared, sandbox, name, reply))
            }
            (_, body) => {
                self.body = body;
                None
            }
        };
        debug_assert!(job.is_some(), "the state says which body there is, and that nobody else holds it");
        self.job = job;
        self.publish(reason);
    }

    /// Does what the policy says, unless somebody has just begun to use it.
    fn idle(&mut self, policy: IdlePolicy) {
        self.idleness.begin_anew();
        let entry = &self.member.entry;
        match policy.action {
            IdleAction::Remove if entry.leave_unused(State::Removing) => self.remove(Removal::Idle),
            IdleAction::Pause if self.can_be_paused() && entry.leave_unused(State::Pausing) => {
                self.take(Order::Pause(None), Some(Removal::Idle.reason().to_owned()));
            }
            _ => {}
        }
    }

    /// Pauses it for the sake of others, unless somebody has just begun to use it.
    fn give_way(&mut self) {
        if self.life.state() == State::Running && self.can_be_paused() && self.member.entry.leave_unused(State::Pausing)
        {
            self.take(Order::Pause(None), Some(reclaim::REASON.to_owned()));
        }
    }

    fn remove(&mut self, why: Removal) {
        self.member.begin_removal(why);
        self.step(Input::Remove, Some(why.reason().to_owned()));
    }

    /// Takes a step, publishes where it led, and begins a removal that belongs to it.
    fn step(&mut self, input: Input, reason: Option<String>) {
        let before = self.life.state();
        let begun = match self.life.take(input) {
            Ok(work) => work,
            // What comes of work fits the state that the work began with, and nothing refuses a removal.
            Err(Refused { .. }) => return,
        };
        if begun == Some(Work::Remove) {
            self.begin_removal();
        }
        if self.life.state() != before {
            self.publish(reason);
        }
    }

    fn begin_removal(&mut self) {
        // What is given up undoes itself. It goes first, since it may share the sandbox.
        self.job = None;
        self.creator = None;
        let body = self.body.take();
        self.member.shared.forget(&self.member.entry);
        self.job = Some(Box::pin(async move {
            if let Some(body) = body {
                body.remove().await;
            }
            Done::Removed
        }));
    }

    fn publish(&mut self, reason: Option<String>) {
        let state = self.life.state();
        let Member { entry, shared } = &self.member;
        let name = shared.registry().name(&entry.id);
        if !state.has_machine() {
            shared.registry().set_memory(&entry.id, 0);
            shared.line.freed();
        }
        if state == State::Removed {
            // The name is free before anybody learns that its bearer is gone.
            let mut registry = shared.registry();
            registry.release(&entry.id);
            shared.population.send_replace(registry.len());
            shared.line.freed();
        }
        if entry.is_over(state) {
            entry.ports.close();
        }
        if state == State::Running {
            self.idleness.begin_anew();
        }
        entry.status.send_modify(|status| {
            status.state = state;
            status.since = SystemTime::now();
            status.reason.clone_from(&reason);
            status.saved_bytes = None;
            match (&self.body, state) {
                (Some(Body::Running(sandbox)), State::Running) => {
                    status.channel = Some(sandbox.share_channel());
                    status.can_be_paused = sandbox.lies_on().is_ok();
                    status.about.get_or_insert_with(|| Arc::new(about(sandbox)));
                }
                (_, State::Capturing) => {}
                (body, _) => {
                    status.channel = None;
                    if let Some(Body::Paused(paused)) = body {
                        status.saved_bytes = Some(paused.saved_bytes());
                    }
                }
            }
        });
        shared.events.add(&entry.id, name, Happening::State { state, reason });
    }
}

/// Whoever no longer waits need not be told.
fn tell<T>(reply: Reply<T>, outcome: Result<T, FleetError>) {
    let _ = reply.send(outcome);
}

async fn work(job: &mut Option<Job>) -> Done {
    match job {
        Some(job) => job.await,
        None => std::future::pending().await,
    }
}

async fn wanted(removal: &mut watch::Receiver<Option<Removal>>) -> Removal {
    let why = removal.wait_for(Option::is_some).await.ok().and_then(|why| *why);
    // The sender is in the entry, which the task itself holds.
    why.unwrap_or(Removal::Abandoned)
}

async fn expired(expires: &mut watch::Receiver<Option<(Instant, SystemTime)>>) {
    loop {
        let at = expires.borrow_and_update().map(|(at, _)| at);
        let over = async {
            match at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => return,
            Ok(()) = expires.changed() => {}
        }
    }
}

async fn ended(sandbox: Option<&Sandbox>) -> String {
    match sandbox {
        Some(sandbox) => sandbox.ended().await,
        None => std::future::pending().await,
    }
}

fn about(sandbox: &Sandbox) -> About {
    About {
        accelerator: sandbox.accelerator(),
        board: sandbox.board(),
        jail_warning: sandbox.jail().warning(),
        failed_before: sandbox.failed_before().to_vec(),
        phases: sandbox.phases().to_vec(),
    }
}
