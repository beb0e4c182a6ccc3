//! Places on this host.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use hearth_files::Root;

use crate::failure::Failure;

/// What is at a path, a link itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Directory,
    Link,
    Other,
}

/// Looks at what is at a path. A slash behind it goes through a link, as everywhere.
pub(super) fn look(path: &Path) -> Result<Found, Failure> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Ok(Found::Directory),
        Ok(found) if found.is_symlink() => Ok(Found::Link),
        Ok(_) => Ok(Found::Other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(failed("look at", path, &error)),
    }
}

pub(super) fn failed(operation: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::host(format!("cannot {operation} {}: {error}", path.display()))
}

/// Something on this host: a directory that paths cannot leave, and a name in it, or nothing for the directory itself.
#[derive(Debug)]
pub(crate) struct Local {
    pub(super) root: Root,
    pub(super) name: Vec<u8>,
}

impl Local {
    /// A directory that is there.
    pub(super) fn directory(path: &Path) -> Result<Self, Failure> {
        Ok(Self { root: root(path)?, name: Vec::new() })
    }

    /// Something that is, or is to be, in a directory that is there. Its own name is not resolved.
    pub(super) fn named(path: &Path) -> Result<Self, Failure> {
        let Some(name) = name(path) else { return Self::directory(path) };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self { root: root(parent)?, name: name.as_bytes().to_vec() })
    }

    pub(super) fn path(&self) -> PathBuf {
        self.root.path().join(OsStr::from_bytes(&self.name))
    }
}

fn root(path: &Path) -> Result<Root, Failure> {
    let real = fs::canonicalize(path).map_err(|error| failed("open", path, &error))?;
    Ok(Root::open(&real, &real.display().to_string(), None)?)
}

/// The name that a path ends in; `None` for `.`, `..`, the top, and what ends in `/.`.
pub(super) fn name(path: &Path) -> Option<&OsStr> {
    // `file_name` passes over a dot at the end.
    let ends_in_dot = path.as_os_str().as_bytes().ends_with(b"/.");
    path.file_name().filter(|_| !ends_in_dot)
}

/// Refuses a place that is a link: what a guest has put there earlier would lead elsewhere.
pub(super) fn refuse_link(path: &Path) -> Failure {
    Failure::invalid(format!("{} is a symbolic link, which is not followed", path.display()))
        .with_hint("name the place that it leads to, or remove it")
}
