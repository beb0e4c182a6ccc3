//! Where Hearth lives on this machine, and how the engine is opened. The only place that reads the environment for it.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use hearth_engine::vmm::Launcher;
use hearth_engine::{Directories, Engine};

use crate::failure::Failure;
use crate::values::Memory;

/// Opens the engine on this user's directories.
pub(crate) fn open() -> Result<Engine, Failure> {
    let launcher = Launcher { program: "/proc/self/exe".into(), arguments: vec![crate::JAIL.into()] };
    let qemu = env::var_os("HEARTH_QEMU").filter(|path| !path.is_empty()).map(PathBuf::from);
    let engine = Engine::open(directories()?, launcher, qemu)?;
    if let Some(space) = template_space()? {
        engine.limit_templates(space);
    }
    Ok(engine)
}

/// What templates may take on disk, in bytes, as the environment has it.
fn template_space() -> Result<Option<u64>, Failure> {
    let Some(text) = env::var_os("HEARTH_TEMPLATE_SPACE").filter(|text| !text.is_empty()) else { return Ok(None) };
    let size = text.to_str().and_then(|text| text.parse::<Memory>().ok());
    let invalid = || Failure::invalid(format!("HEARTH_TEMPLATE_SPACE is {text:?}: must be a size, such as 4G"));
    size.map(|Memory(mib)| Some(u64::from(mib) << 20)).ok_or_else(invalid)
}

/// Whether a QEMU is named that may not be the one of a daemon.
pub(crate) fn names_qemu() -> bool {
    env::var_os("HEARTH_QEMU").is_some_and(|path| !path.is_empty())
}

/// This user's directories.
pub(crate) fn directories() -> Result<Directories, Failure> {
    Directories::of_user(|name| env::var_os(name)).map_err(|error| Failure::invalid(error.to_string()))
}

/// How long a daemon that was started by a command stays without anything to do, as the environment has it.
pub(crate) fn daemon_idle() -> Option<OsString> {
    env::var_os("HEARTH_DAEMON_IDLE").filter(|time| !time.is_empty())
}

/// How many machines of a kind a daemon keeps ready, as the environment has it.
pub(crate) fn pool() -> Result<Option<usize>, Failure> {
    let Some(text) = env::var_os("HEARTH_POOL").filter(|text| !text.is_empty()) else { return Ok(None) };
    let count = text.to_str().and_then(|text| text.parse().ok());
    let invalid = || Failure::invalid(format!("HEARTH_POOL is {text:?}: must be a number, 0 for no pool"));
    count.map(Some).ok_or_else(invalid)
}
