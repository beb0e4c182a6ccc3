//! What only a process's own threads can tell, and what stays as it is for the rest of its life.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use super::script::{Outcome, Script};
use super::sys::Tracee;

/// `struct sigaction` as the kernel has it, and the size of a set of signals, in bytes.
const ACTION: usize = 32;
const SIGNALS: u64 = 8;
/// `PR_GET_TID_ADDRESS` (linux/prctl.h).
const PR_GET_TID_ADDRESS: u64 = 40;

/// Answers of a process's threads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Told {
    /// How signals are handled that are not left to the kernel, by their numbers.
    actions: Vec<(u64, [u8; ACTION])>,
    /// How far behind a thread's own area the C library has its number, which the kernel clears when the thread ends.
    number_behind: u64,
}

impl Told {
    /// Asks them.
    pub(super) fn by(pid: u32, threads: &[Tracee]) -> io::Result<Self> {
        let main = threads.first().ok_or_else(no_threads)?;
        let handled = Signals::of(pid)?.at_rest(pid)?;
        let action = |signal| {
            let mut action = [0; ACTION];
            main.call_for(libc::SYS_rt_sigaction, |place| [signal, 0, place, SIGNALS], &mut action)?;
            Ok((signal, action))
        };
        let actions = changeable().filter(|signal| is_among(*signal, handled)).map(action);
        let actions = actions.collect::<io::Result<_>>()?;
        let behind = |thread: &Tracee| {
            let mut place = [0; 8];
            thread.call_for(libc::SYS_prctl, |out| [PR_GET_TID_ADDRESS, out, 0, 0], &mut place)?;
            Ok(u64::from_le_bytes(place).wrapping_sub(thread.registers.fs_base))
        };
        let all = threads.iter().map(behind).collect::<io::Result<Vec<_>>>()?;
        match all.first() {
            Some(first) if all.iter().all(|one| one == first) => Ok(Self { actions, number_behind: *first }),
            _ => Err(io::Error::other("its threads have their numbers at different places")),
        }
    }

    #[cfg(test)]
    pub(super) fn nothing() -> Self {
        Self { actions: Vec::new(), number_behind: 0 }
    }

    /// Checks of another process, as far as it can be seen from outside, that its threads would tell the same.
    pub(super) fn check(&self, pid: u32) -> io::Result<()> {
        let handled = Signals::of(pid)?.at_rest(pid)?;
        match changeable().all(|signal| is_among(signal, handled) == self.actions.iter().any(|(one, _)| *one == signal))
        {
            true => Ok(()),
            false => Err(io::Error::other("it handles other signals than it did")),
        }
    }

    /// Where a thread's number is.
    pub(super) fn thread_number_place(&self, thread: &Tracee) -> u64 {
        thread.registers.fs_base.wrapping_add(self.number_behind)
    }

    /// Has all signals handled as they are.
    pub(super) fn handle_signals(&self, script: &mut Script) {
        for signal in changeable() {
            let told = self.actions.iter().find(|(one, _)| *one == signal);
            let action = script.data(&told.map_or([0; ACTION], |(_, action)| *action));
            script.call(libc::SYS_rt_sigaction, &[signal.into(), action, 0.into(), SIGNALS.into()], Outcome::Success);
        }
    }
}

fn no_threads() -> io::Error {
    io::Error::other("it has no threads")
}

/// The signals whose handling can be changed.
fn changeable() -> impl Iterator<Item = u64> {
    (1..=64_u64).filter(|signal| ![libc::SIGKILL as u64, libc::SIGSTOP as u64].contains(signal))
}

fn is_among(signal: u64, set: u64) -> bool {
    set & (1 << (signal - 1)) != 0
}

/// A process's sets of signals, a bit each.
struct Signals {
    handled: u64,
    pending: u64,
}

impl Signals {
    fn of(pid: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let set = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            u64::from_str_radix(line.trim(), 16).ok()
        };
        let known = |name| set(name).ok_or_else(|| io::Error::other("its signals cannot be read"));
        let (handled, pending) = (known("SigCgt:")? | known("SigIgn:")?, known("ShdPnd:")? | known("SigPnd:")?);
        Ok(Self { handled, pending })
    }

    /// Those that are handled, of a process that none waits for.
    fn at_rest(self, pid: u32) -> io::Result<u64> {
        let timers = fs::read_to_string(format!("/proc/{pid}/timers")).unwrap_or_default();
        match self.pending == 0 && timers.is_empty() {
            true => Ok(self.handled),
            false => Err(io::Error::other("it has a signal to handle, or a timer that makes some")),
        }
    }
}
