//! From a kernel with an initramfs to a machine that takes requests. Runs as PID 1.
//!
//! The initramfs holds the agent as `/init`, and in `/modules` the kernel modules with their load order. Each step says its name
//! on the console first, so that the last line of a dead boot tells where it died.

mod root;
mod uevents;

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;

use hearth_protocol::{BULK_PORT, CONTROL_PORT};
use rustix::system::RebootCommand;

use uevents::Uevents;

use crate::agent::Agent;
use crate::dialect::{self, execution::Execution};
use crate::listen::Address;
use crate::process::{Defaults, Trees};
use crate::runtime::Runtime;
use crate::session::port::Port;
use crate::session::serial;

/// Where the initramfs keeps the modules.
const MODULES: &str = "/modules";
/// The file in it that names the others in load order, one a line; `optional` behind a name says that the kernel may refuse it.
const ORDER: &str = "order";
/// The user that processes run as by default, where the image has it.
const DEFAULT_USER: &str = "user";
/// Where the sockets of the dialects are.
const SOCKETS: &str = "/run/hearth";

/// A boot step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct BootError {
    what: String,
    #[source]
    source: io::Error,
}

impl BootError {
    fn new(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { what: what.into(), source: source.into() }
    }
}

/// Boots, serves, and restarts the machine, which is how a microVM without power management ends: its monitor takes it
/// for the end. Never returns in practice; if the kernel refuses, returning makes it panic, which ends the machine too.
pub(crate) fn run_machine() -> ExitCode {
    let scratch = boot_and_serve().unwrap_or_else(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        say(&format!("boot failed: {error}: {source}"));
        None
    });
    rustix::fs::sync();
    // A file system that stands still is clean, whoever has files of it open, which an unmount would have to wait for. Where that cannot be,
    // its journal is read at the next boot.
    let _ = scratch.map(|scratch| crate::sys::freeze_file_system(&scratch));
    let _ = rustix::system::reboot(RebootCommand::Restart);
    ExitCode::FAILURE
}

/// Returns the root of the scratch disk's file system, if there is one, when the end was asked for and no process runs any more.
fn boot_and_serve() -> Result<Option<fs::File>, BootError> {
    step(1, "mount proc, sys and dev");
    root::mount_kernel_filesystems()?;
    let options = BootOptions::from_command_line(&fs::read_to_string("/proc/cmdline").unwrap_or_default());
    step(2, "load modules");
    let devices = Uevents::listen()?;
    load_modules(Path::new(MODULES))?;
    step(3, "mount the root filesystem");
    let scratch = root::mount_root(&options)?;
    step(4, "enter it");
    root::enter()?;
    step(5, "mount run, tmp, pts, shm and cgroup");
    root::mount_runtime_filesystems(&options)?;
    step(6, "set the host name, bring up loopback");
    rustix::system::sethostname(b"hearth").map_err(|error| BootError::new("set the host name", error))?;
    crate::sys::loopback_up().map_err(|error| BootError::new("bring up the loopback interface", error))?;
    step(7, "open the channel and serve");
    crate::block_on(serve(devices, options.dialects)).map_err(|error| BootError::new("start the runtime", error))??;
    Ok(scratch)
}

async fn serve(devices: Uevents, dialects: bool) -> Result<(), BootError> {
    let (control, bulk) = (open_port(CONTROL_PORT, &devices)?, open_port(BULK_PORT, &devices)?);
    let user = fs::read_to_string("/etc/passwd")
        .is_ok_and(|text| text.lines().any(|line| line.starts_with(&format!("{DEFAULT_USER}:"))));
    let defaults = Defaults {
        user: Some(if user { DEFAULT_USER } else { "root" }.to_owned()),
        workspace: Some("/workspace".into()),
        home: None,
    };
    let trees = Trees::in_cgroup(Path::new("/sys/fs/cgroup"), "hearth");
    let agent = Agent::new(defaults, trees, Runtime::of_machine(), Runtime::on_disk_of_machine(), true)
        .map_err(|error| BootError::new("watch children", error))?;
    if dialects {
        listen_for_dialects(&agent, devices).await?;
    }
    tokio::task::spawn_local(serial::serve(Rc::clone(&agent), control, bulk));
    let grace = agent.wait_for_shutdown().await;
    agent.processes.stop_all(grace).await;
    Ok(())
}

