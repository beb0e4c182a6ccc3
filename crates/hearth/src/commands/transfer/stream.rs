//! Bytes between a thread that works on files and a connection that waits for the network.

use std::io::{self, Read};
use std::pin::Pin;

use bytes::{Buf, Bytes};
use futures_util::stream::unfold;
use futures_util::{Stream, StreamExt};
use hearth_client::api::ErrorBody;
use hearth_client::api::protocol::Fault;
use hearth_client::api::protocol::archive::Exported;
use hearth_client::{ClientError, Download};
use hearth_files::FileError;
use hearth_files::archive::ArchiveError;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::failure::Failure;
use crate::signals::Signals;

/// The pieces that may wait between the two.
const PIECES: usize = 4;

/// How far a transfer is, on a terminal and nowhere else.
#[derive(Debug, Clone)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Shows bytes, out of `total` where it is known.
    pub(crate) fn new(what: &'static str, total: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        let template = match total {
            Some(_) => "{prefix} [{bar:32}] {bytes} of {total_bytes}, {bytes_per_sec}",
            None => "{prefix} {spinner} {bytes}, {bytes_per_sec}",
        };
        bar.set_style(ProgressStyle::with_template(template).expect("the template is valid").progress_chars("=> "));
        bar.set_prefix(what);
        Self(bar)
    }

    fn pass(&self, bytes: usize) {
        self.0.inc(bytes as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Self {
        ErrorBody::from(Fault::from(error)).into()
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        ErrorBody::from(Fault::from(error)).into()
    }
}

/// Takes pieces of an archive.
pub(crate) type Output<'a> = &'a mut dyn FnMut(Vec<u8>) -> io::Result<()>;
/// An archive as it comes.
pub(crate) type Pieces = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;
type Made = JoinHandle<Result<Exported, ArchiveError>>;

/// An archive that is made on a thread, and comes as it is made. One that fails ends in an error.
pub(crate) fn outgoing(
    make: impl FnOnce(Output<'_>) -> Result<Exported, ArchiveError> + Send + 'static,
) -> (Pieces, Made) {
    let (sender, receiver) = mpsc::channel(PIECES);
    let making = tokio::task::spawn_blocking(move || {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        let made = make(&mut |piece| sender.blocking_send(Ok(piece.into())).map_err(gone));
        if let Err(error) = &made {
            let _ = sender.blocking_send(Err(io::Error::other(error.to_string())));
        }
        made
    });
    let pieces =
        unfold(receiver, async |mut receiver: mpsc::Receiver<_>| receiver.recv().await.map(|piece| (piece, receiver)));
    (Box::pin(pieces), making)
}

/// Sends an archive that is made meanwhile, and returns what came of both. What is wrong here is told before what that led to there.
pub(crate) async fn send<T, F: Future<Output = Result<T, ClientError>>>(
    (pieces, making): (Pieces, Made),
    progress: Progress,
    upload: impl FnOnce(Pieces) -> F,
) -> Result<(T, Exported), Failure> {
    let counted = pieces.inspect(move |piece| progress.pass(piece.as_ref().map_or(0, Bytes::len)));
    let sent = upload(Box::pin(counted)).await;
    match (making.await.map_err(broken)?, sent) {
        (Ok(made), Ok(sent)) => Ok((sent, made)),
        // Nobody took it any more: the other end says why.
        (Err(ArchiveError::Transfer(_)) | Ok(_), Err(error)) => Err(error.into()),
        (Err(error), _) => Err(error.into()),
    }
}

/// What has come of a transfer to here.
pub(super) enum Came<T> {
    All(T),
    /// A signal ended it: the exit code. Nothing has changed.
    Cut(i32),
}

/// Has a thread take what comes. A signal, or a transfer that breaks off, is an error to the one that reads.
pub(super) async fn take<T: Send + 'static, E: Into<Failure> + Send + 'static>(
    mut download: Download,
    progress: Progress,
    take: impl FnOnce(Incoming) -> Result<T, E> + Send + 'static,
) -> Result<Came<T>, Failure> {
    let mut signals = Signals::new().map_err(Failure::runtime)?;
    let (sender, receiver) = mpsc::channel(PIECES);
    let taking = tokio::task::spawn_blocking(move || take(Incoming { receiver, piece: Bytes::new(), is_over: false }));
    let feed = async {
        while let Some(bytes) = download.next().await? {
            progress.pass(bytes.len());
            if sender.send(Some(bytes)).await.is_err() {
                // It has ended, and says why.
                return Ok(());
            }
        }
        let _ = sender.send(None).await;
        Ok::<_, ClientError>(())
    };
    let fed = tokio::select! {
        fed = feed => fed.map(|()| None),
        code = signals.first() => Ok(Some(code)),
    };
    // Without the mark of the end before it, this is a break.
    drop(sender);
    let taken = taking.await.map_err(broken)?;
    match fed? {
        Some(code) => Ok(Came::Cut(code)),
        None => taken.map(Came::All).map_err(Into::into),
    }
}

fn broken(error: tokio::task::JoinError) -> Failure {
    Failure::host(format!("the thread that worked on files failed: {error}"))
}

/// What comes, as something to read.
pub(super) struct Incoming {
    receiver: mpsc::Receiver<Option<Bytes>>,
    piece: Bytes,
    is_over: bool,
}

impl Incoming {
    /// The next bytes as they came; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.is_over {
            return Ok(None);
        }
        match self.receiver.blocking_recv() {
            Some(None) => {
                self.is_over = true;
                Ok(None)
            }
            Some(piece) => Ok(piece),
            None => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "it broke off")),
        }
    }
}

impl Read for Incoming {
    fn read(&mut self, place: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.next()? {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = place.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut place[..count]);
        Ok(count)
    }
}
