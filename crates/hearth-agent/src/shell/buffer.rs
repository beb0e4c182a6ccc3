//! The cells of a screen and its cursor: what the control functions of a terminal do to them.

use std::ops::Range;

use super::row::Row;

/// Where the next character goes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cursor {
    pub(super) row: usize,
    pub(super) column: usize,
    /// The last column was written: the next character begins a new row.
    pub(super) full: bool,
    /// Rows are counted from the upper margin.
    pub(super) origin: bool,
    /// Which of the two character sets draws lines.
    pub(super) graphics: [bool; 2],
    /// Which of the two is in use.
    pub(super) set: usize,
}

/// The rows of a screen.
#[derive(Debug)]
pub(super) struct Buffer {
    pub(super) rows: Vec<Row>,
    pub(super) columns: usize,
    pub(super) cursor: Cursor,
    pub(super) saved: Cursor,
    /// The rows that scroll.
    pub(super) margins: Range<usize>,
}

impl Buffer {
    pub(super) fn new(columns: usize, rows: usize) -> Self {
        let blank = std::iter::repeat_with(Row::default).take(rows).collect();
        Self { rows: blank, columns, cursor: Cursor::default(), saved: Cursor::default(), margins: 0..rows }
    }

    /// The row that the cursor is in.
    pub(super) fn row(&mut self) -> &mut Row {
        &mut self.rows[self.cursor.row]
    }

    /// The number of rows down to the last in which there is something to see.
    pub(super) fn used(&self) -> usize {
        self.rows.iter().rposition(|row| !row.is_blank()).map_or(0, |last| last + 1)
    }

    /// Moves rows of `range` up by `count`; those that come in at its end are as new.
    pub(super) fn scroll_up(&mut self, range: Range<usize>, count: usize) {
        let count = count.min(range.len());
        let end = range.end;
        self.rows[range].rotate_left(count);
        self.rows[end - count..end].iter_mut().for_each(Row::reset);
    }

    /// Moves rows of `range` down by `count`; those that come in at its start are as new.
    pub(super) fn scroll_down(&mut self, range: Range<usize>, count: usize) {
        let count = count.min(range.len());
        let start = range.start;
        self.rows[range].rotate_right(count);
        self.rows[start..start + count].iter_mut().for_each(Row::reset);
    }

    /// Puts the cursor in a column.
    pub(super) fn set_column(&mut self, column: usize) {
        self.cursor.column = column.min(self.columns - 1);
        self.cursor.full = false;
    }

    /// Puts the cursor in a row, counted as its origin says.
    pub(super) fn set_row(&mut self, row: usize) {
        let (first, end) = match self.cursor.origin {
            true => (self.margins.start, self.margins.end),
            false => (0, self.rows.len()),
        };
        self.cursor.row = (first + row).min(end - 1);
        self.cursor.full = false;
    }

    /// Moves the cursor up, not past the upper margin from below it.
    pub(super) fn up(&mut self, count: usize) {
        let first = if self.cursor.row >= self.margins.start { self.margins.start } else { 0 };
        self.cursor.row = self.cursor.row.saturating_sub(count).max(first);
        self.cursor.full = false;
    }

    /// Moves the cursor down, not past the lower margin from above it.
    pub(super) fn down(&mut self, count: usize) {
        let end = if self.cursor.row < self.margins.end { self.margins.end } else { self.rows.len() };
        self.cursor.row = (self.cursor.row + count).min(end - 1);
        self.cursor.full = false;
    }

    /// Gives it another size. Returns how many rows at the top no longer fit: the caller takes them off with [`Self::scroll_up`] and
    /// [`Self::cut`].
    pub(super) fn excess(&self, rows: usize) -> usize {
        let needed = self.used().max(self.cursor.row + 1);
        needed.saturating_sub(rows)
    }

    /// Cuts or grows it to a size, at its end. What is too long for the new width is kept: it is still text.
    pub(super) fn cut(&mut self, columns: usize, rows: usize) {
        self.rows.resize_with(rows, Row::default);
        (self.columns, self.margins) = (columns, 0..rows);
        for cursor in [&mut self.cursor, &mut self.saved] {
            (cursor.row, cursor.column) = (cursor.row.min(rows - 1), cursor.column.min(columns - 1));
            cursor.full = false;
        }
    }
}
