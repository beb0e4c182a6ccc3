//! The QEMU on this host: where it is, which version, and whether that will do.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Access, access};

/// The program's name, and Debian's and Ubuntu's package of it.
const PROGRAM: &str = "qemu-system-x86_64";
const FIX: &str = "install it with `apt-get install qemu-system-x86`";

/// A version of QEMU: major, minor, micro.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QemuVersion {
    /// Changes once a year.
    pub major: u32,
    /// Changes thrice a year.
    pub minor: u32,
    /// Fixes only.
    pub micro: u32,
}

impl QemuVersion {
    /// The oldest version that will do: Debian 12's.
    pub const OLDEST: Self = Self { major: 7, minor: 2, micro: 0 };
}

impl std::fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// A QEMU that is there and new enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qemu {
    path: PathBuf,
    version: QemuVersion,
    build: String,
}

/// A program that may be QEMU, found and not asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QemuProgram {
    path: PathBuf,
    stamp: Option<String>,
}

impl QemuProgram {
    /// Finds the program at the given path, or else in `PATH` and the usual directories.
    ///
    /// # Errors
    /// [`QemuError::Missing`].
    pub fn find(chosen: Option<&Path>) -> Result<Self, QemuError> {
        let path = locate(chosen)?;
        let stamp = stamp(&path);
        Ok(Self { path, stamp })
    }

    /// What changes whenever the file does: its path, numbers, size and times. None for a script, behind which another program may change.
    pub fn stamp(&self) -> Option<&str> {
        self.stamp.as_deref()
    }

    /// Asks it for its version. Blocks for the 10 to 30 ms which that takes.
    ///
    /// # Errors
    /// As [`Qemu::find`].
    pub fn ask(self) -> Result<Qemu, QemuError> {
        let text = version_text(&self.path)?;
        self.which_said(&text)
    }

    /// Believes that it has said `text`, which is [`Qemu::build`] as it was with the same [`Self::stamp`].
    ///
    /// # Errors
    /// As [`Qemu::find`].
    pub fn which_said(self, text: &str) -> Result<Qemu, QemuError> {
        let path = self.path;
        let (version, build) =
            parse_version(text).ok_or_else(|| QemuError::NotQemu { path: path.clone(), said: excerpt(text) })?;
        if version < QemuVersion::OLDEST {
            return Err(QemuError::TooOld { path, version });
        }
        Ok(Qemu { path, version, build })
    }
}

fn stamp(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let mut magic = [0; 4];
    file.read_exact(&mut magic).ok()?;
    let metadata = file.metadata().ok().filter(|_| magic == *b"\x7fELF")?;
    let (path, device, inode, size) = (path.display(), metadata.dev(), metadata.ino(), metadata.size());
    let (modified, changed) = (metadata.mtime(), metadata.ctime());
    Some(format!(
        "{path} {device} {inode} {size} {modified}.{} {changed}.{}",
        metadata.mtime_nsec(),
        metadata.ctime_nsec()
    ))
}

impl Qemu {
    /// Finds QEMU at the given path, or else in `PATH` and the usual directories, and asks it for its version. Blocks for the 10 to
    /// 30 ms which that takes.
    ///
    /// # Errors
    /// When there is none, when it does not say its version, and when it is older than [`QemuVersion::OLDEST`]; each
    /// message holds the remedy.
    pub fn find(chosen: Option<&Path>) -> Result<Self, QemuError> {
        QemuProgram::find(chosen)?.ask()
    }

    /// Returns the program's absolute path, with links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the directory that the program was installed to, when that is not `/usr`: the one above its `bin`, or
    /// the program's own.
    pub(crate) fn installation(&self) -> Option<PathBuf> {
        if self.path.starts_with("/usr") {
            return None;
        }
        let own = self.path.parent()?;
        let above = own.ends_with("bin").then(|| own.parent()).flatten();
        let installation = above.unwrap_or(own);
        // A program in `/bin` or `/` is among what a jail has anyway, and the whole root is more than it may have.
        installation.parent().is_some().then(|| installation.to_owned())
    }

    /// Returns the version.
    pub fn version(&self) -> QemuVersion {
        self.version
    }

    /// Returns the whole first line of `--version`, which names the distribution's package: what saved machine state
    /// depends on.
    pub fn build(&self) -> &str {
        &self.build
    }

    #[cfg(test)]
    pub(crate) fn for_tests(path: &str) -> Self {
        Self { path: path.into(), version: QemuVersion::OLDEST, build: String::new() }
    }
}

fn locate(chosen: Option<&Path>) -> Result<PathBuf, QemuError> {
    let found = match chosen {
        Some(path) => executable(path).then(|| path.to_owned()),
        None => search_directories().map(|directory| directory.join(PROGRAM)).find(|path| executable(path)),
    };
    found
        .and_then(|path| path.canonicalize().ok())
        .ok_or_else(|| QemuError::Missing { path: chosen.map_or_else(|| PROGRAM.into(), Path::to_owned) })
}

