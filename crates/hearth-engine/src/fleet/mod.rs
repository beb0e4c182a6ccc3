//! Many sandboxes: who is there, what each is called, how long it lives, and what has happened.
//!
//! The daemon holds one [`Fleet`]. Each sandbox has one task (`task.rs`) that owns it and alone takes it from [`State`] to [`State`],
//! by the pure [`Lifecycle`]; everybody else holds a [`Member`], which reads what the task publishes and tells it what is wanted.
//! What must stay true:
//!
//! - A sandbox that was admitted has a task, and that task ends only when nothing of the sandbox is left.
//! - Removal cannot be lost, refused or held up: it is a value that the task watches, not a message in a queue.
//! - Requests to a guest go straight over its [`Channel`], past the task: a sandbox that is being removed never delays another.
//!
//! Nothing here outlives its process. Pause, resume and captures have their states and inputs; the work itself begins in `Task::begin`.

mod admission;
mod error;
mod events;
mod name;
mod registry;
mod state;
mod task;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hearth_channel::Channel;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

pub(crate) use admission::Gate;
pub use admission::{Budget, OverBudget, QueueLimits};
pub use error::FleetError;
pub use events::{Batch, Event, Events, Happening};
pub use name::{Labels, SandboxName};
pub use registry::FleetLimits;
pub use state::{Input, Lifecycle, Refused, State, Work};

use crate::pool::{Claimed, Pool};
use crate::{Engine, EngineError, Phase, PoolLimits, PoolStatus, SandboxId, SandboxSpec};
use admission::Line;
use registry::{Registry, Share};
use task::{Entry, Message, Task};

/// The messages that wait for a sandbox's task.
const INBOX: usize = 16;

/// The longest lifetime that a sandbox can be given: a year.
pub const LONGEST_LIFETIME: Duration = Duration::from_secs(366 * 24 * 3600);

/// All sandboxes that one process holds.
#[derive(Debug)]
pub struct Fleet {
    shared: Arc<Shared>,
}

/// What the tasks know of the fleet.
#[derive(Debug)]
struct Shared {
    engine: Arc<Engine>,
    registry: Mutex<Registry<Member>>,
    line: Line,
    gate: Gate,
    pool: Option<Pool>,
    events: Events,
    /// How many there are.
    population: watch::Sender<usize>,
    ending: watch::Sender<bool>,
}

impl Shared {
    fn registry(&self) -> MutexGuard<'_, Registry<Member>> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sandbox to be made and held.
#[derive(Debug, Clone, Default)]
pub struct NewSandbox {
    /// Its machine.
    pub spec: SandboxSpec,
    /// What it is called.
    pub name: Option<SandboxName>,
    /// What is noted on it.
    pub labels: Labels,
    /// How long it lives, counted from now; for ever by default.
    pub lifetime: Option<Lifetime>,
}

/// How long a sandbox may live: up to [`LONGEST_LIFETIME`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime(Duration);

impl Lifetime {
    /// Checks a time in seconds.
    ///
    /// # Errors
    /// [`FleetError::Lifetime`] for 0 and for more than a year.
    pub fn from_seconds(seconds: u64) -> Result<Self, FleetError> {
        let most = LONGEST_LIFETIME.as_secs();
        if (1..=most).contains(&seconds) {
            return Ok(Self(Duration::from_secs(seconds)));
        }
        Err(FleetError::Lifetime { seconds, most })
    }
}

/// What to change of a sandbox; `None` leaves it as it is.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// Another name, or none.
    pub name: Option<Option<SandboxName>>,
    /// Other labels in place of all there are.
    pub labels: Option<Labels>,
    /// Another lifetime, counted from now, or none.
    pub lifetime: Option<Option<Lifetime>>,
}

/// Which sandboxes a list is to have: those that fit all of it.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// A part of the name or the id.
    pub name: Option<String>,
    /// Labels that are there, with a value where one is named.
    pub labels: Vec<(String, Option<String>)>,
    /// One of these states; any if there are none.
    pub states: Vec<State>,
}

impl Filter {
    fn takes(&self, view: &View) -> bool {
        let is_named = |part: &String| {
            view.id.as_str().contains(part) || view.name.as_ref().is_some_and(|name| name.as_str().contains(part))
        };
        self.name.as_ref().is_none_or(is_named)
            && self.labels.iter().all(|(key, value)| view.labels.matches(key, value.as_deref()))
            && (self.states.is_empty() || self.states.contains(&view.state))
    }
}

/// Why a sandbox is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Somebody asked for it.
    Asked,
    /// Its lifetime is over.
    Expired,
    /// Whoever it was for is gone.
    Abandoned,
    /// The process that holds it ends.
    Ending,
}

impl Removal {
    /// The reason in words.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Asked => "asked for",
            Self::Expired => "its lifetime was over",
            Self::Abandoned => "whoever it was for is gone",
            Self::Ending => "hearth is ending",
        }
    }
}

