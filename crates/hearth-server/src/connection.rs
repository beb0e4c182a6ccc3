//! Connections: accepted, served, and ended in good order.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONNECTION;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Response};
use axum::response::IntoResponse;
use hearth_engine::SandboxId;
use hearth_engine::fleet::{Leash, Member};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

use crate::answer::Refusal;
use crate::remote::{Caller, Gate, PATIENCE, Stranger, Strangers};
use crate::routes::Visitor;
use crate::{App, Remote, Socket, routes};

/// The connections that are served at once; more wait to be accepted.
const CONNECTIONS: usize = 2048;
/// The same for those over TCP that have shown a key, which are counted apart: whoever holds them all holds up nobody at the socket.
const REMOTE_CONNECTIONS: usize = 512;
/// The largest head of a request, in bytes, and what is read ahead of a body.
const BUFFER: usize = 64 * 1024;
/// How long connections have to finish once the daemon ends and its sandboxes are gone.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long nobody is let in at most for want of descriptors, before that is tried again.
const SHORTAGE: Duration = Duration::from_millis(100);

/// Why [`serve`] has returned.
#[derive(Debug)]
pub enum Ended<T> {
    /// What it was to wait for has come.
    Told(T),
    /// There was nothing to do for as long as was asked.
    Idle,
    /// No connections can be accepted any more.
    Broken(io::Error),
}

/// What goes with a connection: sandboxes that are bound to it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bound(Arc<Mutex<Leashes>>);

#[derive(Debug, Default)]
struct Leashes {
    bound: Vec<Leash>,
    provisional: Vec<(SandboxId, Leash)>,
}

impl Bound {
    /// Has a sandbox removed when the connection ends.
    pub(crate) fn add(&self, member: Member) {
        self.all().bound.push(Leash::new(member));
    }

    /// The same, until it is kept.
    pub(crate) fn add_provisional(&self, member: Member) {
        self.all().provisional.push((member.id().clone(), Leash::new(member)));
    }

    /// Whether a sandbox may still be kept over this connection.
    pub(crate) fn is_provisional(&self, member: &Member) -> bool {
        self.all().provisional.iter().any(|(id, _)| id == member.id())
    }

    /// Lets a provisional sandbox live on.
    pub(crate) fn keep(&self, member: &Member) {
        let provisional = &mut self.all().provisional;
        if let Some(index) = provisional.iter().position(|(id, _)| id == member.id()) {
            provisional.swap_remove(index).1.release();
        }
    }

    fn all(&self) -> MutexGuard<'_, Leashes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where connections come from.
#[derive(Debug)]
pub struct Listeners {
    /// Those of this process's own user.
    pub socket: Socket,
    /// Those of whoever has a key.
    pub remote: Option<Remote>,
}

/// Serves until `told` or until there was neither a connection nor a sandbox for as long as `idle`; then accepts nothing more, removes all
/// sandboxes, and ends.
pub async fn serve<T>(
    listeners: Listeners,
    app: App,
    idle: Option<Duration>,
    told: impl Future<Output = T>,
) -> Ended<T> {
    let mut connections = Connections::new(app.clone());
    let ended = tokio::select! {
        told = told => Ended::Told(told),
        () = app.idle(idle) => Ended::Idle,
        broken = connections.accept(&listeners) => Ended::Broken(broken),
    };
    // Whoever comes now finds no socket, and starts the next daemon, which waits for this one's lock.
    drop(listeners);
    app.close();
    app.fleet().end().await;
    connections.finish().await;
    ended
}

/// A connection's place among those that are served at once, once it has one, and its count. What a request becomes beyond the connection, a
/// WebSocket, holds it too.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    held: Arc<(OnceLock<OwnedSemaphorePermit>, Visitor)>,
}

/// Somebody who has connected.
enum Arrival {
    Owner(OwnedSemaphorePermit, UnixStream, Option<i32>),
    Stranger(Stranger, TcpStream, Arc<Gate>, Option<TlsAcceptor>),
}

struct Connections {
    app: App,
    /// Made before anybody is waited for: nobody is to be idle meanwhile.
    router: Router,
    places: Arc<Semaphore>,
    remote_places: Arc<Semaphore>,
    strangers: Arc<Strangers>,
    tasks: JoinSet<()>,
    closing: watch::Receiver<bool>,
}

impl Connections {
    fn new(app: App) -> Self {
        let closing = app.closing();
        let places = |count| Arc::new(Semaphore::new(count));
        let (places, remote_places) = (places(CONNECTIONS), places(REMOTE_CONNECTIONS));
        let router = routes::router(app.clone());
        let strangers = Strangers::new();
        Self { app, router, places, remote_places, strangers, tasks: JoinSet::new(), closing }
    }

    async fn accept(&mut self, listeners: &Listeners) -> io::Error {
        loop {
            let arrived = tokio::select! {
                arrived = own(&self.places, &listeners.socket) => arrived,
                arrived = strangers(&self.strangers, listeners.remote.as_ref()) => arrived,
            };
            let arrival = match arrived {
                Ok(arrived) => arrived,
                // There are no descriptors left: what ends gives some back, connections and all else that has some, and nothing tells of
                // all of it.
                Err(error) if is_short_of_descriptors(&error) => {
                    let ended = async {
                        if self.tasks.join_next().await.is_none() {
                            std::future::pending::<()>().await;
                        }
                    };
                    let _ = tokio::time::timeout(SHORTAGE, ended).await;
                    continue;
                }
                // Whoever has connected is gone again.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return error,
            };
            while self.tasks.try_join_next().is_some() {}
            let (router, closing) = (self.router.clone(), self.closing.clone());
            let place = Place { held: Arc::new((OnceLock::new(), self.app.arrive())) };
            self.tasks.spawn(attend(arrival, place, self.remote_places.clone(), router, closing));
        }
    }

