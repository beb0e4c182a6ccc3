//! From bytes to what a patch says of each file. What is no part of a patch, such as a mail around it, is passed over.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};

use hearth_protocol::limits;

use super::binary::{Binary, Unpacking};
use super::error::PatchError;
use super::names;
use super::text::{Hunk, Line, Mark};
use crate::history::plan::Plan;

/// The most bytes of text in a patch's hunks, counted with what keeps them.
const TEXTS: u64 = 64 * 1024 * 1024;
/// The longest line.
const LONGEST: u64 = 16 * 1024 * 1024;
/// What a line costs beside its bytes.
const LINE_COST: u64 = 48;
/// The most files.
const FILES: usize = 500_000;

/// What a patch says of one file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct FilePatch {
    /// Where it was and will be, from the root; `None` where it was not, or will not be.
    pub(super) old: Option<Vec<u8>>,
    pub(super) new: Option<Vec<u8>>,
    /// Whether the old one stays, under its name.
    pub(super) is_copy: bool,
    /// Whether the names are those of a program that knows no others: either may be meant.
    pub(super) is_plain: bool,
    pub(super) old_mode: Option<u32>,
    pub(super) new_mode: Option<u32>,
    /// The names that git has for the contents, in full.
    pub(super) git_names: Option<(String, String)>,
    pub(super) body: Body,
}

/// How its content changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Body {
    #[default]
    None,
    Text(Vec<Hunk>),
    Binary {
        forward: Binary,
        reverse: Option<Binary>,
    },
}

impl FilePatch {
    /// The name to speak of it by.
    pub(super) fn name(&self) -> &[u8] {
        self.new.as_deref().or(self.old.as_deref()).unwrap_or_default()
    }

    /// Turns it into what undoes it.
    pub(super) fn reverse(&mut self) -> Result<(), PatchError> {
        if self.is_copy {
            // The old one has stayed: only the copy has to go.
            let name = self.name().to_vec();
            return Err(PatchError::conflict(&name, "a copy cannot be undone"));
        }
        std::mem::swap(&mut self.old, &mut self.new);
        std::mem::swap(&mut self.old_mode, &mut self.new_mode);
        self.git_names = self.git_names.take().map(|(old, new)| (new, old));
        match &mut self.body {
            Body::None => {}
            Body::Text(hunks) => hunks.iter_mut().for_each(Hunk::reverse),
            Body::Binary { forward, reverse } => match reverse.take() {
                Some(back) => *reverse = Some(std::mem::replace(forward, back)),
                None => return Err(PatchError::conflict(self.name(), "the patch does not hold the way back")),
            },
        }
        Ok(())
    }
}

/// Reads a whole patch.
pub(super) fn parse(
    input: impl Read,
    plan: &mut Plan<'_>,
    strip: u32,
    base: &[u8],
) -> Result<Vec<FilePatch>, PatchError> {
    let lines = Lines { from: BufReader::with_capacity(1 << 16, input), ahead: VecDeque::new(), number: 0, end: b"\n" };
    let mut parser = Parser { lines, plan, strip, base, room: TEXTS };
    let mut files = Vec::new();
    let mut has_text = false;
    while let Some(line) = parser.lines.peek(0)? {
        has_text |= !line.trim_ascii().is_empty();
        let (is_git, is_lost) = (line.starts_with(b"diff --git "), ranges(line).is_some());
        // No name that stands bare ends so: the patch has been where lines end in two characters, with all that is in it.
        let is_from_dos = line.ends_with(b"\r");
        let is_plain = !is_git && parser.lines.is_plain()?;
        if is_git || is_plain {
            parser.lines.end = if is_from_dos { b"\r\n" } else { b"\n" };
        }
        let file = if is_git {
            Some(parser.git()?)
        } else if is_plain {
            Some(parser.plain()?)
        } else if is_lost {
            return Err(parser.malformed("a hunk stands here without the name of its file"));
        } else {
            parser.lines.next()?;
            None
        };
        files.extend(file);
        if files.len() > FILES {
            return Err(PatchError::TooLarge { what: "the list of the patch's files".into(), limit: FILES as u64 });
        }
    }
    if files.is_empty() && has_text {
        return Err(PatchError::malformed(1, "there is no patch in it"));
    }
    Ok(files)
}

struct Lines<R> {
    from: BufReader<R>,
    ahead: VecDeque<Vec<u8>>,
    /// How many were taken.
    number: u64,
    /// What ends each.
    end: &'static [u8],
}