/// Opens the listeners of the dialects: sockets that the host dials, and ports where the machine has ways of its own to the host.
async fn listen_for_dialects(agent: &Rc<Agent>, devices: Uevents) -> Result<(), BootError> {
    fs::create_dir_all(SOCKETS).map_err(|error| BootError::new(format!("make {SOCKETS}"), error))?;
    let workspace = dialect::workspace::service(agent);
    let mut addresses = vec![(Address::Unix(Path::new(SOCKETS).join("workspace.sock")), Rc::clone(&workspace))];
    if Path::new("/dev/vsock").exists() {
        addresses.push((Address::Vsock(dialect::workspace::PORT), workspace));
    }
    let execution = Execution::new(Rc::clone(agent));
    let devices = devices.into_events().map_err(|error| BootError::new("watch for devices", error))?;
    let ports = dialect::execution::serve_ports(Rc::clone(&execution), async move || devices.next().await);
    tokio::task::spawn_local(async move {
        if let Err(error) = ports.await {
            say(&format!("the execution channel's ports are not served: {error}"));
        }
    });
    addresses.extend(dialect::execution::in_machine(&execution, Path::new(SOCKETS)));
    for (address, service) in addresses {
        let listening = address.listen(service).await;
        listening.map_err(|error| BootError::new(format!("listen on {address}"), error))?;
    }
    Ok(())
}

/// Opens a port, which the host may announce a moment after its driver is there. Without it the agent is of no use, so it waits for as
/// long as it takes; the host bounds the boot.
fn open_port(name: &str, devices: &Uevents) -> Result<Rc<Port>, BootError> {
    loop {
        match Port::open(name) {
            Ok(Some(port)) => return Ok(port),
            Ok(None) => devices.wait()?,
            Err(error) => return Err(BootError::new(format!("open the virtio-serial port {name}"), error)),
        }
    }
}

/// What the host says on the kernel's command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct BootOptions {
    /// `hearth.scratch`: there is a disk, with an ext4 filesystem, that takes all changes; without it they stay in memory.
    scratch: bool,
    /// `hearth.dialects`: the two earlier protocols are spoken too.
    dialects: bool,
}

impl BootOptions {
    fn from_command_line(line: &str) -> Self {
        let says = |word| line.split_whitespace().any(|said| said == word);
        Self { scratch: says("hearth.scratch"), dialects: says("hearth.dialects") }
    }
}

fn step(number: u32, what: &str) {
    say(&format!("{number}/7 {what}"));
}

/// Says a line on the console, for post-mortems.
fn say(line: &str) {
    // There is nowhere to report that the console is gone.
    let _ = writeln!(io::stderr(), "hearth-agent: {line}");
}

fn load_modules(directory: &Path) -> Result<(), BootError> {
    let order =
        fs::read_to_string(directory.join(ORDER)).map_err(|error| BootError::new("read the module order", error))?;
    for line in order.lines() {
        let (name, optional) = line.split_once(' ').map_or((line, false), |(name, word)| (name, word == "optional"));
        let what = || format!("load module {name}");
        let file = fs::File::open(directory.join(name)).map_err(|error| BootError::new(what(), error))?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(_) if optional => {}
            Err(error) => return Err(BootError::new(what(), error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_words_of_the_kernel_command_line() {
        let options = BootOptions::from_command_line;
        let both = BootOptions { scratch: true, dialects: true };
        assert_eq!(options("quiet hearth.scratch panic=-1 hearth.dialects"), both);
        assert_eq!(options("quiet hearth.scratch=no hearth.dialect"), BootOptions::default());
    }
}
