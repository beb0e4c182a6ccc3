//! How a call fails: always as the API's own [`ErrorBody`], whoever says no.

use std::error::Error;

use hearth_client::ClientError;
use hearth_client::api::protocol::{ErrorCode, Fault, Outcome};
use hearth_client::api::{Code, ErrorBody, OwnCode};

/// Why a call failed.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) Box<ErrorBody>);

impl Refused {
    /// A value that breaks a rule of this crate's own.
    pub(crate) fn invalid(field: &str, message: impl Into<String>) -> Self {
        ErrorBody::new(OwnCode::InvalidValue, message).with_field(field).into()
    }

    /// The client has taken its call back.
    pub(crate) fn cancelled() -> Self {
        ErrorBody::new(Code::Guest(ErrorCode::Cancelled), "the call was cancelled").into()
    }
}

impl From<ErrorBody> for Refused {
    fn from(body: ErrorBody) -> Self {
        Self(Box::new(body))
    }
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        ErrorBody::from(fault).into()
    }
}

impl From<ClientError> for Refused {
    fn from(error: ClientError) -> Self {
        let outcome = match error {
            ClientError::Refused { body } => return Self(body),
            // All else happens before anything is sent.
            ClientError::Lost { .. } | ClientError::HungUp | ClientError::BadAnswer { .. } => Some(Outcome::MayHaveRun),
            _ => None,
        };
        ErrorBody { outcome, ..ErrorBody::new(OwnCode::Host, chain(&error)) }.into()
    }
}

/// An error with all that lies below it.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(source) = below {
        text = format!("{text}: {source}");
        below = source.source();
    }
    text
}
