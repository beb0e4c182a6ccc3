//! What is given back when the host's memory gets short: first the pool, then, one after another, the sandboxes that have not been used for the
//! longest time, which are paused and go on with their next request.
//!
//! Never a balloon, and never free page reporting: both would punch holes into the memory of a template that others run on.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::{Member, Shared};
use crate::pressure::Pressure;

/// Why a sandbox is paused, for those who follow events.
pub(super) const REASON: &str = "this machine's memory is short, and nobody used it";
/// How often the host's memory is looked at while there are sandboxes.
const LOOK: Duration = Duration::from_secs(5);
/// A sandbox that was used within this time is not paused.
const LEAST_IDLE: Duration = Duration::from_secs(20);
/// How long the host may take to show that something was given back.
const SETTLING: Duration = Duration::from_secs(5);

/// A sandbox that could be paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate<T> {
    pub(super) which: T,
    /// For how long nobody has used it.
    pub(super) unused: Duration,
}

/// Decides who is paused, and when. Pure.
#[derive(Debug, Default)]
pub(super) struct Reclaim {
    /// When something was last given back.
    last: Option<Duration>,
}

impl Reclaim {
    /// Who is to be paused now. `pool` is what the pool still has: it gives that back by itself, and first.
    pub(super) fn next<T>(
        &mut self,
        now: Duration,
        is_short: bool,
        pool: usize,
        candidates: impl IntoIterator<Item = Candidate<T>>,
    ) -> Option<T> {
        if !is_short {
            self.last = None;
            return None;
        }
        if pool > 0 {
            // What it frees has to be seen before more is taken.
            self.last = Some(now);
            return None;
        }
        if self.last.is_some_and(|last| now < last + SETTLING) {
            return None;
        }
        let idle = candidates.into_iter().filter(|candidate| candidate.unused >= LEAST_IDLE);
        let longest = idle.max_by_key(|candidate| candidate.unused)?;
        self.last = Some(now);
        Some(longest.which)
    }
}

/// Looks at the host's memory for as long as there is a fleet, and has done what is decided.
pub(super) async fn watch(shared: Weak<Shared>, floor: u64) {
    let (begun, mut reclaim) = (Instant::now(), Reclaim::default());
    loop {
        let Some(mut population) = shared.upgrade().map(|shared| shared.population.subscribe()) else { return };
        // Without a sandbox there is nothing to give back.
        if population.wait_for(|count| *count > 0).await.is_err() {
            return;
        }
        drop(population);
        tokio::time::sleep(LOOK).await;
        let Some(shared) = shared.upgrade() else { return };
        let is_short = Pressure::now().is_short(floor);
        let pool = shared.pool.as_ref().map_or(0, |pool| pool.status().count());
        let candidates = if is_short && pool == 0 { candidates(&shared).await } else { Vec::new() };
        if let Some(member) = reclaim.next(begun.elapsed(), is_short, pool, candidates) {
            member.give_way();
        }
    }
}

/// Those that run, that nobody uses and in which nothing runs: what runs would stand still until somebody asks for it.
async fn candidates(shared: &Arc<Shared>) -> Vec<Candidate<Member>> {
    let members: Vec<Member> = shared.registry().values().cloned().collect();
    let mut candidates = Vec::new();
    for which in members {
        if let Some(unused) = which.unused_for().await {
            candidates.push(Candidate { which, unused });
        }
    }
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn all(unused: &[u64]) -> Vec<Candidate<usize>> {
        let candidates = unused.iter().enumerate();
        candidates.map(|(which, seconds)| Candidate { which, unused: Duration::from_secs(*seconds) }).collect()
    }

    #[test]
    fn the_pool_goes_first_and_then_one_after_another_those_used_least_recently() {
        let mut reclaim = Reclaim::default();
        let mut next =
            |now: u64, is_short, pool| reclaim.next(now as u32 * SECOND, is_short, pool, all(&[30, 500, 90]));
        assert_eq!(next(1, false, 0), None);
        assert_eq!(next(2, true, 3), None, "the pool");
        assert_eq!(next(4, true, 0), None, "what it gave back is not seen yet");
        assert_eq!(next(7, true, 0), Some(1));
        assert_eq!(next(8, true, 0), None);
        assert_eq!(next(12, true, 0), Some(1), "it is the caller's to leave out those that are paused");
        assert_eq!(next(13, false, 0), None);
        assert_eq!(next(14, true, 0), Some(1), "what is short anew is not waited for");
    }

    proptest! {
        #[test]
        fn nobody_is_paused_who_was_just_used_or_without_need(
            steps in prop::collection::vec((any::<bool>(), 0..2_usize, prop::collection::vec(0..200_u64, 0..6)), 0..50),
        ) {
            let mut reclaim = Reclaim::default();
            for (now, (is_short, pool, unused)) in steps.into_iter().enumerate() {
                let chosen = reclaim.next(now as u32 * SECOND, is_short, pool, all(&unused));
                if let Some(which) = chosen {
                    prop_assert!(is_short && pool == 0);
                    prop_assert!(unused[which] >= LEAST_IDLE.as_secs());
                    prop_assert_eq!(unused[which], unused.iter().copied().max().unwrap());
                }
            }
        }
    }
}
