//! The one task of a sandbox. It owns the sandbox, and alone takes it from state to state.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use hearth_channel::Channel;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::{
    About, Input, Labels, Lifecycle, Lifetime, Member, Refused, Removal, SandboxName, Shared, State, View, Work, expiry,
};
use crate::pool::Claimed;
use crate::{EngineError, Sandbox, SandboxId, SandboxSpec, chain};

/// What all who know a sandbox share with its task.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: SandboxId,
    pub(super) inbox: mpsc::Sender<Message>,
    /// Why it is to go, once it is.
    pub(super) removal: watch::Sender<Option<Removal>>,
    pub(super) status: watch::Sender<Status>,
    expires: watch::Sender<Option<(Instant, SystemTime)>>,
    labels: Mutex<Labels>,
    created: SystemTime,
    spec: SandboxSpec,
}

/// What the task publishes.
#[derive(Debug, Clone)]
pub(super) struct Status {
    pub(super) state: State,
    pub(super) since: SystemTime,
    pub(super) reason: Option<String>,
    pub(super) channel: Option<Arc<Channel>>,
    pub(super) about: Option<Arc<About>>,
}

/// What a task is asked that is no step.
#[derive(Debug)]
pub(super) enum Message {
    /// What its console last said.
    Console(oneshot::Sender<String>),
}

impl Entry {
    pub(super) fn new(
        id: SandboxId,
        spec: SandboxSpec,
        labels: Labels,
        lifetime: Option<Lifetime>,
        inbox: mpsc::Sender<Message>,
    ) -> Self {
        let created = SystemTime::now();
        let status = Status { state: State::Creating, since: created, reason: None, channel: None, about: None };
        Self {
            id,
            inbox,
            removal: watch::Sender::new(None),
            status: watch::Sender::new(status),
            expires: watch::Sender::new(expiry(lifetime)),
            labels: Mutex::new(labels),
            created,
            spec,
        }
    }

    pub(super) fn view(&self, name: Option<SandboxName>) -> View {
        let Status { state, since, reason, about, .. } = self.status.borrow().clone();
        View {
            id: self.id.clone(),
            name,
            labels: self.labels.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            state,
            since,
            reason,
            created: self.created,
            expires: self.expires.borrow().map(|(_, at)| at),
            spec: self.spec.clone(),
            about,
        }
    }

    pub(super) fn change(&self, labels: Option<Labels>, lifetime: Option<Option<Lifetime>>) {
        if let Some(labels) = labels {
            *self.labels.lock().unwrap_or_else(PoisonError::into_inner) = labels;
        }
        if let Some(lifetime) = lifetime {
            self.expires.send_replace(expiry(lifetime));
        }
    }
}

/// Work that goes on. Dropping it gives it up, and with it the sandbox it has in hand.
type Job = Pin<Box<dyn Future<Output = Done> + Send>>;

/// What came of a piece of work.
enum Done {
    Created(Box<Result<Sandbox, EngineError>>),
    Removed,
}

/// What happens next.
enum Next {
    Done(Done),
    Ended(String),
    Remove(Removal),
    Message(Message),
}

/// A sandbox's task.
pub(super) struct Task {
    member: Member,
    life: Lifecycle,
    inbox: mpsc::Receiver<Message>,
    removal: watch::Receiver<Option<Removal>>,
    expires: watch::Receiver<Option<(Instant, SystemTime)>>,
    /// There while no work has it in hand.
    sandbox: Option<Sandbox>,
    job: Option<Job>,
    creator: Option<oneshot::Sender<Result<(), EngineError>>>,
}

impl Task {
    pub(super) fn new(
        member: Member,
        inbox: mpsc::Receiver<Message>,
        creator: oneshot::Sender<Result<(), EngineError>>,
        ready: Option<(std::time::Instant, Claimed)>,
    ) -> Self {
        let shared = member.shared.clone();
        let (spec, id) = (member.entry.spec.clone(), member.entry.id.clone());
        let job: Job = Box::pin(async move { Done::Created(Box::new(make(&shared, id, &spec, ready).await)) });
        Self {
            life: Lifecycle::begin(),
            inbox,
            removal: member.entry.removal.subscribe(),
            expires: member.entry.expires.subscribe(),
            sandbox: None,
            job: Some(job),
            creator: Some(creator),
            member,
        }
    }

