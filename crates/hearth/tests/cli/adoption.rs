//! Daemons that end, and the next ones, which find everything as it was.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use hearth_client::api::CreateSandbox;
use hearth_client::{Client, HeldEvent};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::held::Daemon;
use crate::support::{HANG, Running, assert_code, said, text, wait_until_gone};

/// Says one number after another.
const COUNT: &str = "i=0; while :; do i=$((i + 1)); echo $i; sleep 0.02; done";

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// How many numbers the program of a sandbox has said, every one of which is there.
fn counted(home: &Daemon, sandbox: &str) -> usize {
    let client = Client::new(home.0.path().join("hearth.sock"));
    let output = runtime().block_on(async {
        let list = client.processes(sandbox).await.unwrap();
        let process = list.processes.iter().min_by_key(|process| process.process.0).unwrap();
        let (id, total) = (process.process.0.to_string(), process.output.stdout as usize);
        let mut held = client.attach(sandbox, &id, &Default::default()).await.unwrap();
        let mut text = Vec::new();
        while text.len() < total {
            match held.next().await.unwrap() {
                HeldEvent::Output(_, bytes) => text.extend_from_slice(&bytes),
                other => panic!("{other:?} after {} of {total} bytes", text.len()),
            }
        }
        text
    });
    let lines: Vec<usize> = text(&output).lines().map(|line| line.parse().unwrap_or(0)).collect();
    // What follows the last line's end may be half a number.
    let whole = lines.len().saturating_sub(usize::from(!output.ends_with(b"\n")));
    assert!(lines[..whole].iter().copied().eq(1..=whole), "{lines:?}");
    whole
}

