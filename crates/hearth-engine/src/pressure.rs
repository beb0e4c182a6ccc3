//! Whether the host's memory is short: by what it could still give, and by how long its programs wait for it.

use std::fs;

use crate::preflight::available_memory;

/// The share of the last ten seconds, in percent, in which something waited for memory: from here on it is short whatever is free.
const STALLED: f64 = 20.0;

/// What the host says of its memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pressure {
    /// What it can give without swapping, in bytes; `None` where it does not say.
    pub(crate) available: Option<u64>,
    /// The share of time in which something waited, in percent; `None` where the kernel does not count.
    pub(crate) stalled: Option<f64>,
}

impl Pressure {
    /// Looks.
    pub(crate) fn now() -> Self {
        let stalled = fs::read_to_string("/proc/pressure/memory").ok().and_then(|text| stalled(&text));
        Self { available: available_memory(), stalled }
    }

    /// Whether something must be given back, where so many bytes are to stay free.
    pub(crate) fn is_short(&self, floor: u64) -> bool {
        self.available.is_some_and(|available| available < floor)
            || self.stalled.is_some_and(|stalled| stalled >= STALLED)
    }

    /// How many more times so many bytes can be taken.
    pub(crate) fn room_for(&self, bytes: u64, floor: u64) -> usize {
        let free = self.available.map_or(u64::MAX, |available| available.saturating_sub(floor));
        usize::try_from(free / bytes.max(1)).unwrap_or(usize::MAX)
    }
}

/// Reads `some avg10=…`, of a file in the format of the kernel's `accounting/psi.rst`.
fn stalled(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    line.split_whitespace().find_map(|field| field.strip_prefix("avg10="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_short_below_the_floor_or_when_programs_wait_for_it() {
        let host = |available, stalled| Pressure { available, stalled };
        assert!(host(Some(99), None).is_short(100) && host(Some(500), Some(31.5)).is_short(100));
        assert!(!host(Some(100), Some(3.0)).is_short(100) && !host(None, None).is_short(100));
        assert_eq!((host(Some(350), None).room_for(100, 100), host(Some(99), None).room_for(10, 100)), (2, 0));
    }

    #[test]
    fn the_kernels_figures_are_read() {
        let text =
            "some avg10=12.50 avg60=0.04 avg300=0.02 total=468339\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!(stalled(text), Some(12.5));
        assert_eq!(stalled("full avg10=1.0"), None);
    }
}