    /// Runs until nothing of the sandbox is left.
    pub(super) async fn run(mut self) {
        while self.life.state() != State::Removed {
            match self.next().await {
                Next::Done(done) => {
                    self.job = None;
                    self.finish(done);
                }
                Next::Ended(how) => self.step(Input::MachineEnded, Some(format!("its machine has ended: {how}"))),
                Next::Remove(why) => {
                    self.member.begin_removal(why);
                    self.step(Input::Remove, Some(why.reason().to_owned()));
                }
                Next::Message(Message::Console(reply)) => {
                    let tail = self.sandbox.as_ref().map(Sandbox::console_tail);
                    // Whoever no longer waits needs no answer.
                    let _ = reply.send(tail.unwrap_or_default());
                }
            }
        }
    }

    async fn next(&mut self) -> Next {
        let state = self.life.state();
        tokio::select! {
            done = work(&mut self.job) => Next::Done(done),
            why = wanted(&mut self.removal), if state != State::Removing => Next::Remove(why),
            () = expired(&mut self.expires), if state != State::Removing => Next::Remove(Removal::Expired),
            how = ended(self.sandbox.as_ref()), if state == State::Running => Next::Ended(how),
            Some(message) = self.inbox.recv() => Next::Message(message),
        }
    }

    fn finish(&mut self, done: Done) {
        match done {
            Done::Created(created) => match *created {
                Ok(sandbox) => {
                    self.sandbox = Some(sandbox);
                    self.step(Input::Created, None);
                    self.tell_creator(Ok(()));
                }
                Err(error) => {
                    self.step(Input::CreateFailed, Some(chain(&error)));
                    self.tell_creator(Err(error));
                }
            },
            Done::Removed => {
                let why = *self.removal.borrow();
                self.step(Input::RemoveDone, why.map(|why| why.reason().to_owned()));
            }
        }
    }

    fn tell_creator(&mut self, outcome: Result<(), EngineError>) {
        if let Some(creator) = self.creator.take() {
            // One that is gone has had the sandbox removed.
            let _ = creator.send(outcome);
        }
    }

    /// Takes a step, publishes where it led, and begins the work that belongs to it.
    fn step(&mut self, input: Input, reason: Option<String>) {
        let before = self.life.state();
        let begun = match self.life.take(input) {
            Ok(work) => work,
            // Only removal comes from outside, and nothing refuses that.
            Err(Refused { .. }) => return,
        };
        if let Some(work) = begun {
            self.begin(work);
        }
        if self.life.state() != before {
            self.publish(reason);
        }
    }

    fn begin(&mut self, work: Work) {
        match work {
            Work::Remove => {
                // What is given up undoes itself: a creation, and later a pause, a resume or a capture.
                self.job = None;
                self.creator = None;
                let sandbox = self.sandbox.take();
                self.job = Some(Box::pin(async move {
                    if let Some(sandbox) = sandbox {
                        sandbox.remove().await;
                    }
                    Done::Removed
                }));
            }
            // The work takes `self.sandbox` in hand and gives it back with its `Done`. Nobody asks for these yet.
            Work::Capture | Work::Pause | Work::Resume => {}
        }
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
        entry.status.send_modify(|status| {
            status.state = state;
            status.since = SystemTime::now();
            status.reason.clone_from(&reason);
            status.channel = match state {
                State::Running => self.sandbox.as_ref().map(Sandbox::share_channel),
                State::Capturing => status.channel.take(),
                _ => None,
            };
            if let Some(sandbox) = self.sandbox.as_ref().filter(|_| state == State::Running) {
                status.about = Some(Arc::new(about(sandbox)));
            }
        });
        shared.events.add(&entry.id, name, super::Happening::State { state, reason });
    }
}

/// Makes a sandbox's machine, or takes the one that was ready. One that has died meanwhile is gone, and its id free for another.
async fn make(
    shared: &Shared,
    id: SandboxId,
    spec: &SandboxSpec,
    ready: Option<(std::time::Instant, Claimed)>,
) -> Result<Sandbox, EngineError> {
    if let Some((begun, ready)) = ready
        && let Ok(sandbox) = ready.take(begun).await
    {
        return Ok(sandbox);
    }
    let _turn = shared.gate.pass().await?;
    shared.engine.create_as(id, spec).await
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
