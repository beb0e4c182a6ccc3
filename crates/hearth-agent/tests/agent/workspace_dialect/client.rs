//! A client of the dialect: a socket, a line of JSON each way.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{Agent, HANG};

/// An agent that speaks the dialect.
pub(super) struct Rpc {
    pub(super) agent: Agent,
    sockets: tempfile::TempDir,
}

impl Rpc {
    pub(super) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(super) fn start_with(options: &[&str]) -> Self {
        let sockets = tempfile::tempdir().unwrap();
        let address = format!("unix:{}", sockets.path().join("rpc.sock").display());
        let agent = Agent::start_with(&[&["--workspace-rpc", &address], options].concat());
        Self { agent, sockets }
    }

    /// Ends the agent.
    pub(super) fn stop(self) {
        assert!(self.agent.stop());
    }

    /// Where a file of the workspace really is.
    pub(super) fn place(&self, path: &str) -> PathBuf {
        self.agent.workspace().join(path)
    }

    pub(super) fn connect(&self) -> Connection {
        let stream = UnixStream::connect(self.sockets.path().join("rpc.sock")).unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
        stream.set_write_timeout(Some(HANG)).unwrap();
        Connection(BufReader::new(stream))
    }

    /// Asks for something, and expects an answer and the end.
    pub(super) fn ask(&self, request: &Value) -> Value {
        self.ask_raw(request.to_string().as_bytes())
    }

    pub(super) fn ask_raw(&self, line: &[u8]) -> Value {
        let mut connection = self.connect();
        connection.send(line);
        connection.send(b"\n");
        let reply = connection.reply();
        assert_eq!(connection.rest(), b"", "behind {reply}");
        reply
    }

    /// Reads a shell until it shows a text or is in a state; a client has no other way to wait.
    pub(super) fn wait_for_shell(&self, wanted: &Value) {
        let begun = Instant::now();
        loop {
            let read = json!({"action": "read_shell", "shell_id": wanted["shell_id"], "max_chars": 10_000_000});
            let reply = self.ask(&read);
            let shows = |text: &str| reply["output"].as_str().is_some_and(|output| output.contains(text));
            if wanted["shows"].as_str().is_none_or(shows)
                && wanted["state"].as_str().is_none_or(|s| reply["state"] == s)
            {
                return;
            }
            assert!(begun.elapsed() < HANG, "{wanted} never came: {reply}");
            std::thread::yield_now();
        }
    }

    /// Runs a command.
    pub(super) fn exec(&self, command: &str) -> Value {
        self.ask(&json!({"command": command}))
    }
}

/// One connection.
pub(super) struct Connection(pub(super) BufReader<UnixStream>);

impl Connection {
    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    /// Says that nothing more will be sent.
    pub(super) fn finish(&mut self) {
        self.0.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
    }

    pub(super) fn line(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).unwrap();
        assert_eq!(line.pop(), Some(b'\n'), "{}", String::from_utf8_lossy(&line));
        line
    }

    pub(super) fn reply(&mut self) -> Value {
        let line = self.line();
        serde_json::from_slice(&line).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&line)))
    }

    /// All that comes until the agent closes.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).unwrap();
        rest
    }
}
