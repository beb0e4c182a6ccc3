//! From the kernel's events to those of the wire.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;

use hearth_protocol::RawString;
use hearth_protocol::files::FileEvent;
use rustix::fs::inotify::{self, ReadFlags};
use rustix::io::Errno;

use super::nodes::Watched;
use super::{Half, Watcher};
use crate::error::FileError;

/// What is read of events at a time, in bytes.
const BUFFER: usize = 16 * 1024;

/// An event as the kernel has it.
struct Event {
    directory: Watched,
    mask: ReadFlags,
    cookie: u32,
    name: Option<CString>,
}

impl Watcher {
    /// Reads some events; none when there are none yet.
    ///
    /// # Errors
    /// [`FileError`]: what the system says.
    pub fn read(&mut self) -> Result<Vec<FileEvent>, FileError> {
        let mut events = Vec::new();
        for event in self.read_events().map_err(|error| self.failed(error))? {
            self.take(&event, &mut events);
        }
        Ok(events)
    }

    fn read_events(&self) -> Result<Vec<Event>, Errno> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut events = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => events.push(Event {
                    directory: Watched(event.wd()),
                    mask: event.events(),
                    cookie: event.cookie(),
                    name: event.file_name().map(CStr::to_owned),
                }),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(events),
                Err(error) => return Err(error),
            }
            if reader.is_buffer_empty() {
                return Ok(events);
            }
        }
    }

    /// Takes what has left its name, and got no other, for removed.
    pub fn settle(&mut self) -> Vec<FileEvent> {
        let mut events = Vec::new();
        self.settle_into(&mut events);
        events
    }

    fn settle_into(&mut self, events: &mut Vec<FileEvent>) {
        let Some(Half { directory, name, is_directory, .. }) = self.half.take() else { return };
        if is_directory && let Some(moved) = self.nodes.find(directory, &name) {
            for watched in self.nodes.tree(moved) {
                self.nodes.remove(watched);
                // One that is gone is not watched any more.
                let _ = inotify::remove_watch(&self.inotify, watched.0);
            }
        }
        if let Some(path) = self.shown(directory, Some(&name)) {
            events.push(FileEvent::Removed { path, directory: is_directory });
        }
    }

    fn take(&mut self, event: &Event, events: &mut Vec<FileEvent>) {
        if event.mask.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.settle_into(events);
            return self.look_at_all_again(events);
        }
        let is_directory = event.mask.contains(ReadFlags::ISDIR);
        let Some(name) = &event.name else { return self.take_own(event, events) };
        if event.mask.contains(ReadFlags::MOVED_TO) {
            match self.half.take() {
                Some(half) if half.cookie == event.cookie => return self.renamed(half, event.directory, name, events),
                other => self.half = other,
            }
        }
        self.settle_into(events);
        if event.mask.contains(ReadFlags::MOVED_FROM) {
            self.half =
                Some(Half { cookie: event.cookie, directory: event.directory, name: name.clone(), is_directory });
            return;
        }
        let appeared = event.mask.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
        if appeared && is_directory && self.recursive {
            self.pending.push_back((event.directory, name.clone()));
        }
        if let Some(path) = self.shown(event.directory, Some(name)) {
            events.extend(told(event.mask, path, is_directory));
        }
    }

    /// Takes an event of a watched directory itself. What happens to those in others is told by the others.
    fn take_own(&mut self, event: &Event, events: &mut Vec<FileEvent>) {
        if event.directory != self.top {
            if event.mask.contains(ReadFlags::IGNORED) {
                self.nodes.remove(event.directory);
            }
            return;
        }
        let ends = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED | ReadFlags::UNMOUNT;
        let path: RawString = self.path.clone().into();
        if event.mask.intersects(ends) {
            self.settle_into(events);
            if !std::mem::replace(&mut self.gone, true) {
                events.push(FileEvent::Removed { path, directory: true });
            }
        } else if event.mask.contains(ReadFlags::ATTRIB) && self.only.is_none() {
            events.push(FileEvent::Attributes { path, directory: true });
        }
    }

    fn renamed(&mut self, half: Half, directory: Watched, name: &CString, events: &mut Vec<FileEvent>) {
        if half.is_directory {
            match self.nodes.find(half.directory, &half.name) {
                Some(moved) => self.nodes.insert(moved, directory, name),
                // It was renamed before it could be watched.
                None if self.recursive => self.pending.push_back((directory, name.clone())),
                None => {}
            }
        }
        let of_interest =
            self.only.as_ref().is_none_or(|only| [half.name.as_bytes(), name.as_bytes()].contains(&only.as_slice()));
        let places = (self.path_of(half.directory, half.name.as_bytes()), self.path_of(directory, name.as_bytes()));
        if of_interest && let (Some(from), Some(path)) = places {
            let (from, path) = (from.into(), path.into());
            events.push(FileEvent::Renamed { from, path, directory: half.is_directory });
        }
    }

    /// After an overflow nothing is certain: everything is looked at again, and only then the overflow is told.
    fn look_at_all_again(&mut self, events: &mut Vec<FileEvent>) {
        // When the place is gone its own end is the next that is told, or is lost.
        match self.look_at_all() {
            Ok(()) => self.overflowed = true,
            Err(_) => {
                events.push(FileEvent::Overflow {});
                self.gone = true;
            }
        }
    }
}

/// What an event under a name says.
fn told(mask: ReadFlags, path: RawString, directory: bool) -> Option<FileEvent> {
    if mask.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
        Some(FileEvent::Created { path, directory })
    } else if mask.contains(ReadFlags::DELETE) {
        Some(FileEvent::Removed { path, directory })
    } else if mask.contains(ReadFlags::MODIFY) {
        Some(FileEvent::Modified { path })
    } else if mask.contains(ReadFlags::CLOSE_WRITE) {
        Some(FileEvent::Written { path })
    } else if mask.contains(ReadFlags::ATTRIB) {
        Some(FileEvent::Attributes { path, directory })
    } else {
        None
    }
}
