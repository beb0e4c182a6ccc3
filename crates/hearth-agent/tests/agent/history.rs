//! The workspace's history: checkpoints, diffs, patches, the way back.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_channel::{Channel, ChannelError, DiffPiece};
use hearth_protocol::history::{ChangeKind, CheckpointName, Diffed, HistoryRequest, Patch, Patched};
use hearth_protocol::{ErrorCode, Outcome, RequestBody};

use crate::support::{Agent, fault};
use crate::tree;

fn baseline() -> CheckpointName {
    CheckpointName::default()
}

fn named(name: &str) -> CheckpointName {
    CheckpointName::new(name).unwrap()
}

async fn diff(channel: &Channel) -> Result<(Vec<u8>, Diffed), ChannelError> {
    let diffing = channel.diff(baseline()).await?;
    let mut text = Vec::new();
    loop {
        match diffing.next().await?.expect("an end comes before nothing does") {
            DiffPiece::Bytes(bytes) => text.extend_from_slice(&bytes),
            DiffPiece::End(sums) => return Ok((text, sums)),
        }
    }
}

/// A workspace that outlives its agent.
fn agent_in(workspace: &tempfile::TempDir) -> Agent {
    Agent::start_with(&["--workspace", workspace.path().to_str().unwrap()])
}

/// What a patch can carry of a tree.
fn carried(root: &Path) -> tree::Tree {
    let mut tree = tree::read(root);
    tree.retain(|_, item| matches!(item.kind, "file" | "symlink"));
    tree.values_mut().for_each(|item| (item.modified, item.same_as) = ((0, 0), None));
    tree
}

fn disturb(root: &Path) {
    fs::write(root.join("README"), "other\nand more").unwrap();
    fs::write(root.join("large"), vec![0; 3_000_000]).unwrap();
    fs::remove_dir_all(root.join("node_modules")).unwrap();
    fs::remove_file(root.join("empty")).unwrap();
    fs::remove_file(root.join("dangling")).unwrap();
    symlink("elsewhere", root.join("dangling")).unwrap();
    tree::file(root.join("new/binary"), [0, 255], 0o755);
    tree::file(root.join("new/empty"), "", 0o640);
}

#[tokio::test]
async fn b36_a_diff_applied_to_a_fresh_baseline_makes_the_same_tree() {
    let (workspace, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (agent, other) = (agent_in(&workspace), agent_in(&fresh));
    let (channel, other_channel) = (agent.connect().await, other.connect().await);
    tree::project(workspace.path());
    tree::project(fresh.path());
    channel.checkpoint(baseline()).await.unwrap();
    disturb(workspace.path());
    let (text, sums) = diff(&channel).await.unwrap();
    let (changes, told) = channel.changes(baseline()).await.unwrap();
    assert_eq!((sums, changes.len() as u64), (told, sums.created + sums.modified + sums.deleted));
    let large = changes.iter().find(|change| change.path.as_bytes() == b"large").unwrap();
    let expected = (ChangeKind::Modified, Some(1_600_000), Some(3_000_000));
    assert_eq!((large.change, large.bytes_before, large.bytes), expected);
    let check = Patch { check: true, ..Patch::default() };
    let before = carried(fresh.path());
    let found = other_channel.patch(check, text.as_slice()).await.unwrap();
    tree::assert_same(&carried(fresh.path()), &before, "only looked at");
    assert_eq!(other_channel.patch(Patch::default(), text.as_slice()).await.unwrap(), found);
    tree::assert_same(&carried(fresh.path()), &carried(workspace.path()), "applied");
    let back = Patch { reverse: true, ..Patch::default() };
    other_channel.patch(back, text.as_slice()).await.unwrap();
    tree::assert_same(&carried(fresh.path()), &before, "taken back");
}

#[tokio::test]
async fn b35_b39_a_project_is_brought_back_to_any_checkpoint() {
    let workspace = tempfile::tempdir().unwrap();
    let agent = agent_in(&workspace);
    let channel = agent.connect().await;
    tree::project(workspace.path());
    let first = tree::read(workspace.path());
    let taken = channel.checkpoint(baseline()).await.unwrap();
    assert_eq!((taken.name.as_str(), taken.skipped), ("baseline", 0));
    disturb(workspace.path());
    let second = tree::read(workspace.path());
    channel.checkpoint(named("second")).await.unwrap();
    channel.reset(baseline()).await.unwrap();
    tree::assert_same(&tree::read(workspace.path()), &first, "baseline");
    let done = channel.reset(named("second")).await.unwrap();
    assert!(done.restored > 0 && done.removed > 0 && done.left_out == 0, "{done:?}");
    tree::assert_same(&tree::read(workspace.path()), &second, "second");
    let names =
        |all: Vec<hearth_protocol::history::Checkpoint>| all.into_iter().map(|one| one.name).collect::<Vec<_>>();
    assert_eq!(names(channel.checkpoints().await.unwrap()), ["baseline", "second"]);
    channel.remove_checkpoint(named("second")).await.unwrap();
    assert_eq!(names(channel.checkpoints().await.unwrap()), ["baseline"]);
    for refused in [
        channel.reset(named("second")).await.map(drop),
        channel.remove_checkpoint(named("second")).await,
        channel.changes(named("second")).await.map(drop),
    ] {
        assert_eq!(fault(&refused.unwrap_err()), (ErrorCode::UnknownName, Outcome::NeverStarted));
    }
}

#[tokio::test]
async fn b39_ten_thousand_files_are_reset_in_under_a_second() {
    let workspace = tempfile::tempdir().unwrap();
    let agent = agent_in(&workspace);
    let channel = agent.connect().await;
    for number in 0..10_000 {
        tree::file(workspace.path().join(format!("{}/{number}", number / 50)), format!("{number}"), 0o644);
    }
    let expected = tree::read(workspace.path());
    channel.checkpoint(baseline()).await.unwrap();
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        for number in 0..50 {
            fs::write(workspace.path().join(format!("{number}/new")), "new").unwrap();
            fs::write(workspace.path().join(format!("{number}/{}", number * 50)), "other").unwrap();
            fs::remove_file(workspace.path().join(format!("{number}/{}", number * 50 + 1))).unwrap();
        }
        let begun = Instant::now();
        channel.reset(baseline()).await.unwrap();
        fastest = fastest.min(begun.elapsed());
        tree::assert_same(&tree::read(workspace.path()), &expected, "reset");
    }
    assert!(fastest < Duration::from_secs(1), "{fastest:?}");
}

