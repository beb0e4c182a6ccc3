//! Files of a sandbox.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream;
use hearth_client::Download;
use hearth_client::api::Encoding;
use hearth_client::api::files::{EditFile, ReadFile, WriteFile};
use hearth_client::api::protocol::RawString;
use hearth_client::api::protocol::files::{
    Create, Enough, FileEntry, FileKind, FileRoot, List, Place, Remove, Search, TextEdit,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::output::{encode, whole_end};
use crate::refused::Refused;
use crate::schema;
use crate::tool::{Call, Effect, Entry, Profile};

/// The bytes of a file that a read gives where it does not say.
const READ: u64 = 64 * 1024;
/// The entries of a list where it does not say.
const ENTRIES: u64 = 500;
/// The matches of a search where it does not say.
const MATCHES: u64 = 200;

pub(crate) fn tools() -> Vec<Entry> {
    use Effect::{Changes, Reads};
    use Profile::Core;
    vec![
        Entry::new(
            Core,
            "file_read",
            "Read a file of a sandbox, or a part of it by byte position. Text comes as text, anything else as \
            base64.",
            Reads,
            read,
        ),
        Entry::new(
            Core,
            "file_write",
            "Write a file of a sandbox, whole or not at all. Missing directories on the way are made; one that is \
            there keeps its permissions.",
            Changes,
            write,
        ),
        Entry::new(
            Core,
            "file_edit",
            "Replace texts in a file of a sandbox, all of them or none. Each `old` must be there exactly once, \
            unless count or all says otherwise.",
            Changes,
            edit,
        ),
        Entry::new(Core, "file_list", "List a directory of a sandbox, or a tree of it.", Reads, list),
        Entry::new(
            Core,
            "file_search",
            "Search files of a sandbox for a regular expression, line by line. What .gitignore excludes and \
            hidden files are left out unless asked for.",
            Reads,
            search,
        ),
        Entry::new(
            Core,
            "file_remove",
            "Remove a file of a sandbox, or with `recursive` a directory with all that is in it.",
            Changes,
            remove,
        ),
    ]
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReadArguments {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// The file: relative to the root, or absolute and inside it.
    #[schemars(length(min = 1, max = 4096))]
    path: String,
    /// What paths are beneath: `workspace` (/workspace) by default, `home`, or `system` for the whole file system.
    #[serde(default)]
    #[schemars(schema_with = "schema::root")]
    root: FileRoot,
    /// The first byte that is wanted; 0 by default.
    #[serde(default)]
    offset: u64,
    /// The most bytes; 65536 by default.
    #[schemars(range(min = 4, max = 1_048_576))]
    length: Option<u64>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Content {
    /// The content.
    text: String,
    /// How `text` is to be read.
    #[schemars(schema_with = "schema::encoding")]
    encoding: Encoding,
    /// The size of the whole file in bytes.
    size: u64,
    /// Its permissions, in octal.
    mode: String,
    /// The offset of the rest, if there is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_offset: Option<u64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriteArguments {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// The file: relative to the root, or absolute and inside it.
    #[schemars(length(min = 1, max = 4096))]
    path: String,
    /// What paths are beneath: `workspace` (/workspace) by default, `home`, or `system` for the whole file system.
    #[serde(default)]
    #[schemars(schema_with = "schema::root")]
    root: FileRoot,
    /// The content.
    #[schemars(length(max = 2_000_000))]
    content: String,
    /// How `content` is to be read; `utf-8` by default.
    #[serde(default)]
    #[schemars(schema_with = "schema::encoding")]
    encoding: Option<Encoding>,
    /// Whether the file may or must be there: `any` by default, `new`, `existing`.
    #[serde(default)]
    #[schemars(schema_with = "create")]
    create: Create,
    /// Adds to what is there in place of replacing it.
    #[serde(default)]
    append: bool,
    /// Makes a new file executable.
    #[serde(default)]
    executable: bool,
}

fn create(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "enum": ["any", "new", "existing"] })
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EditArguments {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// The file: relative to the root, or absolute and inside it.
    #[schemars(length(min = 1, max = 4096))]
    path: String,
    /// What paths are beneath: `workspace` (/workspace) by default, `home`, or `system` for the whole file system.
    #[serde(default)]
    #[schemars(schema_with = "schema::root")]
    root: FileRoot,
    /// What to replace, one after the other.
    #[schemars(length(min = 1, max = 1000))]
    edits: Vec<Replacement>,
}

/// A text to replace.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Replacement {
    /// The text, exactly.
    #[schemars(length(min = 1))]
    old: String,
    /// What takes its place.
    new: String,
    /// How often it must be there; once by default.
    #[schemars(range(min = 1))]
    count: Option<u64>,
    /// Replaces it wherever it is, however often.
    #[serde(default)]
    all: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Edited {
    /// How many texts were replaced.
    replaced: u64,
    /// The size of the file now, in bytes.
    size: u64,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListArguments {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// The directory; the root itself by default.
    #[schemars(length(max = 4096))]
    path: Option<String>,
    /// What paths are beneath: `workspace` (/workspace) by default, `home`, or `system` for the whole file system.
    #[serde(default)]
    #[schemars(schema_with = "schema::root")]
    root: FileRoot,
    /// Whether to list what is in the directories in it.
    #[serde(default)]
    recursive: bool,
    /// How many levels of a recursive list; all by default.
    #[schemars(range(min = 1))]
    depth: Option<u32>,
    /// The most entries; 500 by default.
    #[schemars(range(min = 1, max = 10_000))]
    limit: Option<u64>,
    /// Goes on behind an earlier list: its `next`.
    #[schemars(schema_with = "schema::raw")]
    #[serde(default)]
    after: Option<RawString>,
}

/// What is at a path.
#[derive(Debug, Serialize, JsonSchema)]
struct Described {
    /// Where, relative to the root.
    #[schemars(schema_with = "schema::raw")]
    path: RawString,
    /// `file`, `directory`, `symlink`, `fifo`, `socket` or `device`.
    #[schemars(schema_with = "schema::text")]
    kind: FileKind,
    /// Its length in bytes.
    size: u64,
    /// Its permissions, in octal.
    mode: String,
    /// When its content was changed last, in milliseconds since 1970.
    modified_unix_ms: i64,
    /// What a symbolic link says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::raw")]
    target: Option<RawString>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Entries {
    /// The entries, each directory before what is in it.
    entries: Vec<Described>,
    /// What goes into `after` for those that follow, if there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::raw")]
    next: Option<RawString>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SearchArguments {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// A regular expression, held against one line at a time.
    #[schemars(length(min = 1, max = 10_000))]
    pattern: String,
    /// Which file or directory; the root itself by default.
    #[schemars(length(max = 4096))]
    path: Option<String>,
    /// What paths are beneath: `workspace` (/workspace) by default, `home`, or `system` for the whole file system.
    #[serde(default)]
    #[schemars(schema_with = "schema::root")]
    root: FileRoot,
    /// Takes the pattern for the text itself.
    #[serde(default)]
    literal: bool,
    /// Which files, as lines of a .gitignore would name them, such as `*.py`; all by default.
    #[serde(default)]
    #[schemars(length(max = 100))]
    globs: Vec<String>,
    /// Also hidden files, and what a .gitignore excludes.
    #[serde(default)]
    all: bool,
    /// Lines to show before and behind each match.
    #[serde(default)]
    #[schemars(range(max = 100))]
    context: u32,
    /// The most lines with a match; 200 by default.
    #[schemars(range(min = 1, max = 10_000))]
    limit: Option<u64>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Found {
    /// Lines with a match, and those of context.
    lines: Vec<Line>,
    /// How many lines have a match.
    matches: u64,
    /// Why the search ended before its end, if it did: narrow it, or raise the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::text")]
    enough: Option<Enough>,
}

/// A line that was found.
#[derive(Debug, Serialize, JsonSchema)]
struct Line {
    /// In which file.
    #[schemars(schema_with = "schema::raw")]
    path: RawString,
    /// Its number, from 1.
    line: u64,
    /// Its text.
    text: String,
    /// Whether it is only there for context.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    context: bool,
    /// Whether `text` is a part of the line only: it was too long.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RemoveArguments {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// What: relative to the root, or absolute and inside it.
    #[schemars(length(min = 1, max = 4096))]
    path: String,
    /// What paths are beneath: `workspace` (/workspace) by default, `home`, or `system` for the whole file system.
    #[serde(default)]
    #[schemars(schema_with = "schema::root")]
    root: FileRoot,
    /// Removes a directory with all that is in it; else it must be empty.
    #[serde(default)]
    recursive: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Removed {
    /// How many files, directories and links were removed.
    entries: u64,
}

impl From<FileEntry> for Described {
    fn from(entry: FileEntry) -> Self {
        Self {
            path: entry.path,
            kind: entry.kind,
            size: entry.size,
            mode: octal(entry.mode),
            modified_unix_ms: entry.modified_ns / 1_000_000,
            target: entry.target,
        }
    }
}

fn octal(mode: u32) -> String {
    format!("{mode:04o}")
}

fn place(root: FileRoot, path: Option<String>) -> Place {
    Place::new(root, path.unwrap_or_default().into_bytes())
}

/// Reads all of what comes, which is known to have a bound.
pub(crate) async fn all(mut download: Download, most: u64) -> Result<(Vec<u8>, u64), Refused> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let (mut kept, mut total) = (Vec::new(), 0);
    while let Some(bytes) = download.next().await? {
        let room = most - kept.len();
        kept.extend_from_slice(&bytes[..room.min(bytes.len())]);
        total += bytes.len() as u64;
    }
    Ok((kept, total))
}

/// The bytes that an argument stands for.
pub(super) fn decode(encoding: Option<Encoding>, text: String, field: &str) -> Result<Vec<u8>, Refused> {
    match encoding.unwrap_or(Encoding::Utf8) {
        Encoding::Utf8 => Ok(text.into_bytes()),
        Encoding::Base64 => {
            STANDARD.decode(text).map_err(|error| Refused::invalid(field, format!("{field} is no base64: {error}")))
        }
    }
}

async fn read(call: Call, asked: ReadArguments) -> Result<Content, Refused> {
    let path = RawString::from(asked.path.into_bytes());
    let stat = call.client.stat(&asked.sandbox, &Place { root: asked.root, path: path.clone() }).await?;
    let length = asked.length.unwrap_or(READ);
    let wanted = ReadFile { offset: Some(asked.offset), length: Some(length), ..ReadFile::at(asked.root, &path) };
    let (bytes, _) = all(call.client.read_file(&asked.sandbox, &wanted).await?, length).await?;
    // The rest of a character that is cut comes with the next piece.
    let bytes = if bytes.len() as u64 == length { whole_end(&bytes) } else { &bytes[..] };
    let (encoding, text) = encode(bytes);
    let next = asked.offset + bytes.len() as u64;
    let next_offset = (next < stat.size && !bytes.is_empty()).then_some(next);
    Ok(Content { text, encoding, size: stat.size, mode: octal(stat.mode), next_offset })
}

async fn write(call: Call, asked: WriteArguments) -> Result<Described, Refused> {
    let content = decode(asked.encoding, asked.content, "content")?;
    let place = WriteFile {
        mode: asked.executable.then_some(0o755),
        create: Some(asked.create),
        append: Some(asked.append),
        ..WriteFile::at(asked.root, &asked.path.into_bytes().into())
    };
    let bytes = stream::iter([Ok(bytes::Bytes::from(content))]);
    Ok(call.client.write_file(&asked.sandbox, &place, bytes).await?.into())
}

async fn edit(call: Call, asked: EditArguments) -> Result<Edited, Refused> {
    let edits = asked.edits.into_iter().map(|edit| TextEdit {
        old: edit.old.into_bytes().into(),
        new: edit.new.into_bytes().into(),
        count: edit.count,
        all: edit.all,
    });
    let edit = EditFile { root: asked.root, path: asked.path.into_bytes().into(), edits: edits.collect() };
    let edited = call.client.edit_file(&asked.sandbox, &edit).await?;
    Ok(Edited { replaced: edited.replaced, size: edited.entry.size })
}

async fn list(call: Call, asked: ListArguments) -> Result<Entries, Refused> {
    let Place { root, path } = place(asked.root, asked.path);
    let list = List {
        root,
        path,
        recursive: asked.recursive,
        depth: asked.depth,
        limit: Some(asked.limit.unwrap_or(ENTRIES)),
        after: asked.after,
    };
    let listed = call.client.list_files(&asked.sandbox, &list).await?;
    Ok(Entries { entries: listed.entries.into_iter().map(Into::into).collect(), next: listed.next })
}

async fn search(call: Call, asked: SearchArguments) -> Result<Found, Refused> {
    let search = Search {
        literal: asked.literal,
        globs: asked.globs,
        hidden: asked.all,
        ignored: asked.all,
        before: asked.context,
        after: asked.context,
        limit: Some(asked.limit.unwrap_or(MATCHES)),
        ..Search::new(place(asked.root, asked.path), asked.pattern)
    };
    let found = call.client.search_files(&asked.sandbox, &search).await?;
    let lines = found.lines.into_iter().map(|line| Line {
        path: line.path,
        line: line.line,
        context: line.spans.is_empty(),
        cut: line.cut,
        text: line.text.to_string_lossy().into_owned(),
    });
    Ok(Found { lines: lines.collect(), matches: found.matches, enough: found.enough })
}

async fn remove(call: Call, asked: RemoveArguments) -> Result<Removed, Refused> {
    let remove = Remove {
        root: asked.root,
        path: asked.path.into_bytes().into(),
        recursive: asked.recursive,
        missing_ok: false,
    };
    let removed = call.client.remove_file(&asked.sandbox, &remove).await?;
    Ok(Removed { entries: removed.entries })
}
