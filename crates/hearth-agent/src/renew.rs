//! Makes the guest this sandbox's own: after a boot, and after each restore.
//!
//! Everything is checked, then done, in one turn of the agent: no other request, of whatever session, sees a half-renewed guest. The order is
//! the one of [`Renew`]'s fields. The clock comes first, because what follows notes the time; entropy before anything could draw on it;
//! secrets behind the identity, because theirs is the one step that can be refused for want of room.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use hearth_protocol::secrets::SecretRequest;
use hearth_protocol::{ErrorCode, Fault, Renew};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec};

use crate::agent::Agent;
use crate::sys;

/// The files that hold the machine's id. The second, D-Bus's, is usually a link to the first, or not there.
const MACHINE_ID: &str = "/etc/machine-id";
const MACHINE_ID_OF_DBUS: &str = "/var/lib/dbus/machine-id";

impl Agent {
    /// Does what `renew`, which is valid in itself, asks for.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidField`] and [`ErrorCode::TooLarge`] before anything has changed; [`ErrorCode::Io`] and
    /// [`ErrorCode::NoSpace`] for the step that the system refused: those before it are done.
    pub(crate) fn renew(&self, renew: Renew) -> Result<(), Fault> {
        if renew.concerns_machine() && !self.owns_machine {
            let message = "this agent is an ordinary process: the clock, seed, name and id are not its to set";
            return Err(Fault::never_started(ErrorCode::InvalidField, message));
        }
        let seed = renew.seed_bytes();
        let secrets = renew.secrets.map(|secrets| self.processes.secrets.plan(SecretRequest::Replace { secrets }));
        let change = secrets.transpose()?.flatten();
        let renewed = || -> Result<(), Failure> {
            renew.unix_nanoseconds.map_or(Ok(()), set_clock).map_err(failed("set the clock"))?;
            seed.map_or(Ok(()), |seed| sys::reseed(&seed)).map_err(failed("seed the random generator"))?;
            renew.hostname.map_or(Ok(()), |name| set_host_name(&name)).map_err(failed("set the host name"))?;
            renew.machine_id.map_or(Ok(()), |id| set_machine_id(&id)).map_err(failed("set the machine id"))
        };
        renewed().map_err(Failure::into_fault)?;
        if let Some(change) = change {
            let failed = |fault: Fault| Fault::failed(fault.code, fault.message);
            self.processes.change_secrets(change).map_err(failed)?;
        }
        if let Some(variables) = renew.env {
            self.processes.give_variables(variables);
        }
        Ok(())
    }
}

/// A step that the system refused.
struct Failure {
    step: &'static str,
    error: io::Error,
}

fn failed(step: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure { step, error }
}

impl Failure {
    fn into_fault(self) -> Fault {
        let full = Errno::from_io_error(&self.error) == Some(Errno::NOSPC);
        let code = if full { ErrorCode::NoSpace } else { ErrorCode::Io };
        Fault::failed(code, format!("{}: {}", self.step, self.error))
    }
}

fn set_clock(unix_nanoseconds: u64) -> io::Result<()> {
    let (seconds, nanoseconds) = (unix_nanoseconds / 1_000_000_000, unix_nanoseconds % 1_000_000_000);
    let time = Timespec { tv_sec: seconds as i64, tv_nsec: nanoseconds as i64 };
    Ok(rustix::time::clock_settime(ClockId::Realtime, time)?)
}

fn set_host_name(name: &str) -> io::Result<()> {
    rustix::system::sethostname(name.as_bytes())?;
    // The overlay may be full; the name holds all the same, and /etc/hosts maps localhost in any case.
    let _ = write_over("/etc/hostname", &format!("{name}\n"), OpenOptions::new().create(true).mode(0o644));
    let hosts = format!("127.0.0.1 localhost {name}\n::1 localhost\n");
    let _ = write_over("/etc/hosts", &hosts, OpenOptions::new().create(true).mode(0o644));
    Ok(())
}

fn set_machine_id(id: &str) -> io::Result<()> {
    write_machine_id(MACHINE_ID, id, true)?;
    match write_machine_id(MACHINE_ID_OF_DBUS, id, false) {
        // Not there, or a link to the first.
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {
            Ok(())
        }
        other => other,
    }
}

fn write_machine_id(path: &str, id: &str, create: bool) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW.bits() as i32;
    write_over(path, &format!("{id}\n"), OpenOptions::new().create(create).mode(0o444).custom_flags(flags))
}

/// Writes over what is there, mostly a text of the same length: so that a full disk is no obstacle, in one piece, so that nobody reads a
/// mixture, and without emptying the file first, which would cost a restored guest a tenth of its renewal.
fn write_over(path: &str, text: &str, options: &mut OpenOptions) -> io::Result<()> {
    let file = options.write(true).truncate(false).open(path)?;
    file.write_all_at(text.as_bytes(), 0)?;
    let length = text.len() as u64;
    if file.metadata()?.len() == length { Ok(()) } else { file.set_len(length) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_machine_id_is_written_whole_over_any_other_and_through_no_link() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let id = "0123456789abcdef0123456789abcdef";
        for old in ["", "uninitialized\n", &"f".repeat(100)] {
            fs::write(path("id"), old).unwrap();
            write_machine_id(&path("id"), id, false).unwrap();
            assert_eq!(fs::read_to_string(path("id")).unwrap(), format!("{id}\n"));
        }
        write_machine_id(&path("new"), id, true).unwrap();
        assert_eq!(fs::read_to_string(path("new")).unwrap(), format!("{id}\n"));
        assert_eq!(write_machine_id(&path("none"), id, false).unwrap_err().kind(), io::ErrorKind::NotFound);
        symlink(path("id"), path("link")).unwrap();
        fs::write(path("id"), "kept").unwrap();
        assert!(write_machine_id(&path("link"), id, true).is_err());
        assert_eq!(fs::read_to_string(path("id")).unwrap(), "kept");
    }
}
