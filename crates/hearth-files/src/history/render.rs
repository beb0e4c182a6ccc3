//! Differences, written as git writes them.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use hearth_protocol::limits;
use imara_diff::{Algorithm, Diff, Hunk, InternedInput};

use super::bodies::Body;

/// The lines around a change.
const CONTEXT: u32 = 3;
/// The name that git has for what is not there.
const NOTHING: &str = "0000000000000000000000000000000000000000";
/// The digits of git's base 85.
pub(super) const DIGITS: &[u8; 85] =
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
/// The most bytes in a line of base 85.
pub(super) const LINE: usize = 52;

/// One side of a difference: a file or symbolic link.
pub(super) struct Side {
    /// With its kind, as git has it.
    pub(super) mode: u32,
    pub(super) body: Body,
}

/// Writes how one side has become the other; false when that cannot be said in a patch. A link that became a file, and the like, is two
/// differences: one side each is missing.
pub(super) fn difference(
    path: &[u8],
    old: Option<&Side>,
    new: Option<&Side>,
    out: &mut impl Write,
) -> io::Result<bool> {
    let names = Names::new(path);
    out.write_all(&[b"diff --git ", names.old.as_slice(), b" ", &names.new, b"\n"].concat())?;
    let modes = match (old, new) {
        (Some(old), Some(new)) if old.mode != new.mode => {
            format!("old mode {:06o}\nnew mode {:06o}\n", old.mode, new.mode)
        }
        (None, Some(new)) => format!("new file mode {:06o}\n", new.mode),
        (Some(old), None) => format!("deleted file mode {:06o}\n", old.mode),
        _ => String::new(),
    };
    out.write_all(modes.as_bytes())?;
    let length = |side: Option<&Side>| side.map_or(0, |side| side.body.len());
    if length(old).max(length(new)) > limits::PATCHED_FILE {
        out.write_all(&[b"Binary files ", names.old.as_slice(), b" and ", &names.new, b" differ\n"].concat())?;
        return Ok(false);
    }
    let name = |side: Option<&Side>| side.map_or(Ok(NOTHING.to_owned()), |side| side.body.git_name());
    let (old_name, new_name) = (name(old)?, name(new)?);
    let is_same = old.is_some() && new.is_some() && old_name == new_name;
    if is_same && old.map(|side| plain_mode(side.mode)) != new.map(|side| plain_mode(side.mode)) {
        return Ok(true);
    }
    let mode = match (old, new) {
        (Some(old), Some(new)) if old.mode == new.mode => format!(" {:06o}", old.mode),
        _ => String::new(),
    };
    out.write_all(format!("index {old_name}..{new_name}{mode}\n").as_bytes())?;
    let empty = Body::Memory(Vec::new());
    let (before, after) = (old.map_or(&empty, |side| &side.body), new.map_or(&empty, |side| &side.body));
    match (before.text(), after.text()) {
        (Some([_, ..]), Some(after)) if is_same => {
            names.write(true, true, true, out)?;
            rewritten(after, out)?;
        }
        _ if is_same && after.len() > 0 => {
            out.write_all(b"GIT binary patch\n")?;
            unchanged(after.len(), out)?;
            unchanged(after.len(), out)?;
        }
        (Some(before), Some(after)) if !is_same => {
            names.write(old.is_some(), new.is_some(), before != after, out)?;
            hunks(before, after, out)?;
        }
        _ => {
            out.write_all(b"GIT binary patch\n")?;
            literal(after, out)?;
            literal(before, out)?;
        }
    }
    Ok(true)
}

/// A mode as git keeps it. A patch that says nothing else is none for git since 2.47, which reads modes so: such a patch has to say that the
/// content becomes what it is.
fn plain_mode(mode: u32) -> u32 {
    match mode & 0o170_000 {
        0o100_000 if mode & 0o100 != 0 => 0o100_755,
        0o100_000 => 0o100_644,
        other => other,
    }
}