/// What a sandbox is, at one moment.
#[derive(Debug, Clone)]
pub struct View {
    /// Its id.
    pub id: SandboxId,
    /// What it is called.
    pub name: Option<SandboxName>,
    /// What is noted on it.
    pub labels: Labels,
    /// Its state.
    pub state: State,
    /// Since when it is in that state.
    pub since: SystemTime,
    /// Why it is in that state, where there is more to say.
    pub reason: Option<String>,
    /// When it was asked for.
    pub created: SystemTime,
    /// When its lifetime is over.
    pub expires: Option<SystemTime>,
    /// What was asked for.
    pub spec: SandboxSpec,
    /// What runs it, once it has run.
    pub about: Option<Arc<About>>,
}

/// What runs a sandbox.
#[derive(Debug, Clone)]
pub struct About {
    /// `kvm` or `tcg`.
    pub accelerator: &'static str,
    /// `microvm` or `pc`.
    pub board: &'static str,
    /// What its jail lacks on this host.
    pub jail_warning: Option<String>,
    /// What was tried first and did not run it.
    pub failed_before: Vec<String>,
    /// When each phase of its creation was reached.
    pub phases: Vec<(Phase, Duration)>,
}

/// How much of the limits is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Sandboxes there are.
    pub sandboxes: usize,
    /// The memory of the guests that have a machine, in MiB.
    pub memory_mib: u64,
    /// The processors of the guests that have a machine.
    pub cpus: u64,
    /// Requests that wait for room.
    pub waiting: usize,
    /// The limits.
    pub limits: FleetLimits,
}

impl Fleet {
    /// Makes an empty one over an engine, without a pool, in which nobody waits for room.
    pub fn new(engine: Engine, limits: FleetLimits) -> Self {
        Self::build(engine, limits, QueueLimits::NONE, None)
    }

    /// Makes an empty one over an engine, with a warm pool.
    ///
    /// Needs a tokio runtime.
    pub fn with_pool(engine: Engine, limits: FleetLimits, queue: QueueLimits, pool: PoolLimits) -> Self {
        Self::build(engine, limits, queue, Some(pool).filter(|pool| pool.ready > 0))
    }

