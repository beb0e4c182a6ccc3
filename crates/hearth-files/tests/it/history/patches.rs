//! Patches, our own and others'.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use hearth_files::history::patch::{Options, PatchError, patch};
use hearth_protocol::ErrorCode;
use hearth_protocol::history::{BASELINE, Patched};
use proptest::prelude::*;

use super::diffs::{carried, change, plain};
use super::{Room, git};
use crate::{archives::run, tree};

const FORWARD: Options = Options { strip: 1, reverse: false, check: false };
const BACK: Options = Options { reverse: true, ..FORWARD };

impl Room {
    fn patch(&self, text: impl AsRef<[u8]>, options: Options) -> Result<Patched, PatchError> {
        patch(&self.root, b"", text.as_ref(), options, &|| true)
    }

    /// Why a patch is refused; and that nothing was changed by it.
    #[track_caller]
    fn refusal(&self, text: impl AsRef<[u8]>) -> PatchError {
        let before = tree::read(self.path());
        let error = self.patch(text, FORWARD).unwrap_err();
        tree::assert_same(&tree::read(self.path()), &before, &error.to_string());
        error
    }

    fn write(&self, name: &str, text: &str) {
        tree::file(self.path().join(name), text, 0o644);
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap()
    }
}

/// Two trees in git, and the difference in its words.
fn gits(before: impl Fn(&Path), after: impl Fn(&Path), options: &[&str]) -> Option<(Room, tempfile::TempDir, Vec<u8>)> {
    let (room, changed) = (Room::new(), tempfile::tempdir().unwrap());
    before(room.path());
    before(changed.path());
    git(changed.path(), &["init", "-q"], b"")?;
    git(changed.path(), &["add", "-A"], b"");
    git(changed.path(), &["commit", "-qm", "before"], b"");
    after(changed.path());
    git(changed.path(), &["add", "-A"], b"");
    let text = git(changed.path(), &[["diff", "--cached"].as_slice(), options].concat(), b"")?;
    Some((room, changed, text))
}

#[test]
fn b37_a_patch_that_has_been_where_lines_end_in_two_characters_applies() {
    let texts = [
        "diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n\\ No newline at end of file\n",
        "--- a/a\t2026-01-01 00:00:00\n+++ b/a\t2026-01-01 00:00:01\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n\\ No newline at end of file\n",
    ];
    for text in texts {
        let room = Room::new();
        room.write("a", "one\ntwo\n");
        room.patch(text.replace('\n', "\r\n"), FORWARD).unwrap();
        assert_eq!(room.read("a"), "one\n2");
    }
    // The file alone has such lines.
    let room = Room::new();
    room.write("a", "one\r\ntwo\r\n");
    let text = "diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1,2 +1,2 @@\n one\r\n-two\r\n+2\r\n";
    room.patch(text, FORWARD).unwrap();
    assert_eq!(room.read("a"), "one\r\n2\r\n");
}

#[test]
fn b36_a_diff_on_a_fresh_baseline_makes_the_same_tree_and_back() {
    let (room, fresh) = (Room::new(), Room::new());
    for root in [room.path(), fresh.path()] {
        plain(root);
        tree::file(root.join("private"), "p", 0o600);
        tree::file(root.join("names/two\nlines"), "n", 0o640);
    }
    let before = carried(fresh.path());
    room.take(BASELINE);
    change(room.path());
    fs::set_permissions(room.path().join("private"), fs::Permissions::from_mode(0o711)).unwrap();
    fs::remove_file(room.path().join("names/two\nlines")).unwrap();
    let (text, sums) = room.diff();
    let check = Options { check: true, ..FORWARD };
    assert_eq!(fresh.patch(&text, check).unwrap(), fresh.patch(&text, check).unwrap());
    tree::assert_same(&carried(fresh.path()), &before, "only looked at");
    fresh.patch(&text, FORWARD).unwrap();
    tree::assert_same(&carried(fresh.path()), &carried(room.path()), "applied");
    assert!(!fresh.path().join("names").exists(), "what has become empty goes, as with git");
    fresh.patch(&text, BACK).unwrap();
    tree::assert_same(&carried(fresh.path()), &before, "taken back");
    assert!(sums.created > 3 && sums.deleted > 3 && sums.modified > 5, "{sums:?}");
}

