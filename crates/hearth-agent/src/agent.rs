//! The agent's core: what a request is answered with, whatever connection it came by.

use std::fs;
use std::rc::Rc;

use hearth_protocol::{ErrorCode, Fault, Info, Renew, hex};
use rustix::time::{ClockId, Timespec};
use tokio::sync::watch;

use crate::process::{Defaults, Processes, Trees};
use crate::roots::Roots;
use crate::sys;

/// One agent.
pub(crate) struct Agent {
    pub(crate) processes: Rc<Processes>,
    pub(crate) roots: Roots,
    /// Whether the whole machine is the agent's: it may then set its clock and name, and turn it off.
    owns_machine: bool,
    shutdown: watch::Sender<bool>,
}

impl Agent {
    /// Makes an agent with nothing running, and starts to reap. Must be called on the runtime that everything else runs on.
    ///
    /// # Errors
    /// When the signal handler for ended children cannot be installed.
    pub(crate) fn new(defaults: Defaults, trees: Rc<Trees>, owns_machine: bool) -> std::io::Result<Rc<Self>> {
        let roots = Roots::new(&defaults);
        let processes = Processes::new(defaults, trees);
        let child_signals = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::child())?;
        tokio::task::spawn_local(Rc::clone(&processes).reap(child_signals));
        Ok(Rc::new(Self { processes, roots, owns_machine, shutdown: watch::Sender::new(false) }))
    }

    /// Describes the guest.
    pub(crate) fn info(&self) -> Info {
        let system = rustix::system::uname();
        let sysinfo = rustix::system::sysinfo();
        Info {
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: system.release().to_string_lossy().into_owned(),
            hostname: system.nodename().to_string_lossy().into_owned(),
            uptime_seconds: sysinfo.uptime.unsigned_abs(),
            memory_bytes: sysinfo.totalram * u64::from(sysinfo.mem_unit),
            agent_resident_bytes: resident_bytes(),
            process_trees: self.processes.describe_trees(),
        }
    }

    /// Makes the guest this sandbox's own: clock, entropy, name, in this order.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidField`] before anything has changed, [`ErrorCode::Io`] for what the kernel refuses.
    pub(crate) fn renew(&self, renew: &Renew) -> Result<(), Fault> {
        let invalid = |message: &str| Fault::never_started(ErrorCode::InvalidField, message);
        let seed = renew.seed.as_deref().map(read_seed).transpose()?;
        if renew.hostname.as_deref().is_some_and(|name| !is_host_name(name)) {
            return Err(invalid("hostname must be 1 to 63 letters, digits and '-'"));
        }
        if !self.owns_machine {
            return Err(invalid("this agent is an ordinary process: the clock, seed and name are not its to set"));
        }
        let io = |what: &'static str| move |error| Fault::failed(ErrorCode::Io, format!("{what}: {error}"));
        if let Some(now) = renew.unix_nanoseconds {
            let time = Timespec { tv_sec: (now / 1_000_000_000) as i64, tv_nsec: (now % 1_000_000_000) as i64 };
            rustix::time::clock_settime(ClockId::Realtime, time).map_err(|e| io("set the clock")(e.into()))?;
        }
        if let Some(seed) = seed {
            sys::add_entropy(&seed).map_err(io("seed the random generator"))?;
        }
        if let Some(name) = &renew.hostname {
            rustix::system::sethostname(name.as_bytes()).map_err(|e| io("set the host name")(e.into()))?;
            // The overlay may be full; the name holds all the same, and /etc/hosts maps localhost in any case.
            let _ = fs::write("/etc/hostname", format!("{name}\n"));
            let _ = fs::write("/etc/hosts", format!("127.0.0.1 localhost {name}\n::1 localhost\n"));
        }
        Ok(())
    }

    /// Asks for the end of everything.
    pub(crate) fn shut_down(&self) {
        self.shutdown.send_replace(true);
    }

    /// Waits until the end is asked for.
    pub(crate) async fn wait_for_shutdown(&self) {
        // The sender lives in `self`, so this only returns once the value is true.
        let _ = self.shutdown.subscribe().wait_for(|&asked| asked).await;
    }
}

/// The agent's own resident memory, from `/proc/self/statm`.
fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|field| field.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// Reads 32 to 512 bytes of seed.
fn read_seed(text: &str) -> Result<Vec<u8>, Fault> {
    let seed = hex::decode(text).filter(|seed| (32..=512).contains(&seed.len()));
    seed.ok_or_else(|| Fault::never_started(ErrorCode::InvalidField, "seed must be 64 to 1024 hexadecimal digits"))
}

fn is_host_name(name: &str) -> bool {
    (1..=63).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}
