//! Taking over sandboxes whose daemon has ended, and ending those that nobody is to have.
//!
//! Whatever the earlier daemon was at, a sandbox comes to a state at rest. One whose machine runs goes on, though a pause or a capture had
//! stopped it; one that lies on disk stays there, unless a machine of it runs already; one that was about to stop, or to start, is stopped; all
//! others have failed.

use std::sync::Arc;

use hearth_channel::Channel;
use hearth_vmm::{Adoption, Lifetime, Machine, MachineError, SealedRam, noted_ram};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::boot::{self, Booted, Renewal, TCG_SILENCE};
use crate::create::Place;
use crate::identity::SandboxDirectory;
use crate::pause::Paused;
use crate::sandbox::Sandbox;
use crate::scratch::{self, Scratch};
use crate::stop::{self, Stopped};
use crate::store::{Kept, Lasting};
use crate::template::Below;
use crate::{Directories, Engine, EngineError, Given, SandboxId, SandboxSpec, chain, saved, sweep};

/// What an earlier process has left of a sandbox.
#[derive(Debug)]
pub(crate) enum Adopted {
    /// It runs. What was under way and was finished or undone for that is told.
    Running(Box<Sandbox>, Option<&'static str>),
    /// It lies on disk.
    Paused(Box<Paused>),
    /// It is stopped.
    Stopped(Box<Stopped>),
    /// Its machine is lost, and why.
    Lost(Box<Stopped>, String),
}

impl Engine {
    /// The same engine, whose machines outlive this process. For the one daemon of a home.
    pub(crate) fn lasting(self) -> Self {
        Self { lifetime: Lifetime::Detached, ..self }
    }

    /// Whether a daemon has left sandboxes in a home, for the next to take over. For whoever would start it just to find none.
    pub fn has_left(directories: &Directories) -> bool {
        sweep::has_detached(&directories.sandboxes())
    }

    /// Ends and removes what an earlier daemon has left of sandboxes that nobody is to have.
    pub(crate) fn reap(&self, is_wanted: impl Fn(&str) -> bool) {
        sweep::reap(&self.directories.sandboxes(), is_wanted);
    }

    /// Whether a sandbox has anything on the host.
    pub(crate) fn has_directory(&self, id: &SandboxId) -> bool {
        self.directories.sandboxes().join(id.as_str()).is_dir()
    }

    /// Finds what the machine of a sandbox has mapped of its template, for whoever loads that before the sandbox is taken over. To be held
    /// until then.
    pub(crate) fn find_mapped(&self, last: &Lasting) -> Option<Arc<SealedRam>> {
        let ram = noted_ram(&self.directories.sandboxes().join(last.id.as_str()))?;
        self.templates.is_mapped(last.template.as_ref()?, &ram);
        Some(ram)
    }

    /// Takes over a sandbox. It is this process's from then on.
    ///
    /// # Errors
    /// [`EngineError::Directory`] when its directory cannot be this process's own; then nothing was done to it.
    pub(crate) async fn adopt(&self, last: &Lasting) -> Result<Adopted, EngineError> {
        let path = self.directories.sandboxes().join(last.id.as_str());
        let owner = sweep::own_again(&path).map_err(|source| EngineError::Directory { path: path.clone(), source })?;
        let directory = SandboxDirectory::new(last.id.clone(), path.clone(), Lifetime::Detached).owned_by(owner);
        let reached = match &last.state {
            Kept::Failed(_) => Err(EngineError::Machine { source: MachineError::Gone }),
            Kept::Stopped => {
                self.end_in_order(&directory, last).await;
                Err(EngineError::Machine { source: MachineError::Gone })
            }
            Kept::Running | Kept::Paused(_) => self.reach_again(&directory, last).await,
        };
        if reached.is_err() {
            // Unless it is gone by then it runs into the next owner's end of it.
            let remains = path.clone();
            let _ = spawn_blocking(move || sweep::end_machine(&remains)).await;
        }
        Ok(match (reached, &last.state) {
            (Ok(reached), state) => {
                // A pause that was given up has left some, and so has one that was noted and not carried out.
                saved::remove_changes(&path);
                let told = match state {
                    Kept::Paused(_) => Some("it was about to be paused or to go on, and goes on"),
                    _ if reached.was_stopped => Some("it was stopped to be saved, and goes on"),
                    _ => None,
                };
                Adopted::Running(Box::new(self.running(last, directory, reached)), told)
            }
            (Err(_), Kept::Paused(record)) => match last.template.clone() {
                Some(template) => {
                    let place = place(last, directory, record.overlays);
                    let base = self.found(&last.digest).ok();
                    let paused = Paused::adopted(spec(last), place, template.into(), base, record.clone());
                    Adopted::Paused(Box::new(paused))
                }
                None => {
                    let why = "what it was restored from is not known".to_owned();
                    Adopted::Lost(self.without_machine(last, directory), why)
                }
            },
            (Err(_), Kept::Stopped) => Adopted::Stopped(self.without_machine(last, directory)),
            (Err(_), Kept::Failed(why)) => Adopted::Lost(self.without_machine(last, directory), why.clone()),
            (Err(error), Kept::Running) => Adopted::Lost(self.without_machine(last, directory), why_lost(&error)),
        })
    }

