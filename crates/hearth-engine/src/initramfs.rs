//! The initial RAM file system of a machine: the agent as `/init`, and the kernel modules that its board needs.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hearth_image::{Image, Initramfs, ModuleFile};
use hearth_vmm::MachineKind;
use sha2::{Digest, Sha256};

use crate::EngineError;
use crate::agent::{AGENT, AGENT_SHA256};

/// The modules that every machine needs: the channel, disks, and the layers of its root.
const MODULES: &[&str] = &["virtio_console", "virtio_blk", "erofs", "overlay"];
/// The one more for a scratch disk.
const SCRATCH: &str = "ext4";
/// What the files' names begin with.
const PREFIX: &str = "initramfs-";
/// How long one that nobody uses is kept.
const UNUSED: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What decides an initial RAM file system, beside image and agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) kind: MachineKind,
    pub(crate) scratch: bool,
}

impl Contents {
    fn modules(self) -> Vec<&'static str> {
        let bus = match self.kind {
            MachineKind::Microvm => "virtio_mmio",
            MachineKind::Pc => "virtio_pci",
        };
        [bus].into_iter().chain(MODULES.iter().copied()).chain(self.scratch.then_some(SCRATCH)).collect()
    }
}

/// Returns the file for `image` and `contents`, made if it is not there. Files are named by all they depend on.
pub(crate) fn prepare(cache: &Path, image: &Image, contents: Contents) -> Result<PathBuf, EngineError> {
    let path = cache.join(format!("{PREFIX}{}", key(image, contents)));
    if let Ok(there) = fs::File::open(&path) {
        // Its time says when it was used last. Where that cannot be noted it is made again, a week from now.
        let _ = there.set_modified(SystemTime::now());
        return Ok(path);
    }
    remove_unused(cache);
    let modules = image.modules()?.load_order(&contents.modules()).map_err(|source| EngineError::Modules { source })?;
    let archive = build(&modules)?;
    let failed = |source| EngineError::Initramfs { path: path.clone(), source };
    let mut file = tempfile::NamedTempFile::new_in(cache).map_err(failed)?;
    file.write_all(&archive).map_err(failed)?;
    // QEMU runs as a user of its own: what that one cannot read would be copied into memory for each machine. Nothing in it is secret.
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644)).map_err(failed)?;
    file.persist(&path).map_err(|error| failed(error.error))?;
    Ok(path)
}

/// Removes what only earlier builds, or images that are gone, have used.
fn remove_unused(cache: &Path) {
    let is_unused = |entry: &fs::DirEntry| {
        let used = entry.metadata().and_then(|metadata| metadata.modified());
        let age = used.ok().and_then(|used| used.elapsed().ok());
        entry.file_name().to_string_lossy().starts_with(PREFIX) && age.is_some_and(|age| age > UNUSED)
    };
    for entry in fs::read_dir(cache).into_iter().flatten().flatten().filter(is_unused) {
        let _ = fs::remove_file(entry.path());
    }
}

fn key(image: &Image, contents: Contents) -> String {
    let mut hash = Sha256::new();
    hash.update(AGENT_SHA256);
    hash.update(image.manifest.kernel.modules.as_str());
    hash.update(format!("{contents:?}"));
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn build(modules: &[ModuleFile]) -> Result<Vec<u8>, EngineError> {
    let invalid = |source| EngineError::InitramfsEntry { source };
    let mut archive = Initramfs::new()
        .directory("dev", 0o755)
        .and_then(|archive| archive.character_device("dev/console", 0o600, (5, 1)))
        .and_then(|archive| archive.character_device("dev/null", 0o666, (1, 3)))
        .and_then(|archive| archive.file("init", 0o755, AGENT))
        .and_then(|archive| archive.directory("modules", 0o755))
        .map_err(invalid)?;
    let mut order = String::new();
    for (number, module) in modules.iter().enumerate() {
        let content =
            fs::read(&module.path).map_err(|source| EngineError::Initramfs { path: module.path.clone(), source })?;
        let name = format!("{number:02}-{}.ko", module.name);
        archive = archive.file(&format!("modules/{name}"), 0o644, &content).map_err(invalid)?;
        let optional = if module.optional { " optional" } else { "" };
        order.push_str(&format!("{name}{optional}\n"));
    }
    Ok(archive.file("modules/order", 0o644, order.as_bytes()).map_err(invalid)?.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ELF's program header type for the path of a dynamic linker.
    const PT_INTERP: u32 = 3;

    #[test]
    fn what_nobody_has_used_for_long_goes_and_nothing_else() {
        let cache = tempfile::tempdir().unwrap();
        let long_ago = SystemTime::now() - UNUSED - Duration::from_secs(60);
        for (name, time) in [("initramfs-old", long_ago), ("initramfs-new", SystemTime::now()), ("qemu.json", long_ago)]
        {
            fs::File::create(cache.path().join(name)).unwrap().set_modified(time).unwrap();
        }
        remove_unused(cache.path());
        let left = fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut left: Vec<_> = left.collect();
        left.sort();
        assert_eq!(left, ["initramfs-new", "qemu.json"]);
    }

    #[test]
    fn the_agent_is_a_static_program() {
        let number = |at: usize, size: usize| {
            AGENT[at..at + size].iter().rev().fold(0_usize, |number, byte| number << 8 | usize::from(*byte))
        };
        assert_eq!(&AGENT[..4], b"\x7fELF");
        let (table, size, count) = (number(0x20, 8), number(0x36, 2), number(0x38, 2));
        let kinds: Vec<u32> = (0..count).map(|index| number(table + index * size, 4) as u32).collect();
        assert!(!kinds.contains(&PT_INTERP), "{kinds:?}");
    }
}
