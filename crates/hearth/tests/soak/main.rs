//! Hundreds of sandboxes, made and removed at random by several at once, while programs are killed at random: commands, machines, guests and
//! the daemon itself, which the next one takes everything over from. Then nothing may be left.
//!
//! `make soak` runs it. `HEARTH_SOAK` says how many sandboxes to make, `HEARTH_SOAK_SEED` repeats the decisions of an earlier run (though not
//! the order in which the system lets them happen), `HEARTH_SOAK_SECONDS` bounds its time.

#![allow(clippy::panic, clippy::print_stderr, clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "../cli/support.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};

use support::{Home, Running, text, wait_until_gone};

/// Those who work at once.
const WORKERS: usize = 4;
/// The sandboxes that a worker keeps, at most.
const KEPT: usize = 3;

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

/// What all workers share.
struct Soak {
    home: Home,
    made: AtomicUsize,
    wanted: usize,
    until: Instant,
    /// What was seen, to be looked for afterwards: processes with the times of their starts, and control groups.
    processes: Mutex<BTreeMap<i32, String>>,
    groups: Mutex<BTreeSet<PathBuf>>,
    outcomes: Mutex<BTreeMap<&'static str, usize>>,
    /// Held for writing by whoever kills the daemon.
    daemon: RwLock<()>,
}

impl Soak {
    fn note(&self, outcome: &'static str) {
        *self.outcomes.lock().unwrap().entry(outcome).or_default() += 1;
    }

    fn is_over(&self) -> bool {
        self.made.load(Ordering::Relaxed) >= self.wanted || Instant::now() > self.until
    }

    fn command(&self, arguments: &[&str]) -> Running {
        Running::start(self.home.command(arguments).env("HEARTH_POOL", "1"))
    }

    /// Notes what there is of machines just now.
    fn look(&self) {
        let daemon = self.home.daemon().map(|pid| pid.as_raw_nonzero().get());
        let mut processes = self.processes.lock().unwrap();
        let machines = self.home.noted_machines();
        let seen = machines.iter().map(|pid| pid.as_raw_nonzero().get()).chain(daemon);
        processes.extend(seen.filter_map(|pid| Some((pid, started(pid)?))));
        let notes = self.home.left().into_iter().filter_map(|own| fs::read_to_string(own.join("cgroups")).ok());
        self.groups.lock().unwrap().extend(notes.flat_map(|note| note.lines().map(PathBuf::from).collect::<Vec<_>>()));
    }

    /// One of the daemon's machines.
    fn machine(&self, dice: &mut Dice) -> Option<Pid> {
        let machines = self.home.noted_machines();
        machines.get(dice.roll(machines.len() as u64) as usize % machines.len().max(1)).copied()
    }

    fn work(&self, seed: u64) {
        let (mut dice, mut kept) = (Dice(seed | 1), Vec::new());
        while !self.is_over() {
            self.look();
            self.step(&mut dice, &mut kept);
        }
        kept.iter().for_each(|id: &String| drop(self.command(&["rm", "--force", id]).finish()));
    }

    fn step(&self, dice: &mut Dice, kept: &mut Vec<String>) {
        let any = |dice: &mut Dice| kept.get(dice.roll(kept.len() as u64) as usize % kept.len().max(1)).cloned();
        match dice.roll(100) {
            0..45 if kept.len() < KEPT => {
                if let Some(id) = self.create(dice) {
                    kept.push(id);
                }
            }
            0..55 if !kept.is_empty() => {
                let id = kept.swap_remove(dice.roll(kept.len() as u64) as usize % kept.len());
                let _shared = self.daemon.read().unwrap();
                let removed = self.command(&["rm", &id]).finish();
                self.note(if removed.status.success() { "removed" } else { "was gone" });
            }
            55..72 => {
                let Some(id) = any(dice) else { return };
                let script = "echo $$ > /tmp/pid; head -c 100000 /dev/urandom > file; sync; echo done";
                let ran = self.command(&["exec", &id, "sh", "-c", script]).finish();
                self.note(if text(&ran.stdout) == "done\n" { "ran" } else { "did not run" });
            }
            72..78 => self.run_and_kill(dice),
            78..84 => {
                if let Some(machine) = self.machine(dice) {
                    let _ = kill_process(machine, Signal::KILL);
                    self.note("machine killed");
                }
            }
            84..89 => {
                let Some(id) = any(dice) else { return };
                let crash = "echo c > /proc/sysrq-trigger; sleep 10";
                drop(self.command(&["exec", "-u", "root", &id, "sh", "-c", crash]).finish());
                self.note("guest crashed");
            }
            89..98 => {
                let Some(id) = any(dice) else { return };
                let paused = self.command(&["pause", &id]).finish();
                self.note(if paused.status.success() { "paused" } else { "not paused" });
            }
            98.. => self.kill_daemon(),
            _ => {}
        }
    }

