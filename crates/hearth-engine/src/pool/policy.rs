//! What a pool makes, hands out and lets go, and when: pure, so that every order of events can be tried.
//!
//! Times are counted from the pool's beginning.

use std::collections::VecDeque;
use std::time::Duration;

use super::PoolLimits;

/// The pause after a first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How long the host's memory must have been free again before anything is made.
const CALM: Duration = Duration::from_secs(30);

/// How long the processors are left to whoever has just been given a machine, for its first command. Requests in between do not extend it.
const COURTESY: Duration = Duration::from_millis(300);

/// A machine of the pool's.
pub(super) type Number = u64;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order<K> {
    /// A machine is to be made ready.
    Make(K),
    /// A ready machine is to go.
    Drop(Number),
}

/// How the host is doing.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Host {
    /// Its memory is short.
    pub(super) is_pressed: bool,
    /// Creations that somebody waits for, and what else is being made.
    pub(super) busy: usize,
    /// How many more machines the budgets allow.
    pub(super) room: usize,
}

/// Machines of one kind.
#[derive(Debug)]
pub(super) struct Shelf<K> {
    pub(super) kind: K,
    /// The oldest first: it has had the longest to settle.
    pub(super) ready: VecDeque<Number>,
    pub(super) making: usize,
    used: Duration,
    failures: u32,
    paused_until: Duration,
}

/// The whole pool.
#[derive(Debug)]
pub(super) struct Policy<K> {
    limits: PoolLimits,
    /// The one used last is last.
    shelves: Vec<Shelf<K>>,
    calm_since: Option<Duration>,
    /// What is being made for a shelf that is gone.
    astray: usize,
    /// Nothing is made before.
    quiet_until: Duration,
}

impl<K: Clone + PartialEq> Policy<K> {
    pub(super) fn new(limits: PoolLimits) -> Self {
        Self { limits, shelves: Vec::new(), calm_since: Some(Duration::ZERO), astray: 0, quiet_until: Duration::ZERO }
    }

    pub(super) fn shelves(&self) -> &[Shelf<K>] {
        &self.shelves
    }

    fn shelf(&mut self, kind: &K) -> Option<&mut Shelf<K>> {
        self.shelves.iter_mut().find(|shelf| shelf.kind == *kind)
    }

    /// Notes that somebody wants such a machine.
    pub(super) fn used(&mut self, kind: &K, now: Duration) {
        let place = self.shelves.iter().position(|shelf| shelf.kind == *kind);
        let mut shelf = place.map_or_else(|| Shelf::empty(kind.clone()), |place| self.shelves.remove(place));
        shelf.used = now;
        self.shelves.push(shelf);
        if now >= self.quiet_until {
            self.quiet_until = now + COURTESY;
        }
    }

    /// Hands one out.
    pub(super) fn claim(&mut self, kind: &K) -> Option<Number> {
        self.shelf(kind)?.ready.pop_front()
    }

    /// Takes in one that has become ready, or has come back; where it has no place, it is to go.
    pub(super) fn put(&mut self, kind: &K, number: Number) -> Option<Order<K>> {
        match self.shelf(kind) {
            Some(shelf) => {
                shelf.ready.push_back(number);
                None
            }
            None => Some(Order::Drop(number)),
        }
    }

    /// Notes that the making of one is over, and whether it went well.
    pub(super) fn made(&mut self, kind: &K, well: bool, now: Duration) {
        let Some(shelf) = self.shelf(kind).filter(|shelf| shelf.making > 0) else {
            self.astray = self.astray.saturating_sub(1);
            return;
        };
        shelf.making -= 1;
        shelf.failures = if well { 0 } else { shelf.failures.saturating_add(1) };
        if !well {
            let pause = FIRST_PAUSE.saturating_mul(1 << (shelf.failures - 1).min(16)).min(LONGEST_PAUSE);
            shelf.paused_until = now + pause;
        }
    }

    /// Notes that a ready one is no more.
    pub(super) fn lost(&mut self, number: Number) {
        self.shelves.iter_mut().for_each(|shelf| shelf.ready.retain(|known| *known != number));
    }

