//! Trees on their way between this host and a sandbox: `hearth cp`, `hearth sync`, and what a new sandbox is seeded with.
//!
//! What comes out of a guest is hostile. What must stay true: it lands in the one file or directory that was named, which is never reached
//! through a link at its own name; what is below is the business of `hearth-files`, which follows no link, makes no devices and keeps
//! no special bits; and what is cut off, by a signal too, leaves what was there and nothing else.

mod copy;
mod local;
mod plan;
mod seed;
mod stream;
mod sync;

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use hearth_client::api::protocol::RawString;
use hearth_client::api::protocol::files::{self, FileRoot};

use super::guest::place;
use crate::failure::Failure;

pub(crate) use copy::{copy, save};
pub(crate) use seed::Seed;
pub(crate) use sync::sync;

/// A side of a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Side {
    /// Standard input or output.
    Stream,
    Here(PathBuf),
    There(There),
}

/// A place in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
struct There {
    sandbox: String,
    root: FileRoot,
    path: Vec<u8>,
}

impl Side {
    /// Reads `SANDBOX:PATH`; what has a slash before the colon, or begins with a dot, is a path here.
    fn parse(text: OsString) -> Result<Self, Failure> {
        let bytes = text.as_bytes();
        if bytes == b"-" {
            return Ok(Self::Stream);
        }
        let colon = bytes.iter().position(|&byte| byte == b':');
        let Some(colon) = colon.filter(|&colon| !bytes.starts_with(b".") && !bytes[..colon].contains(&b'/')) else {
            return Ok(Self::Here(text.into()));
        };
        let sandbox = std::str::from_utf8(&bytes[..colon]).ok().filter(|sandbox| !sandbox.is_empty());
        let sandbox = sandbox.ok_or_else(|| Failure::invalid("a place in a sandbox is SANDBOX:PATH".to_owned()))?;
        let path = if bytes.len() == colon + 1 { b".".as_slice() } else { &bytes[colon + 1..] };
        let (root, _) = place(OsString::from_vec(path.to_vec()));
        Ok(Self::There(There { sandbox: sandbox.to_owned(), root, path: path.to_vec() }))
    }
}

impl There {
    /// What a request says for it.
    fn place(&self) -> files::Place {
        files::Place::new(self.root, RawString::from(self.path.clone()))
    }

    /// The same place with something behind it.
    fn join(&self, below: &[u8]) -> Self {
        let path = [self.path.as_slice(), b"/", below].concat();
        Self { path, ..self.clone() }
    }

    /// Where it is, and its name there; `None` for what has no name of its own.
    fn split(&self) -> Option<(Self, Vec<u8>)> {
        let end = self.path.len() - self.path.iter().rev().take_while(|&&byte| byte == b'/').count();
        let (parent, name) = match self.path[..end].iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&self.path[..=slash], &self.path[slash + 1..end]),
            None => (b".".as_slice(), &self.path[..end]),
        };
        let named = !matches!(name, b"" | b"." | b"..");
        named.then(|| (Self { path: parent.to_vec(), ..self.clone() }, name.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(path: &str) -> There {
        match Side::parse(format!("web:{path}").into()).unwrap() {
            Side::There(there) => there,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_side_is_a_place_in_a_sandbox_a_path_here_or_a_stream() {
        let here = |text: &str| Side::parse(text.into()).unwrap() == Side::Here(text.into());
        assert_eq!(Side::parse("-".into()).unwrap(), Side::Stream);
        for text in ["a", "./a:b", "/a:b", "d/a:b", "..", "."] {
            assert!(here(text), "{text}");
        }
        assert_eq!((there("a").root, there("a").path), (FileRoot::Workspace, b"a".to_vec()));
        assert_eq!((there("/etc").root, there("").path), (FileRoot::System, b".".to_vec()));
        assert_eq!(there("a:b").path, b"a:b");
        assert!(Side::parse(":a".into()).is_err());
    }

    #[test]
    fn a_place_has_a_parent_and_a_name_unless_it_is_a_top() {
        let split = |path: &str| there(path).split().map(|(parent, name)| (parent.path, name));
        assert_eq!(split("a"), Some((b".".to_vec(), b"a".to_vec())));
        assert_eq!(split("d/a//"), Some((b"d/".to_vec(), b"a".to_vec())));
        assert_eq!(split("/a"), Some((b"/".to_vec(), b"a".to_vec())));
        for top in ["", ".", "/", "a/.", "a/.."] {
            assert_eq!(split(top), None, "{top}");
        }
    }
}
