//! A session with one agent, as its user holds it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hearth_protocol::{
    Attach, Epoch, Finished, HostHello, Info, Lane, Outcome, OutputTotals, ProcessInfo, ProcessRef, PtySize, Renew,
    ReplyBody, Request, RequestBody, Signal, SignalScope, Start, Tag,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{self, Instant};

use crate::connection::Connection;
use crate::endpoint::Endpoints;
use crate::error::{ChannelError, ConnectError, Ended};
use crate::follower::Kind;
use crate::handshake::{Incoming, await_hello, draw_epoch, greet};
use crate::operation::Operation;
use crate::process::{Following, Process};
use crate::reader::{read_bulk, read_control};
use crate::session::{Session, kind};
use crate::writer::{Message, Writer, writer};

/// The most processes that a list takes from a guest.
const MOST_LISTED: usize = 100_000;

/// The bounds on waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectOptions {
    /// For the connections and the agent's hellos together. A guest that is still booting answers when it is up, so this is
    /// also how long its boot may take.
    pub timeout: Duration,
    /// For the answer to a request, where the call names no other bound.
    pub request_timeout: Duration,
    /// For room in a full write queue.
    pub queue_timeout: Duration,
    /// For what is queued to be written when the channel is closed.
    pub close_timeout: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { timeout: seconds(5), request_timeout: seconds(10), queue_timeout: seconds(5), close_timeout: seconds(5) }
    }
}

