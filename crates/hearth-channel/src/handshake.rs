//! The opening of a session, lane by lane.
//!
//! One hello a lane is enough, whenever the guest comes up: QEMU reads nothing from a virtio-serial port's socket until the guest has
//! opened the port, so a hello that was written during a cold boot waits in the socket's buffer (tried on `pc` and `microvm`
//! with QEMU 7.2: bytes written three seconds before the guest's driver was there arrived whole and in order; those of a
//! host that had hung up before did not). So nothing is ever sent again, and the answer is waited for, not polled.

use bytes::BytesMut;
use hearth_protocol::{AgentHello, Epoch, HelloAnswer, HelloScanner, HostHello, Lane, PROTOCOL_MAX, PROTOCOL_MIN};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::connection::{ReadHalf, WriteHalf};
use crate::error::ConnectError;
use crate::text::tame;

/// Room for one read.
const READ: usize = 128 * 1024;

/// One lane's incoming bytes.
pub(crate) struct Incoming {
    io: ReadHalf,
    pub(crate) buffer: BytesMut,
}

impl Incoming {
    pub(crate) fn new(io: ReadHalf) -> Self {
        Self { io, buffer: BytesMut::new() }
    }

    /// Reads more into the buffer; `false` at the stream's end.
    pub(crate) async fn fill(&mut self) -> std::io::Result<bool> {
        if self.buffer.capacity() - self.buffer.len() < READ / 2 {
            self.buffer.reserve(READ);
        }
        Ok(self.io.read_buf(&mut self.buffer).await? > 0)
    }
}

/// Draws the name of a new session.
pub(crate) fn draw_epoch() -> Result<Epoch, ConnectError> {
    let mut bytes = [0; 16];
    let drawn = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    drawn.map_err(|errno| ConnectError::Random { source: errno.into() })?;
    Ok(Epoch::from_random(bytes))
}

/// Says hello on the control lane.
pub(crate) async fn greet(io: &mut WriteHalf, epoch: Epoch) -> Result<(), ConnectError> {
    let hello = HostHello::new(epoch, Lane::Control).to_bytes();
    io.write_all(&hello).await.map_err(|source| ConnectError::Greet { source })
}

/// Discards until the agent's hello of `epoch`, and leaves what follows it in the buffer.
pub(crate) async fn await_hello(incoming: &mut Incoming, epoch: Epoch, lane: Lane) -> Result<(), ConnectError> {
    let mut scanner = HelloScanner::new(epoch);
    loop {
        // A marked line that is not an agent's hello is our own, sent back by something that echoes: skipped.
        while let Some(line) = scanner.scan(&mut incoming.buffer) {
            if let Some(hello) = AgentHello::parse(&line) {
                return accept(hello, lane);
            }
        }
        if !incoming.fill().await.map_err(|source| ConnectError::Greet { source })? {
            return Err(ConnectError::HungUp);
        }
    }
}

fn accept(hello: AgentHello, expected: Lane) -> Result<(), ConnectError> {
    match hello.answer {
        HelloAnswer::Error(mut fault) => {
            fault.message = tame(&fault.message);
            Err(ConnectError::Refused { source: fault })
        }
        HelloAnswer::Protocol(version) if !(PROTOCOL_MIN..=PROTOCOL_MAX).contains(&version) => {
            Err(ConnectError::UnknownVersion { version })
        }
        HelloAnswer::Protocol(_) if hello.lane != expected => {
            Err(ConnectError::WrongLane { expected, found: hello.lane })
        }
        HelloAnswer::Protocol(_) => Ok(()),
    }
}
