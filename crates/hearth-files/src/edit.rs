//! Replacing texts in a file.

use std::io::Read;

use hearth_protocol::ErrorCode;
use hearth_protocol::files::{Create, FileEntry, TextEdit};
use memchr::memmem::Finder;

use crate::content::{Replacement, open_file};
use crate::error::{FileError, Reason};
use crate::root::Root;

/// The largest file that is edited, before and after, in bytes: it is held in memory, twice at most.
const LARGEST: usize = 8 * 1024 * 1024;

/// Replaces texts in a file one after the other, each in what the ones before have made of it; all of them or none. Tells how many were replaced,
/// and what the file is now. It keeps mode and owner.
///
/// # Errors
/// [`FileError`]: no such file, one that is too large, or [`ErrorCode::PatchConflict`] for a text that is there another number of times
/// than it must be.
pub fn edit(root: &Root, path: &[u8], edits: &[TextEdit]) -> Result<(u64, FileEntry), FileError> {
    let (file, size) = open_file(root, path)?;
    let fail = |code, message| FileError::new("edit", path, Reason::Rule { code, message });
    let too_large = || fail(ErrorCode::TooLarge, format!("it has, or would have, more than {LARGEST} bytes"));
    if size > LARGEST as u64 {
        return Err(too_large());
    }
    let mut text = Vec::with_capacity(size as usize);
    let read = file.take(LARGEST as u64 + 1).read_to_end(&mut text);
    read.map_err(|error| FileError::new("edit", path, error))?;
    let mut replaced = 0;
    for (index, edit) in edits.iter().enumerate() {
        let (old, new) = (edit.old.as_bytes(), edit.new.as_bytes());
        let finder = Finder::new(old);
        let count = finder.find_iter(&text).count();
        check(edit, count as u64).map_err(|rule| {
            fail(ErrorCode::PatchConflict, format!("edit {}: {rule}; nothing was changed", index + 1))
        })?;
        let length = (text.len() - count * old.len()).saturating_add(count.saturating_mul(new.len()));
        if length > LARGEST {
            return Err(too_large());
        }
        text = replace(&text, &finder, new, length);
        replaced += count as u64;
    }
    let mut replacement = Replacement::begin(root, path, None, Create::Existing)?;
    replacement.write_all(&text)?;
    Ok((replaced, replacement.commit()?))
}

fn check(edit: &TextEdit, found: u64) -> Result<(), String> {
    let times = |count| if count == 1 { "once".to_owned() } else { format!("{count} times") };
    match (edit.all, edit.count.unwrap_or(1)) {
        (_, _) if found == 0 => Err("the text is not there".to_owned()),
        (false, wanted) if wanted != found => {
            Err(format!("the text is there {}, and was to be there {}", times(found), times(wanted)))
        }
        _ => Ok(()),
    }
}

fn replace(text: &[u8], old: &Finder<'_>, new: &[u8], length: usize) -> Vec<u8> {
    let mut result = Vec::with_capacity(length);
    let mut end = 0;
    for place in old.find_iter(text) {
        result.extend_from_slice(&text[end..place]);
        result.extend_from_slice(new);
        end = place + old.needle().len();
    }
    result.extend_from_slice(&text[end..]);
    result
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn edited(before: &str, edits: &[TextEdit]) -> Result<(u64, String), (ErrorCode, String)> {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path(), "/workspace", None).unwrap();
        let file = directory.path().join("file");
        fs::write(&file, before).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o750)).unwrap();
        let result = edit(&root, b"file", edits);
        let after = fs::read_to_string(&file).unwrap();
        let count = result.map_err(|error| {
            assert_eq!(after, before);
            (error.code(), error.to_string())
        })?;
        assert_eq!((count.1.mode, count.1.size), (0o750, after.len() as u64));
        Ok((count.0, after))
    }

    #[test]
    fn texts_are_replaced_in_turn() {
        let all = TextEdit { all: true, ..TextEdit::once("b", "cc") };
        assert_eq!(edited("a b b", &[all.clone(), TextEdit::once("a cc", "")]), Ok((3, " cc".into())));
        let twice = TextEdit { count: Some(2), ..TextEdit::once("aa", "a") };
        assert_eq!(edited("aaaaa", &[twice]), Ok((2, "aaa".into())));
        assert_eq!(edited("x\r\ny\n", &[TextEdit::once("\r\ny", "z")]), Ok((1, "xz\n".into())));
    }

    #[test]
    fn another_count_than_the_expected_changes_nothing() {
        let first = TextEdit::once("a", "x");
        for (second, part) in [
            (TextEdit::once("b", ""), "edit 2: the text is there 2 times, and was to be there once"),
            (TextEdit { count: Some(3), ..TextEdit::once("b", "") }, "was to be there 3 times"),
            (TextEdit { all: true, ..TextEdit::once("a", "") }, "edit 2: the text is not there"),
        ] {
            let (code, message) = edited("a b b", &[first.clone(), second]).unwrap_err();
            assert_eq!(code, ErrorCode::PatchConflict);
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn what_would_grow_over_the_bound_is_refused() {
        let grow = TextEdit { all: true, ..TextEdit::once("a", "a".repeat(60_000)) };
        assert_eq!(edited(&"a".repeat(300), &[grow]).unwrap_err().0, ErrorCode::TooLarge);
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path(), "/workspace", None).unwrap();
        fs::File::create(directory.path().join("large")).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(edit(&root, b"large", &[TextEdit::once("a", "b")]).unwrap_err().code(), ErrorCode::TooLarge);
    }
}
