//! API keys: what opens the API to whoever comes over TCP.
//!
//! A key is a file below the home, by its name, that holds the SHA-256 of the key and nothing else. A key has 256 random bits, so no salt
//! and no slow hash would make it harder to guess. The daemon looks at the files for each request: a key that is removed opens nothing from
//! then on, but what was begun with it goes on.

use std::fmt::Write as _;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// What every key begins with, so that one is known where it should not be.
const PREFIX: &str = "hearth_";
/// The random part of a key, in bytes.
const RANDOM: usize = 32;
/// The most keys.
const MOST: usize = 256;
/// The longest name, in bytes.
const LONGEST: usize = 63;

/// Why a key is not made, listed or removed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The name breaks the rule for names.
    #[error("{name:?} cannot name a key: 1 to 63 of letters, digits, '_', '.', '-', beginning with a letter or digit")]
    Name {
        /// What was to be the name.
        name: String,
    },
    /// Another key has the name.
    #[error("there is a key {name:?} already")]
    Taken {
        /// The name.
        name: String,
    },
    /// No key has the name.
    #[error("there is no key {name:?}")]
    Unknown {
        /// The name.
        name: String,
    },
    /// There are as many keys as there may be.
    #[error("there are {MOST} keys already")]
    TooMany,
    /// The host is in the way.
    #[error("cannot use {}", path.display())]
    Host {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What is known of a key. Not the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: SystemTime,
}

/// The keys of a home.
#[derive(Debug, Clone)]
pub struct Keys {
    directory: PathBuf,
}

impl Keys {
    /// The keys below a home. Touches nothing.
    pub fn below(home: &Path) -> Self {
        Self { directory: home.join("keys") }
    }

    /// Makes a key, and returns it: `hearth_` and 64 hex digits. It is kept nowhere.
    ///
    /// # Errors
    /// [`KeyError::Name`], [`KeyError::Taken`], [`KeyError::TooMany`], [`KeyError::Host`].
    pub fn create(&self, name: &str) -> Result<String, KeyError> {
        let path = self.path(name)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory).map_err(host(&self.directory))?;
        if self.list()?.len() >= MOST {
            return Err(KeyError::TooMany);
        }
        let mut random = [0; RANDOM];
        getrandom(&mut random, GetRandomFlags::empty()).map_err(|error| host(&path)(error.into()))?;
        let key = format!("{PREFIX}{}", hex(&random));
        let mut file = match File::options().create_new(true).write(true).mode(0o600).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(KeyError::Taken { name: name.to_owned() });
            }
            file => file.map_err(host(&path))?,
        };
        if let Err(error) = file.write_all(hex(&Sha256::digest(&key)).as_bytes()) {
            let _ = std::fs::remove_file(&path);
            return Err(host(&path)(error));
        }
        Ok(key)
    }

    /// Lists keys by name.
    ///
    /// # Errors
    /// [`KeyError::Host`].
    pub fn list(&self) -> Result<Vec<KeyInfo>, KeyError> {
        let entries = match std::fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(host(&self.directory))?,
        };
        let mut keys = Vec::new();
        for entry in entries {
            let entry = entry.map_err(host(&self.directory))?;
            // One that goes meanwhile is gone.
            let (Ok(name), Ok(meta)) = (entry.file_name().into_string(), entry.metadata()) else { continue };
            keys.push(KeyInfo { name, created: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH) });
        }
        keys.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(keys)
    }

    /// Removes a key.
    ///
    /// # Errors
    /// [`KeyError::Name`], [`KeyError::Unknown`], [`KeyError::Host`].
    pub fn remove(&self, name: &str) -> Result<(), KeyError> {
        let path = self.path(name)?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(KeyError::Unknown { name: name.to_owned() }),
            removed => removed.map_err(host(&path)),
        }
    }

    /// The name of the key that was shown. What cannot be one is compared with none; else all are, each in the same time.
    pub(crate) fn holder(&self, shown: &str) -> Option<String> {
        if !is_well_formed(shown) {
            return None;
        }
        let shown = hex(&Sha256::digest(shown));
        let mut holder = None;
        for key in self.list().ok()? {
            let mut kept = Vec::new();
            let read =
                File::open(self.directory.join(&key.name)).and_then(|file| file.take(128).read_to_end(&mut kept));
            let is_it = if read.is_ok() { kept.ct_eq(shown.as_bytes()) } else { Choice::from(0) };
            if is_it.into() {
                holder = Some(key.name);
            }
        }
        holder
    }

    fn path(&self, name: &str) -> Result<PathBuf, KeyError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let begins_well = name.starts_with(|letter: char| letter.is_ascii_alphanumeric());
        if begins_well && name.len() <= LONGEST && name.bytes().all(is_plain) {
            return Ok(self.directory.join(name));
        }
        Err(KeyError::Name { name: name.to_owned() })
    }
}

