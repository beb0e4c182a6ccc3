//! Hunks of text, and where they fit.

use crate::remove::Wanted;

/// A hunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hunk {
    /// The line of the patch at which it begins.
    pub(super) line: u64,
    /// The first line it is about before and after, from 1 on; where it has none, the line before.
    pub(super) old_start: u64,
    pub(super) new_start: u64,
    pub(super) lines: Vec<Line>,
}

/// A line of a hunk, with its newline unless the file ends without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) mark: Mark,
    pub(super) text: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Context,
    Removed,
    Added,
}

impl Hunk {
    pub(super) fn reverse(&mut self) {
        std::mem::swap(&mut self.old_start, &mut self.new_start);
        for line in &mut self.lines {
            line.mark = match line.mark {
                Mark::Context => Mark::Context,
                Mark::Removed => Mark::Added,
                Mark::Added => Mark::Removed,
            };
        }
    }

    fn before(&self) -> Vec<&[u8]> {
        self.lines.iter().filter(|line| line.mark != Mark::Added).map(|line| line.text.as_slice()).collect()
    }

    fn after(&self) -> impl Iterator<Item = &[u8]> {
        self.lines.iter().filter(|line| line.mark != Mark::Removed).map(|line| line.text.as_slice())
    }

    /// Whether it removes or adds anything without a context at its beginning, and at its end.
    fn is_open(&self) -> (bool, bool) {
        let is_change = |line: Option<&Line>| line.is_some_and(|line| line.mark != Mark::Context);
        (is_change(self.lines.first()), is_change(self.lines.last()))
    }

    pub(super) fn has_before(&self) -> bool {
        self.lines.iter().any(|line| line.mark != Mark::Added)
    }
}

/// What came of hunks.
pub(super) struct Applied {
    pub(super) content: Vec<u8>,
    /// How many were not where they said.
    pub(super) moved: u64,
}

/// Applies hunks, in their order, to a content. A hunk must match to the letter; it is looked for where it says it is, as far as those before it
/// were moved, and then ever farther from there, both ways. One that has a context on one side only belongs at that end of the file.
///
/// # Errors
/// The number of the first that fits nowhere.
pub(super) fn apply(content: &[u8], hunks: &[Hunk], wanted: Wanted<'_>) -> Result<Applied, usize> {
    let lines: Vec<&[u8]> = content.split_inclusive(|&byte| byte == b'\n').collect();
    let mut applied = Applied { content: Vec::with_capacity(content.len()), moved: 0 };
    let (mut taken, mut shift) = (0, 0);
    for (number, hunk) in hunks.iter().enumerate() {
        let before = hunk.before();
        let said = if before.is_empty() { hunk.old_start } else { hunk.old_start.saturating_sub(1) };
        let expected = i64::try_from(said).unwrap_or(i64::MAX).saturating_add(shift);
        let at = find(&lines, taken, hunk, &before, expected, wanted).ok_or(number)?;
        shift = shift.saturating_add((at as i64).saturating_sub(expected));
        applied.moved += u64::from(at as i64 != i64::try_from(said).unwrap_or(i64::MAX));
        lines[taken..at].iter().for_each(|line| applied.content.extend_from_slice(line));
        hunk.after().for_each(|line| applied.content.extend_from_slice(line));
        taken = at + before.len();
    }
    lines[taken..].iter().for_each(|line| applied.content.extend_from_slice(line));
    // Only a last line may lack its newline.
    let mut ends = applied.content.split_inclusive(|&byte| byte == b'\n').rev().skip(1);
    if ends.any(|line| !line.ends_with(b"\n")) { Err(hunks.len() - 1) } else { Ok(applied) }
}

/// The first line at which a hunk matches, nearest to where it is expected, from `first` on.
fn find(
    lines: &[&[u8]],
    first: usize,
    hunk: &Hunk,
    before: &[&[u8]],
    expected: i64,
    wanted: Wanted<'_>,
) -> Option<usize> {
    let last = lines.len().checked_sub(before.len())?;
    let matches = |at: usize| lines[at..at + before.len()] == *before;
    let is_within = |at: i64| usize::try_from(at).ok().filter(|at| (first..=last).contains(at));
    let (open_start, open_end) = hunk.is_open();
    let fits = match (open_start, open_end) {
        // No context at all: exactly there, or nowhere.
        (true, true) => {
            return is_within(expected).filter(|at| matches(*at)).filter(|_| hunk.old_start > 0 || lines.is_empty());
        }
        (true, false) if hunk.old_start <= 1 => is_within(0).filter(|at| matches(*at)),
        (false, true) => is_within(last as i64).filter(|at| matches(*at)),
        _ => None,
    };
    if fits.is_some() || (open_start && hunk.old_start <= 1) || (open_end && !open_start) {
        return fits;
    }
    if last < first {
        return None;
    }
    let expected = expected.clamp(first as i64, last as i64);
    let farthest = expected.abs_diff(first as i64).max(expected.abs_diff(last as i64));
    for distance in 0..=farthest as i64 {
        if distance % 4096 == 4095 && !wanted() {
            return None;
        }
        let near = [expected.saturating_sub(distance), expected.saturating_add(distance)];
        if let Some(at) = near.into_iter().filter_map(is_within).find(|at| matches(*at)) {
            return Some(at);
        }
    }
    None
}
