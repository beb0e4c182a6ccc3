//! Who may come in: budgets, the line in front of them, and the gate that few go through at once.
//!
//! A creation first needs room in the budgets, and waits in line for it, in the order of arrival and for a bounded time. Then it goes
//! through the gate, which lets as many boot or restore at once as the host can carry; a machine that the pool has ready needs no gate.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::FleetError;
use crate::EngineError;

/// How long a creation waits at the gate: others are being made all the while, so this is reached only where they hang.
const AT_THE_GATE: Duration = Duration::from_secs(300);

/// How many may wait for room, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// The most that wait.
    pub places: usize,
    /// How long one waits before it is refused; zero for not at all.
    pub patience: Duration,
}

impl QueueLimits {
    /// Nobody waits.
    pub const NONE: Self = Self { places: 0, patience: Duration::ZERO };
}

/// What is given away up to a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// Sandboxes, whatever their state.
    Sandboxes,
    /// Memory of guests that have a machine, in MiB.
    Memory,
    /// Processors of guests that have a machine.
    Cpus,
    /// Places in the line of those who wait for one of the others.
    Queue,
    /// Machines that are started at once.
    Starts,
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sandboxes => "sandboxes",
            Self::Memory => "MiB of memory",
            Self::Cpus => "processors",
            Self::Queue => "waiting requests",
            Self::Starts => "machines starting at once",
        })
    }
}

/// There is no room in a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} more wanted, and {used} of {limit} {budget} are given away")]
pub struct OverBudget {
    /// Which.
    pub budget: Budget,
    /// Its limit.
    pub limit: u64,
    /// What is given away of it.
    pub used: u64,
    /// What was asked for.
    pub wanted: u64,
}

impl OverBudget {
    /// Whether waiting can help.
    fn may_pass(&self) -> bool {
        self.wanted <= self.limit
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> String {
        match self.budget {
            Budget::Queue | Budget::Starts => "try again later".to_owned(),
            _ if !self.may_pass() => "ask for less, or give hearth daemon a larger limit".to_owned(),
            _ => "remove sandboxes that are no longer needed: hearth rm".to_owned(),
        }
    }
}

/// The line of those for whom there is no room.
#[derive(Debug)]
pub(super) struct Line {
    limits: QueueLimits,
    waiting: AtomicUsize,
    /// Held by the first in line. It is fair: who came first is first.
    first: Mutex<()>,
    freed: watch::Sender<()>,
}

impl Line {
    pub(super) fn new(limits: QueueLimits) -> Self {
        Self { limits, waiting: AtomicUsize::new(0), first: Mutex::default(), freed: watch::Sender::new(()) }
    }

    /// Tells the first in line that there may be room.
    pub(super) fn freed(&self) {
        self.freed.send_replace(());
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Tries to come in until there is room. Whoever comes while others wait stands behind them, so that a large one is not passed by for ever.
    pub(super) async fn come_in<T>(&self, mut attempt: impl FnMut() -> Result<T, FleetError>) -> Result<T, FleetError> {
        let nobody_waits = self.waiting() == 0;
        let mut refusal = match attempt_if(nobody_waits, &mut attempt) {
            Some(Err(error)) if is_passing(&error) => Some(error),
            Some(outcome) => return outcome,
            None => None,
        };
        let waiting = Waiting::begin(self);
        let (places, used) = (self.limits.places, self.waiting() - 1);
        if used >= places {
            let full = OverBudget { budget: Budget::Queue, limit: places as u64, used: used as u64, wanted: 1 };
            // Where nobody may wait, what lacks says more.
            return Err(refusal.filter(|_| places == 0).unwrap_or_else(|| EngineError::from(full).into()));
        }
        let deadline = Instant::now() + self.limits.patience;
        let came_in = timeout_at(deadline, async {
            let _first = self.first.lock().await;
            let mut freed = self.freed.subscribe();
            loop {
                match attempt() {
                    Err(error) if is_passing(&error) => refusal = Some(error),
                    outcome => return outcome,
                }
                // The sender is this value's own, so it is there.
                let _ = freed.changed().await;
            }
        });
        let outcome = came_in.await;
        drop(waiting);
        // Whoever never came to be first is told what the others wait for.
        outcome.unwrap_or_else(|_| refusal.map_or_else(attempt, Err))
    }
}

fn attempt_if<T>(now: bool, attempt: impl FnOnce() -> T) -> Option<T> {
    now.then(attempt)
}

/// Whether waiting may help.
fn is_passing(error: &FleetError) -> bool {
    matches!(error, FleetError::Engine(EngineError::OverBudget(over)) if over.may_pass())
}

/// Somebody in line.
struct Waiting<'a>(&'a Line);

impl<'a> Waiting<'a> {
    fn begin(line: &'a Line) -> Self {
        line.waiting.fetch_add(1, Ordering::Relaxed);
        Self(line)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lets so many machines start at once: more would only make each slower, and some too slow.
#[derive(Debug)]
pub(crate) struct Gate {
    starts: Semaphore,
    limit: usize,
    busy: watch::Sender<usize>,
}

impl Gate {
    /// Two for each processor: a restore waits for the disk and for its guest about as long as it computes.
    pub(crate) fn of_host() -> Self {
        Self::new(std::thread::available_parallelism().map_or(2, |count| count.get() * 2))
    }

    fn new(limit: usize) -> Self {
        Self { starts: Semaphore::new(limit), limit, busy: watch::Sender::new(0) }
    }

    /// Follows how many want to start or are starting.
    pub(crate) fn busy(&self) -> watch::Receiver<usize> {
        self.busy.subscribe()
    }

    /// Waits for a turn, which lasts until the value returned is dropped.
    ///
    /// # Errors
    /// [`EngineError::OverBudget`] when that takes minutes.
    pub(crate) async fn pass(&self) -> Result<Pass<'_>, EngineError> {
        let counted = Busy::begin(&self.busy);
        match timeout(AT_THE_GATE, self.starts.acquire()).await {
            Ok(Ok(permit)) => Ok(Pass { _permit: permit, _counted: counted }),
            // Nobody closes it.
            Ok(Err(_)) | Err(_) => {
                let limit = self.limit as u64;
                Err(OverBudget { budget: Budget::Starts, limit, used: limit, wanted: 1 }.into())
            }
        }
    }
}

/// A turn at the gate.
pub(crate) struct Pass<'a> {
    _permit: SemaphorePermit<'a>,
    _counted: Busy<'a>,
}

struct Busy<'a>(&'a watch::Sender<usize>);