impl<R: Read> Lines<R> {
    /// A line that is to come, without its newline.
    fn peek(&mut self, index: usize) -> Result<Option<&[u8]>, PatchError> {
        while self.ahead.len() <= index {
            let mut line = Vec::new();
            let read = self.from.by_ref().take(LONGEST + 1).read_until(b'\n', &mut line);
            if read.map_err(PatchError::Transfer)? == 0 {
                return Ok(None);
            }
            if line.len() as u64 > LONGEST {
                return Err(PatchError::TooLarge { what: "a line of the patch".into(), limit: LONGEST });
            }
            self.ahead.push_back(line);
        }
        Ok(Some(self.content(&self.ahead[index])))
    }

    fn content<'a>(&self, line: &'a [u8]) -> &'a [u8] {
        line.strip_suffix(self.end).or(line.strip_suffix(b"\n")).unwrap_or(line)
    }

    fn starts(&mut self, index: usize, with: &[u8]) -> Result<bool, PatchError> {
        Ok(self.peek(index)?.is_some_and(|line| line.starts_with(with)))
    }

    /// Whether a file begins as `diff -u` has it.
    fn is_plain(&mut self) -> Result<bool, PatchError> {
        Ok(self.starts(0, b"--- ")? && self.starts(1, b"+++ ")? && self.starts(2, b"@@ -")?)
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, PatchError> {
        self.peek(0)?;
        let line = self.ahead.pop_front();
        self.number += u64::from(line.is_some());
        Ok(line.map(|mut line| {
            line.truncate(self.content(&line).len());
            line
        }))
    }
}

struct Parser<'a, 'b, R> {
    lines: Lines<R>,
    plan: &'a mut Plan<'b>,
    strip: u32,
    base: &'a [u8],
    /// How much text there may still be.
    room: u64,
}

impl<R: Read> Parser<'_, '_, R> {
    fn malformed(&self, reason: impl Into<String>) -> PatchError {
        PatchError::malformed(self.lines.number + 1, reason)
    }

    fn placed(&self, name: &[u8]) -> Result<Vec<u8>, PatchError> {
        names::placed(self.base, name)
    }

    /// A file as git has it: from `diff --git` on.
    fn git(&mut self) -> Result<FilePatch, PatchError> {
        let header = self.lines.next()?.unwrap_or_default();
        let named = names::of_header(&header[b"diff --git ".len()..], self.strip);
        let named = named.map(|name| self.placed(&name)).transpose()?;
        let mut file = FilePatch { old: named.clone(), new: named, ..FilePatch::default() };
        let (mut is_new, mut is_deleted) = (false, false);
        while let Some(line) = self.lines.peek(0)?.map(<[u8]>::to_vec) {
            let after = |word: &str| line.strip_prefix(word.as_bytes());
            if let Some(mode) = after("old mode ") {
                file.old_mode = Some(self.mode(mode)?);
            } else if let Some(mode) = after("new mode ") {
                file.new_mode = Some(self.mode(mode)?);
            } else if let Some(mode) = after("new file mode ") {
                (is_new, file.new_mode) = (true, Some(self.mode(mode)?));
            } else if let Some(mode) = after("deleted file mode ") {
                (is_deleted, file.old_mode) = (true, Some(self.mode(mode)?));
            } else if let Some(name) = after("rename from ").or(after("rename old ")) {
                file.old = Some(self.other_name(name)?);
            } else if let Some(name) = after("rename to ").or(after("rename new ")) {
                file.new = Some(self.other_name(name)?);
            } else if let Some(name) = after("copy from ") {
                (file.is_copy, file.old) = (true, Some(self.other_name(name)?));
            } else if let Some(name) = after("copy to ") {
                file.new = Some(self.other_name(name)?);
            } else if let Some(index) = after("index ") {
                self.index(index, &mut file)?;
            } else if after("similarity index ").or(after("dissimilarity index ")).is_none() {
                break;
            }
            self.lines.next()?;
        }
        self.content(&mut file, &mut is_new, &mut is_deleted)?;
        if is_new {
            file.old = None;
        }
        if is_deleted {
            file.new = None;
        }
        let has_no_name = (file.old.is_none() && !is_new) || (file.new.is_none() && !is_deleted);
        if has_no_name || (is_new && is_deleted) {
            return Err(self.malformed("the file that this is about is not named, or was neither before nor after"));
        }
        Ok(file)
    }

