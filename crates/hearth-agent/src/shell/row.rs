//! One row of a screen: cells, what is combined with them, and when it last changed.

use std::ops::Range;

/// Stands behind a character that is two cells wide.
const CONTINUED: char = '\0';
/// The combining characters that one row keeps; more are dropped.
const MARKS: usize = 256;
/// The combining characters that one cell keeps.
const MARKS_PER_CELL: usize = 8;

/// A row. What lies behind its last cell is blank.
#[derive(Debug, Default)]
pub(super) struct Row {
    cells: Vec<char>,
    marks: Vec<(usize, char)>,
    /// The next row goes on with the same line: it was too long for one.
    pub(super) wraps: bool,
    /// The reading of the screen's clock when it last changed; 0 for one where nothing ever was.
    pub(super) changed: u64,
}

impl Row {
    /// Makes it as new, and keeps its memory.
    pub(super) fn reset(&mut self) {
        self.cells.clear();
        self.marks.clear();
        (self.wraps, self.changed) = (false, 0);
    }

    /// Whether nothing can be seen in it.
    pub(super) fn is_blank(&self) -> bool {
        self.cells.iter().all(|&cell| cell == ' ')
    }

    /// Puts a character of `width` cells, 1 or 2, at a column.
    pub(super) fn put(&mut self, column: usize, character: char, width: usize) {
        let end = column + width;
        if self.cells.len() < end {
            self.cells.resize(end, ' ');
        }
        self.split_wide(column);
        self.split_wide(end);
        self.drop_marks(column..end);
        self.cells[column] = character;
        if width == 2 {
            self.cells[column + 1] = CONTINUED;
        }
    }

    /// Combines a character of no width with the one at or, where that is wide, before a column.
    pub(super) fn combine(&mut self, column: usize, mark: char) {
        let column = column - usize::from(column > 0 && self.cells.get(column) == Some(&CONTINUED));
        let present = self.marks.iter().filter(|(of, _)| *of == column).count();
        if column < self.cells.len() && present < MARKS_PER_CELL && self.marks.len() < MARKS {
            self.marks.push((column, mark));
        }
    }

    /// Blanks cells.
    pub(super) fn erase(&mut self, columns: Range<usize>) {
        self.split_wide(columns.start);
        self.split_wide(columns.end);
        self.drop_marks(columns.clone());
        if columns.end >= self.cells.len() {
            self.cells.truncate(columns.start);
            self.wraps = false;
        } else if columns.start < columns.end {
            self.cells[columns].fill(' ');
        }
    }

    /// Moves what is at and behind a column to the right; what is moved out of `columns` is lost.
    pub(super) fn insert(&mut self, column: usize, count: usize, columns: usize) {
        if column >= self.cells.len() {
            return;
        }
        self.split_wide(column);
        let count = count.min(columns.saturating_sub(column));
        self.cells.splice(column..column, std::iter::repeat_n(' ', count));
        self.marks.iter_mut().filter(|(of, _)| *of >= column).for_each(|(of, _)| *of += count);
        if self.cells.len() > columns {
            self.split_wide(columns);
            self.cells.truncate(columns);
            self.drop_marks(columns..usize::MAX);
        }
    }

    /// Takes cells out; what is behind them moves to the left.
    pub(super) fn delete(&mut self, column: usize, count: usize) {
        let end = (column + count).min(self.cells.len());
        if column >= end {
            return;
        }
        self.split_wide(column);
        self.split_wide(end);
        self.drop_marks(column..end);
        self.cells.drain(column..end);
        self.marks.iter_mut().filter(|(of, _)| *of >= end).for_each(|(of, _)| *of -= end - column);
    }

    /// Adds its text: without the blanks at its end, but for those before column `least`, and whole where the line goes on.
    pub(super) fn write_text(&self, least: usize, text: &mut String) {
        let seen = self.cells.iter().rposition(|&cell| cell != ' ').map_or(0, |last| last + 1);
        let length = if self.wraps { self.cells.len() } else { seen.max(least.min(self.cells.len())) };
        for (column, &cell) in self.cells[..length].iter().enumerate().filter(|(_, cell)| **cell != CONTINUED) {
            text.push(cell);
            if !self.marks.is_empty() {
                text.extend(self.marks.iter().filter(|(of, _)| *of == column).map(|(_, mark)| mark));
            }
        }
    }

    /// Blanks both halves of a wide character whose second half is at `column`.
    fn split_wide(&mut self, column: usize) {
        if column > 0 && self.cells.get(column) == Some(&CONTINUED) {
            self.cells[column - 1..=column].fill(' ');
            self.drop_marks(column - 1..column);
        }
    }

    fn drop_marks(&mut self, columns: Range<usize>) {
        if !self.marks.is_empty() {
            self.marks.retain(|(column, _)| !columns.contains(column));
        }
    }
}
