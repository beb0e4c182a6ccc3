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
//! - A request to a paused sandbox wakes it. While a request goes on, its sandbox is not idle (`idle.rs`).
//!
//! What outlives the process is noted in a database (`crate::store`) before anybody is told of it: a sandbox that was made, paused, stopped, changed
//! or asked to go. [`Fleet::open`] takes over what an earlier process has left (`adopt.rs`). What is bound to a connection, the pool, and whatever
//! is half made ends with the process, by the next one's hand if need be.

mod admission;
mod adopt;
mod entry;
mod error;
mod events;
mod fork;
mod idle;
mod load;
mod member;
mod name;
mod ports;
mod reclaim;
mod registry;
mod state;
mod task;
mod work;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{Instrument, info_span};

pub(crate) use admission::Gate;
pub use admission::{Budget, OverBudget, QueueLimits};
pub use error::FleetError;
pub use events::{Batch, Event, Events, Happening};
pub use fork::{Forked, NewCopies};
pub use idle::{Guest, IdleAction, IdlePolicy};
pub use member::{Leash, Member};
pub use name::{Labels, SandboxName};
pub use ports::{MOST_PORTS, NewPort, PublishedPort};
pub use registry::FleetLimits;
pub use state::{Input, Lifecycle, Refused, State, Work};
pub use work::{ForkReport, PauseReport};

use crate::accelerator::Way;
use crate::pool::{Claimed, Pool};
use crate::store::Store;
use crate::{Engine, EngineError, Phase, PoolLimits, PoolStatus, SandboxId, SandboxSpec, StartFrom, TemplateRecord};
use admission::Line;
use entry::Entry;
use registry::{Registry, Share};
use task::{Message, Task};
use work::Origin;

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
    engine: Engine,
    registry: Mutex<Registry<Member>>,
    line: Line,
    gate: Gate,
    pool: Option<Pool>,
    /// What outlives this process; none where nothing does.
    store: Option<Store>,
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

impl Shared {
    /// Takes what is ready for such a sandbox.
    async fn claim(&self, spec: &SandboxSpec) -> Option<Claimed> {
        self.pool.as_ref()?.claim(spec, &self.engine).await
    }

    /// Takes sandboxes in, all or none.
    fn admit(self: &Arc<Self>, new: Vec<(SandboxId, NewSandbox)>) -> Result<Vec<Admitted>, FleetError> {
        let mut registry = self.registry();
        // Under the registry's lock, so that `end` sees everyone who got in.
        if *self.ending.borrow() {
            return Err(FleetError::Ending);
        }
        let mut admitted: Vec<Admitted> = Vec::new();
        for (id, new) in new {
            let (name, share) = (new.name.clone(), Share::of(&new.spec));
            let (sender, inbox) = mpsc::channel(INBOX);
            let entry = Arc::new(Entry::new(id.clone(), new, sender));
            let member = Member { entry, shared: self.clone() };
            if let Err(error) = registry.admit(&id, name, share, member.clone()) {
                admitted.iter().for_each(|admitted| registry.release(admitted.member.id()));
                return Err(error);
            }
            admitted.push(Admitted { member, inbox });
        }
        self.population.send_replace(registry.len());
        Ok(admitted)
    }
}

/// A sandbox that has its place and no task yet.
struct Admitted {
    member: Member,
    inbox: mpsc::Receiver<Message>,
}

