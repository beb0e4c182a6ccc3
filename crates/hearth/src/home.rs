//! Where Hearth lives on this machine, and how the engine is opened. The only place that reads the environment for it.

use std::env;
use std::path::PathBuf;

use hearth_engine::vmm::Launcher;
use hearth_engine::{Directories, Engine};

use crate::failure::Failure;

/// Opens the engine on this user's directories.
pub(crate) fn open() -> Result<Engine, Failure> {
    let launcher = Launcher { program: "/proc/self/exe".into(), arguments: vec![crate::JAIL.into()] };
    let qemu = env::var_os("HEARTH_QEMU").filter(|path| !path.is_empty()).map(PathBuf::from);
    Ok(Engine::open(Directories::below(home()?), launcher, qemu)?)
}

fn home() -> Result<PathBuf, Failure> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(given) = env::var_os("HEARTH_HOME").filter(|path| !path.is_empty()) {
        return absolute("HEARTH_HOME")
            .ok_or_else(|| Failure::invalid(format!("HEARTH_HOME is {given:?}, which is not an absolute path")));
    }
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/hearth".into());
    }
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
    let data = data.ok_or_else(|| Failure::invalid("neither HOME nor HEARTH_HOME is set".to_owned()))?;
    Ok(data.join("hearth"))
}
