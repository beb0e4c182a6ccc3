//! The server of one client: which tools and resources it has, and how a call runs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hearth_client::Client;
use hearth_client::api::ErrorBody;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Extensions, Implementation,
    ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams,
    ProgressNotificationParam, ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, ServerCapabilities,
    ServerConfig,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, interval_at};
use tokio_util::task::TaskTracker;

use crate::output::in_short;
use crate::refused::Refused;
use crate::tool::{Call, Entry, Profile};
use crate::{resources, tools};

/// The time between two notices of progress, and before the first.
const TICK: Duration = Duration::from_secs(1);

/// The programs of one client that are given input at once, each of up to four megabytes.
const INPUTS: usize = 16;

/// Finds the daemon, and starts one where none runs and that is wanted. Is told what came with the request: over HTTP its head.
pub type Connect = Arc<dyn Fn(&Extensions) -> BoxFuture<'static, Result<Client, ErrorBody>> + Send + Sync>;

/// The server of one client.
#[derive(Clone)]
pub struct Server {
    connect: Connect,
    tools: Arc<Vec<Arc<Entry>>>,
    /// The calls that run.
    pub(crate) calls: TaskTracker,
    /// Places for those whose programs are given input.
    inputs: Arc<Semaphore>,
    /// Its place among those that are served at once.
    _place: Option<Arc<OwnedSemaphorePermit>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("tools", &self.tools.len()).finish_non_exhaustive()
    }
}

impl Server {
    pub(crate) fn new(connect: Connect, profile: Profile, place: Option<OwnedSemaphorePermit>) -> Self {
        let tools = Arc::new(tools::of(profile));
        let inputs = Arc::new(Semaphore::new(INPUTS));
        Self { connect, tools, calls: TaskTracker::new(), inputs, _place: place.map(Arc::new) }
    }

    async fn client(&self, context: &RequestContext<RoleServer>) -> Result<Client, Refused> {
        Ok((self.connect)(&context.extensions).await?)
    }

    async fn call(
        &self,
        entry: &Entry,
        request: CallToolRequestParams,
        context: &RequestContext<RoleServer>,
    ) -> Result<Value, Refused> {
        let _counted = self.calls.token();
        let written = Arc::new(AtomicU64::new(0));
        let work = async {
            let call = Call {
                client: self.client(context).await?,
                cancelled: context.ct.clone(),
                written: written.clone(),
                calls: self.calls.clone(),
                inputs: self.inputs.clone(),
            };
            entry.run(call, request.arguments.unwrap_or_default()).await
        };
        with_progress(context, &written, work).await
    }
}

/// Tells the client, if it wants to know, every second that a call is still at it.
async fn with_progress<T>(
    context: &RequestContext<RoleServer>,
    written: &AtomicU64,
    work: impl Future<Output = T>,
) -> T {
    let Some(token) = context.meta.get_progress_token() else { return work.await };
    let begun = Instant::now();
    let mut ticks = interval_at(begun + TICK, TICK);
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = ticks.tick() => {}
        }
        let seconds = begun.elapsed().as_secs();
        let message = match written.load(Ordering::Relaxed) {
            0 => format!("{seconds} s"),
            bytes => format!("{seconds} s, {bytes} bytes of output"),
        };
        let progress = ProgressNotificationParam::new(token.clone(), seconds as f64).with_message(message);
        tokio::select! {
            biased;
            // Work goes on while a client does not read.
            done = &mut work => return done,
            // A client that is gone takes its calls with it.
            _ = context.peer.notify_progress(progress) => {}
        }
    }
}

/// The error as the model reads it: the API's own body, as JSON.
fn refusal(Refused(body): Refused) -> CallToolResult {
    let json = serde_json::to_string(&body).expect("plain data always becomes JSON");
    CallToolResult::error(vec![ContentBlock::text(json)])
}

fn result(value: Value) -> CallToolResult {
    let mut result = CallToolResult::success(vec![ContentBlock::text(in_short(&value))]);
    result.structured_content = Some(value);
    result
}

/// An error of a request that is no call of a tool.
fn protocol_error(Refused(body): Refused) -> ErrorData {
    let data = serde_json::to_value(&body).ok();
    match body.code.status() {
        404 => ErrorData::resource_not_found(body.message, data),
        400 => ErrorData::invalid_params(body.message, data),
        _ => ErrorData::internal_error(body.message, data),
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools().enable_resources().build();
        let who = Implementation::new("hearth", env!("CARGO_PKG_VERSION")).with_title("Hearth");
        ServerConfig::new(capabilities).with_server_info(who).with_instructions(
            "Hearth runs code that nobody trusts in sandboxes: virtual machines with Linux, without a network. Commands run as `user`, with \
            sudo, in /workspace. Sandboxes stay until they are removed.",
        )
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.tools.iter().map(|entry| entry.tool.clone()).collect()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(entry) = self.tools.iter().find(|entry| entry.tool.name == request.name) else {
            return Err(ErrorData::invalid_params(format!("there is no tool {:?}", request.name), None));
        };
        let called = self.call(entry, request, &context).await;
        Ok(called.map_or_else(refusal, result).into())
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let listed = async { resources::list(&self.client(&context).await?).await };
        listed.await.map(ListResourcesResult::with_all_items).map_err(protocol_error)
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(ListResourceTemplatesResult::with_all_items(resources::templates()))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let read = async { resources::read(&self.client(&context).await?, &request.uri).await };
        let contents = tokio::select! {
            read = read => read.map_err(protocol_error)?,
            () = context.ct.cancelled() => return Err(protocol_error(Refused::cancelled())),
        };
        Ok(ReadResourceResult::new(vec![contents]).into())
    }
}
