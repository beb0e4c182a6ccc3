//! A client of the execution channel that shares nothing with ours: bytes on sockets, however the test wants them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::{Agent, HANG};

/// The longest line that today's clients take.
const LINE: usize = 512 * 1024;

/// An agent that serves the execution channel in every way it can, with a home of its own.
pub(crate) struct Served {
    pub(crate) agent: Agent,
    directory: tempfile::TempDir,
}

/// How a client is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Tcp,
    Unix,
    Dual,
}

pub(crate) const WAYS: [Way; 3] = [Way::Tcp, Way::Unix, Way::Dual];

impl Served {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(more: &[&str]) -> Self {
        Self::start_by(more, Agent::start_with)
    }

    /// Started by another program, which becomes the agent.
    pub(crate) fn start_under(starter: &str, arguments: &[&str]) -> Self {
        Self::start_by(&[], |options| Agent::start_under_with(starter, arguments, options))
    }

    fn start_by(more: &[&str], start: impl FnOnce(&[&str]) -> Agent) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        std::fs::create_dir(at("home")).unwrap();
        let single = format!("unix:{}", at("one.sock"));
        let dual = format!("cmd=unix:{},event=unix:{}", at("cmd.sock"), at("event.sock"));
        let channel = "--execution-channel";
        let home = at("home");
        let options = [channel, "tcp:127.0.0.1:0", channel, &single, channel, &dual, "--home", &home];
        let directory = Self::open_to_all(directory);
        Self { agent: start(&[&options, more].concat()), directory }
    }

    /// Another user that runs code must be able to reach its home.
    fn open_to_all(directory: tempfile::TempDir) -> tempfile::TempDir {
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open).unwrap();
        std::fs::set_permissions(directory.path().join("home"), std::fs::Permissions::from_mode(0o777)).unwrap();
        directory
    }

    /// Waits for a condition, for as long as the agent answers.
    pub(crate) fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        let (begun, mut client) = (Instant::now(), self.connect(Way::Unix));
        while !condition() {
            client.assert_alive();
            assert!(begun.elapsed() < HANG, "waiting until {what}");
        }
    }

    /// How many files beneath the home the agent has open.
    pub(crate) fn open_files_in_home(&self) -> usize {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", self.agent.pid())).unwrap();
        let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        targets.filter(|target| target.starts_with(self.home())).count()
    }

    /// The agent's resident memory.
    pub(crate) fn memory_kib(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.agent.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn tcp_address(&self) -> String {
        self.agent.addresses[1].strip_prefix("tcp:").unwrap().to_owned()
    }

    pub(crate) fn connect(&self, way: Way) -> Client {
        match way {
            Way::Tcp => {
                let stream = TcpStream::connect(self.tcp_address()).unwrap();
                stream.set_read_timeout(Some(HANG)).unwrap();
                stream.set_nodelay(true).unwrap();
                Client::new(Ways::Tcp(stream.try_clone().unwrap()), stream)
            }
            Way::Unix => {
                let stream = unix(&self.socket("one.sock"));
                Client::new(Ways::Unix(stream.try_clone().unwrap()), stream)
            }
            Way::Dual => self.connect_dual(),
        }
    }

    pub(crate) fn connect_dual(&self) -> Client {
        let (command, event) = (unix(&self.socket("cmd.sock")), unix(&self.socket("event.sock")));
        Client::new(Ways::Unix(command), event)
    }
}

pub(crate) fn unix(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(HANG)).unwrap();
    stream
}

enum Ways {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A client.
pub(crate) struct Client {
    commands: Ways,
    events: BufReader<Box<dyn Read>>,
    /// Read ahead, to see where output ends.
    ahead: Option<Value>,
}

impl Client {
    fn new(commands: Ways, events: impl Read + 'static) -> Self {
        Self { commands, events: BufReader::new(Box::new(events)), ahead: None }
    }

