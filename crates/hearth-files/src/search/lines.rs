//! Searching one file: in large pieces, and told in lines.
//!
//! The expression is held against whole pieces, which is what makes it fast, and then, where it fits, against that line alone. What it
//! finds across the end of a line is therefore no match, and the search goes on with the next line.

use std::io::{self, Read};

use hearth_protocol::files::Search;
use memchr::{memchr, memchr_iter, memrchr};
use regex::bytes::Regex;

/// What is read at a time, in bytes.
const PIECE: usize = 128 * 1024;
/// The longest line, in bytes: a longer one is searched in parts.
const LONGEST: usize = 1024 * 1024;
/// The most that is kept of what was searched, for the lines before a match, in bytes.
const KEPT: usize = 64 * 1024;
/// The most matches that are told of one line.
const SPANS: usize = 100;

/// How much is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) before: u32,
    pub(super) after: u32,
    pub(super) line_bytes: usize,
}

impl Bounds {
    pub(super) fn of(search: &Search) -> Self {
        let line_bytes = search.line_bytes.unwrap_or(Search::LINE) as usize;
        Self { before: search.before, after: search.after, line_bytes }
    }
}

/// A line to tell.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) number: u64,
    pub(super) text: &'a [u8],
    pub(super) spans: &'a [(u32, u32)],
    pub(super) cut: bool,
}

/// What a scan has come to.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) matches: u64,
    pub(super) bytes: u64,
    pub(super) stop: Stop,
}

/// Why a scan has ended.
#[derive(Debug)]
pub(super) enum Stop {
    End,
    Limit,
    /// A NUL byte.
    Binary,
    Unreadable,
    Hurry,
    /// Nobody takes what is found.
    Failed(io::Error),
}

/// Searches files one after the other with the same memory.
pub(super) struct Scanner {
    pattern: Regex,
    bounds: Bounds,
    buffer: Vec<u8>,
    /// What is read at a time, in bytes.
    pub(super) piece: usize,
}

