//! `hearth top`: what sandboxes cost this machine, as it changes.

use std::collections::BTreeMap;
use std::time::Duration;

use hearth_client::Client;
use hearth_client::api::usage::{HostUsage, SandboxUsage, UsageList};
use serde_json::{Value, json};

use super::sandbox::state;
use crate::arguments::TopOptions;
use crate::failure::Failure;
use crate::signals::Signals;
use crate::{daemon, output, terminal, times};

/// What begins a picture anew: the cursor at the top, and nothing behind it.
const CLEAR: &str = "\x1b[H\x1b[J";
/// The time between the two looks of a single picture: processor time is counted in hundredths of a second.
const LOOK: Duration = Duration::from_millis(500);

/// Shows what is used: again and again, or once.
pub(crate) async fn run(options: TopOptions) -> Result<i32, Failure> {
    let mut signals = Signals::new().map_err(Failure::runtime)?;
    tokio::select! {
        shown = show(&options) => shown,
        code = signals.first() => Ok(code),
    }
}

async fn show(options: &TopOptions) -> Result<i32, Failure> {
    let Some(client) = daemon::running_client().await? else {
        tell(options, &Picture::default())?;
        return Ok(0);
    };
    let mut before = client.usage().await?;
    loop {
        tokio::time::sleep(if options.once { LOOK } else { options.interval.0 }).await;
        let (picture, now) = look(&client, &before).await?;
        tell(options, &picture)?;
        if options.once {
            return Ok(0);
        }
        before = now;
    }
}

/// What is shown at a time.
#[derive(Default)]
struct Picture {
    host: Option<HostUsage>,
    /// Each sandbox, with the part of a processor that it used: 1 is all of one. The busiest first.
    sandboxes: Vec<(SandboxUsage, Option<f64>)>,
}

async fn look(client: &Client, before: &UsageList) -> Result<(Picture, UsageList), Failure> {
    let now = client.usage().await?;
    let mut sandboxes = shares(before, &now);
    // What has no machine uses less than what idles.
    sandboxes.sort_by(|(_, one), (_, other)| other.unwrap_or(-1.0).total_cmp(&one.unwrap_or(-1.0)));
    Ok((Picture { host: Some(now.host), sandboxes }, now))
}

fn shares(before: &UsageList, now: &UsageList) -> Vec<(SandboxUsage, Option<f64>)> {
    let earlier: BTreeMap<&str, u64> =
        before.sandboxes.iter().filter_map(|one| Some((one.id.as_str(), one.machine?.cpu_us))).collect();
    let passed = now.at_us.saturating_sub(before.at_us).max(1) as f64;
    let share = |one: &SandboxUsage| {
        let used = one.machine?.cpu_us;
        // A machine that is new, or another than before, has used all of it since.
        let since =
            earlier.get(one.id.as_str()).filter(|earlier| **earlier <= used).map_or(used, |earlier| used - earlier);
        Some(since as f64 / passed)
    };
    now.sandboxes.iter().map(|one| (one.clone(), share(one))).collect()
}

fn tell(options: &TopOptions, picture: &Picture) -> Result<(), Failure> {
    match (options.json, options.once) {
        (true, true) => return output::print_json(&report(picture)),
        // A line each time.
        (true, false) => return output::print(&report(picture).to_string()),
        (false, false) if terminal::shows_output() => output::print(&format!("{CLEAR}{}", summary(picture)))?,
        _ => {}
    }
    let rows: Vec<Vec<String>> = picture.sandboxes.iter().map(row).collect();
    output::print_table(&["ID", "NAME", "STATE", "CPU", "MEMORY", "OWN", "SIZE", "CPUS", "AGE"], &rows)
}

fn report(picture: &Picture) -> Value {
    let each = picture.sandboxes.iter().map(|(one, share)| {
        let mut value = json!(one);
        value["cpu_percent"] = json!(share.map(|share| (share * 1000.0).round() / 10.0));
        value
    });
    json!({ "host": picture.host, "sandboxes": each.collect::<Vec<_>>() })
}

fn summary(picture: &Picture) -> String {
    let used: f64 = picture.sandboxes.iter().filter_map(|(_, share)| *share).sum();
    let host = picture.host.as_ref().map(|host| {
        let free = host.available_bytes.map_or_else(String::new, |free| format!(", {} available", output::bytes(free)));
        format!(" of {}%{free}", host.cpus * 100)
    });
    format!("{} sandboxes, {}{}", picture.sandboxes.len(), percent(used), host.unwrap_or_default())
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

fn row((one, share): &(SandboxUsage, Option<f64>)) -> Vec<String> {
    let bytes = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), output::bytes);
    vec![
        one.id.clone(),
        one.name.clone().unwrap_or_else(|| "-".to_owned()),
        state(one.state),
        share.map_or_else(|| "-".to_owned(), percent),
        bytes(one.machine.map(|machine| machine.memory_bytes)),
        bytes(one.machine.map(|machine| machine.own_bytes)),
        output::mebibytes(one.memory_mib),
        one.cpus.to_string(),
        times::distance(one.created_unix_ms),
    ]
}

#[cfg(test)]
mod tests {
    use hearth_client::api::SandboxState;
    use hearth_client::api::usage::MachineUsage;

    use super::*;

    fn list(at_us: u64, machines: &[(&str, Option<u64>)]) -> UsageList {
        let sandbox = |(id, cpu_us): &(&str, Option<u64>)| SandboxUsage {
            id: (*id).to_owned(),
            name: None,
            state: SandboxState::Running,
            created_unix_ms: 0,
            cpus: 1,
            memory_mib: 512,
            machine: cpu_us.map(|cpu_us| MachineUsage { cpu_us, memory_bytes: 0, own_bytes: 0 }),
        };
        let host = HostUsage { cpus: 2, memory_bytes: None, available_bytes: None };
        UsageList { at_us, host, sandboxes: machines.iter().map(sandbox).collect() }
    }

    #[test]
    fn a_share_is_of_the_time_between_two_looks() {
        let before = list(1_000_000, &[("a", Some(500_000)), ("b", Some(900_000)), ("c", None)]);
        let now = list(3_000_000, &[("a", Some(1_500_000)), ("b", Some(200_000)), ("c", None), ("d", Some(2_000_000))]);
        let found: Vec<Option<f64>> = shares(&before, &now).into_iter().map(|(_, share)| share).collect();
        assert_eq!(found, [Some(0.5), Some(0.1), None, Some(1.0)]);
    }
}