impl<'a> Busy<'a> {
    fn begin(busy: &'a watch::Sender<usize>) -> Self {
        busy.send_modify(|count| *count += 1);
        Self(busy)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A budget of 10, of which each takes a part.
    fn attempt(used: &AtomicU64, wanted: u64) -> Result<u64, FleetError> {
        let taken = used
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| (used + wanted <= 10).then_some(used + wanted));
        taken.map_err(|used| EngineError::from(OverBudget { budget: Budget::Memory, limit: 10, used, wanted }).into())
    }

    fn budget(outcome: Result<u64, FleetError>) -> Option<Budget> {
        match outcome {
            Err(FleetError::Engine(EngineError::OverBudget(over))) => Some(over.budget),
            _ => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_comes_in_when_there_is_room_and_in_the_order_of_arrival() {
        let used = Arc::new(AtomicU64::new(8));
        let line = Arc::new(Line::new(QueueLimits { places: 4, patience: 60 * SECOND }));
        let enter = |wanted| {
            let (line, used) = (line.clone(), used.clone());
            tokio::spawn(async move { line.come_in(|| attempt(&used, wanted)).await })
        };
        let large = enter(5);
        tokio::time::sleep(SECOND).await;
        // It would fit, and still does not pass the large one by.
        let small = enter(1);
        tokio::time::sleep(SECOND).await;
        assert!(!large.is_finished() && !small.is_finished());
        used.store(4, Ordering::SeqCst);
        line.freed();
        assert_eq!(large.await.unwrap().unwrap(), 4);
        small.await.unwrap().unwrap();
        assert_eq!((used.load(Ordering::SeqCst), line.waiting()), (10, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_has_an_end_a_line_has_one_too_and_what_never_fits_does_not_wait() {
        let used = AtomicU64::new(10);
        let line = Line::new(QueueLimits { places: 1, patience: 5 * SECOND });
        let begun = Instant::now();
        assert_eq!(budget(line.come_in(|| attempt(&used, 11)).await), Some(Budget::Memory));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let (first, second) = tokio::join!(line.come_in(|| attempt(&used, 1)), line.come_in(|| attempt(&used, 1)));
        assert_eq!((budget(first), budget(second)), (Some(Budget::Memory), Some(Budget::Queue)));
        assert_eq!(begun.elapsed(), 5 * SECOND);
        let none = Line::new(QueueLimits::NONE);
        assert_eq!(budget(none.come_in(|| attempt(&used, 1)).await), Some(Budget::Memory));
        assert_eq!((begun.elapsed(), none.waiting(), line.waiting()), (5 * SECOND, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_gate_lets_so_many_through_at_once_and_counts_those_who_wait() {
        let gate = Gate::new(2);
        let busy = gate.busy();
        let (one, two) = (gate.pass().await.unwrap(), gate.pass().await.unwrap());
        let three = async {
            let _pass = gate.pass().await.unwrap();
            *busy.borrow()
        };
        let free = async {
            tokio::time::sleep(SECOND).await;
            assert_eq!(*busy.borrow(), 3);
            drop((one, two));
        };
        let (counted, ()) = tokio::join!(three, free);
        assert_eq!((counted, *busy.borrow()), (1, 0));
    }
}
