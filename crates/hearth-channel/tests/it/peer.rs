//! A scripted agent at the other end of in-memory lanes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hearth_channel::{Channel, ConnectOptions, Connection};
use hearth_protocol::{
    AgentHello, ChunkDecoder, ChunkHeader, Epoch, ExitStatus, HelloAnswer, HostHello, Lane, LineDecoder, ProcessId,
    Reply, ReplyBody, Request, RequestBody, RequestId, StreamName, encode_line, parse_request,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};

/// What fits into a lane that nobody reads, in bytes, as in a socket.
pub(crate) const LANE: usize = 64 * 1024;

/// One lane as the agent sees it.
pub(crate) struct PeerLane<T = DuplexStream> {
    pub(crate) io: T,
    pub(crate) buffer: BytesMut,
    lines: LineDecoder,
    chunks: ChunkDecoder,
}

impl<T: AsyncRead + AsyncWrite + Unpin> PeerLane<T> {
    pub(crate) fn new(io: T) -> Self {
        Self { io, buffer: BytesMut::new(), lines: LineDecoder::default(), chunks: ChunkDecoder::default() }
    }

    pub(crate) async fn line(&mut self) -> Bytes {
        loop {
            if let Some(line) = self.lines.decode(&mut self.buffer).unwrap() {
                return line;
            }
            assert!(self.io.read_buf(&mut self.buffer).await.unwrap() > 0, "the host hung up");
        }
    }

    pub(crate) async fn chunk(&mut self) -> (ChunkHeader, Bytes) {
        loop {
            if let Some(chunk) = self.chunks.decode(&mut self.buffer).unwrap() {
                return chunk;
            }
            assert!(self.io.read_buf(&mut self.buffer).await.unwrap() > 0, "the host hung up");
        }
    }

    /// Reads until the host hangs up, and tells how much came.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.buffer).to_vec();
        let _ = self.io.read_to_end(&mut rest).await;
        rest
    }

    /// As [`Self::send`], but the host may hang up meanwhile: then `false`.
    pub(crate) async fn offer(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.io.write_all(bytes.as_ref()).await.is_ok()
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.io.write_all(bytes.as_ref()).await.unwrap();
    }

    pub(crate) async fn dribble(&mut self, bytes: impl AsRef<[u8]>) {
        for byte in bytes.as_ref() {
            self.send([*byte]).await;
            tokio::task::yield_now().await;
        }
    }

    /// Reads a host's hello.
    pub(crate) async fn hello(&mut self) -> HostHello {
        assert_eq!(self.line().await, "", "a newline comes before the hello");
        HostHello::parse(&self.line().await).expect("a hello")
    }
}

/// A scripted agent.
pub(crate) struct Peer<T = DuplexStream> {
    pub(crate) control: PeerLane<T>,
    pub(crate) bulk: PeerLane<T>,
}

/// Makes two unconnected ends.
pub(crate) fn pair() -> (Connection, Connection, Peer) {
    let (control, peer_control) = tokio::io::duplex(LANE);
    let (bulk, peer_bulk) = tokio::io::duplex(LANE);
    let peer = Peer { control: PeerLane::new(peer_control), bulk: PeerLane::new(peer_bulk) };
    (Connection::new(control), Connection::new(bulk), peer)
}

pub(crate) fn answer(epoch: Epoch, lane: Lane) -> Vec<u8> {
    AgentHello { epoch, lane, answer: HelloAnswer::Protocol(1), agent: "peer".into() }.to_bytes()
}

/// Opens a session.
pub(crate) async fn connected() -> (Channel, Peer) {
    connected_with(ConnectOptions::default()).await
}

pub(crate) async fn connected_with(options: ConnectOptions) -> (Channel, Peer) {
    let (control, bulk, mut peer) = pair();
    let (channel, _) = tokio::join!(Channel::over(control, bulk, options), peer.greet());
    (channel.unwrap(), peer)
}

impl<T: AsyncRead + AsyncWrite + Unpin> Peer<T> {
    pub(crate) async fn greet(&mut self) -> Epoch {
        let epoch = self.control.hello().await.epoch;
        self.control.send(answer(epoch, Lane::Control)).await;
        let bulk = self.bulk.hello().await;
        assert_eq!((bulk.epoch, bulk.lane), (epoch, Lane::Bulk));
        self.bulk.send(answer(epoch, Lane::Bulk)).await;
        epoch
    }

    pub(crate) async fn request(&mut self) -> Request {
        parse_request(&self.control.line().await).expect("a request")
    }

    pub(crate) async fn reply(&mut self, id: RequestId, body: ReplyBody) {
        self.control.send(line(&Reply { id: Some(id), body })).await;
    }

    /// Answers a start or an attach.
    pub(crate) async fn start(&mut self) -> RequestId {
        let request = self.request().await;
        assert!(matches!(request.body, RequestBody::Start(_) | RequestBody::Attach(_)), "{request:?}");
        self.reply(request.id, ReplyBody::Started { process: ProcessId(7), pid: 70 }).await;
        request.id
    }

    pub(crate) async fn output(&mut self, id: RequestId, stream: StreamName, at: u64, payload: &[u8]) {
        self.bulk.send(chunk(id, stream, at, false, payload)).await;
    }

    /// Answers requests until a ping, and the ping as well.
    pub(crate) async fn pong(&mut self) {
        loop {
            let request = self.request().await;
            if request.body == (RequestBody::Ping {}) {
                return self.reply(request.id, ReplyBody::Pong {}).await;
            }
        }
    }
}

pub(crate) fn line(message: &impl serde::Serialize) -> Vec<u8> {
    let mut line = Vec::new();
    encode_line(message, &mut line).unwrap();
    line
}

pub(crate) fn chunk(id: RequestId, stream: StreamName, at: u64, end: bool, payload: &[u8]) -> Vec<u8> {
    let length = (!payload.is_empty()).then_some(payload.len() as u64);
    let mut bytes = line(&ChunkHeader { id, stream, at, end, detach: false, last: None, payload: length });
    bytes.extend_from_slice(payload);
    bytes
}

/// An exit with code 0.
pub(crate) fn success() -> ExitStatus {
    ExitStatus {
        code: Some(0),
        signal: None,
        timed_out: false,
        out_of_memory: false,
        duration_us: 1,
        cpu_us: 1,
        peak_memory_bytes: Some(1),
    }
}

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// This process's resident memory, to be compared with later.
pub(crate) struct Memory(u64);

impl Memory {
    /// Measures it now.
    pub(crate) fn now() -> Self {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        Self(statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096)
    }

    /// Checks that it has grown by less than `mebibytes`, where no other test runs in this process.
    pub(crate) fn check_growth(&self, mebibytes: u64) {
        let grown = Self::now().0.saturating_sub(self.0) >> 20;
        if std::env::var_os("NEXTEST").is_none() {
            return println!("skipped: memory is only measured under nextest, which gives each test a process");
        }
        assert!(grown < mebibytes, "memory grew by {grown} MiB");
    }
}

/// The user that serves the sockets this process makes.
pub(crate) fn own_uid() -> u32 {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap())
}
