//! What answers are made of, and how errors become some. The one place for it.

use std::marker::PhantomData;

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hearth_api::home::SNAPSHOT;
use hearth_api::kernels::{KernelLine, LINES};
use hearth_api::process::{AT, ENDED, TOTAL};
use hearth_api::{Code, ErrorBody, OwnCode};
use hearth_engine::channel::ChannelError;
use hearth_engine::fleet::{Budget, FleetError, OverBudget};
use hearth_engine::protocol::process::OutputRead;
use hearth_engine::{EngineError, Kind as ErrorKind, chain};
use schemars::{Schema, SchemaGenerator};
use serde::Serialize;

/// What was made.
#[derive(Debug)]
pub(crate) struct Created<T>(pub(crate) T);

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        (StatusCode::CREATED, Json(self.0)).into_response()
    }
}

/// What a body is that is no JSON object.
pub(crate) trait Kind {
    /// Its media type.
    const TYPE: &'static str;
    /// What it is.
    const ABOUT: &'static str;

    /// What a line of it is, where each is JSON.
    fn line(_: &mut SchemaGenerator) -> Option<Schema> {
        None
    }
}

macro_rules! kinds {
    ($($name:ident $kind:expr, $about:literal),* $(,)?) => {$(
        #[derive(Debug)]
        pub(crate) struct $name;

        impl Kind for $name {
            const TYPE: &'static str = $kind;
            const ABOUT: &'static str = $about;
        }
    )*};
}

kinds! {
    Octets "application/octet-stream", "Bytes, as they come",
    SnapshotFile SNAPSHOT, "A snapshot, as one file",
    Tar "application/x-tar", "A tar archive",
    Diff "text/x-diff", "A patch",
    Text "text/plain; charset=utf-8", "Text, escaped for a terminal",
    Figures "text/plain; version=0.0.4; charset=utf-8", "Prometheus' text format",
}

/// Lines that each are one [`KernelLine`].
#[derive(Debug)]
pub(crate) struct KernelLines;

impl Kind for KernelLines {
    const TYPE: &'static str = LINES;
    const ABOUT: &'static str = "A line of JSON for each thing that happens, as it does; each is one of these";

    fn line(schemas: &mut SchemaGenerator) -> Option<Schema> {
        Some(schemas.subschema_for::<KernelLine>())
    }
}

/// A body that is no JSON object.
#[derive(Debug)]
pub(crate) struct Content<K>(Body, PhantomData<K>);

impl<K> Content<K> {
    pub(crate) fn new(body: impl Into<Body>) -> Self {
        Self(body.into(), PhantomData)
    }
}

impl<K: Kind> IntoResponse for Content<K> {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, K::TYPE)], self.0).into_response()
    }
}

/// A piece of a stream that a guest keeps.
#[derive(Debug)]
pub(crate) struct Piece(pub(crate) OutputRead, pub(crate) Bytes);

impl Piece {
    /// The headers that tell where it lies, with what they hold.
    pub(crate) const HEADERS: [(&'static str, &'static str); 3] =
        [(AT, "integer"), (TOTAL, "integer"), (ENDED, "boolean")];
}

impl IntoResponse for Piece {
    fn into_response(self) -> Response {
        let Self(read, bytes) = self;
        let headers = [(AT, read.at.to_string()), (TOTAL, read.total.to_string()), (ENDED, read.ended.to_string())];
        (headers, bytes).into_response()
    }
}

/// The beginning of a WebSocket, whose first message is an `F`; `()` where it is none.
#[derive(Debug)]
pub(crate) struct Upgraded<F>(Response, PhantomData<F>);

impl<F> Upgraded<F> {
    pub(crate) fn new(response: Response) -> Self {
        Self(response, PhantomData)
    }
}

impl<F> IntoResponse for Upgraded<F> {
    fn into_response(self) -> Response {
        self.0
    }
}

/// Why an answer is no success, for who looks at it on its way out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failed(pub(crate) Code);

/// An answer that is no success.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) Box<ErrorBody>);

