//! Stopping and starting: a sandbox's guest ends in order, and boots again later on the disk that it had.
//!
//! What must stay true, whenever this process is killed: a sandbox that is noted as stopped has no machine, or one that the next process ends
//! in order. So it is noted before its guest is asked to end, and noted as running once another guest takes requests.

use std::time::{Duration, Instant};

use hearth_channel::Channel;
use hearth_protocol::limits;
use hearth_protocol::secrets::Secret;
use hearth_vmm::Machine;
use tokio::time::timeout;

use crate::boot::{Boot, EXIT_AFTER_HANG_UP, Phases, Renewal};
use crate::create::{Base, Place};
use crate::identity::SandboxId;
use crate::pause::{Noting, Refused};
use crate::sandbox::Sandbox;
use crate::saved::{self, apart};
use crate::{Engine, EngineError, Given, SandboxSpec, chain};

/// How long programs have to end where nobody says otherwise.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(10);
/// The longest that they can be given.
pub const LONGEST_GRACE: Duration = Duration::from_millis(limits::GRACE_MS);
/// How long a guest may take to end beyond that: it kills what is left, and writes its file systems back.
const END: Duration = Duration::from_secs(60);
/// How long a guest may take to tell which secrets it has.
const ANSWER: Duration = Duration::from_secs(2);

/// A sandbox without a machine, whose files lie on its disk, if it has one. Dropping it removes it.
#[derive(Debug)]
pub struct Stopped {
    place: Place,
    /// Held so that its image is there when it is started; none for one whose image is gone.
    _base: Option<Base>,
    spec: SandboxSpec,
}

/// What a stop has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopReport {
    /// How long it took until the machine was gone.
    pub took: Duration,
    /// Why it did not end in order, if it did not: what the guest had not written to its disk by then is lost.
    pub unclean: Option<String>,
    /// The secrets that it had, by their names; they have to be given again. As the guest tells it.
    pub lost_secrets: Vec<String>,
}

impl Stopped {
    /// One that is there already. Its specification names the image by its digest.
    pub(crate) fn new(spec: SandboxSpec, place: Place, base: Option<Base>) -> Self {
        Self { place, _base: base, spec }
    }

    /// Its name.
    pub fn id(&self) -> &SandboxId {
        self.place.directory.id()
    }

    /// Lets go of it, for the next process to take over.
    pub(crate) fn let_go(self) {
        self.place.directory.keep();
    }
}

impl Sandbox {
    /// What is left of one whose machine has ended by itself.
    pub(crate) async fn into_stopped(self) -> Stopped {
        let (place, base, spec) = self.end().await;
        Stopped { place, _base: base, spec }
    }

    async fn secret_names(&self) -> Vec<String> {
        let listed = timeout(ANSWER, self.channel().list_secrets()).await;
        let listed = listed.ok().and_then(Result::ok).map(|list| list.secrets);
        listed.into_iter().flatten().map(|secret| secret.name).collect()
    }
}

impl Engine {
    /// Ends a running sandbox's guest in order: its programs get TERM, `grace` ([`LONGEST_GRACE`] at most), then KILL; file systems are written
    /// back. A guest that does not end is ended. What it has on its disk is kept.
    ///
    /// # Errors
    /// [`EngineError::NoDisk`]; then it runs on.
    pub async fn stop(&self, sandbox: Sandbox, grace: Duration) -> Result<(Stopped, StopReport), Refused<Sandbox>> {
        self.stop_noting(sandbox, grace, Box::new(|_| Ok(()))).await
    }

    /// As [`Self::stop`]; that it is stopped is noted before its guest is asked to end.
    pub(crate) async fn stop_noting(
        &self,
        sandbox: Sandbox,
        grace: Duration,
        note: Noting<()>,
    ) -> Result<(Stopped, StopReport), Refused<Sandbox>> {
        let begun = Instant::now();
        if sandbox.spec.disk.is_none() {
            return Err(Refused { sandbox, error: EngineError::NoDisk });
        }
        let lost_secrets = sandbox.secret_names().await;
        if let Err(source) = note(&()) {
            return Err(Refused { sandbox, error: source.into() });
        }
        let ended = end_in_order(sandbox.machine(), sandbox.channel(), grace).await;
        let (place, base, spec) = sandbox.quit().await;
        let directory = place.directory.path().to_owned();
        let written = apart(move || saved::sync(&directory)).await.map_err(|fault| chain(&fault));
        let unclean = ended.and(written).err();
        Ok((Stopped { place, _base: base, spec }, StopReport { took: begun.elapsed(), unclean, lost_secrets }))
    }

    /// Boots a stopped sandbox on its disk, and returns it once its agent takes requests. It has the variables that it was made with, and just
    /// these secrets. When that fails, it is stopped as before.
    ///
    /// # Errors
    /// [`EngineError::NoDisk`], and those of [`Engine::create`].
    pub async fn start(&self, stopped: Stopped, secrets: Vec<Secret>) -> Result<Sandbox, Refused<Stopped>> {
        self.start_noting(stopped, secrets, Box::new(|_| Ok(()))).await
    }

    /// As [`Self::start`]; that it runs is noted before it is returned.
    pub(crate) async fn start_noting(
        &self,
        stopped: Stopped,
        secrets: Vec<Secret>,
        note: Noting<Sandbox>,
    ) -> Result<Sandbox, Refused<Stopped>> {
        let given = Given { secrets, ..stopped.spec.given.clone() };
        let spec = SandboxSpec { given, ..stopped.spec.clone() };
        let mut phases = Phases::since(Instant::now());
        let base = match spec.disk.ok_or(EngineError::NoDisk).and_then(|_| self.base(&spec)) {
            Ok(base) => base,
            Err(error) => return Err(Refused { sandbox: stopped, error }),
        };
        let boot = Boot { spec: &spec, base: &base, place: &stopped.place, renewal: Renewal::Again };
        let (booted, below) = match self.boot_sandbox(boot, &mut phases).await {
            Ok(booted) => booted,
            Err(error) => return Err(Refused { sandbox: stopped, error }),
        };
        let sandbox = Sandbox::new(&spec, stopped.place, booted, below, base, phases);
        match note(&sandbox) {
            Ok(()) => Ok(sandbox),
            Err(source) => {
                let (place, base, spec) = sandbox.quit().await;
                Err(Refused { sandbox: Stopped { place, _base: base, spec }, error: source.into() })
            }
        }
    }
}

/// Asks a guest to end, and waits until its machine has. The machine is there still where this fails; the reason is in words.
pub(crate) async fn end_in_order(machine: &Machine, channel: &Channel, grace: Duration) -> Result<(), String> {
    let asked = channel.shutdown(grace).await;
    // One that ends at once may not answer any more.
    let patience = if asked.is_ok() { grace + END } else { EXIT_AFTER_HANG_UP };
    match (timeout(patience, machine.exited()).await, asked) {
        (Ok(_), _) => Ok(()),
        (Err(_), Ok(())) => Err(format!("its guest did not end within {} s", patience.as_secs())),
        (Err(_), Err(error)) => Err(format!("its guest could not be asked to end: {}", chain(&error))),
    }
}
