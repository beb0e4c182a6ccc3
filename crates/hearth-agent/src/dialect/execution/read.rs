//! Files that clients read, and directories that they list.

use std::fs::File;
use std::io::Read;

use hearth_files::{FileError, FrameEncoder, Listed, Lister, Listing, Root, open_file};
use hearth_protocol::files::{FileEntry, FileKind};

use super::answer::{Answer, Answers, Base64, Gone, LINE, ListEntry, TooLong};
use super::on_worker;
use super::request::{ErrorType, Refusal};
use super::write::LARGEST;

/// The most compressed bytes in one message.
const CHUNK: usize = 128 * 1024;
/// What is read at a time, in bytes.
const PIECE: usize = 128 * 1024;

/// Sends a file, and then its size.
pub(super) async fn file(root: Root, path: String, answers: &Answers) -> Result<(), Refusal> {
    let named = path.clone();
    let mut content = on_worker(move || Content::open(&root, named)).await?;
    loop {
        let Step { chunk, rest } = on_worker(move || content.next()).await?;
        if answers.send(&Answer::FileChunk { data: Base64(&chunk) }).await.is_err() {
            return Ok(());
        }
        match rest {
            Rest::More(more) => content = more,
            Rest::End { size } => {
                let _ = answers.send(&Answer::FileReadComplete { path: &path, size }).await;
                return Ok(());
            }
        }
    }
}

/// A file that is being read.
struct Content {
    file: File,
    path: String,
    /// Until the frame is whole.
    encoder: Option<FrameEncoder>,
    /// What is packed and not yet sent.
    frame: Vec<u8>,
    size: u64,
}

/// One chunk, and what is behind it.
struct Step {
    chunk: Vec<u8>,
    rest: Rest,
}

enum Rest {
    More(Content),
    End { size: u64 },
}

impl Content {
    fn open(root: &Root, path: String) -> Result<Self, Refusal> {
        let (file, size) = open_file(root, path.as_bytes())?;
        let encoder = FrameEncoder::new().map_err(|error| Refusal::new(ErrorType::Io, error))?;
        let content = Self { file, path, encoder: Some(encoder), frame: Vec::new(), size };
        content.check_size()?;
        Ok(Self { size: 0, ..content })
    }

    fn check_size(&self) -> Result<(), Refusal> {
        if self.size > LARGEST {
            let message = format!("{:?} has more than the {} MiB that can be read", self.path, LARGEST >> 20);
            return Err(Refusal::new(ErrorType::Io, message));
        }
        Ok(())
    }

    /// Packs until there is a whole chunk, or to the end.
    fn next(mut self) -> Result<Step, Refusal> {
        let mut piece = Vec::with_capacity(PIECE);
        while self.frame.len() < CHUNK
            && let Some(mut encoder) = self.encoder.take()
        {
            piece.clear();
            let read = (&self.file).take(PIECE as u64).read_to_end(&mut piece);
            self.size += read.map_err(|error| FileError::new("read", self.path.as_bytes(), error))? as u64;
            self.check_size()?;
            let packed = match piece.as_slice() {
                [] => encoder.finish(&mut self.frame),
                piece => encoder.feed(piece, &mut self.frame).map(|()| self.encoder = Some(encoder)),
            };
            packed.map_err(|error| Refusal::new(ErrorType::Io, error))?;
        }
        let rest = self.frame.split_off(self.frame.len().min(CHUNK));
        let chunk = std::mem::replace(&mut self.frame, rest);
        let is_end = self.frame.is_empty() && self.encoder.is_none();
        Ok(Step { chunk, rest: if is_end { Rest::End { size: self.size } } else { Rest::More(self) } })
    }
}

/// Sends what is in a directory.
pub(super) async fn list(root: Root, path: String, answers: &Answers) -> Result<(), Refusal> {
    let named = path.clone();
    let entries = on_worker(move || entries(&root, named.as_bytes())).await?;
    let list = Answer::FileList { path: &path, entries: &entries };
    match answers.try_send(&list).await {
        Ok(Err(TooLong)) => {
            let message = format!("{path:?} holds {} entries, more than a list of {} KiB", entries.len(), LINE >> 10);
            Err(Refusal::new(ErrorType::Io, message))
        }
        Ok(Ok(())) | Err(Gone) => Ok(()),
    }
}

fn entries(root: &Root, path: &[u8]) -> Result<Vec<ListEntry>, Refusal> {
    let mut lister = Lister::open(root, path, Listing { depth: 1, after: None })?;
    let (mut entries, mut length) = (Vec::new(), 0);
    loop {
        match lister.advance()? {
            Listed::Entry(found) => {
                let entry = entry(&found);
                length += entry.name.len();
                // The rest of what is too long is counted, not kept.
                if length <= LINE {
                    entries.push(entry)
                }
            }
            Listed::Nothing => {}
            Listed::End => return Ok(entries),
        }
    }
}

fn entry(found: &FileEntry) -> ListEntry {
    let name = found.path.as_bytes().rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let is_dir = found.kind == FileKind::Directory;
    // Holes take no room.
    let size = if is_dir { 0 } else { found.size.min(found.allocated) };
    ListEntry { name: String::from_utf8_lossy(name).into_owned(), is_dir, size }
}
