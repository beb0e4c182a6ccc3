//! What has happened to sandboxes, for whoever wants to follow: the newest, each with a position.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use super::{SandboxName, State};
use crate::SandboxId;

/// The events that are kept for those who come late, or are slow.
const KEPT: usize = 4096;

/// Something that has happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its position: one more than that of the event before it. The first is 1.
    pub position: u64,
    /// When.
    pub at: SystemTime,
    /// To which sandbox.
    pub sandbox: SandboxId,
    /// What that was called.
    pub name: Option<SandboxName>,
    /// What.
    pub what: Happening,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// It has come into a state. The reason is there where the state needs one.
    State {
        /// Which.
        state: State,
        /// Why, such as how its machine ended or who wanted it removed.
        reason: Option<String>,
    },
    /// Its name, labels or lifetime have been changed.
    Changed,
    /// An earlier process had left it, and it was taken over. What was under way then and was finished or undone is told, and what is lost.
    Adopted {
        /// That.
        told: Option<String>,
    },
}

/// The newest events. Those who read never hold up those who write.
#[derive(Debug)]
pub struct Events {
    kept: Mutex<Kept>,
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    last: u64,
    events: VecDeque<Event>,
}

/// A piece of what has happened.
#[derive(Debug, Clone)]
pub struct Batch {
    /// How many events that were asked for are no longer kept.
    pub missed: u64,
    /// The events, at least one.
    pub events: Vec<Event>,
}

impl Events {
    pub(super) fn new() -> Self {
        Self { kept: Mutex::default(), newest: watch::Sender::new(0) }
    }

    pub(super) fn add(&self, sandbox: &SandboxId, name: Option<SandboxName>, what: Happening) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last += 1;
        let position = kept.last;
        kept.events.push_back(Event { position, at: SystemTime::now(), sandbox: sandbox.clone(), name, what });
        if kept.events.len() > KEPT {
            kept.events.pop_front();
        }
        self.newest.send_replace(position);
    }

    /// The position of the newest event, 0 before the first: what comes behind it is new.
    pub fn newest(&self) -> u64 {
        *self.newest.borrow()
    }

    /// Waits for events behind a position. Cancel-safe.
    pub async fn after(&self, position: u64) -> Batch {
        let mut newest = self.newest.subscribe();
        loop {
            let batch = self.kept_after(position);
            if !batch.events.is_empty() {
                return batch;
            }
            // The sender is this value's own, so it is there.
            let _ = newest.changed().await;
        }
    }

    /// The events behind a position that are kept; none where there are none yet.
    pub fn kept_after(&self, position: u64) -> Batch {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let first = kept.last + 1 - kept.events.len() as u64;
        let wanted = position.saturating_add(1);
        let missed = first.saturating_sub(wanted);
        let skipped = usize::try_from(wanted.saturating_sub(first)).unwrap_or(usize::MAX);
        Batch { missed, events: kept.events.iter().skip(skipped).cloned().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(count: usize) -> Events {
        let events = Events::new();
        let id = SandboxId::random();
        (0..count).for_each(|_| events.add(&id, None, Happening::Changed));
        events
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_is_kept_and_what_is_missed_make_up_all(count in 0_usize..6000, from in 0_u64..7000) {
            let events = with(count);
            let batch = events.kept_after(from);
            prop_assert_eq!(batch.missed + batch.events.len() as u64, (count as u64).saturating_sub(from));
            prop_assert!(batch.events.len() <= KEPT);
            let expected = (from + batch.missed + 1)..;
            prop_assert!(batch.events.iter().zip(expected).all(|(event, position)| event.position == position));
        }
    }

    #[tokio::test]
    async fn a_follower_is_woken_by_the_next_event() {
        let events = with(3);
        let (batch, ()) =
            tokio::join!(events.after(3), async { events.add(&SandboxId::random(), None, Happening::Changed) });
        assert_eq!((batch.missed, batch.events[0].position), (0, 4));
    }
}
