//! Printing: data on standard output, talk on standard error.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::io::{self, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Prints a line of data. A reader that has left is no error: it has what it wanted.
///
/// # Errors
/// When it cannot be written, such as on a full disk.
pub(crate) fn print(line: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::host(format!("cannot write standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints data as JSON.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(&serde_json::to_string_pretty(value).expect("plain data always becomes JSON"))
}

/// Says something to the person at the terminal.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Prints rows in columns as wide as their widest cell.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_table(header: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        print(padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    line(header.to_vec())?;
    rows.iter().try_for_each(|row| line(row.iter().map(String::as_str).collect()))
}

/// Text that may come from a guest or a stranger, on one line and unable to drive a terminal or to change the order of what is shown.
pub(crate) fn plain(text: &str) -> String {
    let hidden =
        |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || hidden(c) { plain.extend(c.escape_default()) } else { plain.push(c) }
    }
    plain
}

/// As [`plain`], but for the ends of lines and tabs.
pub(crate) fn plain_lines(text: &str) -> String {
    let lines = text.split('\n').map(|line| line.split('\t').map(plain).collect::<Vec<_>>().join("\t"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Bytes as people read them.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{:.1} KiB", count as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", count as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", count as f64 / 1_073_741_824.0),
    }
}

/// A size in MiB as people read it.
pub(crate) fn mebibytes(mib: u32) -> String {
    bytes(u64::from(mib) << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_tabs_stay_and_nothing_drives_a_terminal() {
        assert_eq!(plain_lines("+a\tb\n-\u{1b}[2J\r\u{202e}\n"), "+a\tb\n-\\u{1b}[2J\\r\\u{202e}\n");
    }
}