    /// What is to be done now.
    pub(super) fn orders(&mut self, now: Duration, host: Host) -> Vec<Order<K>> {
        self.calm_since = if host.is_pressed { None } else { self.calm_since.or(Some(now)) };
        let mut orders = self.forget(now);
        // What was given back may have been replaced by then.
        let most = self.limits.ready;
        let surplus = self.shelves.iter_mut().flat_map(|shelf| shelf.ready.drain(most.min(shelf.ready.len())..));
        orders.extend(surplus.map(Order::Drop));
        if host.is_pressed {
            let ready = self.shelves.iter_mut().flat_map(|shelf| shelf.ready.drain(..));
            orders.extend(ready.map(Order::Drop));
            return orders;
        }
        // Nothing has ever been short at the beginning.
        let is_calm = self.calm_since.is_some_and(|since| since.is_zero() || now >= since + CALM);
        if is_calm && now >= self.quiet_until {
            orders.extend(self.fill(now, host));
        }
        orders
    }

    /// Lets go of what nobody has wanted for long, and of what is wanted less than the kinds that there may be.
    fn forget(&mut self, now: Duration) -> Vec<Order<K>> {
        let surplus = self.shelves.len().saturating_sub(self.limits.kinds);
        let idle = self.limits.idle;
        let gone =
            self.shelves.iter().enumerate().filter(|(place, shelf)| *place < surplus || now >= shelf.used + idle);
        // They stand in the order of their use, so those that go are the first.
        let gone: Vec<Shelf<K>> = self.shelves.drain(..gone.count()).collect();
        self.astray += gone.iter().map(|shelf| shelf.making).sum::<usize>();
        gone.into_iter().flat_map(|shelf| shelf.ready).map(Order::Drop).collect()
    }

    /// How many are being made.
    pub(super) fn making(&self) -> usize {
        self.shelves.iter().map(|shelf| shelf.making).sum::<usize>() + self.astray
    }

    fn fill(&mut self, now: Duration, host: Host) -> Vec<Order<K>> {
        let mut left = self.limits.at_once.saturating_sub(self.making() + host.busy).min(host.room);
        let mut orders = Vec::new();
        for shelf in self.shelves.iter_mut().rev().filter(|shelf| now >= shelf.paused_until) {
            let count = self.limits.ready.saturating_sub(shelf.ready.len() + shelf.making).min(left);
            shelf.making += count;
            left -= count;
            orders.extend((0..count).map(|_| Order::Make(shelf.kind.clone())));
        }
        orders
    }

    /// When to look again although nothing has happened.
    pub(super) fn next(&self, now: Duration) -> Option<Duration> {
        let idle = self.shelves.first().map(|shelf| shelf.used + self.limits.idle);
        let paused = self.shelves.iter().map(|shelf| shelf.paused_until).filter(|until| *until > now).min();
        let calm = self.calm_since.filter(|since| !since.is_zero()).map(|since| since + CALM).filter(|at| *at > now);
        let quiet = Some(self.quiet_until).filter(|at| *at > now);
        [idle, paused, calm, quiet].into_iter().flatten().min()
    }
}

