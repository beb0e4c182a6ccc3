//! The agent's core: what a request is answered with, whatever connection it came by.

use std::cell::RefCell;
use std::fs;
use std::rc::Rc;
use std::time::Duration;

use hearth_protocol::secrets::{Secret, SecretRequest, SecretResult};
use hearth_protocol::{Fault, Finished, Info, ReplyBody};
use tokio::sync::watch;

use crate::history::Histories;
use crate::kernel::Kernels;
use crate::process::{Defaults, Processes, Trees};
use crate::renew::Identity;
use crate::roots::Roots;
use crate::runtime::Runtime;
use crate::secrets::{Place, Secrets};
use crate::service::Services;
use crate::shell::Shells;
use crate::sys;

/// One agent.
pub(crate) struct Agent {
    pub(crate) processes: Rc<Processes>,
    pub(crate) roots: Roots,
    pub(crate) histories: Histories,
    pub(crate) services: Services,
    pub(crate) shells: Shells,
    pub(crate) kernels: Kernels,
    /// Whether the whole machine is the agent's: it may then set its clock and name, and turn it off.
    pub(crate) owns_machine: bool,
    /// What the first renewal writes to, of a guest that was settled.
    pub(crate) identity: RefCell<Identity>,
    /// The grace that processes have, once the end is asked for.
    shutdown: watch::Sender<Option<Duration>>,
}

impl Agent {
    /// Makes an agent with nothing running, removes what earlier ones have left, and starts to reap. Must be called on the runtime that everything else runs on.
    ///
    /// # Errors
    /// When the signal of ended children cannot be read.
    pub(crate) fn new(
        defaults: Defaults,
        trees: Rc<Trees>,
        runtime: Rc<Runtime>,
        on_disk: Rc<Runtime>,
        owns_machine: bool,
    ) -> std::io::Result<Rc<Self>> {
        let roots = Roots::new(&defaults);
        roots.sweep();
        let owner = roots.owner().filter(|_| rustix::process::geteuid().is_root());
        let secrets = Secrets::new(Place::new(runtime, owner));
        let processes = Processes::new(defaults, trees, Rc::new(secrets));
        tokio::task::spawn_local(Rc::clone(&processes).reap(sys::child_signals()?));
        let (services, shells) = (Services::default(), Shells::default());
        Ok(Rc::new(Self {
            processes,
            roots,
            histories: Histories::new(on_disk),
            kernels: Kernels::default(),
            services,
            shells,
            owns_machine,
            identity: RefCell::default(),
            shutdown: watch::Sender::new(None),
        }))
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

    /// Does what is asked about secrets.
    ///
    /// # Errors
    /// As [`Secrets::plan`] and [`Secrets::apply`].
    pub(crate) fn secret(&self, request: SecretRequest) -> Result<Finished, Fault> {
        let secrets = &self.processes.secrets;
        let result = match secrets.plan(request)? {
            None => SecretResult::List(secrets.list()),
            Some(change) => self.processes.change_secrets(change).map(|()| SecretResult::Done {})?,
        };
        Ok(Finished::Secret(result))
    }

    /// Installs a set of secrets that came as an archive.
    ///
    /// # Errors
    /// As [`Secrets::plan_archive`] and [`Secrets::apply`].
    pub(crate) fn install_archived_secrets(&self, secrets: Vec<Secret>) -> Result<(), Fault> {
        self.processes.change_secrets(self.processes.secrets.plan_archive(secrets)?)
    }

    /// Hides secrets in what is answered: faults repeat what they are about.
    pub(crate) fn hide_secrets(&self, body: ReplyBody) -> ReplyBody {
        match body {
            ReplyBody::Error(fault) => ReplyBody::Error(self.processes.secrets.redact_fault(fault)),
            other => other,
        }
    }

    /// Asks for the end of everything. Who asked first says which grace there is.
    pub(crate) fn shut_down(&self, grace: Duration) {
        self.shutdown.send_if_modified(|asked| asked.is_none() && asked.replace(grace).is_none());
    }

    /// Waits until the end is asked for, and returns the grace that processes have.
    pub(crate) async fn wait_for_shutdown(&self) -> Duration {
        let mut asked = self.shutdown.subscribe();
        let grace = asked.wait_for(Option::is_some).await.ok().and_then(|grace| *grace);
        // The sender lives in `self`, so this only returns once there is one.
        grace.unwrap_or_default()
    }
}

/// The agent's own resident memory, from `/proc/self/statm`.
fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|field| field.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
