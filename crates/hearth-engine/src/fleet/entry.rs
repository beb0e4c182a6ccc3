//! What all who know a sandbox share with its task.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use hearth_channel::Channel;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::idle::Uses;
use super::ports::Ports;
use super::task::Message;
use super::{About, Changes, IdlePolicy, Labels, NewSandbox, Removal, SandboxName, State, View, expiry};
use crate::store::{Changed, Lasting};
use crate::{SandboxId, SandboxSpec};

/// What all who know a sandbox share with its task.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: SandboxId,
    pub(super) inbox: mpsc::Sender<Message>,
    /// Why it is to go, once it is.
    pub(super) removal: watch::Sender<Option<Removal>>,
    pub(super) status: watch::Sender<Status>,
    pub(super) expires: watch::Sender<Option<(Instant, SystemTime)>>,
    pub(super) idle: watch::Sender<Option<IdlePolicy>>,
    pub(super) uses: watch::Sender<Uses>,
    pub(super) ports: Ports,
    labels: Mutex<Labels>,
    pub(super) created: SystemTime,
    pub(super) spec: SandboxSpec,
    /// Whether it outlives the process that holds it.
    lasts: AtomicBool,
}

/// What the task publishes.
#[derive(Debug, Clone)]
pub(super) struct Status {
    pub(super) state: State,
    pub(super) since: SystemTime,
    pub(super) reason: Option<String>,
    pub(super) channel: Option<Arc<Channel>>,
    pub(super) about: Option<Arc<About>>,
    /// What of its memory lies on disk, while it is paused.
    pub(super) saved_bytes: Option<u64>,
    /// Whether it could be paused when it ran last.
    pub(super) can_be_paused: bool,
}

impl Entry {
    pub(super) fn new(id: SandboxId, new: NewSandbox, inbox: mpsc::Sender<Message>) -> Self {
        let created = SystemTime::now();
        let status = Status {
            state: State::Creating,
            since: created,
            reason: None,
            channel: None,
            about: None,
            saved_bytes: None,
            can_be_paused: false,
        };
        Self {
            id,
            inbox,
            removal: watch::Sender::new(None),
            status: watch::Sender::new(status),
            expires: watch::Sender::new(expiry(new.lifetime)),
            idle: watch::Sender::new(new.idle),
            uses: Uses::none(),
            ports: Ports::default(),
            labels: Mutex::new(new.labels),
            created,
            spec: new.spec,
            lasts: AtomicBool::new(!new.bound),
        }
    }

    /// Whether it outlives the process that holds it.
    pub(super) fn lasts(&self) -> bool {
        self.lasts.load(Ordering::Acquire)
    }

    /// Whether nothing of it ever runs again in this state, or after it.
    pub(super) fn is_over(&self, state: State) -> bool {
        match state {
            State::Failed => self.spec.disk.is_none(),
            state => matches!(state, State::Removing | State::Removed),
        }
    }

    pub(super) fn set_lasts(&self, lasts: bool) {
        self.lasts.store(lasts, Ordering::Release);
    }

    /// That of a sandbox which an earlier process has left.
    pub(super) fn adopted(last: &Lasting, inbox: mpsc::Sender<Message>) -> Self {
        let new = NewSandbox {
            spec: last.spec.clone(),
            labels: last.labels.clone(),
            idle: last.idle,
            ..NewSandbox::default()
        };
        let entry = Self { created: last.created, ..Self::new(last.id.clone(), new, inbox) };
        // What is over by now is over at once.
        let left = |at: SystemTime| (Instant::now() + at.duration_since(SystemTime::now()).unwrap_or_default(), at);
        entry.expires.send_replace(last.expires.map(left));
        entry.status.send_modify(|status| {
            status.state = State::Adopting;
            status.about = Some(Arc::new(About::of_way(last.way)));
        });
        entry
    }

    pub(super) fn view(&self, name: Option<SandboxName>) -> View {
        let Status { state, since, reason, about, saved_bytes, .. } = self.status.borrow().clone();
        View {
            id: self.id.clone(),
            name,
            labels: self.labels(),
            state,
            since,
            reason,
            created: self.created,
            expires: self.expires.borrow().map(|(_, at)| at),
            idle: *self.idle.borrow(),
            spec: self.spec.clone(),
            about,
            saved_bytes,
        }
    }

    pub(super) fn labels(&self) -> Labels {
        self.labels.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what is noted on it, once `keep` has noted all that it then is.
    pub(super) fn change<E>(&self, changes: Changes, keep: impl FnOnce(Changed) -> Result<(), E>) -> Result<(), E> {
        // Held to the end, so that what is noted is what is.
        let mut labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        let expires = changes.lifetime.map_or_else(|| *self.expires.borrow(), expiry);
        let idle = changes.idle.unwrap_or_else(|| *self.idle.borrow());
        let new_labels = changes.labels.unwrap_or_else(|| labels.clone());
        keep(Changed {
            name: changes.name.flatten(),
            labels: new_labels.clone(),
            expires: expires.map(|(_, at)| at),
            idle,
        })?;
        *labels = new_labels;
        self.expires.send_replace(expires);
        self.idle.send_replace(idle);
        Ok(())
    }
}
