//! The way back.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use hearth_protocol::ErrorCode;
use hearth_protocol::history::BASELINE;

use super::{Room, git};
use crate::tree;

/// Does to a project what a careless program can.
fn disturb(root: &Path) {
    fs::write(root.join("README"), "other\n").unwrap();
    fs::write(root.join("bin/run"), "linked three times").unwrap();
    fs::remove_dir_all(root.join("node_modules")).unwrap();
    fs::remove_file(root.join("venv/lib64")).unwrap();
    fs::create_dir(root.join("venv/lib64")).unwrap();
    fs::write(root.join("venv/lib64/new"), "n").unwrap();
    fs::remove_file(root.join("dangling")).unwrap();
    symlink("else", root.join("dangling")).unwrap();
    fs::remove_file(root.join("pipe")).unwrap();
    fs::remove_dir_all(root.join("deep")).unwrap();
    fs::write(root.join("deep"), "a file in the place of a directory").unwrap();
    fs::remove_file(root.join("third")).unwrap();
    fs::remove_dir(root.join("nothing-in-it")).unwrap();
    fs::set_permissions(root.join("bin/secret"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(root.join("shared"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::create_dir_all(root.join("new/deeper")).unwrap();
    fs::write(root.join("new/deeper/file"), "new").unwrap();
    fs::File::options().append(true).open(root.join("large")).unwrap().set_len(5_000_000).unwrap();
    fs::remove_file(root.join("names/-rf")).unwrap();
    fs::hard_link(root.join("old"), root.join("names/-rf")).unwrap();
}

#[test]
fn b39_a_reset_brings_back_everything_whatever_was_done() {
    let room = Room::new();
    tree::project(room.path());
    let before = tree::read(room.path());
    let taken = room.take(BASELINE);
    assert!(taken.files > 10 && taken.bytes > 1_600_000 && taken.skipped == 0, "{taken:?}");
    for round in 0..2 {
        disturb(room.path());
        let done = room.reset(BASELINE).unwrap();
        assert!(done.restored > 5 && done.removed > 2 && done.left_out == 0, "{done:?}");
        tree::assert_same(&tree::read(room.path()), &before, &format!("round {round}"));
    }
    let untouched = fs::metadata(room.path().join("empty")).unwrap();
    assert_eq!(room.reset(BASELINE).unwrap(), Default::default());
    assert_eq!(fs::metadata(room.path().join("empty")).unwrap().ctime_nsec(), untouched.ctime_nsec());
    assert!(room.changes().is_empty());
}

#[test]
fn b39_named_checkpoints_come_and_go_and_share_what_they_have_in_common() {
    let room = Room::new();
    tree::project(room.path());
    let first = tree::read(room.path());
    room.take(BASELINE);
    disturb(room.path());
    let second = tree::read(room.path());
    room.take("second");
    fs::write(room.path().join("README"), "third").unwrap();
    room.take("third");
    let names: Vec<_> = room.history.list().unwrap().into_iter().map(|checkpoint| checkpoint.name).collect();
    assert_eq!(names, ["baseline", "second", "third"]);
    room.reset(BASELINE).unwrap();
    tree::assert_same(&tree::read(room.path()), &first, "first");
    room.history.remove(BASELINE).unwrap();
    room.history.remove("third").unwrap();
    room.reset("second").unwrap();
    tree::assert_same(&tree::read(room.path()), &second, "second");
    assert_eq!(room.reset(BASELINE).unwrap_err().code(), ErrorCode::UnknownName);
    assert_eq!(room.history.remove("third").unwrap_err().code(), ErrorCode::UnknownName);
    room.history.remove("second").unwrap();
    for directory in ["packs", "large", "checkpoints", "leftovers"] {
        assert_eq!(fs::read_dir(room.beside("history").join(directory)).unwrap().count(), 0, "{directory}");
    }
}

#[test]
fn b30_sockets_pipes_and_what_is_not_theirs_stop_no_history() {
    let room = Room::new();
    tree::fifo(&room.path().join("pipe"));
    let _old = UnixListener::bind(room.path().join("old.sock")).unwrap();
    room.take(BASELINE);
    fs::remove_file(room.path().join("pipe")).unwrap();
    tree::fifo(&room.path().join("new-pipe"));
    let _new = UnixListener::bind(room.path().join("new.sock")).unwrap();
    let (patch, sums) = room.diff();
    assert!(patch.is_empty());
    assert_eq!((sums.created, sums.deleted, sums.left_out), (2, 1, 3));
    room.reset(BASELINE).unwrap();
    let mut names: Vec<_> = fs::read_dir(room.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["old.sock", "pipe"]);
}

#[test]
fn b39_changes_anywhere_in_a_large_workspace_are_told_and_brought_back() {
    let room = Room::new();
    let name = |number: usize| format!("{:02}/{:02}/{number}", number / 250, number / 50);
    (0..5000).for_each(|number| tree::file(room.path().join(name(number)), format!("{number}"), 0o644));
    let before = tree::read(room.path());
    room.take(BASELINE);
    for round in 0..4 {
        assert!(room.changes().is_empty(), "round {round}");
        let mut expected = Vec::new();
        for number in (round * 7..5000).step_by(97) {
            let path = room.path().join(name(number));
            match number % 4 {
                0 => fs::write(&path, "other").unwrap(),
                1 => fs::remove_file(&path).unwrap(),
                2 => fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap(),
                _ => fs::rename(&path, path.with_extension("new")).unwrap(),
            }
            expected.push(name(number));
            expected.extend((number % 4 == 3).then(|| format!("{}.new", name(number))));
        }
        expected.sort();
        let mut told: Vec<_> = room.changes().iter().map(|change| change.path.to_string_lossy().into_owned()).collect();
        told.sort();
        assert_eq!(told, expected, "round {round}");
        room.reset(BASELINE).unwrap();
        tree::assert_same(&tree::read(room.path()), &before, &format!("round {round}"));
    }
}

#[test]
fn b32_a_sparse_file_of_100_gb_is_kept_and_brought_back_as_one() {
    let room = Room::new();
    let path = room.path().join("disk");
    let disk = fs::File::create(&path).unwrap();
    disk.set_len(100 << 30).unwrap();
    disk.write_all_at(b"far in", 70 << 30).unwrap();
    assert_eq!(room.take(BASELINE).bytes, 100 << 30);
    tree::dress(&path, None, (5, 5));
    assert!(room.changes().is_empty(), "touched, and compared");
    disk.write_all_at(b"other", 80 << 30).unwrap();
    let (patch, sums) = room.diff();
    assert_eq!((patch.len(), sums.modified, sums.left_out), (0, 1, 1), "more than a patch can carry");
    room.reset(BASELINE).unwrap();
    let disk = fs::File::open(&path).unwrap();
    let (mut there, mut gone) = ([0; 6], [1; 5]);
    disk.read_exact_at(&mut there, 70 << 30).unwrap();
    disk.read_exact_at(&mut gone, 80 << 30).unwrap();
    assert_eq!((disk.metadata().unwrap().len(), &there, gone), (100 << 30, b"far in", [0; 5]));
    assert!(disk.metadata().unwrap().blocks() < 1000);
}

#[test]
fn b35_a_repository_in_the_workspace_is_brought_back_and_left_out_of_patches() {
    let room = Room::new();
    tree::file(room.path().join("a"), "a\n", 0o644);
    if git(room.path(), &["init", "-q"], b"").is_none() {
        return;
    }
    git(room.path(), &["add", "-A"], b"");
    room.take(BASELINE);
    let before = tree::read(room.path());
    fs::write(room.path().join("a"), "b\n").unwrap();
    git(room.path(), &["commit", "-qam", "x"], b"");
    let (patch, sums) = room.diff();
    assert_eq!(sums.created + sums.modified + sums.deleted, sums.left_out + 1);
    assert!(!String::from_utf8_lossy(&patch).contains(".git/"));
    room.reset(BASELINE).unwrap();
    tree::assert_same(&tree::read(room.path()), &before, "with its repository");
    git(room.path(), &["apply", "--check"], &patch);
}

#[test]
fn a_file_that_was_written_to_in_the_same_tick_and_length_is_seen() {
    let room = Room::new();
    let file = room.path().join("file");
    for round in 0..50 {
        fs::write(&file, format!("{round:03}")).unwrap();
        room.take(BASELINE);
        fs::write(&file, format!("{:03}", round + 500)).unwrap();
        assert_eq!(room.changes().len(), 1, "round {round}");
    }
}

#[test]
fn a_reset_that_cannot_be_done_changes_nothing() {
    let room = Room::new();
    tree::project(room.path());
    room.take(BASELINE);
    disturb(room.path());
    let before = tree::read(room.path());
    // What was kept is gone, as on a disk that fails.
    for entry in fs::read_dir(room.beside("history/large")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    room.reset(BASELINE).unwrap_err();
    tree::assert_same(&tree::read(room.path()), &before, "nothing changed");
}
