//! A directory in memory for what must not outlive the agent.
//!
//! In a machine of its own that is `/run/hearth`. An ordinary agent has a directory of its own name in `$XDG_RUNTIME_DIR` or `/dev/shm`, made when
//! it is first needed and removed at the agent's end. It holds a lock on it, so that the next agent can tell, and remove, what one
//! that was killed has left behind.

use std::cell::RefCell;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use hearth_protocol::hex;
use rustix::fs::{FlockOperation, OFlags};

/// What the directories of ordinary agents are called, before a random part.
const PREFIX: &str = "hearth-agent-";
/// What `statfs` calls a file system in memory.
const TMPFS_MAGIC: i64 = 0x0102_1994;
/// How often a directory that another agent's sweep took for a dead one's is made again.
const ATTEMPTS: usize = 8;

/// The directory.
pub(crate) struct Runtime {
    path: PathBuf,
    /// Whether it is this agent's alone, to be removed at its end.
    own: bool,
    mode: u32,
    lock: RefCell<Option<File>>,
}

impl Runtime {
    /// The directory of an agent that has the machine to itself.
    pub(crate) fn of_machine() -> Rc<Self> {
        Rc::new(Self { path: "/run/hearth".into(), own: false, mode: 0o755, lock: RefCell::default() })
    }

    /// The directory of an ordinary agent; removes those of dead ones. `shared` says that another user must be able to pass through it.
    ///
    /// # Errors
    /// When the kernel has no random bytes for its name.
    pub(crate) fn of_process(shared: bool) -> io::Result<Rc<Self>> {
        let places = places(shared);
        places.iter().for_each(|place| sweep(place));
        let in_memory = places.iter().find(|place| is_in_memory(place)).cloned();
        let place = in_memory.unwrap_or_else(std::env::temp_dir);
        let path = place.join(own_name()?);
        let mode = if shared { 0o711 } else { 0o700 };
        Ok(Rc::new(Self { path, own: true, mode, lock: RefCell::default() }))
    }

    /// Where an agent that has the machine to itself keeps what is too large for memory.
    pub(crate) fn on_disk_of_machine() -> Rc<Self> {
        Rc::new(Self { path: "/var/lib/hearth".into(), own: false, mode: 0o700, lock: RefCell::default() })
    }

    /// A directory of an ordinary agent for what is too large for memory; as [`Self::of_process`].
    ///
    /// # Errors
    /// As [`Self::of_process`].
    pub(crate) fn on_disk_of_process() -> io::Result<Rc<Self>> {
        let place = std::env::temp_dir();
        sweep(&place);
        let path = place.join(own_name()?);
        Ok(Rc::new(Self { path, own: true, mode: 0o700, lock: RefCell::default() }))
    }

    /// A directory that is there, for tests.
    #[cfg(test)]
    pub(crate) fn at(path: &Path) -> Rc<Self> {
        Rc::new(Self { path: path.to_owned(), own: false, mode: 0o755, lock: RefCell::default() })
    }

    /// Where it is, or will be once it is made.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it, if it is not there yet.
    pub(crate) fn make(&self) -> io::Result<()> {
        if !self.own {
            return DirBuilder::new().recursive(true).mode(self.mode).create(&self.path);
        }
        let mut lock = self.lock.borrow_mut();
        for _ in 0..ATTEMPTS {
            if lock.is_some() {
                return Ok(());
            }
            DirBuilder::new().mode(self.mode).create(&self.path)?;
            fs::set_permissions(&self.path, fs::Permissions::from_mode(self.mode))?;
            *lock = lock_directory(&self.path)?;
        }
        Err(io::Error::other(format!("{} is removed each time it is made", self.path.display())))
    }

    /// Removes it with all that is in it. For the end of the agent.
    pub(crate) fn remove(&self) {
        if self.lock.take().is_some() {
            // Whoever made things in it that resist has them swept, or not, by the next agent.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// A name that no other agent's directory has.
fn own_name() -> io::Result<String> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{PREFIX}{}", hex::encode(&random)))
}

/// Where the directory of an ordinary agent can be, the best first.
fn places(shared: bool) -> Vec<PathBuf> {
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !shared).map(PathBuf::from);
    own.into_iter().filter(|path| path.is_absolute()).chain(["/dev/shm".into()]).chain([std::env::temp_dir()]).collect()
}

fn is_in_memory(place: &Path) -> bool {
    let writable = rustix::fs::access(place, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok();
    writable && rustix::fs::statfs(place).is_ok_and(|system| i128::from(system.f_type) == i128::from(TMPFS_MAGIC))
}

/// Locks a directory for as long as the file lives; `None` when somebody else has, or has removed it.
fn lock_directory(path: &Path) -> io::Result<Option<File>> {
    let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits() as i32;
    let directory = match File::options().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(None);
    }
    let opened = directory.metadata()?;
    let there =
        fs::symlink_metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (opened.dev(), opened.ino()));
    Ok(there.then_some(directory))
}

/// Removes the directories of agents of this user that are no more.
fn sweep(place: &Path) {
    let own = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let named = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if named
            && entry.metadata().is_ok_and(|there| there.is_dir() && there.uid() == own)
            && let Ok(Some(_lock)) = lock_directory(&entry.path())
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
