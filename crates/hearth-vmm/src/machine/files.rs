//! The files that a machine is made of, opened by the owner and passed to QEMU.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{MemfdFlags, memfd_create};

use super::MachineError;
use crate::command_line::{Descriptors, GuestSource};
use crate::saved::{SealedRam, guest_memory};
use crate::spec::{Disk, MachineSpec};

/// How far a writable disk may grow beyond its size; saved machine state goes through descriptors too.
const DISK_HEADROOM: u64 = 64 << 20;

/// An overlay's tables take one part in so many of its content: 8 bytes of 64 KiB, and as much again for counting references.
const OVERLAY_TABLES: u64 = 1024;

/// All files of one machine, open.
pub(super) struct Files {
    memory: OwnedFd,
    /// None where QEMU has its guest already.
    guest: Option<GuestSource<BootFile>>,
    disks: Vec<File>,
    largest_writable: u64,
}

impl Files {
    /// Opens what a guest boots from. A QEMU of another user than the owner's opens kernel and initramfs again by itself, so what only
    /// the owner may read is copied into memory for it.
    pub(super) fn to_boot(spec: &MachineSpec, other_user: bool) -> Result<Self, MachineError> {
        let kernel = BootFile::open("kernel", &spec.kernel, other_user)?;
        let initramfs = BootFile::open("initramfs", &spec.initramfs, other_user)?;
        let mib = spec.memory.mib();
        let memory = guest_memory(spec.memory).map_err(|source| MachineError::Memory { mib, source })?;
        Self::with_disks(spec, memory, Some(GuestSource::Boot { kernel, initramfs }))
    }

    /// Opens what a guest goes on from: memory that is sealed, and the end of a socket that its devices' state is read from.
    pub(super) fn to_restore(spec: &MachineSpec, ram: &SealedRam, state: OwnedFd) -> Result<Self, MachineError> {
        let memory = ram.as_fd().try_clone_to_owned();
        let memory = memory.map_err(|source| MachineError::Memory { mib: spec.memory.mib(), source })?;
        let state = BootFile { file: state.into(), copied: true };
        Self::with_disks(spec, memory, Some(GuestSource::Saved { state }))
    }

    /// Those of a machine whose QEMU was one before: its disks.
    pub(super) fn of_checkpoint(spec: &MachineSpec, ram: &SealedRam) -> Result<Self, MachineError> {
        let memory = ram.as_fd().try_clone_to_owned();
        let memory = memory.map_err(|source| MachineError::Memory { mib: spec.memory.mib(), source })?;
        Self::with_disks(spec, memory, None)
    }

    /// A disk's layer, counted from the lowest.
    pub(super) fn layer(&self, spec: &MachineSpec, disk: usize, layer: usize) -> Option<BorrowedFd<'_>> {
        let before: usize = spec.disks.get(..disk)?.iter().map(|disk| disk.layers().count()).sum();
        let own = spec.disks.get(disk)?.layers().count();
        self.disks.get(before + layer).filter(|_| layer < own).map(AsFd::as_fd)
    }

    fn with_disks(
        spec: &MachineSpec,
        memory: OwnedFd,
        guest: Option<GuestSource<BootFile>>,
    ) -> Result<Self, MachineError> {
        let layers = spec.disks.iter().flat_map(Disk::layers);
        let disks: Vec<File> = layers.map(|(path, read_only)| open_layer(path, read_only)).collect::<Result<_, _>>()?;
        // An overlay grows as large as the disk that it lies on, and somewhat larger for its own tables.
        let writable = spec.disks.iter().filter(|disk| !disk.read_only);
        let sizes = writable.filter_map(|disk| Some(std::fs::metadata(&disk.path).ok()?.len()));
        let largest = sizes.max().unwrap_or(0);
        let largest_writable = largest + largest / OVERLAY_TABLES + DISK_HEADROOM;
        Ok(Self { memory, guest, disks, largest_writable })
    }

    /// A copy of the memory's descriptor.
    pub(super) fn memory(&self) -> io::Result<OwnedFd> {
        self.memory.try_clone()
    }

    pub(super) fn largest_writable(&self) -> u64 {
        self.largest_writable
    }

    /// The numbers of those that QEMU opens again and that lie in a file system.
    pub(super) fn reopened(&self, numbers: &Descriptors) -> Vec<RawFd> {
        match (&self.guest, numbers.guest) {
            (Some(GuestSource::Boot { kernel, initramfs }), GuestSource::Boot { kernel: first, initramfs: second }) => {
                let files = [(kernel, first), (initramfs, second)];
                files.into_iter().filter(|(file, _)| !file.copied).map(|(_, number)| number).collect()
            }
            _ => Vec::new(),
        }
    }

    /// In the order of [`Descriptors`], after the sockets.
    pub(super) fn into_descriptors(self) -> impl Iterator<Item = OwnedFd> {
        let guest = self.guest.into_iter().flat_map(GuestSource::into_parts).map(|file| OwnedFd::from(file.file));
        [self.memory].into_iter().chain(guest).chain(self.disks.into_iter().map(OwnedFd::from))
    }
}

struct BootFile {
    file: File,
    /// Whether it is a copy in memory.
    copied: bool,
}

impl BootFile {
    fn open(what: &'static str, path: &Path, other_user: bool) -> Result<Self, MachineError> {
        let failed = |source| MachineError::Open { what, path: path.to_owned(), source };
        let file = open_regular(what, path, OpenOptions::new().read(true))?;
        let mode = file.metadata().map_err(failed)?.permissions().mode();
        if other_user && mode & 0o004 == 0 {
            return Ok(Self { file: copy_to_memory(file).map_err(failed)?, copied: true });
        }
        Ok(Self { file, copied: false })
    }
}

/// Opens a file without waiting, as opening a FIFO would, and makes sure that it is one.
fn open_regular(what: &'static str, path: &Path, options: &mut OpenOptions) -> Result<File, MachineError> {
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |source| MachineError::Open { what, path: path.to_owned(), source };
    let file = options.custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_file() {
        Ok(file)
    } else {
        Err(MachineError::NotAFile { what, path: path.to_owned() })
    }
}

fn copy_to_memory(mut file: File) -> io::Result<File> {
    let mut copy = File::from(memfd_create("hearth-boot", MemfdFlags::CLOEXEC)?);
    io::copy(&mut file, &mut copy)?;
    copy.rewind()?;
    Ok(copy)
}

fn open_layer(path: &Path, read_only: bool) -> Result<File, MachineError> {
    open_regular("disk", path, OpenOptions::new().read(true).write(!read_only))
}