/// A path as it stands in a patch.
struct Names {
    old: Vec<u8>,
    new: Vec<u8>,
    has_space: bool,
}

impl Names {
    fn new(path: &[u8]) -> Self {
        Self { old: quote(b"a/", path), new: quote(b"b/", path), has_space: path.contains(&b' ') }
    }

    fn write(&self, old: bool, new: bool, differs: bool, out: &mut impl Write) -> io::Result<()> {
        if !differs {
            return Ok(());
        }
        let name = |there, name: &[u8]| {
            // Without the tab what follows a space would be taken for a time.
            let tab = if self.has_space && there { b"\t".as_slice() } else { b"" };
            [if there { name } else { b"/dev/null" }, tab, b"\n"].concat()
        };
        out.write_all(b"--- ")?;
        out.write_all(&name(old, &self.old))?;
        out.write_all(b"+++ ")?;
        out.write_all(&name(new, &self.new))
    }
}

/// A path as git writes it: in quotes, with escapes, where it holds anything but plain text.
fn quote(prefix: &[u8], path: &[u8]) -> Vec<u8> {
    let is_plain = |byte: &u8| (0x20..0x7f).contains(byte) && !matches!(byte, b'"' | b'\\');
    if path.iter().all(is_plain) {
        return [prefix, path].concat();
    }
    let mut quoted = [b"\"", prefix].concat();
    for byte in path {
        match byte {
            0x07 => quoted.extend_from_slice(b"\\a"),
            0x08 => quoted.extend_from_slice(b"\\b"),
            b'\t' => quoted.extend_from_slice(b"\\t"),
            b'\n' => quoted.extend_from_slice(b"\\n"),
            0x0b => quoted.extend_from_slice(b"\\v"),
            0x0c => quoted.extend_from_slice(b"\\f"),
            b'\r' => quoted.extend_from_slice(b"\\r"),
            b'"' | b'\\' => quoted.extend_from_slice(&[b'\\', *byte]),
            byte if is_plain(byte) => quoted.push(*byte),
            byte => quoted.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
        }
    }
    quoted.push(b'"');
    quoted
}

/// Writes the hunks that turn one text into the other.
fn hunks(before: &[u8], after: &[u8], out: &mut impl Write) -> io::Result<()> {
    let input = InternedInput::new(before, after);
    let mut diff = Diff::compute(Algorithm::Histogram, &input);
    diff.postprocess_lines(&input);
    let mut group: Vec<Hunk> = Vec::new();
    for hunk in diff.hunks() {
        if group.last().is_some_and(|last| hunk.before.start - last.before.end > 2 * CONTEXT) {
            write_group(&input, &group, out)?;
            group.clear();
        }
        group.push(hunk);
    }
    if group.is_empty() { Ok(()) } else { write_group(&input, &group, out) }
}

/// Writes a hunk in which a text's first line is replaced by itself.
fn rewritten(text: &[u8], out: &mut impl Write) -> io::Result<()> {
    let length = text.split_inclusive(|&byte| byte == b'\n').take(1 + CONTEXT as usize).map(<[u8]>::len).sum::<usize>();
    let input = InternedInput::new(&text[..length], b"".as_slice());
    let (first, rest) = input.before.split_at(1);
    let shown = range(0..input.before.len() as u32);
    writeln!(out, "@@ -{shown} +{shown} @@")?;
    lines(&input, b'-', first, out)?;
    lines(&input, b'+', first, out)?;
    lines(&input, b' ', rest, out)
}

