//! Work that may block, on a worker thread, with a connection's upload or download as its stream.

use super::connection::Connection;
use super::texts::Refusal;
use crate::session::operation::{Download, Streams, Upload};

/// Does something whose answer is small.
pub(super) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let (streams, _input, _data) = Streams::local();
    streams.on_worker(move |_, _| Ok(work())).await.unwrap_or_else(|fault| Err(Refusal::of(&fault)))
}

/// Does something with the upload. Where that ends early, so does what the work reads.
pub(super) async fn receive<T: Send + 'static>(
    connection: &mut Connection,
    work: impl FnOnce(&mut Upload) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let (streams, input, _data) = Streams::local();
    let feed = async {
        // What is cut off ends without an end.
        while let Ok(piece) = connection.next_piece().await {
            match piece {
                Some(piece) => input.pass(piece).await,
                None => {
                    input.close();
                    return std::future::pending().await;
                }
            }
        }
        drop(input);
        std::future::pending().await
    };
    tokio::select! {
        result = streams.on_worker(move |upload, _| Ok(work(upload))) => {
            result.unwrap_or_else(|fault| Err(Refusal::of(&fault)))
        }
        () = feed => Err("the upload ended".into()),
    }
}

/// Does something that writes its answer itself. It is given up when nobody takes that any more.
pub(super) async fn send(
    connection: &mut Connection,
    work: impl FnOnce(&mut Download) -> Result<(), Refusal> + Send + 'static,
) -> Result<(), Refusal> {
    let (streams, _input, mut pieces) = Streams::local();
    let work = streams.on_worker(move |_, data| Ok(work(data)));
    let forward = async {
        while let Some((_, piece)) = pieces.recv().await {
            connection.send(&piece).await;
            if connection.is_broken() {
                return Err(());
            }
        }
        Ok(())
    };
    match tokio::try_join!(async { Ok(work.await) }, forward) {
        Ok((result, ())) => result.unwrap_or_else(|fault| Err(Refusal::of(&fault))),
        Err(()) => Ok(()),
    }
}
