//! Trees: listed, moved, copied, removed, searched.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_protocol::ErrorCode;
use hearth_protocol::files::{Chmod, Enough, FileKind, List, Mkdir, Remove, Search, Symlink, Transfer, Watch};

use crate::files::code;
use crate::support::{Agent, SOON, run};

fn everything(path: &str) -> List {
    List { recursive: true, ..List::new(path) }
}

#[tokio::test]
async fn a_tree_is_listed_whole_or_in_pages() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    run(&channel, "mkdir -p d/a d/b/c; cd d; seq 1500 | sed 's|^|a/|' | xargs touch; touch b/c/f").await;
    let whole = channel.list_files(everything("d")).await.unwrap();
    assert_eq!((whole.entries.len(), whole.next), (1504, None));
    let paths: Vec<_> = whole.entries.iter().map(|entry| entry.path.to_string_lossy().into_owned()).collect();
    assert!(paths.is_sorted_by(|one, other| one.split('/').lt(other.split('/'))));
    let (mut pages, mut after) = (Vec::new(), None);
    loop {
        let list = List { limit: Some(700), after: after.clone(), ..everything("d") };
        let page = channel.list_files(list).await.unwrap();
        assert!(page.entries.len() <= 700);
        pages.extend(page.entries);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(pages, whole.entries);
    let shallow = List { depth: Some(2), ..everything("d") };
    assert_eq!(channel.list_files(shallow).await.unwrap().entries.len(), 1503);
    assert_eq!(channel.list_files(List::new("d")).await.unwrap().entries.len(), 2);
}

#[tokio::test]
async fn b06_a_list_is_answered_while_a_process_runs() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let sleeping = channel.start(crate::support::shell("sleep 300")).await.unwrap();
    let mut fastest = Duration::MAX;
    for _ in 0..20 {
        let begun = Instant::now();
        channel.list_files(List::new("")).await.unwrap();
        fastest = fastest.min(begun.elapsed());
    }
    assert!(fastest < Duration::from_millis(50) && crate::support::is_alive(sleeping.pid()), "{fastest:?}");
}

#[tokio::test]
async fn b27_no_request_about_a_tree_leaves_the_workspace() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("x"), "outside").unwrap();
    symlink(outside.path(), agent.workspace().join("t")).unwrap();
    fs::write(agent.workspace().join("f"), "").unwrap();
    for path in ["../etc/hostname", "/workspace/../etc/hostname", "t/x", "/etc/hostname"] {
        let refused = [
            code(channel.stat(path).await),
            code(channel.list_files(List::new(path)).await),
            code(channel.mkdir(Mkdir { parents: true, ..Mkdir::new(path) }).await),
            code(channel.move_file(Transfer { replace: true, ..Transfer::new(path, "y") }).await),
            code(channel.move_file(Transfer { replace: true, ..Transfer::new("f", path) }).await),
            code(channel.copy_file(Transfer { replace: true, ..Transfer::new(path, "y") }).await),
            code(channel.copy_file(Transfer { replace: true, ..Transfer::new("f", path) }).await),
            code(channel.remove_file(Remove { recursive: true, missing_ok: true, ..Remove::new(path) }).await),
            code(channel.symlink(Symlink { replace: true, ..Symlink::new(path, "f") }).await),
            code(channel.chmod(Chmod { recursive: true, ..Chmod::new(path, 0o777) }).await),
            code(channel.search(Search::new(path, "o")).await),
            code(channel.watch(Watch { recursive: true, ..Watch::new(path) }).await),
        ];
        assert_eq!(refused, [ErrorCode::OutsideRoot; 12], "{path}");
    }
    assert_eq!(fs::read(outside.path().join("x")).unwrap(), b"outside");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn b30_what_is_no_file_neither_fails_nor_blocks_a_list() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    run(&channel, "mkdir d; mkfifo d/fifo; ln -s nowhere d/link; mknod d/null c 1 3 || true").await;
    let _socket = std::os::unix::net::UnixListener::bind(agent.workspace().join("d/socket")).unwrap();
    let listed = channel.list_files(everything("d")).await.unwrap().entries;
    let kinds: Vec<FileKind> = listed.iter().map(|entry| entry.kind).collect();
    for kind in [FileKind::Fifo, FileKind::Symlink, FileKind::Socket] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    // Files that come and go while they are listed.
    let busy = channel.start(crate::support::shell("while :; do touch d/x d/y; rm -rf d/x d/y; done")).await.unwrap();
    for _ in 0..50 {
        let listed = channel.list_files(everything("d")).await.unwrap();
        assert!(listed.entries.len() >= kinds.len());
    }
    busy.signal(hearth_protocol::Signal::Kill, hearth_protocol::SignalScope::Tree).await.unwrap();
}

