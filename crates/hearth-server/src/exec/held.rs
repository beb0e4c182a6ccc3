//! A program held over a WebSocket: its streams as binary messages, everything else as text. What is said stands in `hearth_api::exec`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Extension, Path, State};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, Stream, StreamExt};
use hearth_api::exec::{FromClient, FromServer, MESSAGE, RunRequest, STDERR, STDIN, STDIN_WINDOW, STDOUT};
use hearth_api::{ErrorBody, ExecRequest, OwnCode};
use hearth_engine::channel::{Event, Process, Stdin};
use hearth_engine::fleet::{Guest, Leash, Member, NewSandbox, Removal};
use hearth_engine::protocol::{Attach, OutputTotals, Start, StreamName};
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tracing::Instrument;

use crate::App;
use crate::answer::{Refusal, Upgraded, invalid};
use crate::audit::Entry;
use crate::connection::Place;
use crate::remote::PATIENCE;
use crate::sandboxes::{info, new_sandbox};
use hearth_api::strict::parse;

/// The pieces of input that wait; their bytes are counted on their own.
const PIECES: usize = 4096;

/// What is read of a WebSocket at once, in bytes, and held for it as long as it lasts; most are idle.
const READ: usize = 8 * 1024;

/// How long the end of a machine whose channel has ended may take to be seen.
const END_AFTER_HANG_UP: Duration = Duration::from_secs(2);

/// How long a client may take to hear the last message.
const FAREWELL: Duration = Duration::from_secs(10);

type Sink = SplitSink<WebSocket, Message>;

/// Why a WebSocket is over before its program is.
#[derive(Debug)]
enum Over {
    /// The client has gone: there is nobody to tell.
    Gone,
    /// The client is to be told.
    Refused(Box<ErrorBody>),
}

impl From<axum::Error> for Over {
    fn from(_: axum::Error) -> Self {
        Self::Gone
    }
}

impl<T: Into<Refusal>> From<T> for Over {
    fn from(error: T) -> Self {
        Self::Refused(error.into().0)
    }
}

type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// Upgrades, and runs what the client's first message asks for.
pub(crate) async fn held(
    State(app): State<App>,
    Path(reference): Path<String>,
    Extension(entry): Extension<Entry>,
    Extension(place): Extension<Place>,
    upgrade: Upgrade,
) -> Result<Upgraded<ExecRequest>, Refusal> {
    Ok(Upgraded::new(checked(upgrade)?.on_upgrade(async move |mut socket| {
        let _place = place;
        let begun = async {
            let start = first::<ExecRequest>(&mut socket).await?.held()?;
            let member = app.member(&reference)?;
            let guest = member.channel().await?;
            Ok(Conversation { process: guest.start(start).await?, sent: OutputTotals::default(), guest, member })
        };
        let begun = begun.instrument(entry.span()).await;
        let rest = converse(socket, begun, &entry).await;
        drop(entry);
        until_heard(rest).await;
    })))
}

/// Upgrades, and follows a process that is there already.
pub(crate) fn attached(
    (app, entry, place): (App, Entry, Place),
    reference: String,
    attach: Attach,
    upgrade: Upgrade,
) -> Result<Upgraded<()>, Refusal> {
    Ok(Upgraded::new(checked(upgrade)?.on_upgrade(async move |socket| {
        let _place = place;
        let begun = async {
            let member = app.member(&reference)?;
            let guest = member.channel().await?;
            let sent = OutputTotals { stdout: attach.stdout, stderr: attach.stderr, ..OutputTotals::default() };
            Ok(Conversation { process: guest.attach(attach).await?, sent, guest, member })
        };
        let begun = begun.instrument(entry.span()).await;
        let rest = converse(socket, begun, &entry).await;
        drop(entry);
        until_heard(rest).await;
    })))
}

/// Upgrades, makes a sandbox, and runs one program in it. The sandbox goes with the connection.
pub(crate) async fn run(
    State(app): State<App>,
    Extension(entry): Extension<Entry>,
    Extension(place): Extension<Place>,
    upgrade: Upgrade,
) -> Result<Upgraded<RunRequest>, Refusal> {
    Ok(Upgraded::new(checked(upgrade)?.on_upgrade(async move |mut socket| {
        match make(&app, &mut socket).instrument(entry.span()).await {
            Ok((leash, member, start)) => {
                entry.made(member.id().as_str());
                let begun = async {
                    let guest = member.channel().await?;
                    let sent = OutputTotals::default();
                    Ok(Conversation { process: guest.start(start).await?, sent, guest, member: member.clone() })
                };
                let begun = begun.await;
                // The client ends the connection when it has what it wants, its sandbox's console for one.
                let mut rest = converse(socket, begun, &entry).await;
                drop(entry);
                while let Some(Ok(_)) = rest.next().await {}
                member.begin_removal(Removal::Done);
                drop((leash, place));
            }
            Err(over) => farewell(&mut socket, over, entry).await,
        }
    })))
}

