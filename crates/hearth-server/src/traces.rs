//! Traces: a span an operation, the engine's work below it, sent to a collector by OTLP over HTTP.
//!
//! What must stay true:
//!
//! - *Nothing waits for a collector.* What is to be sent stands in a queue that is bounded, and what finds no place there is lost.
//! - *A span has names and codes alone,* those of the audit log's line.
//! - *Where nobody has asked for traces there are none:* no thread, no queue, and a span is a look at an atomic.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::Request;
use axum::http;
use bytes::Bytes;
use hearth_api::audit::{Record, Who};
use hearth_client::{ClientError, HttpPlace, Trust};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_http::{HeaderExtractor, HttpClient, HttpError};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tracing::field::Empty;
use tracing::{Metadata, Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;

/// How long a collector may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the last spans may take on their way once the daemon ends.
const FAREWELL: Duration = Duration::from_secs(3);
/// What begins the names of the modules whose spans are sent.
const OWN: &str = "hearth_";

/// Where traces go.
#[derive(Debug, Clone)]
pub struct TraceOptions {
    /// The collector's URL for traces, its path included. What the variables of OpenTelemetry say of headers, of batches and of the service's
    /// name holds as well.
    pub endpoint: String,
    /// The authorities one of which must have signed the collector's certificate, a PEM file; by default this system's.
    pub authorities: Option<PathBuf>,
    /// What the service is called, unless the environment says it.
    pub service: String,
}

/// Why traces cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The endpoint is none.
    #[error("cannot send traces to {endpoint:?}")]
    Endpoint {
        /// What was to be it.
        endpoint: String,
        /// Why.
        source: ClientError,
    },
    /// What the environment says of the exporter cannot be followed.
    #[error("cannot export traces")]
    Exporter {
        /// Why.
        source: ExporterBuildError,
    },
    /// They are sent already: there is one collector a process.
    #[error("traces are collected already")]
    Taken,
}

/// Traces on their way to a collector.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Has spans sent from now on. That they do not get there is said once, and that they do again too. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`TracesError`].
    pub fn begin(options: TraceOptions, say: impl Fn(&str) + Send + Sync + 'static) -> Result<Self, TracesError> {
        let TraceOptions { endpoint, authorities, service } = options;
        let trust = authorities.map_or(Trust::System, Trust::Authorities);
        let place = HttpPlace::new(&endpoint, &trust)
            .map_err(|source| TracesError::Endpoint { endpoint: endpoint.clone(), source })?;
        let way = Way { place, runtime: Handle::current(), is_broken: AtomicBool::new(false), say: Box::new(say) };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint)
            .with_http_client(way)
            .build()
            .map_err(|source| TracesError::Exporter { source })?;
        let provider =
            SdkTracerProvider::builder().with_resource(resource(service)).with_batch_exporter(exporter).build();
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("hearth"))
            .with_location(false)
            .with_target(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false);
        let is_own = |metadata: &Metadata<'_>| metadata.is_span() && metadata.target().starts_with(OWN);
        let subscriber = tracing_subscriber::registry().with(filter_fn(is_own)).with(layer);
        tracing::subscriber::set_global_default(subscriber).map_err(|_| TracesError::Taken)?;
        Ok(Self(provider))
    }

    /// Sends what has not been sent, for a few seconds at most. Blocks, and needs the runtime to run.
    pub fn end(self) {
        // What does not get there is lost.
        let _ = self.0.shutdown_with_timeout(FAREWELL);
    }
}

fn resource(service: String) -> Resource {
    let found = Resource::builder().build();
    let is_named = found
        .iter()
        .any(|(key, value)| key.as_str() == "service.name" && !value.as_str().starts_with("unknown_service"));
    let named = if is_named { Resource::builder() } else { Resource::builder().with_service_name(service) };
    named.build()
}

/// The way to a collector: the client's own, on the daemon's runtime, whoever waits.
struct Way {
    place: HttpPlace,
    runtime: Handle,
    is_broken: AtomicBool,
    say: Box<dyn Fn(&str) + Send + Sync>,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Way").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Way {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
        let place = self.place.clone();
        let sending = async move { tokio::time::timeout(PATIENCE, place.send(request)).await };
        let sent = match self.runtime.spawn(sending).await? {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(hearth_engine::chain(&error)),
            Err(_) => Err(format!("there was no answer for {} s", PATIENCE.as_secs())),
        };
        match &sent {
            Ok(answer) if answer.status().is_success() => self.works(),
            Ok(answer) => self.fails(&format!("the collector answered {}", answer.status())),
            Err(error) => self.fails(error),
        }
        sent.map_err(HttpError::from)
    }

    fn works(&self) {
        if self.is_broken.swap(false, Ordering::Relaxed) {
            (self.say)("traces reach their collector again");
        }
    }

    fn fails(&self, why: &str) {
        if !self.is_broken.swap(true, Ordering::Relaxed) {
            (self.say)(&format!("traces do not reach their collector, and are lost until they do: {why}"));
        }
    }
}

impl HttpClient for Way {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: http::Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<http::Response<Bytes>, Box<dyn Error + Send + Sync>>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(self.send(request))
    }
}

/// Begins the span of an operation, below the one that the request names, if it names one.
pub(crate) fn operation(name: &str, request: &Request) -> Span {
    let span = info_span!(
        "operation",
        otel.name = name,
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = request.method().as_str(),
        http.response.status_code = Empty,
        "error.type" = Empty,
        hearth.key = Empty,
        hearth.via = Empty,
        hearth.sandbox = Empty,
        hearth.target = Empty,
        hearth.made = Empty,
    );
    if !span.is_disabled() {
        let above = TraceContextPropagator::new().extract(&HeaderExtractor(request.headers()));
        if above.has_active_span() {
            // It has just been made, so nothing stands in the way.
            let _ = span.set_parent(above);
        }
    }
    span
}

/// Says in a span what is written down of its operation.
pub(crate) fn tell(span: &Span, record: &Record) {
    if span.is_disabled() {
        return;
    }
    if let Who::Key { key } = &record.who {
        span.record("hearth.key", key);
    }
    span.record("hearth.via", record.via.as_deref());
    span.record("hearth.sandbox", record.sandbox.as_deref());
    span.record("hearth.target", record.target.as_deref());
    span.record("hearth.made", (!record.made.is_empty()).then(|| record.made.join(" ")));
    span.record("http.response.status_code", record.status.map(i64::from));
    span.record("error.type", record.code.as_deref());
    if record.status.is_some_and(|status| status >= 500) {
        span.record("otel.status_code", "ERROR");
    }
}
