//! What a sync does, found out from two lists alone.

use std::collections::{BTreeMap, BTreeSet};

use hearth_client::api::protocol::files::{FileEntry, FileKind};

/// The permissions that are compared: those that come out of a guest.
const PERMISSIONS: u32 = 0o777;

/// What is beneath a directory, by path from there.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) entries: BTreeMap<Vec<u8>, FileEntry>,
    /// Directories that something is in which is left alone.
    pub(super) protected: BTreeSet<Vec<u8>>,
}

/// What is to be done, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// What is in the way in the destination.
    pub(super) clear: Vec<Vec<u8>>,
    /// What is sent, each directory before what is in it.
    pub(super) send: BTreeSet<Vec<u8>>,
    /// The length of the files that are sent.
    pub(super) bytes: u64,
    /// What is in the destination alone, and goes with all that is in it.
    pub(super) remove: Vec<Vec<u8>>,
    /// How much is the same already.
    pub(super) unchanged: u64,
}

/// Something in the destination is in the way and may not go: its path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InTheWay(pub(super) Vec<u8>);

impl Tree {
    /// Takes in an entry that was found.
    pub(super) fn add(&mut self, path: Vec<u8>, entry: FileEntry) {
        self.entries.insert(path, entry);
    }

    /// Notes something that is left alone: what it is in must stay.
    pub(super) fn protect(&mut self, path: &[u8]) {
        for (end, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            if !self.protected.contains(&path[..end]) {
                self.protected.insert(path[..end].to_vec());
            }
        }
    }
}

/// Compares a tree with the one that is to become like it.
///
/// # Errors
/// [`InTheWay`] for a directory where something else is to be, or the other way round, that may not be removed.
pub(super) fn plan(from: &Tree, to: &Tree, delete: bool) -> Result<Plan, InTheWay> {
    let mut plan = Plan::default();
    for (path, entry) in &from.entries {
        if matches!(entry.kind, FileKind::Socket | FileKind::Device) {
            continue;
        }
        match to.entries.get(path) {
            Some(there) if is_same(entry, there) => {
                plan.unchanged += 1;
                continue;
            }
            Some(there) if is_directory(there) != is_directory(entry) => {
                if !delete || to.protected.contains(path) {
                    return Err(InTheWay(path.clone()));
                }
                plan.clear.push(path.clone());
            }
            _ => {}
        }
        plan.send.insert(path.clone());
        plan.bytes += if entry.kind == FileKind::File { entry.size } else { 0 };
    }
    if delete {
        plan.remove = alone(from, to);
        let clear = std::mem::take(&mut plan.clear);
        // What is in something that goes needs no removal of its own.
        plan.remove.retain(|path| !clear.iter().any(|cleared| is_below(path, cleared)));
        plan.clear = clear;
    }
    Ok(plan)
}

/// What is in the second tree alone: the uppermost of it that can go whole.
fn alone(from: &Tree, to: &Tree) -> Vec<Vec<u8>> {
    let mut alone: Vec<Vec<u8>> = Vec::new();
    // A path comes before those below it, though others may come between.
    for (path, entry) in &to.entries {
        let is_protected = is_directory(entry) && to.protected.contains(path);
        if from.entries.contains_key(path) || is_protected || is_covered(path, &alone) {
            continue;
        }
        alone.push(path.clone());
    }
    alone
}

/// Whether a directory above is among those that go. They are in order.
fn is_covered(path: &[u8], going: &[Vec<u8>]) -> bool {
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
    ends.into_iter().any(|end| going.binary_search_by(|one| one.as_slice().cmp(&path[..end])).is_ok())
}

fn is_below(path: &[u8], above: &[u8]) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.first() == Some(&b'/'))
}

fn is_directory(entry: &FileEntry) -> bool {
    entry.kind == FileKind::Directory
}

fn is_same(one: &FileEntry, other: &FileEntry) -> bool {
    let has_same_mode = one.mode & PERMISSIONS == other.mode & PERMISSIONS;
    one.kind == other.kind
        && match one.kind {
            FileKind::File => has_same_mode && one.size == other.size && one.modified_ns == other.modified_ns,
            FileKind::Symlink => one.target == other.target,
            _ => has_same_mode,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: FileKind, modified_ns: i64) -> FileEntry {
        let (size, mode) = if kind == FileKind::File { (7, 0o4644) } else { (4096, 0o755) };
        FileEntry {
            path: "".into(),
            kind,
            size,
            allocated: 0,
            mode,
            uid: 0,
            gid: 0,
            links: 1,
            modified_ns,
            target: None,
            unreadable: None,
        }
    }

    /// A tree of files that were changed at a time, of directories (`d/`) and links (`l@`), and of what is left alone (`-x`).
    fn tree(paths: &[(&str, i64)]) -> Tree {
        let mut tree = Tree::default();
        for (path, time) in paths {
            match (path.strip_prefix('-'), path.strip_suffix('/'), path.strip_suffix('@')) {
                (Some(left), _, _) => tree.protect(left.as_bytes()),
                (_, Some(path), _) => tree.add(path.into(), entry(FileKind::Directory, *time)),
                (_, _, Some(path)) => tree.add(path.into(), entry(FileKind::Symlink, *time)),
                _ => tree.add((*path).into(), entry(FileKind::File, *time)),
            }
        }
        tree
    }

    fn text(paths: impl IntoIterator<Item = Vec<u8>>) -> Vec<String> {
        paths.into_iter().map(|path| String::from_utf8(path).unwrap()).collect()
    }

    #[test]
    fn only_what_is_other_is_sent() {
        let from = tree(&[("a", 1), ("b", 2), ("d/", 5), ("d/new", 1), ("l@", 3)]);
        let to = tree(&[("a", 1), ("b", 1), ("d/", 9), ("l@", 4), ("old", 1)]);
        let plan = plan(&from, &to, false).unwrap();
        assert_eq!(text(plan.send), ["b", "d/new"]);
        assert_eq!((plan.bytes, plan.unchanged, plan.remove.len()), (14, 3, 0));
    }

    #[test]
    fn what_is_there_alone_goes_as_whole_trees_but_for_what_is_left_alone() {
        let from = tree(&[("a", 1)]);
        let to =
            tree(&[("a", 1), ("d/", 1), ("d-x", 1), ("d/b", 1), ("d/e/", 1), ("k/", 1), ("k/b", 1), ("-k/logs/x", 0)]);
        assert_eq!(text(plan(&from, &to, true).unwrap().remove), ["d", "d-x", "k/b"]);
    }

    #[test]
    fn a_directory_gives_way_only_when_it_may() {
        let (from, to) = (tree(&[("a", 1), ("b/", 1)]), tree(&[("a/", 1), ("a/x", 1), ("b", 1)]));
        assert_eq!(plan(&from, &to, false), Err(InTheWay(b"a".to_vec())));
        let done = plan(&from, &to, true).unwrap();
        assert_eq!(
            (text(done.clear), text(done.send), done.remove.len()),
            (vec!["a".into(), "b".into()], vec!["a".into(), "b".into()], 0)
        );
        let to = tree(&[("a/", 1), ("-a/kept", 0)]);
        assert_eq!(plan(&from, &to, true), Err(InTheWay(b"a".to_vec())));
    }
}
