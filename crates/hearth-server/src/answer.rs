//! How errors become answers. The one place for it.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hearth_api::{Code, ErrorBody, OwnCode};
use hearth_engine::channel::ChannelError;
use hearth_engine::fleet::{Budget, FleetError, OverBudget};
use hearth_engine::{EngineError, Kind, chain};

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
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
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
            (EngineError::OverBudget(_), _) => OwnCode::LimitReached,
            (EngineError::NotRestored | EngineError::Outdated { .. }, _) => OwnCode::WrongState,
            (_, Kind::Invalid) => OwnCode::InvalidValue,
            (_, Kind::Missing) => OwnCode::Missing,
            (_, Kind::Resources) => OwnCode::Resources,
            (_, Kind::Host) => OwnCode::Host,
            (_, Kind::Machine) => OwnCode::Machine,
        };
        let mut body = ErrorBody::new(code, chain(error)).with_hint(error.hint());
        body.detail = error.detail().map(str::to_owned);
        body.field = field(error).map(str::to_owned);
        body.into()
    }
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