    fn build(engine: Engine, limits: FleetLimits, queue: QueueLimits, pool: Option<PoolLimits>) -> Self {
        let (engine, gate) = (Arc::new(engine), Gate::of_host());
        let shared = Shared {
            pool: pool.map(|pool| Pool::start(engine.clone(), pool, &gate)),
            engine,
            registry: Mutex::new(Registry::new(limits)),
            line: Line::new(queue),
            gate,
            events: Events::new(),
            population: watch::Sender::new(0),
            ending: watch::Sender::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The engine below it.
    pub fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    /// What has happened.
    pub fn events(&self) -> &Events {
        &self.shared.events
    }

    /// What the warm pool has, if there is one.
    pub fn pool(&self) -> Option<PoolStatus> {
        self.shared.pool.as_ref().map(Pool::status)
    }

    /// Follows what the warm pool has, if there is one.
    pub fn follow_pool(&self) -> Option<watch::Receiver<PoolStatus>> {
        self.shared.pool.as_ref().map(Pool::follow)
    }

    /// Makes a sandbox, and returns it once it takes requests. Dropping the future removes it.
    ///
    /// Needs a tokio runtime.
    ///
    /// # Errors
    /// Refusals come before anything is made: [`EngineError::OverBudget`], once it has waited for room, [`FleetError::NameTaken`],
    /// [`FleetError::Ending`]. Afterwards [`FleetError::Engine`], and [`FleetError::Removed`] if somebody removed it meanwhile.
    pub async fn create(&self, new: NewSandbox) -> Result<Member, FleetError> {
        let begun = std::time::Instant::now();
        // Nothing is taken from the pool for what is refused anyway.
        self.shared.registry().check_free(new.name.as_ref(), |_| false)?;
        let ready = match &self.shared.pool {
            Some(pool) => pool.claim(&new.spec, &self.shared.engine).await,
            None => None,
        };
        let (member, made) = self.admit(new, ready.map(|ready| (begun, ready))).await?;
        let leash = Leash::new(member.clone());
        match made.await {
            Ok(Ok(())) => {
                leash.release();
                Ok(member)
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(FleetError::Removed { sandbox: member.id().to_string() }),
        }
    }

    /// Takes a sandbox in and begins to make it, or takes it from what was ready when it was asked for.
    async fn admit(
        &self,
        new: NewSandbox,
        ready: Option<(std::time::Instant, Claimed)>,
    ) -> Result<(Member, oneshot::Receiver<Result<(), EngineError>>), FleetError> {
        // What is ready keeps the id that its directory and its guest have.
        let id = ready.as_ref().map_or_else(SandboxId::random, |(_, ready)| ready.id().clone());
        let (sender, inbox) = mpsc::channel(INBOX);
        let share = Share { memory_mib: u64::from(new.spec.memory.mib()), cpus: u64::from(new.spec.cpus.get()) };
        let entry = Arc::new(Entry::new(id.clone(), new.spec, new.labels, new.lifetime, sender));
        let member = Member { entry, shared: self.shared.clone() };
        let come_in = || {
            let mut registry = self.shared.registry();
            // Under the registry's lock, so that `end` sees everyone who got in.
            if *self.shared.ending.borrow() {
                return Err(FleetError::Ending);
            }
            registry.admit(&id, new.name.clone(), share, member.clone())?;
            self.shared.population.send_replace(registry.len());
            Ok(())
        };
        self.shared.line.come_in(come_in).await?;
        let (made, told) = oneshot::channel();
        member.note(State::Creating, None);
        tokio::spawn(Task::new(member.clone(), inbox, made, ready).run());
        Ok((member, told))
    }

    /// Finds a sandbox by its id, its name, or the beginning of its id.
    ///
    /// # Errors
    /// [`FleetError::Unknown`], [`FleetError::Ambiguous`].
    pub fn find(&self, reference: &str) -> Result<Member, FleetError> {
        self.shared.registry().find(reference)
    }

    /// Lists those that a filter takes, the oldest first.
    pub fn list(&self, filter: &Filter) -> Vec<View> {
        let members: Vec<Member> = self.shared.registry().values().cloned().collect();
        let mut views: Vec<View> = members.iter().map(Member::view).filter(|view| filter.takes(view)).collect();
        views.sort_by(|a, b| (a.created, a.id.as_str()).cmp(&(b.created, b.id.as_str())));
        views
    }

    /// How much of the limits is used.
    pub fn usage(&self) -> Usage {
        let registry = self.shared.registry();
        Usage {
            sandboxes: registry.len(),
            memory_mib: registry.memory_mib(),
            cpus: registry.cpus(),
            waiting: self.shared.line.waiting(),
            limits: registry.limits(),
        }
    }

    /// Follows how many sandboxes there are.
    pub fn population(&self) -> watch::Receiver<usize> {
        self.shared.population.subscribe()
    }

    /// Takes no more sandboxes, removes those there are and the pool, and waits until nothing of them is left.
    pub async fn end(&self) {
        let members: Vec<Member> = {
            let registry = self.shared.registry();
            self.shared.ending.send_replace(true);
            registry.values().cloned().collect()
        };
        self.shared.line.freed();
        members.iter().for_each(|member| member.begin_removal(Removal::Ending));
        if let Some(pool) = &self.shared.pool {
            pool.end().await;
        }
        let mut population = self.shared.population.subscribe();
        // The sender is this value's own, so it is there.
        let _ = population.wait_for(|count| *count == 0).await;
    }
}

/// A sandbox of a fleet, for whoever wants something of it. Cheap to clone; it may have been removed since.
#[derive(Debug, Clone)]
pub struct Member {
    entry: Arc<Entry>,
    shared: Arc<Shared>,
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

    /// The way to its guest, as soon as there is one: waits while it is being made.
    ///
    /// # Errors
    /// [`FleetError::WrongState`], [`FleetError::Removed`].
    pub async fn channel(&self) -> Result<Arc<Channel>, FleetError> {
        let mut status = self.entry.status.subscribe();
        let settled = status.wait_for(|status| {
            status.channel.is_some() || !status.state.is_passing() || status.state == State::Removing
        });
        let removed = || FleetError::Removed { sandbox: self.id().to_string() };
        let status = settled.await.map_err(|_| removed())?;
        match (&status.channel, status.state) {
            (Some(channel), _) => Ok(channel.clone()),
            (None, State::Removing | State::Removed) => Err(removed()),
            // Here a paused one will be resumed.
            (None, state) => Err(FleetError::WrongState {
                sandbox: self.id().to_string(),
                source: Refused { state, input: Input::Resume },
            }),
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
    /// [`FleetError::NameTaken`], [`FleetError::Unknown`] when it is gone.
    pub fn change(&self, changes: Changes) -> Result<(), FleetError> {
        let mut registry = self.shared.registry();
        match changes.name {
            Some(name) => registry.rename(&self.entry.id, name)?,
            None => drop(registry.find(self.id().as_str())?),
        }
        let name = registry.name(&self.entry.id);
        drop(registry);
        self.entry.change(changes.labels, changes.lifetime);
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
    fn note(&self, state: State, reason: Option<String>) {
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

/// When a lifetime that begins now is over, by the clock that tasks wait by and by the one that people read.
fn expiry(lifetime: Option<Lifetime>) -> Option<(Instant, SystemTime)> {
    lifetime.map(|Lifetime(time)| (Instant::now() + time, SystemTime::now() + time))
}
