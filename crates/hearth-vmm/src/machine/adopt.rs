//! Taking over a machine whose owner has ended: the process is proven by its note, its sockets are connected to anew, and its memory is found
//! among its descriptors.

use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::sync::OnceCell;

use super::exit::{Followed, supervise};
use super::note::{MemoryFile, Note};
use super::{Machine, MachineError, Ram, Sockets};
use crate::command_line::layer_node;
use crate::console::{CONSOLE_TAIL, Console};
use crate::jail::Groups;
use crate::process::Child;
use crate::saved::SealedRam;
use crate::sockets::{SocketFile, connect_checked};
use crate::spec::{Lifetime, PortName};

/// A machine to take over, which was [`Lifetime::Detached`] and whose owner has ended.
#[derive(Debug)]
pub struct Adoption {
    /// Its directory.
    pub directory: PathBuf,
    /// Its ports.
    pub ports: Vec<PortName>,
    /// The control groups that were made for it, or may have been (see [`groups_of`](crate::jail::groups_of)).
    pub cgroups: Vec<PathBuf>,
}

impl Machine {
    /// Takes a machine over. It is this process's from then on as if it had started it, but for how it ends, which only its first owner
    /// could be told. Its guest may have been stopped: see [`Machine::proceed`].
    ///
    /// # Errors
    /// [`MachineError::Gone`]; [`MachineError::Adopt`] and [`MachineError::Socket`], and then it is as it was.
    pub async fn adopt(adoption: Adoption) -> Result<Self, MachineError> {
        let Adoption { directory, ports, cgroups } = adoption;
        let failed = |source| MachineError::Adopt { directory: directory.clone(), source };
        let Some(note) = Note::read(&directory).map_err(failed)? else { return Err(MachineError::Gone) };
        let Some(pidfd) = note.process.find().map_err(failed)? else { return Err(MachineError::Gone) };
        let Some(held) = note.held else { return Err(MachineError::Gone) };
        let pid = note.process.pid();
        let ram = Ram::of(pid, &held.memory).map_err(failed)?;
        let sockets = Sockets::in_directory(&directory, ports);
        let console = connect_checked(sockets.console.path()).await?;
        let child = Child::adopted(pid, pidfd);
        let killer = child.killer().map_err(failed)?;
        let (console, task) = Console::follow(console, CONSOLE_TAIL);
        let followed = Followed { stream: console.clone(), task };
        let ended = supervise(child, None, Some(followed), Groups::noted(cgroups));
        Ok(Self {
            pid,
            jail: held.jail,
            lifetime: Lifetime::Detached,
            qmp: OnceCell::new(),
            console,
            sockets,
            clients: Mutex::default(),
            ram,
            killer,
            ended,
            released: false,
        })
    }

    /// The memory of a restored machine that it has mapped privately. Of one that was taken over it is what QEMU shows, sealed, and need not be
    /// what a template holds.
    pub fn sealed_ram(&self) -> Option<&Arc<SealedRam>> {
        match &self.ram {
            Ram::Restored(ram) => Some(ram),
            Ram::Booted(_) => None,
        }
    }

    /// Whether the guest's processors stand still.
    ///
    /// # Errors
    /// [`MachineError::Control`].
    pub async fn is_suspended(&self) -> Result<bool, MachineError> {
        let status = self.qmp().await?.execute("query-status", None).await?;
        Ok(status["running"] != true)
    }

    /// Finds how many overlays a disk has (`disk` counts the spec's, which had fewer or as many), and takes back one that was made
    /// ready for it and not put on.
    ///
    /// # Errors
    /// [`MachineError::Control`].
    pub async fn overlays(&self, disk: usize) -> Result<usize, MachineError> {
        let qmp = self.qmp().await?;
        let nodes = qmp.execute("query-named-block-nodes", Some(json!({ "flat": true }))).await?;
        let nodes: Vec<&str> =
            nodes.as_array().into_iter().flatten().filter_map(|node| node["node-name"].as_str()).collect();
        let devices = qmp.execute("query-block", None).await?;
        let tops: Vec<&str> = devices
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|device| device["inserted"]["node-name"].as_str())
            .collect();
        let most = crate::MachineSpec::MAX_OVERLAYS;
        let top = (0..=most).rev().find(|layer| tops.contains(&layer_node(disk, *layer).as_str()));
        let top = top.ok_or_else(|| crate::QmpError::Answer { command: "query-block".into() })?;
        let ready = layer_node(disk, top + 1);
        if nodes.contains(&ready.as_str()) {
            qmp.execute("blockdev-del", Some(json!({ "node-name": ready }))).await?;
        }
        Ok(top)
    }
}

/// The memory that a machine has mapped privately, if one is noted in a directory and runs: as it shows it, see [`Machine::sealed_ram`].
pub fn noted_ram(directory: &Path) -> Option<Arc<SealedRam>> {
    let note = Note::read(directory).ok()??;
    let _proven = note.process.find().ok()??;
    match Ram::of(note.process.pid(), &note.held?.memory).ok()? {
        Ram::Restored(ram) => Some(ram),
        Ram::Booted(_) => None,
    }
}

impl Sockets {
    fn in_directory(directory: &Path, ports: Vec<PortName>) -> Self {
        let file = |name: &str| SocketFile::there(directory.join(format!("{name}.sock")));
        Self {
            control: file("qmp"),
            console: file("console"),
            ports: ports.into_iter().map(|name| (name.clone(), file(name.as_str()))).collect(),
        }
    }
}

impl Ram {
    /// What is noted of it.
    pub(super) fn noted(&self, descriptor: RawFd) -> io::Result<MemoryFile> {
        let (file, restored) = match self {
            Self::Booted(file) => (file.try_clone()?, false),
            Self::Restored(ram) => (std::os::fd::AsFd::as_fd(&**ram).try_clone_to_owned()?, true),
        };
        let metadata = File::from(file).metadata()?;
        Ok(MemoryFile { descriptor, device: metadata.dev(), inode: metadata.ino(), restored })
    }

    /// Finds it in the process that has it.
    fn of(pid: u32, noted: &MemoryFile) -> io::Result<Self> {
        let file = File::open(format!("/proc/{pid}/fd/{}", noted.descriptor))?;
        let metadata = file.metadata()?;
        if (metadata.dev(), metadata.ino()) != (noted.device, noted.inode) {
            return Err(io::Error::other("QEMU does not have the guest's memory where it was"));
        }
        Ok(match noted.restored {
            true => Self::Restored(Arc::new(SealedRam::sealed_before(file)?)),
            false => Self::Booted(file.into()),
        })
    }
}
