//! What a machine costs the host in memory.

use std::io;

/// A process's memory on the host in KiB, from `/proc/PID/smaps_rollup`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostMemory {
    /// All resident pages; shared ones count in full.
    pub rss_kib: u64,
    /// Resident pages, each divided by the number of processes that share it.
    pub pss_kib: u64,
    /// Pages that belong to no file: QEMU's own, and what a guest has changed of a template. A fresh machine's memory is a
    /// file without a name and counts in the other two only.
    pub anonymous_kib: u64,
}

pub(crate) fn of_process(pid: u32) -> io::Result<HostMemory> {
    std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).map(|text| parse(&text))
}

fn parse(text: &str) -> HostMemory {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    HostMemory { rss_kib: field("Rss"), pss_kib: field("Pss"), anonymous_kib: field("Anonymous") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_by_their_whole_names() {
        let text = "55d-7ff ---p 00000000 00:00 0 [rollup]\nRss:    300 kB\nPss:   200 kB\nPss_Anon: 9 kB\nAnonymous:   100 kB\n";
        assert_eq!(parse(text), HostMemory { rss_kib: 300, pss_kib: 200, anonymous_kib: 100 });
        assert_eq!(parse(""), HostMemory::default());
    }
}