async fn make(app: &App, socket: &mut WebSocket) -> Result<(Leash, Member, Start), Over> {
    let request = first::<RunRequest>(socket).await?;
    let (start, new) = (request.exec.held()?, NewSandbox { bound: true, ..new_sandbox(app, request.sandbox)? });
    let member = tokio::select! {
        created = app.fleet().create(new) => created?,
        over = until_gone(socket) => return Err(over),
    };
    let leash = Leash::new(member.clone());
    socket.send(text(&FromServer::Ready { sandbox: Box::new(info(member.view())) })).await?;
    Ok((leash, member, start))
}

/// Waits for the end of a client that has nothing to say yet.
async fn until_gone(socket: &mut WebSocket) -> Over {
    match socket.recv().await {
        Some(Ok(Message::Text(_) | Message::Binary(_))) => invalid("the program does not run yet").into(),
        _ => Over::Gone,
    }
}

fn checked(upgrade: Upgrade) -> Result<WebSocketUpgrade, Refusal> {
    let upgrade = upgrade.map_err(|rejection| invalid(format!("this needs a WebSocket: {}", rejection.body_text())))?;
    Ok(upgrade.max_message_size(MESSAGE).max_frame_size(MESSAGE).read_buffer_size(READ))
}

/// The client's first message.
async fn first<T: DeserializeOwned>(socket: &mut WebSocket) -> Result<T, Over> {
    let request = async {
        loop {
            match socket.recv().await.ok_or(Over::Gone)?? {
                Message::Text(text) => return Ok(parse(text.as_bytes())?),
                Message::Ping(_) | Message::Pong(_) => {}
                Message::Binary(_) => return Err(invalid("the first message must be the request, as text").into()),
                Message::Close(_) => return Err(Over::Gone),
            }
        }
    };
    let late = |_| Err(invalid(format!("the request did not come within {} s", PATIENCE.as_secs())).into());
    tokio::time::timeout(PATIENCE, request).await.unwrap_or_else(late)
}

async fn farewell(socket: &mut WebSocket, over: Over, entry: Entry) {
    if let Over::Refused(error) = over {
        entry.failed(error.code);
        // A client that has gone need not be told.
        let _ = socket.send(text(&FromServer::Error { error: *error })).await;
        let _ = socket.send(Message::Close(None)).await;
        drop(entry);
        until_heard(socket).await;
    }
}

/// Waits until the client has ended its side too. A connection that ends with something unread, or before the client has answered the
/// close, may take what was said last with it.
async fn until_heard(mut rest: impl Stream<Item = Result<Message, axum::Error>> + Unpin) {
    let over = async { while let Some(Ok(_)) = rest.next().await {} };
    // One that says nothing has had its time.
    let _ = tokio::time::timeout(FAREWELL, over).await;
}

fn text(message: &FromServer) -> Message {
    Message::Text(serde_json::to_string(message).expect("plain data always becomes JSON").into())
}

/// A program, and what must last as long as it is held: while the guest is, its sandbox is not idle.
struct Conversation {
    process: Process,
    /// How much of its streams the client has, or does not want.
    sent: OutputTotals,
    guest: Guest,
    member: Member,
}

/// Carries everything between a client and a process until either is over, and returns what the client may still say. Dropping the process
/// then detaches from it.
async fn converse(socket: WebSocket, begun: Result<Conversation, Over>, entry: &Entry) -> SplitStream<WebSocket> {
    let (mut sink, stream) = socket.split();
    let (sender, receiver) = mpsc::channel(PIECES);
    let mut input = Input { stream, sender: Some(sender), window: Arc::new(Semaphore::new(STDIN_WINDOW as usize)) };
    let over = match begun {
        Ok(Conversation { process, sent, guest, member }) => {
            let taken = watch::Sender::new(FromServer::Taken { bytes: 0, end: false });
            let over = tokio::select! {
                over = send_output(&process, sent, &mut sink, taken.subscribe()) => over,
                Err(over) = input.receive(&process) => Err(over),
                never = feed(process.stdin(), receiver, &taken) => match never {},
            };
            drop((process, guest));
            match over {
                Err(Over::Refused(error)) => Err(Over::Refused(explained(error, &member).await)),
                over => over,
            }
        }
        Err(over) => Err(over),
    };
    if let Err(Over::Refused(error)) = over {
        entry.failed(error.code);
        // A client that has gone need not be told.
        let _ = sink.send(text(&FromServer::Error { error: *error })).await;
    }
    let _ = sink.send(Message::Close(None)).await;
    input.stream
}

/// The first sign of a machine that ends may be its end of the channel; how it ended says more.
async fn explained(error: Box<ErrorBody>, member: &Member) -> Box<ErrorBody> {
    if error.code != OwnCode::Machine.into() {
        return error;
    }
    let Ok(how) = tokio::time::timeout(END_AFTER_HANG_UP, member.failed()).await else { return error };
    let console = member.console_tail().await;
    Box::new(ErrorBody { message: format!("the program is lost: {how}"), detail: Some(console), ..*error })
}

