//! What has scrolled off a screen: rows as text, the newest of them, within a bound.

use std::collections::VecDeque;

use super::row::Row;

/// The memory that it may take, in bytes.
const KEPT: usize = 1024 * 1024;
/// What a row takes beside its text.
const OVERHEAD: usize = size_of::<Line>();

/// A row that can no longer change.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) text: Box<str>,
    pub(super) wraps: bool,
    pub(super) changed: u64,
}

/// The rows there are, the oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    lines: VecDeque<Line>,
    bytes: usize,
    /// When a row that is gone last changed.
    lost: u64,
    /// How many lines are gone.
    dropped: u64,
}

impl History {
    /// Takes in a row.
    pub(super) fn push(&mut self, row: &Row) {
        let mut text = String::new();
        row.write_text(0, &mut text);
        self.bytes += text.len() + OVERHEAD;
        self.lines.push_back(Line { text: text.into(), wraps: row.wraps, changed: row.changed });
        while self.bytes > KEPT
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= oldest.text.len() + OVERHEAD;
            self.lost = self.lost.max(oldest.changed);
            self.dropped += u64::from(!oldest.wraps);
        }
    }

    /// The rows that are kept.
    pub(super) fn lines(&self) -> &VecDeque<Line> {
        &self.lines
    }

    /// The lines that came before those that are kept.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether a row is gone that changed after `since`.
    pub(super) fn has_lost(&self, since: u64) -> bool {
        self.lost > since
    }
}