fn is_well_formed(key: &str) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    key.strip_prefix(PREFIX).is_some_and(|random| random.len() == 2 * RANDOM && random.bytes().all(is_digit))
}

fn host(path: &Path) -> impl FnOnce(io::Error) -> KeyError {
    let path = path.to_owned();
    move |source| KeyError::Host { path, source }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_opens_until_it_is_removed_and_is_kept_nowhere() {
        let home = tempfile::tempdir().unwrap();
        let keys = Keys::below(home.path());
        assert_eq!((keys.list().unwrap(), keys.holder("hearth_x")), (Vec::new(), None));
        let (a, b) = (keys.create("a").unwrap(), keys.create("b.2").unwrap());
        assert_eq!((a.len(), a.starts_with(PREFIX), a == b), (71, true, false));
        assert_eq!((keys.holder(&a).as_deref(), keys.holder(&b).as_deref()), (Some("a"), Some("b.2")));
        for no_key in ["", PREFIX, &a[..70], &format!("{a}0"), &a.to_uppercase()] {
            assert_eq!(keys.holder(no_key), None);
        }
        let names: Vec<String> = keys.list().unwrap().into_iter().map(|key| key.name).collect();
        assert_eq!(names, ["a", "b.2"]);
        let file = home.path().join("keys/a");
        assert!(!std::fs::read_to_string(&file).unwrap().contains(&a[PREFIX.len()..]));
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        keys.remove("a").unwrap();
        assert_eq!(keys.holder(&a), None);
        assert!(keys.holder(&b).is_some());
    }

    #[test]
    fn what_has_not_the_form_of_a_key_is_compared_with_none() {
        let home = tempfile::tempdir().unwrap();
        let keys = Keys::below(home.path());
        let right = keys.create("a").unwrap();
        for (number, shown) in ["x", &right[1..], &right.to_uppercase(), &format!("{right}0")].into_iter().enumerate() {
            std::fs::write(home.path().join(format!("keys/{number}")), hex(&Sha256::digest(shown))).unwrap();
            assert_eq!(keys.holder(shown), None, "{shown}");
        }
        assert_eq!(keys.holder(&right).as_deref(), Some("a"));
    }

    #[test]
    fn a_file_that_holds_no_digest_opens_nothing() {
        let home = tempfile::tempdir().unwrap();
        let keys = Keys::below(home.path());
        keys.create("a").unwrap();
        std::fs::write(home.path().join("keys/empty"), "").unwrap();
        std::fs::create_dir(home.path().join("keys/directory")).unwrap();
        assert_eq!(keys.holder(""), None);
    }

    #[test]
    fn names_are_checked_and_taken_once() {
        let home = tempfile::tempdir().unwrap();
        let keys = Keys::below(home.path());
        for bad in ["", ".", "..", "../x", "a/b", "-a", "a b", "ü", &"a".repeat(64)] {
            assert!(matches!(keys.create(bad), Err(KeyError::Name { .. })), "{bad}");
            assert!(matches!(keys.remove(bad), Err(KeyError::Name { .. })), "{bad}");
        }
        keys.create("a").unwrap();
        assert!(matches!(keys.create("a"), Err(KeyError::Taken { .. })));
        assert!(matches!(keys.remove("b"), Err(KeyError::Unknown { .. })));
    }
}
