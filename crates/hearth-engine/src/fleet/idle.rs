//! Who uses a sandbox, and what becomes of one that nobody does.
//!
//! A use is a request to its guest, from before it is sent until its answer, or its last stream, has ended. Programs that run in the guest
//! count as well, whoever started them, and what they left behind; kernels without code and shells at their prompt do not. The guest is asked
//! only when the time is over.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use hearth_channel::Channel;
use hearth_protocol::{ProcessInfo, ProcessState};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::entry::Entry;
use super::{FleetError, LONGEST_LIFETIME, State};

/// What becomes of a sandbox that nobody uses and in which nothing runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdlePolicy {
    /// What.
    pub action: IdleAction,
    after: Duration,
}

/// What can become of an idle sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleAction {
    /// It is paused. The next request wakes it.
    Pause,
    /// It is removed.
    Remove,
}

impl IdlePolicy {
    /// Checks a time in seconds.
    ///
    /// # Errors
    /// [`FleetError::IdleTime`] for 0 and for more than a year.
    pub fn new(action: IdleAction, after_seconds: u64) -> Result<Self, FleetError> {
        let most = LONGEST_LIFETIME.as_secs();
        if (1..=most).contains(&after_seconds) {
            return Ok(Self { action, after: Duration::from_secs(after_seconds) });
        }
        Err(FleetError::IdleTime { seconds: after_seconds, most })
    }

    /// After which time without use.
    pub fn after(&self) -> Duration {
        self.after
    }
}

/// The uses of one sandbox.
#[derive(Debug, Clone, Copy)]
pub(super) struct Uses {
    open: usize,
    /// When the last one ended.
    quiet_since: Instant,
}

impl Uses {
    pub(super) fn none() -> watch::Sender<Self> {
        watch::Sender::new(Self { open: 0, quiet_since: Instant::now() })
    }

    pub(super) fn are_over(self) -> bool {
        self.open == 0
    }

    /// For how long there has been none.
    pub(super) fn quiet_for(self) -> Option<Duration> {
        self.are_over().then(|| self.quiet_since.elapsed())
    }
}

/// The way to a guest. As long as this is there, its sandbox is not idle.
#[derive(Debug)]
pub struct Guest {
    channel: Arc<Channel>,
    entry: Arc<Entry>,
}

impl Deref for Guest {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.channel
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.entry.uses.send_modify(|uses| {
            uses.open -= 1;
            uses.quiet_since = Instant::now();
        });
    }
}

impl Entry {
    /// Begins a use, if there is a way to the guest; else tells the state that there is none in.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Guest, State> {
        // The lock on the status makes this and `leave_unused` exclude each other.
        let status = self.status.borrow();
        let channel = status.channel.clone().ok_or(status.state)?;
        self.uses.send_modify(|uses| uses.open += 1);
        drop(status);
        Ok(Guest { channel, entry: self.clone() })
    }

    /// Closes the way to the guest, so that nobody begins a use any more, unless somebody has.
    pub(super) fn leave_unused(&self, next: State) -> bool {
        self.status.send_if_modified(|status| {
            let is_unused = self.uses.borrow().are_over();
            if is_unused {
                (status.state, status.channel) = (next, None);
            }
            is_unused
        })
    }
}

/// What a task knows of its sandbox's idleness.
pub(super) struct Watch {
    uses: watch::Receiver<Uses>,
    policy: watch::Receiver<Option<IdlePolicy>>,
    /// When it was last found not to be idle, or could not be paused.
    busy_at: Instant,
}

impl Watch {
    pub(super) fn new(entry: &Entry) -> Self {
        Self { uses: entry.uses.subscribe(), policy: entry.idle.subscribe(), busy_at: Instant::now() }
    }

    /// Counts anew from now.
    pub(super) fn begin_anew(&mut self) {
        self.busy_at = Instant::now();
    }

    /// Waits until the sandbox has been idle for as long as its policy says. Cancel-safe.
    pub(super) async fn idle(&mut self, channel: Option<Arc<Channel>>) -> IdlePolicy {
        let Some(channel) = channel else { return std::future::pending().await };
        loop {
            let policy = *self.policy.borrow_and_update();
            let Some(policy) = policy else {
                // The sender is in the entry, which the task itself holds.
                let _ = self.policy.changed().await;
                continue;
            };
            let uses = *self.uses.borrow_and_update();
            let over = uses.quiet_since.max(self.busy_at) + policy.after;
            tokio::select! {
                () = sleep_until(over), if uses.are_over() => {}
                Ok(()) = self.uses.changed() => continue,
                Ok(()) = self.policy.changed() => continue,
            }
            if runs_nothing(&channel).await {
                return policy;
            }
            self.begin_anew();
        }
    }
}

/// Whether no program runs in a guest, but for kernels and shells that wait. One that does not say is not idle: it is no longer what it was.
pub(super) async fn runs_nothing(channel: &Channel) -> bool {
    let rests = |process: &ProcessInfo| match process.state {
        ProcessState::Running => process.waiting,
        ProcessState::Exited(_) => process.left_running == 0,
    };
    channel.list().await.is_ok_and(|processes| processes.iter().all(rests))
}