fn write_group(input: &InternedInput<&[u8]>, group: &[Hunk], out: &mut impl Write) -> io::Result<()> {
    let (Some(first), Some(last)) = (group.first(), group.last()) else { return Ok(()) };
    let leading = first.before.start.min(CONTEXT);
    let trailing = (input.before.len() as u32 - last.before.end).min(CONTEXT);
    let (start, end) = (first.before.start - leading, last.before.end + trailing);
    let after = first.after.start - leading..last.after.end + trailing;
    writeln!(out, "@@ -{} +{} @@", range(start..end), range(after))?;
    let mut at = start;
    for hunk in group {
        lines(input, b' ', &input.before[at as usize..hunk.before.start as usize], out)?;
        lines(input, b'-', &input.before[hunk.before.start as usize..hunk.before.end as usize], out)?;
        lines(input, b'+', &input.after[hunk.after.start as usize..hunk.after.end as usize], out)?;
        at = hunk.before.end;
    }
    lines(input, b' ', &input.before[at as usize..end as usize], out)
}

fn range(lines: std::ops::Range<u32>) -> String {
    match lines.end - lines.start {
        0 => format!("{},0", lines.start),
        1 => format!("{}", lines.start + 1),
        count => format!("{},{count}", lines.start + 1),
    }
}

fn lines(input: &InternedInput<&[u8]>, mark: u8, tokens: &[imara_diff::Token], out: &mut impl Write) -> io::Result<()> {
    for token in tokens {
        let line = input.interner[*token];
        out.write_all(&[mark])?;
        out.write_all(line)?;
        if !line.ends_with(b"\n") {
            out.write_all(b"\n\\ No newline at end of file\n")?;
        }
    }
    Ok(())
}

/// Writes a content as it is.
fn literal(body: &Body, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "literal {}", body.len())?;
    encoded(|out| body.copy_to(out), out)
}

/// Writes, as git's instructions for making one content of another, that all of `length` bytes are copied.
fn unchanged(length: u64, out: &mut impl Write) -> io::Result<()> {
    const MOST: u64 = 0xff_ffff;
    let mut steps = Vec::new();
    for _ in 0..2 {
        let mut rest = length;
        while rest > 0x7f {
            steps.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        steps.push(rest as u8);
    }
    for at in (0..length).step_by(MOST as usize) {
        // All seven bytes of place and size follow.
        steps.push(0xff);
        steps.extend_from_slice(&(at as u32).to_le_bytes());
        steps.extend_from_slice(&(MOST.min(length - at) as u32).to_le_bytes()[..3]);
    }
    writeln!(out, "delta {}", steps.len())?;
    encoded(|out| out.write_all(&steps), out)
}

/// Writes what `write` does, compressed, in lines of base 85.
fn encoded<W: Write>(
    write: impl FnOnce(&mut ZlibEncoder<Lines<'_, W>>) -> io::Result<()>,
    out: &mut W,
) -> io::Result<()> {
    let mut encoder =
        ZlibEncoder::new(Lines { out: &mut *out, line: Vec::with_capacity(LINE) }, Compression::default());
    write(&mut encoder)?;
    let mut lines = encoder.finish()?;
    lines.end_line()?;
    out.write_all(b"\n")
}

/// Puts bytes into lines: a letter for how many, then five digits for each four.
struct Lines<'a, W> {
    out: &'a mut W,
    line: Vec<u8>,
}

impl<W: Write> Lines<'_, W> {
    fn end_line(&mut self) -> io::Result<()> {
        if self.line.is_empty() {
            return Ok(());
        }
        let length = self.line.len() as u8;
        let mut text = vec![if length <= 26 { b'A' + length - 1 } else { b'a' + length - 27 }];
        for group in self.line.chunks(4) {
            let mut number = (0..4).fold(0_u32, |all, at| all << 8 | u32::from(group.get(at).copied().unwrap_or(0)));
            let mut digits = [0; 5];
            for digit in digits.iter_mut().rev() {
                *digit = DIGITS[(number % 85) as usize];
                number /= 85;
            }
            text.extend_from_slice(&digits);
        }
        text.push(b'\n');
        self.line.clear();
        self.out.write_all(&text)
    }
}

impl<W: Write> Write for Lines<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(LINE - self.line.len());
        self.line.extend_from_slice(&bytes[..count]);
        if self.line.len() == LINE {
            self.end_line()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
