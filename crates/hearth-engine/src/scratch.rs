//! A sandbox's disks: the image, and a scratch disk for what its guest writes.
//!
//! A scratch disk is a raw image, made with its template and then only read, with overlays on it, the last of which the guest writes to.
//! All of them are in the sandbox's own directory; what no QEMU can write to is a hard link to where it came from.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hearth_image::Image;
use hearth_vmm::{Disk, HostFlush, MachineSpec, create_overlay};

use crate::{DiskMib, EngineError};

/// The raw image's name in a directory; an overlay's is this with its number.
pub(crate) const BASE: &str = "disk";
/// What is copied at once, in bytes.
const PIECE: usize = 1 << 20;
/// The number of the scratch disk among a machine's.
pub(crate) const NUMBER: usize = 1;

/// The scratch disk in one directory.
#[derive(Debug, Clone)]
pub(crate) struct Scratch {
    directory: PathBuf,
    /// How many overlays there are.
    overlays: usize,
    /// The overlays that a QEMU of this sandbox's own can write to, by a descriptor it was given once, are those from this one on.
    own: usize,
}

impl Scratch {
    /// Names a disk that was made, or is about to be, in `directory`.
    pub(crate) fn bare(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), overlays: 0, own: 0 }
    }

    /// Names one that lies saved in `directory`.
    pub(crate) fn saved(directory: &Path, overlays: usize) -> Self {
        Self { directory: directory.to_owned(), overlays, own: overlays }
    }

    /// Names one whose machine runs, or was paused, under an earlier process: the overlays behind `below` are its own. What was made ready
    /// for it and not put on goes.
    pub(crate) fn adopted(directory: &Path, overlays: usize, below: usize) -> Self {
        let scratch = Self { directory: directory.to_owned(), overlays, own: below };
        // Where nothing was made ready there is nothing to remove.
        let _ = fs::remove_file(scratch.overlay(overlays + 1));
        scratch
    }

    /// Names one whose machine has ended, with all the overlays that are there: one that was made ready and not put on is empty, and changes
    /// nothing. As [`Self::adopted`].
    pub(crate) fn left(directory: &Path, below: usize) -> Self {
        let mut scratch = Self { directory: directory.to_owned(), overlays: 0, own: below };
        while scratch.overlay(scratch.overlays + 1).exists() {
            scratch.overlays += 1;
        }
        scratch
    }

    /// The overlays that a QEMU of this sandbox's own cannot write to.
    pub(crate) fn below(&self) -> usize {
        self.own
    }

    /// How many overlays there are.
    pub(crate) fn overlays(&self) -> usize {
        self.overlays
    }

    /// The raw image.
    pub(crate) fn base(&self) -> PathBuf {
        self.directory.join(BASE)
    }

    /// Moves the raw image away. Onto another file system it is copied.
    pub(crate) fn move_base(&self, to: &Path) -> io::Result<()> {
        move_file(&self.base(), to)
    }

    /// An overlay, counted from 1.
    pub(crate) fn overlay(&self, number: usize) -> PathBuf {
        self.directory.join(format!("{BASE}.{number}"))
    }

    /// Makes the raw image, with an empty file system. It has a journal, by which a guest that did not end in order finds it whole when it is
    /// started again.
    pub(crate) fn format(&self, size: DiskMib) -> Result<(), EngineError> {
        let path = self.base();
        let failed = |source| EngineError::Directory { path: path.clone(), source };
        let file = File::create_new(&path).map_err(failed)?;
        file.set_len(u64::from(size.mib()) << 20).map_err(failed)?;
        let output = Command::new("mke2fs")
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .args([
                "-q",
                "-F",
                "-t",
                "ext4",
                "-m",
                "0",
                "-O",
                "has_journal",
                "-E",
                "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0",
            ])
            .arg(&path)
            .stdin(Stdio::null())
            .output()
            .map_err(|source| EngineError::FormatTool { source })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
        Err(EngineError::Format { path, said })
    }

    /// Makes this disk anew in `directory`, where nothing writes to it. Blocks for the copies of what this sandbox's QEMU could still
    /// change; the rest is linked.
    pub(crate) fn copy_to(&self, directory: &Path) -> Result<Self, EngineError> {
        let mut copy = Self::saved(directory, 0);
        self.link(&self.base(), &copy.base())?;
        for number in 1..=self.overlays {
            let (from, to) = (self.overlay(number), copy.overlay(number));
            if number <= self.own {
                self.link(&from, &to)?;
            } else {
                copy_file(&from, &to).map_err(|source| EngineError::Directory { path: to, source })?;
            }
        }
        copy.overlays = self.overlays;
        copy.own = self.overlays;
        Ok(copy)
    }

    /// Lets a machine of its own write to it: on an overlay of its own, or, where there can be no more, on a copy of the last.
    pub(crate) fn made_writable(mut self) -> Result<Self, EngineError> {
        if self.has_room() {
            self.own = self.overlays;
            self.add_overlay()?;
            return Ok(self);
        }
        self.copy_last()?;
        Ok(self)
    }

    /// Lets a machine of its own write to it where whoever was saved with it did: on a copy of the last overlay, for the machine knows
    /// what is in it. Without overlays as [`Self::made_writable`].
    pub(crate) fn made_writable_as_it_is(mut self) -> Result<Self, EngineError> {
        if self.overlays == 0 {
            return self.made_writable();
        }
        self.copy_last()?;
        Ok(self)
    }

    fn copy_last(&mut self) -> Result<(), EngineError> {
        let last = self.overlay(self.overlays);
        let copy = last.with_extension("copy");
        let copied = copy_file(&last, &copy).and_then(|()| fs::rename(&copy, &last));
        copied.map_err(|source| EngineError::Directory { path: last, source })?;
        self.own = self.overlays - 1;
        Ok(())
    }

    /// Where a link cannot be, on another file system, it is a copy.
    fn link(&self, from: &Path, to: &Path) -> Result<(), EngineError> {
        let linked = match fs::hard_link(from, to) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => copy_file(from, to),
            linked => linked,
        };
        linked.map_err(|source| EngineError::Directory { path: to.to_owned(), source })
    }

    /// Makes an empty overlay on top, and returns its file.
    pub(crate) fn add_overlay(&mut self) -> Result<File, EngineError> {
        let path = self.overlay(self.overlays + 1);
        let made = fs::metadata(self.base()).and_then(|base| create_overlay(&path, base.len()));
        let file = made.map_err(|source| EngineError::Directory { path, source })?;
        self.overlays += 1;
        Ok(file)
    }

    /// Takes back the overlay that was added last.
    pub(crate) fn drop_overlay(&mut self) {
        let _ = fs::remove_file(self.overlay(self.overlays));
        self.overlays -= 1;
    }

    /// Whether there may be another overlay.
    pub(crate) fn has_room(&self) -> bool {
        self.overlays < MachineSpec::MAX_OVERLAYS
    }

    fn disk(&self) -> Disk {
        Disk {
            path: self.base(),
            overlays: (1..=self.overlays).map(|number| self.overlay(number)).collect(),
            serial: "scratch".into(),
            read_only: false,
            // What must outlast the host, a pause or a stop, is synced when it is whole; until then nothing is gained by waiting for its disk.
            host_flush: HostFlush::Ignore,
        }
    }
}

