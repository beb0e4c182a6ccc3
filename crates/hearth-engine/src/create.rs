//! Creating a sandbox: a row of phases, each of which is undone when a later one fails, because what it made is dropped.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::time::Instant;

use hearth_channel::Channel;
use hearth_image::{Image, InUse};
use hearth_protocol::secrets::Secret;
use hearth_protocol::{RawString, Renew};
use hearth_vmm::{CpuCount, Lifetime, Machine, MachineSpec, MemoryMib, Qemu};

use crate::accelerator::AcceleratorChoice;
use crate::boot::{self, Boot, Booted, Origin, Phase, Phases, Renewal, connect};
use crate::fleet::SandboxName;
use crate::identity::{SandboxDirectory, SandboxId};
use crate::sandbox::Sandbox;
use crate::scratch::Scratch;
use crate::template::TemplateRecord;
use crate::{DEFAULT_IMAGE, Engine, EngineError, sweep};

/// The size of a scratch disk in MiB: 16 to 1,048,576 (1 TiB). The file is sparse: it takes what the guest writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskMib(u32);

impl DiskMib {
    /// The least size in MiB.
    pub const MIN: u32 = 16;
    /// The largest size in MiB.
    pub const MAX: u32 = 1 << 20;

    /// Checks a size.
    ///
    /// # Errors
    /// [`EngineError::DiskSize`] outside the range.
    pub fn new(mib: u32) -> Result<Self, EngineError> {
        if (Self::MIN..=Self::MAX).contains(&mib) { Ok(Self(mib)) } else { Err(EngineError::DiskSize { mib }) }
    }

    /// The size.
    pub fn mib(self) -> u32 {
        self.0
    }
}

/// A sandbox to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSpec {
    /// The image, by name or by the beginning of its digest.
    pub image: String,
    /// The number of processors.
    pub cpus: CpuCount,
    /// The memory.
    pub memory: MemoryMib,
    /// A disk for what the guest writes; without it, that stays in the guest's memory.
    pub disk: Option<DiskMib>,
    /// What runs the guest.
    pub accelerator: AcceleratorChoice,
    /// What the guest starts from.
    pub start: StartFrom,
    /// Speaks the two earlier protocols as well, on sockets in the sandbox's directory.
    pub dialects: Option<DialectSpec>,
    /// What its programs are given.
    pub given: Given,
}

impl SandboxSpec {
    /// The same without the values of secrets: once its guest has them, nobody else needs to.
    pub(crate) fn without_secrets(mut self) -> Self {
        self.given.secrets.clear();
        self
    }
}

/// The variable by which programs know their sandbox's id.
pub(crate) const ID_VARIABLE: &str = "HEARTH_SANDBOX_ID";

/// What the programs of a sandbox are given when they start. No template ever has any of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Given {
    /// Variables.
    pub env: BTreeMap<String, RawString>,
    /// Secrets.
    pub secrets: Vec<Secret>,
}

impl Given {
    /// Checks all that a guest would refuse.
    ///
    /// # Errors
    /// [`EngineError::Given`].
    pub fn check(&self) -> Result<(), EngineError> {
        let mut env = self.env.clone();
        // It takes a place of its own in any case.
        env.insert(ID_VARIABLE.to_owned(), RawString::from(""));
        let parts = [
            ("env", Renew { env: Some(env), ..Renew::default() }),
            ("secrets", Renew { secrets: Some(self.secrets.clone()), ..Renew::default() }),
        ];
        parts
            .into_iter()
            .try_for_each(|(what, renew)| renew.validate().map_err(|source| EngineError::Given { what, source }))
    }
}

/// What a guest starts from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum StartFrom {
    /// A guest that was booted before.
    #[default]
    Template,
    /// Its kernel. Of such a sandbox all memory is saved, not just what it has changed.
    Boot,
    /// A sandbox that was saved under this name, whose image and sizes the specification has (see [`Engine::spec_of_snapshot`]).
    Snapshot(SandboxName),
}

/// How a sandbox speaks the earlier protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DialectSpec {
    /// A port of 127.0.0.1 for the execution channel as well, 0 for any. Every user of this host can then run code in the sandbox.
    pub port: Option<u16>,
}

impl Default for SandboxSpec {
    fn default() -> Self {
        Self {
            image: DEFAULT_IMAGE.to_owned(),
            cpus: CpuCount::ONE,
            memory: MemoryMib::new(512).expect("512 MiB is within the limits"),
            disk: None,
            accelerator: AcceleratorChoice::Auto,
            start: StartFrom::Template,
            dialects: None,
            given: Given::default(),
        }
    }
}

