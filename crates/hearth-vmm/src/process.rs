//! A QEMU process as its owner holds it: by a descriptor that can mean no other process, until its end was taken note of.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use crate::sys::{self, RawChild};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

/// A child process, killed and waited for when dropped.
#[derive(Debug)]
pub(crate) struct Child {
    pid: u32,
    pidfd: OwnedFd,
    reaped: bool,
}

impl Child {
    pub(crate) fn new(raw: RawChild) -> Self {
        Self { pid: raw.pid.unsigned_abs(), pidfd: raw.pidfd, reaped: false }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn killer(&self) -> io::Result<Killer> {
        Ok(Killer { pidfd: self.pidfd.try_clone()? })
    }

    /// Waits for the process to end and takes its status.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        // A pidfd becomes readable when its process has ended.
        let ended = sys::watch_readable(self.pidfd.try_clone()?)?;
        ended.readable().await?.retain_ready();
        self.reap()
    }

    fn reap(&mut self) -> io::Result<ExitStatus> {
        let status = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED)?;
        self.reaped = true;
        let code = status.as_ref().and_then(|status| status.exit_status()).unwrap_or(0);
        let signal = status.as_ref().and_then(|status| status.terminating_signal()).unwrap_or(0);
        Ok(ExitStatus::from_raw(code << 8 | signal))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
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
}

impl Killer {
    /// Kills it; that it has ended already is as good.
    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}