/// A session with the agent of one guest. Everything runs over it at once: any number of requests and followed processes.
///
/// Needs a tokio runtime, of either flavour. Dropping it ends the session at once; [`Self::close`] lets what is queued go out first.
pub struct Channel {
    session: Arc<Session>,
    options: ConnectOptions,
    /// Whether the guest's processes were stopped.
    still: watch::Sender<bool>,
    writer: Task,
    _readers: [Task; 2],
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Task {
    fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Closes the channel there may be, then connects: a session without anything of an earlier one. For one-off commands.
///
/// # Errors
/// As [`Channel::connect`]; the earlier channel is closed all the same.
pub async fn reconnecting(
    earlier: Option<Channel>,
    endpoints: &Endpoints,
    options: ConnectOptions,
) -> Result<Channel, ChannelError> {
    if let Some(channel) = earlier {
        channel.close().await;
    }
    Channel::connect(endpoints, options).await
}

impl Channel {
    /// Connects both lanes, once, and opens a session.
    ///
    /// Returns when the agent has answered on the control lane. The bulk lane's answer is awaited behind that; if it does not
    /// come in time, the channel ends.
    ///
    /// # Errors
    /// [`ChannelError::Connect`].
    pub async fn connect(endpoints: &Endpoints, options: ConnectOptions) -> Result<Self, ChannelError> {
        let deadline = Instant::now() + options.timeout;
        let (control, bulk) =
            tokio::try_join!(endpoints.control.connect(options.timeout), endpoints.bulk.connect(options.timeout))?;
        Self::greet(control, bulk, options, deadline).await
    }

    /// Opens a session over connections that are there already.
    ///
    /// # Errors
    /// [`ChannelError::Connect`], of the handshake's kinds.
    pub async fn over(control: Connection, bulk: Connection, options: ConnectOptions) -> Result<Self, ChannelError> {
        let deadline = Instant::now() + options.timeout;
        Self::greet(control, bulk, options, deadline).await
    }

    async fn greet(
        control: Connection,
        bulk: Connection,
        options: ConnectOptions,
        deadline: Instant,
    ) -> Result<Self, ChannelError> {
        let epoch = draw_epoch()?;
        let Connection { read, mut write } = control;
        let mut incoming = Incoming::new(read);
        let handshake = async {
            greet(&mut write, epoch).await?;
            await_hello(&mut incoming, epoch, Lane::Control).await
        };
        let answered = time::timeout_at(deadline, handshake).await;
        answered.unwrap_or(Err(ConnectError::NoAnswer { after: options.timeout }))?;
        let (control_queue, control_writer) = writer(write, options.queue_timeout);
        let (bulk_queue, bulk_writer) = writer(bulk.write, options.queue_timeout);
        let hello = Message::new(HostHello::new(epoch, Lane::Bulk).to_bytes());
        bulk_queue.send(hello).await.expect("the queue is empty and its writer is here");
        let session = Arc::new(Session::new(control_queue, bulk_queue));
        let bulk_incoming = Incoming::new(bulk.read);
        let bulk = (bulk_incoming, bulk_writer);
        Ok(Self::spawn(session, options, (incoming, control_writer), bulk, Some((epoch, deadline))))
    }

    /// Goes on with the session that an earlier channel had when its guest was saved: nothing was under way in it, and the guest has seen no end
    /// of it. Over connections that the restored guest takes for the earlier ones; that it is there shows the first answer.
    pub fn resume(control: Connection, bulk: Connection, options: ConnectOptions) -> Self {
        let (control_queue, control_writer) = writer(control.write, options.queue_timeout);
        let (bulk_queue, bulk_writer) = writer(bulk.write, options.queue_timeout);
        let session = Arc::new(Session::new(control_queue, bulk_queue));
        let control = (Incoming::new(control.read), control_writer);
        Self::spawn(session, options, control, (Incoming::new(bulk.read), bulk_writer), None)
    }

    fn spawn(
        session: Arc<Session>,
        options: ConnectOptions,
        control: (Incoming, Writer),
        bulk: (Incoming, Writer),
        bulk_hello: Option<(Epoch, Instant)>,
    ) -> Self {
        let readers = [
            Task::spawn(until_ended(session.clone(), read_control(session.clone(), control.0))),
            Task::spawn(until_ended(session.clone(), read_bulk(session.clone(), bulk.0, bulk_hello))),
        ];
        let writer = Task::spawn(until_ended(session.clone(), write(session.clone(), control.1, bulk.1)));
        Self { session, options, still: watch::Sender::new(false), writer, _readers: readers }
    }

    /// Whether nothing is under way and nothing can come for an earlier request: then the number of the next one, by which two such moments are known
    /// to have nothing between them. A guest that is saved so can [go on](Self::resume) without a greeting.
    pub fn quiet(&self) -> Option<u64> {
        self.session.quiet()
    }

    /// Asks for anything that has one reply, within the default bound.
    ///
    /// For starts and attaches use [`Self::start`] and [`Self::attach`], for operations with streams [`Self::operate`]: streams would have no
    /// reader here.
    ///
    /// # Errors
    /// Any [`ChannelError`]; [`ChannelError::outcome`] tells whether it may have had an effect.
    pub async fn request(&self, body: RequestBody) -> Result<ReplyBody, ChannelError> {
        self.request_within(body, self.options.request_timeout).await
    }

    /// As [`Self::request`], within a bound of its own. When it passes the channel stays open, and a late answer is dropped.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn request_within(&self, body: RequestBody, timeout: Duration) -> Result<ReplyBody, ChannelError> {
        self.session.ask(body, timeout).await
    }

    /// Asks whether the agent is there.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn ping(&self) -> Result<(), ChannelError> {
        match self.request(RequestBody::Ping {}).await? {
            ReplyBody::Pong {} => Ok(()),
            other => Err(unexpected("ping", &other)),
        }
    }

