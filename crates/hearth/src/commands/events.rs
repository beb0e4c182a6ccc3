//! `hearth events`: what happens to sandboxes, as it happens.

use hearth_client::Item;
use hearth_client::api::{Event, FollowEvents, Happening};
use serde_json::json;

use super::sandbox::state;
use crate::arguments::EventOptions;
use crate::failure::Failure;
use crate::{daemon, output, times};

/// Prints events until the daemon ends, or there are no more.
pub(crate) async fn run(options: EventOptions) -> Result<i32, Failure> {
    let client = daemon::client().await?;
    let query = FollowEvents { after: options.after, follow: options.no_follow.then_some(false) };
    let mut followed = client.events(&query).await?;
    while let Some(item) = followed.next().await? {
        match (item, options.json) {
            (Item::Event(event), true) => output::print(&json!(event).to_string())?,
            (Item::Event(event), false) => output::print(&line(&event))?,
            (Item::Missed(missed), true) => output::print(&json!({ "missed": missed }).to_string())?,
            (Item::Missed(missed), false) => output::say(&format!("hearth: {missed} events are no longer kept")),
        }
    }
    Ok(0)
}

fn line(event: &Event) -> String {
    let what = match &event.what {
        Happening::State { state: reached, reason: None } => state(*reached),
        Happening::State { state: reached, reason: Some(reason) } => format!("{} ({reason})", state(*reached)),
        Happening::Changed {} => "changed".to_owned(),
        Happening::Adopted { told: None } => "adopted".to_owned(),
        Happening::Adopted { told: Some(told) } => format!("adopted ({told})"),
    };
    let name = event.name.as_deref().unwrap_or("-");
    output::plain(&format!("{} {} {name} {what}", times::utc(event.at_unix_ms), event.sandbox))
}