/// `PATH`, and then where distributions install it, for a service may run with a bare environment.
fn search_directories() -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let listed: Vec<PathBuf> = std::env::split_paths(&path).filter(|directory| directory.is_absolute()).collect();
    listed.into_iter().chain(["/usr/bin", "/usr/local/bin"].map(PathBuf::from))
}

fn executable(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

fn version_text(path: &Path) -> Result<String, QemuError> {
    let output = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| QemuError::Run { path: path.to_owned(), source })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Reads `QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)` and its relatives; the last number may be missing.
fn parse_version(text: &str) -> Option<(QemuVersion, String)> {
    let line = text.lines().next()?.trim();
    let rest = line.strip_prefix("QEMU emulator version ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    let mut numbers = digits.split('.').map(str::parse::<u32>);
    let major = numbers.next()?.ok()?;
    let minor = numbers.next()?.ok()?;
    let micro = numbers.next().and_then(Result::ok).unwrap_or(0);
    Some((QemuVersion { major, minor, micro }, line.to_owned()))
}

fn excerpt(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(80).collect()
}

/// Why there is no QEMU to use.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// No such program.
    #[error("{} was not found; {FIX}", path.display())]
    Missing {
        /// The path asked for, or the program's name when `PATH` was searched.
        path: PathBuf,
    },
    /// The program could not be run.
    #[error("cannot run {}; {FIX}", path.display())]
    Run {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program is something else.
    #[error("{} does not say a QEMU version, but {said:?}; {FIX}", path.display())]
    NotQemu {
        /// The program.
        path: PathBuf,
        /// The beginning of what it said.
        said: String,
    },
    /// The program is too old.
    #[error("{} is QEMU {version}; {} or newer is needed: upgrade the host to Debian 12, Ubuntu 24.04 or later, and {FIX}", path.display(), QemuVersion::OLDEST)]
    TooOld {
        /// The program.
        path: PathBuf,
        /// Its version.
        version: QemuVersion,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Option<(u32, u32, u32)> {
        parse_version(text).map(|(v, _)| (v.major, v.minor, v.micro))
    }

    #[test]
    fn versions_of_all_distributions_are_read() {
        assert_eq!(
            version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright"),
            Some((7, 2, 22))
        );
        assert_eq!(version("QEMU emulator version 8.2.2 (Debian 1:8.2.2+ds-0ubuntu1.4)\n"), Some((8, 2, 2)));
        assert_eq!(version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)"), Some((10, 0, 2)));
        assert_eq!(version("QEMU emulator version 11.0-rc1"), Some((11, 0, 0)));
        assert_eq!(version("QEMU emulator version 9.1.50 (v9.1.0-1234-gabcdef)"), Some((9, 1, 50)));
    }

    #[test]
    fn other_programs_have_no_version() {
        for text in ["", "\n", "bash 5.2", "QEMU emulator version x", "QEMU emulator version 99999999999.1"] {
            assert_eq!(version(text), None, "{text:?}");
        }
    }

    #[test]
    fn only_an_installation_outside_of_usr_needs_a_place_in_the_jail() {
        let installation = |path| Qemu::for_tests(path).installation();
        assert_eq!(installation("/usr/bin/qemu-system-x86_64"), None);
        assert_eq!(installation("/bin/qemu-system-x86_64"), None);
        assert_eq!(installation("/opt/qemu/bin/qemu-system-x86_64"), Some("/opt/qemu".into()));
        assert_eq!(installation("/srv/build/qemu-system-x86_64"), Some("/srv/build".into()));
    }

    #[test]
    fn missing_program_is_named_with_the_remedy() {
        let error = Qemu::find(Some(Path::new("/nonexistent/qemu"))).unwrap_err();
        assert!(matches!(error, QemuError::Missing { .. }));
        let text = error.to_string();
        assert!(text.contains("/nonexistent/qemu") && text.contains("apt-get install"), "{text}");
    }

    #[test]
    fn program_that_is_not_qemu_is_refused() {
        let error = Qemu::find(Some(Path::new("/bin/true"))).unwrap_err();
        assert!(matches!(error, QemuError::NotQemu { .. }), "{error}");
    }

    #[test]
    fn a_stamp_is_of_programs_alone_and_changes_with_the_file() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("qemu");
        std::fs::write(&path, "#!/bin/sh\nexec qemu\n").unwrap();
        assert_eq!(stamp(&path), None);
        std::fs::write(&path, "\x7fELF one").unwrap();
        let first = stamp(&path).unwrap();
        assert_eq!(stamp(&path), Some(first.clone()));
        std::fs::write(&path, "\x7fELF other").unwrap();
        assert_ne!(stamp(&path), Some(first));
    }

    #[test]
    fn a_remembered_version_is_read_as_if_it_was_said() {
        let program = || QemuProgram { path: "/q".into(), stamp: None };
        let line = "QEMU emulator version 8.2.2 (Debian 1:8.2.2+ds-0ubuntu1.4)";
        let qemu = program().which_said(line).unwrap();
        assert_eq!((qemu.build(), qemu.version().major), (line, 8));
        assert!(matches!(program().which_said("QEMU emulator version 6.2.0"), Err(QemuError::TooOld { .. })));
    }
}
