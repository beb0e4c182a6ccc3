//! A terminal of the test's own, for commands that want one.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::support::{Running, text};

/// Both ends of a terminal. What the program writes to it is kept.
pub(crate) struct Terminal {
    ours: File,
    theirs: File,
    seen: String,
}

impl Terminal {
    pub(crate) fn new(columns: u16, rows: u16) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        tcsetwinsize(&ours, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        Self { ours: File::from(ours), theirs, seen: String::new() }
    }

    /// Starts a command on it; its error output is a pipe.
    pub(crate) fn start(&self, command: &mut Command) -> Running {
        let end = || self.theirs.try_clone().unwrap();
        let running = Running::start(command.stdin(end()).stdout(end()).stderr(Stdio::piped()));
        // What the command holds of the terminal would keep it open.
        command.stdin(Stdio::null()).stdout(Stdio::null());
        running
    }

    /// Reads until `wanted` was written, and returns all that was written so far.
    pub(crate) fn read_until(&mut self, wanted: &str) -> &str {
        let mut buffer = [0; 4096];
        while !self.seen.contains(wanted) {
            let count = self.ours.read(&mut buffer).unwrap();
            self.seen += &text(&buffer[..count]);
        }
        &self.seen
    }

    pub(crate) fn type_text(&mut self, text: &str) {
        self.ours.write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn settings(&self) -> Termios {
        tcgetattr(&self.theirs).unwrap()
    }
}
