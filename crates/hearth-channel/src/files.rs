//! Files of the guest.

use bytes::Bytes;
use hearth_protocol::files::{
    Chmod, Enough, FileEntry, FileEvent, FileRequest, FileResult, Line, List, Mkdir, Place, Read, Remove, Search,
    Symlink, TextEdit, Transfer, Watch, Write,
};
use hearth_protocol::{Finished, RawString, RequestBody, encode_record};

use crate::channel::{Channel, wrong_result};
use crate::error::ChannelError;
use crate::operation::Operation;
use crate::records::Records;

/// The entries of a list that asks for no other number.
const LISTED: u64 = 100_000;

/// A part of a list, or all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The entries, each directory before what is in it.
    pub entries: Vec<FileEntry>,
    /// What goes into [`List::after`] for those that follow; `None` when these are the last.
    pub next: Option<RawString>,
}

/// What a search has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matches {
    /// Lines with a match, and those of context.
    pub lines: Vec<Line>,
    /// How many lines have a match.
    pub matches: u64,
    /// Why the search ended before its end, if it did.
    pub enough: Option<Enough>,
}

/// A place that is watched. Dropping it ends that.
#[derive(Debug)]
pub struct Watching(Records<FileEvent>);

impl Watching {
    /// The next event; `None` when the place itself is gone. Cancel-safe.
    ///
    /// # Errors
    /// As [`Records::next`].
    pub async fn next(&mut self) -> Result<Option<FileEvent>, ChannelError> {
        self.0.next().await
    }
}

