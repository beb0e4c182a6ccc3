//! Watches.

use std::fs;
use std::time::Duration;

use hearth_channel::Watching;
use hearth_protocol::ErrorCode;
use hearth_protocol::files::{FileEvent, Watch};

use crate::files::code;
use crate::support::{Agent, HANG, run};

fn tree(path: &str) -> Watch {
    Watch { recursive: true, ..Watch::new(path) }
}

/// Takes events up to one of this kind, which must come.
async fn until(watching: &mut Watching, wanted: impl Fn(&FileEvent) -> bool) -> Vec<FileEvent> {
    let mut events = Vec::new();
    let take = async {
        while let Some(event) = watching.next().await.unwrap() {
            let last = wanted(&event);
            events.push(event);
            if last {
                return;
            }
        }
        panic!("the watch ended");
    };
    tokio::time::timeout(HANG, take).await.expect("the event comes");
    events
}

fn written(path: &str) -> impl Fn(&FileEvent) -> bool {
    move |event| matches!(event, FileEvent::Written { path: seen } if seen.as_bytes() == path.as_bytes())
}

fn created(path: &str) -> impl Fn(&FileEvent) -> bool {
    move |event| matches!(event, FileEvent::Created { path: seen, .. } if seen.as_bytes() == path.as_bytes())
}

#[tokio::test]
async fn what_changes_is_told_in_directories_to_come_too() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    fs::create_dir(agent.workspace().join("w")).unwrap();
    let mut watching = channel.watch(tree("w")).await.unwrap();
    run(&channel, "mkdir -p w/a/b; echo x > w/a/b/f; mv w/a w/c").await;
    let renamed = FileEvent::Renamed { from: "w/a".into(), path: "w/c".into(), directory: true };
    until(&mut watching, |event| *event == renamed).await;
    run(&channel, "echo y > w/c/b/g").await;
    // Written before its directory was looked into, it is found there.
    until(&mut watching, |event| written("w/c/b/g")(event) || created("w/c/b/g")(event)).await;
    channel.write("w/atomic", None, "text".into()).await.unwrap();
    until(&mut watching, created("w/atomic")).await;
}

#[tokio::test]
async fn what_leaves_is_told_as_removed_although_nothing_else_happens() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    fs::create_dir(agent.workspace().join("w")).unwrap();
    fs::write(agent.workspace().join("w/f"), "").unwrap();
    let mut watching = channel.watch(tree("w")).await.unwrap();
    fs::rename(agent.workspace().join("w/f"), agent.workspace().join("out")).unwrap();
    let removed = FileEvent::Removed { path: "w/f".into(), directory: false };
    let events = until(&mut watching, |event| *event == removed).await;
    assert_eq!(events, [removed]);
}

#[tokio::test]
async fn a_watch_ends_with_its_place_or_with_its_client() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let watchers = || {
        let files = fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().flatten();
        files.filter(|file| fs::read_link(file.path()).is_ok_and(|to| to.ends_with("anon_inode:inotify"))).count()
    };
    fs::create_dir(agent.workspace().join("w")).unwrap();
    let mut watching = channel.watch(tree("w")).await.unwrap();
    fs::remove_dir(agent.workspace().join("w")).unwrap();
    let end = async { while watching.next().await.unwrap().is_some() {} };
    tokio::time::timeout(HANG, end).await.expect("the watch ends");
    let abandoned = channel.watch(tree("")).await.unwrap();
    assert!(watchers() > 0);
    drop(abandoned);
    while watchers() > 0 {
        channel.ping().await.unwrap();
    }
    assert_eq!(code(channel.watch(tree("none")).await), ErrorCode::NotFound);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_told_of_the_overflow() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    fs::create_dir(agent.workspace().join("w")).unwrap();
    let mut watching = channel.watch(tree("w")).await.unwrap();
    let most: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    let name = "x".repeat(100);
    for n in 0..most {
        let path = agent.workspace().join(format!("w/{name}{n}"));
        fs::write(&path, "").unwrap();
        fs::remove_file(&path).unwrap();
    }
    // Others are answered meanwhile.
    tokio::time::timeout(Duration::from_secs(5), channel.ping()).await.unwrap().unwrap();
    until(&mut watching, |event| *event == FileEvent::Overflow {}).await;
    fs::write(agent.workspace().join("w/after"), "").unwrap();
    until(&mut watching, written("w/after")).await;
}
