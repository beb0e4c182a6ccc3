//! Those who have connected over TCP and not shown a key yet: there is room for some, and for fewer of them from one network.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The strangers that are attended to at once; more wait to be accepted.
const STRANGERS: usize = 256;
/// Of them, those from one network. More are hung up on, so that whoever has one address keeps out nobody who has another.
const OF_A_NETWORK: usize = 64;
/// The part of an IPv6 address that is a network's: who has one, has all addresses in it.
const NETWORK_V6: u128 = !0 << 64;

/// The strangers there are.
#[derive(Debug)]
pub(crate) struct Strangers {
    places: Arc<Semaphore>,
    networks: Mutex<HashMap<IpAddr, usize>>,
}

/// A stranger, until it has shown a key or is gone.
#[derive(Debug)]
pub(crate) struct Stranger {
    _place: Option<OwnedSemaphorePermit>,
    network: IpAddr,
    all: Arc<Strangers>,
}

impl Strangers {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { places: Arc::new(Semaphore::new(STRANGERS)), networks: Mutex::default() })
    }

    /// Waits until there is room for somebody, whoever that is.
    pub(crate) async fn room(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().acquire_owned().await.ok()
    }

    /// Gives the room to somebody; not to one of a network that has as many here as it may.
    pub(crate) fn arrive(self: &Arc<Self>, place: Option<OwnedSemaphorePermit>, address: IpAddr) -> Option<Stranger> {
        let network = network(address);
        let mut networks = self.networks();
        let count = networks.entry(network).or_default();
        if *count >= OF_A_NETWORK {
            return None;
        }
        *count += 1;
        Some(Stranger { _place: place, network, all: self.clone() })
    }

    fn networks(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut networks = self.all.networks();
        let count = networks.entry(self.network).or_default();
        *count = count.saturating_sub(1);
        if *count == 0 {
            networks.remove(&self.network);
        }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK_V6).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn come(all: &Arc<Strangers>, address: &str) -> Option<Stranger> {
        all.arrive(None, address.parse().unwrap())
    }

    #[test]
    fn a_network_that_has_its_places_keeps_out_its_own_alone() {
        let all = Strangers::new();
        let mut crowd: Vec<Stranger> = (0..OF_A_NETWORK).map(|_| come(&all, "10.0.0.1").unwrap()).collect();
        assert!(come(&all, "10.0.0.1").is_none());
        // The same address, as a listener of both families sees it.
        assert!(come(&all, "::ffff:10.0.0.1").is_none());
        assert!(come(&all, "10.0.0.2").is_some());
        crowd.pop();
        assert!(come(&all, "10.0.0.1").is_some());
        let others: Vec<Option<Stranger>> =
            (0..=OF_A_NETWORK).map(|host| come(&all, &format!("2001:db8:0:1::{host:x}"))).collect();
        assert_eq!(others.iter().flatten().count(), OF_A_NETWORK);
        assert!(come(&all, "2001:db8:0:2::1").is_some());
        drop((crowd, others));
        assert!(all.networks().is_empty());
    }

    #[tokio::test]
    async fn there_is_room_for_some_and_again_when_one_has_gone() {
        let all = Strangers::new();
        let mut crowd = Vec::new();
        for number in 0..STRANGERS {
            let address = IpAddr::from([10, 0, 0, u8::try_from(number).unwrap()]);
            crowd.push(all.arrive(all.room().await, address).unwrap());
        }
        assert_eq!(all.places.available_permits(), 0);
        crowd.pop();
        assert!(all.room().await.is_some());
    }
}
