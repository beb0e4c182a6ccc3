//! A checkpoint as one file: eight magic bytes, the length of the head, the head as JSON, the script, and the pages.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use serde::{Deserialize, Serialize};

use super::script::Layout;
use super::told::Told;
use super::{Checkpoint, Passed};
use crate::areas::Area;
use crate::saved::resident;
use crate::sys::cpuid;

/// Changes with this file, and with what the script and whoever carries it out expect of each other.
const MAGIC: &[u8; 8] = b"HRTHQMU4";
/// The longest head, script and pages that are read, in bytes. Seen: 20 KB, 120 KB and 60 MB.
const MOST_HEAD: u64 = 1 << 20;
const MOST_SCRIPT: u64 = 16 << 20;
const MOST_PAGES: u64 = 2 << 30;
/// The name of the pages' file, by which a process can be seen to have begun from a checkpoint.
pub(super) const PAGES: &str = "hearth-qemu";
/// The name of the script's.
pub(super) const SCRIPT: &str = "hearth-script";
/// What follows the pages in memory, in bytes of nothing: a mapping at their end that QEMU makes larger finds zeros there.
const TAIL: u64 = 1 << 30;
/// What is copied at once, in bytes.
const PIECE: usize = 1 << 20;

/// All of a checkpoint but its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    pub(super) layout: Layout,
    pub(super) passed: Vec<Passed>,
    /// The number under which QEMU has the guest's memory.
    pub(super) memory: RawFd,
    pub(super) told: Told,
    /// What it is a process of.
    pub(super) ground: Ground,
}

/// What a checkpoint stands on: with any other it is of no use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ground {
    /// The host's kernel, whose code for programs is in every process.
    kernel: String,
    /// What the host's processors can do, by which QEMU chooses the instructions that it writes.
    processor: Vec<u32>,
    /// The program and its libraries.
    programs: Vec<Program>,
}

/// A file that is mapped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Program {
    path: String,
    inode: u64,
    bytes: u64,
    /// When it was written, in nanoseconds since 1970.
    written: i128,
}

impl Program {
    fn at(path: &str) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        let written = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        Ok(Self { path: path.to_owned(), inode: metadata.ino(), bytes: metadata.len(), written })
    }
}

impl Ground {
    /// That of a process that has these mapped, `memory` not being among what it depends on.
    pub(super) fn of(areas: &[Area], memory: (u64, u64)) -> io::Result<Self> {
        let files = areas.iter().filter_map(|area| Some((area.name.as_str(), area.file?)));
        let mut files: Vec<_> = files.filter(|(_, file)| *file != memory).collect();
        files.sort_unstable();
        files.dedup();
        let program = |(path, (_, inode))| match Program::at(path)? {
            program if program.inode == inode => Ok(program),
            _ => Err(io::Error::other(format!("{path} is another file by now"))),
        };
        let programs = files.into_iter().map(program).collect::<io::Result<_>>()?;
        Ok(Self { kernel: kernel(), processor: processor(), programs })
    }

    /// Whether a program or library is among what it has.
    pub(super) fn has(&self, path: &str) -> bool {
        self.programs.iter().any(|program| program.path == path)
    }

    pub(super) fn is_there(&self) -> bool {
        let is_same = |program: &Program| Program::at(&program.path).is_ok_and(|now| now == *program);
        self.kernel == kernel() && self.processor == processor() && self.programs.iter().all(is_same)
    }
}

fn kernel() -> String {
    let name = rustix::system::uname();
    [name.release(), name.version()].map(|part| part.to_string_lossy()).join(" ")
}

fn processor() -> Vec<u32> {
    let [model, _, features, more] = cpuid(1);
    let [_, extended, others, rest] = cpuid(7);
    // Whether the system saves extended state is the system's, and in the same leaf.
    let [_, vendor, of, name] = cpuid(0);
    let [_, _, further, long] = cpuid(0x8000_0001);
    vec![model, features, more, extended, others, rest, vendor, of, name, further, long]
}

impl Checkpoint {
    /// Writes it; of its pages what is its own, where the others are another's.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let head = serde_json::to_vec(&self.head)?;
        out.write_all(MAGIC)?;
        let own = self.own.as_ref().unwrap_or(&self.pages);
        let (script, pages) = (length(&self.script)?, length(own)? - TAIL);
        for length in [head.len() as u64, script, pages] {
            out.write_all(&length.to_le_bytes())?;
        }
        out.write_all(&head)?;
        let mut piece = vec![0; PIECE];
        for (part, size) in [(&self.script, script), (own, pages)] {
            let mut at = 0;
            while at < size {
                let count = usize::try_from(size - at).map_or(PIECE, |left| left.min(PIECE));
                part.read_exact_at(&mut piece[..count], at)?;
                out.write_all(&piece[..count])?;
                at += count as u64;
            }
        }
        Ok(())
    }

    /// Reads what [`Self::write_to`] has written. That it is just that the caller must know.
    ///
    /// # Errors
    /// Those of `input`; [`io::ErrorKind::InvalidData`] for anything else.
    pub fn read_from(input: impl Read) -> io::Result<Self> {
        let (script, pages, head) = read(input)?;
        Ok(Self { script: sealed(script)?, pages: Arc::new(sealed_pages(pages)?), own: None, head })
    }

    /// As [`Self::read_from`], of one that lies on this one's pages.
    ///
    /// # Errors
    /// As [`Self::read_from`].
    pub fn read_above(&self, input: impl Read) -> io::Result<Self> {
        let (script, own, head) = read(input)?;
        Ok(Self { script: sealed(script)?, pages: self.pages.clone(), own: Some(sealed_pages(own)?), head })
    }

    /// Whether the host's kernel, QEMU and its libraries are those that it was taken with.
    pub fn fits(&self) -> bool {
        self.head.ground.is_there()
    }

    /// What it takes of the host's memory, in bytes.
    pub fn resident(&self) -> u64 {
        [&self.script, &*self.pages].into_iter().chain(&self.own).filter_map(|file| resident(file).ok()).sum()
    }

    /// What is to be passed, in order; behind it comes the script.
    pub(crate) fn passed(&self) -> &[Passed] {
        &self.head.passed
    }

    pub(crate) fn pages(&self) -> BorrowedFd<'_> {
        self.pages.as_fd()
    }

    pub(crate) fn own(&self) -> Option<BorrowedFd<'_>> {
        self.own.as_ref().map(AsFd::as_fd)
    }

    pub(crate) fn script(&self) -> BorrowedFd<'_> {
        self.script.as_fd()
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.head.layout
    }

    /// The number under which QEMU has the guest's memory.
    pub(crate) fn memory(&self) -> RawFd {
        self.head.memory
    }
}