/// Takes what is found.
type Send<'a> = &'a mut dyn FnMut(Found<'_>) -> io::Result<()>;

/// Where a scan is.
struct Scan<'a, 'b> {
    pattern: &'a Regex,
    bounds: Bounds,
    send: Send<'b>,
    /// Up to where the buffer was searched: the beginning of a line, or of the next part of a long one.
    done: usize,
    /// The number of the line that begins there.
    line: u64,
    /// Up to where lines were told.
    told: usize,
    /// Lines that are still to be told behind a match.
    after: u32,
    matches: u64,
    limit: u64,
}

impl Scanner {
    pub(super) fn new(pattern: Regex, bounds: Bounds) -> Self {
        Self { pattern, bounds, buffer: Vec::new(), piece: PIECE }
    }

    /// Searches a file for up to `limit` lines that match.
    pub(super) fn scan(
        &mut self,
        file: &mut impl Read,
        limit: u64,
        send: Send<'_>,
        hurry: &dyn Fn() -> bool,
    ) -> Scanned {
        self.buffer.clear();
        let (pattern, bounds) = (&self.pattern, self.bounds);
        let mut scan = Scan { pattern, bounds, send, done: 0, line: 1, told: 0, after: 0, matches: 0, limit };
        let mut bytes = 0;
        let stop = loop {
            if hurry() {
                break Stop::Hurry;
            }
            let filled = self.buffer.len();
            let count = match read_piece(file, &mut self.buffer, self.piece) {
                Ok(count) => count,
                Err(_) => break Stop::Unreadable,
            };
            bytes += count as u64;
            if memchr(0, &self.buffer[filled..]).is_some() {
                break Stop::Binary;
            }
            let end = match memrchr(b'\n', &self.buffer[filled..]) {
                _ if count == 0 => self.buffer.len(),
                Some(newline) => filled + newline + 1,
                None if self.buffer.len() - scan.done >= LONGEST => self.buffer.len(),
                None => continue,
            };
            if let Err(error) = scan.search(&self.buffer[..end]) {
                break Stop::Failed(error);
            }
            if scan.is_full() {
                break Stop::Limit;
            }
            if count == 0 {
                break Stop::End;
            }
            scan.forget(&mut self.buffer);
        };
        Scanned { matches: scan.matches, bytes, stop }
    }
}

fn read_piece(file: &mut impl Read, buffer: &mut Vec<u8>, piece: usize) -> io::Result<usize> {
    file.by_ref().take(piece as u64).read_to_end(buffer)
}

impl Scan<'_, '_> {
    fn is_full(&self) -> bool {
        self.matches >= self.limit && self.after == 0
    }

    /// Searches on, up to the end of `text`, which is the end of a line unless that is too long.
    fn search(&mut self, text: &[u8]) -> io::Result<()> {
        while let Some((begin, end)) = self.candidate(text) {
            let line = without_return(&text[begin..end]);
            let found = self.pattern.find_iter(line).take(SPANS);
            let spans: Vec<(usize, usize)> = found.map(|found| (found.start(), found.end())).collect();
            self.pass(text, begin)?;
            let behind = text.len().min(end + 1);
            if spans.is_empty() {
                self.pass(text, behind)?;
                continue;
            }
            self.tell_before(text)?;
            self.tell(self.line, line, &spans)?;
            (self.after, self.matches) = (0, self.matches + 1);
            self.pass(text, behind)?;
            (self.after, self.told) = (self.bounds.after, self.done);
        }
        self.pass(text, text.len())
    }

    /// The next line that may match, without its newline.
    fn candidate(&self, text: &[u8]) -> Option<(usize, usize)> {
        if self.done >= text.len() || self.matches >= self.limit {
            return None;
        }
        // An empty match behind the last newline is in no line.
        let start = self.pattern.find_at(text, self.done)?.start();
        let begin = memrchr(b'\n', &text[self.done..start]).map_or(self.done, |newline| self.done + newline + 1);
        let end = memchr(b'\n', &text[start..]).map_or(text.len(), |newline| start + newline);
        (begin < text.len()).then_some((begin, end))
    }

    /// Passes the lines up to `end`, and tells those that are to be told behind the last match.
    fn pass(&mut self, text: &[u8], end: usize) -> io::Result<()> {
        while self.after > 0 && self.done < end {
            let line = &text[self.done..end];
            let length = memchr(b'\n', line).unwrap_or(line.len());
            self.tell(self.line, without_return(&line[..length]), &[])?;
            self.after -= 1;
            if length < line.len() {
                self.line += 1;
            }
            self.done = end.min(self.done + length + 1);
            self.told = self.done;
        }
        self.line += memchr_iter(b'\n', &text[self.done..end]).count() as u64;
        self.done = end;
        Ok(())
    }

    /// Tells the lines before the one that is next, as far as they are still here and were not told.
    fn tell_before(&mut self, text: &[u8]) -> io::Result<()> {
        let mut lines = Vec::new();
        let mut end = self.done;
        // In the middle of a line that is too long there are none.
        while end > self.told && text[end - 1] == b'\n' && lines.len() < self.bounds.before as usize {
            let begin = memrchr(b'\n', &text[self.told..end - 1]).map_or(self.told, |newline| self.told + newline + 1);
            lines.push(&text[begin..end - 1]);
            end = begin;
        }
        for (distance, line) in lines.into_iter().enumerate().rev() {
            self.tell(self.line - 1 - distance as u64, without_return(line), &[])?;
        }
        Ok(())
    }

    fn tell(&mut self, number: u64, line: &[u8], spans: &[(usize, usize)]) -> io::Result<()> {
        let (from, to) = window(line, spans.first().map_or(0, |span| span.0), self.bounds.line_bytes);
        let inside = |place: usize| (place.clamp(from, to) - from) as u32;
        let shown = spans.iter().filter(|span| span.0 <= to).map(|span| (inside(span.0), inside(span.1)));
        let spans: Vec<(u32, u32)> = shown.collect();
        (self.send)(Found { number, text: &line[from..to], spans: &spans, cut: to - from < line.len() })
    }

    /// Drops what was searched from the front of the buffer, but for lines that may stand before a match.
    fn forget(&mut self, buffer: &mut Vec<u8>) {
        let mut keep = self.done;
        for _ in 0..self.bounds.before {
            let Some(end) = keep.checked_sub(1) else { break };
            let begin = memrchr(b'\n', &buffer[..end]).map_or(0, |newline| newline + 1);
            if self.done - begin > KEPT {
                break;
            }
            keep = begin;
        }
        buffer.drain(..keep);
        (self.done, self.told) = (self.done - keep, self.told.saturating_sub(keep));
    }
}

/// A line that ends with a carriage return, without it.
fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// What is shown of a line that may be too long: a part around its first match, no character cut in two.
fn window(line: &[u8], first: usize, most: usize) -> (usize, usize) {
    if line.len() <= most {
        return (0, line.len());
    }
    let is_inside_character = |place: &usize| line.get(*place).is_some_and(|byte| byte & 0xc0 == 0x80);
    let from = first.saturating_sub(most / 4).min(line.len() - most);
    let to = from + most;
    let from = (from..to).take(4).find(|place| !is_inside_character(place)).unwrap_or(from);
    let to = (from..=to).rev().take(4).find(|place| !is_inside_character(place)).unwrap_or(to);
    (from, to)
}