fn await_more(home: &Daemon, sandbox: &str, than: usize) -> usize {
    let begun = Instant::now();
    loop {
        let count = counted(home, sandbox);
        if count > than {
            return count;
        }
        assert!(begun.elapsed() < HANG, "{sandbox} stands still at {count}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// All files below a directory that hold some bytes.
fn holding(directory: &Path, bytes: &[u8]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(holding(&entry.path(), bytes));
        } else if kind.is_file() && fs::read(entry.path()).unwrap().windows(bytes.len()).any(|piece| piece == bytes) {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn a_sandbox_goes_on_when_its_daemon_is_killed_or_told_to_end() {
    let Some(home) = Daemon::with_images() else { return };
    let id = home.ok(&["create", "--name", "a"]);
    home.ok(&["exec", "-d", "a", "sh", "-c", COUNT]);
    home.ok(&["exec", "a", "sh", "-c", "echo kept > note"]);
    let machines = home.0.noted_machines();
    let mut before = await_more(&home, "a", 0);
    for signal in [Signal::KILL, Signal::TERM, Signal::KILL] {
        home.end(signal);
        assert_eq!(home.ok(&["exec", &id, "cat", "note"]), "kept");
        before = await_more(&home, "a", before);
        assert_eq!(home.0.noted_machines(), machines, "it is the same machine");
        home.wait_for_event(&["a", "adopted"]);
    }
    home.end(Signal::KILL);
    assert_eq!(home.ok(&["rm", "a"]), "a");
    machines.into_iter().for_each(wait_until_gone);
    home.0.assert_nothing_left();
    home.end(Signal::KILL);
    assert_eq!(home.ok(&["ls", "-q"]), "", "what was removed stays so");
    assert!(home.pid().is_none(), "no daemon is started to find nothing");
}

#[test]
fn what_is_known_of_a_sandbox_outlives_the_daemon_and_no_secret_is_kept() {
    let Some(home) = Daemon::with_images() else { return };
    let secret = "s3cret-0123456789abcdef";
    let mut command = home.0.command(&[
        "create",
        "--name",
        "web",
        "--label",
        "team=a",
        "--ttl",
        "1h",
        "--idle",
        "pause:30m",
        "--disk",
        "64M",
        "-e",
        "GIVEN=yes",
        "--secret",
        "TOKEN",
        "--publish",
        "0:8000",
    ]);
    let created = Running::start(command.env("TOKEN", secret)).finish();
    assert_code(&created, 0);
    home.ok(&["update", "web", "--name", "db", "--label", "more=b"]);
    let before = home.json(&["inspect", "db"]);
    let ports = home.ok(&["ports", "db"]);
    home.ok(&["exec", "db", "sh", "-c", "echo served > /workspace/index"]);
    home.ok(&["exec", "-d", "-w", "/workspace", "db", "python3", "-m", "http.server", "--bind", "127.0.0.1", "8000"]);
    home.end(Signal::KILL);
    let after = home.json(&["inspect", "db"]);
    for field in
        ["id", "name", "labels", "created_unix_ms", "idle", "image", "cpus", "memory_mib", "disk_mib", "accelerator"]
    {
        assert_eq!(after[field], before[field], "{field}");
    }
    let expiry = |info: &Value| info["expires_unix_ms"].as_u64().unwrap();
    assert_eq!(expiry(&after), expiry(&before));
    assert_eq!(home.ok(&["ports", "db"]), ports);
    let address = ports.split_whitespace().find(|word| word.starts_with("127.0.0.1:")).unwrap();
    let begun = Instant::now();
    let page = loop {
        let mut page = String::new();
        let asked = TcpStream::connect(address).and_then(|mut stream| {
            stream.write_all(b"GET /index HTTP/1.0\r\n\r\n")?;
            stream.read_to_string(&mut page)
        });
        if asked.is_ok() || begun.elapsed() > HANG {
            break page;
        }
    };
    assert!(page.ends_with("served\n"), "{page:?}");
    let given = "echo $GIVEN; cat $HEARTH_SECRETS/TOKEN | wc -c";
    assert_eq!(home.ok(&["exec", "db", "sh", "-c", given]), format!("yes\n{}", secret.len()));
    assert_eq!(holding(home.0.path(), secret.as_bytes()), Vec::<std::path::PathBuf>::new());
    // A copy keeps what it was given, though nobody but the guest knows it.
    home.ok(&["fork", "db", "--name", "copy"]);
    assert_eq!(home.ok(&["exec", "copy", "sh", "-c", "echo $GIVEN"]), "yes");
    home.ok(&["rm", "-a"]);
    home.0.assert_nothing_left();
}

#[test]
fn a_sandbox_that_was_taken_over_is_forked_paused_and_saved_like_any_other() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a", "--disk", "64M"]);
    home.ok(&["exec", "-d", "a", "sh", "-c", COUNT]);
    home.ok(&["fork", "a", "--name", "before"]);
    home.end(Signal::KILL);
    home.ok(&["exec", "a", "sh", "-c", "echo after > note; sync"]);
    home.ok(&["fork", "a", "-n", "2", "--name", "b"]);
    home.ok(&["snapshot", "create", "a", "saved"]);
    let count = await_more(&home, "b-1", 0);
    home.ok(&["pause", "a"]);
    home.ok(&["pause", "b-2"]);
    home.end(Signal::KILL);
    ["a", "b-2"].iter().for_each(|name| home.wait_for_event(&[name, "adopted"]));
    let states = home.json(&["ls", "--json"]);
    let paused = states.as_array().unwrap().iter().filter(|info| info["saved_bytes"].as_u64() > Some(100_000)).count();
    assert_eq!(paused, 2, "{states}");
    for name in ["a", "b-1", "b-2", "before"] {
        let note = home.ok(&["exec", name, "sh", "-c", "cat note 2>/dev/null || echo none"]);
        assert_eq!(note, if name == "before" { "none" } else { "after" }, "{name}");
        await_more(&home, name, count);
    }
    home.ok(&["create", "--name", "c", "--snapshot", "saved"]);
    assert_eq!(home.ok(&["exec", "c", "cat", "note"]), "after");
    // All of them have one template in memory, which the new daemon has found in the machines of the old.
    let inodes: BTreeSet<u64> = home
        .0
        .left()
        .iter()
        .map(|own| serde_json::from_slice::<Value>(&fs::read(own.join("machine")).unwrap()).unwrap())
        .map(|note| note["held"]["memory"]["inode"].as_u64().unwrap())
        .collect();
    assert_eq!(inodes.len(), 1, "{inodes:?}");
    home.ok(&["rm", "-a"]);
    home.0.assert_nothing_left();
}

#[test]
fn a_machine_that_ends_without_a_daemon_has_failed_and_one_on_disk_lies_there() {
    let Some(home) = Daemon::with_images() else { return };
    for name in ["dies", "sleeps", "outlived"] {
        home.ok(&["create", "--name", name]);
    }
    home.ok(&["exec", "sleeps", "sh", "-c", "echo kept > note"]);
    home.ok(&["pause", "sleeps"]);
    home.ok(&["update", "outlived", "--ttl", "1s"]);
    home.end(Signal::KILL);
    for machine in home.0.noted_machines() {
        kill_process(machine, Signal::KILL).unwrap();
        wait_until_gone(machine);
    }
    home.wait_for_event(&["dies", "failed (its machine ended while no daemon held it)"]);
    home.wait_for_event(&["outlived", "removed (its lifetime was over)"]);
    home.end(Signal::TERM);
    home.wait_for_event(&["dies", "adopted"]);
    assert_eq!(home.json(&["inspect", "dies"])["state"], "failed");
    let refused = home.0.hearth(&["exec", "dies", "true"]);
    assert!(text(&refused.stderr).contains("hearth rm"), "{}", said(&refused));
    assert_eq!(home.ok(&["exec", "sleeps", "cat", "note"]), "kept");
    home.ok(&["rm", "-a"]);
    home.0.assert_nothing_left();
}

#[test]
fn one_that_was_bound_lasts_once_it_is_kept_and_one_that_is_bound_ends_with_its_daemon() {
    let Some(home) = Daemon::with_images() else { return };
    let seed = tempfile::tempdir().unwrap();
    fs::write(seed.path().join("note"), "seeded").unwrap();
    // Bound to the command's connection until its workspace is whole.
    home.ok(&["create", "--name", "kept", "--seed", seed.path().to_str().unwrap(), "--publish", "0:8000"]);
    let ports = home.ok(&["ports", "kept"]);
    let client = Client::new(home.0.path().join("hearth.sock"));
    let runtime = runtime();
    let bound =
        runtime.block_on(client.create_bound(&CreateSandbox { name: Some("bound".into()), ..Default::default() }));
    let machines = home.0.noted_machines();
    assert_eq!(machines.len(), 2);
    home.end(Signal::KILL);
    assert_eq!(home.ok(&["exec", "kept", "cat", "note"]), "seeded");
    assert_eq!(home.ok(&["ports", "kept"]), ports);
    assert_eq!(home.ok(&["ls", "-q"]).lines().count(), 1);
    assert_eq!((home.0.noted_machines().len(), home.0.left().len()), (1, 1));
    drop(bound);
    home.ok(&["rm", "kept"]);
    machines.into_iter().for_each(wait_until_gone);
    home.0.assert_nothing_left();
}

#[test]
fn a_daemon_that_is_killed_while_it_takes_over_leaves_all_to_the_next() {
    let Some(home) = Daemon::with_images() else { return };
    ["a", "b"].iter().for_each(|name| drop(home.ok(&["create", "--name", name])));
    home.ok(&["exec", "-d", "a", "sh", "-c", COUNT]);
    let before = await_more(&home, "a", 0);
    // The last of them connects to guests that have hardly been told that the one before has gone.
    for delay_ms in [0, 1, 2, 4, 6, 8, 10, 12, 15, 20, 30] {
        home.end(Signal::KILL);
        home.ok(&["events", "--no-follow"]);
        std::thread::sleep(Duration::from_millis(delay_ms));
    }
    for name in ["a", "b"] {
        assert_eq!(home.ok(&["exec", name, "echo", "here"]), "here");
    }
    await_more(&home, "a", before);
    home.ok(&["rm", "-a"]);
    home.0.assert_nothing_left();
}

#[test]
fn yama_lets_an_adopting_daemon_read_a_machine_that_was_started_for_it() {
    let Some(home) = Daemon::with_images() else { return };
    // Kernels of our guests have Yama, whatever this host has. A process is started as a machine is (allowed to be traced, then another
    // program), and read by one that is no ancestor of it; and another that has not allowed it.
    let script = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class Vec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
def child(allows):
    read, write = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            if allows:
                assert libc.prctl(0x59616D61, ctypes.c_ulong(2**64 - 1), 0, 0, 0) == 0
            os.write(write, str(os.getpid()).encode())
            os.execvp("sleep", ["sleep", "100"])
        os._exit(0)
    os.wait()
    return int(os.read(read, 32))
def can_read(pid):
    import time
    while open(f"/proc/{pid}/comm").read() != "sleep\n":
        time.sleep(0.01)
    line = next(line for line in open(f"/proc/{pid}/maps") if "[stack]" in line)
    end = int(line.split()[0].split("-")[1], 16)
    buffer = ctypes.create_string_buffer(4096)
    local, remote = Vec(ctypes.addressof(buffer), 4096), Vec(end - 4096, 4096)
    read = libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
    entry = os.pread(pagemap, 8, (end - 4096) // 4096 * 8)
    os.kill(pid, 9)
    return read == 4096 and len(entry) == 8
print(open("/proc/sys/kernel/yama/ptrace_scope").read().strip(), can_read(child(True)), can_read(child(False)))
"#;
    home.ok(&["create", "--name", "a"]);
    home.ok(&["exec", "-u", "root", "a", "sh", "-c", "echo 1 > /proc/sys/kernel/yama/ptrace_scope"]);
    assert_eq!(home.ok(&["exec", "a", "python3", "-c", script]), "1 True False");
}

/// A small generator of numbers (xorshift64*): the same from the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides.max(1)
    }
}

/// What is asked of the daemon while it is killed.
const ORDERS: [&str; 11] =
    ["nothing", "exec", "create", "pause", "resume", "fork", "snapshot", "rm", "update", "stop", "start"];

/// What must be true of a home, whatever was killed when.
struct Expected<'a> {
    home: &'a Daemon,
    /// Those whose making was acknowledged, with the numbers that their programs have said at least.
    there: Vec<(String, usize)>,
    removed: BTreeSet<String>,
    machines: BTreeSet<i32>,
    number: usize,
}

impl Expected<'_> {
    fn create(&mut self) {
        self.number += 1;
        let name = format!("n{}", self.number);
        self.home.ok(&["create", "--name", &name, "--disk", "32M"]);
        self.home.ok(&["exec", "-d", &name, "sh", "-c", COUNT]);
        self.home.ok(&["exec", &name, "sh", "-c", "echo kept > kept"]);
        let count = await_more(self.home, &name, 0);
        self.there.push((name, count));
    }

    fn look(&mut self) {
        self.machines.extend(self.home.0.noted_machines().iter().map(|pid| pid.as_raw_nonzero().get()));
    }

    /// Kills the daemon while it does something, at a point that the dice choose, and looks at what is there then.
    fn round(&mut self, dice: &mut Dice) {
        let order = ORDERS[dice.roll(ORDERS.len() as u64) as usize];
        let which = dice.roll(self.there.len() as u64) as usize;
        let name = self.there[which].0.clone();
        self.number += 1;
        let new = format!("n{}", self.number);
        match order {
            "resume" => drop(self.home.ok(&["pause", &name])),
            "start" => drop(self.home.ok(&["stop", "-t", "1", &name])),
            _ => {}
        }
        let arguments: &[&str] = match order {
            "nothing" => &["ls"],
            "exec" => &["exec", &name, "sh", "-c", "echo ran; sleep 0.2"],
            "create" => &["create", "--name", &new, "--disk", "32M"],
            "fork" => &["fork", &name, "--name", &new],
            "snapshot" => &["snapshot", "create", &name, &new],
            "update" => &["update", &name, "--label", &new],
            // The program that counts is killed by it.
            "stop" => &["stop", "-t", "1", &name],
            order => &[order, &name],
        };
        let running = Running::start(&mut self.home.0.command(arguments));
        std::thread::sleep(Duration::from_micros(dice.roll(match order {
            "create" | "fork" | "snapshot" | "pause" | "resume" => 500_000,
            "stop" | "start" => 4_000_000,
            _ => 60_000,
        })));
        self.look();
        self.home.end(Signal::KILL);
        self.look();
        let ended = running.finish();
        let acknowledged = ended.status.success();
        let told =
            format!("{order} of {name}, {}: {}", if acknowledged { "acknowledged" } else { "cut off" }, said(&ended));
        eprintln!("killed: {told}");
        if order == "stop" || order == "start" {
            let (stopped, running) = ("stopped", "running");
            let may_be: &[&str] = match (order, acknowledged) {
                ("stop", true) => &[stopped],
                ("start", true) => &[running],
                _ => &[stopped, running],
            };
            self.check_disk(&told, &name, may_be);
            self.there.remove(which);
            self.removed.insert(name.clone());
        }
        if order == "rm" {
            self.there.remove(which);
            if acknowledged {
                self.removed.insert(name.clone());
            }
        }
        self.check(&told, (order == "create" || order == "fork").then_some(new).filter(|_| acknowledged));
    }

    /// A sandbox that was about to stop or to start does either run or is stopped, and has what it wrote; then it goes.
    fn check_disk(&mut self, told: &str, name: &str, may_be: &[&str]) {
        // This waits until it has come to rest.
        let ran = self.home.0.hearth(&["exec", name, "cat", "kept"]);
        let state = self.home.json(&["inspect", name])["state"].as_str().unwrap().to_owned();
        assert!(may_be.contains(&state.as_str()), "{told}: it is {state}, {}", said(&ran));
        if state == "stopped" {
            assert!(text(&ran.stderr).contains("hearth start"), "{told}: {}", said(&ran));
            self.home.ok(&["start", name]);
        }
        assert_eq!(self.home.ok(&["exec", name, "cat", "kept"]), "kept", "{told}");
        self.look();
        self.home.ok(&["rm", name]);
    }

    /// `made` was acknowledged just before the daemon was killed.
    fn check(&mut self, told: &str, made: Option<String>) {
        let list = self.home.json(&["ls", "--json"]);
        let listed: Vec<&Value> = list.as_array().unwrap().iter().collect();
        let named = |name: &str| listed.iter().any(|info| info["name"] == name);
        assert!(self.there.iter().all(|(name, _)| named(name)), "{told}: {list}");
        assert!(!self.removed.iter().any(|name| named(name)), "{told}: {list}");
        assert!(made.as_ref().is_none_or(|made| named(made)), "{told}: {list}");
        if let Some(made) = &made {
            assert_eq!(self.home.ok(&["exec", made, "echo", "here"]), "here", "{told}");
        }
        for (name, count) in &mut self.there {
            assert_eq!(self.home.ok(&["exec", name, "echo", "here"]), "here", "{told}");
            *count = await_more(self.home, name, *count);
        }
        // What was not acknowledged may have been made, or may still be there: then it is listed, and can go.
        let expected: BTreeSet<&str> = self.there.iter().map(|(name, _)| name.as_str()).collect();
        for info in &listed {
            let name = info["name"].as_str().unwrap();
            if !expected.contains(name) {
                self.home.ok(&["rm", "--force", name]);
                self.removed.insert(name.to_owned());
            }
        }
        self.look();
        assert_eq!(self.home.0.left().len(), self.there.len(), "{told}: {:?}", self.home.0.left());
        let own: BTreeSet<i32> = self.home.0.noted_machines().iter().map(|pid| pid.as_raw_nonzero().get()).collect();
        for pid in self.machines.difference(&own) {
            // A zombie is nobody's any more.
            let Some(pid) = Pid::from_raw(*pid) else { continue };
            if pidfd_open(pid, PidfdFlags::empty()).is_ok() {
                wait_until_gone(pid);
            }
        }
        self.machines = own;
        while self.there.len() < 2 {
            self.create();
        }
    }
}

#[test]
fn whenever_the_daemon_is_killed_nothing_that_was_acknowledged_is_lost_and_nothing_else_is_left() {
    let Some(home) = Daemon::with_images() else { return };
    let number = |variable: &str| std::env::var(variable).ok()?.parse::<u64>().ok();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number("HEARTH_SOAK_SEED").unwrap_or(now.as_nanos() as u64);
    let rounds = number("HEARTH_KILLS").unwrap_or(6);
    eprintln!("{rounds} kills, HEARTH_SOAK_SEED={seed}");
    let mut expected =
        Expected { home: &home, there: Vec::new(), removed: BTreeSet::new(), machines: BTreeSet::new(), number: 0 };
    (0..2).for_each(|_| expected.create());
    let mut dice = Dice(seed | 1);
    (0..rounds).for_each(|_| expected.round(&mut dice));
    home.ok(&["rm", "-a"]);
    home.0.assert_nothing_left();
}
