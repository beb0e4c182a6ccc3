//! Who is there: ids, names and what each takes of the budgets. Pure.

use std::collections::BTreeMap;

use super::{Budget, FleetError, OverBudget, SandboxName};
use crate::preflight::total_memory_mib;
use crate::{EngineError, SandboxId, SandboxSpec};

/// How much there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FleetLimits {
    /// The most sandboxes, whatever their state.
    pub sandboxes: usize,
    /// The most memory that guests with a machine may have together, in MiB.
    pub memory_mib: u64,
    /// The most processors that they may have together.
    pub cpus: u64,
}

impl FleetLimits {
    /// The most sandboxes where nobody says otherwise.
    pub const SANDBOXES: usize = 256;

    /// The processors that guests may have for each of the host's: an idle guest's take next to nothing.
    const CPUS_EACH: u64 = 128;

    /// What suits this host: as much memory for guests as four times its own, since an idle guest takes a tenth of what it is
    /// given; that enough is free for each is looked at when it is made.
    pub fn of_host() -> Self {
        let memory_mib = total_memory_mib().map_or(u64::MAX, |mib| mib * 4);
        let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u64) * Self::CPUS_EACH;
        Self { sandboxes: Self::SANDBOXES, memory_mib, cpus }
    }
}

/// What one takes of the budgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) memory_mib: u64,
    pub(super) cpus: u64,
}

impl Share {
    pub(super) fn of(spec: &SandboxSpec) -> Self {
        Self { memory_mib: u64::from(spec.memory.mib()), cpus: u64::from(spec.cpus.get()) }
    }
}

#[derive(Debug)]
struct Place<T> {
    name: Option<SandboxName>,
    memory_mib: u64,
    /// Taken for as long as the memory is.
    cpus: u64,
    value: T,
}

/// All that are there, by id.
#[derive(Debug)]
pub(super) struct Registry<T> {
    limits: FleetLimits,
    places: BTreeMap<String, Place<T>>,
}

impl<T: Clone> Registry<T> {
    pub(super) fn new(limits: FleetLimits) -> Self {
        Self { limits, places: BTreeMap::new() }
    }

    /// Takes one in, if its name is free and the limits allow it.
    pub(super) fn admit(
        &mut self,
        id: &SandboxId,
        name: Option<SandboxName>,
        share: Share,
        value: T,
    ) -> Result<(), FleetError> {
        // A name does not become free by waiting for memory, so it comes first.
        self.check_name(id, name.as_ref())?;
        self.check_budgets(share).map_err(EngineError::from)?;
        self.adopt(id, name, share, value);
        Ok(())
    }

    /// Takes one in that is there already, whatever the limits are.
    pub(super) fn adopt(&mut self, id: &SandboxId, name: Option<SandboxName>, share: Share, value: T) {
        let Share { memory_mib, cpus } = share;
        self.places.insert(id.as_str().to_owned(), Place { name, memory_mib, cpus, value });
    }

    fn check_budgets(&self, share: Share) -> Result<(), OverBudget> {
        let (used, limit) = (self.len() as u64, self.limits.sandboxes as u64);
        if used >= limit {
            return Err(OverBudget { budget: Budget::Sandboxes, limit, used, wanted: 1 });
        }
        self.check_machine(share)
    }

    /// Checks what only those with a machine take.
    pub(super) fn check_machine(&self, share: Share) -> Result<(), OverBudget> {
        let FleetLimits { memory_mib, cpus, .. } = self.limits;
        [
            (Budget::Memory, memory_mib, self.memory_mib(), share.memory_mib),
            (Budget::Cpus, cpus, self.cpus(), share.cpus),
        ]
        .into_iter()
        .find(|(_, limit, used, wanted)| used.saturating_add(*wanted) > *limit)
        .map_or(Ok(()), |(budget, limit, used, wanted)| Err(OverBudget { budget, limit, used, wanted }))
    }

    /// Notes that one that took no memory takes some again, if the limits allow it.
    pub(super) fn charge(&mut self, id: &SandboxId, share: Share) -> Result<(), FleetError> {
        self.check_machine(share).map_err(EngineError::from)?;
        self.set_memory(id, share.memory_mib);
        Ok(())
    }

    fn check_name(&self, id: &SandboxId, name: Option<&SandboxName>) -> Result<(), FleetError> {
        self.check_free(name, |holder| holder == id.as_str())
    }

    /// Checks that a name is nobody's, or is that of somebody whom `may_be` takes.
    pub(super) fn check_free(
        &self,
        name: Option<&SandboxName>,
        may_be: impl Fn(&str) -> bool,
    ) -> Result<(), FleetError> {
        let Some(name) = name else { return Ok(()) };
        let holder = self.places.iter().find(|(other, place)| place.name.as_ref() == Some(name) && !may_be(other));
        match holder {
            None => Ok(()),
            Some((holder, _)) => Err(FleetError::NameTaken { name: name.to_string(), holder: holder.clone() }),
        }
    }

    /// Gives one another name, or none.
    pub(super) fn rename(&mut self, id: &SandboxId, name: Option<SandboxName>) -> Result<(), FleetError> {
        self.check_name(id, name.as_ref())?;
        match self.places.get_mut(id.as_str()) {
            Some(place) => place.name = name,
            None => return Err(FleetError::Unknown { reference: id.to_string() }),
        }
        Ok(())
    }