impl Refusal {
    /// Says which part of a larger request the field that is to blame is in.
    pub(crate) fn within(mut self, part: &str) -> Self {
        self.0.field = Some(self.0.field.map_or_else(|| part.to_owned(), |field| format!("{part}.{field}")));
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let code = self.0.code;
        let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
        response.extensions_mut().insert(Failed(code));
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<ErrorBody> for Refusal {
    fn from(body: ErrorBody) -> Self {
        Self(Box::new(body))
    }
}

impl From<FleetError> for Refusal {
    fn from(error: FleetError) -> Self {
        use FleetError as E;
        let (code, field) = match &error {
            E::Engine(error) => return error.into(),
            E::Name { .. } => (OwnCode::InvalidValue, Some("name")),
            E::NameTaken { .. } => (OwnCode::NameTaken, Some("name")),
            E::Labels { .. } | E::Label { .. } => (OwnCode::InvalidValue, Some("labels")),
            E::Lifetime { .. } => (OwnCode::InvalidValue, Some("ttl_seconds")),
            E::IdleTime { .. } => (OwnCode::InvalidValue, Some("idle.after_seconds")),
            E::Grace { .. } => (OwnCode::InvalidValue, Some("timeout_seconds")),
            E::Dial { .. } => (OwnCode::InvalidValue, Some("guest_port")),
            E::Listen { .. } => (OwnCode::Host, Some("listen")),
            E::TooManyPorts { .. } => (OwnCode::LimitReached, None),
            E::UnknownPort { .. } => (OwnCode::UnknownPort, None),
            E::IdleBoot => (OwnCode::InvalidValue, Some("idle")),
            E::Unknown { .. } => (OwnCode::UnknownSandbox, None),
            E::Ambiguous { .. } => (OwnCode::AmbiguousSandbox, None),
            E::WrongState { .. } => (OwnCode::WrongState, None),
            E::Removed { .. } => (OwnCode::SandboxRemoved, None),
            E::Ending => (OwnCode::Ending, None),
        };
        let mut body = ErrorBody::new(code, chain(&error)).with_hint(error.hint());
        body.field = field.map(str::to_owned);
        body.into()
    }
}

impl From<EngineError> for Refusal {
    fn from(error: EngineError) -> Self {
        Self::from(&error)
    }
}

impl From<&EngineError> for Refusal {
    fn from(error: &EngineError) -> Self {
        let code = match (error, error.kind()) {
            (EngineError::NoImage { .. }, _) => OwnCode::UnknownImage,
            (EngineError::NoSnapshot { .. }, _) => OwnCode::UnknownSnapshot,
            (EngineError::NoTemplate { .. }, _) => OwnCode::UnknownTemplate,
            (EngineError::SnapshotExists { .. }, _) => OwnCode::NameTaken,
            (EngineError::TemplateNeeded { .. }, _) => OwnCode::WrongState,
            (EngineError::OverBudget(_), _) => OwnCode::LimitReached,
            (EngineError::NoDisk | EngineError::Outdated { .. }, _) => OwnCode::WrongState,
            (_, ErrorKind::Invalid) => OwnCode::InvalidValue,
            (_, ErrorKind::Missing) => OwnCode::Missing,
            (_, ErrorKind::Resources) => OwnCode::Resources,
            (_, ErrorKind::Host) => OwnCode::Host,
            (_, ErrorKind::Machine) => OwnCode::Machine,
        };
        let mut body = ErrorBody::new(code, chain(error)).with_hint(error.hint());
        body.detail = error.detail().map(str::to_owned);
        body.field = field(error).map(str::to_owned);
        body.into()
    }
}

/// What the API says of an error of the engine's, for who meets it elsewhere: the same code and field.
pub fn error_body(error: &EngineError) -> ErrorBody {
    *Refusal::from(error).0
}

/// Which field of a creation an error of the engine's is about.
fn field(error: &EngineError) -> Option<&'static str> {
    use hearth_engine::vmm::InvalidSpec;
    Some(match error {
        EngineError::Invalid(InvalidSpec::Memory { .. }) | EngineError::MemoryShort { .. } => "memory_mib",
        EngineError::Invalid(InvalidSpec::Cpus { .. }) => "cpus",
        EngineError::OverBudget(OverBudget { budget: Budget::Memory, .. }) => "memory_mib",
        EngineError::OverBudget(OverBudget { budget: Budget::Cpus, .. }) => "cpus",
        EngineError::DiskSize { .. } => "disk_mib",
        EngineError::NoImage { .. } => "image",
        EngineError::SnapshotExists { .. } => "name",
        EngineError::Copies { .. } => "copies",
        EngineError::Given { what, .. } => what,
        _ => return None,
    })
}

impl From<ChannelError> for Refusal {
    fn from(error: ChannelError) -> Self {
        let outcome = error.outcome();
        let mut body = match error {
            ChannelError::Fault { source } => return ErrorBody::from(source).into(),
            ChannelError::TimedOut { .. } => ErrorBody::new(OwnCode::NoAnswer, chain(&error)),
            ChannelError::TooLarge { .. } => ErrorBody::new(OwnCode::InvalidValue, chain(&error)),
            _ => ErrorBody::new(OwnCode::Machine, chain(&error)),
        };
        body.outcome = Some(outcome);
        body.into()
    }
}

/// What a client's request got wrong.
pub(crate) fn invalid(message: impl Into<String>) -> ErrorBody {
    ErrorBody::new(Code::Own(OwnCode::InvalidRequest), message)
}