/// What makes a file itself: device and inode.
pub(super) fn identity(file: &File) -> io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Whether an area is what is left of how its process began.
pub(super) fn is_a_script(area: &Area) -> bool {
    is_named(area, SCRIPT)
}

/// Whether an area is of a copy, be it another's or a process's own.
pub(super) fn is_a_copy(area: &Area) -> bool {
    is_named(area, PAGES)
}

fn is_named(area: &Area, name: &str) -> bool {
    area.name.strip_prefix("/memfd:").is_some_and(|rest| rest.starts_with(name))
}

/// Script, pages and head of a checkpoint's file.
fn read(mut input: impl Read) -> io::Result<(File, File, Head)> {
    let senseless = || io::Error::from(io::ErrorKind::InvalidData);
    let mut magic = [0; MAGIC.len()];
    input.read_exact(&mut magic)?;
    if &magic != MAGIC {
        return Err(senseless());
    }
    let mut lengths = [0; 3];
    for (length, most) in lengths.iter_mut().zip([MOST_HEAD, MOST_SCRIPT, MOST_PAGES]) {
        let mut bytes = [0; 8];
        input.read_exact(&mut bytes)?;
        *length = u64::from_le_bytes(bytes);
        if *length > most {
            return Err(senseless());
        }
    }
    let mut head = vec![0; lengths[0] as usize];
    input.read_exact(&mut head)?;
    let head: Head = serde_json::from_slice(&head).map_err(|_| senseless())?;
    let [script, pages] = [(SCRIPT, lengths[1]), (PAGES, lengths[2])].map(|(name, length)| {
        let mut file = unsealed(name)?;
        match io::copy(&mut (&mut input).take(length), &mut file)? {
            copied if copied == length => Ok(file),
            _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        }
    });
    if input.read(&mut [0])? != 0 {
        return Err(senseless());
    }
    Ok((script?, pages?, head))
}

fn length(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.len())
}

/// A file in memory.
pub(super) fn unsealed(name: &str) -> io::Result<File> {
    Ok(memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?.into())
}

/// As [`sealed`], with nothing behind them.
pub(super) fn sealed_pages(file: File) -> io::Result<File> {
    file.set_len(length(&file)? + TAIL)?;
    sealed(file)
}

/// Has nobody change it any more, whatever descriptor of it they have.
pub(super) fn sealed(file: File) -> io::Result<File> {
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::script::Script;

    fn checkpoint(programs: &[&str]) -> Checkpoint {
        let (bytes, layout) = Script::default().finish();
        let [script, pages] = [bytes, vec![9; 5000]].map(|bytes| {
            let file = unsealed("test").unwrap();
            file.write_all_at(&bytes, 0).unwrap();
            file
        });
        let (script, pages) = (sealed(script).unwrap(), sealed_pages(pages).unwrap());
        let programs = programs.iter().map(|path| Program::at(path).unwrap()).collect();
        let ground = Ground { kernel: kernel(), processor: processor(), programs };
        let head =
            Head { layout, passed: vec![Passed::Pages, Passed::Memory], memory: 10, told: Told::nothing(), ground };
        Checkpoint { script, pages: Arc::new(pages), own: None, head }
    }

    #[test]
    fn a_checkpoint_survives_its_file_and_nothing_else_is_taken_for_one() {
        let mut file = Vec::new();
        checkpoint(&["/proc/self/exe"]).write_to(&mut file).unwrap();
        let read = Checkpoint::read_from(&file[..]).unwrap();
        let mut again = Vec::new();
        read.write_to(&mut again).unwrap();
        assert!(again == file && (5000..1 << 20).contains(&read.resident()));
        for end in [0, 7, 20, 40, file.len() - 5001, file.len() - 1] {
            assert!(Checkpoint::read_from(&file[..end]).is_err(), "{end}");
        }
        assert!(Checkpoint::read_from(&[&file[..], b"x"].concat()[..]).is_err());
        for (at, byte) in [(0, b'X'), (15, 0xff), (23, 0xff), (31, 0xff), (32, b'X')] {
            let mut other = file.clone();
            other[at] = byte;
            let error = Checkpoint::read_from(&other[..]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{at}");
        }
    }

    #[test]
    fn a_library_that_was_replaced_is_noticed() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("library");
        fs::write(&path, "one").unwrap();
        let checkpoint = checkpoint(&[path.to_str().unwrap()]);
        assert!(checkpoint.fits());
        fs::write(home.path().join("new"), "two").unwrap();
        fs::rename(home.path().join("new"), &path).unwrap();
        assert!(!checkpoint.fits());
        fs::remove_file(&path).unwrap();
        assert!(!checkpoint.fits());
    }
}
