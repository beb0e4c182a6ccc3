//! A QEMU process as its owner holds it: by a descriptor that can mean no other process, until its end was taken note of.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sys::{self, RawChild};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use serde::{Deserialize, Serialize};

/// A process that is held, killed when dropped; one that this process has started is waited for then as well.
#[derive(Debug)]
pub(crate) struct Child {
    pid: u32,
    pidfd: OwnedFd,
    whose: Whose,
    reaped: bool,
    released: Arc<AtomicBool>,
}

/// Who has started a process, and so learns how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Own,
    /// An earlier owner has, which has ended.
    Adopted,
}

impl Child {
    pub(crate) fn new(raw: RawChild) -> Self {
        Self::held(raw.pid.unsigned_abs(), raw.pidfd, Whose::Own)
    }

    /// Takes over a process that was proven to be the one that is meant.
    pub(crate) fn adopted(pid: u32, pidfd: OwnedFd) -> Self {
        Self::held(pid, pidfd, Whose::Adopted)
    }

    fn held(pid: u32, pidfd: OwnedFd, whose: Whose) -> Self {
        Self { pid, pidfd, whose, reaped: false, released: Arc::default() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn killer(&self) -> io::Result<Killer> {
        Ok(Killer { pidfd: self.pidfd.try_clone()?, released: self.released.clone() })
    }

    /// Waits for the process to end and takes its status, which only whoever has started it can.
    pub(crate) async fn wait(&mut self) -> io::Result<Option<ExitStatus>> {
        // A pidfd becomes readable when its process has ended.
        let ended = sys::watch_readable(self.pidfd.try_clone()?)?;
        ended.readable().await?.retain_ready();
        self.reap()
    }

    fn reap(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.whose == Whose::Adopted {
            self.reaped = true;
            return Ok(None);
        }
        let status = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED)?;
        self.reaped = true;
        let code = status.as_ref().and_then(|status| status.exit_status()).unwrap_or(0);
        let signal = status.as_ref().and_then(|status| status.terminating_signal()).unwrap_or(0);
        Ok(Some(ExitStatus::from_raw(code << 8 | signal)))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped && !self.released.load(Ordering::Acquire) {
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
            // A killed process ends without delay, and a zombie would keep its number.
            drop(self.reap());
        }
    }
}

/// The power to kill one process.
#[derive(Debug)]
pub(crate) struct Killer {
    pidfd: OwnedFd,
    released: Arc<AtomicBool>,
}

impl Killer {
    /// Kills it; that it has ended already is as good.
    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Leaves it running when whoever holds it lets go.
    pub(crate) fn release(&self) {
        self.released.store(true, Ordering::Release);
    }
}

/// What makes a process itself: no other one has all three, before or after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessRecord {
    pid: u32,
    /// When it was started, in the system's ticks since its boot.
    start: u64,
    /// The boot of the system.
    boot: String,
}

impl ProcessRecord {
    /// Describes a process that is there.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let start = started(pid).ok_or_else(|| io::Error::other("the process cannot be described"))?;
        Ok(Self { pid, start, boot: boot()? })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Takes hold of the process, if it is there: of it and of no other.
    pub(crate) fn find(&self) -> io::Result<Option<OwnedFd>> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let (Some(pid), true) = (pid, boot()? == self.boot) else { return Ok(None) };
        // The descriptor comes first: what is then read under the number is of this process, or of a later one, whose start is another.
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok((started(self.pid) == Some(self.start) && !has_ended(&pidfd, None)?).then_some(pidfd))
    }
}

/// Kills a process and waits for its end, at most for a time. Returns whether it has ended.
pub(crate) fn kill_and_wait(pidfd: &OwnedFd, patience: Timespec) -> io::Result<bool> {
    let _ = pidfd_send_signal(pidfd, Signal::KILL);
    has_ended(pidfd, Some(patience))
}

fn has_ended(pidfd: &OwnedFd, patience: Option<Timespec>) -> io::Result<bool> {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut ended = [PollFd::new(pidfd, PollFlags::IN)];
    Ok(poll(&mut ended, Some(&patience.unwrap_or(at_once)))? > 0)
}

/// The 22nd field of `/proc/PID/stat`; the second, a name in parentheses, may hold anything.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()
}

fn boot() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_its_record_and_no_other_is() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let record = ProcessRecord::of(child.id()).unwrap();
        assert!(record.find().unwrap().is_some());
        let others = [
            ProcessRecord { start: record.start + 1, ..record.clone() },
            ProcessRecord { boot: "another".into(), ..record.clone() },
            ProcessRecord { pid: 1, ..record.clone() },
            ProcessRecord { pid: 0, ..record.clone() },
        ];
        others.iter().for_each(|other| assert!(other.find().unwrap().is_none(), "{other:?}"));
        let pidfd = record.find().unwrap().unwrap();
        assert!(kill_and_wait(&pidfd, Timespec { tv_sec: 60, tv_nsec: 0 }).unwrap());
        // Its number is still taken until it is waited for.
        assert!(record.find().unwrap().is_none(), "one that has ended is not there");
        child.wait().unwrap();
        assert!(record.find().unwrap().is_none());
    }
}