/// A sandbox that was prepared and not started. Dropping it removes its directory, so it must outlive the machine.
#[derive(Debug)]
pub struct Draft {
    /// The machine to start.
    pub machine: MachineSpec,
    _directory: SandboxDirectory,
    _in_use: InUse,
}

impl Draft {
    /// Waits for the agent in a machine that was started from this draft.
    ///
    /// # Errors
    /// [`EngineError::Channel`]; the end of the machine is not among them, so race this against it.
    pub async fn connect(&self, machine: &Machine) -> Result<Channel, EngineError> {
        connect(machine).await
    }
}

/// What a sandbox is made of, found and checked: nothing has been made yet.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) qemu: Qemu,
    pub(crate) image: Image,
    pub(crate) in_use: InUse,
}

/// What a sandbox has on the host before its machine starts.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) directory: SandboxDirectory,
    pub(crate) scratch: Option<Scratch>,
}

/// How many layers a disk is to have, beside those that the saved one has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layers {
    OneMore,
    TheSame,
}

impl Engine {
    /// Creates a sandbox and returns it once its agent takes requests.
    ///
    /// It is restored from a template, which is made if there is none for such a sandbox. Dropping the future undoes what was done so far.
    ///
    /// # Errors
    /// What can be known beforehand comes before anything is made: [`EngineError::Qemu`], [`EngineError::NoImage`],
    /// [`EngineError::MemoryShort`], [`EngineError::DiskShort`]. Afterwards [`EngineError::Boot`] and errors of the host's files.
    pub async fn create(&self, spec: &SandboxSpec) -> Result<Sandbox, EngineError> {
        self.create_as(SandboxId::random(), spec).await
    }

