//! What all who know a sandbox share with its task.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use hearth_channel::Channel;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::idle::Uses;
use super::ports::Ports;
use super::task::Message;
use super::{About, Changes, IdlePolicy, Labels, NewSandbox, Removal, SandboxName, State, View, expiry};
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
    created: SystemTime,
    pub(super) spec: SandboxSpec,
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
        }
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

    pub(super) fn change(&self, changes: Changes) {
        if let Some(labels) = changes.labels {
            *self.labels.lock().unwrap_or_else(PoisonError::into_inner) = labels;
        }
        if let Some(lifetime) = changes.lifetime {
            self.expires.send_replace(expiry(lifetime));
        }
        if let Some(idle) = changes.idle {
            self.idle.send_replace(idle);
        }
    }
}
