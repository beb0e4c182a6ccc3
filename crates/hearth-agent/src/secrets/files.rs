//! The directory of secret files: put in place as a whole, readable by the default user alone.
//!
//! A new set is written beside the old one and changes places with it in one step. The directory belongs to the user, who may have put anything into it;
//! nothing of the old one is therefore written to, and what else than secrets is in it goes with it.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use hearth_files::Owner;
use hearth_protocol::{ErrorCode, Fault};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::runtime::Runtime;

/// Where the files are.
pub(crate) struct Place {
    runtime: Rc<Runtime>,
    directory: PathBuf,
    /// Whom they belong to; `None` for whoever the agent runs as.
    owner: Option<Owner>,
    changes: Cell<u64>,
}

impl Place {
    /// Puts the files into a directory of their own below `runtime`, for `owner`.
    pub(crate) fn new(runtime: Rc<Runtime>, owner: Option<Owner>) -> Self {
        let directory = runtime.path().join("secrets");
        Self { runtime, directory, owner, changes: Cell::new(1) }
    }

    /// The directory. Not there while there are no files.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes these the files there are.
    ///
    /// # Errors
    /// [`ErrorCode::NoSpace`] or [`ErrorCode::Io`]; the files are as they were.
    pub(crate) fn install<'a>(&self, files: impl Iterator<Item = (&'a str, &'a [u8])>) -> Result<(), Fault> {
        let mut files = files.peekable();
        let result = match files.peek() {
            None => self.remove_all(),
            Some(_) => self.replace_all(files),
        };
        result.map_err(|error| {
            let code =
                if Errno::from_io_error(&error) == Some(Errno::NOSPC) { ErrorCode::NoSpace } else { ErrorCode::Io };
            Fault::never_started(code, format!("write the files of secrets: {error}"))
        })
    }

    fn replace_all<'a>(&self, files: impl Iterator<Item = (&'a str, &'a [u8])>) -> io::Result<()> {
        self.runtime.make()?;
        let new = self.beside();
        let placed = self.write_all(&new, files).and_then(|()| match exchange(&new, &self.directory) {
            // There are none yet.
            Err(Errno::NOENT) => fs::rename(&new, &self.directory),
            other => Ok(other?),
        });
        // What stands there now is the old set, or the part of the new one that could be written.
        remove_tree(&new);
        placed
    }

    fn remove_all(&self) -> io::Result<()> {
        let old = self.beside();
        match fs::rename(&self.directory, &old) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            moved => {
                remove_tree(&old);
                moved
            }
        }
    }

    /// A name that was never used, next to the directory's.
    fn beside(&self) -> PathBuf {
        let number = self.changes.replace(self.changes.get() + 1);
        self.directory.with_extension(number.to_string())
    }

    /// Writes files, whose names may be paths of the plain kind: names with a slash between two.
    fn write_all<'a>(&self, directory: &Path, files: impl Iterator<Item = (&'a str, &'a [u8])>) -> io::Result<()> {
        let private = |path: &Path| DirBuilder::new().mode(0o700).create(path);
        private(directory)?;
        let mut below = BTreeSet::new();
        for (name, value) in files {
            if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name of a file")));
            }
            let path = directory.join(name);
            let parents: Vec<_> = path.ancestors().skip(1).take_while(|parent| *parent != directory).collect();
            for parent in parents.into_iter().rev() {
                if below.insert(parent.to_owned()) {
                    private(parent)?;
                }
            }
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(value)?;
            if let Some(Owner { uid, gid }) = self.owner {
                std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
            }
        }
        // Last, so that nobody but the agent is in it until it is whole; the outermost very last.
        match self.owner {
            Some(Owner { uid, gid }) => below
                .iter()
                .rev()
                .map(PathBuf::as_path)
                .chain([directory])
                .try_for_each(|path| std::os::unix::fs::lchown(path, Some(uid), Some(gid))),
            None => Ok(()),
        }
    }
}

fn exchange(one: &Path, other: &Path) -> Result<(), Errno> {
    rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)
}

/// Removes a directory with all that is in it, following no link: first the files, which is all there is unless the user has made something
/// there. What then resists stays without the secrets.
fn remove_tree(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let _ = fs::remove_file(entry.path());
    }
    let _ = fs::remove_dir_all(path);
}
