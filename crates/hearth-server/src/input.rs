//! What requests carry: JSON bodies and queries, strict, with errors that name the field.

use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use hearth_api::strict::{named, parse};
use hearth_api::{ErrorBody, OwnCode};
use serde::de::DeserializeOwned;

use crate::answer::{Refusal, invalid};

/// A JSON object as the body. None at all is an empty object.
#[derive(Debug)]
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        check_type(request.headers())?;
        let bytes = Bytes::from_request(request, state).await.map_err(too_large)?;
        Ok(Self(parse(if bytes.is_empty() { b"{}" } else { &bytes })?))
    }
}

/// A body that is bytes, read whole.
#[derive(Debug)]
pub(crate) struct Raw(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        Ok(Self(Bytes::from_request(request, state).await.map_err(too_large)?))
    }
}

fn check_type(headers: &HeaderMap) -> Result<(), ErrorBody> {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    // What curl says where it is not told what it sends.
    if ["application/json", "application/x-www-form-urlencoded"].iter().any(|known| kind.eq_ignore_ascii_case(known)) {
        return Ok(());
    }
    Err(ErrorBody::new(OwnCode::UnsupportedMediaType, "the body must be application/json"))
}

fn too_large(rejection: BytesRejection) -> ErrorBody {
    match rejection.status().as_u16() {
        413 => ErrorBody::new(OwnCode::BodyTooLarge, "the body is too large"),
        _ => invalid("the body cannot be read"),
    }
}

/// A query.
#[derive(Debug)]
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let query = Query::<T>::try_from_uri(&parts.uri).map_err(|rejection: QueryRejection| {
            let said = rejection.body_text();
            let said = said.rsplit("query string: ").next().unwrap_or_default();
            // `field: what is wrong with it`, or only what is wrong.
            match said.split_once(": ") {
                Some((field, said)) if !field.contains([' ', '`']) => named(said, Some(field.to_owned())),
                _ => named(said, None),
            }
        })?;
        Ok(Self(query.0))
    }
}

/// A request that says all by its path.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// The position of the last event that a client has seen, as a browser tells it.
#[derive(Debug)]
pub(crate) struct LastEvent(pub(crate) Option<u64>);

impl LastEvent {
    pub(crate) const HEADER: &'static str = "last-event-id";
}

impl<S: Send + Sync> FromRequestParts<S> for LastEvent {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let Some(value) = parts.headers.get(Self::HEADER) else { return Ok(Self(None)) };
        let position = value.to_str().ok().and_then(|text| text.parse().ok());
        let refused = || invalid("last-event-id must be the position of an event").with_field(Self::HEADER);
        Ok(Self(Some(position.ok_or_else(refused)?)))
    }
}