    /// What one is called.
    pub(super) fn name(&self, id: &SandboxId) -> Option<SandboxName> {
        self.places.get(id.as_str())?.name.clone()
    }

    /// Notes what one takes of the memory from now on.
    pub(super) fn set_memory(&mut self, id: &SandboxId, memory_mib: u64) {
        if let Some(place) = self.places.get_mut(id.as_str()) {
            place.memory_mib = memory_mib;
        }
    }

    /// Lets one go.
    pub(super) fn release(&mut self, id: &SandboxId) {
        self.places.remove(id.as_str());
    }

    /// Finds the one that is meant by its id, its name, or the beginning of its id, with or without `sb-`.
    pub(super) fn find(&self, reference: &str) -> Result<T, FleetError> {
        let by_name =
            || self.places.values().find(|place| place.name.as_ref().is_some_and(|name| name.as_str() == reference));
        if let Some(place) = self.places.get(reference).or_else(by_name) {
            return Ok(place.value.clone());
        }
        let is_meant = |id: &str| {
            let digits = id.trim_start_matches("sb-");
            !reference.is_empty() && (digits.starts_with(reference) || id.starts_with(reference))
        };
        let mut meant = self.places.iter().filter(|(id, _)| is_meant(id));
        match (meant.next(), meant.count()) {
            (None, _) => Err(FleetError::Unknown { reference: reference.to_owned() }),
            (Some((_, place)), 0) => Ok(place.value.clone()),
            (Some(_), more) => Err(FleetError::Ambiguous { reference: reference.to_owned(), count: more + 1 }),
        }
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.places.values().map(|place| &place.value)
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// What all take of the memory, in MiB.
    pub(super) fn memory_mib(&self) -> u64 {
        self.places.values().map(|place| place.memory_mib).sum()
    }

    /// What all take of the processors.
    pub(super) fn cpus(&self) -> u64 {
        self.places.values().filter(|place| place.memory_mib > 0).map(|place| place.cpus).sum()
    }

    pub(super) fn limits(&self) -> FleetLimits {
        self.limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn share(memory_mib: u64) -> Share {
        Share { memory_mib, cpus: 1 + memory_mib % 3 }
    }

    fn name(text: &str) -> Option<SandboxName> {
        Some(SandboxName::new(text).unwrap())
    }

    fn with(names: &[&str]) -> (Registry<usize>, Vec<SandboxId>) {
        let mut registry = Registry::new(FleetLimits { sandboxes: 4, memory_mib: 1000, cpus: 9 });
        let ids: Vec<SandboxId> = names.iter().map(|_| SandboxId::random()).collect();
        for (number, (id, text)) in ids.iter().zip(names).enumerate() {
            registry.admit(id, name(text), share(100), number).unwrap();
        }
        (registry, ids)
    }

    #[test]
    fn one_is_found_by_id_name_and_unique_beginning() {
        let (registry, ids) = with(&["a", "web"]);
        assert_eq!(registry.find(ids[1].as_str()).unwrap(), 1);
        assert_eq!(registry.find("web").unwrap(), 1);
        assert_eq!(registry.find(&ids[0].as_str()[..12]).unwrap(), 0);
        assert_eq!(registry.find(&ids[0].as_str()[3..12]).unwrap(), 0);
        assert!(matches!(registry.find("sb-"), Err(FleetError::Ambiguous { count: 2, .. })));
        for unknown in ["", "we", "zzz"] {
            assert!(matches!(registry.find(unknown), Err(FleetError::Unknown { .. })), "{unknown:?}");
        }
    }

    #[test]
    fn a_name_is_held_once_and_free_again_afterwards() {
        // No name here could be the beginning of an id, which would find its holder too.
        let (mut registry, ids) = with(&["web", "work"]);
        assert!(matches!(registry.rename(&ids[1], name("web")), Err(FleetError::NameTaken { .. })));
        registry.rename(&ids[1], name("work")).unwrap();
        registry.release(&ids[0]);
        registry.rename(&ids[1], name("web")).unwrap();
        assert_eq!(registry.find("web").unwrap(), 1);
        assert!(registry.find("work").is_err());
    }

    proptest! {
        #[test]
        fn the_limits_hold_whatever_comes_and_goes(steps in prop::collection::vec((0_u64..600, any::<bool>()), 0..40)) {
            let limits = FleetLimits { sandboxes: 4, memory_mib: 1000, cpus: 6 };
            let mut registry = Registry::new(limits);
            let mut ids = Vec::new();
            for (memory, goes) in steps {
                match ids.pop() {
                    Some(id) if goes => registry.release(&id),
                    other => ids.extend(other),
                }
                let id = SandboxId::random();
                let share = share(memory);
                let fits = registry.len() < limits.sandboxes
                    && registry.memory_mib() + memory <= limits.memory_mib
                    && registry.cpus() + share.cpus <= limits.cpus;
                let admitted = registry.admit(&id, None, share, ()).is_ok();
                prop_assert_eq!(admitted, fits);
                ids.extend(admitted.then_some(id));
                prop_assert!(registry.len() <= limits.sandboxes && registry.memory_mib() <= limits.memory_mib);
                prop_assert!(registry.cpus() <= limits.cpus);
            }
        }
    }
}
