//! Saving a machine: the state of its devices, and what its guest has changed of its memory.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::json;

use super::{Machine, MachineError, Ram};
use crate::MachineSpec;
use crate::checkpoint::Checkpoint;
use crate::command_line::layer_node;
use crate::jail::JailLevel;
use crate::saved::{Delta, MAX_DEVICE_STATE, Mapping, PAGE, Room, Run, SavedMachine, SealedRam, resident};
use crate::sys::Filling;

impl Machine {
    /// Stops the guest's processors; what its disks were about to write is written first.
    ///
    /// # Errors
    /// [`MachineError::Control`].
    pub async fn suspend(&self) -> Result<(), MachineError> {
        self.qmp().await?.execute("stop", None).await?;
        Ok(())
    }

    /// Lets the guest's processors go on.
    ///
    /// # Errors
    /// [`MachineError::Control`].
    pub async fn proceed(&self) -> Result<(), MachineError> {
        self.qmp().await?.execute("cont", None).await?;
        Ok(())
    }

    /// Gives QEMU the file for what [`Self::capture`] takes: what can be done before the guest stands still need not be done while it does.
    /// What was changed of a restored machine's memory is taken; of one that was booted, what is not zero, for it to be put on `blank`.
    ///
    /// # Errors
    /// [`MachineError::SavedSize`] where `blank` is of another size, [`MachineError::Control`].
    pub async fn prepare_capture(&self, blank: &Arc<SealedRam>) -> Result<PreparedCapture, MachineError> {
        let memory = match &self.ram {
            Ram::Restored(ram) => Captured::changes(self.pid, ram).await?,
            Ram::Booted(file) => {
                let failed = |source| MachineError::System { doing: "duplicate a descriptor", source };
                let own = File::from(file.try_clone().map_err(failed)?);
                let size = own.metadata().map_err(failed)?.len();
                if size != blank.size() {
                    return Err(MachineError::SavedSize { saved: blank.size() >> 20, spec: (size >> 20) as u32 });
                }
                Captured::All { own, blank: blank.clone() }
            }
        };
        Ok(PreparedCapture { memory, devices: self.prepare_devices().await? })
    }

    /// Takes the state of a suspended machine, which may go on afterwards.
    ///
    /// # Errors
    /// [`MachineError::Control`], [`MachineError::GuestMemory`].
    pub async fn capture(&self, prepared: PreparedCapture) -> Result<SavedMachine, MachineError> {
        let PreparedCapture { memory, devices } = prepared;
        // What costs time on either side is done on both at once: pages are read while QEMU writes its devices' state.
        let pid = self.pid;
        let read = async { guest_memory(tokio::task::spawn_blocking(move || memory.read(pid)).await) };
        let (devices, delta) = tokio::join!(self.save_devices(devices), read);
        let (ram, delta) = delta?;
        Ok(SavedMachine { ram, devices: devices?.into(), delta: Some(Arc::new(delta)), checkpoint: None })
    }

    /// Prepares what [`Self::capture_running`] takes, of a machine that began from the checkpoint `below`, or from another on the same pages.
    ///
    /// # Errors
    /// [`MachineError::Checkpoint`], [`MachineError::GuestMemory`]; [`MachineError::AlreadyRestored`] of one that was booted.
    pub async fn prepare_running(&self, below: Arc<Checkpoint>) -> Result<PreparedRunning, MachineError> {
        let Ram::Restored(ram) = &self.ram else { return Err(MachineError::AlreadyRestored) };
        let memory = Captured::changes(self.pid, ram).await?;
        let (pid, ram) = (self.pid, ram.clone());
        let prepared = tokio::task::spawn_blocking(move || {
            let own = below.room_for(pid, &ram)?;
            Ok(PreparedRunning { ram, below, own, memory })
        });
        checkpoint(prepared.await)
    }

    /// Takes the memory of a suspended machine, and its QEMU as it is, for others to go on from: `spec` is what it has by now. It may go on
    /// afterwards, also where this fails; nothing of it is asked.
    ///
    /// # Errors
    /// [`MachineError::Checkpoint`].
    pub async fn capture_running(
        &self,
        spec: MachineSpec,
        prepared: PreparedRunning,
    ) -> Result<SavedMachine, MachineError> {
        let PreparedRunning { ram, below, own: room, memory } = prepared;
        let pid = self.pid;
        let taken = tokio::task::spawn_blocking(move || {
            let (checkpoint, (ram, delta)) =
                Checkpoint::take_running(pid, &spec, &ram, &below, room, move || memory.read(pid))?;
            let checkpoint = Some(Arc::new(checkpoint));
            Ok(SavedMachine { ram, devices: [].into(), delta: Some(Arc::new(delta)), checkpoint })
        });
        checkpoint(taken.await)
    }