impl<K> Shelf<K> {
    fn empty(kind: K) -> Self {
        let (used, paused_until) = (Duration::ZERO, Duration::ZERO);
        Self { kind, ready: VecDeque::new(), making: 0, used, failures: 0, paused_until }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use proptest::prelude::*;

    const LIMITS: PoolLimits =
        PoolLimits { ready: 2, standby: 0, kinds: 2, at_once: 3, idle: Duration::from_secs(600), floor_mib: 0 };
    const ROOMY: Host = Host { is_pressed: false, busy: 0, room: usize::MAX };

    /// A pool with a world around it that does what it is told, and keeps count.
    struct World {
        policy: Policy<u8>,
        now: Duration,
        next: Number,
        making: Vec<u8>,
        ready: HashSet<Number>,
        gone: HashSet<Number>,
    }

    #[derive(Debug, Clone)]
    enum Step {
        Use(u8),
        Claim(u8),
        Made(bool),
        GiveBack(u8),
        Lose,
        Wait(u64),
        Orders { is_pressed: bool, busy: usize, room: usize },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..4_u8).prop_map(Step::Use),
            (0..4_u8).prop_map(Step::Claim),
            any::<bool>().prop_map(Step::Made),
            (0..4_u8).prop_map(Step::GiveBack),
            Just(Step::Lose),
            (0..900_u64).prop_map(Step::Wait),
            (prop::bool::weighted(0.2), 0..4_usize, 0..5_usize).prop_map(|(is_pressed, busy, room)| Step::Orders {
                is_pressed,
                busy,
                room
            }),
        ];
        prop::collection::vec(step, 0..80)
    }

    impl World {
        fn new() -> Self {
            let (ready, gone) = (HashSet::new(), HashSet::new());
            Self { policy: Policy::new(LIMITS), now: Duration::ZERO, next: 0, making: Vec::new(), ready, gone }
        }

        fn drop_one(&mut self, number: Number) {
            assert!(self.ready.remove(&number) && self.gone.insert(number), "{number} was let go twice");
        }

        fn take(&mut self, step: Step) {
            match step {
                Step::Use(kind) => self.policy.used(&kind, self.now),
                Step::Claim(kind) => {
                    if let Some(number) = self.policy.claim(&kind) {
                        self.drop_one(number);
                    }
                }
                Step::Made(well) => {
                    if let Some(kind) = self.making.pop() {
                        self.policy.made(&kind, well, self.now);
                        if well {
                            self.next += 1;
                            self.ready.insert(self.next);
                            if let Some(Order::Drop(number)) = self.policy.put(&kind, self.next) {
                                self.drop_one(number);
                            }
                        }
                    }
                }
                Step::GiveBack(kind) => {
                    self.next += 1;
                    self.ready.insert(self.next);
                    if let Some(Order::Drop(number)) = self.policy.put(&kind, self.next) {
                        self.drop_one(number);
                    }
                }
                Step::Lose => {
                    if let Some(number) = self.ready.iter().next().copied() {
                        self.policy.lost(number);
                        self.drop_one(number);
                    }
                }
                Step::Wait(seconds) => self.now += Duration::from_secs(seconds),
                Step::Orders { is_pressed, busy, room } => self.obey(Host { is_pressed, busy, room }),
            }
        }

        fn obey(&mut self, host: Host) {
            let before = self.making.len();
            for order in self.policy.orders(self.now, host) {
                match order {
                    Order::Make(kind) => self.making.push(kind),
                    Order::Drop(number) => self.drop_one(number),
                }
            }
            let begun = self.making.len() - before;
            assert!(begun <= host.room, "{begun} were begun with room for {}", host.room);
            assert!(begun == 0 || self.making.len() + host.busy <= LIMITS.at_once);
            assert!(!host.is_pressed || (begun == 0 && self.ready.is_empty()));
            assert!(self.policy.shelves().len() <= LIMITS.kinds);
            assert!(self.policy.shelves().iter().all(|shelf| shelf.ready.len() <= LIMITS.ready));
        }
    }

    proptest! {
        #[test]
        fn nothing_is_handed_out_twice_forgotten_or_made_beyond_the_limits(steps in steps()) {
            let mut world = World::new();
            for step in steps {
                world.take(step);
                let shelved: Vec<Number> =
                    world.policy.shelves().iter().flat_map(|shelf| shelf.ready.iter().copied()).collect();
                prop_assert_eq!(shelved.len(), world.ready.len());
                prop_assert!(shelved.iter().all(|number| world.ready.contains(number)));
                let counted: usize = world.policy.shelves().iter().map(|shelf| shelf.making).sum();
                prop_assert_eq!(counted + world.policy.astray, world.making.len());
            }
        }

        #[test]
        fn whatever_happened_a_kind_that_is_wanted_is_full_in_the_end(steps in steps()) {
            let mut world = World::new();
            steps.into_iter().for_each(|step| world.take(step));
            for _ in 0..20 {
                // Past every pause, and the kind still wanted.
                world.now += LONGEST_PAUSE + CALM;
                world.policy.used(&7, world.now);
                world.now += COURTESY;
                world.obey(ROOMY);
                while !world.making.is_empty() {
                    world.take(Step::Made(true));
                }
            }
            prop_assert_eq!(world.policy.shelves().last().map(|shelf| shelf.ready.len()), Some(LIMITS.ready));
        }

        #[test]
        fn there_is_always_a_time_to_look_again_while_something_is_kept(steps in steps()) {
            let mut world = World::new();
            steps.into_iter().for_each(|step| world.take(step));
            prop_assert!(world.ready.is_empty() || world.policy.next(world.now).is_some());
        }
    }

    #[test]
    fn before_its_first_use_nothing_is_made_and_what_fails_is_tried_ever_more_rarely() {
        let mut policy = Policy::new(LIMITS);
        assert!(policy.orders(Duration::ZERO, ROOMY).is_empty());
        let mut now = Duration::from_secs(1);
        for pause in [1, 2, 4, 8] {
            policy.used(&1, now);
            assert!(policy.orders(now, ROOMY).is_empty(), "the caller comes first");
            now += COURTESY;
            let begun = policy.orders(now, ROOMY).len();
            assert_eq!(begun, 2);
            (0..begun).for_each(|_| policy.made(&1, false, now));
            assert!(policy.orders(now, ROOMY).is_empty());
            // Two have failed each time.
            now += Duration::from_secs(pause * pause * 2);
        }
    }
}
