//! What a tool is: a name, a description, schemas, and a function from arguments to a result.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hearth_client::Client;
use hearth_client::api::strict;
use rmcp::model::{JsonObject, Tool, ToolAnnotations};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::refused::Refused;
use crate::schema;

/// Which tools a client is shown: each profile has those of the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Profile {
    /// One tool that runs code.
    Run,
    /// Sandboxes that stay: programs, files, patches.
    #[default]
    Core,
    /// Snapshots, forks, services, ports, shells and kernels as well.
    Full,
}

impl Profile {
    /// Each of them, the smallest first.
    pub const ALL: [Self; 3] = [Self::Run, Self::Core, Self::Full];

    /// Its name: on the command line, and in the path over HTTP.
    pub fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Core => "core",
            Self::Full => "full",
        }
    }
}

/// One call of a tool.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// The daemon.
    pub(crate) client: Client,
    /// Says that the client has taken the call back, or is gone.
    pub(crate) cancelled: CancellationToken,
    /// The bytes of output that have come so far, for whoever is told of progress.
    pub(crate) written: Arc<AtomicU64>,
    /// For what goes on when the call is over: it ends with the client.
    pub(crate) calls: TaskTracker,
    /// Places for calls whose programs are given input, which may outlive them.
    pub(crate) inputs: Arc<Semaphore>,
}

/// What a tool does to a sandbox.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Effect {
    /// It only looks.
    Reads,
    /// It adds, and takes nothing away.
    Adds,
    /// It may take away or write over.
    Changes,
}

type Work = BoxFuture<'static, Result<Value, Refused>>;

/// A tool.
pub(crate) struct Entry {
    /// The first profile that has it.
    pub(crate) profile: Profile,
    /// What clients are told.
    pub(crate) tool: Tool,
    /// Whether it looks at [`Call::cancelled`] itself, since being dropped would not end what it has begun.
    pub(crate) stops_itself: bool,
    work: Box<dyn Fn(Call, JsonObject) -> Work + Send + Sync>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("tool", &self.tool.name).field("profile", &self.profile).finish_non_exhaustive()
    }
}

impl Entry {
    /// Makes a tool of a function. Arguments are read strictly and held to their schema's ranges before it is called.
    pub(crate) fn new<A, R, F>(
        profile: Profile,
        name: &'static str,
        description: &'static str,
        effect: Effect,
        function: impl Fn(Call, A) -> F + Send + Sync + Copy + 'static,
    ) -> Self
    where
        A: DeserializeOwned + JsonSchema + Send + 'static,
        R: Serialize + JsonSchema + 'static,
        F: Future<Output = Result<R, Refused>> + Send + 'static,
    {
        let annotations = ToolAnnotations::new()
            .read_only(matches!(effect, Effect::Reads))
            .destructive(matches!(effect, Effect::Changes))
            .idempotent(matches!(effect, Effect::Reads))
            .open_world(false);
        let mut tool = Tool::new(name, description, JsonObject::new())
            .with_input_schema::<A>()
            .with_output_schema::<R>()
            .with_annotations(annotations);
        tool.input_schema = Arc::new(schema::plain(&tool.input_schema));
        tool.output_schema = tool.output_schema.map(|output| Arc::new(schema::plain(&output)));
        let rules = tool.input_schema.clone();
        let work = move |call: Call, arguments: JsonObject| -> Work {
            let read = read::<A>(&rules, &arguments);
            async move {
                let result = function(call, read?).await?;
                Ok(serde_json::to_value(result).expect("plain data always becomes JSON"))
            }
            .boxed()
        };
        Self { profile, tool, stops_itself: false, work: Box::new(work) }
    }

    /// Says that the function ends what it has begun when the call is cancelled.
    pub(crate) fn stops_itself(mut self) -> Self {
        self.stops_itself = true;
        self
    }

    /// Does it.
    pub(crate) async fn run(&self, call: Call, arguments: JsonObject) -> Result<Value, Refused> {
        let cancelled = call.cancelled.clone();
        let work = (self.work)(call, arguments);
        if self.stops_itself {
            return work.await;
        }
        tokio::select! {
            result = work => result,
            () = cancelled.cancelled() => Err(Refused::cancelled()),
        }
    }
}

fn read<A: DeserializeOwned>(rules: &JsonObject, arguments: &JsonObject) -> Result<A, Refused> {
    let json = serde_json::to_vec(arguments).expect("JSON becomes JSON");
    let read = strict::parse(&json)?;
    schema::check(rules, arguments)?;
    Ok(read)
}