    /// Takes the state of a suspended machine's devices alone.
    ///
    /// # Errors
    /// [`MachineError::Control`].
    pub async fn capture_devices(&self) -> Result<Arc<[u8]>, MachineError> {
        let devices = self.prepare_devices().await?;
        Ok(self.save_devices(devices).await?.into())
    }

    /// Takes back what was prepared for a capture that is not to be.
    pub async fn abandon_capture(&self, prepared: PreparedCapture) {
        // A QEMU that does not take this any more is about to end.
        let _ = self.take_back(&prepared.devices).await;
    }

    /// How many bytes of its memory a restored machine has changed by now, or a booted one has touched.
    ///
    /// # Errors
    /// When the machine has ended.
    pub fn changed_bytes(&self) -> std::io::Result<u64> {
        match &self.ram {
            Ram::Restored(ram) => Ok(Mapping::find(self.pid, ram)?.changed()?.iter().map(|run| run.pages * PAGE).sum()),
            Ram::Booted(file) => resident(file),
        }
    }

    /// Makes a booted machine a template: takes its state, ends it, and seals its memory.
    ///
    /// # Errors
    /// As [`Self::capture`], and [`MachineError::Ram`]. The machine is gone in any case.
    pub async fn into_template(self) -> Result<SavedMachine, MachineError> {
        let Ram::Booted(memory) = &self.ram else { return Err(MachineError::AlreadyRestored) };
        let memory =
            memory.try_clone().map_err(|source| MachineError::System { doing: "duplicate a descriptor", source })?;
        self.suspend().await?;
        let devices = self.capture_devices().await?;
        self.kill().await;
        let ram = SealedRam::seal(memory)?;
        Ok(SavedMachine { ram: Arc::new(ram), devices, delta: None, checkpoint: None })
    }

    /// Whether a checkpoint could be taken of it.
    ///
    /// # Errors
    /// [`MachineError::NoNamespaces`].
    pub fn check_checkpoint(&self) -> Result<(), MachineError> {
        if self.jail.level == JailLevel::Namespaces { Ok(()) } else { Err(MachineError::NoNamespaces) }
    }

    /// Makes a restored machine that is suspended and captured a checkpoint, and ends it. `spec` is what it was started with, and `ram` the
    /// memory that those who become it are to have, with all that it has changed; the owner is connected to all of its sockets.
    ///
    /// # Errors
    /// [`MachineError::Checkpoint`] and [`MachineError::NoNamespaces`]; the machine is gone in any case.
    pub async fn into_checkpoint(self, spec: MachineSpec) -> Result<Checkpoint, MachineError> {
        let Ram::Restored(ram) = &self.ram else { return Err(MachineError::AlreadyRestored) };
        self.check_checkpoint()?;
        let (pid, ram) = (self.pid, ram.clone());
        let taken = tokio::task::spawn_blocking(move || Checkpoint::take(pid, &spec, &ram)).await;
        self.kill().await;
        checkpoint(taken)
    }

    /// Opens an overlay for [`Self::use_overlay`]. `disk` and `layers` count the spec's disks and the layers that this one has by now.
    ///
    /// # Errors
    /// [`MachineError::Control`].
    pub async fn prepare_overlay(
        &self,
        disk: usize,
        layers: usize,
        overlay: File,
    ) -> Result<PreparedOverlay, MachineError> {
        let qmp = self.qmp().await?;
        let set = qmp.add_fd(overlay.into()).await?;
        let prepared = PreparedOverlay { below: layer_node(disk, layers - 1), node: layer_node(disk, layers), set };
        let cache = json!({ "no-flush": true });
        let file = json!({
            "driver": "file", "filename": format!("/dev/fdset/{set}"), "discard": "unmap", "cache": cache,
        });
        let layer = json!({
            "driver": "qcow2", "node-name": prepared.node, "backing": null, "discard": "unmap", "cache": cache, "file": file,
        });
        match qmp.execute("blockdev-add", Some(layer)).await {
            Ok(_) => Ok(prepared),
            Err(error) => {
                qmp.execute("remove-fd", Some(json!({ "fdset-id": set }))).await?;
                Err(error.into())
            }
        }
    }

    /// Has what the guest writes to a disk from now on go to an overlay; what it has written before is only read from now on. For a
    /// suspended machine.
    ///
    /// # Errors
    /// [`MachineError::Control`].
    pub async fn use_overlay(&self, overlay: &PreparedOverlay) -> Result<(), MachineError> {
        let layers = json!({ "node": overlay.below, "overlay": overlay.node });
        self.qmp().await?.execute("blockdev-snapshot", Some(layers)).await?;
        Ok(())
    }

