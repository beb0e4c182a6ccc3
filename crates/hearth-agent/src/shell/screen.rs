//! A terminal's screen as text: what a person would see who sat there, and could scroll back.
//!
//! `vte` takes the stream apart; here the text and the control functions that move or remove text are done, as `xterm-256color`
//! is known to do them. Colours, titles and questions to the terminal change no text and are passed over. Two things differ on purpose,
//! because text is what is wanted: clearing the whole screen scrolls it off instead, and clearing what has scrolled off does nothing.
//!
//! Whatever a program writes, time and memory are bounded: by the size of the screen, and by what [`History`] keeps.

use unicode_width::UnicodeWidthChar;
use vte::{Params, Perform};

use super::buffer::{Buffer, Cursor};
use super::history::History;
use super::row::Row;

const TAB: usize = 8;

/// A screen and what has scrolled off it.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) main: Buffer,
    /// The screen of a program that has it to itself, while there is one.
    pub(super) alternate: Option<Buffer>,
    pub(super) history: History,
    /// Counts changes.
    pub(super) clock: u64,
    /// A full row is followed by the next one.
    wrapping: bool,
    /// A character moves those behind it.
    inserting: bool,
    /// The last character, to be repeated.
    last: Option<char>,
}

impl Screen {
    pub(super) fn new(columns: u16, rows: u16) -> Self {
        let mut screen = Self {
            main: Buffer::new(columns.max(1).into(), rows.max(1).into()),
            alternate: None,
            history: History::default(),
            clock: 0,
            wrapping: true,
            inserting: false,
            last: None,
        };
        screen.touch();
        screen
    }

    /// Changes the size. Rows that no longer fit scroll off.
    pub(super) fn resize(&mut self, columns: u16, rows: u16) {
        let (columns, rows) = (columns.max(1).into(), rows.max(1).into());
        for _ in 0..self.main.excess(rows) {
            self.history.push(&self.main.rows[0]);
            let all = 0..self.main.rows.len();
            self.main.scroll_up(all, 1);
            self.main.cursor.row = self.main.cursor.row.saturating_sub(1);
        }
        self.main.cut(columns, rows);
        if let Some(alternate) = &mut self.alternate {
            alternate.cut(columns, rows);
        }
        self.touch();
    }

    /// The buffer that is shown.
    pub(super) fn shown(&self) -> &Buffer {
        self.alternate.as_ref().unwrap_or(&self.main)
    }

    fn buffer(&mut self) -> &mut Buffer {
        self.alternate.as_mut().unwrap_or(&mut self.main)
    }

    fn cursor(&mut self) -> &mut Cursor {
        &mut self.buffer().cursor
    }

    /// Notes that the cursor's row has changed. Rows above it that nothing ever came to are then blank lines of the text.
    fn touch(&mut self) {
        let buffer = self.alternate.as_mut().unwrap_or(&mut self.main);
        let cursor = buffer.cursor.row;
        if buffer.rows[cursor].changed == 0 {
            for row in buffer.rows[..cursor].iter_mut().filter(|row| row.changed == 0) {
                self.clock += 1;
                row.changed = self.clock;
            }
        }
        self.clock += 1;
        buffer.rows[cursor].changed = self.clock;
    }

    /// Changes the cursor's row.
    fn edit(&mut self, change: impl FnOnce(&mut Row, &Cursor, usize)) {
        let buffer = self.buffer();
        let (cursor, columns) = (buffer.cursor, buffer.columns);
        change(buffer.row(), &cursor, columns);
        self.cursor().full = false;
        self.touch();
    }

    fn put(&mut self, character: char) {
        let width = character.width().unwrap_or(0);
        if width == 0 {
            let Cursor { column, full, .. } = *self.cursor();
            if let Some(before) = if full { Some(column) } else { column.checked_sub(1) } {
                self.buffer().row().combine(before, character);
                self.touch();
            }
            return;
        }
        let columns = self.buffer().columns;
        let Cursor { column, full, .. } = *self.cursor();
        // On a screen of one column a wide character has no place.
        let (character, width) = if width > columns { (' ', 1) } else { (character, width) };
        if self.wrapping && (full || column + width > columns) {
            self.buffer().row().wraps = true;
            self.line_feed();
            self.buffer().set_column(0);
        }
        let inserting = self.inserting;
        let buffer = self.buffer();
        let column = buffer.cursor.column.min(columns - width);
        if inserting {
            buffer.row().insert(column, width, columns);
        }
        buffer.row().put(column, character, width);
        buffer.cursor.full = column + width >= columns;
        buffer.cursor.column = (column + width).min(columns - 1);
        self.last = Some(character);
        self.touch();
    }

    fn repeat(&mut self, count: usize) {
        if let Some(character) = self.last {
            (0..count).for_each(|_| self.put(character));
        }
    }

