//! A Hearth of its own for each test, and what every test does with it.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// A bound on everything that a test waits for: reached only by a hang.
pub(crate) const HANG: Duration = Duration::from_secs(180);

fn prepared() -> Option<PathBuf> {
    std::env::var_os("HEARTH_TEST_HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

/// A home of its own over the shared image store.
pub(crate) struct Home {
    directory: tempfile::TempDir,
}

impl Home {
    /// Makes one with images and templates; `None`, and says so, when there is no store to share.
    pub(crate) fn with_images() -> Option<Self> {
        let home = Self::fresh_with_images()?;
        let templates = prepared()?.join("templates");
        fs::create_dir_all(&templates).unwrap();
        symlink(templates.canonicalize().unwrap(), home.path().join("templates")).unwrap();
        // What the preparing run has found out, so that not every test finds it out again.
        let findings = prepared().map(|prepared| prepared.join("findings.json"));
        findings.filter(|path| path.exists()).map(|path| fs::copy(path, home.path().join("findings.json")).unwrap());
        Some(home)
    }

    /// The same, with nothing known of this host yet.
    pub(crate) fn fresh_with_images() -> Option<Self> {
        let Some(prepared) = prepared() else {
            eprintln!("skipped: HEARTH_TEST_HOME names no home with images; make test prepares one");
            return None;
        };
        let home = Self::empty();
        symlink(prepared.join("store").canonicalize().unwrap(), home.path().join("store")).unwrap();
        Some(home)
    }

    pub(crate) fn empty() -> Self {
        Self { directory: tempfile::Builder::new().prefix("hearth-").tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
        self.give_to(command.args(arguments));
        command
    }

    /// Gives a command this home.
    pub(crate) fn give_to<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("HEARTH_HOME", self.path())
            // What a pool has ready would be taken for something left.
            .env("HEARTH_POOL", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
    }

    /// Runs to the end.
    pub(crate) fn hearth(&self, arguments: &[&str]) -> Output {
        Running::start(&mut self.command(arguments)).finish()
    }

    /// Runs a command in a sandbox.
    pub(crate) fn run(&self, command: &[&str]) -> Output {
        self.hearth(&[&["run", "--"], command].concat())
    }

    /// Runs with this as standard input.
    pub(crate) fn hearth_with_input(&self, arguments: &[&str], input: Vec<u8>) -> Output {
        let mut running = Running::start(self.command(arguments).stdin(Stdio::piped()));
        let mut stdin = running.child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = running.finish();
        writer.join().unwrap().unwrap();
        output
    }

    /// The process of the daemon, if one was started here.
    pub(crate) fn daemon(&self) -> Option<Pid> {
        let pid = Pid::from_raw(fs::read_to_string(self.path().join("daemon.lock")).ok()?.trim().parse().ok()?)?;
        let command = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
        // One that has ended already may have left its number to somebody else.
        text(&command).contains("daemon\0--started").then_some(pid)
    }

    /// The machines that are noted here and run: a daemon's.
    pub(crate) fn noted_machines(&self) -> Vec<Pid> {
        self.left().iter().filter_map(|own| Self::noted_machine(own)).collect()
    }

    /// The machine that is noted in a sandbox's directory, if it runs.
    pub(crate) fn noted_machine(own: &Path) -> Option<Pid> {
        let note: serde_json::Value = serde_json::from_slice(&fs::read(own.join("machine")).ok()?).ok()?;
        let pid = Pid::from_raw(note["process"]["pid"].as_i64()? as i32)?;
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        // What nobody has taken note of yet has ended all the same.
        (!stat.rsplit_once(") ")?.1.starts_with('Z')).then_some(pid)
    }

    /// The machines that run here, of the daemon's and of a Hearth's own.
    pub(crate) fn machines(&self, running: &Running) -> Vec<Pid> {
        let daemons = self.noted_machines();
        let own = children_of(running.child.id()).into_iter().filter(|pid| Some(*pid) != self.daemon());
        let mut machines: Vec<Pid> = daemons.into_iter().chain(own).collect();
        // A daemon that runs as `running` has noted its own children.
        machines.sort_by_key(|pid| pid.as_raw_nonzero());
        machines.dedup();
        machines
    }

    /// The sandboxes' directories that are there.
    pub(crate) fn left(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path().join("run"));
        entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    }

    /// Checks that a finished Hearth has left nothing. The daemon removes a run's sandbox once the run has its exit code.
    pub(crate) fn assert_nothing_left(&self) {
        let begun = std::time::Instant::now();
        while !self.left().is_empty() && self.daemon().is_some() && begun.elapsed() < HANG {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(self.left(), Vec::<PathBuf>::new());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let home = self.path().display().to_string();
        assert!(!mounts.contains(&home), "a mount is left below {home}");
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Sandboxes outlive their daemon.
        if !self.left().is_empty() {
            drop(self.command(&["rm", "--all"]).output());
        }
        if let Some(daemon) = self.daemon() {
            let _ = kill_process(daemon, Signal::TERM);
            wait_until_gone(daemon);
        }
    }
}

/// A Hearth that runs.
pub(crate) struct Running {
    pub(crate) child: Child,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self { child: command.spawn().unwrap() }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Sends Ctrl-C a few times a second until it has ended.
    pub(crate) fn interrupt_until_it_ends(mut self) -> Output {
        let begun = std::time::Instant::now();
        while self.child.try_wait().unwrap().is_none() && begun.elapsed() < HANG {
            self.signal(Signal::INT);
            std::thread::sleep(Duration::from_millis(100));
        }
        self.finish()
    }

    /// Reads standard output up to and including `wanted`.
    pub(crate) fn read_until(&mut self, wanted: &str) -> String {
        let mut stdout = self.child.stdout.take().unwrap();
        let mut text = Vec::new();
        let mut byte = [0];
        while !text.ends_with(wanted.as_bytes()) && stdout.read(&mut byte).unwrap() == 1 {
            text.push(byte[0]);
        }
        self.child.stdout = Some(stdout);
        String::from_utf8(text).unwrap()
    }

    /// Waits for the end, with a bound.
    pub(crate) fn finish(self) -> Output {
        let pid = Pid::from_child(&self.child);
        let (done, finished) = mpsc::channel();
        std::thread::spawn(move || done.send(self.child.wait_with_output()));
        match finished.recv_timeout(HANG) {
            Ok(output) => output.unwrap(),
            Err(_) => {
                let about = |file| fs::read_to_string(format!("/proc/{}/{file}", pid.as_raw_nonzero())).ok();
                let (status, waits) = (about("status"), about("wchan"));
                let _ = kill_process(pid, Signal::KILL);
                let output = finished.recv_timeout(Duration::from_secs(5)).map(|output| said(&output.unwrap()));
                panic!("it did not end; it waits in {waits:?}, {status:?}, and said {output:?}");
            }
        }
    }
}

/// The processes that one has started and that are alive.
pub(crate) fn children_of(parent: u32) -> Vec<Pid> {
    let parent = parent.to_string();
    let parent_of = |pid: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(status.lines().find_map(|line| line.strip_prefix("PPid:\t"))?.to_owned())
    };
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let children =
        pids.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()) && parent_of(pid).as_ref() == Some(&parent));
    children.filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// Sends a signal to a process that is not a child, and waits until it has ended.
pub(crate) fn end_process(pid: Pid, signal: Signal) {
    // One that is just ending cannot be taken hold of any more, and is not gone yet.
    let held = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    kill_process(pid, signal).unwrap();
    wait_for_end(pid, &held);
}

/// Waits until a process that is not a child has ended.
pub(crate) fn wait_until_gone(pid: Pid) {
    if let Ok(held) = pidfd_open(pid, PidfdFlags::empty()) {
        wait_for_end(pid, &held);
    }
}

fn wait_for_end(pid: Pid, fd: &OwnedFd) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let patience = Timespec { tv_sec: HANG.as_secs() as i64, tv_nsec: 0 };
    let ended = poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&patience)).unwrap();
    assert_eq!(ended, 1, "process {pid:?} is still there");
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What an ended Hearth said, in one piece for a failed assertion.
pub(crate) fn said(output: &Output) -> String {
    format!("{:?}, stdout {:?}, stderr {:?}", output.status, text(&output.stdout), text(&output.stderr))
}

#[track_caller]
pub(crate) fn assert_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}", said(output));
}
