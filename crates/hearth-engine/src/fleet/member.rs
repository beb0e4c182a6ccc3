//! A sandbox of a fleet, as those see it who want something of it.

use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::secrets::Secret;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::Span;

use super::idle::runs_nothing;
use super::task::Message;
use super::work::{Order, Reply};
use super::{Changes, Entry, FleetError, Guest, Happening, Input, PauseReport, Refused, Removal, Shared, State, View};
use crate::{Given, LONGEST_GRACE, SandboxId, StopReport};

/// How long a guest may take to tell what runs in it.
const ANSWER: Duration = Duration::from_secs(2);

/// A sandbox of a fleet, for whoever wants something of it. Cheap to clone; it may have been removed since.
#[derive(Debug, Clone)]
pub struct Member {
    pub(super) entry: Arc<Entry>,
    pub(super) shared: Arc<Shared>,
}

impl Member {
    /// Its id.
    pub fn id(&self) -> &SandboxId {
        &self.entry.id
    }

    /// What it is at this moment.
    pub fn view(&self) -> View {
        let name = self.shared.registry().name(&self.entry.id);
        self.entry.view(name)
    }

    /// The way to its guest, as soon as there is one: waits while it is being made, and wakes it when it is paused.
    ///
    /// # Errors
    /// [`FleetError::WrongState`], [`FleetError::Removed`], and those of [`Self::resume`].
    pub async fn channel(&self) -> Result<Guest, FleetError> {
        let mut status = self.entry.status.subscribe();
        loop {
            let settled = status.wait_for(|status| {
                status.channel.is_some() || !status.state.is_passing() || status.state == State::Removing
            });
            drop(settled.await.map_err(|_| self.removed())?);
            match self.entry.enter() {
                Ok(guest) => return Ok(guest),
                Err(State::Removing | State::Removed) => return Err(self.removed()),
                Err(State::Paused) => self.wake().await?,
                // It has moved on meanwhile.
                Err(state) if state.is_passing() => {}
                Err(state) => return Err(self.refused(state, Input::Resume)),
            }
        }
    }

    /// For how long nobody has used it, if it could be paused and nothing runs in it.
    pub(super) async fn unused_for(&self) -> Option<Duration> {
        let (since, channel) = {
            let status = self.entry.status.borrow();
            let can_be = status.state == State::Running && status.can_be_paused;
            (status.since, status.channel.clone().filter(|_| can_be)?)
        };
        let unused = self.entry.uses.borrow().quiet_for()?;
        let unused = unused.min(since.elapsed().unwrap_or_default());
        let quiet = timeout(ANSWER, runs_nothing(&channel)).await;
        quiet.is_ok_and(|quiet| quiet).then_some(unused)
    }

    /// Has it paused for the sake of others, unless somebody uses it, and does not wait.
    pub(super) fn give_way(&self) {
        // A task that has so much to do is not idle.
        let _ = self.entry.inbox.try_send(Message::GiveWay);
    }

    fn removed(&self) -> FleetError {
        FleetError::Removed { sandbox: self.id().to_string() }
    }

    pub(super) fn refused(&self, state: State, input: Input) -> FleetError {
        FleetError::WrongState { sandbox: self.id().to_string(), source: Refused { state, input } }
    }

    /// Lets a paused one go on; somebody else may have done so already.
    async fn wake(&self) -> Result<(), FleetError> {
        match self.resume().await {
            Err(FleetError::WrongState { source: Refused { state, .. }, .. }) if state != State::Failed => Ok(()),
            resumed => resumed,
        }
    }

    /// Puts it on disk and ends its machine. It goes on with the next request, or when it is resumed.
    ///
    /// # Errors
    /// [`FleetError::WrongState`], [`FleetError::Removed`], [`FleetError::Engine`]: then it runs on.
    pub async fn pause(&self) -> Result<PauseReport, FleetError> {
        self.order(|reply| Order::Pause(Some(reply))).await
    }

    /// Lets it go on where it was when it was paused.
    ///
    /// # Errors
    /// [`FleetError::WrongState`], [`FleetError::Removed`]; [`FleetError::Engine`], such as for want of room: then it is paused as before.
    pub async fn resume(&self) -> Result<(), FleetError> {
        self.order(Order::Resume).await
    }

    /// Ends its guest in order: its programs get TERM, `grace`, then KILL. What is on its disk is kept, and its name, ports and all that is
    /// noted on it, but for ports of services. The report tells of a guest that had to be ended.
    ///
    /// # Errors
    /// [`FleetError::Grace`], [`FleetError::WrongState`], [`FleetError::Removed`], [`FleetError::Engine`] with [`crate::EngineError::NoDisk`]: then
    /// it runs on.
    pub async fn stop(&self, grace: Duration) -> Result<StopReport, FleetError> {
        if grace > LONGEST_GRACE {
            return Err(FleetError::Grace { seconds: grace.as_secs(), most: LONGEST_GRACE.as_secs() });
        }
        self.order(|reply| Order::Stop { grace, reply }).await
    }

