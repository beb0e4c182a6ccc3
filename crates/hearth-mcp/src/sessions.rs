//! The sessions over HTTP: the SDK's, each of which ends when its client seems to be gone.
//!
//! Only a connection tells that a client is there. One that waits for an answer, or listens for what the server says by itself, has a stream
//! open; one that has none and says nothing for a while has its session ended, and with it the calls that nobody hears of any more.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::WorkerTransport;
use rmcp::transport::common::server_side_http::ServerSseMessage;
use rmcp::transport::streamable_http_server::session::local::{
    LocalSessionManager, LocalSessionManagerError, LocalSessionWorker, SessionConfig,
};
use rmcp::transport::streamable_http_server::session::{SessionId, SessionManager};
use tokio::sync::watch;

/// How long a session lasts without a stream and without a word. A client that comes back later begins another.
const QUIET: Duration = Duration::from_secs(5 * 60);
/// How long one lasts without a word whose client listens: longer than the longest call.
const LISTENING: Duration = Duration::from_secs(60 * 60);

/// All sessions of a profile.
#[derive(Debug)]
pub struct Sessions {
    inner: Arc<LocalSessionManager>,
    uses: Arc<Uses>,
}

type Uses = Mutex<HashMap<SessionId, watch::Sender<Use>>>;

/// How a session is used.
#[derive(Debug, Default)]
struct Use {
    /// The streams that are open.
    streams: usize,
}

impl Sessions {
    pub(crate) fn new() -> Self {
        let mut config = SessionConfig::default();
        config.keep_alive = Some(LISTENING);
        let mut inner = LocalSessionManager::default();
        inner.session_config = config;
        Self { inner: Arc::new(inner), uses: Arc::default() }
    }

    /// Ends a session when nobody has used it for long enough.
    fn watch(&self, id: &SessionId) {
        let (sender, mut uses) = watch::channel(Use::default());
        all(&self.uses).insert(id.clone(), sender);
        let (inner, all_uses, id) = (self.inner.clone(), self.uses.clone(), id.clone());
        tokio::spawn(async move {
            loop {
                let is_quiet = uses.borrow_and_update().streams == 0;
                tokio::select! {
                    () = tokio::time::sleep(QUIET), if is_quiet => break,
                    // Ended by its client, it is watched no more.
                    changed = uses.changed() => if changed.is_err() { return },
                }
            }
            all(&all_uses).remove(&id);
            // One that has ended by itself is none to end.
            let _ = inner.close_session(&id).await;
        });
    }

    /// Notes that a session's client has said something.
    fn is_used(&self, id: &SessionId) -> Option<watch::Sender<Use>> {
        let used = all(&self.uses).get(id).cloned();
        used.inspect(|used| used.send_modify(|_| {}))
    }

    /// Notes that a session's client listens, for as long as it does.
    fn listening(
        &self,
        id: &SessionId,
        stream: impl Stream<Item = ServerSseMessage> + Send + Sync + 'static,
    ) -> Listening {
        let used = self.is_used(id);
        used.iter().for_each(|used| used.send_modify(|using| using.streams += 1));
        Listening { stream: Box::pin(stream), used }
    }
}

fn all(uses: &Uses) -> MutexGuard<'_, HashMap<SessionId, watch::Sender<Use>>> {
    uses.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stream to a client. It is dropped when its connection ends.
struct Listening {
    stream: Pin<Box<dyn Stream<Item = ServerSseMessage> + Send + Sync>>,
    used: Option<watch::Sender<Use>>,
}

impl Stream for Listening {
    type Item = ServerSseMessage;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(context)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.used.iter().for_each(|used| used.send_modify(|using| using.streams -= 1));
    }
}

impl SessionManager for Sessions {
    type Error = LocalSessionManagerError;
    type Transport = WorkerTransport<LocalSessionWorker>;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        let (id, transport) = self.inner.create_session().await?;
        self.watch(&id);
        Ok((id, transport))
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        self.inner.initialize_session(id, message).await
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        self.inner.has_session(id).await
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        all(&self.uses).remove(id);
        self.inner.close_session(id).await
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(self.listening(id, self.inner.create_stream(id, message).await?))
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Self::Error> {
        self.is_used(id);
        self.inner.accept_message(id, message).await
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(self.listening(id, self.inner.create_standalone_stream(id).await?))
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(self.listening(id, self.inner.resume(id, last_event_id).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{Connect, Server};
    use crate::tool::Profile;
    use futures_util::FutureExt;
    use hearth_client::Client;
    use rmcp::ServiceExt;
    use serde_json::json;

    fn said(message: serde_json::Value) -> ClientJsonRpcMessage {
        serde_json::from_value(message).unwrap()
    }

    /// A session whose client has said hello.
    async fn begun(sessions: &Sessions) -> SessionId {
        let connect: Connect = Arc::new(|_| std::future::ready(Ok(Client::new("/nonexistent"))).boxed());
        let (id, transport) = sessions.create_session().await.unwrap();
        let serving = Server::new(connect, Profile::Core, None).serve(transport);
        tokio::spawn(async move { drop(serving.await.unwrap().waiting().await) });
        let hello = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } } });
        sessions.initialize_session(&id, said(hello)).await.unwrap();
        let begun = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        sessions.accept_message(&id, said(begun)).await.unwrap();
        id
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_whose_client_neither_listens_nor_speaks_ends() {
        let sessions = Sessions::new();
        let (silent, listening, speaking) = (begun(&sessions).await, begun(&sessions).await, begun(&sessions).await);
        let stream = sessions.create_standalone_stream(&listening).await.unwrap();
        for _ in 0..3 {
            tokio::time::sleep(QUIET * 2 / 3).await;
            let ping = json!({ "jsonrpc": "2.0", "method": "notifications/roots/list_changed" });
            sessions.accept_message(&speaking, said(ping)).await.unwrap();
        }
        assert!(!sessions.has_session(&silent).await.unwrap());
        assert!(sessions.has_session(&listening).await.unwrap() && sessions.has_session(&speaking).await.unwrap());
        drop(stream);
        tokio::time::sleep(QUIET / 2).await;
        assert!(sessions.has_session(&listening).await.unwrap());
        tokio::time::sleep(QUIET).await;
        assert!(!sessions.has_session(&listening).await.unwrap() && !sessions.has_session(&speaking).await.unwrap());
        assert!(all(&sessions.uses).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_its_client_has_ended_is_watched_no_more() {
        let sessions = Sessions::new();
        let id = begun(&sessions).await;
        sessions.close_session(&id).await.unwrap();
        assert!(!sessions.has_session(&id).await.unwrap() && all(&sessions.uses).is_empty());
    }
}