    /// Closes an overlay that is not to be used.
    pub async fn abandon_overlay(&self, overlay: PreparedOverlay) {
        // A QEMU that does not take this any more is about to end.
        let Ok(qmp) = self.qmp().await else { return };
        let _ = qmp.execute("blockdev-del", Some(json!({ "node-name": overlay.node }))).await;
        let _ = qmp.execute("remove-fd", Some(json!({ "fdset-id": overlay.set }))).await;
    }

    /// QEMU writes into a file of ours without a name, by a descriptor: it has no directory to write in.
    async fn prepare_devices(&self) -> Result<DevicesFile, MachineError> {
        let failed = |source| MachineError::System { doing: "make a file for the devices' state", source };
        let file = memfd_create("hearth-devices", MemfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let file = File::from(file);
        // QEMU looks for a descriptor with just the access that it needs.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let write_only = File::options().write(true).open(path).map_err(failed)?;
        let set = self.qmp().await?.add_fd(write_only.into()).await?;
        Ok(DevicesFile { file, set })
    }

    async fn save_devices(&self, mut devices: DevicesFile) -> Result<Vec<u8>, MachineError> {
        // Not "live", which would take the disks away from a machine that is to go on.
        let arguments = json!({ "filename": format!("/dev/fdset/{}", devices.set), "live": false });
        let saved = self.qmp().await?.execute("xen-save-devices-state", Some(arguments)).await;
        self.take_back(&devices).await?;
        saved?;
        let mut state = Vec::new();
        let read = (&mut devices.file).take(MAX_DEVICE_STATE + 1).read_to_end(&mut state);
        read.map_err(|source| MachineError::System { doing: "read the devices' state", source })?;
        match state.len() as u64 {
            0 => Err(MachineError::DeviceState { bytes: 0 }),
            bytes if bytes > MAX_DEVICE_STATE => Err(MachineError::DeviceState { bytes }),
            _ => Ok(state),
        }
    }

    async fn take_back(&self, devices: &DevicesFile) -> Result<(), MachineError> {
        self.qmp().await?.execute("remove-fd", Some(json!({ "fdset-id": devices.set }))).await?;
        Ok(())
    }
}

/// What a machine was given to be captured.
#[derive(Debug)]
pub struct PreparedCapture {
    memory: Captured,
    devices: DevicesFile,
}

/// What is taken of a machine's memory, and what it lies on.
#[derive(Debug)]
enum Captured {
    Changes { ram: Arc<SealedRam>, room: Room },
    All { own: File, blank: Arc<SealedRam> },
}

impl Captured {
    /// What a restored machine has changed when it is read, with room for that.
    async fn changes(pid: u32, ram: &Arc<SealedRam>) -> Result<Self, MachineError> {
        let ram = ram.clone();
        let prepared = tokio::task::spawn_blocking(move || {
            let runs = Mapping::find(pid, &ram)?.changed()?;
            Ok(Self::Changes { room: Room::of(runs.iter().map(|run| run.pages * PAGE).sum())?, ram })
        });
        guest_memory(prepared.await)
    }

    fn read(self, pid: u32) -> std::io::Result<(Arc<SealedRam>, Delta)> {
        match self {
            Self::Changes { ram, room } => {
                let mapping = Mapping::find(pid, &ram)?;
                let runs: Vec<Run> = mapping.changed()?;
                let content = mapping.read(&runs, room)?;
                Ok((ram, Delta::new(runs, content)))
            }
            Self::All { own, blank } => Ok((blank, Delta::of_memory(&own)?)),
        }
    }
}

/// What a machine that runs was looked at for, to be taken as it is.
#[derive(Debug)]
pub struct PreparedRunning {
    ram: Arc<SealedRam>,
    below: Arc<Checkpoint>,
    own: Filling,
    memory: Captured,
}

/// What came of work on a QEMU's process that another thread did.
fn checkpoint<T>(done: Result<std::io::Result<T>, tokio::task::JoinError>) -> Result<T, MachineError> {
    let done = done.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    done.map_err(|source| MachineError::Checkpoint { source })
}

/// What came of work on a guest's memory that another thread did.
fn guest_memory<T>(done: Result<std::io::Result<T>, tokio::task::JoinError>) -> Result<T, MachineError> {
    let done = done.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    done.map_err(|source| MachineError::GuestMemory { source })
}

/// An overlay that a machine has open and does not use yet.
#[derive(Debug)]
pub struct PreparedOverlay {
    below: String,
    node: String,
    set: u64,
}

/// A file that QEMU may write its devices' state to.
#[derive(Debug)]
struct DevicesFile {
    file: File,
    /// What QEMU calls it.
    set: u64,
}