    /// Makes a sandbox. One in eight times the command is killed meanwhile.
    fn create(&self, dice: &mut Dice) -> Option<String> {
        let _shared = self.daemon.read().unwrap();
        self.made.fetch_add(1, Ordering::Relaxed);
        let creating = self.command(&["create"]);
        if dice.roll(8) == 0 {
            std::thread::sleep(Duration::from_millis(dice.roll(400)));
            creating.signal(Signal::KILL);
            // It may have been done by then, and its id is what it said.
            let said = creating.finish();
            self.note("creation killed");
            return Some(text(&said.stdout).trim().to_owned()).filter(|id| !id.is_empty());
        }
        let created = creating.finish();
        self.note(if created.status.success() { "created" } else { "not created" });
        created.status.success().then(|| text(&created.stdout).trim().to_owned())
    }

    fn run_and_kill(&self, dice: &mut Dice) {
        let _shared = self.daemon.read().unwrap();
        self.made.fetch_add(1, Ordering::Relaxed);
        let running = self.command(&["run", "--", "sh", "-c", "echo up; sleep 20"]);
        std::thread::sleep(Duration::from_millis(dice.roll(1500)));
        running.signal(Signal::KILL);
        running.finish();
        self.note("run killed");
    }

    /// Kills the daemon. Whoever comes next starts another, which takes its sandboxes over.
    fn kill_daemon(&self) {
        let _alone = self.daemon.write().unwrap();
        self.look();
        let Some(daemon) = self.home.daemon() else { return };
        kill_process(daemon, Signal::KILL).unwrap();
        wait_until_gone(daemon);
        self.note("daemon killed");
    }

    /// Ends the daemon, lets the next start clean up, and looks for what is left.
    fn assert_nothing_left(&self) {
        self.look();
        // What a killed command has made and told nobody of is there, and can go. The first may have nothing to clean up, and the second cleans
        // up what a killed one has left.
        for _ in 0..2 {
            drop(self.command(&["rm", "--all"]).finish());
            drop(self.command(&["events", "--no-follow"]).finish());
            let daemon = self.home.daemon().expect("a command starts it");
            kill_process(daemon, Signal::TERM).unwrap();
            wait_until_gone(daemon);
        }
        self.home.assert_nothing_left();
        let processes = self.processes.lock().unwrap();
        let alive: Vec<_> = processes.iter().filter(|(pid, start)| started(**pid).as_ref() == Some(start)).collect();
        assert!(alive.is_empty(), "of {} processes these are left: {alive:?}", processes.len());
        let groups: Vec<_> = self.groups.lock().unwrap().iter().filter(|group| group.exists()).cloned().collect();
        assert!(groups.is_empty(), "control groups are left: {groups:?}");
        let files = fs::read_dir(self.home.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let strange: Vec<_> = files.filter(|name| !EXPECTED.iter().any(|known| name == known)).collect();
        assert!(strange.is_empty(), "files are left: {strange:?}");
    }
}

/// What a home has whose daemon has ended.
const EXPECTED: [&str; 12] = [
    "births.lock",
    "cache",
    "daemon.lock",
    "findings.json",
    "logs",
    "run",
    "snapshots.lock",
    "start.lock",
    "state",
    "store",
    "templates",
    "templates.lock",
];

/// When a process was started, in the system's ticks: with its number, this names it.
fn started(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    // A zombie is as good as gone: it waits for a parent that is about to end, or to be told.
    (fields.next()? != "Z").then(|| fields.nth(18).map(str::to_owned))?
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// What the host could give, in MiB.
fn available() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[test]
fn hundreds_of_sandboxes_and_random_kills_leave_nothing() {
    let Some(wanted) = number("HEARTH_SOAK") else {
        return eprintln!("skipped: HEARTH_SOAK says how many sandboxes to make; make soak runs it");
    };
    let Some(home) = Home::with_images() else { return };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number("HEARTH_SOAK_SEED").unwrap_or(now.as_nanos() as u64);
    let seconds = number("HEARTH_SOAK_SECONDS").unwrap_or(3600);
    eprintln!("soak: {wanted} sandboxes, at most {seconds} s, HEARTH_SOAK_SEED={seed}");
    let (begun, memory) = (Instant::now(), available());
    let soak = Soak {
        home,
        made: AtomicUsize::new(0),
        wanted: wanted as usize,
        until: begun + Duration::from_secs(seconds),
        processes: Mutex::default(),
        groups: Mutex::default(),
        outcomes: Mutex::default(),
        daemon: RwLock::default(),
    };
    std::thread::scope(|scope| {
        for worker in 0..WORKERS as u64 {
            let soak = &soak;
            scope.spawn(move || soak.work(seed.wrapping_add(worker.wrapping_mul(0x9E37_79B9_7F4A_7C15))));
        }
    });
    let made = soak.made.load(Ordering::Relaxed);
    eprintln!("soak: {made} sandboxes in {} s: {:?}", begun.elapsed().as_secs(), soak.outcomes.lock().unwrap());
    soak.assert_nothing_left();
    eprintln!("soak: {memory} MiB of memory were available before, {} are now", available());
    assert!(made >= soak.wanted, "time was over after {made} sandboxes: seed {seed}");
    let outcomes = soak.outcomes.lock().unwrap();
    let (good, bad) =
        (outcomes.get("created").copied().unwrap_or(0), outcomes.get("not created").copied().unwrap_or(0));
    assert!(good > 10 * bad, "{bad} creations failed beside {good}: seed {seed}");
}
