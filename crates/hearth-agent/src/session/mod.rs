//! A session: one host's requests, from its hello to its end.
//!
//! Where the two lanes come from is [`serial`]'s and [`socket`]'s business. Here:
//!
//! ```text
//! control reader ─> request ─> Agent / Process
//!                                 │ replies        └─ follower: output ring ─credit─> bulk queue
//!                                 v                                                     v
//!                          control writer                                          bulk writer
//! bulk reader ─> stdin chunk ─> Process input
//! ```
//!
//! When a session ends, its tasks end; the processes go on. Both queues are bounded: a host that does not read is waited
//! for by its own session alone.

mod follow;
mod lane;
pub(crate) mod operation;
pub(crate) mod port;
pub(crate) mod serial;
pub(crate) mod socket;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hearth_protocol::{
    AgentHello, Attach, ChunkDecoder, ChunkHeader, ErrorCode, Fault, Finished, HelloAnswer, HelloScanner, HostHello,
    Lane, Outcome, ReceiveWindow, Reply, ReplyBody, Request, RequestBody, RequestId, Start, StreamName, encode_line,
    limits, negotiate, parse_request,
};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::agent::Agent;
use crate::process::{Input, Piece, Process};
use follow::{Credits, Follower};
pub(crate) use lane::{LaneError, Lines, Outgoing, Reader, Writer};
use lane::{of_its_own, read_some, write_lane};
use operation::Streams;

/// Replies that may wait for the control lane.
const CONTROL_QUEUE: usize = 64;
/// Chunks that may wait for the bulk lane. Few: what waits here has been taken from its stream's credit already.
const BULK_QUEUE: usize = 4;
/// The requests of one session that may be under way.
const ACTIVE: usize = 4096;
/// Why a session ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The host left, or can no longer be understood.
    Gone,
    /// The host, or its successor, said hello again.
    Hello(HostHello),
}

/// A session that is on.
pub(crate) struct Session {
    agent: Rc<Agent>,
    control: mpsc::Sender<Outgoing>,
    bulk: mpsc::Sender<Outgoing>,
    active: RefCell<HashMap<RequestId, Active>>,
    /// Why there is no bulk lane any more.
    bulk_lost: RefCell<Option<String>>,
    tasks: RefCell<JoinSet<()>>,
}

/// A request that has streams.
struct Active {
    input: Option<Rc<Input>>,
    credits: Rc<Credits>,
    stdin: Rc<RefCell<ReceiveWindow>>,
    task: tokio::task::AbortHandle,
}

/// Answers a hello, for the lane it came on.
pub(crate) fn answer(hello: &HostHello) -> AgentHello {
    let answer = negotiate(hello.min, hello.max).map_or_else(HelloAnswer::Error, HelloAnswer::Protocol);
    AgentHello { epoch: hello.epoch, lane: hello.lane, answer, agent: env!("CARGO_PKG_VERSION").to_owned() }
}

impl Session {
    /// Starts a session whose control lane is answered already. Returns it and the chunks that want to go out by the bulk lane.
    pub(crate) fn new(agent: Rc<Agent>, control: Writer) -> (Rc<Self>, mpsc::Receiver<Outgoing>) {
        let (control_sender, control_queue) = mpsc::channel(CONTROL_QUEUE);
        let (bulk_sender, bulk_queue) = mpsc::channel(BULK_QUEUE);
        let session = Rc::new(Self {
            agent,
            control: control_sender,
            bulk: bulk_sender,
            active: RefCell::default(),
            bulk_lost: RefCell::default(),
            tasks: RefCell::default(),
        });
        session.spawn(write_lane(control, control_queue));
        (session, bulk_queue)
    }