    fn line_feed(&mut self) {
        let buffer = self.buffer();
        buffer.cursor.full = false;
        if buffer.cursor.row + 1 == buffer.margins.end {
            self.scroll_up(1);
        } else {
            buffer.cursor.row = (buffer.cursor.row + 1).min(buffer.rows.len() - 1);
        }
        // A row that output has come to is part of it, even an empty one.
        if self.buffer().row().changed == 0 {
            self.touch();
        }
    }

    fn reverse_line_feed(&mut self) {
        let buffer = self.buffer();
        buffer.cursor.full = false;
        if buffer.cursor.row == buffer.margins.start {
            let margins = buffer.margins.clone();
            buffer.scroll_down(margins, 1);
            self.touch();
        } else {
            buffer.cursor.row = buffer.cursor.row.saturating_sub(1);
        }
    }

    /// Scrolls between the margins. What leaves the main screen at its top is kept.
    fn scroll_up(&mut self, count: usize) {
        let buffer = self.alternate.as_mut().unwrap_or(&mut self.main);
        let margins = buffer.margins.clone();
        let count = count.min(margins.len());
        if self.alternate.is_none() && margins.start == 0 {
            self.main.rows[..count].iter().for_each(|row| self.history.push(row));
        }
        self.buffer().scroll_up(margins, count);
    }

    /// Empties the screen; what the main one showed scrolls off.
    fn clear(&mut self) {
        if self.alternate.is_none() {
            let used = self.main.used();
            self.main.rows[..used].iter().for_each(|row| self.history.push(row));
        }
        self.buffer().rows.iter_mut().for_each(Row::reset);
        self.cursor().full = false;
        self.touch();
    }

    fn erase_rows(&mut self, rows: std::ops::Range<usize>) {
        for index in rows {
            let row = &mut self.alternate.as_mut().unwrap_or(&mut self.main).rows[index];
            if !row.is_blank() {
                self.clock += 1;
                row.reset();
                row.changed = self.clock;
            }
        }
    }

    fn erase_in_display(&mut self, what: u16) {
        let (Cursor { row, column, .. }, rows) = (*self.cursor(), self.buffer().rows.len());
        match what {
            0 if (row, column) == (0, 0) => self.clear(),
            0 => {
                self.erase_in_line(0);
                self.erase_rows(row + 1..rows);
            }
            1 => {
                self.erase_rows(0..row);
                self.erase_in_line(1);
            }
            2 => self.clear(),
            _ => {}
        }
    }

    fn erase_in_line(&mut self, what: u16) {
        self.edit(|row, cursor, _| match what {
            0 => row.erase(cursor.column..usize::MAX),
            1 => row.erase(0..cursor.column + 1),
            2 => row.erase(0..usize::MAX),
            _ => {}
        });
    }

    /// Inserts rows at the cursor, or deletes them, within the margins.
    fn shift_rows(&mut self, count: usize, insert: bool) {
        let buffer = self.buffer();
        let below = buffer.cursor.row..buffer.margins.end;
        if !buffer.margins.contains(&below.start) {
            return;
        }
        match insert {
            true => buffer.scroll_down(below, count),
            false => buffer.scroll_up(below, count),
        }
        buffer.set_column(0);
        self.touch();
    }

    fn set_margins(&mut self, params: &[usize; 2]) {
        let buffer = self.buffer();
        let rows = buffer.rows.len();
        let (first, end) = (params[0].max(1) - 1, if params[1] == 0 { rows } else { params[1].min(rows) });
        if first + 1 < end {
            buffer.margins = first..end;
            buffer.set_row(0);
            buffer.set_column(0);
        }
    }

    fn set_private_mode(&mut self, mode: u16, on: bool) {
        match mode {
            6 => {
                self.cursor().origin = on;
                self.buffer().set_row(0);
                self.buffer().set_column(0);
            }
            7 => self.wrapping = on,
            47 | 1047 | 1049 => self.switch_screen(on, mode == 1049),
            1048 => self.save_or_restore(on),
            _ => {}
        }
    }

    fn switch_screen(&mut self, alternate: bool, with_cursor: bool) {
        if alternate == self.alternate.is_some() {
            return;
        }
        if alternate {
            if with_cursor {
                self.main.saved = self.main.cursor;
            }
            let mut buffer = Buffer::new(self.main.columns, self.main.rows.len());
            buffer.cursor = self.main.cursor;
            self.alternate = Some(buffer);
        } else {
            self.alternate = None;
            if with_cursor {
                self.save_or_restore(false);
            }
        }
        self.touch();
    }

    fn save_or_restore(&mut self, save: bool) {
        let buffer = self.buffer();
        if save {
            buffer.saved = buffer.cursor;
        } else {
            buffer.cursor = buffer.saved;
        }
    }

    fn reset(&mut self) {
        self.alternate = None;
        self.clear();
        let (columns, rows) = (self.main.columns, self.main.rows.len());
        self.main = Buffer::new(columns, rows);
        (self.wrapping, self.inserting, self.last) = (true, false, None);
        self.touch();
    }