    /// Boots it on its disk, if it is stopped or has failed, with the variables that it was made with, and these secrets.
    ///
    /// # Errors
    /// [`FleetError::WrongState`], [`FleetError::Removed`]; [`FleetError::Engine`] as [`crate::Engine::start`], and for want of room: then it is
    /// stopped.
    pub async fn start(&self, secrets: Vec<Secret>) -> Result<(), FleetError> {
        Given { secrets: secrets.clone(), ..Given::default() }.check()?;
        self.order(|reply| Order::Start { secrets, reply }).await
    }

    pub(super) async fn order<T>(&self, order: impl FnOnce(Reply<T>) -> Order) -> Result<T, FleetError> {
        // What has yet to be taken over from an earlier process will be as that has left it. The sender is this value's own, so it is there.
        let _ = self.entry.status.subscribe().wait_for(|status| status.state != State::Adopting).await;
        self.ask(|reply| Message::Order(order(reply), Span::current())).await
    }

    pub(super) async fn ask<T>(&self, message: impl FnOnce(Reply<T>) -> Message) -> Result<T, FleetError> {
        let (reply, told) = oneshot::channel();
        let sent = self.entry.inbox.send(message(reply)).await;
        // A task ends, and gives work up, only with its sandbox.
        sent.map_err(|_| self.removed())?;
        told.await.unwrap_or_else(|_| Err(self.removed()))
    }

    /// Waits until its machine has ended by itself, and tells how.
    pub async fn failed(&self) -> String {
        let mut status = self.entry.status.subscribe();
        let failed = status.wait_for(|status| status.state == State::Failed).await;
        let reason = failed.ok().map(|status| status.reason.clone().unwrap_or_default());
        match reason {
            Some(reason) => reason,
            // The sender is this value's own, so it is there.
            None => std::future::pending().await,
        }
    }

    /// What its console last said, escaped for a terminal; empty where there is no machine to have one.
    pub async fn console_tail(&self) -> String {
        let (reply, told) = oneshot::channel();
        if self.entry.inbox.send(Message::Console(reply)).await.is_err() {
            return String::new();
        }
        told.await.unwrap_or_default()
    }

    /// Changes what is noted on it: all of it or nothing.
    ///
    /// # Errors
    /// [`FleetError::NameTaken`], [`FleetError::Unknown`] when it is gone, [`FleetError::Engine`] with [`crate::EngineError::Store`].
    pub fn change(&self, changes: Changes) -> Result<(), FleetError> {
        let mut registry = self.shared.registry();
        drop(registry.find(self.id().as_str())?);
        let name = changes.name.clone().unwrap_or_else(|| registry.name(&self.entry.id));
        registry.check_free(name.as_ref(), |holder| holder == self.id().as_str())?;
        let changes = Changes { name: Some(name.clone()), ..changes };
        // A name is known to all before anybody else can take it.
        self.entry.change(changes, |changed| self.shared.keep_change(&self.entry, &changed))?;
        registry.rename(&self.entry.id, name.clone())?;
        drop(registry);
        self.shared.events.add(&self.entry.id, name, Happening::Changed);
        Ok(())
    }

    /// Has it removed, and waits until nothing of it is left. What it does is given up. Asking again waits with the first.
    pub async fn remove(&self, why: Removal) {
        self.begin_removal(why);
        let mut status = self.entry.status.subscribe();
        // The sender is this value's own, so it is there.
        let _ = status.wait_for(|status| status.state == State::Removed).await;
    }

    /// Has it removed, and does not wait.
    pub fn begin_removal(&self, why: Removal) {
        self.entry.removal.send_if_modified(|wanted| wanted.is_none() && wanted.replace(why).is_none());
    }

    /// Publishes that it has come into a state.
    pub(super) fn note(&self, state: State, reason: Option<String>) {
        let name = self.shared.registry().name(&self.entry.id);
        self.shared.events.add(&self.entry.id, name, Happening::State { state, reason });
    }
}

/// Removes a sandbox when it is dropped: for one that is bound to something else, such as a connection.
#[derive(Debug)]
pub struct Leash(Option<Member>);

impl Leash {
    /// Binds a sandbox.
    pub fn new(member: Member) -> Self {
        Self(Some(member))
    }

    /// Lets it live.
    pub fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        if let Some(member) = &self.0 {
            member.begin_removal(Removal::Abandoned);
        }
    }
}