#[test]
fn b37_git_takes_permissions_that_it_does_not_know() {
    let contents = [("text", b"one\ntwo\n".as_slice()), ("open end", b"one"), ("empty", b""), ("binary", b"\0\xff\n")];
    let large = [0_u8].repeat(20_000_000);
    let contents = contents.into_iter().chain([("large", large.as_slice())]).collect::<Vec<_>>();
    let (room, fresh) = (Room::new(), Room::new());
    for root in [room.path(), fresh.path()] {
        contents.iter().for_each(|(name, content)| tree::file(root.join(name), content, 0o644));
    }
    room.take(BASELINE);
    let before = carried(room.path());
    for (name, _) in &contents {
        fs::set_permissions(room.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let (text, _) = room.diff();
    assert!(text.len() < 10_000, "{}", text.len());
    if git(fresh.path(), &["init", "-q"], b"").is_some() {
        git(fresh.path(), &["apply", "--check", "-"], &text);
    }
    fresh.patch(&text, FORWARD).unwrap();
    tree::assert_same(&carried(fresh.path()), &carried(room.path()), "applied");
    fresh.patch(&text, BACK).unwrap();
    tree::assert_same(&carried(fresh.path()), &before, "taken back");
}

#[test]
fn b37_what_git_writes_applies() {
    for options in [["--binary", "--no-renames"], ["--binary", "--find-renames"], ["--binary", "--find-copies-harder"]]
    {
        let after = |root: &Path| {
            change(root);
            fs::rename(root.join("numbers"), root.join("moved numbers")).unwrap();
            tree::file(root.join("new/copy"), fs::read(root.join("dashes")).unwrap(), 0o644);
        };
        let Some((room, changed, text)) = gits(plain, after, &options) else { return };
        let before = carried(room.path());
        room.patch(&text, FORWARD).unwrap_or_else(|error| panic!("{options:?}: {error}"));
        tree::assert_same(&carried(room.path()), &carried(changed.path()), &format!("{options:?}"));
        if options[1] != "--find-copies-harder" {
            room.patch(&text, BACK).unwrap();
            tree::assert_same(&carried(room.path()), &before, &format!("{options:?} taken back"));
        }
    }
}

#[test]
fn b37_a_binary_delta_of_git_applies_to_what_it_was_made_for_and_nothing_else() {
    let large: Vec<u8> =
        (0..200_000_u32).flat_map(|number| (number.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
    let before = |root: &Path| tree::file(root.join("large"), &large, 0o644);
    let after = |root: &Path| {
        let mut other = large.clone();
        other.splice(1000..1010, [7; 50]);
        other.truncate(700_000);
        fs::write(root.join("large"), other).unwrap();
    };
    let Some((room, changed, text)) = gits(before, after, &["--binary"]) else { return };
    assert!(String::from_utf8_lossy(&text).contains("\ndelta "));
    room.patch(&text, FORWARD).unwrap();
    tree::assert_same(&carried(room.path()), &carried(changed.path()), "delta");
    assert_eq!(room.refusal(&text).code(), ErrorCode::PatchConflict);
    room.patch(&text, BACK).unwrap();
    assert_eq!(fs::read(room.path().join("large")).unwrap(), large);
}

#[test]
fn b37_what_gnu_diff_writes_applies_and_what_we_write_gnu_patch_takes() {
    let (room, beside) = (Room::new(), tempfile::tempdir().unwrap());
    let numbers: String = (0..100).map(|number| format!("{number}\n")).collect();
    room.write("numbers", &numbers);
    room.write("gone", "gone\n");
    room.take(BASELINE);
    fs::create_dir(beside.path().join("a")).unwrap();
    tree::file(beside.path().join("a/numbers"), &numbers, 0o644);
    tree::file(beside.path().join("a/gone"), "gone\n", 0o644);
    room.write("numbers", &numbers.replace("50\n", "fifty\n"));
    fs::remove_file(room.path().join("gone")).unwrap();
    room.write("new", "new, without an end");
    let (text, _) = room.diff();
    if run("patch", &["-p1", "-d", "a", "-E"], beside.path(), &text).is_none() {
        return;
    }
    tree::assert_same(&carried(&beside.path().join("a")), &carried(room.path()), "applied by GNU patch");
    room.reset(BASELINE).unwrap();
    fs::rename(beside.path().join("a"), beside.path().join("b")).unwrap();
    fs::create_dir(beside.path().join("a")).unwrap();
    let after = carried(&beside.path().join("b"));
    let copy = "cp -p \"$0\"/* a; diff -Nru a b; true";
    let text = run("sh", &["-c", copy, room.path().to_str().unwrap()], beside.path(), b"").unwrap();
    room.patch(text, FORWARD).unwrap();
    tree::assert_same(&carried(room.path()), &after, "of GNU diff");
}

#[test]
fn b37_hunks_are_found_where_they_have_moved_to() {
    let room = Room::new();
    let numbers: String = (0..60).map(|number| format!("{number}\n")).collect();
    let text = "--- a/f\n+++ b/f\n@@ -10,7 +10,7 @@ x\n 9\n 10\n 11\n-12\n+twelve\n 13\n 14\n 15\n@@ -40,3 +40,4 @@\n 39\n 40\n+forty and a half\n 41\n";
    for (before, moved) in [(String::new(), 0), ("more\n".repeat(30), 2)] {
        room.write("f", &format!("{before}{numbers}"));
        assert_eq!(room.patch(text, FORWARD).unwrap(), Patched { files: 1, hunks: 2, moved });
        let expected = numbers.replace("12\n", "twelve\n").replace("40\n", "40\nforty and a half\n");
        assert_eq!(room.read("f"), format!("{before}{expected}"));
        room.patch(text, BACK).unwrap();
        assert_eq!(room.read("f"), format!("{before}{numbers}"));
    }
    // The nearest, and none that overlaps the hunk before.
    room.write("f", "a\nx\na\nb\nx\nb\n");
    let twice = "--- a/f\n+++ b/f\n@@ -2 +2 @@\n-x\n+y\n";
    room.patch(twice, FORWARD).unwrap();
    assert_eq!(room.read("f"), "a\ny\na\nb\nx\nb\n");
}

#[test]
fn b38_a_patch_whose_second_file_does_not_match_changes_nothing_and_names_it() {
    let room = Room::new();
    room.write("first", "a\n");
    room.write("dir/second", "one\ntwo\nthree\n");
    let text = "--- a/first\n+++ b/first\n@@ -1 +1 @@\n-a\n+b\n--- a/dir/second\n+++ b/dir/second\n@@ -1 +1 @@\n-one\n+1\n@@ -3 +3 @@\n-drei\n+3\n";
    let error = room.refusal(text);
    let PatchError::Conflict { path, hunk, .. } = &error else { panic!("{error}") };
    assert_eq!((path.as_slice(), *hunk), (b"dir/second".as_slice(), Some((2, 11))));
    assert_eq!(error.code(), ErrorCode::PatchConflict);
    assert!(error.to_string().contains("dir/second") && error.to_string().contains("hunk 2"), "{error}");
}

#[test]
fn b38_what_is_in_the_way_or_missing_is_a_conflict() {
    let room = Room::new();
    room.write("there", "there\n");
    room.write("full/of/things", "x\n");
    symlink("there", room.path().join("link")).unwrap();
    tree::fifo(&room.path().join("pipe"));
    let create = |name: &str| {
        format!("diff --git a/{name} b/{name}\nnew file mode 100644\n--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n+x\n")
    };
    let modify = |name: &str| format!("--- a/{name}\n+++ b/{name}\n@@ -1 +1 @@\n-there\n+x\n");
    let remove = |name: &str| format!("--- a/{name}\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n");
    for text in [
        create("there"),
        create("link"),
        create("pipe"),
        modify("none"),
        modify("pipe"),
        remove("none"),
        remove("there"),
        // In the place of another's directory.
        format!("{}{}", create("new"), create("new/in")),
        format!("{}{}", create("new/in/it"), create("new")),
    ] {
        let error = room.refusal(format!("{}{text}", create("unrelated")));
        assert_eq!(error.code(), ErrorCode::PatchConflict, "{text}{error}");
    }
    // A directory that stays.
    assert_eq!(room.refusal(create("full")).code(), ErrorCode::IsADirectory);
    // A link is no file to be written through.
    let error =
        room.refusal("diff --git a/link b/link\nindex 1..2 100644\n--- a/link\n+++ b/link\n@@ -1 +1 @@\n-there\n+x\n");
    assert_eq!(error.code(), ErrorCode::PatchConflict);
    let rest = "--- a/there\n+++ /dev/null\n@@ -0,0 +0,0 @@\n";
    assert!(room.patch(rest, FORWARD).is_err());
}

#[test]
fn b38_what_was_done_before_a_failure_is_taken_back() {
    let room = Room::new();
    room.write("a", "a\n");
    room.write("b/only", "b\n");
    room.write("z/full", "x\n");
    fs::set_permissions(room.path().join("b"), fs::Permissions::from_mode(0o711)).unwrap();
    let before = tree::read(room.path());
    let text = "--- a/a\n+++ b/a\n@@ -1 +1 @@\n-a\n+c\n--- a/b/only\n+++ /dev/null\n@@ -1 +0,0 @@\n-b\n--- /dev/null\n+++ b/c/d\n@@ -0,0 +1 @@\n+d\n--- /dev/null\n+++ b/z\n@@ -0,0 +1 @@\n+z\n";
    let error = room.patch(text, FORWARD).unwrap_err();
    assert_eq!(error.code(), ErrorCode::IsADirectory, "{error}");
    // But for the times of directories, into which things have moved and back.
    let without_times = |mut tree: tree::Tree| {
        tree.values_mut().filter(|item| item.kind == "directory").for_each(|item| item.modified = (0, 0));
        tree
    };
    tree::assert_same(&without_times(tree::read(room.path())), &without_times(before), "taken back");
    assert!(fs::read_dir(room.path()).unwrap().count() == 3);
}

#[test]
fn b27_no_patch_leads_outside_or_through_a_link() {
    let room = Room::new();
    let outside = room.beside("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("x"), "x\n").unwrap();
    fs::create_dir(room.path().join("inside")).unwrap();
    room.write("inside/x", "x\n");
    symlink(&outside, room.path().join("t")).unwrap();
    symlink("inside", room.path().join("in")).unwrap();
    for name in ["../outside/x", "t/x", "in/x", "inside/../../outside/x"] {
        for text in [
            format!("--- a/{name}\n+++ b/{name}\n@@ -1 +1 @@\n-x\n+y\n"),
            format!(
                "diff --git a/{name} b/{name}\nnew file mode 100644\n--- /dev/null\n+++ b/{name}.new\n@@ -0,0 +1 @@\n+y\n"
            ),
            format!(
                "diff --git a/{name} b/{name}\ndeleted file mode 100644\n--- a/{name}\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
            ),
            format!("diff --git a/inside/x b/{name}2\nrename from inside/x\nrename to {name}2\n"),
        ] {
            let error = room.refusal(&text);
            assert!(
                matches!(error.code(), ErrorCode::OutsideRoot | ErrorCode::BadPatch | ErrorCode::PatchConflict),
                "{text}{error}"
            );
        }
    }
    let whole = Options { strip: 0, ..FORWARD };
    let error = room.patch("--- /etc/hostname\n+++ /etc/hostname\n@@ -1 +1 @@\n-x\n+y\n", whole).unwrap_err();
    assert_eq!(error.code(), ErrorCode::OutsideRoot);
    // A link that goes with the patch is in nobody's way.
    let text = "diff --git a/in b/in\ndeleted file mode 120000\n--- a/in\n+++ /dev/null\n@@ -1 +0,0 @@\n-inside\n\\ No newline at end of file\ndiff --git a/in/new b/in/new\nnew file mode 100644\n--- /dev/null\n+++ b/in/new\n@@ -0,0 +1 @@\n+y\n";
    room.patch(text, FORWARD).unwrap();
    assert_eq!(room.read("in/new"), "y\n");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(outside.join("x")).unwrap(), "x\n");
}

#[test]
fn what_is_no_patch_is_refused_with_the_line() {
    let room = Room::new();
    room.write("f", "a\n");
    for text in [
        "hello\n",
        "@@ -1 +1 @@\n-a\n+b\n",
        "--- a/f\n+++ b/f\n@@ -1,2 +1 @@\n-a\n+b\n",
        "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n*b\n",
        "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n-a\n+b\n",
        "--- f\n+++ f\n@@ -1 +1 @@\n-a\n+b\n",
        "diff --git a/f b/f\nGIT binary patch\nliteral 3\nzzzz\n\n",
        "diff --git a/f b/f\nGIT binary patch\nliteral x\n\n",
        "diff --git a/f b/f\nindex 1..2 160000\n",
        "Binary files a/f and b/f differ\n",
        "diff --git a/f b/f\nBinary files a/f and b/f differ\n",
    ] {
        assert_eq!(room.refusal(text).code(), ErrorCode::BadPatch, "{text}");
    }
    assert_eq!(room.patch("", FORWARD).unwrap(), Patched::default());
    // As mail has it, with words around.
    let mail = "From: a\nSubject: b\n---\n f | 2 +-\n\ndiff --git a/f b/f\nindex 1..2 100644\n--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n-- \n2.47\n";
    room.patch(mail, FORWARD).unwrap();
    assert_eq!(room.read("f"), "b\n");
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(vec![
        "a\n",
        "b\n",
        "\n",
        "-- a\n",
        "+++ b\n",
        "@@ -1 +1 @@\n",
        "\\ x\n",
        "c\r\n",
        "end",
        "\u{fc}\n",
    ]);
    let lines = prop::collection::vec(line, 0..30).prop_map(|lines| lines.concat().into_bytes());
    prop_oneof![9 => lines, 1 => prop::collection::vec(any::<u8>(), 0..300)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn b36_any_two_contents_round_trip(before in prop::option::of(text()), after in prop::option::of(text())) {
        let (room, fresh) = (Room::new(), Room::new());
        let put = |room: &Room, content: &Option<Vec<u8>>| match content {
            Some(content) => fs::write(room.path().join("f"), content).unwrap(),
            None => drop(fs::remove_file(room.path().join("f"))),
        };
        put(&room, &before);
        put(&fresh, &before);
        room.take(BASELINE);
        put(&room, &after);
        let (text, _) = room.diff();
        fresh.patch(&text, FORWARD).unwrap();
        prop_assert_eq!(fs::read(fresh.path().join("f")).ok(), after);
        fresh.patch(&text, BACK).unwrap();
        prop_assert_eq!(fs::read(fresh.path().join("f")).ok(), before);
    }
}
