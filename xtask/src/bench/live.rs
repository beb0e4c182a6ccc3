//! A machine like a sandbox's, up and taking requests, with one serial port more: what the channel is measured against.
//!
//! Nothing of Hearth is on that port but QEMU's command line. It has one purpose a machine: a program that waits at a port
//! is woken by the traffic of every other.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use hearth_engine::channel::{Channel, Event, Process};
use hearth_engine::protocol::{Command, Delivery, ExitStatus, RawString, Start, StreamName};
use hearth_engine::vmm::{Machine, PortName};
use hearth_engine::{Draft, chain};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::host::Host;

const RAW_PORT: &str = "hearth.bench";
/// The bytes of one raw round trip: about a ping.
const ECHO_BYTES: usize = 64;

/// A machine that takes requests.
pub(crate) struct Live {
    // In the order in which they must go.
    pub(crate) channel: Channel,
    pub(crate) machine: Machine,
    _draft: Draft,
}

/// One whose raw port is sent back by the guest's `cat` whatever comes.
pub(crate) struct Echoing {
    pub(crate) live: Live,
    port: UnixStream,
    _cat: Process,
}

/// One by whose raw port programs of the guest write straight to the host.
pub(crate) struct Sinking {
    pub(crate) live: Live,
    port: UnixStream,
}

impl Live {
    /// Boots a sandbox's machine as it is, and tells how long it took from the start of QEMU to the agent's answer.
    pub(crate) async fn boot(host: &Host) -> Result<(Self, Duration)> {
        let draft = host.draft()?;
        let begun = Instant::now();
        let machine = Machine::start(draft.machine.clone()).await?;
        let channel = connect(&draft, &machine).await?;
        Ok((Self { channel, machine, _draft: draft }, begun.elapsed()))
    }

    async fn boot_with_port(host: &Host) -> Result<(Self, UnixStream)> {
        let mut draft = host.draft()?;
        let name = PortName::new(RAW_PORT)?;
        draft.machine.ports.push(name.clone());
        let machine = Machine::start(draft.machine.clone()).await?;
        let path = machine.port_path(&name).context("the machine was given this port")?;
        // Before the guest sees the port: a read of one whose host is not there yet would be at its end.
        let port = UnixStream::connect(path).await.context("connect to the raw port")?;
        let channel = connect(&draft, &machine).await?;
        Ok((Self { channel, machine, _draft: draft }, port))
    }

    /// Ends it.
    pub(crate) async fn stop(self) {
        drop(self.channel);
        self.machine.stop().await;
    }
}

impl Echoing {
    pub(crate) async fn boot(host: &Host) -> Result<Self> {
        let (live, port) = Live::boot_with_port(host).await?;
        let cat = live.channel.start(as_root("exec 3<>$PORT; exec cat <&3 >&3")).await?;
        let mut echoing = Self { live, port, _cat: cat };
        echoing.round_trip().await?;
        Ok(echoing)
    }

    /// Sends a few bytes and waits until they are back.
    pub(crate) async fn round_trip(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        self.port.write_all(&[b'x'; ECHO_BYTES]).await?;
        self.port.read_exact(&mut [0; ECHO_BYTES]).await.context("read the echo")?;
        Ok(begun.elapsed())
    }
}

impl Sinking {
    pub(crate) async fn boot(host: &Host) -> Result<Self> {
        let (live, port) = Live::boot_with_port(host).await?;
        Ok(Self { live, port })
    }

    /// Has the guest write `bytes` zeros and tells how long they took from the first to the last.
    pub(crate) async fn take(&mut self, bytes: u64) -> Result<Duration> {
        self.take_from(&format!("head -c {bytes} /dev/zero | cat >$PORT"), bytes).await
    }

    /// Has the guest write a file of this length, and tells how long it took from the first byte to the last.
    pub(crate) async fn take_file(&mut self, path: &str, bytes: u64) -> Result<Duration> {
        self.take_from(&format!("cat {path} | cat >$PORT"), bytes).await
    }

