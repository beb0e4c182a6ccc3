//! Any sequence of changes, checkpoints and resets, against what a plain comparison of trees says.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use hearth_protocol::history::BASELINE;
use proptest::prelude::*;

use super::Room;
use crate::tree::{self, Tree};

const PATHS: [&str; 10] = ["a", "b", "d/a", "d/b", "d/e/a", "d/e/b", "d/e", "d.x", "f/g/h", "f"];

#[derive(Debug, Clone)]
enum Deed {
    Write(usize, u8),
    Remove(usize),
    Directory(usize),
    Link(usize, u8),
    Rename(usize, usize),
    Mode(usize, bool),
    Touch(usize),
    HardLink(usize, usize),
    Look,
    Take,
    Reset,
    /// Lets the clock's tick pass, so that what was read may be relied on.
    Settle,
}

fn deed() -> impl Strategy<Value = Deed> {
    let path = || 0..PATHS.len();
    prop_oneof![
        4 => (path(), 0..3_u8).prop_map(|(path, content)| Deed::Write(path, content)),
        2 => path().prop_map(Deed::Remove),
        1 => path().prop_map(Deed::Directory),
        1 => (path(), 0..2_u8).prop_map(|(path, target)| Deed::Link(path, target)),
        2 => (path(), path()).prop_map(|(from, to)| Deed::Rename(from, to)),
        1 => (path(), any::<bool>()).prop_map(|(path, run)| Deed::Mode(path, run)),
        1 => path().prop_map(Deed::Touch),
        1 => (path(), path()).prop_map(|(from, to)| Deed::HardLink(from, to)),
        3 => Just(Deed::Look),
        1 => Just(Deed::Take),
        1 => Just(Deed::Reset),
        2 => Just(Deed::Settle),
    ]
}

/// Does something, if that can be done as things are.
fn act(root: &Path, deed: &Deed) -> std::io::Result<()> {
    let at = |path: &usize| root.join(PATHS[*path]);
    match deed {
        Deed::Write(path, content) => {
            fs::create_dir_all(at(path).parent().unwrap())?;
            fs::write(at(path), format!("content {content}\n"))
        }
        Deed::Remove(path) => fs::remove_file(at(path)).or_else(|_| fs::remove_dir_all(at(path))),
        Deed::Directory(path) => fs::create_dir_all(at(path)),
        Deed::Link(path, target) => symlink(format!("target {target}"), at(path)),
        Deed::Rename(from, to) => fs::rename(at(from), at(to)),
        Deed::Mode(path, run) => {
            if fs::symlink_metadata(at(path))?.is_symlink() {
                return Ok(());
            }
            fs::set_permissions(at(path), fs::Permissions::from_mode(if *run { 0o755 } else { 0o744 }))
        }
        Deed::Touch(path) => {
            fs::symlink_metadata(at(path))?;
            tree::dress(&at(path), None, (1_000_000_000, 1));
            Ok(())
        }
        Deed::HardLink(from, to) => {
            if fs::symlink_metadata(at(from))?.is_file() {
                fs::hard_link(at(from), at(to))
            } else {
                Ok(())
            }
        }
        Deed::Settle => {
            let tick = fs::metadata(root)?.modified()?;
            let probe = tempfile::tempfile_in(root.parent().unwrap())?;
            while probe.metadata()?.modified()? <= tick {
                probe.set_len(1)?;
                probe.set_len(0)?;
            }
            Ok(())
        }
        Deed::Look | Deed::Take | Deed::Reset => Ok(()),
    }
}

/// The paths at which something but directories differs.
fn differing(before: &Tree, now: &Tree) -> BTreeSet<String> {
    let told = |tree: &Tree, path: &str| tree.get(path).filter(|item| item.kind != "directory").cloned();
    let plain = |item: Option<tree::Item>| item.map(|item| (item.kind, item.mode, item.content));
    let paths = before.keys().chain(now.keys());
    paths.filter(|path| plain(told(before, path)) != plain(told(now, path))).cloned().collect()
}

/// A tree without the times of directories: a reset gives them back only to those it worked in.
fn comparable(mut tree: Tree) -> Tree {
    tree.values_mut().filter(|item| item.kind == "directory").for_each(|item| item.modified = (0, 0));
    tree
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    #[test]
    fn b39_whatever_is_done_is_told_and_brought_back(deeds in prop::collection::vec(deed(), 1..40)) {
        let room = Room::new();
        room.take(BASELINE);
        let mut before = tree::read(room.path());
        for deed in deeds.iter().chain([&Deed::Look, &Deed::Reset, &Deed::Look]) {
            // What cannot be done as things are is left.
            let _ = act(room.path(), deed);
            match deed {
                Deed::Look => {
                    let told: BTreeSet<String> =
                        room.changes().iter().map(|change| change.path.as_bytes().escape_ascii().to_string()).collect();
                    prop_assert_eq!(told, differing(&before, &tree::read(room.path())));
                }
                Deed::Take => {
                    room.take(BASELINE);
                    before = tree::read(room.path());
                }
                Deed::Reset => {
                    room.reset(BASELINE).unwrap();
                    tree::assert_same(&comparable(tree::read(room.path())), &comparable(before.clone()), "reset");
                }
                _ => {}
            }
        }
    }
}
