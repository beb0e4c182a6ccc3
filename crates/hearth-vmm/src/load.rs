//! What a machine costs the host at a moment.

use std::io;
use std::time::Duration;

use crate::memory::{self, HostMemory};

/// What a machine's QEMU takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Its memory.
    pub memory: HostMemory,
    /// The processor time that it has used since it was started, its guest's included.
    pub cpu: Duration,
}

impl Load {
    /// Measures the machine whose QEMU has this number. May take some milliseconds: the kernel looks at all of its memory.
    ///
    /// # Errors
    /// When QEMU has ended, and when `/proc` does not let this user look.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let ticks = ticks(&stat).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        let cpu = Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
        Ok(Self { memory: memory::of_process(pid)?, cpu })
    }
}

/// Clock ticks in user and kernel mode: the 14th and 15th field of `/proc/PID/stat` (proc_pid_stat(5)). The second is a name that may hold
/// anything, in parentheses.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_counted_whatever_the_process_is_called() {
        let stat = "7 (a) R (b)) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 9 9 20 0 4 0 100 5000 10 18446744073709551615";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks(""), None);
        assert_eq!(ticks("7 (a) S 1 7"), None);
    }

    #[test]
    fn a_process_that_runs_is_measured_and_one_that_has_ended_is_not() {
        let load = Load::of(std::process::id()).unwrap();
        assert!(load.memory.rss_kib > 0);
        assert!(Load::of(u32::MAX).is_err());
    }
}
