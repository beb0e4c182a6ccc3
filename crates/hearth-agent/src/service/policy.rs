//! When a service that has ended is started again.

use std::time::Duration;

use hearth_protocol::limits;
use hearth_protocol::service::{Backoff, RestartPolicy};

/// The restarts of one service.
#[derive(Debug, Clone)]
pub(super) struct Restarts {
    policy: RestartPolicy,
    in_a_row: u32,
}

/// What to do with a service that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Start it again after this time.
    After(Duration),
    /// Leave it as it is.
    Stay,
    /// Leave it, because it has ended too often.
    TooMany,
}

impl Restarts {
    /// Begins to count.
    pub(super) fn new(policy: RestartPolicy) -> Self {
        Self { policy, in_a_row: 0 }
    }

    /// Decides about a service that has ended, after it was ready for this long.
    pub(super) fn next(&mut self, failed: bool, ready_for: Option<Duration>) -> Next {
        if ready_for.is_some_and(|time| time >= Duration::from_millis(limits::HEALTHY_MS)) {
            self.in_a_row = 0;
        }
        let backoff = match self.policy {
            RestartPolicy::OnFailure(backoff) if failed => backoff,
            RestartPolicy::Always(backoff) => backoff,
            RestartPolicy::No | RestartPolicy::OnFailure(_) => return Next::Stay,
        };
        if backoff.max.is_some_and(|max| self.in_a_row >= max) {
            return Next::TooMany;
        }
        let wait = wait(&backoff, self.in_a_row);
        self.in_a_row = self.in_a_row.saturating_add(1);
        Next::After(wait)
    }
}

fn wait(backoff: &Backoff, in_a_row: u32) -> Duration {
    let longest = backoff.longest_ms.unwrap_or(limits::LONGEST_BACKOFF_MS);
    let first = backoff.first_ms.unwrap_or(limits::BACKOFF_MS);
    let doubled = first.saturating_mul(1_u64.checked_shl(in_a_row).unwrap_or(u64::MAX));
    Duration::from_millis(doubled.min(longest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEALTHY: Option<Duration> = Some(Duration::from_millis(limits::HEALTHY_MS));

    fn waits(policy: RestartPolicy, count: usize) -> Vec<Next> {
        let mut restarts = Restarts::new(policy);
        (0..count).map(|_| restarts.next(true, None)).collect()
    }

    fn ms(ms: u64) -> Next {
        Next::After(Duration::from_millis(ms))
    }

    #[test]
    fn each_policy_says_who_comes_back() {
        let backoff = Backoff::default();
        for (policy, after_failure, after_success) in [
            (RestartPolicy::No, Next::Stay, Next::Stay),
            (RestartPolicy::OnFailure(backoff), ms(limits::BACKOFF_MS), Next::Stay),
            (RestartPolicy::Always(backoff), ms(limits::BACKOFF_MS), ms(limits::BACKOFF_MS)),
        ] {
            assert_eq!(Restarts::new(policy).next(true, None), after_failure, "{policy:?}");
            assert_eq!(Restarts::new(policy).next(false, None), after_success, "{policy:?}");
        }
    }

    #[test]
    fn waits_double_up_to_the_longest_and_end_at_the_most() {
        let backoff = Backoff { first_ms: Some(10), longest_ms: Some(50), max: Some(4) };
        let expected = [ms(10), ms(20), ms(40), ms(50), Next::TooMany, Next::TooMany];
        assert_eq!(waits(RestartPolicy::OnFailure(backoff), 6), expected);
    }

    #[test]
    fn health_starts_the_count_anew() {
        let backoff = Backoff { first_ms: Some(10), longest_ms: None, max: Some(1) };
        let mut restarts = Restarts::new(RestartPolicy::Always(backoff));
        assert_eq!(restarts.next(true, None), ms(10));
        assert_eq!(restarts.next(true, HEALTHY), ms(10));
        assert_eq!(restarts.next(true, Some(Duration::from_secs(1))), Next::TooMany);
    }

    proptest! {
        #[test]
        fn no_wait_is_longer_than_the_longest_nor_shorter_than_the_one_before(
            first in 1..=limits::TIMEOUT_MS, longest in 1..=limits::TIMEOUT_MS, count in 1_usize..100,
        ) {
            let backoff = Backoff { first_ms: Some(first), longest_ms: Some(longest), max: None };
            let all = waits(RestartPolicy::Always(backoff), count);
            let times: Vec<u128> = all.iter().map(|next| match next {
                Next::After(time) => time.as_millis(),
                Next::Stay | Next::TooMany => unreachable!("without a most there is always another"),
            }).collect();
            prop_assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
            prop_assert!(times.iter().all(|&time| time <= u128::from(longest)));
        }
    }
}