impl Channel {
    /// Describes what is at a path; a symbolic link itself.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn stat(&self, place: impl Into<Place>) -> Result<FileEntry, ChannelError> {
        entry("stat", self.finish(RequestBody::File(FileRequest::Stat(place.into()))).await?)
    }

    /// Lists a directory, entry by entry.
    ///
    /// # Errors
    /// As [`Self::operate`].
    pub async fn list_stream(&self, list: List) -> Result<Records<FileEntry>, ChannelError> {
        Ok(Records::new(self.operate(RequestBody::File(FileRequest::List(list))).await?, "list"))
    }

    /// Lists a directory: up to [`List::limit`] entries, 100,000 by default. For more, see [`Listing::next`].
    ///
    /// # Errors
    /// As [`Records::next`].
    pub async fn list_files(&self, list: List) -> Result<Listing, ChannelError> {
        let limit = list.limit.or(Some(LISTED));
        match self.list_stream(List { limit, ..list }).await?.collect().await? {
            (entries, Finished::File(FileResult::Listed { next, .. })) => Ok(Listing { entries, next }),
            _ => Err(wrong_result("list")),
        }
    }

    /// Reads a file as a stream of `data`.
    ///
    /// # Errors
    /// As [`Self::operate`].
    pub async fn read(&self, place: impl Into<Place>) -> Result<Operation, ChannelError> {
        self.read_with(Read::new(place)).await
    }

    /// Reads a file, or a part of it, as a stream of `data`.
    ///
    /// # Errors
    /// As [`Self::operate`].
    pub async fn read_with(&self, read: Read) -> Result<Operation, ChannelError> {
        self.operate(RequestBody::File(FileRequest::Read(read))).await
    }

    /// Reads a whole file of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Self::request`]; [`hearth_protocol::ErrorCode::TooLarge`] for a larger one.
    pub async fn read_whole(&self, place: impl Into<Place>, limit: usize) -> Result<Bytes, ChannelError> {
        let read = Read { at_most: Some(limit as u64), ..Read::new(place) };
        self.read_with(read).await?.collect(limit).await.map(|(_, bytes)| bytes)
    }

    /// Writes a file, whole or not at all; `mode` is for a new one, 0644 by default.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn write(
        &self,
        place: impl Into<Place>,
        mode: Option<u32>,
        content: Bytes,
    ) -> Result<FileEntry, ChannelError> {
        let write = self.write_with(Write { mode, ..Write::new(place) }).await?;
        write.send_all(content).await?;
        entry("write", write.finish().await?)
    }

    /// Writes a file from the operation's upload: only [`crate::Upload::finish`] commits.
    ///
    /// # Errors
    /// As [`Self::operate`].
    pub async fn write_with(&self, write: Write) -> Result<Operation, ChannelError> {
        self.operate(RequestBody::File(FileRequest::Write(write))).await
    }

    /// Replaces texts in a file, one after the other, all or none. Returns how many, and what the file is now.
    ///
    /// # Errors
    /// As [`Self::request`]; [`hearth_protocol::ErrorCode::PatchConflict`] for a text that is there another number of times than it must be.
    pub async fn edit(&self, place: impl Into<Place>, edits: &[TextEdit]) -> Result<(u64, FileEntry), ChannelError> {
        let mut lines = Vec::new();
        edits.iter().for_each(|edit| encode_record(edit, &mut lines));
        let operation = self.operate(RequestBody::File(FileRequest::Edit(place.into()))).await?;
        operation.send_all(lines.into()).await?;
        match operation.finish().await? {
            Finished::File(FileResult::Edited { replaced, entry }) => Ok((replaced, entry)),
            _ => Err(wrong_result("edit")),
        }
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn mkdir(&self, mkdir: Mkdir) -> Result<FileEntry, ChannelError> {
        entry("mkdir", self.finish(RequestBody::File(FileRequest::Mkdir(mkdir))).await?)
    }

    /// Moves a file, a link or a directory. Returns what is at the new path.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn move_file(&self, transfer: Transfer) -> Result<FileEntry, ChannelError> {
        entry("move", self.operate_to_end(FileRequest::Move(transfer)).await?)
    }

    /// Copies a file, a link, or a directory with all that is in it. Returns how many were made.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn copy_file(&self, transfer: Transfer) -> Result<u64, ChannelError> {
        count("copy", self.operate_to_end(FileRequest::Copy(transfer)).await?)
    }

    /// Removes a file, a link or a directory. Returns how many there were.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn remove_file(&self, remove: Remove) -> Result<u64, ChannelError> {
        count("remove", self.operate_to_end(FileRequest::Remove(remove)).await?)
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn symlink(&self, link: Symlink) -> Result<FileEntry, ChannelError> {
        entry("symlink", self.finish(RequestBody::File(FileRequest::Symlink(link))).await?)
    }

    /// Changes permissions. Returns of how many files and directories.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn chmod(&self, chmod: Chmod) -> Result<u64, ChannelError> {
        count("chmod", self.operate_to_end(FileRequest::Chmod(chmod)).await?)
    }

    /// Searches files, line by line.
    ///
    /// # Errors
    /// As [`Self::operate`].
    pub async fn search_stream(&self, search: Search) -> Result<Records<Line>, ChannelError> {
        Ok(Records::new(self.operate(RequestBody::File(FileRequest::Search(search))).await?, "search"))
    }

    /// Searches files.
    ///
    /// # Errors
    /// As [`Records::next`].
    pub async fn search(&self, search: Search) -> Result<Matches, ChannelError> {
        match self.search_stream(search).await?.collect().await? {
            (lines, Finished::File(FileResult::Searched { matches, enough, .. })) => {
                Ok(Matches { lines, matches, enough })
            }
            _ => Err(wrong_result("search")),
        }
    }

    /// Watches a file or a directory. Returns once nothing that changes there is missed.
    ///
    /// # Errors
    /// As [`Records::next`].
    pub async fn watch(&self, watch: Watch) -> Result<Watching, ChannelError> {
        let operation = self.operate(RequestBody::File(FileRequest::Watch(watch))).await?;
        let mut records = Records::new(operation, "watch");
        match records.next().await? {
            Some(FileEvent::Started { .. }) => Ok(Watching(records)),
            _ => Err(wrong_result("watch")),
        }
    }

    /// Asks for something that may take long.
    async fn operate_to_end(&self, request: FileRequest) -> Result<Finished, ChannelError> {
        self.operate(RequestBody::File(request)).await?.finish().await
    }
}

fn entry(asked: &'static str, finished: Finished) -> Result<FileEntry, ChannelError> {
    match finished {
        Finished::File(FileResult::Entry(entry)) => Ok(entry),
        _ => Err(wrong_result(asked)),
    }
}

fn count(asked: &'static str, finished: Finished) -> Result<u64, ChannelError> {
    match finished {
        Finished::File(
            FileResult::Copied { entries, .. } | FileResult::Removed { entries } | FileResult::Changed { entries },
        ) => Ok(entries),
        _ => Err(wrong_result(asked)),
    }
}