/// Sends what the program does, to its exit.
async fn send_output(
    process: &Process,
    mut sent: OutputTotals,
    sink: &mut Sink,
    mut taken: watch::Receiver<FromServer>,
) -> Result<(), Over> {
    sink.send(text(&FromServer::Started { process: process.id(), pid: process.pid() })).await?;
    loop {
        let event = tokio::select! {
            event = process.next_event() => event?,
            Ok(()) = taken.changed() => {
                let taken = text(&taken.borrow_and_update());
                sink.send(taken).await?;
                continue;
            }
        };
        match event {
            Some(Event::Output { stream, at, bytes }) => {
                tell_gap(sink, &mut sent, stream, at).await?;
                *position(&mut sent, stream) = at + bytes.len() as u64;
                sink.send(piece(stream, &bytes)).await?;
            }
            Some(Event::Exit { status, output }) => {
                tell_gap(sink, &mut sent, StreamName::Stdout, output.stdout).await?;
                tell_gap(sink, &mut sent, StreamName::Stderr, output.stderr).await?;
                return Ok(sink.send(text(&FromServer::Exit { status, output })).await?);
            }
            None => return Err(invalid("the program is no longer followed").into()),
        }
    }
}

async fn tell_gap(sink: &mut Sink, sent: &mut OutputTotals, stream: StreamName, at: u64) -> Result<(), Over> {
    let before = position(sent, stream);
    let bytes = at.saturating_sub(*before);
    if bytes > 0 {
        *before = at;
        sink.send(text(&FromServer::Dropped { stream, bytes })).await?;
    }
    Ok(())
}

fn position(sent: &mut OutputTotals, stream: StreamName) -> &mut u64 {
    if stream == StreamName::Stderr { &mut sent.stderr } else { &mut sent.stdout }
}

fn piece(stream: StreamName, bytes: &[u8]) -> Message {
    let name = if stream == StreamName::Stderr { STDERR } else { STDOUT };
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(name);
    message.extend_from_slice(bytes);
    Message::Binary(message.into())
}

/// Bytes for a program, and the part of the window that they take until it has them.
type Piece = (Bytes, OwnedSemaphorePermit);

struct Input {
    stream: SplitStream<WebSocket>,
    /// Gone once the client has said that this was all.
    sender: Option<mpsc::Sender<Piece>>,
    window: Arc<Semaphore>,
}

impl Input {
    /// Takes what the client says. Ends only with the client.
    async fn receive(&mut self, process: &Process) -> Result<Infallible, Over> {
        loop {
            match self.stream.next().await.ok_or(Over::Gone)?? {
                Message::Binary(bytes) => self.input(bytes).await?,
                Message::Text(text) => self.control(process, parse(text.as_bytes())?).await,
                Message::Ping(_) | Message::Pong(_) => {}
                Message::Close(_) => return Err(Over::Gone),
            }
        }
    }

    async fn input(&mut self, mut bytes: Bytes) -> Result<(), Over> {
        if bytes.first() != Some(&STDIN) {
            return Err(invalid("a binary message must begin with the byte 0, and then holds input").into());
        }
        let bytes = bytes.split_off(1);
        // A message is never larger than the window, and what is empty says nothing.
        let (Some(sender), Ok(size @ 1..)) = (&self.sender, u32::try_from(bytes.len())) else { return Ok(()) };
        if let Ok(place) = self.window.clone().acquire_many_owned(size.min(STDIN_WINDOW as u32)).await {
            // A program that takes no more has closed the queue.
            let _ = sender.send((bytes, place)).await;
        }
        Ok(())
    }

    async fn control(&mut self, process: &Process, message: FromClient) {
        // What a program that has just ended, or has no terminal, cannot take is no reason to let go of it.
        match message {
            FromClient::Resize { size } => drop(process.resize(size).await),
            FromClient::Signal { signal, scope } => drop(process.signal(signal, scope).await),
            FromClient::CloseStdin {} => self.sender = None,
        }
    }
}

/// Gives the program its input. Never returns: at the end of it, or when the program takes no more, the program goes on. A client that goes
/// ends no input: another may have more.
async fn feed(
    stdin: Option<Stdin>,
    mut pieces: mpsc::Receiver<Piece>,
    taken: &watch::Sender<FromServer>,
) -> Infallible {
    if let Some(mut stdin) = stdin.map(Stdin::without_end) {
        while let Some((bytes, place)) = pieces.recv().await {
            if stdin.write(bytes).await.is_err() {
                break;
            }
            drop(place);
            taken.send_replace(FromServer::Taken { bytes: stdin.position(), end: false });
        }
        let bytes = stdin.position();
        stdin.end();
        taken.send_replace(FromServer::Taken { bytes, end: true });
    }
    // What still comes is for nobody: it must not hold up the signals behind it.
    while pieces.recv().await.is_some() {}
    std::future::pending().await
}
