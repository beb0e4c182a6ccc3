//! A program that is held over a WebSocket.

use std::fmt;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hearth_api::exec::{FromClient, FromServer, MESSAGE, STDERR, STDIN, STDIN_WINDOW, STDOUT};
use hearth_api::protocol::{ExitStatus, OutputTotals, ProcessId, PtySize, Signal, SignalScope, StreamName};
use hearth_api::{ErrorBody, SandboxInfo};
use serde::Serialize;
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message, http};

use crate::ClientError;
use crate::endpoint::{Endpoint, Wire};

/// What is sent of input in one message, in bytes.
const PIECE: usize = 64 * 1024;

/// What is read of a WebSocket at once, in bytes. Each page of it costs a short command the time of a fault.
const READ: usize = 32 * 1024;

type Socket = WebSocketStream<Wire>;

/// A program that runs, its output's end. Dropping it lets go of the program, which runs on.
pub struct Held {
    stream: SplitStream<Socket>,
    /// There until [`Self::input`] hands it out.
    sink: Option<SplitSink<Socket, Message>>,
    process: ProcessId,
    pid: u32,
    taken: watch::Sender<Input>,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("process", &self.process).field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// How much input there was, and whether that was all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Input {
    bytes: u64,
    end: bool,
}

/// What a held program does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeldEvent {
    /// It wrote, to [`StreamName::Stdout`] or [`StreamName::Stderr`].
    Output(StreamName, Bytes),
    /// Bytes of a stream were dropped in the guest, between what came before and what comes next.
    Dropped(StreamName, u64),
    /// It has ended. The last event.
    Exit(ExitStatus, OutputTotals),
}

impl Held {
    pub(crate) async fn open(endpoint: &Endpoint, path: &str) -> Result<Self, ClientError> {
        let stream = endpoint.dial().await?;
        let config = WebSocketConfig::default().max_message_size(Some(MESSAGE)).max_frame_size(Some(MESSAGE));
        let config = config.read_buffer_size(READ);
        let mut request = format!("ws://{}{path}", endpoint.authority()).into_client_request().map_err(failed)?;
        endpoint.sign(request.headers_mut());
        let opened = tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await;
        let (socket, _) = opened.map_err(failed)?;
        let (sink, stream) = socket.split();
        let taken = watch::Sender::new(Input::default());
        Ok(Self { stream, sink: Some(sink), process: ProcessId(0), pid: 0, taken })
    }

    pub(crate) async fn ask(&mut self, request: &impl Serialize) -> Result<(), ClientError> {
        match &mut self.sink {
            Some(sink) => sink.send(text(request)).await.map_err(failed),
            None => Ok(()),
        }
    }

    /// Waits until the sandbox of a run takes requests.
    pub(crate) async fn ready(&mut self) -> Result<SandboxInfo, ClientError> {
        match self.message().await? {
            Ok(FromServer::Ready { sandbox }) => Ok(*sandbox),
            Ok(FromServer::Error { error }) => Err(error.into()),
            _ => Err(ClientError::BadAnswer { what: "that the sandbox is there was not told".to_owned() }),
        }
    }

    pub(crate) async fn started(mut self) -> Result<Self, ClientError> {
        match self.message().await? {
            Ok(FromServer::Started { process, pid }) => {
                (self.process, self.pid) = (process, pid);
                Ok(self)
            }
            Ok(FromServer::Error { error }) => Err(error.into()),
            _ => Err(ClientError::BadAnswer { what: "the program's start was not told".to_owned() }),
        }
    }

    /// The program's name in the guest.
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// The program's number in the guest.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for what the program does next. Cancel-safe.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the program was lost, with the reason; [`ClientError::HungUp`], [`ClientError::Lost`].
    pub async fn next(&mut self) -> Result<HeldEvent, ClientError> {
        loop {
            return Ok(match self.message().await? {
                Err((stream, bytes)) => HeldEvent::Output(stream, bytes),
                Ok(FromServer::Dropped { stream, bytes }) => HeldEvent::Dropped(stream, bytes),
                Ok(FromServer::Exit { status, output }) => HeldEvent::Exit(status, output),
                Ok(FromServer::Error { error }) => return Err(error.into()),
                Ok(FromServer::Taken { bytes, end }) => {
                    self.taken.send_replace(Input { bytes, end });
                    continue;
                }
                Ok(FromServer::Started { .. } | FromServer::Ready { .. }) => {
                    return Err(ClientError::BadAnswer { what: "a second start".to_owned() });
                }
            });
        }
    }

