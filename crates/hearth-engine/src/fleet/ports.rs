//! Published ports: addresses of this host that lead to a port in a guest.
//!
//! Each has a task that accepts, and each connection one that carries it. They end with what they are published for: the sandbox, or a service
//! in it; of a stopped sandbox they stay, and lead nowhere until it is started. A connection wakes a paused sandbox, and is use of it for as long as it lasts. Bytes pass exactly, each way to its own end; a
//! connection that cannot be made, or breaks, is reset, so that it is never taken for one that came to its end.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hearth_protocol::dial::DialRequest;
use rustix::net::sockopt::set_socket_linger;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

use super::{FleetError, Input, Member};
use crate::forward::{Until, carry};

/// The most ports that one sandbox publishes.
pub const MOST_PORTS: usize = 64;
/// The connections of one port that are carried at once; more wait to be accepted.
const CONNECTIONS: usize = 256;

/// A port to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPort {
    /// Where to listen on this host; port 0 is any that is free.
    pub listen: SocketAddr,
    /// The port in the guest.
    pub guest_port: u16,
    /// The address in the guest; its loopback by default.
    pub guest_host: Option<String>,
    /// The service it belongs to: it is closed when that is stopped or removed.
    pub service: Option<String>,
}

/// A port that is published: its address is the one that it listens on.
pub type PublishedPort = NewPort;

/// The ports of one sandbox.
#[derive(Debug, Default)]
pub(super) struct Ports(Mutex<Vec<Open>>);

#[derive(Debug)]
struct Open {
    port: PublishedPort,
    task: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ports {
    fn with<T>(&self, work: impl FnOnce(&mut Vec<Open>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Those that are open.
    pub(super) fn published(&self) -> Vec<PublishedPort> {
        self.with(|open| open.iter().map(|open| open.port.clone()).collect())
    }

    /// Closes all.
    pub(super) fn close(&self) {
        self.with(Vec::clear);
    }
}

impl Member {
    /// Publishes a port. That something listens in the guest is not looked at.
    ///
    /// # Errors
    /// [`FleetError::Dial`], [`FleetError::Listen`], [`FleetError::TooManyPorts`], [`FleetError::WrongState`], [`FleetError::Engine`] with
    /// [`crate::EngineError::Store`].
    pub async fn publish(&self, new: NewPort) -> Result<PublishedPort, FleetError> {
        let port = self.listen(new).await?;
        let kept = self.entry.ports.with(|open| {
            let kept = self.keep_ports(open);
            // Its task listens for as long as the port is among the open ones.
            kept.inspect_err(|_| open.retain(|open| open.port.listen != port.listen))
        });
        kept.map(|()| port)
    }

    /// Notes those that are open, if the sandbox outlives this process.
    fn keep_ports(&self, open: &[Open]) -> Result<(), FleetError> {
        let ports: Vec<_> = open.iter().map(|open| open.port.clone()).collect();
        Ok(self.shared.keep_ports(&self.entry, &ports)?)
    }

    /// Publishes a port without noting it.
    pub(super) async fn listen(&self, new: NewPort) -> Result<PublishedPort, FleetError> {
        let to = DialRequest::Tcp { host: new.guest_host.clone(), port: new.guest_port, timeout_ms: None };
        to.validate().map_err(|source| FleetError::Dial { source })?;
        let failed = |source| FleetError::Listen { address: new.listen, source };
        let listener = TcpListener::bind(new.listen).await.map_err(failed)?;
        let port = PublishedPort { listen: listener.local_addr().map_err(failed)?, ..new.clone() };
        let published = self.entry.ports.with(|open| {
            if open.len() >= MOST_PORTS {
                return Err(FleetError::TooManyPorts { limit: MOST_PORTS });
            }
            let task = tokio::spawn(accept(listener, self.clone(), to)).abort_handle();
            open.push(Open { port: port.clone(), task });
            Ok(port)
        });
        // One that is being removed may have closed its ports already.
        let state = self.view().state;
        if self.entry.is_over(state) {
            self.entry.ports.close();
            return Err(self.refused(state, Input::Resume));
        }
        published
    }

    /// The ports that are published.
    pub fn ports(&self) -> Vec<PublishedPort> {
        self.entry.ports.published()
    }

    /// Closes a port of this host's, with its connections.
    ///
    /// # Errors
    /// [`FleetError::UnknownPort`].
    pub fn unpublish(&self, port: u16) -> Result<(), FleetError> {
        let is_other = |open: &Open| open.port.listen.port() != port;
        let closed = self.entry.ports.with(|open| {
            let before = open.len();
            open.retain(is_other);
            (before != open.len()).then(|| self.keep_ports(open))
        });
        closed.unwrap_or(Err(FleetError::UnknownPort { port }))
    }

    /// Closes the ports that are published for a service.
    pub fn unpublish_service(&self, service: &str) {
        self.unpublish_where(|port| port.service.as_deref() == Some(service));
    }

    /// Closes the ports that are published for any service.
    pub(super) fn unpublish_services(&self) {
        self.unpublish_where(|port| port.service.is_some());
    }

    fn unpublish_where(&self, goes: impl Fn(&PublishedPort) -> bool) {
        self.entry.ports.with(|open| {
            open.retain(|open| !goes(&open.port));
            // Where that cannot be noted it is open again for the next daemon, which leads to a service that is not there.
            let _ = self.keep_ports(open);
        });
    }
}

async fn accept(listener: TcpListener, member: Member, to: DialRequest) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    // Dropped with this task, and with it all connections.
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // There are no descriptors left: a connection that ends gives some back.
            drop(place);
            if connections.join_next().await.is_none() {
                return;
            }
            continue;
        };
        while connections.try_join_next().is_some() {}
        let (member, to) = (member.clone(), to.clone());
        connections.spawn(async move {
            let _place = place;
            join(&member, to, stream).await;
        });
    }
}

async fn join(member: &Member, to: DialRequest, mut client: TcpStream) {
    // Dropped before its end, it is reset.
    let _ = set_socket_linger(&client, Some(Duration::ZERO));
    // Where latency cannot be had, it works all the same.
    let _ = client.set_nodelay(true);
    let Ok(guest) = member.channel().await else { return };
    let Ok(stream) = guest.dial(to).await else { return };
    let (reader, writer) = client.split();
    if carry(&stream, reader, writer, Until::BothAreDone).await.is_ok() {
        let _ = set_socket_linger(&client, None);
    }
}
