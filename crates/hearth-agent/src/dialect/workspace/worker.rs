//! Work that may block, on a worker thread.

use super::texts::Refusal;
use crate::session::operation::Streams;

/// Does something whose answer is small.
pub(super) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let (streams, _input, _data) = Streams::local();
    streams.on_worker(move |_, _| Ok(work())).await.unwrap_or_else(|fault| Err(Refusal::of(&fault)))
}