#[tokio::test]
async fn b32_a_sparse_file_of_100_gb_is_listed_at_once_with_what_it_takes() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    fs::create_dir(agent.workspace().join("d")).unwrap();
    fs::File::create(agent.workspace().join("d/sparse")).unwrap().set_len(100_000_000_000).unwrap();
    let begun = Instant::now();
    let listed = channel.list_files(List::new("d")).await.unwrap().entries;
    assert!(begun.elapsed() < SOON);
    assert_eq!(listed[0].size, 100_000_000_000);
    assert!(listed[0].allocated < 1 << 20, "{}", listed[0].allocated);
}

#[tokio::test]
async fn trees_are_made_copied_moved_and_removed() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let at = |path: &str| agent.workspace().join(path);
    let made = channel.mkdir(Mkdir { parents: true, mode: Some(0o750), ..Mkdir::new("a/b") }).await.unwrap();
    assert_eq!((made.kind, made.mode), (FileKind::Directory, 0o750));
    channel.write("a/b/tool", Some(0o755), Bytes::from_static(b"text")).await.unwrap();
    let link = channel.symlink(Symlink::new("a/link", "b/tool")).await.unwrap();
    assert_eq!((link.kind, link.target), (FileKind::Symlink, Some("b/tool".into())));
    assert_eq!(channel.copy_file(Transfer::new("a", "new/copy")).await.unwrap(), 4);
    assert_eq!(channel.move_file(Transfer::new("a", "moved")).await.unwrap().path, "moved".into());
    assert!(!at("a").exists());
    assert_eq!(fs::read(at("new/copy/link")).unwrap(), b"text");
    assert_eq!(channel.chmod(Chmod { recursive: true, ..Chmod::new("moved", 0o700) }).await.unwrap(), 3);
    assert_eq!(fs::metadata(at("moved/b/tool")).unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!(code(channel.remove_file(Remove::new("moved")).await), ErrorCode::NotEmpty);
    let tree = |path| Remove { recursive: true, ..Remove::new(path) };
    assert_eq!(channel.remove_file(tree("moved")).await.unwrap(), 4);
    assert_eq!(code(channel.remove_file(tree("moved")).await), ErrorCode::NotFound);
    assert_eq!(code(channel.remove_file(tree("/workspace")).await), ErrorCode::InvalidField);
}

#[tokio::test]
async fn a_tree_deeper_than_any_path_is_listed_and_removed() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let mut at = rustix::fs::open(agent.workspace(), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    // A path that the system takes has at most 4095 bytes.
    for _ in 0..2_500 {
        rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        at = rustix::fs::openat(&at, "d", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    }
    drop(at);
    let mut entries = channel.list_stream(everything("d")).await.unwrap();
    let (mut count, mut deepest) = (0, 0);
    while let Some(entry) = entries.next().await.unwrap() {
        (count, deepest) = (count + 1, entry.path.as_bytes().len());
    }
    assert_eq!((count, deepest), (2_499, 4_999));
    let removed = channel.remove_file(Remove { recursive: true, ..Remove::new("d") }).await.unwrap();
    assert_eq!(removed, 2_500);
}

#[tokio::test]
async fn a_search_finds_lines_and_keeps_its_bounds() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    run(
        &channel,
        "mkdir -p s/target; cd s; printf 'target/\\n' > .gitignore; seq 2000 > n; cp n target/; printf 'a\\0b' > bin",
    )
    .await;
    let found = channel.search(Search::new("s", "^19?9$")).await.unwrap();
    let told: Vec<_> = found.lines.iter().map(|line| (line.path.to_string_lossy().into_owned(), line.line)).collect();
    assert_eq!(told, [("s/n".into(), 19), ("s/n".into(), 199)]);
    let found = channel.search(Search { limit: Some(5), ..Search::new("s", "1") }).await.unwrap();
    assert_eq!((found.matches, found.lines.len(), found.enough), (5, 5, Some(Enough::Matches)));
    assert_eq!(code(channel.search(Search::new("s", "(")).await), ErrorCode::InvalidField);
}
