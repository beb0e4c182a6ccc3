//! What is at which path, and what all of it shares.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::request::Parts;
use axum::{Json, Router};
use futures_util::FutureExt;
use hearth_api::{ErrorBody, OwnCode};
use hearth_client::Client;
use hearth_engine::fleet::{Fleet, Member};
use hearth_mcp::{Connect, Profile};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::Audit;
use crate::answer::Refusal;
use crate::openapi::{Api, delete, get, patch, post, put};
use crate::remote::Caller;
use crate::{events, exec, files, health, history, images, kernels, packages, pool, processes, sandboxes, services};
use crate::{shells, snapshots, templates, usage};

/// The largest body of a request that is read whole, in bytes.
const BODY: usize = 4 * 1024 * 1024;
/// The most snapshots that are moved at once.
const TRANSFERS: usize = 8;

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
    audit: Arc<Audit>,
    /// How many connections there are.
    visitors: watch::Sender<usize>,
    /// Places for snapshots that are being moved, each of which keeps a thread.
    transfers: Arc<Semaphore>,
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
    pub fn new(fleet: Fleet, version: impl Into<String>, audit: Audit) -> Self {
        let (visitors, closing) = (watch::Sender::new(0), watch::Sender::new(false));
        let (version, audit) = (version.into(), Arc::new(audit));
        let transfers = Arc::new(Semaphore::new(TRANSFERS));
        Self { shared: Arc::new(Shared { fleet, version, audit, visitors, transfers, closing }) }
    }

    pub(crate) fn audit(&self) -> Arc<Audit> {
        self.shared.audit.clone()
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

    /// Takes a place for a snapshot that is to be moved.
    pub(crate) fn transfer(&self) -> Result<OwnedSemaphorePermit, ErrorBody> {
        let place = self.shared.transfers.clone().try_acquire_owned();
        let message = || format!("{TRANSFERS} snapshots are being moved already: try again later");
        place.map_err(|_| ErrorBody::new(OwnCode::LimitReached, message()))
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
    api()
        .into_router(&app)
        .merge(of_mcp(&app))
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(app)
}

/// The description of the whole API, of a Hearth of this version: OpenAPI 3.1 in JSON.
pub fn openapi(version: &str) -> serde_json::Value {
    api().document(version)
}

async fn description(State(app): State<App>) -> Json<serde_json::Value> {
    Json(openapi(app.version()))
}

fn api() -> Api {
    let api = Api::default()
        .at("/v1/health", [get(health::health, "Tells whether the daemon is there, and what is used of its limits")])
        .at("/v1/version", [get(health::version, "Tells what the daemon is")])
        .at("/v1/pool", [get(pool::pool, "Tells what the warm pool holds")])
        .at("/v1/usage", [get(usage::usage, "Measures what sandboxes cost the host")])
        .at("/v1/events", [get(events::follow, "Follows what happens to sandboxes")])
        .at("/v1/run", [get(exec::run, "Makes a sandbox for one program, and holds it; both go with the WebSocket")])
        .at("/metrics", [get(health::metrics, "The daemon's figures")])
        .at("/openapi.json", [get(description, "This description")]);
    of_home(of_kernels(of_shells(of_services(of_processes(of_history(of_files(of_sandboxes(api))))))))
}

fn of_sandboxes(api: Api) -> Api {
    api.at(
        "/v1/sandboxes",
        [
            get(sandboxes::list, "Lists sandboxes, the oldest first"),
            post(sandboxes::create, "Makes a sandbox, and answers once it takes requests"),
        ],
    )
    .at(
        "/v1/sandboxes/{sandbox}",
        [
            get(sandboxes::inspect, "Describes a sandbox"),
            patch(
                sandboxes::change,
                "Changes name, labels, lifetime or idle policy: what is left out stays, null takes away",
            ),
            delete(sandboxes::remove, "Removes a sandbox, and answers once nothing of it is left"),
        ],
    )
    .at(
        "/v1/sandboxes/{sandbox}/pause",
        [post(sandboxes::pause, "Puts a sandbox on disk; the next request to its guest wakes it")],
    )
    .at("/v1/sandboxes/{sandbox}/resume", [post(sandboxes::resume, "Lets a paused sandbox go on")])
    .at("/v1/sandboxes/{sandbox}/fork", [post(sandboxes::fork, "Copies a running sandbox")])
    .at("/v1/sandboxes/{sandbox}/snapshot", [post(sandboxes::snapshot, "Saves a sandbox under a name; it goes on")])
    .at("/v1/sandboxes/{sandbox}/logs", [get(sandboxes::logs, "The end of a sandbox's console")])
    .at(
        "/v1/sandboxes/{sandbox}/ports",
        [
            get(services::ports, "Lists published ports"),
            post(services::publish, "Publishes a port, and tells the address that it listens on"),
        ],
    )
    .at(
        "/v1/sandboxes/{sandbox}/ports/{port}",
        [delete(services::unpublish, "Closes a published port, with its connections")],
    )
    .at(
        "/v1/sandboxes/{sandbox}/secrets",
        [
            get(services::secrets, "Lists secrets, without their values"),
            put(services::set_secrets, "Adds secrets, or gives new values to those that are there, all or none"),
        ],
    )
    .at("/v1/sandboxes/{sandbox}/secrets/{name}", [delete(services::remove_secret, "Removes a secret")])
}

fn of_home(api: Api) -> Api {
    api.at("/v1/snapshots", [get(snapshots::list, "Lists snapshots")])
        .at(
            "/v1/snapshots/{name}",
            [
                get(snapshots::inspect, "Describes a snapshot"),
                delete(snapshots::remove, "Removes a snapshot; sandboxes that were started from it go on"),
            ],
        )
        .at(
            "/v1/snapshots/{name}/archive",
            [
                get(snapshots::export, "Fetches a snapshot with all it needs but the image"),
                put(snapshots::import, "Takes in a snapshot that was fetched, under this name, all of it or nothing"),
            ],
        )
        .at(
            "/v1/templates",
            [
                get(templates::list, "Lists templates"),
                post(templates::build, "Makes the template for a kind of sandbox, unless it is there"),
            ],
        )
        .at("/v1/templates/{template}", [delete(templates::remove, "Removes a template that nothing needs")])
        .at("/v1/images", [get(images::list, "Lists images")])
        .at(
            "/v1/images/{image}",
            [
                get(images::inspect, "Describes an image"),
                delete(images::remove, "Removes an image's name, and with the last one the image"),
            ],
        )
}

fn of_processes(api: Api) -> Api {
    api.at(
        "/v1/sandboxes/{sandbox}/exec",
        [
            post(exec::one_shot, "Runs a program to its end"),
            get(exec::held, "Runs a program, and holds it over a WebSocket"),
        ],
    )
    .at(
        "/v1/sandboxes/{sandbox}/processes",
        [
            get(processes::list, "Lists the programs that the agent knows, those that have ended included"),
            post(processes::start, "Starts a program, and does not wait for it"),
        ],
    )
    .at(
        "/v1/sandboxes/{sandbox}/processes/{process}/output",
        [get(processes::output, "Reads a piece of what a program wrote")],
    )
    .at("/v1/sandboxes/{sandbox}/processes/{process}/input", [post(processes::input, "Gives a program input")])
    .at("/v1/sandboxes/{sandbox}/processes/{process}/signal", [post(processes::signal, "Sends a program a signal")])
    .at(
        "/v1/sandboxes/{sandbox}/processes/{process}/attach",
        [get(processes::attach, "Follows a program over a WebSocket")],
    )
}

fn of_services(api: Api) -> Api {
    api.at(
        "/v1/sandboxes/{sandbox}/packages",
        [post(packages::install, "Installs packages of a language, and answers once the installer has ended")],
    )
    .at(
        "/v1/sandboxes/{sandbox}/services",
        [
            get(services::list, "Lists services by name"),
            post(services::start, "Starts a service, and answers once it is ready or has failed"),
        ],
    )
    .at(
        "/v1/sandboxes/{sandbox}/services/{name}",
        [
            get(services::inspect, "Describes a service"),
            delete(services::remove, "Stops a service if it runs, and forgets it"),
        ],
    )
    .at(
        "/v1/sandboxes/{sandbox}/services/{name}/stop",
        [post(services::stop, "Stops a service; its ports close first")],
    )
    .at(
        "/v1/sandboxes/{sandbox}/services/{name}/restart",
        [post(services::restart, "Stops a service if it runs, and starts it again")],
    )
    .at("/v1/sandboxes/{sandbox}/services/{name}/logs", [get(services::logs, "A service's log")])
}

fn of_kernels(api: Api) -> Api {
    api.at(
        "/v1/sandboxes/{sandbox}/kernels",
        [get(kernels::list, "Lists kernels"), post(kernels::start, "Starts a kernel ahead of its first code")],
    )
    .at("/v1/sandboxes/{sandbox}/kernels/{name}", [delete(kernels::remove, "Ends a kernel")])
    .at(
        "/v1/sandboxes/{sandbox}/kernels/{name}/exec",
        [post(kernels::exec, "Runs code in a kernel, which is started if it is not there")],
    )
    .at("/v1/sandboxes/{sandbox}/kernels/{name}/interrupt", [post(kernels::interrupt, "Interrupts what a kernel runs")])
    .at(
        "/v1/sandboxes/{sandbox}/kernels/{name}/restart",
        [post(kernels::restart, "Starts a kernel anew, without its state")],
    )
}

fn of_files(api: Api) -> Api {
    api.at("/v1/sandboxes/{sandbox}/files/stat", [post(files::stat, "Describes a file, directory or link")])
        .at("/v1/sandboxes/{sandbox}/files/list", [post(files::list, "Lists a directory or tree, or a page of it")])
        .at("/v1/sandboxes/{sandbox}/files/mkdir", [post(files::mkdir, "Makes a directory")])
        .at("/v1/sandboxes/{sandbox}/files/move", [post(files::rename, "Moves a file or tree")])
        .at("/v1/sandboxes/{sandbox}/files/copy", [post(files::copy, "Copies a file or tree")])
        .at("/v1/sandboxes/{sandbox}/files/remove", [post(files::remove, "Removes a file or tree")])
        .at("/v1/sandboxes/{sandbox}/files/symlink", [post(files::symlink, "Makes a symbolic link")])
        .at("/v1/sandboxes/{sandbox}/files/chmod", [post(files::chmod, "Changes permissions")])
        .at("/v1/sandboxes/{sandbox}/files/edit", [post(files::edit, "Replaces text in a file, all or nothing")])
        .at("/v1/sandboxes/{sandbox}/files/search", [post(files::search, "Searches files for text")])
        .at(
            "/v1/sandboxes/{sandbox}/files/content",
            [get(files::read, "Reads a file"), put(files::write, "Writes a file, whole or not at all")],
        )
        .at(
            "/v1/sandboxes/{sandbox}/archive",
            [
                get(files::export, "Fetches a tree as a tar archive"),
                post(files::export_only, "Fetches a part of a tree: the body has the names, a NUL behind each"),
                put(files::import, "Unpacks a tar archive, all of it or nothing"),
            ],
        )
}

fn of_shells(api: Api) -> Api {
    api.at(
        "/v1/sandboxes/{sandbox}/shells",
        [get(shells::list, "Lists the shells that were not closed"), post(shells::open, "Starts a shell")],
    )
    .at("/v1/sandboxes/{sandbox}/shells/{name}", [delete(shells::close, "Ends a shell and all it has started")])
    .at(
        "/v1/sandboxes/{sandbox}/shells/{name}/output",
        [get(shells::output, "Reads a piece of what was written to a shell's terminal")],
    )
    .at(
        "/v1/sandboxes/{sandbox}/shells/{name}/screen",
        [get(shells::screen, "Reads the lines of a shell's screen that have changed, as text")],
    )
    .at("/v1/sandboxes/{sandbox}/shells/{name}/input", [post(shells::input, "Types at a shell")])
    .at(
        "/v1/sandboxes/{sandbox}/shells/{name}/wait",
        [post(shells::wait, "Waits until a shell has nothing more to say for now")],
    )
    .at("/v1/sandboxes/{sandbox}/shells/{name}/signal", [post(shells::signal, "Sends a shell a signal")])
    .at(
        "/v1/sandboxes/{sandbox}/shells/{name}/resize",
        [post(shells::resize, "Changes the size of a shell's terminal")],
    )
}

fn of_history(api: Api) -> Api {
    api.at("/v1/sandboxes/{sandbox}/diff", [get(history::diff, "What has changed in the workspace, as a patch")])
        .at("/v1/sandboxes/{sandbox}/changes", [get(history::changes, "What has changed in the workspace, as a list")])
        .at("/v1/sandboxes/{sandbox}/patch", [post(history::patch, "Applies a patch, all of it or nothing")])
        .at("/v1/sandboxes/{sandbox}/reset", [post(history::reset, "Makes the workspace what it was")])
        .at(
            "/v1/sandboxes/{sandbox}/checkpoints",
            [
                get(history::checkpoints, "Lists checkpoints"),
                post(history::checkpoint, "Takes a checkpoint of the workspace"),
            ],
        )
        .at("/v1/sandboxes/{sandbox}/checkpoints/{name}", [delete(history::remove_checkpoint, "Removes a checkpoint")])
}

/// MCP over HTTP: the default profile, and each by its name.
fn of_mcp(app: &App) -> Router<App> {
    let socket = app.fleet().engine().directories().home().join(hearth_api::SOCKET);
    // Through the front door, for whoever has come here.
    let connect: Connect = Arc::new(move |extensions| {
        let client = Client::new(socket.clone()).via("mcp");
        let caller = extensions.get::<Parts>().and_then(|head| head.extensions.get::<Caller>());
        let client = match caller {
            Some(Caller::Key { name }) => client.for_key(name),
            Some(Caller::Owner { .. }) | None => client,
        };
        std::future::ready(Ok(client)).boxed()
    });
    let service = |profile| {
        let mut closing = app.closing();
        let ended = async move {
            let _ = closing.wait_for(|closing| *closing).await;
        };
        hearth_mcp::http(connect.clone(), profile, ended)
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
