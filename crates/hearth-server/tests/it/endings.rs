//! How the daemon's API ends, and what is followed meanwhile.

use std::time::Duration;

use hearth_client::Item;
use hearth_client::api::{CreateSandbox, FollowEvents, Happening, SandboxState};
use hearth_engine::fleet::FleetLimits;
use hearth_server::Ended;

use crate::support::{Daemon, body, in_time};

#[tokio::test]
async fn events_come_as_they_happen_and_from_any_position() {
    let daemon = Daemon::start();
    let mut following = daemon.client.events(&FollowEvents::default()).await.unwrap();
    body(daemon.client.create(&CreateSandbox { name: Some("a".into()), ..CreateSandbox::default() }).await);
    for (position, wanted) in [(1, SandboxState::Creating), (2, SandboxState::Removed)] {
        let Some(Item::Event(event)) = in_time(following.next()).await.unwrap() else { panic!("no event") };
        assert_eq!((event.position, event.name.as_deref()), (position, Some("a")));
        assert!(matches!(event.what, Happening::State { state, .. } if state == wanted), "{event:?}");
    }
    let query = FollowEvents { after: Some(1), follow: Some(false) };
    let mut kept = daemon.client.events(&query).await.unwrap();
    assert!(matches!(in_time(kept.next()).await.unwrap(), Some(Item::Event(event)) if event.position == 2));
    assert_eq!(in_time(kept.next()).await.unwrap(), None);
}

#[tokio::test]
async fn it_ends_when_told_with_followers_there() {
    let daemon = Daemon::start();
    let mut following = daemon.client.events(&FollowEvents::default()).await.unwrap();
    let idle_connection = daemon.client.connect().await.unwrap();
    let socket = daemon.socket();
    assert!(matches!(daemon.end().await, Ended::Told(())));
    assert!(!socket.exists());
    assert!(matches!(in_time(following.next()).await, Ok(None)));
    drop(idle_connection);
}

#[tokio::test]
async fn it_ends_by_itself_once_nobody_is_there() {
    let daemon = Daemon::with(FleetLimits { sandboxes: 1, memory_mib: 512, cpus: 8 }, Some(Duration::from_millis(50)));
    daemon.client.health().await.unwrap();
    assert!(matches!(daemon.ended().await, Ended::Idle));
}
