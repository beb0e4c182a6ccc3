//! A screen that is fed bytes and read as lines.

use std::ops::Range;

use vte::Parser;

use super::screen::Screen;

/// What a shell's terminal shows.
pub(crate) struct Terminal {
    parser: Parser,
    screen: Screen,
    /// The beginning of a character whose end has not come.
    cut_off: Vec<u8>,
}

/// Lines that have changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lines {
    /// With a newline between two.
    pub(crate) text: String,
    pub(crate) count: u64,
    /// The number of the first, counted from the first there ever was; of a program's own screen, from its top.
    pub(crate) first: u64,
    /// Where the next read begins.
    pub(crate) next: u64,
    /// More have changed than were let through.
    pub(crate) more: bool,
    /// Some that had changed have been dropped.
    pub(crate) gap: bool,
    pub(crate) alternate: bool,
}

/// A line, which may go over several rows.
struct Line {
    number: u64,
    rows: Range<usize>,
    changed: u64,
}

impl Terminal {
    /// Makes an empty screen of a size.
    pub(crate) fn new(columns: u16, rows: u16) -> Self {
        Self { parser: Parser::new(), screen: Screen::new(columns, rows), cut_off: Vec::new() }
    }

    /// Shows what a program wrote. Cuts may be anywhere.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        // Characters go to the parser whole: it loses the one behind a character that came in two parts, if a third is cut off, too.
        while !self.cut_off.is_empty()
            && let Some((&next, rest)) = bytes.split_first()
        {
            self.cut_off.push(next);
            bytes = rest;
            let whole = whole_characters(&self.cut_off);
            self.parser.advance(&mut self.screen, &self.cut_off[..whole]);
            self.cut_off.drain(..whole);
        }
        let whole = whole_characters(bytes);
        self.parser.advance(&mut self.screen, &bytes[..whole]);
        self.cut_off.extend_from_slice(&bytes[whole..]);
    }

    /// Changes the size.
    pub(crate) fn resize(&mut self, columns: u16, rows: u16) {
        self.screen.resize(columns, rows);
    }

    /// Whether anything has changed since a read that ended at `since`.
    pub(crate) fn has_changed(&self, since: u64) -> bool {
        self.screen.clock > since
    }

    /// The lines that have changed since a read whose `next` was `since`, as they are now, in the order of the screen. At most
    /// `limit` bytes, or one line; of more the ones that changed first, so that the next read goes on where this one ended.
    pub(crate) fn read(&self, since: u64, limit: usize) -> Lines {
        let mut changed = self.changed_lines(since);
        let all = changed.len();
        changed.sort_by_key(|line| line.changed);
        let (mut chosen, mut size) = (Vec::new(), 0);
        for line in changed {
            let mut text = String::new();
            line.rows.clone().for_each(|row| self.write_row(row, &mut text));
            size += text.len() + 1;
            if size > limit && !chosen.is_empty() {
                break;
            }
            chosen.push((line, text));
        }
        let more = chosen.len() < all;
        let last = chosen.last().map_or(self.screen.clock, |(line, _)| line.changed);
        chosen.sort_by_key(|(line, _)| line.rows.start);
        let first = chosen.first().map_or(0, |(line, _)| line.number);
        let text: Vec<_> = chosen.iter().map(|(_, text)| text.as_str()).collect();
        Lines {
            text: text.join("\n"),
            count: text.len() as u64,
            first,
            next: if more { last } else { self.screen.clock },
            more,
            gap: self.screen.alternate.is_none() && self.screen.history.has_lost(since),
            alternate: self.screen.alternate.is_some(),
        }
    }

    /// Rows are counted from the oldest that is kept, through the history and down the screen.
    fn changed_lines(&self, since: u64) -> Vec<Line> {
        let shown = self.screen.shown();
        let end = self.past() + shown.used().max(shown.cursor.row + 1);
        let dropped = if self.screen.alternate.is_some() { 0 } else { self.screen.history.dropped() };
        let (mut lines, mut line) = (Vec::new(), Line { number: dropped, rows: 0..0, changed: 0 });
        for row in 0..end {
            let (changed, wraps) = self.row(row);
            line.rows.end = row + 1;
            line.changed = line.changed.max(changed);
            if !wraps || row + 1 == end {
                let next = Line { number: line.number + 1, rows: row + 1..row + 1, changed: 0 };
                let line = std::mem::replace(&mut line, next);
                if line.changed > since {
                    lines.push(line);
                }
            }
        }
        lines
    }

    /// The rows before the screen: none while a program has it to itself.
    fn past(&self) -> usize {
        if self.screen.alternate.is_some() { 0 } else { self.screen.history.lines().len() }
    }

    fn row(&self, row: usize) -> (u64, bool) {
        match row.checked_sub(self.past()) {
            Some(row) => (self.screen.shown().rows[row].changed, self.screen.shown().rows[row].wraps),
            None => (self.screen.history.lines()[row].changed, self.screen.history.lines()[row].wraps),
        }
    }

    fn write_row(&self, row: usize, text: &mut String) {
        let Some(row) = row.checked_sub(self.past()) else {
            return text.push_str(&self.screen.history.lines()[row].text);
        };
        let shown = self.screen.shown();
        let before_cursor = shown.cursor.column + usize::from(shown.cursor.full);
        shown.rows[row].write_text(if row == shown.cursor.row { before_cursor } else { 0 }, text);
    }
}

/// The bytes up to the last character that is not whole: what cannot be one counts as whole.
fn whole_characters(bytes: &[u8]) -> usize {
    let last = bytes.len().saturating_sub(3);
    let begun = |index: usize| {
        let error = std::str::from_utf8(&bytes[index..]).err()?;
        error.error_len().is_none().then_some(index + error.valid_up_to())
    };
    (last..bytes.len()).find_map(begun).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests;