    /// Runs a task that ends with the session.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) -> tokio::task::AbortHandle {
        let mut tasks = self.tasks.borrow_mut();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_local(task)
    }

    /// Reads requests until the host leaves or says hello again.
    pub(crate) async fn serve_control(self: &Rc<Self>, lane: &mut Lines) -> End {
        loop {
            match lane.next().await {
                Ok(Some(line)) => {
                    if let Some(hello) = HostHello::parse(&line) {
                        return End::Hello(hello);
                    }
                    self.handle_line(&line).await;
                }
                Ok(None) | Err(LaneError::Io(_)) => return End::Gone,
                Err(LaneError::Frame(error)) => {
                    let fault = Fault::never_started(ErrorCode::HeaderTooLong, error.to_string());
                    self.reply(None, ReplyBody::Error(fault)).await;
                    self.flush().await;
                    return End::Gone;
                }
            }
        }
    }

    /// Serves the bulk lane for as long as there is one, as [`Self::carry_chunks`] does. What needs it fails then, and control goes on.
    pub(crate) async fn serve_bulk(
        self: Rc<Self>,
        reader: Reader,
        writer: Writer,
        scanner: HelloScanner,
        queue: mpsc::Receiver<Outgoing>,
        next_host: impl AsyncFn() -> bool,
    ) {
        let reason = match self.carry_chunks(reader, writer, scanner, queue, next_host).await {
            LaneError::Io(error) => error.to_string(),
            LaneError::Frame(error) => {
                let message = format!("the bulk lane is lost: {error}");
                let fault = Fault::never_started(ErrorCode::MalformedRequest, message);
                self.reply(None, ReplyBody::Error(fault)).await;
                error.to_string()
            }
        };
        self.lose_bulk(&reason).await;
    }

    /// Ends every request that has streams: none of them can end well without the lane. The processes go on.
    async fn lose_bulk(&self, reason: &str) {
        let message = format!("the session has lost its bulk lane ({reason}): connect anew");
        self.bulk_lost.replace(Some(message.clone()));
        let active = self.active.take();
        active.values().for_each(|request| request.task.abort());
        for id in active.into_keys() {
            let fault = Fault::failed(ErrorCode::Cancelled, message.clone());
            self.reply(Some(id), ReplyBody::Error(fault)).await;
        }
    }

    /// Finds the hello, answers it, then carries chunks both ways until the lane ends or breaks. Where it ends before the hello, `next_host`
    /// waits for another host there, and says whether one can come.
    async fn carry_chunks(
        &self,
        mut reader: Reader,
        mut writer: Writer,
        mut scanner: HelloScanner,
        queue: mpsc::Receiver<Outgoing>,
        next_host: impl AsyncFn() -> bool,
    ) -> LaneError {
        let mut buffer = BytesMut::new();
        let hello = loop {
            if let Some(line) = scanner.scan(&mut buffer) {
                match HostHello::parse(&line) {
                    Some(hello) if hello.lane == Lane::Bulk => break hello,
                    _ => continue,
                }
            }
            if let Err(error) = read_some(&mut reader, &mut buffer, 0).await
                && !next_host().await
            {
                return error.into();
            }
        };
        if let Err(error) = writer.write_all(&answer(&hello).to_bytes()).await {
            return error.into();
        }
        tokio::select! {
            () = write_lane(writer, queue) => io::Error::from(io::ErrorKind::BrokenPipe).into(),
            broken = self.read_chunks(reader, buffer) => broken,
        }
    }

    async fn read_chunks(&self, mut reader: Reader, mut buffer: BytesMut) -> LaneError {
        let mut decoder = ChunkDecoder::default();
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some((header, payload))) => {
                    let is_large = payload.len() >= limits::CHUNK;
                    self.take_chunk(&header, payload).await;
                    if is_large {
                        // A lane that has more at once, always, must not keep what it brought from being worked on.
                        tokio::task::yield_now().await;
                    }
                }
                Ok(None) => {
                    let missing = decoder.missing(&buffer);
                    if let Err(error) = read_some(&mut reader, &mut buffer, missing).await {
                        return error.into();
                    }
                }
                Err(error) => return error.into(),
            }
        }
    }

    /// Hands a chunk of input to its process. Chunks of requests that are over are late, not wrong.
    async fn take_chunk(&self, header: &ChunkHeader, payload: Bytes) {
        let fault = {
            let active = self.active.borrow();
            let Some(request) = active.get(&header.id) else { return };
            match (&request.input, header.stream) {
                _ if header.last.is_some() => Some(format!("request {} is answered by the agent", header.id.0)),
                (Some(input), StreamName::Stdin) => self.feed(header, payload, request, input).err(),
                _ => Some(format!("request {} takes no {:?}", header.id.0, header.stream)),
            }
        };
        if let Some(message) = fault {
            // An error is a request's last reply.
            self.detach(header.id);
            let fault = Fault::never_started(ErrorCode::InvalidField, message);
            self.reply(Some(header.id), ReplyBody::Error(fault)).await;
        } else if header.detach
            && let Some(body) = self.detach(header.id)
        {
            self.reply(Some(header.id), body).await;
        }
    }

    fn feed(&self, header: &ChunkHeader, payload: Bytes, request: &Active, input: &Input) -> Result<(), String> {
        request.stdin.borrow_mut().receive(payload.len() as u64).map_err(|error| error.to_string())?;
        if !payload.is_empty() {
            let (window, control, id) = (Rc::clone(&request.stdin), self.control.clone(), header.id);
            let grant = move |taken| {
                if let Some(bytes) = window.borrow_mut().consume(taken) {
                    grant(control, id, bytes);
                }
            };
            input.write(Piece { bytes: of_its_own(payload), taken: Box::new(grant) });
        }
        if header.end {
            input.close();
        }
        Ok(())
    }

    /// The credit that an upload begins with, of a file or an archive, which nobody but a worker takes: many at once must not hold as much as one may.
    fn upload_window(&self) -> u64 {
        let has_large = |request: &Active| request.stdin.borrow().size() >= limits::UPLOAD_WINDOW;
        if self.active.borrow().values().any(has_large) { limits::WINDOW } else { limits::UPLOAD_WINDOW }
    }

    async fn handle_line(self: &Rc<Self>, line: &[u8]) {
        match parse_request(line) {
            Ok(request) => {
                let id = request.id;
                if let Some(body) = self.handle(request).await.unwrap_or_else(|fault| Some(ReplyBody::Error(fault))) {
                    self.reply(Some(id), body).await;
                }
            }
            Err(refusal) => self.reply(refusal.id, refusal.body).await,
        }
    }

    /// Does what is asked, and returns the reply unless it was sent already or there is none.
    async fn handle(self: &Rc<Self>, request: Request) -> Result<Option<ReplyBody>, Fault> {
        let processes = &self.agent.processes;
        let done = Ok(Some(ReplyBody::Done {}));
        match request.body {
            RequestBody::Ping {} => Ok(Some(ReplyBody::Pong {})),
            RequestBody::Info {} => Ok(Some(ReplyBody::Info(self.agent.info()))),
            RequestBody::Renew(renew) => self.agent.renew(renew).and(done),
            RequestBody::Settle {} => {
                self.agent.settle();
                done
            }
            RequestBody::Freeze {} => processes.freeze().and(done),
            RequestBody::Thaw {} => processes.thaw().and(done),
            RequestBody::Start(start) => self.start(request.id, &start).await,
            RequestBody::Attach(attach) => self.attach(request.id, &attach).await,
            RequestBody::Detach {} => Ok(self.detach(request.id)),
            RequestBody::Signal { process, signal, scope } => processes.get(&process)?.signal(signal, scope).and(done),
            RequestBody::Resize { process, size } => processes.get(&process)?.resize(size).and(done),
            RequestBody::List { after, tag } => {
                let (processes, more) = processes.list(after, tag.as_ref());
                Ok(Some(ReplyBody::Processes { processes, more }))
            }
            RequestBody::Credit { stream, bytes } => self.credit(request.id, stream, bytes).map(|()| None),
            RequestBody::Secret(request) => {
                let result = self.agent.secret(request)?;
                Ok(Some(ReplyBody::Finished { result, output: Default::default() }))
            }
            RequestBody::Service(service) => {
                self.operate(request.id, |agent, streams| crate::service::run(agent, service, streams))
            }
            RequestBody::Process(process) => {
                self.operate(request.id, |agent, streams| crate::process::run(agent, process, streams))
            }
            RequestBody::Shell(shell) => {
                self.operate(request.id, |agent, streams| crate::shell::run(agent, shell, streams))
            }
            RequestBody::Packages(packages) => {
                self.operate(request.id, |agent, streams| crate::packages::run(agent, packages, streams))
            }
            RequestBody::Kernel(kernel) => {
                self.operate(request.id, |agent, streams| crate::kernel::run(agent, kernel, streams))
            }
            RequestBody::File(file) => self.operate_within(request.id, Self::upload_window, |agent, streams| {
                crate::files::run(agent, file, streams)
            }),
            RequestBody::Dial(dial) => self.operate(request.id, |_, streams| crate::dial::run(dial, streams)),
            RequestBody::Archive(archive) => self.operate_within(request.id, Self::upload_window, |agent, streams| {
                crate::archives::run(agent, archive, streams)
            }),
            RequestBody::History(history) => {
                self.operate(request.id, |agent, streams| crate::history::run(agent, history, streams))
            }
            RequestBody::Shutdown { grace_ms } => {
                self.reply(Some(request.id), ReplyBody::Done {}).await;
                self.flush().await;
                self.agent.shut_down(Duration::from_millis(grace_ms.unwrap_or(0)));
                Ok(None)
            }
        }
    }

    async fn start(self: &Rc<Self>, id: RequestId, start: &Start) -> Result<Option<ReplyBody>, Fault> {
        self.refuse_duplicate(id)?;
        if start.attach.is_some() {
            self.refuse_without_bulk()?;
        }
        let process = self.agent.processes.start(start)?;
        let started = ReplyBody::Started { process: process.id, pid: process.pid };
        let Some(delivery) = start.attach else { return Ok(Some(started)) };
        let follower = Follower::new(&process, (0, 0), delivery);
        self.reply(Some(id), started).await;
        self.follow(id, process, follower).map(|()| None)
    }

    async fn attach(self: &Rc<Self>, id: RequestId, attach: &Attach) -> Result<Option<ReplyBody>, Fault> {
        self.refuse_duplicate(id)?;
        self.refuse_without_bulk()?;
        let process = self.agent.processes.get(&attach.process)?;
        for (stream, from, total) in
            [("stdout", attach.stdout, process.stdout.total()), ("stderr", attach.stderr, process.stderr.total())]
        {
            if from > total {
                let message = format!("{stream} starts at {from}, past the {total} bytes written so far");
                return Err(Fault::never_started(ErrorCode::InvalidField, message));
            }
        }
        let follower = Follower::new(&process, (attach.stdout, attach.stderr), attach.delivery);
        self.reply(Some(id), ReplyBody::Started { process: process.id, pid: process.pid }).await;
        self.follow(id, process, follower).map(|()| None)
    }

    fn refuse_duplicate(&self, id: RequestId) -> Result<(), Fault> {
        if !self.active.borrow().contains_key(&id) {
            return Ok(());
        }
        let message = format!("request id {} is in use by a request that has not ended", id.0);
        Err(Fault::never_started(ErrorCode::DuplicateRequest, message))
    }

    /// Refuses a request with streams where there is no lane for them.
    fn refuse_without_bulk(&self) -> Result<(), Fault> {
        let lost = self.bulk_lost.borrow().clone();
        lost.map_or(Ok(()), |message| Err(Fault::never_started(ErrorCode::Cancelled, message)))
    }

    fn follow(self: &Rc<Self>, id: RequestId, process: Rc<Process>, follower: Follower) -> Result<(), Fault> {
        // It may have gone while the word of the start was on its way.
        self.refuse_without_bulk().map_err(|fault| Fault { outcome: Outcome::Failed, ..fault })?;
        let credits = follower.credits();
        let (control, bulk, weak) = (self.control.clone(), self.bulk.clone(), Rc::downgrade(self));
        let input = process.input.clone();
        let task = async move {
            follower.run(id, &process, &control, &bulk).await;
            if let Some(session) = weak.upgrade() {
                session.active.borrow_mut().remove(&id);
            }
        };
        let task = self.spawn(task);
        self.active.borrow_mut().insert(id, Active { input, credits, stdin: Rc::default(), task });
        Ok(())
    }

    /// Runs an operation beside everything else; its end is its reply.
    fn operate<F>(
        self: &Rc<Self>,
        id: RequestId,
        begin: impl FnOnce(Rc<Agent>, Streams) -> F,
    ) -> Result<Option<ReplyBody>, Fault>
    where
        F: Future<Output = Result<Finished, Fault>> + 'static,
    {
        self.operate_within(id, |_| limits::WINDOW, begin)
    }

    /// Runs an operation whose sender may begin with the credit that `window` tells once its input is wanted.
    fn operate_within<F>(
        self: &Rc<Self>,
        id: RequestId,
        window: fn(&Self) -> u64,
        begin: impl FnOnce(Rc<Agent>, Streams) -> F,
    ) -> Result<Option<ReplyBody>, Fault>
    where
        F: Future<Output = Result<Finished, Fault>> + 'static,
    {
        self.refuse_duplicate(id)?;
        self.refuse_without_bulk()?;
        if self.active.borrow().len() >= ACTIVE {
            let message = format!("{ACTIVE} requests of this session have not ended");
            return Err(Fault::never_started(ErrorCode::Busy, message));
        }
        let stdin = Rc::new(RefCell::new(ReceiveWindow::closed()));
        let (input, intake) = Input::taken_in({
            let (session, stdin) = (Rc::downgrade(self), Rc::clone(&stdin));
            move || {
                let Some(session) = session.upgrade() else { return };
                let size = window(&session);
                *stdin.borrow_mut() = ReceiveWindow::new(size);
                grant(session.control.clone(), id, size);
            }
        });
        let credits = Rc::<Credits>::default();
        let streams = Streams::new(id, intake, Rc::clone(&credits), self.bulk.clone());
        let output = streams.output.clone();
        let agent = Rc::clone(&self.agent);
        // Its size is that of the largest operation: on the heap it is not moved again with the task.
        let work = Box::pin(begin(Rc::clone(&agent), streams));
        let (control, weak) = (self.control.clone(), Rc::downgrade(self));
        let task = self.spawn(async move {
            let body = match work.await {
                Ok(result) => output.conclude(result).await,
                Err(fault) => Some(ReplyBody::Error(fault)),
            };
            if let Some(session) = weak.upgrade() {
                session.active.borrow_mut().remove(&id);
            }
            if let Some(body) = body {
                send_reply(&control, Some(id), agent.hide_secrets(body)).await;
            }
        });
        self.active.borrow_mut().insert(id, Active { input: Some(Rc::new(input)), credits, stdin, task });
        Ok(None)
    }

    fn detach(&self, id: RequestId) -> Option<ReplyBody> {
        // One that has ended by itself meanwhile has had its last reply.
        let active = self.active.borrow_mut().remove(&id)?;
        active.task.abort();
        Some(ReplyBody::Done {})
    }

    fn credit(&self, id: RequestId, stream: StreamName, bytes: u64) -> Result<(), Fault> {
        // Credit for a request that has ended is late, not wrong.
        let Some(credits) = self.active.borrow().get(&id).map(|active| Rc::clone(&active.credits)) else {
            return Ok(());
        };
        credits.grant(stream, bytes).map_err(|message| {
            self.detach(id);
            Fault::never_started(ErrorCode::InvalidField, message)
        })
    }

    /// Waits until every reply so far is written, or the lane is gone.
    async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.control.send(Outgoing::Flush(done)).await.is_ok() {
            let _ = written.await;
        }
    }

    /// Ends everything that the session has going; the processes go on.
    pub(crate) fn end(&self) {
        self.tasks.borrow_mut().abort_all();
        self.active.borrow_mut().clear();
    }

    async fn reply(&self, id: Option<RequestId>, body: ReplyBody) {
        send_reply(&self.control, id, self.agent.hide_secrets(body)).await;
    }
}

/// Allows the host to send more input.
fn grant(control: mpsc::Sender<Outgoing>, id: RequestId, bytes: u64) {
    let body = ReplyBody::Credit { stream: StreamName::Stdin, bytes };
    tokio::task::spawn_local(async move { send_reply(&control, Some(id), body).await });
}

/// Queues a reply. When the lane has ended, so will the session: nobody is there to tell.
pub(crate) async fn send_reply(control: &mpsc::Sender<Outgoing>, id: Option<RequestId>, body: ReplyBody) {
    let mut line = Vec::with_capacity(128);
    if encode_line(&Reply { id, body }, &mut line).is_err() {
        let fault = Fault::failed(ErrorCode::HeaderTooLong, "the reply is longer than a line may be");
        encode_line(&Reply { id, body: ReplyBody::Error(fault) }, &mut line).expect("a short reply fits");
    }
    let _ = control.send(Outgoing::Bytes(line)).await;
}
