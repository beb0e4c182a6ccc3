use std::fs;
use std::path::Path;

use super::*;

fn walk(directory: &Path) -> Walk {
    Walk::new(rustix::fs::open(directory, DIRECTORY, Mode::empty()).unwrap())
}

/// Everything that is found, entering whatever can be.
fn paths(walk: &mut Walk, depth: usize) -> Vec<String> {
    let mut found = Vec::new();
    loop {
        match walk.step().unwrap() {
            Step::Found(kind) => {
                found.push(String::from_utf8(walk.path().to_vec()).unwrap());
                if kind == FileType::Directory && walk.depth() < depth {
                    walk.enter().unwrap();
                }
            }
            Step::End => return found,
            Step::Reading | Step::Left | Step::Lost => {}
        }
    }
}

fn tree() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for path in ["b/2/x", "b/1", "b-", "a/y", "a/z/q/r", "c"] {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    std::os::unix::fs::symlink("a", directory.path().join("l")).unwrap();
    directory
}

const ALL: [&str; 12] = ["a", "a/y", "a/z", "a/z/q", "a/z/q/r", "b", "b/1", "b/2", "b/2/x", "b-", "c", "l"];

#[test]
fn names_come_in_order_and_directories_before_what_is_in_them() {
    let directory = tree();
    assert_eq!(paths(&mut walk(directory.path()), 99), ALL);
    assert_eq!(paths(&mut walk(directory.path()), 1), ["a", "b", "b-", "c", "l"]);
}

#[test]
fn a_walk_is_taken_up_behind_any_path_there_or_not() {
    let directory = tree();
    for (index, path) in ALL.iter().enumerate() {
        let mut again = walk(directory.path());
        again.resume(path.as_bytes(), 99);
        assert_eq!(paths(&mut again, 99), ALL[index + 1..], "behind {path}");
    }
    for (gone, next) in [("a/zz", "b"), ("a/z/a/b", "a/z/q"), ("bb/1", "c"), ("b/1/x", "b/2"), ("z", "")] {
        let mut again = walk(directory.path());
        again.resume(gone.as_bytes(), 99);
        assert_eq!(paths(&mut again, 99).first().map_or("", String::as_str), next, "behind {gone}");
    }
    let mut flat = walk(directory.path());
    flat.resume(b"a", 1);
    assert_eq!(paths(&mut flat, 1), ["b", "b-", "c", "l"]);
}

#[test]
fn ten_thousand_levels_take_a_bounded_number_of_descriptors() {
    let directory = tempfile::tempdir().unwrap();
    let mut at = rustix::fs::open(directory.path(), DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..10_000 {
        for name in ["d", "e"] {
            rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)).unwrap();
        }
        at = rustix::fs::openat(&at, "d", DIRECTORY, Mode::empty()).unwrap();
    }
    let mut walk = walk(directory.path());
    drop(at);
    let (mut entries, mut left) = (0, 0);
    loop {
        match walk.step().unwrap() {
            Step::Found(_) => {
                entries += 1;
                walk.enter().unwrap();
                let open = walk.levels.iter().filter(|level| level.directory.is_some()).count();
                assert!(open <= OPEN, "{open} are open");
            }
            Step::Left => left += 1,
            Step::End => break,
            Step::Reading => {}
            Step::Lost => panic!("nothing was moved"),
        }
    }
    assert_eq!((entries, left), (20_000, 20_000));
    // What std removes by recursion would not survive this.
    let root = crate::Root::open(directory.path(), "/workspace", None).unwrap();
    let tree = crate::Removal { recursive: true, missing_ok: false };
    for (name, count) in [("e", 1), ("d", 19_999)] {
        assert_eq!(crate::remove(&root, name.as_bytes(), tree, &|| true).unwrap(), count);
    }
}

#[test]
fn a_directory_with_more_names_than_are_kept_comes_whole_and_in_order() {
    let mut names = Names::default();
    let all: Vec<CString> = (0..1000).map(|n| CString::new(format!("{:03}", (n * 7) % 1000)).unwrap()).collect();
    let mut found = Vec::new();
    let mut portions = 0;
    loop {
        portions += 1;
        assert!(names.is_to_rewind());
        all.iter().for_each(|name| names.take_in(name, FileType::RegularFile, 64));
        names.finish(64);
        let before = found.len();
        while let Some((name, _)) = names.pop() {
            found.push(name);
        }
        assert!(found.len() - before <= 64);
        if !names.has_more() {
            break;
        }
        names.read_again(found.last().unwrap().to_bytes());
    }
    let mut sorted = all;
    sorted.sort();
    assert_eq!(found, sorted);
    assert!(portions >= 16, "{portions}");
}

/// Walks a deep tree whose upper part is moved away once the walk is far below it. Tells what was found, and how often the walk was lost.
fn walked_while_moved(parent_too: bool) -> (Vec<String>, usize) {
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir_in(directory.path().parent().unwrap()).unwrap();
    let deep: String = (0..OPEN * 3).map(|_| "d/").collect();
    fs::create_dir_all(directory.path().join("top/moved").join(&deep)).unwrap();
    fs::write(directory.path().join("top/moved/zz"), "").unwrap();
    fs::write(directory.path().join("top/next"), "").unwrap();
    fs::write(elsewhere.path().join("secret"), "").unwrap();
    let mut walk = walk(directory.path());
    let (mut found, mut lost) = (Vec::new(), 0);
    loop {
        match walk.step().unwrap() {
            Step::Found(kind) => {
                found.push(String::from_utf8(walk.path().to_vec()).unwrap());
                if kind == FileType::Directory {
                    walk.enter().unwrap();
                }
                if walk.depth() == OPEN * 3 && !elsewhere.path().join("d").exists() {
                    // Its parents are closed by now, and `..` leads to another place.
                    fs::rename(directory.path().join("top/moved/d"), elsewhere.path().join("d")).unwrap();
                    if parent_too {
                        fs::rename(directory.path().join("top/moved"), directory.path().join("top/gone")).unwrap();
                    }
                }
            }
            Step::Lost => lost += 1,
            Step::End => return (found, lost),
            Step::Reading | Step::Left => {}
        }
    }
}

#[test]
fn b27_a_directory_that_is_moved_away_is_not_followed_to_where_it_is() {
    let (found, lost) = walked_while_moved(false);
    assert!(found.ends_with(&["top/moved/zz".into(), "top/next".into()]), "{found:?}");
    assert_eq!((lost, found.len()), (0, OPEN * 3 + 4));
    let (found, lost) = walked_while_moved(true);
    assert_eq!((lost, found.last().map(String::as_str)), (1, Some("top/next")));
    assert_eq!(found.len(), OPEN * 3 + 3);
}