    /// As [`Self::create`], under an id that is known beforehand.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub(crate) async fn create_as(&self, id: SandboxId, spec: &SandboxSpec) -> Result<Sandbox, EngineError> {
        let mut phases = Phases::since(Instant::now());
        let base = self.base(spec)?;
        let sandbox = match &spec.start {
            StartFrom::Boot => self.create_by_boot(id, spec, base, phases).await?,
            StartFrom::Snapshot(name) => self.create_by_snapshot(id, spec, name, phases).await?,
            StartFrom::Template => {
                let standby = self.stand_by_as(id, spec, base, &mut phases).await?;
                standby.go_on(&spec.given, phases).await?
            }
        };
        sandbox.with_dialects(spec.dialects).await
    }

    async fn create_by_boot(
        &self,
        id: SandboxId,
        spec: &SandboxSpec,
        base: Base,
        mut phases: Phases,
    ) -> Result<Sandbox, EngineError> {
        let Place { directory, scratch } = self.place_to_boot(id, spec, self.lifetime)?;
        // What is copied by a link is nothing that its own QEMU could write to.
        let place = Place { scratch: scratch.map(Scratch::made_writable).transpose()?, directory };
        phases.note(Phase::Prepared);
        let boot = Boot { spec, base: &base, place: &place, renewal: Renewal::Anew };
        let (booted, below) = self.boot_sandbox(boot, &mut phases).await?;
        Ok(Sandbox::new(spec, place, booted, below, base, phases))
    }

    /// Lets a saved guest go on in a sandbox of its own. What it was to have comes back with the error.
    pub(crate) async fn start_saved(
        &self,
        spec: &SandboxSpec,
        base: Base,
        place: Place,
        origin: Origin,
        mut phases: Phases,
    ) -> Result<Sandbox, (Place, EngineError)> {
        let template = origin.template.clone();
        let started = async {
            let (ram, checkpoint) = (origin.saved.ram.clone(), origin.checkpoint.clone());
            let waiting = self.start_waiting(spec, &base, &place, template.way, ram, checkpoint.as_deref()).await?;
            boot::go_on(waiting, place.directory.id(), &spec.given, origin, &mut phases).await
        };
        match started.await {
            Ok((machine, channel)) => {
                let booted = Booted { machine, channel, way: template.way, failed: Vec::new() };
                Ok(Sandbox::new(spec, place, booted, template.into(), base, phases))
            }
            Err(error) => Err((place, error)),
        }
    }

    /// Prepares all that a boot needs and starts nothing: for whoever has to change the machine first, as the bench has.
    ///
    /// The machine is the one that would be tried first.
    ///
    /// # Errors
    /// As [`Self::create`], but for those of a boot.
    pub fn draft(&self, spec: &SandboxSpec) -> Result<Draft, EngineError> {
        let base = self.base(spec)?;
        let place = self.place_to_boot(SandboxId::random(), spec, Lifetime::WithOwner)?;
        let (_, ways) = self.ways(spec, &base.qemu, &base.image);
        let way = ways.into_iter().next().expect("there is always a way to try");
        let machine = self.machine_spec(spec, &base, place.directory.path(), place.scratch.as_ref(), way)?;
        Ok(Draft { machine, _directory: place.directory, _in_use: base.in_use })
    }

    /// Checks all that can be known to fail, and makes nothing: for whoever would have to start a daemon only to be refused.
    ///
    /// # Errors
    /// Those of [`Self::create`] that come before anything is made.
    pub fn check(&self, spec: &SandboxSpec) -> Result<(), EngineError> {
        spec.given.check()?;
        self.qemu()?;
        self.find_image(&spec.image)?;
        self.check_room(spec)?;
        self.check_paths()
    }

    /// What can be known to fail fails here, before anything of a sandbox is made.
    pub(crate) fn base(&self, spec: &SandboxSpec) -> Result<Base, EngineError> {
        spec.given.check()?;
        let qemu = self.qemu()?;
        let image = self.find_image(&spec.image)?;
        let in_use = image.in_use()?;
        self.check_room(spec)?;
        self.check_paths()?;
        self.directories.make()?;
        Ok(Base { qemu, image, in_use })
    }

    /// What a sandbox that is there already is made of.
    pub(crate) fn found(&self, digest: &str) -> Result<Base, EngineError> {
        let qemu = self.qemu()?;
        let image = self.find_image(digest)?;
        Ok(Base { qemu, in_use: image.in_use()?, image })
    }

    /// Checks that what is saved now of a sandbox that is there could go on here.
    pub(crate) fn check_lasting(&self, spec: &SandboxSpec, record: &TemplateRecord) -> Result<(), EngineError> {
        record.fits(&self.found(&spec.image)?).map_err(|reason| EngineError::Outdated { reason })
    }

    /// As [`Self::base`], for a guest that was saved: with just the QEMU and the processor that its template was made with.
    pub(crate) fn base_of(&self, spec: &SandboxSpec, record: &TemplateRecord) -> Result<Base, EngineError> {
        let base = self.base(spec)?;
        record.fits(&base).map_err(|reason| EngineError::Outdated { reason })?;
        Ok(base)
    }

    /// Makes what a guest needs to boot. It goes again when the value returned is dropped.
    pub(crate) fn place_to_boot(
        &self,
        id: SandboxId,
        spec: &SandboxSpec,
        lifetime: Lifetime,
    ) -> Result<Place, EngineError> {
        let directory = self.make_directory(id, lifetime)?;
        let scratch = spec.disk.map(|size| {
            let scratch = Scratch::bare(directory.path());
            scratch.format(size).map(|()| scratch)
        });
        Ok(Place { scratch: scratch.transpose()?, directory })
    }

    /// Makes what a saved guest needs, with a copy of the scratch disk that it was saved with.
    pub(crate) fn place_for(
        &self,
        id: SandboxId,
        lifetime: Lifetime,
        scratch: Option<&Scratch>,
        layers: Layers,
    ) -> Result<Place, EngineError> {
        let directory = self.make_directory(id, lifetime)?;
        let scratch = scratch.map(|saved| {
            let copy = saved.copy_to(directory.path())?;
            match layers {
                Layers::OneMore => copy.made_writable(),
                Layers::TheSame => copy.made_writable_as_it_is(),
            }
        });
        Ok(Place { scratch: scratch.transpose()?, directory })
    }

    pub(crate) fn make_directory(&self, id: SandboxId, lifetime: Lifetime) -> Result<SandboxDirectory, EngineError> {
        let path = self.directories.sandboxes().join(id.as_str());
        let failed = |source| EngineError::Directory { path: path.clone(), source };
        // Until the owner's file is locked nothing but this says that the directory has an owner.
        let _being_made = sweep::hold_off(&self.directories.births()).map_err(failed)?;
        DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
        let made = SandboxDirectory::new(id, path.clone(), lifetime);
        let owner = sweep::own(&path, lifetime).map_err(failed)?;
        Ok(made.owned_by(owner))
    }
}
