//! The names of one directory, or of a portion of it, in order.

use std::ffi::{CStr, CString};

use rustix::fs::FileType;

/// The most bytes of names in a portion.
const LONG: usize = 4 * 1024 * 1024;

/// Names that were read, and how far they were handed out.
#[derive(Debug)]
pub(super) struct Names {
    /// The names, each with its NUL, in the order they came.
    bytes: Vec<u8>,
    /// While reading in no order; then the least last.
    order: Vec<Place>,
    state: State,
    /// Names up to this one were handed out.
    after: Option<Vec<u8>>,
    /// Names from this one on are for a later portion.
    before: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Reading begins at the directory's beginning.
    Unread,
    Reading,
    Read,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    start: u32,
    length: u16,
    kind: FileType,
}

impl Default for Names {
    fn default() -> Self {
        Self { bytes: Vec::new(), order: Vec::new(), state: State::Unread, after: None, before: None }
    }
}

impl Names {
    /// Whether there is more to be read before anything can be handed out.
    pub(super) fn is_reading(&self) -> bool {
        self.state != State::Read
    }

    /// Whether the directory is to be read from its beginning. Asked once.
    pub(super) fn is_to_rewind(&mut self) -> bool {
        std::mem::replace(&mut self.state, State::Reading) == State::Unread
    }

    /// Whether a later portion is left.
    pub(super) fn has_more(&self) -> bool {
        self.before.is_some()
    }

    /// The bytes that are kept.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets what was read; what is behind `last` will be read again.
    pub(super) fn read_again(&mut self, last: &[u8]) {
        *self = Self { after: Some(last.to_vec()), ..Self::default() };
    }

    /// Takes in a name, unless it is not of this portion. There may be twice as many as `most` meanwhile.
    pub(super) fn take_in(&mut self, name: &CStr, kind: FileType, most: usize) {
        let text = name.to_bytes();
        let wanted = !matches!(text, b"." | b"..")
            && self.after.as_ref().is_none_or(|after| text > after.as_slice())
            && self.before.as_ref().is_none_or(|before| text < before.as_slice());
        if !wanted {
            return;
        }
        let start = u32::try_from(self.bytes.len()).expect("two portions of names are far below 4 GiB");
        self.bytes.extend_from_slice(name.to_bytes_with_nul());
        self.order.push(Place { start, length: text.len() as u16, kind });
        if self.order.len() >= 2 * most || self.bytes.len() > LONG {
            self.keep_least(self.order.len() / 2);
        }
    }

    /// Puts what was read in order.
    pub(super) fn finish(&mut self, most: usize) {
        if self.order.len() > most {
            self.keep_least(most);
        }
        let bytes = &self.bytes;
        self.order.sort_unstable_by(|one, other| text(bytes, *other).cmp(text(bytes, *one)));
        self.state = State::Read;
    }

    fn keep_least(&mut self, most: usize) {
        let bytes = &self.bytes;
        let by_name = |one: &Place, other: &Place| text(bytes, *one).cmp(text(bytes, *other));
        let (_, first_dropped, _) = self.order.select_nth_unstable_by(most, by_name);
        self.before = Some(text(bytes, *first_dropped).to_vec());
        self.order.truncate(most);
        let mut kept = Vec::with_capacity(most * 32);
        for place in &mut self.order {
            let start = kept.len() as u32;
            kept.extend_from_slice(&bytes[place.start as usize..][..place.length as usize + 1]);
            place.start = start;
        }
        self.bytes = kept;
    }

    /// Hands out the next name.
    pub(super) fn pop(&mut self) -> Option<(CString, FileType)> {
        let place = self.order.pop()?;
        Some((CString::new(text(&self.bytes, place)).expect("a name of the system's holds no NUL"), place.kind))
    }
}

fn text(bytes: &[u8], place: Place) -> &[u8] {
    &bytes[place.start as usize..][..usize::from(place.length)]
}
