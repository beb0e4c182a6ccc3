//! Bodies that are read as they come: they are heard out even when what they are for is refused.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use futures_util::StreamExt;
use futures_util::stream::unfold;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::answer::Refusal;

/// How long what is still being sent is passed over. Who takes longer is hung up on.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers a request by `work`. Where that refuses it, the rest of its body is passed over behind the answer's back: whoever still sends would be hung
/// up on before it has read why.
pub(crate) async fn heard_out<T>(
    request: Request,
    work: impl AsyncFnOnce(Request) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let (head, body) = request.into_parts();
    let body = Arc::new(Mutex::new(body.into_data_stream()));
    let pieces = unfold(body.clone(), async |body| {
        let piece = body.lock().await.next().await?;
        Some((piece, body))
    });
    let outcome = work(Request::from_parts(head, Body::from_stream(pieces))).await;
    if outcome.is_err() {
        let rest = async move { while let Some(Ok(_)) = body.lock().await.next().await {} };
        tokio::spawn(timeout(PATIENCE, rest));
    }
    outcome
}