    /// Hands out the way to the program, once.
    pub fn input(&mut self) -> Option<HeldInput> {
        Some(HeldInput { sink: self.sink.take()?, taken: self.taken.subscribe(), sent: Input::default() })
    }

    /// The next message: what the server says, or else a piece of output.
    async fn message(&mut self) -> Result<Result<FromServer, (StreamName, Bytes)>, ClientError> {
        loop {
            match self.stream.next().await.ok_or(ClientError::HungUp)?.map_err(failed)? {
                Message::Text(text) => {
                    let said = serde_json::from_str(&text);
                    return said.map(Ok).map_err(|error| ClientError::BadAnswer { what: error.to_string() });
                }
                Message::Binary(mut bytes) => {
                    let stream = match bytes.first() {
                        Some(&STDOUT) => StreamName::Stdout,
                        Some(&STDERR) => StreamName::Stderr,
                        _ => return Err(ClientError::BadAnswer { what: "bytes of no stream".to_owned() }),
                    };
                    return Ok(Err((stream, bytes.split_off(1))));
                }
                Message::Close(_) => return Err(ClientError::HungUp),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }
}

/// The way to a held program.
pub struct HeldInput {
    sink: SplitSink<Socket, Message>,
    taken: watch::Receiver<Input>,
    sent: Input,
}

impl fmt::Debug for HeldInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldInput").field("sent", &self.sent).finish_non_exhaustive()
    }
}

impl HeldInput {
    /// Waits until the daemon would hold another piece of input without holding up signals behind it. Cancel-safe; needs [`Held::next`] to
    /// be called meanwhile.
    pub async fn room(&mut self) {
        let least = (self.sent.bytes + PIECE as u64).saturating_sub(STDIN_WINDOW);
        // Where the other end is gone, the write says so.
        let _ = self.taken.wait_for(|taken| taken.bytes >= least).await;
    }

    /// Sends a piece of input, at most 64 KiB of which there is [`Self::room`] for; returns what is left.
    ///
    /// # Errors
    /// [`ClientError::Lost`], [`ClientError::HungUp`].
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<Bytes, ClientError> {
        let piece = bytes.split_to(bytes.len().min(PIECE));
        let mut message = Vec::with_capacity(piece.len() + 1);
        message.push(STDIN);
        message.extend_from_slice(&piece);
        self.sink.send(Message::Binary(message.into())).await.map_err(failed)?;
        self.sent.bytes += piece.len() as u64;
        Ok(bytes)
    }

    /// Says that this was all of the input.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn close(&mut self) -> Result<(), ClientError> {
        self.say(&FromClient::CloseStdin {}).await?;
        self.sent.end = true;
        Ok(())
    }

    /// Waits until all that was sent, the end too, reaches the program even if it is let go of; needs [`Held::next`] to be called meanwhile.
    pub async fn taken(&mut self) {
        // Where the other end is gone, or takes no more, there is nothing to wait for.
        let _ = self.taken.wait_for(|taken| taken.end || *taken == self.sent).await;
    }

    /// Sends the program a signal.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn signal(&mut self, signal: Signal, scope: SignalScope) -> Result<(), ClientError> {
        self.say(&FromClient::Signal { signal, scope }).await
    }

    /// Tells the program the terminal's size.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn resize(&mut self, size: PtySize) -> Result<(), ClientError> {
        self.say(&FromClient::Resize { size }).await
    }

    async fn say(&mut self, message: &FromClient) -> Result<(), ClientError> {
        self.sink.send(text(message)).await.map_err(failed)
    }
}

fn text(message: &impl Serialize) -> Message {
    Message::Text(serde_json::to_string(message).expect("plain data always becomes JSON").into())
}

fn failed(error: tungstenite::Error) -> ClientError {
    match error {
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => ClientError::HungUp,
        tungstenite::Error::Http(response) => refused(&response),
        error => ClientError::Lost { source: Box::new(error) },
    }
}

/// The daemon would not upgrade: its answer says why.
fn refused(response: &http::Response<Option<Vec<u8>>>) -> ClientError {
    let body = response.body().as_deref().unwrap_or_default();
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(body) => body.into(),
        Err(_) => ClientError::BadAnswer { what: format!("status {} without a reason", response.status()) },
    }
}