    /// Sends bytes as they are.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        match &mut self.commands {
            Ways::Tcp(stream) => stream.write_all(bytes).unwrap(),
            Ways::Unix(stream) => stream.write_all(bytes).unwrap(),
        }
    }

    pub(crate) fn send(&mut self, request: &Value) {
        self.send_raw(format!("{request}\n").as_bytes());
    }

    /// Says that no more requests come.
    pub(crate) fn finish_sending(&self) {
        match &self.commands {
            Ways::Tcp(stream) => stream.shutdown(Shutdown::Write).unwrap(),
            Ways::Unix(stream) => stream.shutdown(Shutdown::Write).unwrap(),
        }
    }

    /// The next message as it comes; `None` at the end.
    pub(crate) fn next_message(&mut self) -> Option<Value> {
        if let Some(message) = self.ahead.take() {
            return Some(message);
        }
        let mut line = String::new();
        let length = self.events.read_line(&mut line).expect("the agent answers");
        assert!(length < LINE, "a line of {length} bytes");
        (length > 0).then(|| serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}")))
    }

    pub(crate) fn receive(&mut self) -> Value {
        self.next_message().expect("the agent has more to say")
    }

    /// The next message; chunks of one stream of one operation that follow each other are one.
    pub(crate) fn receive_whole(&mut self) -> Value {
        let mut message = self.receive();
        while is_output(&message) {
            let Some(next) = self.next_message() else { break };
            if next["type"] == message["type"] && next["op_id"] == message["op_id"] {
                let whole = message["chunk"].as_str().unwrap().to_owned() + next["chunk"].as_str().unwrap();
                message["chunk"] = whole.into();
            } else {
                self.ahead = Some(next);
                break;
            }
        }
        message
    }

    /// Asks, and takes the answers of this operation up to its last. Those of others are let go.
    pub(crate) fn ask(&mut self, request: &Value) -> Outcome {
        self.send(request);
        self.outcome(&request["op_id"])
    }

    /// Takes the answers of one operation up to its last.
    pub(crate) fn outcome(&mut self, op_id: &Value) -> Outcome {
        let mut outcome = Outcome::default();
        loop {
            let message = self.receive();
            if message["op_id"] != *op_id {
                continue;
            }
            match message["type"].as_str().unwrap() {
                "stdout" => outcome.stdout += message["chunk"].as_str().unwrap(),
                "stderr" => outcome.stderr += message["chunk"].as_str().unwrap(),
                "file_chunk" => outcome.frame.extend(STANDARD.decode(message["data"].as_str().unwrap()).unwrap()),
                _ => {
                    outcome.last = message;
                    return outcome;
                }
            }
        }
    }

    /// Asks, and returns whatever comes next.
    pub(crate) fn receive_after(&mut self, request: &Value) -> Value {
        self.send(request);
        self.receive()
    }

    /// Whether the agent answers, with nothing before the answer.
    pub(crate) fn assert_alive(&mut self) {
        self.send(&json!({"action": "ping", "op_id": "alive"}));
        let pong = self.receive();
        assert_eq!((&pong["type"], &pong["op_id"]), (&json!("pong"), &json!("alive")), "{pong}");
    }

    /// Writes a file whose frame is given, in chunks of so many bytes.
    pub(crate) fn write_frame(&mut self, op_id: &str, path: &str, frame: &[u8], cut: usize) -> Outcome {
        self.send(&json!({"action": "write_file", "op_id": op_id, "path": path}));
        for piece in frame.chunks(cut) {
            self.send(&json!({"action": "file_chunk", "op_id": op_id, "data": STANDARD.encode(piece)}));
        }
        self.ask(&json!({"action": "file_end", "op_id": op_id}))
    }
}

fn is_output(message: &Value) -> bool {
    matches!(message["type"].as_str(), Some("stdout" | "stderr"))
}

/// What came of an operation.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) frame: Vec<u8>,
    pub(crate) last: Value,
}

impl Outcome {
    pub(crate) fn code(&self) -> i64 {
        self.last["exit_code"].as_i64().unwrap_or_else(|| panic!("{self:?}"))
    }

    pub(crate) fn error(&self) -> &str {
        self.last["error_type"].as_str().unwrap_or_else(|| panic!("{self:?}"))
    }

    pub(crate) fn message(&self) -> &str {
        self.last["message"].as_str().unwrap_or_else(|| panic!("{self:?}"))
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        assert_eq!(self.last["type"], "file_read_complete", "{self:?}");
        zstd::decode_all(self.frame.as_slice()).unwrap()
    }
}

/// One zstd frame of this content, as clients make them.
pub(crate) fn frame(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 3).unwrap()
}