    /// What comes behind git's header.
    fn content(&mut self, file: &mut FilePatch, is_new: &mut bool, is_deleted: &mut bool) -> Result<(), PatchError> {
        if self.lines.starts(0, b"--- ")? && self.lines.starts(1, b"+++ ")? {
            let (old, new) = (self.side()?, self.side()?);
            (*is_new, *is_deleted) = (*is_new || old.is_none(), *is_deleted || new.is_none());
            (file.old, file.new) = (old.or(file.old.take()), new.or(file.new.take()));
            file.body = Body::Text(self.hunks()?);
        } else if self.lines.peek(0)? == Some(b"GIT binary patch") {
            self.lines.next()?;
            let Some(forward) = self.binary()? else { return Err(self.malformed("no content follows")) };
            file.body = Body::Binary { forward, reverse: self.binary()? };
        } else if self.lines.starts(0, b"Binary files ")? {
            return Err(self.malformed("the content of a binary file is not in the patch: make it with --binary"));
        }
        Ok(())
    }

    fn mode(&self, text: &[u8]) -> Result<u32, PatchError> {
        let digits = text.trim_ascii_end();
        let is_octal =
            !digits.is_empty() && digits.len() <= 7 && digits.iter().all(|digit| (b'0'..=b'7').contains(digit));
        let mode = digits.iter().fold(0_u32, |all, digit| all << 3 | u32::from(digit & 7));
        match mode & 0o170_000 {
            0o100_000 | 0o120_000 if is_octal => Ok(mode),
            0o160_000 if is_octal => Err(self.malformed("it is about a submodule, which is no file")),
            _ => Err(self.malformed("this is no mode of a file or symbolic link")),
        }
    }

    fn other_name(&self, text: &[u8]) -> Result<Vec<u8>, PatchError> {
        let name = names::read(text).map(|(name, _)| name).ok_or_else(|| self.malformed("this is no name"))?;
        let name = names::stripped(&name, self.strip.saturating_sub(1));
        self.placed(name.ok_or_else(|| self.malformed("the name has fewer parts than are to be stripped"))?)
    }

    fn index(&self, text: &[u8], file: &mut FilePatch) -> Result<(), PatchError> {
        let text = String::from_utf8_lossy(text);
        let (names, mode) = text.split_once(' ').map_or((text.as_ref(), None), |(names, mode)| (names, Some(mode)));
        if let Some(mode) = mode {
            file.old_mode = Some(self.mode(mode.as_bytes())?);
        }
        let is_full = |name: &str| name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        if let Some((old, new)) = names.split_once("..")
            && is_full(old)
            && is_full(new)
        {
            file.git_names = Some((old.to_owned(), new.to_owned()));
        }
        Ok(())
    }

    /// A file as `diff -u` has it.
    fn plain(&mut self) -> Result<FilePatch, PatchError> {
        let (old, new) = (self.side()?, self.side()?);
        if old.is_none() && new.is_none() {
            return Err(self.malformed("the file that this is about is not named"));
        }
        Ok(FilePatch { old, new, is_plain: true, body: Body::Text(self.hunks()?), ..FilePatch::default() })
    }

    /// A line with the name of one side; `None` where nothing was.
    fn side(&mut self) -> Result<Option<Vec<u8>>, PatchError> {
        let line = self.lines.next()?.unwrap_or_default();
        let (name, time) = names::read(&line[4..]).ok_or_else(|| self.malformed("this is no name"))?;
        // What GNU diff says of a file that is not there.
        let is_epoch = [b"\t1970-01-01 ".as_slice(), b"\t1969-12-31 "].iter().any(|epoch| time.starts_with(epoch));
        if name == b"/dev/null" || is_epoch {
            return Ok(None);
        }
        let name = names::stripped(&name, self.strip);
        let name = name.ok_or_else(|| self.malformed("the name has fewer parts than are to be stripped"))?;
        self.placed(name).map(Some)
    }

    fn hunks(&mut self) -> Result<Vec<Hunk>, PatchError> {
        let mut hunks = Vec::new();
        while self.lines.starts(0, b"@@ -")? {
            hunks.push(self.hunk()?);
        }
        if hunks.is_empty() { Err(self.malformed("no hunk follows")) } else { Ok(hunks) }
    }