    async fn take_from(&mut self, script: &str, bytes: u64) -> Result<Duration> {
        let writing = self.live.channel.start(as_root(script)).await?;
        let mut buffer = vec![0; 64 * 1024];
        let (mut received, mut clock) = (0, Clock::default());
        while received < bytes {
            let count = self.port.read(&mut buffer).await?;
            ensure!(count > 0, "the port ended after {received} of {bytes} bytes");
            received += count as u64;
            clock.tick();
        }
        finish(&writing, |_| {}).await?;
        Ok(clock.elapsed())
    }
}

impl Sinking {
    /// Has the guest copy `bytes` bytes from the port into a file, and tells how long it took from the first byte sent to the end.
    pub(crate) async fn give_file(&mut self, path: &str, bytes: u64) -> Result<Duration> {
        let copy = format!("dd of={path} bs=64k count={bytes} iflag=count_bytes,fullblock status=none");
        let script = format!("exec <$PORT; echo ready; {copy}");
        let reading = self.live.channel.start(as_root(&script)).await?;
        // The port is open: what is written from here on is read.
        reading.next_event().await?;
        let begun = Instant::now();
        let piece = vec![7; 64 * 1024];
        let mut left = bytes as usize;
        while left > 0 {
            let length = left.min(piece.len());
            self.port.write_all(&piece[..length]).await?;
            left -= length;
        }
        finish(&reading, |_| {}).await?;
        Ok(begun.elapsed())
    }
}

/// The time from the first of some events to the last.
#[derive(Debug, Default)]
pub(crate) struct Clock(Option<(Instant, Instant)>);

impl Clock {
    pub(crate) fn tick(&mut self) {
        let now = Instant::now();
        self.0.get_or_insert((now, now)).1 = now;
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.map_or(Duration::ZERO, |(first, last)| last - first)
    }
}

/// Follows a process to its end, which must be a good one; `took` is given each piece of its standard output.
pub(crate) async fn finish(process: &Process, mut took: impl FnMut(&[u8])) -> Result<ExitStatus> {
    let mut complaint = Vec::new();
    loop {
        match process.next_event().await?.context("the process was lost")? {
            Event::Output { stream: StreamName::Stderr, bytes, .. } => complaint.extend_from_slice(&bytes),
            Event::Output { bytes, .. } => took(&bytes),
            Event::Exit { status, .. } if status.code == Some(0) => return Ok(status),
            Event::Exit { status, .. } => bail!("{status:?}: {}", String::from_utf8_lossy(&complaint)),
        }
    }
}

/// A program that is followed without loss, as `hearth run` does.
pub(crate) fn argv(words: &[&str]) -> Start {
    let argv = words.iter().map(|word| RawString::from(word.as_bytes())).collect();
    Start { attach: Some(Delivery::Lossless), ..Start::new(Command::Argv(argv)) }
}

/// A script of root's that finds the raw port in `$PORT`.
fn as_root(script: &str) -> Start {
    let find = format!(
        "for port in /sys/class/virtio-ports/*; do read -r name <$port/name; \
         [ $name != {RAW_PORT} ] || PORT=/dev/${{port##*/}}; done; {script}"
    );
    let command = Command::Shell(RawString::from(find.as_bytes()));
    Start { attach: Some(Delivery::Lossless), user: Some("root".into()), ..Start::new(command) }
}

async fn connect(draft: &Draft, machine: &Machine) -> Result<Channel> {
    let connected = tokio::select! {
        connected = draft.connect(machine) => connected.map_err(|error| anyhow!(chain(&error))),
        exit = machine.exited() => bail!("QEMU ended: {}", String::from_utf8_lossy(&exit.stderr)),
    };
    connected.with_context(|| format!("console: {}", String::from_utf8_lossy(&machine.console().tail())))
}
