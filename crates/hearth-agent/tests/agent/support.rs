//! An agent to test against, and the few things every test does with it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command as Program, Stdio};
use std::time::Duration;

use hearth_channel::{Channel, ChannelError, ConnectOptions, Endpoint, Endpoints, Event, Process};
use hearth_protocol::{
    Command, Delivery, Epoch, ErrorCode, ExitStatus, HostHello, Lane, Outcome as Retry, OutputTotals, Start, StreamName,
};

/// A bound on everything that a test waits for: reached only by a hang.
pub(crate) const HANG: Duration = Duration::from_secs(60);
/// Longer than what has nothing to wait for takes on the busiest machine, and shorter than what it must not wait for.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A running agent. It, and all it has started, ends with this.
pub(crate) struct Agent {
    process: Child,
    errors: BufReader<ChildStderr>,
    directory: tempfile::TempDir,
    /// The addresses that it serves, as it says them.
    pub(crate) addresses: Vec<String>,
}

impl Agent {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(options: &[&str]) -> Self {
        Self::spawn(Program::new(env!("CARGO_BIN_EXE_hearth-agent")), options)
    }

    /// With a limit on descriptors, which the agent may raise.
    pub(crate) fn start_with_descriptors(limit: u32) -> Self {
        let mut program = Program::new("sh");
        program.arg("-c").arg(format!("ulimit -Sn {limit}; exec \"$0\" \"$@\""));
        program.arg(env!("CARGO_BIN_EXE_hearth-agent"));
        Self::spawn(program, &[])
    }

    /// Started by another program, which becomes the agent.
    pub(crate) fn start_under(starter: &str, arguments: &[&str]) -> Self {
        Self::start_under_with(starter, arguments, &[])
    }

    pub(crate) fn start_under_with(starter: &str, arguments: &[&str], options: &[&str]) -> Self {
        let mut program = Program::new(starter);
        program.args(arguments).arg(env!("CARGO_BIN_EXE_hearth-agent"));
        Self::spawn(program, options)
    }

    fn spawn(mut program: Program, options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut process = program
            .args(["serve", "--native"])
            .arg(format!("unix:{}", directory.path().join("agent.sock").display()))
            .arg("--workspace")
            .arg(directory.path())
            .args(options)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut errors = BufReader::new(process.stderr.take().unwrap());
        errors.read_line(&mut line).unwrap();
        let addresses = line.strip_prefix("hearth-agent: serving ").unwrap_or_else(|| panic!("{line:?}"));
        let addresses = addresses.split_whitespace().map(str::to_owned).collect();
        Self { process, errors, directory, addresses }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn workspace(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    pub(crate) async fn connect(&self) -> Channel {
        let expected_uid = rustix::process::geteuid().as_raw();
        self.connect_to(Endpoint::Unix { path: self.socket(), expected_uid }).await
    }

    pub(crate) async fn connect_to(&self, endpoint: Endpoint) -> Channel {
        let endpoints = Endpoints::both(endpoint);
        Channel::connect(
            &endpoints,
            ConnectOptions { timeout: HANG, request_timeout: HANG, ..ConnectOptions::default() },
        )
        .await
        .unwrap()
    }

    /// A connection without a client: for what no client of ours would send.
    pub(crate) fn raw(&self, epoch: Epoch, lane: Lane) -> UnixStream {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
        stream.write_all(&HostHello::new(epoch, lane).to_bytes()).unwrap();
        let hello = read_line(&mut stream);
        assert!(hello.contains(&epoch.to_string()), "{hello}");
        stream
    }

    fn ask_to_end(&self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Asks the agent to end, and returns once it has.
    pub(crate) fn stop(mut self) -> bool {
        self.ask_to_end();
        self.process.wait().unwrap().success()
    }

    /// Asks the agent to end, and returns what it has said on standard error since it began to serve.
    pub(crate) fn last_words(mut self) -> String {
        self.ask_to_end();
        let mut words = String::new();
        self.errors.read_to_string(&mut words).unwrap();
        words
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.process.wait();
    }
}

/// Reads one line a byte at a time, so that nothing behind it is lost.
pub(crate) fn read_line(stream: &mut UnixStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// What a process did, from its start to its end.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) status: Option<ExitStatus>,
    pub(crate) totals: OutputTotals,
    pub(crate) gaps: u64,
}

impl Outcome {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.as_ref().unwrap().code
    }

    pub(crate) fn signal(&self) -> Option<i32> {
        self.status.as_ref().unwrap().signal
    }

    pub(crate) fn timed_out(&self) -> bool {
        self.status.as_ref().unwrap().timed_out
    }
}

pub(crate) fn shell(text: &str) -> Start {
    let mut start = Start::new(Command::Shell(text.into()));
    start.attach = Some(Delivery::Lossless);
    start
}

/// Takes everything a process says until it has ended.
pub(crate) async fn finish(process: &Process) -> Outcome {
    tokio::time::timeout(HANG, collect(process)).await.expect("the process ends")
}

async fn collect(process: &Process) -> Outcome {
    let mut outcome = Outcome::default();
    loop {
        match process.next_event().await.unwrap().expect("an exit comes before the end") {
            Event::Output { stream, at, bytes } => {
                let (kept, expected) = match stream {
                    StreamName::Stderr => (&mut outcome.stderr, 0),
                    _ => (&mut outcome.stdout, outcome.gaps),
                };
                outcome.gaps += at - expected - kept.len() as u64;
                kept.extend_from_slice(&bytes);
            }
            Event::Exit { status, output } => return Outcome { status: Some(status), totals: output, ..outcome },
        }
    }
}

/// Runs a shell command to its end.
pub(crate) async fn run(channel: &Channel, text: &str) -> Outcome {
    finish(&channel.start(shell(text)).await.unwrap()).await
}

/// Whether a process with this number is there and is no zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The one number that a process printed as its only line.
pub(crate) fn number(bytes: &[u8]) -> u32 {
    String::from_utf8_lossy(bytes).trim().parse().unwrap()
}

/// What the agent answered with.
pub(crate) fn fault(error: &ChannelError) -> (ErrorCode, Retry) {
    match error {
        ChannelError::Fault { source } => (source.code, source.outcome),
        other => panic!("not a fault of the agent's: {other}"),
    }
}

/// A figure of `/proc/PID/status` in KiB.
pub(crate) fn status_kib(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let figure = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    figure.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The most memory that a process has had at once.
pub(crate) fn peak_kib(pid: u32) -> u64 {
    status_kib(pid, "VmHWM:")
}
