//! The memory of a template.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{
    MemfdFlags, SealFlags, SeekFrom, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create, seek,
};
use rustix::io::Errno;

use crate::MemoryMib;

/// Why memory cannot be a template's.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// A memory file cannot be made.
    #[error("cannot make a memory file of {mib} MiB")]
    Make {
        /// Its size.
        mib: u32,
        /// Why.
        source: io::Error,
    },
    /// The memory cannot be sealed: something can still write to it.
    #[error("cannot seal the memory of a template")]
    Seal {
        /// Why.
        source: io::Error,
    },
}

/// The memory of a booted guest, in a file without a name that is sealed: no process can change it, whatever descriptor of it that
/// process has. Machines map it privately and share its pages.
///
/// A file in a file system would not do: QEMU 7.2 opens memory for writing even where it maps it privately, and a QEMU that its guest
/// has taken over could then change what later machines start from.
#[derive(Debug)]
pub struct SealedRam {
    file: File,
    size: u64,
}

/// Memory that is not sealed yet.
#[derive(Debug)]
pub(super) struct UnsealedRam {
    file: File,
    size: u64,
}

impl UnsealedRam {
    /// Puts bytes at a place.
    ///
    /// # Errors
    /// When it goes beyond the end, and when the host's memory is full.
    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let end = at.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(io::Error::other("it lies outside of the memory"));
        }
        self.file.write_all_at(bytes, at)
    }

    /// Seals it.
    ///
    /// # Errors
    /// [`RamError::Seal`].
    pub(super) fn seal(self) -> Result<SealedRam, RamError> {
        SealedRam::seal(self.file.into())
    }
}

impl SealedRam {
    /// Makes memory of zeros, for what is saved of guests that were booted to lie on.
    ///
    /// # Errors
    /// [`RamError`].
    pub fn blank(memory: MemoryMib) -> Result<Self, RamError> {
        Self::unsealed(memory)?.seal()
    }

    /// Makes memory of zeros, to be filled from a durable copy.
    ///
    /// # Errors
    /// [`RamError::Make`].
    pub(super) fn unsealed(memory: MemoryMib) -> Result<UnsealedRam, RamError> {
        let file = guest_memory(memory).map_err(|source| RamError::Make { mib: memory.mib(), source })?;
        Ok(UnsealedRam { file: file.into(), size: memory.bytes() })
    }

    /// Seals memory against writing, shrinking and growing. Nobody may have it mapped for writing.
    pub(crate) fn seal(file: OwnedFd) -> Result<Self, RamError> {
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&file, seals).map_err(|error| RamError::Seal { source: error.into() })?;
        let file = File::from(file);
        let size = file.metadata().map_err(|source| RamError::Seal { source })?.len();
        Ok(Self { file, size })
    }

    /// Takes memory that was sealed before by whoever made it.
    pub(crate) fn sealed_before(file: File) -> io::Result<Self> {
        let needed = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
        if !fcntl_get_seals(&file)?.contains(needed) {
            return Err(io::Error::other("the memory is not sealed"));
        }
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }

    /// What makes its file itself: device and inode.
    pub(crate) fn identity(&self) -> io::Result<(u64, u64)> {
        let metadata = self.file.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How much of the host's memory it takes, in bytes: what the guest has ever touched.
    pub fn resident(&self) -> u64 {
        resident(&self.file).unwrap_or(0)
    }

    /// Reads at a place.
    pub(super) fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }

    /// Calls `each` with every piece that is not a hole, in order, at most `piece` bytes at a time.
    pub(super) fn for_each_piece(
        &self,
        piece: usize,
        each: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        for_each_piece(&self.file, piece, each)
    }

    /// Whether both are one file.
    pub fn is_same_file(&self, other: &Self) -> bool {
        matches!((self.identity(), other.identity()), (Ok(own), Ok(others)) if own == others)
    }
}

/// Whoever gets the descriptor can read the memory and map it privately, and no more.
impl AsFd for SealedRam {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// How much of the host's memory a file of memory takes, in bytes.
pub(crate) fn resident(file: impl AsFd) -> io::Result<u64> {
    Ok(fstat(file)?.st_blocks as u64 * 512)
}

/// Calls `each` with every piece of a file that is not a hole, in order, at most `piece` bytes at a time.
pub(super) fn for_each_piece(
    file: &File,
    piece: usize,
    mut each: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; piece];
    let mut at = 0;
    while let Some((begin, end)) = data_after(file, at)? {
        at = begin;
        while at < end {
            let length = usize::try_from(end - at).map_or(piece, |left| left.min(piece));
            file.read_exact_at(&mut buffer[..length], at)?;
            each(at, &buffer[..length])?;
            at += length as u64;
        }
    }
    Ok(())
}

/// The next stretch of data from `at` on.
fn data_after(file: &File, at: u64) -> io::Result<Option<(u64, u64)>> {
    let begin = match seek(file, SeekFrom::Data(at)) {
        Ok(begin) => begin,
        Err(Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(Some((begin, seek(file, SeekFrom::Hole(begin))?)))
}

/// A file without a name. Pages are taken as the guest first uses them.
pub(crate) fn guest_memory(memory: MemoryMib) -> io::Result<OwnedFd> {
    let file = memfd_create("hearth-ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, memory.bytes())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(pieces: &[(u64, &[u8])]) -> SealedRam {
        let ram = SealedRam::unsealed(MemoryMib::new(96).unwrap()).unwrap();
        pieces.iter().for_each(|(at, bytes)| ram.write(*at, bytes).unwrap());
        ram.seal().unwrap()
    }

    #[test]
    fn sealed_memory_takes_no_write_even_by_a_descriptor_opened_anew() {
        use std::os::fd::AsRawFd;
        let ram = sealed(&[(0, b"x")]);
        let path = format!("/proc/self/fd/{}", ram.file.as_raw_fd());
        let again = File::options().read(true).write(true).open(path).unwrap();
        assert_eq!(again.write_at(b"y", 0).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(again.set_len(1).is_err());
        assert!(
            rustix::fs::fallocate(
                &again,
                rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
                0,
                4096
            )
            .is_err()
        );
    }

    #[test]
    fn pieces_are_the_pages_that_were_written_and_no_holes() {
        let ram = sealed(&[(PAGE_3, b"three"), (PAGE_9, &[7; 5000])]);
        let mut seen = Vec::new();
        ram.for_each_piece(4096, |at, bytes| {
            seen.push((at, bytes.len(), bytes[0]));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [(PAGE_3, 4096, b't'), (PAGE_9, 4096, 7), (PAGE_9 + 4096, 4096, 7)]);
        assert_eq!(ram.resident(), 3 * 4096);
    }

    #[test]
    fn memory_takes_nothing_beyond_its_end() {
        let ram = SealedRam::unsealed(MemoryMib::new(96).unwrap()).unwrap();
        assert!(ram.write((96 << 20) - 1, b"ab").is_err() && ram.write(u64::MAX, b"a").is_err());
    }

    const PAGE_3: u64 = 3 * 4096;
    const PAGE_9: u64 = 9 * 4096;
}
