//! Requests about files: from the wire to `hearth-files` and back.

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::rc::Rc;

use hearth_files::FileError;
use hearth_protocol::files::{FileRequest, FileResult, Place};
use hearth_protocol::{Fault, Finished};

use crate::agent::Agent;
use crate::session::operation::{Streams, cancelled};

/// What is read or written at a time, in bytes.
const PIECE: usize = 256 * 1024;

/// Does what is asked.
pub(crate) async fn run(agent: Rc<Agent>, request: FileRequest, streams: Streams) -> Result<Finished, Fault> {
    let result = match request {
        FileRequest::Stat(place) => stat(&agent, &place)?,
        FileRequest::Read { place, offset, length } => {
            read(&agent, place, offset..length.map_or(u64::MAX, |length| offset.saturating_add(length)), streams)
                .await?
        }
        FileRequest::Write { place, mode } => write(&agent, place, mode, streams).await?,
    };
    Ok(Finished::File(result))
}

fn stat(agent: &Agent, place: &Place) -> Result<FileResult, Fault> {
    let root = agent.roots.of(place)?;
    Ok(FileResult::Entry(hearth_files::stat(&root, place.path.as_bytes())?))
}

async fn read(agent: &Agent, place: Place, range: Range<u64>, streams: Streams) -> Result<FileResult, Fault> {
    let root = agent.roots.of(&place)?;
    streams
        .on_worker(move |_, data| {
            let (mut file, size) = hearth_files::open_file(&root, place.path.as_bytes())?;
            let failed = |error: std::io::Error| FileError::new("read", place.path.as_bytes(), error);
            file.seek(SeekFrom::Start(range.start)).map_err(failed)?;
            let mut left = range.end - range.start;
            while left > 0 {
                let mut piece = Vec::with_capacity(PIECE);
                let limit = left.min(PIECE as u64);
                let count = (&file).take(limit).read_to_end(&mut piece).map_err(failed)? as u64;
                if count == 0 {
                    break;
                }
                left -= count;
                data.hand_on(piece.into()).map_err(|error| cancelled(&error))?;
            }
            Ok(FileResult::Read { size })
        })
        .await
}

async fn write(agent: &Agent, place: Place, mode: Option<u32>, streams: Streams) -> Result<FileResult, Fault> {
    let root = agent.roots.of(&place)?;
    streams
        .on_worker(move |upload, _| {
            let path = place.path.as_bytes();
            let mut file = hearth_files::Replacement::begin(&root, path, mode)?;
            let mut buffer = vec![0; PIECE];
            loop {
                match upload.read(&mut buffer).map_err(|error| cancelled(&error))? {
                    0 => break,
                    count => file.write_all(&buffer[..count])?,
                }
            }
            file.commit()?;
            Ok(FileResult::Entry(hearth_files::stat(&root, path)?))
        })
        .await
}
