//! A home whose sandboxes a daemon holds.

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::support::{HANG, Home, Running, assert_code, end_process, text};

/// A home, for what its daemon holds.
pub(crate) struct Daemon(pub(crate) Home);

impl Daemon {
    pub(crate) fn with_images() -> Option<Self> {
        Home::with_images().map(Self)
    }

    /// Runs a command to its end, which must be a success, and returns its output without the last line's end.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.0.hearth(arguments);
        assert_code(&output, 0);
        text(&output.stdout).trim_end().to_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(arguments)).unwrap()
    }

    pub(crate) fn pid(&self) -> Option<Pid> {
        self.0.daemon()
    }

    /// Sends the daemon a signal, and waits until it is gone.
    pub(crate) fn end(&self, signal: Signal) {
        end_process(self.pid().unwrap(), signal);
        // Seen once in a hundred times: what a killed process listened on takes a connection for a moment longer, and then resets it.
        let (socket, begun) = (self.0.path().join("hearth.sock"), std::time::Instant::now());
        while std::os::unix::net::UnixStream::connect(&socket).is_ok() {
            assert!(begun.elapsed() < HANG, "something listens on");
        }
    }

    /// Follows events from the first on until one is of `about`, a name or an id, and says `what`.
    pub(crate) fn wait_for_event(&self, [about, what]: &[&str; 2]) {
        let mut following = Running::start(&mut self.0.command(&["events", "--after", "0"]));
        loop {
            let line = following.read_until("\n");
            assert!(!line.is_empty(), "the events ended without {about} {what}");
            // A word of its own: an id may well have "b-3" in it.
            if line.split_whitespace().any(|word| word == *about) && line.contains(what) {
                following.signal(Signal::KILL);
                following.finish();
                return;
            }
        }
    }
}
