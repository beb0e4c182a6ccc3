//! Where the engine keeps what it keeps.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::EngineError;

/// The directories of one engine, all below one of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directories {
    home: PathBuf,
}

impl Directories {
    /// Keeps everything below `home`, an absolute path.
    pub fn below(home: impl Into<PathBuf>) -> Self {
        Self { home: home.into() }
    }

    /// The directory that holds all others.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The image store.
    pub fn images(&self) -> PathBuf {
        self.home.join("store")
    }

    /// What can be made again: initial RAM file systems.
    pub fn cache(&self) -> PathBuf {
        self.home.join("cache")
    }

    /// The sandboxes, a directory each. A short name, since the paths of sockets in it are limited to 107 bytes.
    pub fn sandboxes(&self) -> PathBuf {
        self.home.join("run")
    }

    /// Consoles that were kept on request.
    pub fn logs(&self) -> PathBuf {
        self.home.join("logs")
    }

    /// What was found out about this host.
    pub(crate) fn findings(&self) -> PathBuf {
        self.home.join("findings.json")
    }

    /// Makes those that are missing. The sandboxes' are nobody else's business.
    pub(crate) fn make(&self) -> Result<(), EngineError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| EngineError::Directory { path, source }
        };
        fs::create_dir_all(&self.home).map_err(failed(&self.home))?;
        for path in [self.cache(), self.sandboxes(), self.logs()] {
            DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed(&path))?;
            let meta = fs::metadata(&path).map_err(failed(&path))?;
            if meta.uid() != rustix::process::geteuid().as_raw() {
                return Err(EngineError::NotOurs { path });
            }
            if meta.mode() & 0o077 != 0 {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).map_err(failed(&path))?;
            }
        }
        Ok(())
    }
}
