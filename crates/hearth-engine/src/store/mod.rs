//! What lasts of sandboxes when the process that holds them ends: a database in the home's state directory.
//!
//! One row a sandbox, from the moment at which whoever asked for it is told, until it is asked to go. In it is what was asked for and how it
//! stands; what has to be there before a row can be, or goes with a file, lies in the sandbox's directory (its QEMU's process, what a pause
//! has written). A directory without a row is nobody's, and a row without a directory was being removed. No value of a secret is ever here:
//! those are in the guest's memory alone.
//!
//! Only the daemon writes, which its lock sees to; others read what is pinned. Commits are not synced (`synchronous=NORMAL`): what a killed
//! process has committed is the kernel's to write, and a crash of the whole host ends the machines as well. What must outlast that, a pause or a stop, is.

mod row;

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rusqlite::{Connection, OpenFlags, Transaction};

pub(crate) use row::{Kept, Lasting, PauseRecord, Rows};

use crate::fleet::{IdlePolicy, Labels, PublishedPort, SandboxName};
use crate::{SandboxId, TemplateId};

/// The database's name in its directory.
const FILE: &str = "sandboxes.db";
/// Each takes the database from its place in this row to the next; what is here is never changed, only added to.
const MIGRATIONS: [&str; 2] = [include_str!("1.sql"), include_str!("2.sql")];
/// The commits after which what they wrote is moved from the log into the database, off everybody's way.
const CHECKPOINT: u32 = 256;
/// What is kept of the database in memory, in KiB.
const CACHE_KIB: i64 = 256;

/// Why what lasts cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The state directory cannot be made.
    #[error("cannot use {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no database of ours, is damaged, or cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// A later Hearth has written it.
    #[error("{} is of version {found} and this Hearth knows up to {known}: use the Hearth that wrote it", path.display())]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// It was not read, or nothing of a change was written.
    #[error("cannot use the database of sandboxes")]
    Query {
        /// Why.
        #[from]
        source: rusqlite::Error,
    },
}

/// The database, for the one process that writes it.
#[derive(Debug)]
pub(crate) struct Store {
    connection: Mutex<Connection>,
    path: Arc<Path>,
    commits: AtomicU32,
}

impl Store {
    /// Opens the database in a directory, which is made if there is none, and brings it up to date.
    pub(crate) fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        // The files beside it get the rights that it has.
        let made = made.and_then(|()| File::options().create(true).append(true).mode(0o600).open(&path));
        made.map_err(|source| StoreError::Directory { path: directory.to_owned(), source })?;
        let failed = |source| StoreError::Open { path: path.clone(), source };
        let mut connection = connect(&path).map_err(failed)?;
        let version: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        let known = MIGRATIONS.len() as u32;
        if version > known {
            return Err(StoreError::Newer { path, found: version, known });
        }
        for (number, migration) in (1..=known).zip(MIGRATIONS).skip(version as usize) {
            let step = connection.transaction().map_err(failed)?;
            step.execute_batch(migration).map_err(failed)?;
            step.pragma_update(None, "user_version", number).map_err(failed)?;
            step.commit().map_err(failed)?;
        }
        Ok(Self { connection: Mutex::new(connection), path: path.into(), commits: AtomicU32::new(0) })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A transaction that was not committed is taken back when it is dropped.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All there are, in the order of their ids.
    pub(crate) fn all(&self) -> Result<Rows, StoreError> {
        Ok(row::all(&self.lock())?)
    }

    /// Takes sandboxes in, all or none.
    pub(crate) fn add(&self, sandboxes: &[Lasting]) -> Result<(), StoreError> {
        self.commit(|step| sandboxes.iter().try_for_each(|sandbox| row::insert(step, sandbox)))
    }

    /// Notes what people have changed of one.
    pub(crate) fn change(&self, id: &SandboxId, changed: &Changed) -> Result<(), StoreError> {
        self.commit(|step| row::change(step, id, changed))
    }

    /// Notes how one stands. What says that it is paused or stopped is on the host's disk when this returns.
    pub(crate) fn stands(&self, id: &SandboxId, state: &Kept) -> Result<(), StoreError> {
        if !matches!(state, Kept::Paused(_) | Kept::Stopped) {
            return self.commit(|step| row::stands(step, id, state));
        }
        self.sync("FULL")?;
        let noted = self.commit(|step| row::stands(step, id, state));
        self.sync("NORMAL")?;
        noted
    }

    fn sync(&self, how: &str) -> Result<(), StoreError> {
        Ok(self.lock().pragma_update(None, "synchronous", how)?)
    }

    /// Forgets one; that it is not there is as good.
    pub(crate) fn remove(&self, id: &SandboxId) -> Result<(), StoreError> {
        self.commit(|step| row::remove(step, id))
    }

    /// Notes the ports of one in place of those before.
    pub(crate) fn publish(&self, id: &SandboxId, ports: &[PublishedPort]) -> Result<(), StoreError> {
        self.commit(|step| {
            row::remove_ports(step, id)?;
            ports.iter().try_for_each(|port| row::insert_port(step, id, port))
        })
    }

    fn commit(&self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>) -> Result<(), StoreError> {
        let mut connection = self.lock();
        let step = connection.transaction()?;
        work(&step)?;
        step.commit()?;
        drop(connection);
        if self.commits.fetch_add(1, Ordering::Relaxed) % CHECKPOINT == CHECKPOINT - 1 {
            self.checkpoint();
        }
        Ok(())
    }

    /// Has the log moved into the database by a connection of its own, which no commit waits for.
    fn checkpoint(&self) {
        let path = self.path.clone();
        let work = move || {
            // What cannot be moved now is tried again later.
            let _ = connect(&path).and_then(|apart| apart.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())));
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(work)),
            Err(_) => work(),
        }
    }
}

/// What people can change of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) name: Option<SandboxName>,
    pub(crate) labels: Labels,
    pub(crate) expires: Option<SystemTime>,
    pub(crate) idle: Option<IdlePolicy>,
}

/// The templates that the sandboxes in a directory's database lie on: for any process. None where there is no database.
pub(crate) fn templates_in(directory: &Path) -> Vec<TemplateId> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(directory.join(FILE), flags);
    connection.and_then(|connection| row::templates(&connection)).unwrap_or_default()
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    Ok(connection)
}

#[cfg(test)]
mod tests;
