//! Watches.
//!
//! ```text
//! start, look ── worker ──> Started ──> wait for events ──> read ──> new directories? ── look ── worker ──┐
//!                                            ^                                                            │
//!                                            └────────────────────────────────────────────────────────────┘
//! ```
//!
//! Events are taken from the kernel as fast as the host takes them: a slow host finds an overflow, and nothing here grows.

use std::os::fd::OwnedFd;
use std::time::Duration;

use hearth_files::Watcher;
use hearth_protocol::files::{FileEvent, FileResult, Watch};
use hearth_protocol::{ErrorCode, Fault, StreamName, encode_record};

use crate::agent::Agent;
use crate::session::operation::{Outlet, Streams, off_thread};

/// How long the second half of a renaming is waited for. The kernel tells both one behind the other, but does not say that there will be
/// no second one.
const HALF: Duration = Duration::from_millis(10);

pub(super) async fn watch(agent: &Agent, watch: Watch, streams: Streams) -> Result<FileResult, Fault> {
    let root = agent.roots.open(watch.root)?;
    let path = watch.path;
    let watcher = off_thread(move || Ok(Watcher::start(&root, path.as_bytes(), watch.recursive)?)).await?;
    let outlet = streams.output;
    let mut watcher = look(watcher, &outlet).await?;
    send(&outlet, &[FileEvent::Started { directories: watcher.directories() }]).await;
    let failed = |error: std::io::Error| Fault::failed(ErrorCode::Io, format!("watch: {error}"));
    let descriptor: OwnedFd = watcher.descriptor().try_clone_to_owned().map_err(failed)?;
    let descriptor = crate::sys::watch(descriptor).map_err(failed)?;
    while !watcher.is_gone() {
        let mut ready = if watcher.is_half_renamed() {
            match tokio::time::timeout(HALF, descriptor.readable()).await {
                Ok(ready) => ready.map_err(failed)?,
                Err(_) => {
                    send(&outlet, &watcher.settle()).await;
                    continue;
                }
            }
        } else {
            descriptor.readable().await.map_err(failed)?
        };
        let events = watcher.read()?;
        if events.is_empty() {
            ready.clear_ready();
        }
        drop(ready);
        send(&outlet, &events).await;
        watcher = look(watcher, &outlet).await?;
    }
    Ok(FileResult::Done {})
}

/// Looks into what is new, and reports what is in it.
async fn look(mut watcher: Watcher, outlet: &Outlet) -> Result<Watcher, Fault> {
    while watcher.has_to_look() {
        let events;
        (watcher, events) = off_thread(move || {
            let events = watcher.look()?;
            Ok((watcher, events))
        })
        .await?;
        send(outlet, &events).await;
    }
    Ok(watcher)
}

async fn send(outlet: &Outlet, events: &[FileEvent]) {
    let mut lines = Vec::new();
    for event in events {
        encode_record(event, &mut lines);
    }
    outlet.send(StreamName::Data, lines.into()).await;
}
