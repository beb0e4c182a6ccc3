//! What can be known to fail before anything of a sandbox is made.

use std::fs;

use hearth_image::{Image, ImageError};
use hearth_protocol::CONTROL_PORT;
use hearth_vmm::{MAX_SOCKET_PATH, MemoryMib, Qemu};

use crate::accelerator::{Findings, Way, host_key, ways};
use crate::{Engine, EngineError, SandboxSpec};

/// What a QEMU needs beside its guest's memory, in bytes: its own, with TCG's translation cache.
const OVERHEAD: u64 = 96 << 20;
/// The room that a sandbox's directory needs on the host, in bytes.
const ROOM: u64 = 64 << 20;

impl Engine {
    pub(crate) fn find_image(&self, reference: &str) -> Result<Image, EngineError> {
        self.images.inspect(reference).map_err(|source| match source {
            ImageError::NotFound { .. } => EngineError::NoImage { name: reference.to_owned() },
            source => EngineError::Image(source),
        })
    }

    pub(crate) fn check_room(&self, spec: &SandboxSpec) -> Result<(), EngineError> {
        self.check_room_for(spec, 1)
    }

    /// Checks that there is room for so many sandboxes.
    pub(crate) fn check_room_for(&self, spec: &SandboxSpec, count: usize) -> Result<(), EngineError> {
        let needed = needed_memory(spec.memory) * count as u64;
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

    /// What is known of the ways to run this image here, best first.
    pub(crate) fn ways(&self, spec: &SandboxSpec, qemu: &Qemu, image: &Image) -> (String, Vec<Way>) {
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
    meminfo("MemAvailable:").map(|kib| kib * 1024)
}

/// All the host's memory.
pub(crate) fn total_memory_mib() -> Option<u64> {
    meminfo("MemTotal:").map(|kib| kib / 1024)
}

/// All the host's memory, and what of it programs could still have, in bytes, where the host tells.
pub fn host_memory() -> (Option<u64>, Option<u64>) {
    (meminfo("MemTotal:").map(|kib| kib * 1024), available_memory())
}

/// A field of the host's memory figures, in KiB.
fn meminfo(field: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
