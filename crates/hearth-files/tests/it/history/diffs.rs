//! What has changed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use hearth_protocol::history::{BASELINE, ChangeKind};

use super::{Room, git};
use crate::tree;

/// The files and links that a patch can carry, without times: and without directories, which no patch has.
pub(super) fn carried(root: &Path) -> tree::Tree {
    let mut tree = tree::read(root);
    tree.retain(|path, item| matches!(item.kind, "file" | "symlink") && !path.starts_with(".git/"));
    tree.values_mut().for_each(|item| (item.modified, item.same_as) = ((0, 0), None));
    tree
}

/// A tree that git can hold whole.
pub(super) fn plain(root: &Path) {
    let file = |name: &str, content: &[u8], mode| tree::file(root.join(name), content, mode);
    let numbers: String = (0..100).map(|number| format!("line {number}\n")).collect();
    file("numbers", numbers.as_bytes(), 0o644);
    file("tool", b"#!/bin/sh\necho a\n", 0o755);
    file("no newline", b"one\ntwo", 0o644);
    file("empty", b"", 0o644);
    file("binary", &(0..=255).cycle().take(3000).collect::<Vec<u8>>(), 0o644);
    file("dir/a", b"a\n", 0o644);
    file("dir/sub/b", b"b\n", 0o644);
    file("dashes", b"-- a\n-- b\n++ c\n", 0o644);
    file("crlf", b"a\r\nb\r\n", 0o644);
    file("name with \"quotes\"\tand\\tabs", b"q\n", 0o644);
    file("\u{fc}mlaut", b"u\n", 0o644);
    file("becomes-link", b"to be a link\n", 0o644);
    file("becomes-directory", b"x\n", 0o644);
    symlink("tool", root.join("link")).unwrap();
}

pub(super) fn change(root: &Path) {
    let write = |name: &str, content: &[u8]| fs::write(root.join(name), content).unwrap();
    let numbers = fs::read_to_string(root.join("numbers")).unwrap();
    write("numbers", numbers.replace("line 3\n", "").replace("line 50\n", "line fifty\nand more\n").as_bytes());
    fs::set_permissions(root.join("tool"), fs::Permissions::from_mode(0o644)).unwrap();
    write("no newline", b"one\ntwo\nthree");
    write("binary", &(0..=255).rev().cycle().take(4000).collect::<Vec<u8>>());
    write("dashes", b"-- b\n++ c\n++ d");
    fs::remove_file(root.join("empty")).unwrap();
    fs::remove_dir_all(root.join("dir")).unwrap();
    write("dir", b"a file now\n");
    write("crlf", b"a\r\nc\n");
    write("name with \"quotes\"\tand\\tabs", b"");
    write("\u{fc}mlaut", b"u\0u");
    fs::remove_file(root.join("becomes-link")).unwrap();
    symlink("nowhere", root.join("becomes-link")).unwrap();
    fs::remove_file(root.join("becomes-directory")).unwrap();
    tree::file(root.join("becomes-directory/in it"), "deep\n", 0o755);
    fs::remove_file(root.join("link")).unwrap();
    symlink("numbers", root.join("link")).unwrap();
    tree::file(root.join("new/empty"), "", 0o755);
    tree::file(root.join("new/binary"), [0, 1, 2], 0o644);
    tree::file(root.join("new/no-end"), "x", 0o644);
}

#[test]
fn b37_git_takes_a_diff_and_makes_the_same_tree_of_it() {
    let (room, fresh) = (Room::new(), tempfile::tempdir().unwrap());
    plain(room.path());
    plain(fresh.path());
    room.take(BASELINE);
    change(room.path());
    let (patch, sums) = room.diff();
    assert_eq!((sums.left_out, sums.skipped), (0, 0));
    if git(fresh.path(), &["apply", "--check", "-"], &patch).is_none() {
        return;
    }
    git(fresh.path(), &["apply", "--whitespace=nowarn", "-"], &patch);
    tree::assert_same(&carried(fresh.path()), &carried(room.path()), "applied by git");
    git(fresh.path(), &["apply", "-R", "--whitespace=nowarn", "-"], &patch);
    room.reset(BASELINE).unwrap();
    tree::assert_same(&carried(fresh.path()), &carried(room.path()), "taken back by git");
}

#[test]
fn b36_a_diff_says_what_git_says() {
    let room = Room::new();
    plain(room.path());
    if git(room.path(), &["init", "-q"], b"").is_none() {
        return;
    }
    git(room.path(), &["add", "-A"], b"");
    git(room.path(), &["commit", "-qm", "x"], b"");
    let index = room.beside("git");
    fs::rename(room.path().join(".git"), &index).unwrap();
    room.take(BASELINE);
    // Of what git and we cut alike: the algorithms choose differently among equals.
    let numbers = fs::read_to_string(room.path().join("numbers")).unwrap();
    fs::write(room.path().join("numbers"), numbers.replace("line 3\n", "").replace("line 50\n", "fifty\n")).unwrap();
    fs::write(room.path().join("no newline"), "one\n2").unwrap();
    fs::remove_file(room.path().join("dir/a")).unwrap();
    fs::write(room.path().join("dir/c d"), "new\n").unwrap();
    fs::set_permissions(room.path().join("tool"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(room.path().join("empty")).unwrap();
    fs::write(room.path().join("name with \"quotes\"\tand\\tabs"), "other\n").unwrap();
    let (patch, _) = room.diff();
    fs::rename(&index, room.path().join(".git")).unwrap();
    git(room.path(), &["add", "-A"], b"");
    let theirs = git(room.path(), &["diff", "--cached", "--no-renames", "--full-index", "--binary"], b"").unwrap();
    // Git adds what function a hunk is in.
    let lines = |patch: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(patch).into_owned();
        let cut = |line: &str| match line.strip_prefix("@@ ").and_then(|rest| rest.find(" @@")) {
            Some(end) => line[..end + 6].to_owned(),
            None => line.to_owned(),
        };
        text.lines().map(cut).collect()
    };
    assert_eq!(lines(&patch), lines(&theirs));
}

#[test]
fn b36_changes_are_told_with_their_kinds_and_lengths() {
    let room = Room::new();
    plain(room.path());
    room.take(BASELINE);
    // Touched, and not changed.
    tree::dress(&room.path().join("numbers"), None, (1, 1));
    assert!(room.changes().is_empty());
    change(room.path());
    let changes = room.changes();
    let told = |path: &str| changes.iter().find(|change| change.path.as_bytes() == path.as_bytes()).unwrap();
    assert_eq!(told("tool").change, ChangeKind::Mode);
    assert_eq!((told("empty").change, told("empty").bytes_before), (ChangeKind::Deleted, Some(0)));
    assert_eq!((told("binary").change, told("binary").bytes), (ChangeKind::Modified, Some(4000)));
    assert_eq!(told("becomes-link").change, ChangeKind::Replaced);
    assert_eq!((told("dir").change, told("dir/a").change), (ChangeKind::Created, ChangeKind::Deleted));
    assert_eq!((told("new/no-end").change, told("new/no-end").bytes), (ChangeKind::Created, Some(1)));
    assert!(!changes.iter().any(|change| change.path.as_bytes() == b"new"));
}