#[tokio::test]
async fn b38_a_patch_that_does_not_fit_changes_nothing_and_says_where() {
    let workspace = tempfile::tempdir().unwrap();
    let agent = agent_in(&workspace);
    let channel = agent.connect().await;
    tree::file(workspace.path().join("first"), "a\n", 0o644);
    tree::file(workspace.path().join("second"), "b\n", 0o644);
    let before = tree::read(workspace.path());
    let text = "--- a/first\n+++ b/first\n@@ -1 +1 @@\n-a\n+x\n--- a/second\n+++ b/second\n@@ -1 +1 @@\n-c\n+x\n";
    let error = channel.patch(Patch::default(), text.as_bytes()).await.unwrap_err();
    assert_eq!(fault(&error), (ErrorCode::PatchConflict, Outcome::NeverStarted));
    let ChannelError::Fault { source } = error else { panic!("{error}") };
    assert!(source.message.contains("second: hunk 1"), "{}", source.message);
    let error = channel.patch(Patch::default(), b"no patch".as_slice()).await.unwrap_err();
    assert_eq!(fault(&error).0, ErrorCode::BadPatch);
    tree::assert_same(&tree::read(workspace.path()), &before, "unchanged");
    let sub = Patch { path: "..".into(), ..Patch::default() };
    assert_eq!(fault(&channel.patch(sub, text.as_bytes()).await.unwrap_err()).0, ErrorCode::OutsideRoot);
}

#[tokio::test]
async fn b38_a_patch_that_is_given_up_half_way_changes_nothing() {
    let workspace = tempfile::tempdir().unwrap();
    let agent = agent_in(&workspace);
    let channel = agent.connect().await;
    tree::file(workspace.path().join("f"), "a\n", 0o644);
    let request = RequestBody::History(HistoryRequest::Patch(Patch::default()));
    let operation = channel.operate(request).await.unwrap();
    let mut upload = operation.upload().unwrap();
    upload.write(Bytes::from_static(b"--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n")).await.unwrap();
    drop((operation, upload));
    // The next waits for its turn.
    let text = "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+c\n";
    let patched = channel.patch(Patch::default(), text.as_bytes()).await.unwrap();
    assert_eq!(patched, Patched { files: 1, hunks: 1, moved: 0 });
    assert_eq!(fs::read_to_string(workspace.path().join("f")).unwrap(), "c\n");
    assert_eq!(fs::read_dir(workspace.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_patch_without_a_byte_changes_nothing_and_ends() {
    let workspace = tempfile::tempdir().unwrap();
    let agent = agent_in(&workspace);
    let channel = agent.connect().await;
    // Its end must not overtake its request, which it may on every one of them.
    for _ in 0..200 {
        let patching = channel.patch(Patch::default(), &b""[..]);
        let patched = tokio::time::timeout(Duration::from_secs(30), patching).await.expect("it hangs").unwrap();
        assert_eq!(patched, Patched { files: 0, hunks: 0, moved: 0 });
    }
}

#[tokio::test]
async fn b27_patches_stay_in_the_workspace() {
    let (workspace, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let agent = agent_in(&workspace);
    let channel = agent.connect().await;
    symlink(outside.path(), workspace.path().join("t")).unwrap();
    for name in ["t/x", "../x"] {
        let text = format!("--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n+x\n");
        let error = channel.patch(Patch::default(), text.as_bytes()).await.unwrap_err();
        assert_eq!(fault(&error).0, ErrorCode::OutsideRoot, "{name}");
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_diff_that_nobody_takes_holds_up_only_what_changes_things_and_ends_with_its_client() {
    let workspace = tempfile::tempdir().unwrap();
    let agent = agent_in(&workspace);
    let channel = agent.connect().await;
    channel.checkpoint(baseline()).await.unwrap();
    let noise: Vec<u8> = (0..4_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    tree::file(workspace.path().join("noise"), noise, 0o644);
    let diffing = channel.diff(baseline()).await.unwrap();
    assert!(matches!(diffing.next().await.unwrap(), Some(DiffPiece::Bytes(_))));
    assert_eq!(channel.changes(baseline()).await.unwrap().0.len(), 1);
    drop(diffing);
    channel.reset(baseline()).await.unwrap();
    assert_eq!(fs::read_dir(workspace.path()).unwrap().count(), 0);
}