    fn hunk(&mut self) -> Result<Hunk, PatchError> {
        let header = self.lines.next()?.unwrap_or_default();
        let line = self.lines.number;
        let Some([(old_start, mut old), (new_start, mut new)]) = ranges(&header) else {
            return Err(PatchError::malformed(line, "this is no head of a hunk"));
        };
        let mut hunk = Hunk { line, old_start, new_start, lines: Vec::new() };
        while old > 0 || new > 0 {
            let Some(mut text) = self.lines.next()? else {
                return Err(self.malformed("the patch ends within a hunk"));
            };
            let mark = match text.first() {
                Some(b' ') | None => Mark::Context,
                Some(b'-') => Mark::Removed,
                Some(b'+') => Mark::Added,
                Some(b'\\') if !hunk.lines.is_empty() => {
                    without_end(&mut hunk);
                    continue;
                }
                Some(_) => return Err(PatchError::malformed(self.lines.number, "this is no line of a hunk")),
            };
            let (of_old, of_new) = (u64::from(mark != Mark::Added), u64::from(mark != Mark::Removed));
            let counts = old.checked_sub(of_old).zip(new.checked_sub(of_new));
            (old, new) = counts.ok_or_else(|| {
                PatchError::malformed(self.lines.number, "the hunk has other lines than its head says")
            })?;
            let cost = text.len() as u64 + LINE_COST;
            let too_large = || PatchError::TooLarge { what: "the text of the patch".into(), limit: TEXTS };
            self.room = self.room.checked_sub(cost).ok_or_else(too_large)?;
            if !text.is_empty() {
                text.remove(0);
            }
            text.push(b'\n');
            hunk.lines.push(Line { mark, text });
        }
        if self.lines.starts(0, b"\\ ")? {
            self.lines.next()?;
            without_end(&mut hunk);
        }
        Ok(hunk)
    }

    /// A content; `None` where none follows.
    fn binary(&mut self) -> Result<Option<Binary>, PatchError> {
        let Some(line) = self.lines.peek(0)? else { return Ok(None) };
        let (is_delta, size) = match (line.strip_prefix(b"literal "), line.strip_prefix(b"delta ")) {
            (Some(size), _) => (false, size.to_vec()),
            (_, Some(size)) => (true, size.to_vec()),
            _ => return Ok(None),
        };
        let size = std::str::from_utf8(&size).ok().and_then(|size| size.parse::<u64>().ok());
        let size = size.ok_or_else(|| self.malformed("this is no length"))?;
        if size > limits::PATCHED_FILE {
            return Err(PatchError::TooLarge { what: "a file in the patch".into(), limit: limits::PATCHED_FILE });
        }
        self.lines.next()?;
        let (number, file) = self.plan.file().map_err(|error| self.cannot_keep(error.into()))?;
        let mut unpacking = Unpacking::new(file, size);
        while let Some(line) = self.lines.next()? {
            if line.is_empty() {
                break;
            }
            let taken = unpacking.line(&line).map_err(|error| self.unpacked(error))?;
            if !taken {
                return Err(PatchError::malformed(self.lines.number, "this is no line of a binary content"));
            }
        }
        let is_whole = unpacking.finish().map_err(|error| self.unpacked(error))?;
        if !is_whole {
            return Err(PatchError::malformed(self.lines.number, "the content is shorter than was announced"));
        }
        Ok(Some(Binary { number, is_delta }))
    }

    fn unpacked(&self, error: std::io::Error) -> PatchError {
        match error.raw_os_error() {
            Some(_) => self.cannot_keep(error),
            None => PatchError::malformed(self.lines.number, format!("the content cannot be unpacked: {error}")),
        }
    }

    fn cannot_keep(&self, error: std::io::Error) -> PatchError {
        crate::error::FileError::new("keep a content of the patch in", self.base, error).into()
    }
}

/// What stood last ends its file without a newline.
fn without_end(hunk: &mut Hunk) {
    if let Some(line) = hunk.lines.last_mut()
        && line.text.last() == Some(&b'\n')
    {
        line.text.pop();
    }
}

/// The starts and lengths in the head of a hunk.
fn ranges(line: &[u8]) -> Option<[(u64, u64); 2]> {
    let line = line.strip_prefix(b"@@ -")?;
    let end = line.windows(3).position(|window| window == b" @@")?;
    let text = std::str::from_utf8(&line[..end]).ok()?;
    let (old, new) = text.split_once(" +")?;
    let range = |text: &str| {
        let (start, count) = text.split_once(',').unwrap_or((text, "1"));
        Some((start.parse().ok()?, count.parse().ok()?))
    };
    Some([range(old)?, range(new)?])
}