    fn without_machine(&self, last: &Lasting, directory: SandboxDirectory) -> Box<Stopped> {
        let scratch = last.spec.disk.map(|_| Scratch::left(directory.path(), last.disk_below));
        Box::new(Stopped::new(spec(last), Place { directory, scratch }, self.found(&last.digest).ok()))
    }

    /// Ends the machine of a sandbox that is noted as stopped, if it has one: its guest was about to end, or to come up.
    async fn end_in_order(&self, directory: &SandboxDirectory, last: &Lasting) {
        let Ok(machine) = Machine::adopt(adoption(directory)).await else { return };
        if let Ok(Ok(channel)) = timeout(TCG_SILENCE, boot::answer(&machine, last.way.accelerator)).await {
            // One that does not end so is ended all the same, and its journal read at its next boot.
            let _ = stop::end_in_order(&machine, &channel, stop::DEFAULT_GRACE).await;
        }
        machine.stop().await;
    }

    fn running(&self, last: &Lasting, directory: SandboxDirectory, reached: Reached) -> Sandbox {
        let Reached { machine, channel, overlays, .. } = reached;
        let below = last.template.clone().map(Below::from);
        if let (Some(below), Some(ram)) = (&below, machine.sealed_ram()) {
            self.templates.is_mapped(&below.id, ram);
        }
        let booted = Booted { machine, channel, way: last.way, failed: Vec::new() };
        Sandbox::adopted(spec(last), place(last, directory, overlays), booted, below, self.found(&last.digest).ok())
    }

    /// Connects to its machine and its agent, and lets both go on.
    async fn reach_again(&self, directory: &SandboxDirectory, last: &Lasting) -> Result<Reached, EngineError> {
        let machine = Machine::adopt(adoption(directory)).await?;
        let was_stopped = machine.is_suspended().await?;
        let overlays = match last.spec.disk {
            Some(_) => machine.overlays(scratch::NUMBER).await?,
            None => 0,
        };
        if was_stopped {
            machine.proceed().await?;
        }
        let answer = timeout(TCG_SILENCE, boot::answer(&machine, last.way.accelerator)).await;
        let channel = answer.unwrap_or_else(|_| Err(boot::silent(last.way.accelerator, "taken over")))?;
        // Its clock stood still while it was stopped, and while the host was; then its processes go on, if they were.
        boot::renew(&channel, &last.id, Renewal::Same, &Given::default()).await?;
        let thawed = channel.thaw().await;
        thawed.map_err(|source| EngineError::Channel { what: "let the guest's processes go on", source })?;
        Ok(Reached { machine, channel, overlays, was_stopped })
    }
}

/// A machine whose agent takes requests again.
struct Reached {
    machine: Machine,
    channel: Channel,
    overlays: usize,
    was_stopped: bool,
}

fn adoption(directory: &SandboxDirectory) -> Adoption {
    Adoption { directory: directory.path().to_owned(), ports: boot::ports(), cgroups: directory.groups() }
}

fn spec(last: &Lasting) -> SandboxSpec {
    SandboxSpec { image: last.digest.clone(), ..last.spec.clone() }
}

fn place(last: &Lasting, directory: SandboxDirectory, overlays: usize) -> Place {
    let scratch = last.spec.disk.map(|_| Scratch::adopted(directory.path(), overlays, last.disk_below));
    Place { directory, scratch }
}

fn why_lost(error: &EngineError) -> String {
    match error {
        EngineError::Machine { source: MachineError::Gone } => "its machine ended while no daemon held it".to_owned(),
        error => format!("it could not be taken over: {}", chain(error)),
    }
}
