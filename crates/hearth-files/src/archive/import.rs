//! An archive comes in.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hearth_protocol::ErrorCode;
use hearth_protocol::archive::Imported;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::ArchiveError;
use super::merge::{self, Places};
use super::reader::Reader;
use super::staging::Staging;
use super::unpack::{Rules, Tree};
use super::walk::{self, DIRECTORY};
use crate::error::{FileError, Reason};
use crate::root::{Owner, Root};

/// The name in the staging directory of what takes the place of the destination, or of the first directory of it that is missing.
const TOP: &CStr = c"tree";

/// What an import may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ImportOptions<'a> {
    /// The most bytes that the archive may have without its compression.
    pub limit_bytes: Option<u64>,
    /// Whether the archive comes from somebody who is to gain nothing here, as out of a guest. Members then lose the set-user-id, set-group-id
    /// and sticky bits, and a hard link leads to what is before it in the archive alone, never to what was there. In a guest members keep
    /// them: everything unpacked there belongs to the workspace's owner, who could set them too.
    pub distrusted: bool,
    /// The only members that there may be, by their paths in one form (names with one slash between them): one more refuses all.
    pub only: Option<&'a BTreeSet<Vec<u8>>>,
}

/// Unpacks an archive beneath a directory, which is made where it is missing: all of it or nothing.
///
/// The archive is tar, plain or compressed with gzip, zstd, bzip2 or xz, as its first bytes say. Files, directories, symbolic links
/// (whatever they point to), hard links and FIFOs keep their modes and times and belong to the root's owner. A file or link that is
/// there already is replaced, never written to; a directory that is there stays, with the mode and time that the archive has for it,
/// but for the destination itself. Nothing is seen in the destination before everything has been read and written.
///
/// # Errors
/// [`ArchiveError`]: a member that would land outside or through a symbolic link, a device, a conflict, damage, a cut, a full disk.
pub fn import(
    root: &Root,
    destination: &[u8],
    input: impl Read,
    options: &ImportOptions<'_>,
) -> Result<Imported, ArchiveError> {
    let destination = Destination::find(root, destination)?;
    let staging = Staging::make(root, destination.directory.as_fd())?;
    let fail = |error: Errno| ArchiveError::system("unpack in", root.name().as_bytes(), error);
    let base = destination.stand_in(staging.directory(), root.owner()).map_err(fail)?;
    let rules = Rules { destination: destination.existing(), owner: root.owner(), options: *options };
    let mut tree = Tree::new(base.as_fd(), rules).map_err(fail)?;
    let mut reader = Reader::new(input, options.limit_bytes)?;
    let mut imported = Imported::default();
    while let Some(member) = reader.next()? {
        imported.bytes += tree.add(&member, &mut reader)?;
        imported.members += 1;
    }
    let kept = tree.finish()?;
    match destination.missing.first() {
        Some(missing) => {
            let moved = merge::rename_new((staging.directory(), TOP), (destination.directory.as_fd(), missing));
            moved.map_err(|error| ArchiveError::system("unpack to", missing.to_bytes(), error))?;
        }
        None => {
            let places = Places { from: base.as_fd(), to: destination.directory.as_fd(), spare: staging.directory() };
            merge::merge(places, &kept)?;
        }
    }
    staging.succeed();
    Ok(imported)
}

/// Removes what imports of killed agents have left in a root, for the start of an agent; each import does so too.
pub fn sweep(root: &Root) {
    if let Ok(top) = rustix::fs::openat(root.directory(), c".", DIRECTORY, Mode::empty()) {
        super::staging::sweep(top.as_fd());
    }
}

/// Where an archive goes.
struct Destination {
    /// The deepest directory on the way that is there.
    directory: OwnedFd,
    /// Those that are not.
    missing: Vec<CString>,
    is_empty: bool,
}

impl Destination {
    fn find(root: &Root, path: &[u8]) -> Result<Self, ArchiveError> {
        const OPERATION: &str = "unpack to";
        let relative = root.relative(OPERATION, path)?;
        let open = |path: &[u8]| root.open_at(OPERATION, path, DIRECTORY);
        let mut end = relative.len();
        let directory = loop {
            match open(&relative[..end]) {
                Err(error) if error.code() == ErrorCode::NotFound && end > 0 => {
                    end = relative[..end].iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                }
                opened => break opened?,
            }
        };
        let names = relative[end..].split(|&byte| byte == b'/').filter(|name| !matches!(name, [] | [b'.']));
        let missing = names.map(|name| match name {
            b".." => Err(FileError::new(OPERATION, path, Errno::NOENT)),
            name if name.len() > 255 => Err(FileError::new(OPERATION, path, Errno::NAMETOOLONG)),
            name => CString::new(name).map_err(|_| FileError::new(OPERATION, path, Errno::INVAL)),
        });
        let missing: Vec<_> = missing.collect::<Result<_, _>>()?;
        let fail = |error: Errno| ArchiveError::system(OPERATION, path, error);
        let is_empty = !missing.is_empty() || walk::is_empty(directory.as_fd()).map_err(fail)?;
        // A link to nothing is not missing: it would have to be followed.
        if let Some(name) = missing.first()
            && let Ok(_) = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)
        {
            let reason = Reason::WrongKind { found: "a symbolic link to nothing", wanted: "a directory" };
            return Err(FileError::new(OPERATION, path, reason).into());
        }
        Ok(Self { directory, missing, is_empty })
    }

    /// What is there already, if anything is.
    fn existing(&self) -> Option<BorrowedFd<'_>> {
        (!self.is_empty).then(|| self.directory.as_fd())
    }

    /// Makes the directory that stands in for the destination, within those that are missing above it.
    fn stand_in(&self, staging: BorrowedFd<'_>, owner: Option<Owner>) -> Result<OwnedFd, Errno> {
        let make = |parent: BorrowedFd<'_>, name: &CStr| {
            rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
            let made = rustix::fs::openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
            if let Some(Owner { uid, gid }) = owner {
                let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
                rustix::fs::fchown(&made, Some(uid), Some(gid))?;
            }
            rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755)).map(|()| made)
        };
        let top = make(staging, TOP)?;
        self.missing.iter().skip(1).try_fold(top, |parent, name| make(parent.as_fd(), name))
    }
}
