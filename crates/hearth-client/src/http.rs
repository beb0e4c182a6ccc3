//! HTTP to a server that is no daemon, over what there is for daemons.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper::header::{HOST, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;

use crate::endpoint::Endpoint;
use crate::{ClientError, Trust};

/// The longest answer, in bytes.
const ANSWER: usize = 64 * 1024;

/// A place of some HTTP server's. Each request has a connection of its own.
#[derive(Debug, Clone)]
pub struct HttpPlace {
    endpoint: Endpoint,
    host: HeaderValue,
}

impl HttpPlace {
    /// Reads `https://HOST[:PORT][/PATH]`, or the same with `http://`. Of the server's certificate `trust` says whose it may be.
    ///
    /// # Errors
    /// [`ClientError::InvalidHost`], [`ClientError::Authorities`], [`ClientError::InvalidFingerprint`].
    pub fn new(url: &str, trust: &Trust) -> Result<Self, ClientError> {
        let invalid = |what: &str| ClientError::InvalidHost { url: url.to_owned(), what: what.to_owned() };
        let uri: Uri = url.parse().map_err(|_| invalid("it is no URL"))?;
        let (scheme, authority) = (uri.scheme_str().unwrap_or_default(), uri.authority());
        let authority = authority.ok_or_else(|| invalid("it must begin with https:// or http://, and name a host"))?;
        let endpoint = Endpoint::remote(&format!("{scheme}://{authority}"), None, trust)?;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| invalid("its host is no name"))?;
        Ok(Self { endpoint, host })
    }

    /// Sends a request, of whose target the path counts, and returns the answer, whatever its status. Has no bound in time but for the connection.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] before anything was sent; [`ClientError::Lost`], for an answer of more than 64 KiB too.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ClientError> {
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        head.uri = path.into();
        head.headers.insert(HOST, self.host.clone());
        let (mut sender, connection) = handshake(TokioIo::new(self.endpoint.dial().await?)).await?;
        let asked = async {
            let (head, body) = sender.send_request(Request::from_parts(head, Full::new(body))).await?.into_parts();
            let body = Limited::new(body, ANSWER).collect().await.map_err(|source| ClientError::Lost { source })?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        tokio::pin!(asked);
        tokio::select! {
            answer = &mut asked => answer,
            // How it ended, the answer tells.
            _ = connection => asked.await,
        }
    }
}
