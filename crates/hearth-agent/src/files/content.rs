//! The content of files: read, written, edited.

use std::fs::File;
use std::io::{self, Read as _, Seek, SeekFrom};

use bytes::Bytes;
use hearth_files::{Addition, FileError, Replacement, Root};
use hearth_protocol::files::{FileEntry, FileResult, Place, Read, TextEdit, Write};
use hearth_protocol::{ErrorCode, Fault, decode_record};

use crate::agent::Agent;
use crate::session::operation::{Streams, Upload, cancelled};

/// What is read at a time, in bytes.
const PIECE: u64 = 256 * 1024;
/// What is read on the agent's own thread, in bytes: a thread costs more than this.
const SMALL: u64 = 64 * 1024;
/// The most that the edits of one request may be, in bytes.
const EDITS: usize = 4 * 1024 * 1024;

/// A file that is open, and what is wanted of it.
struct Reading {
    file: File,
    left: u64,
    path: Vec<u8>,
}

pub(super) async fn read(agent: &Agent, read: Read, streams: Streams) -> Result<FileResult, Fault> {
    let path = read.path.as_bytes();
    let (mut file, size) = hearth_files::open_file(&agent.roots.open(read.root)?, path)?;
    let mut length = read.length.unwrap_or(u64::MAX).min(u64::MAX - read.offset);
    let expected = size.saturating_sub(read.offset).min(length);
    if let Some(most) = read.at_most.filter(|most| expected > *most) {
        let message =
            format!("read {}: it has {expected} bytes to send, over the limit of {most}", read.path.to_string_lossy());
        return Err(Fault::never_started(ErrorCode::TooLarge, message));
    }
    match file.seek(SeekFrom::Start(read.offset)) {
        Ok(_) => {}
        // No file of its file system reaches so far.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => length = 0,
        Err(error) => return Err(FileError::new("read", path, error).into()),
    }
    let mut reading = Reading { file, left: length, path: path.to_vec() };
    let result = FileResult::Read { size };
    // What the kernel makes up as it is read says that it is empty, and may take its time.
    if (1..=SMALL).contains(&expected) {
        while let Some(piece) = reading.next()? {
            streams.output.send_at_end(piece).await;
        }
        return Ok(result);
    }
    streams
        .on_worker(move |_, data| {
            while let Some(piece) = reading.next()? {
                data.hand_on(piece).map_err(|error| cancelled(&error))?;
            }
            Ok(result)
        })
        .await
}

impl Reading {
    /// The next bytes; `None` at the end.
    fn next(&mut self) -> Result<Option<Bytes>, FileError> {
        let limit = self.left.min(PIECE);
        let mut piece = Vec::with_capacity(limit as usize);
        let read = (&self.file).take(limit).read_to_end(&mut piece);
        let count = read.map_err(|error| FileError::new("read", &self.path, error))?;
        self.left -= count as u64;
        Ok((count > 0).then(|| piece.into()))
    }
}

/// Where what is written goes.
enum Writing {
    Whole(Replacement),
    Behind(Addition),
}

impl Writing {
    fn begin(root: &Root, write: &Write) -> Result<Self, FileError> {
        let path = write.path.as_bytes();
        let addition = if write.append { Addition::begin(root, path, write.create)? } else { None };
        match addition {
            Some(addition) => Ok(Self::Behind(addition)),
            None => Replacement::begin(root, path, write.mode, write.create).map(Self::Whole),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        match self {
            Self::Whole(replacement) => replacement.write_all(bytes),
            Self::Behind(addition) => addition.write_all(bytes),
        }
    }

    fn commit(self) -> Result<FileEntry, FileError> {
        match self {
            Self::Whole(replacement) => replacement.commit(),
            Self::Behind(addition) => addition.commit(),
        }
    }
}

pub(super) async fn write(agent: &Agent, write: Write, streams: Streams) -> Result<FileResult, Fault> {
    let root = agent.roots.open(write.root)?;
    streams
        .on_worker(move |upload, _| {
            let mut writing = Writing::begin(&root, &write)?;
            while let Some(piece) = upload.next().map_err(|error| cancelled(&error))? {
                writing.write_all(&piece)?;
            }
            Ok(FileResult::Entry(writing.commit()?))
        })
        .await
}

pub(super) async fn edit(agent: &Agent, place: Place, streams: Streams) -> Result<FileResult, Fault> {
    let root = agent.roots.open(place.root)?;
    streams
        .on_worker(move |upload, _| {
            let path = place.path.as_bytes();
            // What cannot be edited is refused before the edits are sent.
            hearth_files::open_file(&root, path)?;
            let edits = read_edits(upload)?;
            let (replaced, entry) = hearth_files::edit(&root, path, &edits)?;
            Ok(FileResult::Edited { replaced, entry })
        })
        .await
}

/// Reads the whole upload as edits, one a line.
fn read_edits(upload: &mut Upload) -> Result<Vec<TextEdit>, Fault> {
    let invalid = |message: String| Fault::never_started(ErrorCode::InvalidField, message);
    let mut lines = Vec::new();
    let read: io::Result<usize> = upload.take(EDITS as u64 + 1).read_to_end(&mut lines);
    read.map_err(|error| cancelled(&error))?;
    if lines.len() > EDITS {
        let message = format!("the edits have more than {EDITS} bytes");
        return Err(Fault::never_started(ErrorCode::TooLarge, message));
    }
    let lines = lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let read_one = |(index, line): (usize, &[u8])| {
        let edit: TextEdit = decode_record(line).map_err(|error| invalid(format!("edit {}: {error}", index + 1)))?;
        edit.validate().map_err(|fault| invalid(format!("edit {}: {}", index + 1, fault.message)))?;
        Ok(edit)
    };
    let edits: Vec<TextEdit> = lines.enumerate().map(read_one).collect::<Result<_, Fault>>()?;
    if edits.is_empty() { Err(invalid("there are no edits".into())) } else { Ok(edits) }
}
