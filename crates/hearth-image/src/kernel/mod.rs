//! Kernels: what a kernel file is, which release it has, and its modules.

mod elf;
mod import;
mod modules;

use std::{
    io,
    path::{Path, PathBuf},
};

pub(crate) use import::import;
pub use modules::{ModuleFile, Modules, ModulesError};

/// Says why a kernel or its modules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A file could not be read.
    #[error("could not read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("could not write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is neither a bzImage nor an ELF for x86_64.
    #[error("{} is no x86_64 Linux kernel: expected a bzImage (vmlinuz) or an ELF (vmlinux)", path.display())]
    NotAKernel {
        /// The file.
        path: PathBuf,
    },
    /// The kernel does not say which release it is.
    #[error("{} does not say which kernel release it is", path.display())]
    NoRelease {
        /// The file.
        path: PathBuf,
    },
    /// The directory has no modules.
    #[error("{} has no kernel modules", path.display())]
    NoModules {
        /// The directory.
        path: PathBuf,
    },
    /// A module was built for another kernel.
    #[error("the kernel is {kernel}, and {} is for {modules}", path.display())]
    ReleaseMismatch {
        /// The kernel's release.
        kernel: String,
        /// The module's release.
        modules: String,
        /// The module.
        path: PathBuf,
    },
    /// A module is no ELF object, or its compression is damaged.
    #[error("{} is no kernel module", path.display())]
    NotAModule {
        /// The file.
        path: PathBuf,
    },
    /// The modules lack one that a guest needs.
    #[error("the kernel lacks what a guest needs")]
    Modules(#[from] ModulesError),
}

impl KernelError {
    pub(crate) fn fix(&self) -> Option<String> {
        Some(match self {
            KernelError::NoModules { .. } | KernelError::ReleaseMismatch { .. } => {
                "name the directory that `make modules_install` made for this kernel: lib/modules/RELEASE".to_owned()
            }
            KernelError::Modules(ModulesError::Unknown { name, .. }) => {
                format!("build the kernel with {name}, as a module or built in")
            }
            _ => return None,
        })
    }
}

/// Modules that every guest needs, loadable or built in.
const NEEDED: [&str; 4] = ["virtio_console", "virtio_blk", "erofs", "overlay"];
/// Buses of which a guest needs one.
const NEEDED_BUSES: [&str; 2] = ["virtio_mmio", "virtio_pci"];

/// Checks that the modules, with what is built in, are enough for a guest.
pub(crate) fn check_needed(modules: &Modules) -> Result<(), KernelError> {
    modules.load_order(&NEEDED)?;
    let buses = NEEDED_BUSES.map(|bus| modules.load_order(&[bus]));
    if buses.iter().all(Result::is_err) {
        buses.into_iter().collect::<Result<Vec<_>, _>>()?;
    }
    Ok(())
}

/// Reads a kernel's release, which also tells whether the file is a kernel.
pub(crate) fn release_of(path: &Path) -> Result<String, KernelError> {
    let image = std::fs::read(path).map_err(|source| KernelError::Read { path: path.to_owned(), source })?;
    let version = match kind_of(&image) {
        Some(Kind::BzImage) => bzimage_version(&image),
        Some(Kind::Elf) => elf_version(&image),
        None => return Err(KernelError::NotAKernel { path: path.to_owned() }),
    };
    version.and_then(release_in).ok_or_else(|| KernelError::NoRelease { path: path.to_owned() })
}

enum Kind {
    BzImage,
    Elf,
}

fn kind_of(image: &[u8]) -> Option<Kind> {
    if image.get(0x1fe..0x200) == Some(&[0x55, 0xaa]) && image.get(0x202..0x206) == Some(b"HdrS") {
        return Some(Kind::BzImage);
    }
    elf::is_x86_64(image).then_some(Kind::Elf)
}

/// Linux, Documentation/arch/x86/boot.rst, field `kernel_version`: a NUL-ended string 0x200 bytes after its offset.
fn bzimage_version(image: &[u8]) -> Option<&[u8]> {
    let offset = u16::from_le_bytes([*image.get(0x20e)?, *image.get(0x20f)?]);
    if offset == 0 { None } else { image.get(usize::from(offset) + 0x200..) }
}

fn elf_version(image: &[u8]) -> Option<&[u8]> {
    const BANNER: &[u8] = b"Linux version ";
    let at = image.windows(BANNER.len()).position(|window| window == BANNER)?;
    image.get(at + BANNER.len()..)
}

/// Takes the first word, which is what `uname -r` prints (at most 64 bytes, with the NUL).
fn release_in(version: &[u8]) -> Option<String> {
    let end = version.iter().take(65).position(|byte| matches!(byte, b' ' | 0))?;
    let release = std::str::from_utf8(&version[..end]).ok()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "._+~-".contains(c);
    (!release.is_empty() && release.chars().all(plain)).then(|| release.to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Makes the beginning of a bzImage that claims a version.
    pub(crate) fn bzimage(version: &str) -> Vec<u8> {
        let mut image = vec![0; 0x1000];
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x300_u16.to_le_bytes());
        image[0x500..0x500 + version.len()].copy_from_slice(version.as_bytes());
        image
    }

    fn release(image: &[u8]) -> Result<String, KernelError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), image).unwrap();
        release_of(file.path())
    }

    #[test]
    fn the_release_is_read_from_a_bzimage_header() {
        assert_eq!(release(&bzimage("6.1.0-56-cloud-amd64 (builder@host) #1 SMP")).unwrap(), "6.1.0-56-cloud-amd64");
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert!(matches!(release(b""), Err(KernelError::NotAKernel { .. })));
        assert!(matches!(release(&[0; 4096]), Err(KernelError::NotAKernel { .. })));
        assert!(matches!(release(b"#!/bin/sh\nexit 1\n"), Err(KernelError::NotAKernel { .. })));
    }

    #[test]
    fn a_release_that_could_be_a_path_is_refused() {
        assert!(matches!(release(&bzimage("../../etc x")), Err(KernelError::NoRelease { .. })));
        assert!(matches!(release(&bzimage("")), Err(KernelError::NoRelease { .. })));
        assert!(matches!(release(&bzimage(&"a".repeat(200))), Err(KernelError::NoRelease { .. })));
    }

    #[test]
    fn a_header_that_points_past_the_end_is_refused() {
        let mut image = bzimage("6.1 x");
        image[0x20e..0x210].copy_from_slice(&0xffff_u16.to_le_bytes());
        assert!(matches!(release(&image), Err(KernelError::NoRelease { .. })));
    }
}
