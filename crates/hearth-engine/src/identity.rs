//! What makes a sandbox itself: its name, its directory, and what its guest is told of both.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hearth_protocol::{Renew, hex};
use hearth_vmm::Lifetime;

use crate::Given;
use crate::boot::Renewal;
use crate::create::ID_VARIABLE;
use crate::sweep::{self, GROUPS};

/// Names a sandbox: `sb-` and 12 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SandboxId(String);

impl SandboxId {
    pub(crate) fn random() -> Self {
        let mut bytes = [0; 6];
        fill_random(&mut bytes);
        Self(format!("sb-{}", hex::encode(&bytes)))
    }

    /// Reads one that was written down.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("sb-")?;
        let fits = digits.len() == 12 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        fits.then(|| Self(text.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What makes a guest this sandbox's: the time, fresh entropy, and, unless it was this sandbox's before, the name and a machine id
    /// that no other has, and what its programs are given. One that boots again has its machine id on its disk.
    pub(crate) fn renew(&self, renewal: Renewal, given: &Given) -> Renew {
        let (mut seed, mut machine_id) = ([0; 32], [0; 16]);
        fill_random(&mut seed);
        fill_random(&mut machine_id);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let same =
            Renew { unix_nanoseconds: Some(now.as_nanos() as u64), seed: Some(hex::encode(&seed)), ..Renew::default() };
        if renewal == Renewal::Same {
            return same;
        }
        let mut env = given.env.clone();
        env.insert(ID_VARIABLE.to_owned(), self.0.as_str().into());
        Renew {
            hostname: Some(self.0.clone()),
            machine_id: (renewal != Renewal::Again).then(|| hex::encode(&machine_id)),
            secrets: (renewal != Renewal::WithSecrets).then(|| given.secrets.clone()),
            env: Some(env),
            ..same
        }
    }
}

/// The time it is, and nothing else.
pub(crate) fn time() -> Renew {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Renew { unix_nanoseconds: Some(now.as_nanos() as u64), ..Renew::default() }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All that a sandbox has on the host. Removed when it is dropped; found and removed by the next start if it cannot be.
#[derive(Debug)]
pub(crate) struct SandboxDirectory {
    id: SandboxId,
    path: PathBuf,
    /// Whether its machine may outlive this process.
    lifetime: Lifetime,
    /// Held for its lock, and longer than the directory is there.
    _owner: Option<File>,
    kept: bool,
}

impl SandboxDirectory {
    pub(crate) fn new(id: SandboxId, path: PathBuf, lifetime: Lifetime) -> Self {
        Self { id, path, lifetime, _owner: None, kept: false }
    }

    pub(crate) fn owned_by(mut self, owner: File) -> Self {
        self._owner = Some(owner);
        self
    }

    pub(crate) fn id(&self) -> &SandboxId {
        &self.id
    }

    pub(crate) fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    /// Lets go of it, and leaves it to the next owner.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }

    /// The control groups that were noted.
    pub(crate) fn groups(&self) -> Vec<PathBuf> {
        let noted = fs::read_to_string(self.path.join(GROUPS)).unwrap_or_default();
        noted.lines().map(PathBuf::from).collect()
    }

    /// Notes the control groups that the machine may get, before it is started, for whoever cleans up after a killed owner. Without the note an
    /// empty group is left.
    pub(crate) fn note_groups(&self, groups: &[PathBuf]) {
        let lines: String = groups.iter().map(|group| format!("{}\n", group.display())).collect();
        let _ = fs::write(self.path.join(GROUPS), lines);
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SandboxDirectory {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // A machine without its directory could be found by nobody. One that lives with its owner is ended by the kernel, at the latest.
        if self.lifetime == Lifetime::WithOwner || sweep::end_machine(&self.path) {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Fills `bytes` from the host's generator, which by now has long been seeded and then never fails.
fn fill_random(bytes: &mut [u8]) {
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(error) => assert_eq!(error, rustix::io::Errno::INTR, "the kernel has a random generator"),
        }
    }
}
