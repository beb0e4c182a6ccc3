//! What has happened, as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::extract::State;
use axum::response::sse::{self, KeepAlive, Sse};
use futures_util::Stream;
use futures_util::stream::unfold;
use hearth_api::{Event, FollowEvents, Happening};
use hearth_engine::fleet;
use tokio::sync::watch;

use crate::App;
use crate::answer::Refusal;
use crate::input::{Asked, LastEvent};
use crate::sandboxes::{state, unix_ms};

/// The kind of event that tells how many are no longer kept.
const MISSED: &str = "missed";

/// Sends events until the client goes or the daemon ends.
pub(crate) async fn follow(
    State(app): State<App>,
    LastEvent(resumed): LastEvent,
    Asked(query): Asked<FollowEvents>,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Refusal> {
    let position = query.after.or(resumed).unwrap_or_else(|| app.fleet().events().newest());
    let follower = Follower {
        closing: app.closing(),
        follow: query.follow.unwrap_or(true),
        ready: VecDeque::new(),
        position,
        app,
    };
    Ok(Sse::new(unfold(follower, Follower::next)).keep_alive(KeepAlive::default()))
}

struct Follower {
    app: App,
    closing: watch::Receiver<bool>,
    follow: bool,
    position: u64,
    ready: VecDeque<sse::Event>,
}

impl Follower {
    async fn next(mut self) -> Option<(Result<sse::Event, Infallible>, Self)> {
        if self.ready.is_empty() {
            let events = self.app.fleet().events();
            let batch = match self.follow {
                false => events.kept_after(self.position),
                true => tokio::select! {
                    batch = events.after(self.position) => batch,
                    _ = self.closing.wait_for(|closing| *closing) => return None,
                },
            };
            self.position = batch.events.last()?.position;
            let missed = (batch.missed > 0).then(|| sse::Event::default().event(MISSED).data(batch.missed.to_string()));
            self.ready = missed.into_iter().chain(batch.events.into_iter().map(told)).collect();
        }
        let event = self.ready.pop_front()?;
        Some((Ok(event), self))
    }
}

fn told(event: fleet::Event) -> sse::Event {
    let position = event.position;
    let what = match event.what {
        fleet::Happening::State { state: reached, reason } => Happening::State { state: state(reached), reason },
        fleet::Happening::Changed => Happening::Changed {},
        fleet::Happening::Adopted { told } => Happening::Adopted { told },
    };
    let event = Event {
        position,
        at_unix_ms: unix_ms(event.at),
        sandbox: event.sandbox.to_string(),
        name: event.name.map(|name| name.to_string()),
        what,
    };
    let json = serde_json::to_string(&event).expect("plain data always becomes JSON");
    sse::Event::default().id(position.to_string()).data(json)
}
