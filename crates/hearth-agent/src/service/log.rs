//! The log of a service: what each of its processes wrote, one behind the other.
//!
//! A run of the service adds the two output streams of its process; positions go on from run to run. A stream keeps its own head and tail, as
//! that of any process does; beyond that the oldest runs are dropped. Nothing is copied to keep it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;

use crate::process::{OUTPUT_PIECE, Output};

/// The runs that are kept.
const RUNS: usize = 32;
/// The memory that a stream's runs, but for the last, may take, in bytes.
const MEMORY: usize = 2 * 1024 * 1024;

/// One stream of a log.
#[derive(Default)]
pub(super) struct Log {
    runs: RefCell<VecDeque<Run>>,
}

/// What one process wrote.
struct Run {
    /// Where it begins in the log.
    start: u64,
    /// How much of it counts, once another has followed.
    length: Cell<Option<u64>>,
    output: Rc<Output>,
}

impl Run {
    fn length(&self) -> u64 {
        self.length.get().unwrap_or_else(|| self.output.total())
    }

    fn end(&self) -> u64 {
        self.start + self.length()
    }

    /// What is kept at or after `position`, within this run.
    fn read(&self, position: u64) -> Option<(u64, Bytes)> {
        let from = position.saturating_sub(self.start);
        let left = usize::try_from(self.length().saturating_sub(from)).unwrap_or(usize::MAX);
        let piece = self.output.cursor(from, false).read(left.min(OUTPUT_PIECE), |at, bytes| {
            // A jump over what is no longer kept may lead behind what counts.
            let kept = usize::try_from(self.length().saturating_sub(at)).unwrap_or(usize::MAX);
            (self.start + at, Bytes::copy_from_slice(&bytes[..bytes.len().min(kept)]))
        });
        piece.filter(|(_, bytes)| !bytes.is_empty())
    }
}

impl Log {
    /// Goes on with the output of another process.
    pub(super) fn follow_with(&self, output: Rc<Output>) {
        let mut runs = self.runs.borrow_mut();
        let start = runs.back().map_or(0, Run::end);
        if let Some(last) = runs.back() {
            last.length.set(Some(last.length()));
        }
        while runs.len() >= RUNS || runs.iter().map(|run| run.output.memory()).sum::<usize>() > MEMORY {
            runs.pop_front();
        }
        runs.push_back(Run { start, length: Cell::new(None), output });
    }

    /// Where it ends now.
    pub(super) fn end(&self) -> u64 {
        self.runs.borrow().back().map_or(0, Run::end)
    }

    /// The output that is being written.
    pub(super) fn current(&self) -> Option<Rc<Output>> {
        self.runs.borrow().back().map(|run| Rc::clone(&run.output))
    }

    /// The next bytes that are kept at or after `position`, with the position of the first.
    pub(super) fn read(&self, position: u64) -> Option<(u64, Bytes)> {
        let runs = self.runs.borrow();
        runs.iter().filter(|run| run.end() > position).find_map(|run| run.read(position))
    }

    /// Where the last `lines` lines that are kept begin. A last line without an end counts as one.
    pub(super) fn tail(&self, lines: u64) -> u64 {
        let mut total = 0;
        self.each_line(|_| {
            total += 1;
            true
        });
        let (mut skipped, mut start) = (0, self.end());
        self.each_line(|at| {
            if skipped + lines >= total {
                start = start.min(at);
                return false;
            }
            skipped += 1;
            true
        });
        start
    }

    /// Calls `take` with the position of each line, until it has enough.
    fn each_line(&self, mut take: impl FnMut(u64) -> bool) {
        let (mut position, mut at_start) = (0, true);
        while let Some((at, bytes)) = self.read(position) {
            // What comes behind a gap is the rest of some line.
            at_start |= at > position;
            position = at + bytes.len() as u64;
            let mut rest = 0;
            while rest < bytes.len() {
                if at_start && !take(at + rest as u64) {
                    return;
                }
                let newline = memchr::memchr(b'\n', &bytes[rest..]);
                at_start = newline.is_some();
                rest = newline.map_or(bytes.len(), |newline| rest + newline + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(runs: &[&str]) -> Log {
        let log = Log::default();
        for run in runs {
            let output = Output::alone();
            output.write(run.as_bytes());
            log.follow_with(output);
        }
        log
    }

    fn read_from(log: &Log, mut position: u64) -> (String, u64) {
        let (mut text, mut dropped) = (Vec::new(), 0);
        while let Some((at, bytes)) = log.read(position) {
            dropped += at - position;
            position = at + bytes.len() as u64;
            text.extend_from_slice(&bytes);
        }
        (String::from_utf8(text).unwrap(), dropped)
    }

    #[test]
    fn runs_follow_each_other_and_positions_go_on() {
        let log = log(&["one\n", "", "two\nthree"]);
        assert_eq!(log.end(), 13);
        assert_eq!(read_from(&log, 0), ("one\ntwo\nthree".to_owned(), 0));
        assert_eq!(read_from(&log, 6), ("o\nthree".to_owned(), 0));
        assert_eq!(read_from(&log, 13), (String::new(), 0));
    }

    #[test]
    fn a_tail_is_whole_lines_from_the_end_whatever_run_they_are_of() {
        let log = log(&["a\r\nb\n", "c\n\nd"]);
        for (lines, expected) in [
            (0, ""),
            (1, "d"),
            (2, "\nd"),
            (3, "c\n\nd"),
            (4, "b\nc\n\nd"),
            (5, "a\r\nb\nc\n\nd"),
            (u64::MAX, "a\r\nb\nc\n\nd"),
        ] {
            assert_eq!(read_from(&log, log.tail(lines)).0, expected, "{lines}");
        }
        assert_eq!(Log::default().tail(3), 0);
    }

    #[test]
    fn a_log_that_ends_with_a_newline_has_no_empty_last_line() {
        let log = log(&["a\nb\n"]);
        assert_eq!(read_from(&log, log.tail(1)).0, "b\n");
    }

    #[test]
    fn a_gap_inside_a_run_is_counted_and_begins_a_line() {
        let long: String = (0..400_000).map(|number| format!("{number}\n")).collect();
        let log = log(&[&long]);
        let (text, dropped) = read_from(&log, 0);
        assert_eq!(text.len() as u64 + dropped, long.len() as u64);
        assert!(dropped > 0 && text.ends_with("399999\n"));
        assert_eq!(read_from(&log, log.tail(2)), ("399998\n399999\n".to_owned(), 0));
    }

    #[test]
    fn old_runs_are_dropped_and_counted() {
        let runs: Vec<String> = (0..RUNS + 3).map(|number| format!("{number:03}\n")).collect();
        let log = log(&runs.iter().map(String::as_str).collect::<Vec<_>>());
        let (text, dropped) = read_from(&log, 0);
        assert_eq!((dropped, log.end()), (3 * 4, 4 * runs.len() as u64));
        assert!(text.starts_with("003\n"));
        let large = "x".repeat(1 << 20);
        let log = self::log(&[&large, &large, &large, &large]);
        let (text, dropped) = read_from(&log, 0);
        assert!(dropped >= 1 << 20 && text.len() as u64 + dropped == 4 << 20);
    }
}
