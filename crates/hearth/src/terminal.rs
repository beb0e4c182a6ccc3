//! The terminal at this end: its size, and raw mode that is always taken back.

use std::io;

use hearth_engine::protocol::{PtySize, limits};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Whether input and output here are both a terminal.
pub(crate) fn is_interactive() -> bool {
    rustix::termios::isatty(rustix::stdio::stdin()) && rustix::termios::isatty(rustix::stdio::stdout())
}

/// Whether output here is a terminal.
pub(crate) fn shows_output() -> bool {
    rustix::termios::isatty(rustix::stdio::stdout())
}

/// The terminal's size, within what the guest takes.
pub(crate) fn size() -> PtySize {
    let cells = |count: u16, usual: u16| if count == 0 { usual } else { count.min(limits::PTY_CELLS) };
    match tcgetwinsize(rustix::stdio::stdout()) {
        Ok(size) => PtySize { columns: cells(size.ws_col, 80), rows: cells(size.ws_row, 24) },
        Err(_) => PtySize { columns: 80, rows: 24 },
    }
}

/// Raw mode, until this is dropped.
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Gives every key to whoever reads standard input.
    pub(crate) fn enter() -> io::Result<Self> {
        let before = tcgetattr(rustix::stdio::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}