    /// Moves the cursor by tabulator stops.
    fn tab(&mut self, count: usize, forward: bool) {
        let buffer = self.buffer();
        let stop = buffer.cursor.column / TAB;
        let column = match forward {
            true => (stop + count) * TAB,
            false => buffer.cursor.column.div_ceil(TAB).saturating_sub(count) * TAB,
        };
        buffer.set_column(column);
    }

    fn private(&mut self, params: &Params, action: char) {
        match action {
            'h' | 'l' => params.iter().for_each(|param| self.set_private_mode(param[0], action == 'h')),
            'J' => self.erase_in_display(number(params, 0) as u16),
            'K' => self.erase_in_line(number(params, 0) as u16),
            _ => {}
        }
    }

    fn control(&mut self, params: &Params, action: char) {
        let first = number(params, 0);
        // No count is of use beyond the size of the screen, and none may take longer than that.
        let count = first.clamp(1, self.buffer().rows.len().max(self.buffer().columns));
        let Cursor { column, .. } = *self.cursor();
        match action {
            'A' | 'F' => self.buffer().up(count),
            'B' | 'e' | 'E' => self.buffer().down(count),
            'C' | 'a' => self.buffer().set_column(column + count),
            'D' => self.buffer().set_column(column.saturating_sub(count)),
            'G' | '`' => self.buffer().set_column(first.max(1) - 1),
            'd' => self.buffer().set_row(first.max(1) - 1),
            'H' | 'f' => {
                self.buffer().set_row(first.max(1) - 1);
                self.buffer().set_column(number(params, 1).max(1) - 1);
            }
            'I' | 'Z' => self.tab(count, action == 'I'),
            'J' => self.erase_in_display(first as u16),
            'K' => self.erase_in_line(first as u16),
            'L' | 'M' => self.shift_rows(count, action == 'L'),
            'P' => self.edit(|row, cursor, _| row.delete(cursor.column, count)),
            '@' => self.edit(|row, cursor, columns| row.insert(cursor.column, count, columns)),
            'X' => self.edit(|row, cursor, _| row.erase(cursor.column..cursor.column + count)),
            'S' => self.scroll_up(count),
            'T' => {
                let margins = self.buffer().margins.clone();
                self.buffer().scroll_down(margins, count);
            }
            'b' => self.repeat(count),
            'h' | 'l' if first == 4 => self.inserting = action == 'h',
            'r' => self.set_margins(&[first, number(params, 1)]),
            's' | 'u' => self.save_or_restore(action == 's'),
            _ => {}
        }
        if matches!(action, 'E' | 'F') {
            self.buffer().set_column(0);
        }
    }
}

/// A parameter; 0 where it is not given.
fn number(params: &Params, index: usize) -> usize {
    params.iter().nth(index).and_then(|param| param.first()).map_or(0, |&value| value.into())
}

impl Perform for Screen {
    fn print(&mut self, character: char) {
        let Cursor { graphics, set, .. } = *self.cursor();
        self.put(if graphics[set] { line_drawing(character) } else { character });
    }

    fn execute(&mut self, byte: u8) {
        match byte {
            0x08 => {
                let column = self.cursor().column.saturating_sub(1);
                self.buffer().set_column(column);
            }
            b'\t' => self.tab(1, true),
            b'\n' | 0x0b | 0x0c => self.line_feed(),
            b'\r' => self.buffer().set_column(0),
            0x0e => self.cursor().set = 1,
            0x0f => self.cursor().set = 0,
            _ => {}
        }
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignore: bool, action: char) {
        match intermediates {
            _ if ignore => {}
            [] => self.control(params, action),
            b"?" => self.private(params, action),
            b"!" if action == 'p' => {
                let rows = self.buffer().rows.len();
                self.buffer().margins = 0..rows;
                self.cursor().origin = false;
                (self.wrapping, self.inserting) = (true, false);
            }
            _ => {}
        }
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], ignore: bool, byte: u8) {
        match (intermediates, byte) {
            _ if ignore => {}
            (b"(", set) => self.cursor().graphics[0] = set == b'0',
            (b")", set) => self.cursor().graphics[1] = set == b'0',
            ([], b'7' | b'8') => self.save_or_restore(byte == b'7'),
            ([], b'D') => self.line_feed(),
            ([], b'E') => {
                self.line_feed();
                self.buffer().set_column(0);
            }
            ([], b'M') => self.reverse_line_feed(),
            ([], b'c') => self.reset(),
            _ => {}
        }
    }
}

/// What the second character set of a VT100 shows in place of a letter.
fn line_drawing(character: char) -> char {
    const DRAWN: &str = "◆▒␉␌␍␊°±␤␋┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·";
    let index = (character as usize).wrapping_sub('`' as usize);
    DRAWN.chars().nth(index).unwrap_or(character)
}
