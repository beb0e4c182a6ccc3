//! Files and trees of a guest.
//!
//! What is asked of a place is the wire's own request as a JSON body; bytes of files and archives are bodies of their own, with the place in
//! the query: `path`, or `path_hex` for a name that is no UTF-8.

use hearth_protocol::archive::Compression;
use hearth_protocol::files::{Create, FileEntry, FileRoot, Line, TextEdit};
use hearth_protocol::{RawString, hex};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ErrorBody, OwnCode};

/// A place, as a part of a query.
macro_rules! with_place {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// The path: relative to the root, or absolute and inside it.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub path: Option<String>,
            /// The same in hexadecimal digits, for a path that is no UTF-8.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub path_hex: Option<String>,
            /// Beneath which root: `workspace` by default, `home`, `system`.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub root: Option<FileRoot>,
            $($(#[$field_doc])* #[serde(default, skip_serializing_if = "Option::is_none")] pub $field: Option<$kind>,)*
        }

        impl $name {
            /// Names a place.
            pub fn at(root: FileRoot, path: &RawString) -> Self {
                let text = std::str::from_utf8(path.as_bytes()).ok().map(str::to_owned);
                let path_hex = text.is_none().then(|| hex::encode(path.as_bytes()));
                Self { path: text, path_hex, root: Some(root), ..Self::default() }
            }

            /// The place.
            ///
            /// # Errors
            /// [`OwnCode::InvalidRequest`] when there is none, or two.
            pub fn place(&self) -> Result<(FileRoot, RawString), ErrorBody> {
                let path = place(self.path.as_deref(), self.path_hex.as_deref())?;
                Ok((self.root.unwrap_or_default(), path))
            }
        }
    };
}

with_place! {
    /// A file to read.
    ReadFile {
        /// The first byte wanted.
        offset: u64,
        /// The most bytes wanted.
        length: u64,
    }
}

with_place! {
    /// A file to write: the body is its content, whole or not at all.
    WriteFile {
        /// The permissions of a new file, as a number in decimal; 420 (0644) by default.
        mode: u32,
        /// Whether it may, or must, be there: `any`, `new`, `existing`.
        create: Create,
        /// Adds to what is there.
        append: bool,
    }
}

with_place! {
    /// A tree to fetch as a tar archive.
    ExportTree {
        /// How it is compressed: `none`, `gzip`, `zstd`.
        compression: Compression,
    }
}

with_place! {
    /// An archive to unpack: the body, tar, plain or compressed. All of it or nothing.
    ImportTree {
        /// The most bytes that it may have without compression.
        limit_bytes: u64,
    }
}

fn place(path: Option<&str>, path_hex: Option<&str>) -> Result<RawString, ErrorBody> {
    let refused = |message: &str, field: &str| Err(ErrorBody::new(OwnCode::InvalidRequest, message).with_field(field));
    let bytes = match (path, path_hex) {
        (Some(path), None) => path.as_bytes().to_vec(),
        (None, Some(digits)) => match hex::decode(digits) {
            Some(bytes) => bytes,
            None => return refused("path_hex is not pairs of hexadecimal digits", "path_hex"),
        },
        (None, None) => return refused("path is missing", "path"),
        (Some(_), Some(_)) => return refused("path and path_hex are both given", "path_hex"),
    };
    if bytes.contains(&0) {
        return refused("a path holds a NUL byte", "path");
    }
    Ok(bytes.into())
}

/// What is in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileList {
    /// The entries, each directory before what is in it. Names come from the guest: escape them.
    pub entries: Vec<FileEntry>,
    /// What goes into `after` for those that follow, if there are more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<RawString>,
}

/// How much was copied, removed or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Count {
    /// Files, directories and links.
    pub entries: u64,
}

/// Texts to replace in a file, one after the other, all or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EditFile {
    /// Beneath which root.
    #[serde(default)]
    pub root: FileRoot,
    /// Which file.
    pub path: RawString,
    /// The texts.
    pub edits: Vec<TextEdit>,
}

/// What was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Edited {
    /// How many texts.
    pub replaced: u64,
    /// The file now.
    pub entry: FileEntry,
}

/// What a search has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Found {
    /// Lines with a match, and those of context. They come from the guest: escape them.
    pub lines: Vec<Line>,
    /// How many lines have a match.
    pub matches: u64,
    /// Why the search ended before its end, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enough: Option<hearth_protocol::files::Enough>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_path_or_its_digits_and_never_both() {
        let place = |path: Option<&str>, hex: Option<&str>| {
            let query = ReadFile { path: path.map(Into::into), path_hex: hex.map(Into::into), ..ReadFile::default() };
            query.place().map(|(_, path)| path.as_bytes().to_vec()).map_err(|error| error.field)
        };
        assert_eq!(place(Some("a b"), None), Ok(b"a b".to_vec()));
        assert_eq!(place(None, Some("ff2f61")), Ok(b"\xff/a".to_vec()));
        assert_eq!(place(None, None), Err(Some("path".into())));
        assert_eq!(place(Some("a"), Some("61")), Err(Some("path_hex".into())));
        assert_eq!(place(None, Some("6")), Err(Some("path_hex".into())));
        assert_eq!(place(Some("a\0"), None), Err(Some("path".into())));
    }

    #[test]
    fn every_name_survives_a_query() {
        for bytes in [&b"plain"[..], b"\xff\xfe"] {
            let query = WriteFile::at(FileRoot::System, &bytes.to_vec().into());
            assert_eq!(query.place().unwrap(), (FileRoot::System, bytes.to_vec().into()));
        }
    }
}
