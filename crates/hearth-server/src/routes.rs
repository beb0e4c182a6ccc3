//! What is at which path, and what all of it shares.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use hearth_api::{ErrorBody, OwnCode};
use hearth_client::Client;
use hearth_engine::fleet::{Fleet, Member};
use hearth_mcp::Profile;
use tokio::sync::watch;

use crate::answer::Refusal;
use crate::{events, exec, files, health, history, kernels, pool, processes, sandboxes, services, shells, usage};

/// The largest body of a request that is read whole, in bytes.
const BODY: usize = 4 * 1024 * 1024;

/// What all requests share.
#[derive(Debug, Clone)]
pub struct App {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    fleet: Fleet,
    /// Hearth's version.
    version: String,
    /// How many connections there are.
    visitors: watch::Sender<usize>,
    closing: watch::Sender<bool>,
}

/// A connection, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Visitor(App);

impl Drop for Visitor {
    fn drop(&mut self) {
        self.0.shared.visitors.send_modify(|count| *count -= 1);
    }
}

impl App {
    /// Makes an API over a fleet, of a Hearth of this version.
    pub fn new(fleet: Fleet, version: impl Into<String>) -> Self {
        let (visitors, closing) = (watch::Sender::new(0), watch::Sender::new(false));
        Self { shared: Arc::new(Shared { fleet, version: version.into(), visitors, closing }) }
    }

    /// The fleet below it.
    pub fn fleet(&self) -> &Fleet {
        &self.shared.fleet
    }

    pub(crate) fn version(&self) -> &str {
        &self.shared.version
    }

    pub(crate) fn member(&self, reference: &str) -> Result<Member, Refusal> {
        Ok(self.fleet().find(reference)?)
    }

    /// Counts a connection in.
    pub(crate) fn arrive(&self) -> Visitor {
        self.shared.visitors.send_modify(|count| *count += 1);
        Visitor(self.clone())
    }

    pub(crate) fn close(&self) {
        self.shared.closing.send_replace(true);
    }

    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.shared.closing.subscribe()
    }

    /// Waits until there has been neither a connection nor a sandbox for as long as `after`; for ever without.
    pub(crate) async fn idle(&self, after: Option<Duration>) {
        let Some(after) = after else { return std::future::pending().await };
        let (mut visitors, mut population) = (self.shared.visitors.subscribe(), self.fleet().population());
        loop {
            let is_quiet = *visitors.borrow_and_update() == 0 && *population.borrow_and_update() == 0;
            tokio::select! {
                () = tokio::time::sleep(after), if is_quiet => return,
                Ok(()) = visitors.changed() => {}
                Ok(()) = population.changed() => {}
            }
        }
    }
}

/// The whole API.
pub(crate) fn router(app: App) -> Router {
    let v1 = Router::new()
        .route("/health", get(health::health))
        .route("/version", get(health::version))
        .route("/pool", get(pool::pool))
        .route("/usage", get(usage::usage))
        .route("/events", get(events::follow))
        .route("/run", get(exec::run))
        .route("/sandboxes", get(sandboxes::list).post(sandboxes::create))
        .route("/sandboxes/{sandbox}", get(sandboxes::inspect).patch(sandboxes::change).delete(sandboxes::remove))
        .route("/sandboxes/{sandbox}/pause", post(sandboxes::pause))
        .route("/sandboxes/{sandbox}/resume", post(sandboxes::resume))
        .route("/sandboxes/{sandbox}/fork", post(sandboxes::fork))
        .route("/sandboxes/{sandbox}/snapshot", post(sandboxes::snapshot))
        .route("/sandboxes/{sandbox}/logs", get(sandboxes::logs))
        .route("/sandboxes/{sandbox}/exec", post(exec::one_shot).get(exec::held))
        .nest("/sandboxes/{sandbox}/processes", of_processes())
        .nest("/sandboxes/{sandbox}/services", of_services())
        .nest("/sandboxes/{sandbox}/shells", of_shells())
        .route("/sandboxes/{sandbox}/ports", get(services::ports).post(services::publish))
        .route("/sandboxes/{sandbox}/ports/{port}", axum::routing::delete(services::unpublish))
        .route("/sandboxes/{sandbox}/secrets", get(services::secrets).put(services::set_secrets))
        .route("/sandboxes/{sandbox}/secrets/{name}", axum::routing::delete(services::remove_secret))
        .nest("/sandboxes/{sandbox}/kernels", of_kernels())
        .nest("/sandboxes/{sandbox}/files", of_files())
        .route(
            "/sandboxes/{sandbox}/archive",
            get(files::export).post(files::export_only).put(files::import).layer(DefaultBodyLimit::disable()),
        );
    let v1 = v1.merge(of_history());
    Router::new()
        .nest("/v1", v1)
        .merge(of_mcp(&app))
        .route("/metrics", get(health::metrics))
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(app)
}

