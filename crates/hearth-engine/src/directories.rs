//! Where the engine keeps what it keeps.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::EngineError;

/// The environment does not say where a user's directories are.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NoHome {
    /// `HEARTH_HOME` says something else.
    #[error("HEARTH_HOME is {given:?}, which is not an absolute path")]
    NotAbsolute {
        /// What it says.
        given: OsString,
    },
    /// Nothing says anything.
    #[error("neither HOME nor HEARTH_HOME is set")]
    Unset,
}

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

    /// Keeps everything where this user's is, by the environment: `HEARTH_HOME`; without it `/var/lib/hearth` for root, and
    /// `hearth` in the user's data directory (`XDG_DATA_HOME`, else `~/.local/share`) for anyone else. An empty variable is none.
    ///
    /// # Errors
    /// [`NoHome`].
    pub fn of_user(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, NoHome> {
        let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        if let Some(given) = variable("HEARTH_HOME").filter(|path| !path.is_empty()) {
            return absolute("HEARTH_HOME").map(Self::below).ok_or(NoHome::NotAbsolute { given });
        }
        if rustix::process::geteuid().is_root() {
            return Ok(Self::below("/var/lib/hearth"));
        }
        let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
        data.map(|data| Self::below(data.join("hearth"))).ok_or(NoHome::Unset)
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

    /// Booted guests to restore sandboxes from.
    pub fn templates(&self) -> PathBuf {
        self.home.join("templates")
    }

    /// Sandboxes that were saved under a name.
    pub fn snapshots(&self) -> PathBuf {
        self.home.join("snapshots")
    }

    /// The sandboxes, a directory each. A short name, since the paths of sockets in it are limited to 107 bytes.
    pub fn sandboxes(&self) -> PathBuf {
        self.home.join("run")
    }

    /// What is known of sandboxes that outlive the process that holds them.
    pub(crate) fn state(&self) -> PathBuf {
        self.home.join("state")
    }

    /// Consoles that were kept on request.
    pub fn logs(&self) -> PathBuf {
        self.home.join("logs")
    }

    /// The file whose lock keeps sweeping and making sandboxes apart.
    pub(crate) fn births(&self) -> PathBuf {
        self.home.join("births.lock")
    }

    /// What was found out about this host.
    pub fn findings(&self) -> PathBuf {
        self.home.join("findings.json")
    }

    /// What each QEMU has said of its version.
    pub(crate) fn versions(&self) -> PathBuf {
        self.cache().join("qemu.json")
    }

    /// The home, or the nearest directory above it that is there: where the home will be made.
    pub(crate) fn nearest(&self) -> PathBuf {
        let above = self.home.ancestors().find(|path| path.is_dir());
        above.unwrap_or(Path::new("/")).to_owned()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn of_user(variables: &[(&str, &str)]) -> Result<PathBuf, NoHome> {
        let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        Directories::of_user(variable).map(|directories| directories.home)
    }

    #[test]
    fn hearth_home_comes_first_and_must_be_absolute() {
        assert_eq!(of_user(&[("HEARTH_HOME", "/h"), ("XDG_DATA_HOME", "/d")]), Ok("/h".into()));
        assert_eq!(of_user(&[("HEARTH_HOME", "h")]), Err(NoHome::NotAbsolute { given: "h".into() }));
    }

    #[test]
    fn without_it_a_user_has_the_data_directory_and_root_a_system_one() {
        let system = rustix::process::geteuid().is_root().then(|| PathBuf::from("/var/lib/hearth"));
        let expected = |own: &str| Ok(system.clone().unwrap_or_else(|| own.into()));
        assert_eq!(of_user(&[("HEARTH_HOME", ""), ("XDG_DATA_HOME", "/d"), ("HOME", "/u")]), expected("/d/hearth"));
        assert_eq!(of_user(&[("XDG_DATA_HOME", "d"), ("HOME", "/u")]), expected("/u/.local/share/hearth"));
        if system.is_none() {
            assert_eq!(of_user(&[]), Err(NoHome::Unset));
        }
    }
}