/// Moves a file. Onto another file system it is copied.
pub(crate) fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => copy_file(from, to),
        moved => moved,
    }
}

/// Copies a file for this user alone: by sharing its blocks where the file system can, else without its holes.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{SeekFrom, ioctl_ficlone, seek};
    let source = File::open(from)?;
    let copy = File::options().write(true).create_new(true).mode(0o600).open(to)?;
    if ioctl_ficlone(&copy, &source).is_ok() {
        return Ok(());
    }
    copy.set_len(source.metadata()?.len())?;
    let (mut at, mut piece) = (0, vec![0; PIECE]);
    while let Ok(data) = seek(&source, SeekFrom::Data(at)) {
        let end = seek(&source, SeekFrom::Hole(data))?;
        at = data;
        while at < end {
            let length = usize::try_from(end - at).map_or(PIECE, |left| left.min(PIECE));
            source.read_exact_at(&mut piece[..length], at)?;
            copy.write_all_at(&piece[..length], at)?;
            at += length as u64;
        }
    }
    Ok(())
}

/// The disks of a machine. Those of a template are named by their raw image alone, which need not be there yet.
pub(crate) fn disks(image: &Image, scratch: Option<&Scratch>) -> Vec<Disk> {
    let root = Disk {
        path: image.rootfs(),
        overlays: Vec::new(),
        serial: "root".into(),
        read_only: true,
        host_flush: HostFlush::Ignore,
    };
    [root].into_iter().chain(scratch.map(Scratch::disk)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_shares_what_nobody_can_write_and_has_the_rest_for_itself() {
        use std::os::unix::fs::MetadataExt;
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            fs::create_dir(home.path().join(name)).unwrap();
            home.path().join(name)
        };
        let mut first = Scratch::bare(&at("first"));
        File::create(first.base()).unwrap().set_len(1 << 20).unwrap();
        first.add_overlay().unwrap();
        let mut second = first.copy_to(&at("second")).unwrap();
        second.add_overlay().unwrap();
        let third = second.copy_to(&at("third")).unwrap();
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&first.base()), inode(&third.base()));
        assert_ne!(inode(&first.overlay(1)), inode(&second.overlay(1)), "the first QEMU can still write to it");
        assert_eq!(inode(&second.overlay(1)), inode(&third.overlay(1)), "the second only reads it");
        assert_ne!(inode(&second.overlay(2)), inode(&third.overlay(2)));
        assert_eq!((third.overlays(), third.disk().overlays.len()), (2, 2));
    }

    #[test]
    fn a_disk_that_was_left_has_all_the_overlays_that_are_there() {
        let home = tempfile::tempdir().unwrap();
        let mut scratch = Scratch::bare(home.path());
        File::create(scratch.base()).unwrap().set_len(1 << 20).unwrap();
        assert_eq!(Scratch::left(home.path(), 0).overlays(), 0);
        (0..3).for_each(|_| drop(scratch.add_overlay().unwrap()));
        let left = Scratch::left(home.path(), 2);
        assert_eq!((left.overlays(), left.below(), left.disk().overlays.len()), (3, 2, 3));
    }

    #[test]
    fn the_number_of_overlays_has_a_bound() {
        let home = tempfile::tempdir().unwrap();
        let mut scratch = Scratch::bare(home.path());
        File::create(scratch.base()).unwrap().set_len(1 << 20).unwrap();
        while scratch.has_room() {
            scratch.add_overlay().unwrap();
        }
        assert_eq!(scratch.overlays(), MachineSpec::MAX_OVERLAYS);
        scratch.drop_overlay();
        assert!(scratch.has_room() && !scratch.overlay(MachineSpec::MAX_OVERLAYS).exists());
    }
}