    /// Asks what the guest is.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn info(&self) -> Result<Info, ChannelError> {
        match self.request(RequestBody::Info {}).await? {
            ReplyBody::Info(info) => Ok(info),
            other => Err(unexpected("info", &other)),
        }
    }

    /// Makes the guest this sandbox's own. Nothing else should be asked before it is done. It may be the first word to a guest that has yet to
    /// go on, so [`ConnectOptions::timeout`] bounds it.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn renew(&self, renew: Renew) -> Result<(), ChannelError> {
        done("renew", self.request_within(RequestBody::Renew(renew), self.options.timeout).await?)
    }

    /// Has the guest do what it can before it is saved as what others are restored from. Nothing else should be asked behind it.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn settle(&self) -> Result<(), ChannelError> {
        done("settle", self.request(RequestBody::Settle {}).await?)
    }

    /// Stops all processes of the guest, so that it can be saved. What would start one over this channel waits for [`Self::thaw`], for as long
    /// as a request may take: the guest would refuse it.
    ///
    /// # Errors
    /// As [`Self::request`]; all go on if they could not all be stopped.
    pub async fn freeze(&self) -> Result<(), ChannelError> {
        self.still.send_replace(true);
        let frozen = self.request(RequestBody::Freeze {}).await.and_then(|reply| done("freeze", reply));
        if frozen.is_err() {
            self.still.send_replace(false);
        }
        frozen
    }

    /// Lets all processes of the guest go on.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn thaw(&self) -> Result<(), ChannelError> {
        let thawed = self.request(RequestBody::Thaw {}).await;
        self.still.send_replace(false);
        done("thaw", thawed?)
    }

    /// Sends a signal to a process, or to all it has started.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn signal(
        &self,
        process: impl Into<ProcessRef>,
        signal: Signal,
        scope: SignalScope,
    ) -> Result<(), ChannelError> {
        let process = process.into();
        done("signal", self.request(RequestBody::Signal { process, signal, scope }).await?)
    }

    /// Changes the size of a process's terminal.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn resize(&self, process: impl Into<ProcessRef>, size: PtySize) -> Result<(), ChannelError> {
        let process = process.into();
        done("resize", self.request(RequestBody::Resize { process, size }).await?)
    }

    /// Lists the processes, the ended ones that the agent still remembers included.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn list(&self) -> Result<Vec<ProcessInfo>, ChannelError> {
        self.list_all(None).await
    }

    /// Lists the processes that bear a tag: of those that run at most one, and the ended ones that the agent still remembers.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn list_tagged(&self, tag: Tag) -> Result<Vec<ProcessInfo>, ChannelError> {
        self.list_all(Some(tag)).await
    }

    async fn list_all(&self, tag: Option<Tag>) -> Result<Vec<ProcessInfo>, ChannelError> {
        let mut all: Vec<ProcessInfo> = Vec::new();
        loop {
            let after = all.last().map(|process| process.process);
            match self.request(RequestBody::List { after, tag: tag.clone() }).await? {
                ReplyBody::Processes { processes, more } => {
                    // What does not go forward would go on for ever.
                    let forward = processes.first().is_some_and(|first| Some(first.process) > after);
                    all.extend(processes);
                    if !(more && forward && all.len() < MOST_LISTED) {
                        return Ok(all);
                    }
                }
                other => return Err(unexpected("list", &other)),
            }
        }
    }

    /// Powers the guest off: its processes get TERM, the grace (at most [`hearth_protocol::limits::GRACE_MS`]), then KILL. Returns when the
    /// agent is about to; [`Self::closed`] tells when it is gone.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn shutdown(&self, grace: Duration) -> Result<(), ChannelError> {
        let grace_ms = Some(grace.as_millis() as u64);
        done("shutdown", self.request(RequestBody::Shutdown { grace_ms }).await?)
    }

    /// Starts a process, and follows it if `start.attach` says so.
    ///
    /// # Errors
    /// As [`Self::request`]. After [`ChannelError::TimedOut`] the process may run all the same, unfollowed.
    pub async fn start(&self, start: Start) -> Result<Process, ChannelError> {
        let attached = start.attach.is_some();
        let takes_input = attached && (start.stdin || start.pty.is_some());
        self.follow(RequestBody::Start(start), attached, OutputTotals::default(), takes_input).await
    }

    /// Follows a process that is there already, from the positions that `attach` names.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn attach(&self, attach: Attach) -> Result<Process, ChannelError> {
        let from = OutputTotals { stdout: attach.stdout, stderr: attach.stderr, ..OutputTotals::default() };
        self.follow(RequestBody::Attach(attach), true, from, true).await
    }

    /// Waits until the guest's processes go on.
    pub(crate) async fn while_still(&self, deadline: Instant) {
        let mut still = self.still.subscribe();
        let going_on = async { drop(still.wait_for(|still| !*still).await) };
        tokio::select! {
            // What the guest says then is the answer.
            () = time::sleep_until(deadline) => {}
            () = going_on => {}
            _ = self.closed() => {}
        }
    }

    async fn follow(
        &self,
        body: RequestBody,
        attached: bool,
        from: OutputTotals,
        takes_input: bool,
    ) -> Result<Process, ChannelError> {
        let after = self.options.request_timeout;
        let deadline = Instant::now() + after;
        let kind = if attached { Kind::Attached } else { Kind::Unattached };
        self.while_still(deadline).await;
        let following = self.ask_to_follow(body, kind, from, deadline).await?;
        match time::timeout_at(deadline, following.started()).await {
            Ok(started) => Ok(Process::new(following, started?, takes_input, after)),
            Err(_) => Err(ChannelError::TimedOut { after, outcome: Outcome::MayHaveRun }),
        }
    }

    async fn ask_to_follow(
        &self,
        body: RequestBody,
        kind: Kind,
        from: OutputTotals,
        deadline: Instant,
    ) -> Result<Following, ChannelError> {
        let mut following = Following::new(self.session.clone(), self.session.follow(kind, from)?);
        let request = Request { id: following.follower.id, body };
        let begun = following.follower.begun.clone();
        self.session.send_request(request, begun, deadline, self.options.request_timeout).await?;
        following.asked = true;
        Ok(following)
    }

    /// Asks for an operation with streams. Returns once the request is on its way; what comes of it is the operation's to tell.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn operate(&self, body: RequestBody) -> Result<Operation, ChannelError> {
        let deadline = Instant::now() + self.options.request_timeout;
        self.while_still(deadline).await;
        self.ask_to_follow(body, Kind::Operation, OutputTotals::default(), deadline).await.map(Operation::new)
    }

    /// Asks for an operation without streams, within the default bound.
    pub(crate) async fn finish(&self, body: RequestBody) -> Result<Finished, ChannelError> {
        self.finish_within(body, Duration::ZERO).await
    }

    /// As [`Self::finish`], of an operation that may itself wait for so long.
    pub(crate) async fn finish_within(&self, body: RequestBody, wait: Duration) -> Result<Finished, ChannelError> {
        match self.request_within(body, self.options.request_timeout + wait).await? {
            ReplyBody::Finished { result, .. } => Ok(result),
            other => Err(unexpected("an operation", &other)),
        }
    }

    /// Asks for an operation that may itself wait for so long, sends it `upload` and takes up to `limit` bytes of its `data`.
    pub(crate) async fn exchange(
        &self,
        body: RequestBody,
        wait: Duration,
        upload: Option<Bytes>,
        limit: usize,
    ) -> Result<(Finished, Bytes), ChannelError> {
        let after = self.options.request_timeout + wait;
        let whole = async {
            let operation = self.operate(body).await?;
            if let Some(upload) = upload {
                operation.send_all(upload).await?;
            }
            operation.collect(limit).await
        };
        let answered = time::timeout(after, whole).await;
        answered.unwrap_or(Err(ChannelError::TimedOut { after, outcome: Outcome::MayHaveRun }))
    }

    /// Waits until the channel has ended, and tells why.
    pub async fn closed(&self) -> Arc<Ended> {
        self.session.closed().await
    }

    /// Tells why the channel has ended, if it has.
    pub fn ended(&self) -> Option<Arc<Ended>> {
        self.session.ended()
    }

    /// Sends what is queued, for a bounded time, and ends the session. What still waits for an answer gets [`Ended::Closed`].
    pub async fn close(mut self) {
        self.session.control.close();
        self.session.bulk.close();
        let _ = time::timeout(self.options.close_timeout, &mut self.writer.0).await;
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("ended", &self.ended()).finish_non_exhaustive()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.session.end(Ended::Closed);
    }
}

/// Runs one lane's reader or writer until the session ends, whoever ends it.
async fn until_ended(session: Arc<Session>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        _ = session.closed() => {}
    }
}

/// Runs both lanes' writers. They end together: a guest that sees one lane end drops the other.
async fn write(session: Arc<Session>, mut control: Writer, mut bulk: Writer) {
    let told =
        |lane, result: io::Result<()>| result.unwrap_or_else(|source| session.end(Ended::Write { lane, source }));
    tokio::join!(async { told(Lane::Control, control.run().await) }, async { told(Lane::Bulk, bulk.run().await) },);
}

pub(crate) fn done(asked: &'static str, reply: ReplyBody) -> Result<(), ChannelError> {
    match reply {
        ReplyBody::Done {} => Ok(()),
        other => Err(unexpected(asked, &other)),
    }
}

/// The error of a result that is of another operation's kind.
pub(crate) fn wrong_result(asked: &'static str) -> ChannelError {
    ChannelError::UnexpectedReply { asked, answered: "the result of another operation" }
}

pub(crate) fn unexpected(asked: &'static str, reply: &ReplyBody) -> ChannelError {
    ChannelError::UnexpectedReply { asked, answered: kind(reply) }
}
