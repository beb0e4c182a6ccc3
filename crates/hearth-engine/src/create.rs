//! Creating a sandbox: a row of phases, each of which is undone when a later one fails, because what it made is dropped.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use hearth_channel::Channel;
use hearth_image::{Image, InUse};
use hearth_protocol::CONTROL_PORT;
use hearth_vmm::{CpuCount, Disk, HostFlush, MAX_SOCKET_PATH, Machine, MachineSpec, MemoryMib, Qemu};
use rustix::fs::{FlockOperation, flock};

use crate::accelerator::{AcceleratorChoice, Findings, host_key, ways};
use crate::boot::{Booted, Phase, Phases, Plan, connect};
use crate::identity::{SandboxDirectory, SandboxId};
use crate::sandbox::Sandbox;
use crate::template::{Found, Request, Template};
use crate::{DEFAULT_IMAGE, Engine, EngineError, sweep};

/// What a QEMU needs beside its guest's memory, in bytes: its own, with TCG's translation cache.
const OVERHEAD: u64 = 96 << 20;
/// The room that a sandbox's directory needs on the host, in bytes.
const ROOM: u64 = 64 << 20;

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
#[derive(Debug, Clone)]
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
}

/// What a guest starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartFrom {
    /// A guest that was booted before.
    #[default]
    Template,
    /// Its kernel. Such a sandbox cannot be forked, paused or saved.
    Boot,
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
struct Base {
    id: SandboxId,
    qemu: Qemu,
    image: Image,
    in_use: InUse,
}

/// What a sandbox has on the host before its machine starts.
struct Place {
    directory: SandboxDirectory,
    disks: Vec<Disk>,
}