impl Admitted {
    /// Begins to make it. What is returned tells when it is there.
    fn begin(self, origin: Origin) -> (Member, oneshot::Receiver<Result<(), EngineError>>) {
        let Self { member, inbox } = self;
        let (made, told) = oneshot::channel();
        member.note(State::Creating, None);
        tokio::spawn(Task::new(member.clone(), origin, inbox, made).run());
        (member, told)
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
    /// What becomes of it when nobody uses it; nothing by default.
    pub idle: Option<IdlePolicy>,
    /// Whether it is bound to something of this process, such as a connection, and so ends with it.
    pub bound: bool,
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
    /// Something else that becomes of it when nobody uses it, or nothing.
    pub idle: Option<Option<IdlePolicy>>,
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
    /// Nobody used it.
    Idle,
    /// What it was for is done.
    Done,
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
            Self::Idle => "nobody used it",
            Self::Done => "what it was for is done",
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
    /// What becomes of it when nobody uses it.
    pub idle: Option<IdlePolicy>,
    /// What was asked for.
    pub spec: SandboxSpec,
    /// What runs it, once it has run.
    pub about: Option<Arc<About>>,
    /// What of its memory lies on disk, in bytes, while it is paused.
    pub saved_bytes: Option<u64>,
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

impl About {
    /// What is known of one that is about to be taken over.
    fn of_way(way: Way) -> Self {
        Self {
            accelerator: crate::accelerator::name(way.accelerator),
            board: way.board(),
            jail_warning: None,
            failed_before: Vec::new(),
            phases: Vec::new(),
        }
    }
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
        Self::build(engine, limits, QueueLimits::NONE, None, None)
    }

    /// Makes an empty one over an engine, with a warm pool, that gives memory back when the host's falls below the pool's floor.
    ///
    /// Needs a tokio runtime.
    pub fn with_pool(engine: Engine, limits: FleetLimits, queue: QueueLimits, pool: PoolLimits) -> Self {
        Self::pooled(engine, limits, queue, pool, None)
    }

    fn pooled(engine: Engine, limits: FleetLimits, queue: QueueLimits, pool: PoolLimits, store: Option<Store>) -> Self {
        let floor = pool.floor_mib << 20;
        let fleet = Self::build(engine, limits, queue, Some(pool).filter(|pool| pool.ready > 0), store);
        tokio::spawn(reclaim::watch(Arc::downgrade(&fleet.shared), floor));
        fleet
    }

    fn build(
        engine: Engine,
        limits: FleetLimits,
        queue: QueueLimits,
        pool: Option<PoolLimits>,
        store: Option<Store>,
    ) -> Self {
        let gate = Gate::of_host();
        let shared = Shared {
            pool: pool.map(|pool| Pool::start(engine.clone(), pool, &gate)),
            engine,
            registry: Mutex::new(Registry::new(limits)),
            line: Line::new(queue),
            gate,
            store,
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
    /// [`FleetError::IdleBoot`], [`FleetError::Ending`]. Afterwards [`FleetError::Engine`], and [`FleetError::Removed`] if somebody removed it meanwhile.
    pub async fn create(&self, new: NewSandbox) -> Result<Member, FleetError> {
        let begun = std::time::Instant::now();
        if let (Some(IdlePolicy { action: IdleAction::Pause, .. }), StartFrom::Boot) = (new.idle, &new.spec.start) {
            return Err(FleetError::IdleBoot);
        }
        // Nothing is taken from the pool for what is refused anyway.
        self.shared.registry().check_free(new.name.as_ref(), |_| false)?;
        new.spec.given.check()?;
        let ready = self.shared.claim(&new.spec).await;
        // What is ready keeps the id that its directory and its guest have.
        let id = ready.as_ref().map_or_else(SandboxId::random, |ready| ready.id().clone());
        let admitted = self.shared.line.come_in(|| self.shared.admit(vec![(id.clone(), new.clone())]));
        let admitted = admitted.instrument(info_span!("queue")).await?.pop();
        let origin = ready.map_or(Origin::Specification, |ready| Origin::Ready(ready, begun));
        let (member, made) = admitted.expect("as many are admitted as were given").begin(origin);
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

    /// Makes the template for such a sandbox within the limits, unless it is there. It is made to its end, even if nobody waits for that.
    ///
    /// Needs a tokio runtime.
    ///
    /// # Errors
    /// [`EngineError::OverBudget`], [`FleetError::Ending`], and as [`Engine::build_template`].
    pub async fn build_template(&self, spec: SandboxSpec) -> Result<TemplateRecord, FleetError> {
        self.shared.registry().check_machine(Share::of(&spec)).map_err(EngineError::from)?;
        let shared = self.shared.clone();
        let making = tokio::spawn(async move {
            let _pass = shared.gate.pass().await?;
            shared.engine.build_template(&spec).await
        });
        // Only the end of the runtime ends it before its own end.
        making.await.map_or(Err(FleetError::Ending), |made| Ok(made?))
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

    /// Takes no more sandboxes. Lets go of those that outlive this process once no work on them goes on, removes the others and the pool, and
    /// waits until that is done.
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

/// When a lifetime that begins now is over, by the clock that tasks wait by and by the one that people read.
fn expiry(lifetime: Option<Lifetime>) -> Option<(Instant, SystemTime)> {
    lifetime.map(|Lifetime(time)| (Instant::now() + time, SystemTime::now() + time))
}
