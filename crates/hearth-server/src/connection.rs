//! Connections: accepted, served, and ended in good order.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use hearth_engine::SandboxId;
use hearth_engine::fleet::{Leash, Member};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tower_service::Service;

use crate::{App, Socket, routes};

/// The connections that are served at once; more wait to be accepted.
const CONNECTIONS: usize = 2048;
/// The largest head of a request, in bytes, and what is read ahead of a body.
const BUFFER: usize = 64 * 1024;
/// How long connections have to finish once the daemon ends and its sandboxes are gone.
const FAREWELL: Duration = Duration::from_secs(5);

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

/// Serves until `told` or until there was neither a connection nor a sandbox for as long as `idle`; then accepts nothing more, removes all
/// sandboxes, and ends.
pub async fn serve<T>(socket: Socket, app: App, idle: Option<Duration>, told: impl Future<Output = T>) -> Ended<T> {
    let mut connections = Connections::new(app.clone());
    let ended = tokio::select! {
        told = told => Ended::Told(told),
        () = app.idle(idle) => Ended::Idle,
        broken = connections.accept(&socket) => Ended::Broken(broken),
    };
    // Whoever comes now finds no socket, and starts the next daemon, which waits for this one's lock.
    drop(socket);
    app.close();
    app.fleet().end().await;
    connections.finish().await;
    ended
}

struct Connections {
    app: App,
    places: Arc<Semaphore>,
    tasks: JoinSet<()>,
    closing: watch::Receiver<bool>,
}

impl Connections {
    fn new(app: App) -> Self {
        let closing = app.closing();
        Self { app, places: Arc::new(Semaphore::new(CONNECTIONS)), tasks: JoinSet::new(), closing }
    }

    async fn accept(&mut self, socket: &Socket) -> io::Error {
        let router = routes::router(self.app.clone());
        loop {
            let place = self.places.clone().acquire_owned().await;
            let stream = match socket.accept().await {
                Ok(stream) => stream,
                // There are no descriptors left: a connection that ends gives some back.
                Err(error) => match self.tasks.join_next().await {
                    Some(_) => continue,
                    None => return error,
                },
            };
            while self.tasks.try_join_next().is_some() {}
            let (router, guest, closing) = (router.clone(), self.app.arrive(), self.closing.clone());
            self.tasks.spawn(async move {
                let _held = (place, guest);
                connection(stream, router, closing).await;
            });
        }
    }

    async fn finish(mut self) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        // Those that have not ended by then are dropped with the set.
        let _ = tokio::time::timeout(FAREWELL, all).await;
    }
}

async fn connection(stream: UnixStream, router: axum::Router, mut closing: watch::Receiver<bool>) {
    let bound = Bound::default();
    let service = service_fn(move |request: Request<Incoming>| {
        let (mut router, bound) = (router.clone(), bound.clone());
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(bound);
            let answered: Result<_, Infallible> = router.call(request).await;
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
        _ = closing.wait_for(|closing| *closing) => serving.as_mut().graceful_shutdown(),
    }
    let _ = serving.await;
}