impl Place {
    fn plan<'a>(&'a self, spec: &'a SandboxSpec, base: &'a Base) -> Plan<'a> {
        let (qemu, image) = (&base.qemu, &base.image);
        Plan { spec, qemu, image, directory: self.directory.path(), disks: &self.disks }
    }
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
        let base = self.base(id, spec)?;
        let mut sandbox = match spec.start {
            StartFrom::Boot => self.create_by_boot(spec, base, phases).await?,
            StartFrom::Template => {
                let request = Request { spec, qemu: &base.qemu, image: &base.image };
                let Found { template, failed } = self.template(&request).await?;
                phases.note(Phase::Template);
                self.create_from(spec, base, template, failed, phases).await?
            }
        };
        if let Some(dialects) = spec.dialects {
            sandbox.speak_dialects(dialects).await?;
        }
        Ok(sandbox)
    }

    async fn create_by_boot(&self, spec: &SandboxSpec, base: Base, mut phases: Phases) -> Result<Sandbox, EngineError> {
        let place = self.place(spec, &base)?;
        phases.note(Phase::Prepared);
        let booted = self.boot(&place.plan(spec, &base), &place.directory, &mut phases).await?;
        Ok(Sandbox::new(place.directory, booted, base.in_use, phases))
    }

    async fn create_from(
        &self,
        spec: &SandboxSpec,
        base: Base,
        template: Arc<Template>,
        failed: Vec<String>,
        mut phases: Phases,
    ) -> Result<Sandbox, EngineError> {
        let place = self.place(spec, &base)?;
        phases.note(Phase::Prepared);
        let (machine, channel) =
            self.restore(&place.plan(spec, &base), &place.directory, &template, &mut phases).await?;
        let booted = Booted { machine, channel, way: template.way, failed };
        Ok(Sandbox::new(place.directory, booted, base.in_use, phases))
    }

    /// Prepares all that a boot needs and starts nothing: for whoever has to change the machine first, as the bench has.
    ///
    /// The machine is the one that would be tried first.
    ///
    /// # Errors
    /// As [`Self::create`], but for those of a boot.
    pub fn draft(&self, spec: &SandboxSpec) -> Result<Draft, EngineError> {
        let base = self.base(SandboxId::random(), spec)?;
        let place = self.place(spec, &base)?;
        let (_, ways) = self.ways(spec, &base.qemu, &base.image);
        let way = ways.into_iter().next().expect("there is always a way to try");
        let machine = self.machine_spec(&place.plan(spec, &base), way)?;
        Ok(Draft { machine, _directory: place.directory, _in_use: base.in_use })
    }

    /// What can be known to fail fails here, before anything of a sandbox is made.
    fn base(&self, id: SandboxId, spec: &SandboxSpec) -> Result<Base, EngineError> {
        let qemu = self.qemu()?;
        let image = self.find_image(&spec.image)?;
        let in_use = image.in_use()?;
        self.check_room(spec)?;
        self.check_paths()?;
        self.directories.make()?;
        Ok(Base { id, qemu, image, in_use })
    }

    /// What is made here goes again when the value returned is dropped.
    fn place(&self, spec: &SandboxSpec, base: &Base) -> Result<Place, EngineError> {
        let directory = self.make_directory(base.id.clone())?;
        let disks = disks(&base.image, directory.path(), spec);
        if let (Some(size), Some(scratch)) = (spec.disk, disks.get(1)) {
            format_scratch(&scratch.path, size)?;
        }
        Ok(Place { directory, disks })
    }

    fn find_image(&self, reference: &str) -> Result<Image, EngineError> {
        self.images.inspect(reference).map_err(|source| match source {
            hearth_image::ImageError::NotFound { .. } => EngineError::NoImage { name: reference.to_owned() },
            source => EngineError::Image(source),
        })
    }

    fn check_room(&self, spec: &SandboxSpec) -> Result<(), EngineError> {
        let needed = needed_memory(spec.memory);
        match available_memory() {
            Some(available) if available < needed => return Err(EngineError::MemoryShort { needed, available }),
            _ => {}
        }
        self.check_disk().map(drop)
    }

    /// Checks that the paths of sockets fit the kernel's bound.
    pub(crate) fn check_paths(&self) -> Result<(), EngineError> {
        let longest = format!("sb-0123456789ab/{CONTROL_PORT}.sock");
        let path = self.directories.sandboxes().join(longest);
        let length = path.as_os_str().len();
        if length <= MAX_SOCKET_PATH {
            Ok(())
        } else {
            Err(EngineError::HomeTooLong { home: self.directories.home().to_owned(), excess: length - MAX_SOCKET_PATH })
        }
    }

    /// Returns the bytes that are free for sandboxes, if they are enough for one.
    pub(crate) fn check_disk(&self) -> Result<u64, EngineError> {
        let path = self.directories.nearest();
        let stat = rustix::fs::statvfs(&path)
            .map_err(|error| EngineError::Directory { path: path.clone(), source: error.into() })?;
        let free = stat.f_bavail * stat.f_frsize;
        if free < ROOM { Err(EngineError::DiskShort { path, needed: ROOM, available: free }) } else { Ok(free) }
    }

    pub(crate) fn make_directory(&self, id: SandboxId) -> Result<SandboxDirectory, EngineError> {
        let path = self.directories.sandboxes().join(id.as_str());
        let failed = |source| EngineError::Directory { path: path.clone(), source };
        // Until the owner's file is locked nothing but this says that the directory has an owner.
        let _being_made = sweep::hold_off(&self.directories.births()).map_err(failed)?;
        DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
        let made = SandboxDirectory::new(id, path.clone());
        let owner = File::create(path.join(sweep::OWNER)).map_err(failed)?;
        flock(&owner, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        Ok(made.owned_by(owner))
    }

    /// What is known of the ways to run this image here, best first.
    pub(crate) fn ways(
        &self,
        spec: &SandboxSpec,
        qemu: &Qemu,
        image: &Image,
    ) -> (String, Vec<crate::accelerator::Way>) {
        let host = host_key(qemu, image);
        let findings = Findings::read(&self.directories.findings());
        let ways = ways(spec.accelerator, &findings, &host);
        (host, ways)
    }
}

/// What a sandbox with `memory` needs of the host's, in bytes.
pub(crate) fn needed_memory(memory: MemoryMib) -> u64 {
    memory.bytes() + OVERHEAD
}

/// What the host can give without swapping, in bytes; `None` where it does not say.
pub(crate) fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The disks of a sandbox: the image, and one for what the guest writes, if it is to have one. The file of that need not be there yet.
pub(crate) fn disks(image: &Image, directory: &Path, spec: &SandboxSpec) -> Vec<Disk> {
    let root = Disk {
        path: image.rootfs(),
        overlays: Vec::new(),
        serial: "root".into(),
        read_only: true,
        host_flush: HostFlush::Ignore,
    };
    // The disk goes with its sandbox, so nothing is gained by waiting for the host's.
    let scratch = spec.disk.map(|_| Disk {
        path: directory.join("scratch.img"),
        overlays: Vec::new(),
        serial: "scratch".into(),
        read_only: false,
        host_flush: HostFlush::Ignore,
    });
    [root].into_iter().chain(scratch).collect()
}

fn format_scratch(path: &PathBuf, size: DiskMib) -> Result<(), EngineError> {
    let failed = |source| EngineError::Directory { path: path.clone(), source };
    let file = File::create_new(path).map_err(failed)?;
    file.set_len(u64::from(size.0) << 20).map_err(failed)?;
    let output = Command::new("mke2fs")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .args(["-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1,root_owner=0:0"])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| EngineError::FormatTool { source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
    Err(EngineError::Format { path: path.clone(), said })
}