fn of_processes() -> Router<App> {
    Router::new()
        .route("/", get(processes::list).post(processes::start))
        .route("/{process}/output", get(processes::output))
        .route("/{process}/input", post(processes::input))
        .route("/{process}/signal", post(processes::signal))
        .route("/{process}/attach", get(processes::attach))
}

fn of_services() -> Router<App> {
    Router::new()
        .route("/", get(services::list).post(services::start))
        .route("/{name}", get(services::inspect).delete(services::remove))
        .route("/{name}/stop", post(services::stop))
        .route("/{name}/restart", post(services::restart))
        .route("/{name}/logs", get(services::logs))
}

fn of_kernels() -> Router<App> {
    Router::new()
        .route("/", get(kernels::list).post(kernels::start))
        .route("/{name}", axum::routing::delete(kernels::remove))
        .route("/{name}/exec", post(kernels::exec))
        .route("/{name}/interrupt", post(kernels::interrupt))
        .route("/{name}/restart", post(kernels::restart))
}

fn of_files() -> Router<App> {
    Router::new()
        .route("/stat", post(files::stat))
        .route("/list", post(files::list))
        .route("/mkdir", post(files::mkdir))
        .route("/move", post(files::rename))
        .route("/copy", post(files::copy))
        .route("/remove", post(files::remove))
        .route("/symlink", post(files::symlink))
        .route("/chmod", post(files::chmod))
        .route("/edit", post(files::edit))
        .route("/search", post(files::search))
        .route("/content", get(files::read).put(files::write).layer(DefaultBodyLimit::disable()))
}

fn of_shells() -> Router<App> {
    Router::new()
        .route("/", get(shells::list).post(shells::open))
        .route("/{name}", axum::routing::delete(shells::close))
        .route("/{name}/output", get(shells::output))
        .route("/{name}/screen", get(shells::screen))
        .route("/{name}/input", post(shells::input))
        .route("/{name}/wait", post(shells::wait))
        .route("/{name}/signal", post(shells::signal))
        .route("/{name}/resize", post(shells::resize))
}

fn of_history() -> Router<App> {
    Router::new()
        .route("/sandboxes/{sandbox}/diff", get(history::diff))
        .route("/sandboxes/{sandbox}/changes", get(history::changes))
        .route("/sandboxes/{sandbox}/patch", post(history::patch).layer(DefaultBodyLimit::disable()))
        .route("/sandboxes/{sandbox}/reset", post(history::reset))
        .route("/sandboxes/{sandbox}/checkpoints", get(history::checkpoints).post(history::checkpoint))
        .route("/sandboxes/{sandbox}/checkpoints/{name}", axum::routing::delete(history::remove_checkpoint))
}

/// MCP over HTTP: the default profile, and each by its name.
fn of_mcp(app: &App) -> Router<App> {
    let client = Client::new(app.fleet().engine().directories().home().join(hearth_api::SOCKET));
    let service = |profile| {
        let mut closing = app.closing();
        let ended = async move {
            let _ = closing.wait_for(|closing| *closing).await;
        };
        hearth_mcp::http(client.clone(), profile, ended)
    };
    let router = Router::new().route_service("/mcp", service(Profile::default()));
    let each = Profile::ALL.into_iter();
    each.fold(router, |router, profile| router.route_service(&format!("/mcp/{}", profile.name()), service(profile)))
}

async fn unknown(uri: axum::http::Uri) -> Refusal {
    ErrorBody::new(OwnCode::UnknownEndpoint, format!("there is nothing at {:?}", uri.path())).into()
}

async fn not_allowed(method: axum::http::Method, uri: axum::http::Uri) -> Refusal {
    ErrorBody::new(OwnCode::MethodNotAllowed, format!("{method} is not for {:?}", uri.path())).into()
}
