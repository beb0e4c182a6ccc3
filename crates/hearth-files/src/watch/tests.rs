use std::fs;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;

/// A bound that only a hang reaches.
const HANG: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

struct Watching {
    directory: tempfile::TempDir,
    watcher: Watcher,
}

impl Watching {
    fn start(path: &str, recursive: bool, prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path());
        let root = Root::open(directory.path(), "/workspace", None).unwrap();
        let mut watcher = Watcher::start(&root, path.as_bytes(), recursive).unwrap();
        while watcher.has_to_look() {
            assert_eq!(watcher.look().unwrap(), [], "what is there is not new");
        }
        Self { directory, watcher }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// Reads and looks until an event of this form has come, and returns all up to it.
    fn until(&mut self, last: &str) -> Vec<String> {
        let mut told = Vec::new();
        while !told.iter().any(|event| event == last) {
            if !self.watcher.has_to_look() {
                let mut descriptors = [PollFd::new(&self.watcher.inotify, PollFlags::IN)];
                assert_eq!(poll(&mut descriptors, Some(&HANG)).unwrap(), 1, "no {last} behind {told:?}");
                let events = self.watcher.read().unwrap();
                told.extend(events.iter().map(form));
            }
            if self.watcher.has_to_look() {
                told.extend(self.watcher.look().unwrap().iter().map(form));
            }
        }
        told
    }
}

fn form(event: &FileEvent) -> String {
    match event {
        FileEvent::Started { .. } => "started".into(),
        FileEvent::Created { path, directory: true } => format!("+{path:?}/"),
        FileEvent::Created { path, .. } => format!("+{path:?}"),
        FileEvent::Modified { path } => format!("~{path:?}"),
        FileEvent::Written { path } => format!("={path:?}"),
        FileEvent::Attributes { path, .. } => format!("@{path:?}"),
        FileEvent::Removed { path, .. } => format!("-{path:?}"),
        FileEvent::Renamed { from, path, .. } => format!("{from:?}>{path:?}"),
        FileEvent::Overflow {} => "overflow".into(),
    }
    .replace('"', "")
}

#[test]
fn each_kind_of_change_is_told() {
    let mut watching = Watching::start("", false, |at| fs::create_dir(at.join("sub")).unwrap());
    fs::write(watching.at("a"), "text").unwrap();
    fs::write(watching.at("sub/unseen"), "text").unwrap();
    fs::rename(watching.at("a"), watching.at("b")).unwrap();
    fs::set_permissions(watching.at("b"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::remove_file(watching.at("b")).unwrap();
    fs::create_dir(watching.at("c")).unwrap();
    assert_eq!(watching.until("+c/"), ["+a", "~a", "=a", "a>b", "@b", "-b", "+c/"]);
}

#[test]
fn directories_that_appear_are_watched_with_all_that_is_in_them() {
    let mut watching = Watching::start("w", true, |at| fs::create_dir_all(at.join("w/old/deep")).unwrap());
    assert_eq!(watching.watcher.directories(), 3);
    fs::write(watching.at("w/old/deep/f"), "").unwrap();
    watching.until("=w/old/deep/f");
    // Made elsewhere and moved in: nothing of it was watched.
    fs::create_dir_all(watching.at("tree/x/y")).unwrap();
    fs::write(watching.at("tree/x/y/f"), "").unwrap();
    fs::rename(watching.at("tree"), watching.at("w/tree")).unwrap();
    assert_eq!(watching.until("+w/tree/x/y/f"), ["+w/tree/", "+w/tree/x/", "+w/tree/x/y/", "+w/tree/x/y/f"]);
    fs::write(watching.at("w/tree/x/y/g"), "").unwrap();
    watching.until("=w/tree/x/y/g");
    // Inside it is known under its new name at once.
    fs::rename(watching.at("w/tree/x"), watching.at("w/old/z")).unwrap();
    assert_eq!(watching.until("w/tree/x>w/old/z"), ["w/tree/x>w/old/z"]);
    fs::write(watching.at("w/old/z/y/h"), "").unwrap();
    watching.until("=w/old/z/y/h");
    assert_eq!(watching.watcher.directories(), 6);
}

#[test]
fn what_is_moved_out_is_no_longer_watched() {
    let mut watching = Watching::start("w", true, |at| fs::create_dir_all(at.join("w/a/b/c")).unwrap());
    fs::rename(watching.at("w/a"), watching.at("out")).unwrap();
    fs::write(watching.at("out/b/unseen"), "").unwrap();
    fs::write(watching.at("w/seen"), "").unwrap();
    let told = watching.until("=w/seen");
    assert!(!told.iter().any(|event| event.contains("unseen")), "{told:?}");
    assert!(told.contains(&"-w/a".into()), "{told:?}");
    assert_eq!(watching.watcher.directories(), 1);
}

#[test]
fn a_file_is_watched_by_its_name() {
    let mut watching = Watching::start("sub/f", false, |at| {
        fs::create_dir(at.join("sub")).unwrap();
        fs::write(at.join("sub/f"), "").unwrap();
    });
    fs::write(watching.at("sub/other"), "text").unwrap();
    fs::rename(watching.at("sub/other"), watching.at("sub/f")).unwrap();
    fs::write(watching.at("sub/f"), "text").unwrap();
    let told = watching.until("=sub/f");
    assert_eq!(told.first().map(String::as_str), Some("sub/other>sub/f"), "{told:?}");
    fs::remove_file(watching.at("sub/f")).unwrap();
    watching.until("-sub/f");
}

#[test]
fn when_the_place_itself_is_gone_that_is_the_end() {
    for removed in [true, false] {
        let mut watching = Watching::start("w", true, |at| fs::create_dir_all(at.join("w/a")).unwrap());
        if removed {
            fs::remove_dir_all(watching.at("w")).unwrap();
        } else {
            fs::rename(watching.at("w"), watching.at("v")).unwrap();
        }
        watching.until("-w");
        assert!(watching.watcher.is_gone());
    }
}

#[test]
fn an_overflow_is_told_and_nothing_is_missed_behind_it() {
    let most: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    let mut watching = Watching::start("", true, |at| fs::create_dir(at.join("d")).unwrap());
    for n in 0..=most / 2 {
        // Two events each, and each another than the one before.
        fs::create_dir(watching.at("d/x")).unwrap();
        fs::remove_dir(watching.at("d/x")).unwrap();
        if n == most / 2 {
            fs::create_dir_all(watching.at("d/late/r")).unwrap();
        }
    }
    watching.until("overflow");
    fs::write(watching.at("d/late/r/f"), "").unwrap();
    watching.until("=d/late/r/f");
}

#[test]
fn paths_that_leave_are_not_watched() {
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/tmp", directory.path().join("t")).unwrap();
    let root = Root::open(directory.path(), "/workspace", None).unwrap();
    for path in ["t", "t/x", "../x", "/etc"] {
        let error = Watcher::start(&root, path.as_bytes(), true).unwrap_err();
        assert_eq!(error.code(), ErrorCode::OutsideRoot, "{path}");
    }
    assert_eq!(Watcher::start(&root, b"none", true).unwrap_err().code(), ErrorCode::NotFound);
}
