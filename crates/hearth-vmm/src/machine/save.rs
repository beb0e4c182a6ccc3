//! Saving a machine: the state of its devices, and what its guest has changed of its memory.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::json;

use super::{Machine, MachineError, Ram};
use crate::command_line::layer_node;
use crate::saved::{Delta, MAX_DEVICE_STATE, Mapping, PAGE, Run, SavedMachine, SealedRam};

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

    /// Takes the state of a suspended machine, which may go on afterwards.
    ///
    /// # Errors
    /// [`MachineError::NotFromTemplate`] for a machine that was booted, whose memory is its own; [`MachineError::Control`],
    /// [`MachineError::GuestMemory`].
    pub async fn capture(&self) -> Result<SavedMachine, MachineError> {
        let Ram::Restored(ram) = &self.ram else { return Err(MachineError::NotFromTemplate) };
        // What costs time on either side is done on both at once: pages are read while QEMU writes its devices' state.
        let (devices, delta) = tokio::join!(self.save_devices(), read_delta(self.pid, ram.clone()));
        Ok(SavedMachine { ram: ram.clone(), devices: devices?.into(), delta: Some(Arc::new(delta?)) })
    }

    /// How many bytes of its memory a restored machine has changed by now; 0 for one that was booted.
    ///
    /// # Errors
    /// When the machine has ended.
    pub fn changed_bytes(&self) -> std::io::Result<u64> {
        let Ram::Restored(ram) = &self.ram else { return Ok(0) };
        Ok(Mapping::find(self.pid, ram)?.changed()?.iter().map(|run| run.pages * PAGE).sum())
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
        let devices = self.save_devices().await?;
        self.kill().await;
        let ram = SealedRam::seal(memory)?;
        Ok(SavedMachine { ram: Arc::new(ram), devices: devices.into(), delta: None })
    }

    /// Has what the guest writes to a disk from now on go to an overlay; what it has written before is only read from now on. For a
    /// suspended machine; `disk` and `layers` count the spec's disks and the layers that this one has by now.
    ///
    /// # Errors
    /// [`MachineError::Control`].
    pub async fn push_overlay(&self, disk: usize, layers: usize, overlay: File) -> Result<(), MachineError> {
        let qmp = self.qmp().await?;
        let set = qmp.add_fd(overlay.into()).await?;
        let (below, node) = (layer_node(disk, layers - 1), layer_node(disk, layers));
        let cache = json!({ "no-flush": true });
        let file = json!({
            "driver": "file", "filename": format!("/dev/fdset/{set}"), "discard": "unmap", "cache": cache,
        });
        let layer = json!({
            "driver": "qcow2", "node-name": node, "backing": null, "discard": "unmap", "cache": cache, "file": file,
        });
        qmp.execute("blockdev-add", Some(layer)).await?;
        qmp.execute("blockdev-snapshot", Some(json!({ "node": below, "overlay": node }))).await?;
        Ok(())
    }

    /// QEMU writes into a file of ours without a name, by a descriptor: it has no directory to write in.
    async fn save_devices(&self) -> Result<Vec<u8>, MachineError> {
        let failed = |source| MachineError::System { doing: "make a file for the devices' state", source };
        let file = memfd_create("hearth-devices", MemfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let mut file = File::from(file);
        // QEMU looks for a descriptor with just the access that it needs.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let write_only = File::options().write(true).open(path).map_err(failed)?;
        let qmp = self.qmp().await?;
        let set = qmp.add_fd(write_only.into()).await?;
        // Not "live", which would take the disks away from a machine that is to go on.
        let arguments = json!({ "filename": format!("/dev/fdset/{set}"), "live": false });
        let saved = qmp.execute("xen-save-devices-state", Some(arguments)).await;
        qmp.execute("remove-fd", Some(json!({ "fdset-id": set }))).await?;
        saved?;
        let mut devices = Vec::new();
        (&mut file).take(MAX_DEVICE_STATE + 1).read_to_end(&mut devices).map_err(failed)?;
        match devices.len() as u64 {
            0 => Err(MachineError::DeviceState { bytes: 0 }),
            bytes if bytes > MAX_DEVICE_STATE => Err(MachineError::DeviceState { bytes }),
            _ => Ok(devices),
        }
    }
}

async fn read_delta(pid: u32, ram: Arc<SealedRam>) -> Result<Delta, MachineError> {
    let read = move || {
        let mapping = Mapping::find(pid, &ram)?;
        let runs: Vec<Run> = mapping.changed()?;
        let mut content = Vec::new();
        mapping.read(&runs, &mut content)?;
        Ok(Delta::new(runs, content))
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|error| Err(std::io::Error::other(error)))
        .map_err(|source| MachineError::GuestMemory { source })
}