    async fn finish(mut self) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        // Those that have not ended by then are dropped with the set.
        let _ = tokio::time::timeout(FAREWELL, all).await;
    }
}

async fn own(places: &Arc<Semaphore>, socket: &Socket) -> io::Result<Arrival> {
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, pid) = socket.accept().await?;
    Ok(Arrival::Owner(place, stream, pid))
}

async fn strangers(all: &Arc<Strangers>, remote: Option<&Remote>) -> io::Result<Arrival> {
    let Some(remote) = remote else { return std::future::pending().await };
    loop {
        let room = all.room().await;
        let (stream, address) = remote.accept().await?;
        // Of a network that has too many here already, one is hung up on.
        if let Some(stranger) = all.arrive(room, address) {
            return Ok(Arrival::Stranger(stranger, stream, remote.gate(), remote.acceptor()));
        }
    }
}

fn is_short_of_descriptors(error: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    errno.is_some_and(|errno| [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE].contains(&errno))
}

async fn attend(
    arrival: Arrival,
    place: Place,
    remote_places: Arc<Semaphore>,
    router: Router,
    closing: watch::Receiver<bool>,
) {
    let (stranger, stream, gate, acceptor) = match arrival {
        Arrival::Owner(own, stream, pid) => {
            place.take(own);
            return connection(stream, Door::Open(Caller::Owner { pid }), place, router, closing).await;
        }
        Arrival::Stranger(stranger, stream, gate, acceptor) => (stranger, stream, gate, acceptor),
    };
    let deadline = Instant::now() + PATIENCE;
    let stranger = Arc::new(Mutex::new(Some(stranger)));
    let door = Door::Kept { gate, deadline, stranger, places: remote_places };
    match acceptor {
        None => connection(stream, door, place, router, closing).await,
        // Who cannot shake hands is nobody to tell it to.
        Some(acceptor) => {
            if let Ok(Ok(stream)) = tokio::time::timeout_at(deadline, acceptor.accept(stream)).await {
                connection(stream, door, place, router, closing).await;
            }
        }
    }
}

impl Place {
    fn take(&self, place: OwnedSemaphorePermit) {
        // One that has a place already needs no other.
        let _ = self.held.0.set(place);
    }

    fn is_taken(&self) -> bool {
        self.held.0.get().is_some()
    }
}

/// What a connection's requests have to get past.
#[derive(Debug, Clone)]
enum Door {
    /// Nothing: it is known who asks.
    Open(Caller),
    /// The gate, the first of them before the deadline.
    Kept {
        gate: Arc<Gate>,
        deadline: Instant,
        /// The place that it has until then.
        stranger: Arc<Mutex<Option<Stranger>>>,
        /// Those of whoever has got past.
        places: Arc<Semaphore>,
    },
}

impl Door {
    /// Lets a request in, and says whose it is. The first waits until there is a place for its connection.
    async fn admit(&self, request: &Parts, place: &Place) -> Result<Caller, Refusal> {
        let (gate, stranger, places) = match self {
            Self::Open(caller) => return Ok(caller.clone()),
            Self::Kept { gate, stranger, places, .. } => (gate, stranger, places),
        };
        let caller = gate.admit(request)?;
        if !place.is_taken()
            && let Ok(own) = places.clone().acquire_owned().await
        {
            place.take(own);
            drop(stranger.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
        Ok(caller)
    }

    /// Ends when nobody was let in before the deadline.
    async fn overdue(&self, admitted: &Notify) {
        if let Self::Kept { deadline, .. } = self
            && tokio::time::timeout_at(*deadline, admitted.notified()).await.is_err()
        {
            return;
        }
        std::future::pending().await
    }
}

/// Says no, and ends the connection: who guesses has to come anew each time.
fn turn_away(refusal: Refusal) -> Response<Body> {
    let mut answer = refusal.into_response();
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    door: Door,
    place: Place,
    router: Router,
    mut closing: watch::Receiver<bool>,
) {
    let (bound, admitted) = (Bound::default(), Arc::new(Notify::new()));
    let (entrance, has_come) = (door.clone(), admitted.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let (mut parts, body) = request.into_parts();
        let (entrance, mut router, bound) = (entrance.clone(), router.clone(), bound.clone());
        let (has_come, place) = (has_come.clone(), place.clone());
        async move {
            let caller = match entrance.admit(&parts, &place).await {
                Ok(caller) => caller,
                Err(refusal) => return Ok(turn_away(refusal)),
            };
            has_come.notify_one();
            parts.extensions.insert(bound);
            parts.extensions.insert(caller);
            parts.extensions.insert(place);
            let answered: Result<_, Infallible> = router.call(Request::from_parts(parts, Body::new(body))).await;
            answered
        }
    });
    let mut http = http1::Builder::new();
    http.max_buf_size(BUFFER);
    let serving = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::pin!(serving);
    tokio::select! {
        // How a connection ended is for its client to know.
        _ = &mut serving => return,
        () = door.overdue(&admitted) => return,
        _ = closing.wait_for(|closing| *closing) => serving.as_mut().graceful_shutdown(),
    }
    let _ = serving.await;
}
