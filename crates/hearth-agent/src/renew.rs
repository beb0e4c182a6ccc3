//! Makes the guest this sandbox's own: after a boot, and after each restore.
//!
//! Everything is checked, then done, in one turn of the agent: no other request, of whatever session, sees a half-renewed guest. The order is
//! the one of [`Renew`]'s fields. The clock comes first, because what follows notes the time; entropy before anything could draw on it;
//! secrets behind the identity, because theirs is the one step that can be refused for want of room.
//!
//! A guest that is to be saved as a template has its files of identity mapped before. What runs first in a restored guest is translated
//! first, under emulation; so a name is then a few stores into memory, and not the way through a file system.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use hearth_protocol::secrets::SecretRequest;
use hearth_protocol::{ErrorCode, Fault, Renew};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec};

use crate::agent::Agent;
use crate::sys::{self, MappedFile};

/// The files that hold the machine's id. The second, D-Bus's, is usually a link to the first, or not there.
const MACHINE_ID: &str = "/etc/machine-id";
const MACHINE_ID_OF_DBUS: &str = "/var/lib/dbus/machine-id";
const HOST_NAME: &str = "/etc/hostname";
const HOSTS: &str = "/etc/hosts";

/// What is known of the files of a guest's identity since it was settled. Good for one renewal, before which nothing else has run.
#[derive(Debug, Default)]
pub(crate) struct Identity(Vec<(&'static str, Option<MappedFile>)>);

impl Identity {
    fn of_machine() -> Self {
        let files = [HOST_NAME, HOSTS, MACHINE_ID, MACHINE_ID_OF_DBUS].map(|path| {
            let flags = OFlags::NOFOLLOW.bits() as i32;
            match OpenOptions::new().read(true).write(true).custom_flags(flags).open(path) {
                Ok(file) => MappedFile::new(&file).ok().map(|mapped| (path, Some(mapped))),
                Err(error) => is_none_of_its_own(&error).then_some((path, None)),
            }
        });
        Self(files.into_iter().flatten().collect())
    }

    /// Writes over a file that was mapped and is as long as the text; false where that has to be done in another way.
    fn write(&mut self, path: &str, text: &str) -> bool {
        let mapped = self.0.iter_mut().find(|(known, _)| *known == path).and_then(|(_, file)| file.as_mut());
        mapped.is_some_and(|file| file.write(text.as_bytes()))
    }

    /// Whether a file was looked for, and is not there or a link.
    fn is_without(&self, path: &str) -> bool {
        self.0.iter().any(|(known, file)| *known == path && file.is_none())
    }
}

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
        let mut identity = self.identity.take();
        let renewed = || -> Result<(), Failure> {
            renew.unix_nanoseconds.map_or(Ok(()), set_clock).map_err(failed("set the clock"))?;
            seed.map_or(Ok(()), |seed| sys::reseed(&seed)).map_err(failed("seed the random generator"))?;
            let named = renew.hostname.map_or(Ok(()), |name| set_host_name(&mut identity, &name));
            named.map_err(failed("set the host name"))?;
            let identified = renew.machine_id.map_or(Ok(()), |id| set_machine_id(&mut identity, &id));
            identified.map_err(failed("set the machine id"))
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

    /// Gets ready for the first renewal, and the first program, of each guest that will be restored from what this one is.
    pub(crate) fn settle(&self) {
        self.processes.forget_ended();
        self.processes.park();
        if self.owns_machine {
            self.identity.replace(Identity::of_machine());
            // What is put off for the disk would come due in the first moments of each.
            rustix::fs::sync();
        }
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

fn set_host_name(identity: &mut Identity, name: &str) -> io::Result<()> {
    rustix::system::sethostname(name.as_bytes())?;
    // The overlay may be full; the name holds all the same, and /etc/hosts maps localhost in any case.
    let options = || OpenOptions::new().create(true).mode(0o644).clone();
    let _ = write_over(identity, HOST_NAME, &format!("{name}\n"), &mut options());
    let hosts = format!("127.0.0.1 localhost {name}\n::1 localhost\n");
    let _ = write_over(identity, HOSTS, &hosts, &mut options());
    Ok(())
}

fn set_machine_id(identity: &mut Identity, id: &str) -> io::Result<()> {
    write_machine_id(identity, MACHINE_ID, id, true)?;
    if identity.is_without(MACHINE_ID_OF_DBUS) {
        return Ok(());
    }
    match write_machine_id(identity, MACHINE_ID_OF_DBUS, id, false) {
        // Else it has the first one's.
        Err(error) if is_none_of_its_own(&error) => Ok(()),
        other => other,
    }
}

/// Whether a file is not there, or a link.
fn is_none_of_its_own(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

fn write_machine_id(identity: &mut Identity, path: &str, id: &str, create: bool) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW.bits() as i32;
    write_over(identity, path, &format!("{id}\n"), OpenOptions::new().create(create).mode(0o444).custom_flags(flags))
}

/// Writes over what is there, mostly a text of the same length: so that a full disk is no obstacle, in one piece, so that nobody reads a
/// mixture, and without emptying the file first, which would cost a restored guest a tenth of its renewal.
fn write_over(identity: &mut Identity, path: &str, text: &str, options: &mut OpenOptions) -> io::Result<()> {
    if identity.write(path, text) {
        return Ok(());
    }
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
            write_machine_id(&mut Identity::default(), &path("id"), id, false).unwrap();
            assert_eq!(fs::read_to_string(path("id")).unwrap(), format!("{id}\n"));
        }
        write_machine_id(&mut Identity::default(), &path("new"), id, true).unwrap();
        assert_eq!(fs::read_to_string(path("new")).unwrap(), format!("{id}\n"));
        assert_eq!(
            write_machine_id(&mut Identity::default(), &path("none"), id, false).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        symlink(path("id"), path("link")).unwrap();
        fs::write(path("id"), "kept").unwrap();
        assert!(write_machine_id(&mut Identity::default(), &path("link"), id, true).is_err());
        assert_eq!(fs::read_to_string(path("id")).unwrap(), "kept");
    }

    #[test]
    fn a_settled_identity_is_written_where_it_was_and_nothing_of_another_length_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hostname");
        fs::write(&path, "before\n").unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut identity = Identity(vec![(HOST_NAME, MappedFile::new(&file).ok()), (MACHINE_ID_OF_DBUS, None)]);
        assert!(identity.write(HOST_NAME, "behind\n"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "behind\n");
        assert!(!identity.write(HOST_NAME, "longer than before\n"), "the file would have to grow");
        assert!(!identity.write(HOSTS, "behind\n"), "nothing is known of it");
        assert_eq!(fs::read_to_string(&path).unwrap(), "behind\n");
        assert!(
            identity.is_without(MACHINE_ID_OF_DBUS) && !identity.is_without(HOST_NAME) && !identity.is_without(HOSTS)
        );
        fs::write(&path, "").unwrap();
        let empty = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        assert!(MappedFile::new(&empty).is_err(), "there is nothing to map");
    }
}
