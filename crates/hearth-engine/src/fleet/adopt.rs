//! What outlives the process: noted by tasks and members, and taken over by the next process's fleet.

use std::sync::Arc;

use hearth_vmm::SealedRam;
use tokio::sync::{mpsc, oneshot};

use super::entry::Entry;
use super::ports::NewPort;
use super::registry::Share;
use super::task::{Message, Task};
use super::work::{Left, Origin};
use super::{Fleet, FleetError, FleetLimits, Happening, INBOX, Member, QueueLimits, SandboxName, Shared, State};
use crate::store::{Changed, Kept, Lasting, Rows, Store, StoreError};
use crate::{Engine, EngineError, PoolLimits, Sandbox};

impl Fleet {
    /// Opens the fleet of a home's one daemon: its sandboxes outlive this process, and those that an earlier one has left are there again, each
    /// for requests as soon as it was taken over. What is left of others is ended and removed.
    ///
    /// Whoever calls this holds the lock of the one daemon. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`EngineError::Store`], [`EngineError::Directory`].
    pub async fn open(
        engine: Engine,
        limits: FleetLimits,
        queue: QueueLimits,
        pool: PoolLimits,
    ) -> Result<Self, EngineError> {
        let engine = engine.lasting();
        let store = Store::open(&engine.directories().state())?;
        let Rows { sandboxes: mut left, unreadable } = store.all()?;
        // The last word was lost with the host's power: a directory goes only after its row.
        let gone = left.extract_if(.., |last| !engine.has_directory(&last.id));
        gone.into_iter().try_for_each(|last| store.remove(&last.id))?;
        let wanted = left.iter().map(|last| last.id.as_str()).chain(unreadable.iter().map(String::as_str));
        engine.reap(|name| wanted.clone().any(|id| id == name));
        let fleet = Self::pooled(engine, limits, queue, pool, Some(store));
        for last in left {
            let mapped = fleet.shared.engine.find_mapped(&last);
            fleet.shared.take_over(last, mapped).await;
        }
        Ok(fleet)
    }
}

impl Shared {
    /// Takes in a sandbox that an earlier process has left, and begins to take it over.
    async fn take_over(self: &Arc<Self>, last: Lasting, mapped: Option<Arc<SealedRam>>) {
        let (sender, inbox) = mpsc::channel(INBOX);
        let member = Member { entry: Arc::new(Entry::adopted(&last, sender)), shared: self.clone() };
        let count = {
            let mut registry = self.registry();
            registry.adopt(&last.id, last.name.clone(), Share::of(&last.spec), member.clone());
            registry.len()
        };
        self.population.send_replace(count);
        member.note(State::Adopting, None);
        let lost = member.open_again(&last.ports).await;
        let (made, _) = oneshot::channel();
        tokio::spawn(Task::new(member, Origin::Left(Left { last: Box::new(last), lost, mapped }), inbox, made).run());
    }

    /// The store, for a sandbox that outlives this process.
    fn store_of(&self, entry: &Entry) -> Option<&Store> {
        self.store.as_ref().filter(|_| entry.lasts())
    }

    /// Notes that sandboxes are there, all or none. They take requests.
    pub(super) fn keep<'a>(&self, made: impl Iterator<Item = (&'a Entry, &'a Sandbox)>) -> Result<(), StoreError> {
        let Some(store) = &self.store else { return Ok(()) };
        // Held to the end, so that no change comes between looking and noting.
        let registry = self.registry();
        let lasting = made.filter(|(entry, _)| entry.lasts());
        let lasting: Vec<_> =
            lasting.map(|(entry, sandbox)| Self::lasting(entry, registry.name(&entry.id), sandbox)).collect();
        if lasting.is_empty() { Ok(()) } else { store.add(&lasting) }
    }

    fn lasting(entry: &Entry, name: Option<SandboxName>, sandbox: &Sandbox) -> Lasting {
        Lasting {
            id: entry.id.clone(),
            name,
            labels: entry.labels(),
            created: entry.created,
            expires: entry.expires.borrow().map(|(_, at)| at),
            idle: *entry.idle.borrow(),
            spec: entry.spec.clone().without_secrets(),
            digest: sandbox.spec.image.clone(),
            template: sandbox.lies_on().ok().map(|below| below.id.clone()),
            way: sandbox.way(),
            disk_below: sandbox.disk_below(),
            state: Kept::Running,
            ports: entry.ports.published(),
        }
    }

    pub(super) fn keep_change(&self, entry: &Entry, changed: &Changed) -> Result<(), EngineError> {
        self.store_of(entry).map_or(Ok(()), |store| Ok(store.change(&entry.id, changed)?))
    }

    pub(super) fn keep_state(&self, entry: &Entry, state: &Kept) -> Result<(), StoreError> {
        self.store_of(entry).map_or(Ok(()), |store| store.stands(&entry.id, state))
    }

    pub(super) fn keep_ports(&self, entry: &Entry, ports: &[NewPort]) -> Result<(), EngineError> {
        self.store_of(entry).map_or(Ok(()), |store| Ok(store.publish(&entry.id, ports)?))
    }

    /// Notes that a sandbox is to go, before anything of it does. Where that cannot be noted, that its directory is gone says the same.
    pub(super) fn forget(&self, entry: &Entry) {
        let _ = self.store_of(entry).map_or(Ok(()), |store| store.remove(&entry.id));
    }
}

impl Member {
    /// Lets one outlive this process that was bound to something of it.
    ///
    /// # Errors
    /// [`FleetError::WrongState`] while it has no machine that takes requests, [`FleetError::Removed`], [`FleetError::Engine`] with
    /// [`EngineError::Store`].
    pub async fn keep(&self) -> Result<(), FleetError> {
        self.ask(Message::Keep).await
    }

    /// Publishes ports again, and tells of those that cannot be.
    async fn open_again(&self, ports: &[NewPort]) -> Vec<String> {
        let mut lost = Vec::new();
        for port in ports {
            if let Err(error) = self.listen(port.clone()).await {
                lost.push(format!("port {} is no longer published: {}", port.listen, crate::chain(&error)));
            }
        }
        lost
    }

    /// Publishes that it was taken over.
    pub(super) fn note_adopted(&self, told: Vec<String>) {
        let name = self.shared.registry().name(&self.entry.id);
        let told = Some(told.join("; ")).filter(|told| !told.is_empty());
        self.shared.events.add(&self.entry.id, name, Happening::Adopted { told });
    }
}
