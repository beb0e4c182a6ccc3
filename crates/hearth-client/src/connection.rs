//! One connection to the daemon, for calls one after the other.

use std::fmt;
use std::io;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use hearth_api::ErrorBody;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;

use crate::ClientError;
use crate::endpoint::Endpoint;

/// The longest answer that is read whole, in bytes: the most output that an exec can be asked for, in base64, of two streams, and some more.
const ANSWER: usize = 64 * 1024 * 1024;

/// What is sent behind a request's head.
type Body = UnsyncBoxBody<Bytes, io::Error>;

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A connection. Dropping it ends what was asked over it and has not been answered.
pub struct Connection {
    endpoint: Endpoint,
    sender: SendRequest<Body>,
    driver: JoinHandle<()>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    pub(crate) async fn open(endpoint: &Endpoint) -> Result<Self, ClientError> {
        let (sender, connection) = handshake(TokioIo::new(endpoint.dial().await?)).await?;
        // How it ended, those learn who wait for an answer.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { endpoint: endpoint.clone(), sender, driver })
    }

    /// Asks, and returns the answer if it is a success.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Response<Incoming>, ClientError> {
        let kind = body.is_some().then_some("application/json");
        self.send_body(method, path, kind, full(body.unwrap_or_default())).await
    }

    /// Sends bytes as they come, and reads a JSON answer. One that fails ends the request, and is not its end.
    pub(crate) async fn upload<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<T, ClientError> {
        let body = StreamBody::new(bytes.map(|piece| piece.map(Frame::data))).boxed_unsync();
        let answer = self.send_body(method, path, Some("application/octet-stream"), body).await?;
        parsed(&whole(answer).await?)
    }

    async fn send_body(
        &mut self,
        method: Method,
        path: &str,
        kind: Option<&str>,
        body: Body,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, self.endpoint.authority());
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let mut request = request.body(body).map_err(|error| ClientError::BadAnswer { what: error.to_string() })?;
        self.endpoint.sign(request.headers_mut());
        let response = self.sender.send_request(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let said = whole(response).await?;
        match serde_json::from_slice::<ErrorBody>(&said) {
            Ok(body) => Err(body.into()),
            Err(_) => Err(ClientError::BadAnswer { what: format!("status {status} without a reason") }),
        }
    }

    /// Asks, and returns the answer's bytes.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn bytes(&mut self, method: Method, path: &str) -> Result<Bytes, ClientError> {
        whole(self.send(method, path, None).await?).await
    }

    /// Asks with a JSON body; that it was done is all there is to answer.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn send_json(&mut self, method: Method, path: &str, body: &impl Serialize) -> Result<(), ClientError> {
        let body = serde_json::to_vec(body).expect("plain data always becomes JSON").into();
        whole(self.send(method, path, Some(body)).await?).await.map(drop)
    }

    /// Asks with a JSON body, and reads a JSON answer.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn json<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let body = body.map(|body| serde_json::to_vec(body).expect("plain data always becomes JSON").into());
        parsed(&whole(self.send(method, path, body).await?).await?)
    }
}

pub(crate) fn parsed<T: DeserializeOwned>(answer: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(answer).map_err(|error| ClientError::BadAnswer { what: error.to_string() })
}

pub(crate) async fn whole(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = Limited::new(response.into_body(), ANSWER).collect().await;
    Ok(body.map_err(|source| ClientError::Lost { source })?.to_bytes())
}
