//! The guest agent as a program of this host's: it also serves outside a machine, in a container or VM of the user's own.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, SealFlags};

/// The guest agent, a static program.
pub(crate) static AGENT: &[u8] = include_bytes!(env!("HEARTH_AGENT_PATH"));

/// Its SHA-256 in hexadecimal, from the build: each sandbox looks for the files that depend on it.
pub(crate) const AGENT_SHA256: &str = env!("HEARTH_AGENT_SHA256");

/// The agent as a file that can be executed, in memory alone. It is gone when this is dropped and all that run it have ended.
#[derive(Debug)]
pub struct AgentProgram(File);

impl AgentProgram {
    /// Makes the file.
    ///
    /// # Errors
    /// When the host is out of memory or descriptors.
    pub fn new() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(rustix::fs::memfd_create("hearth-agent", flags)?);
        file.write_all(AGENT)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(Self(file))
    }

    /// Its path, for as long as this lives. Children of this process can execute it too.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }
}
