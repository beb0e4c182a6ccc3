//! `hearth pause`, `resume`, `stop`, `start`, `fork`.

use std::time::Duration;

use hearth_client::api::{ForkSandbox, StartSandbox, StopSandbox};
use serde_json::{Value, json};

use super::sandbox::{existing, idle, secrets, whole_seconds};
use crate::arguments::{ForkOptions, PauseOptions, StartOptions, StopOptions};
use crate::failure::{Failure, OWN};
use crate::output;
use crate::values::Label;

/// Puts sandboxes on disk, all that can be, and returns 125 if any could not.
pub(crate) async fn pause(options: PauseOptions) -> Result<i32, Failure> {
    each(&options.sandboxes, options.json, async |client, sandbox| {
        let paused = client.pause(sandbox).await?;
        let took = Duration::from_micros(paused.took_us);
        let saved = output::bytes(paused.sandbox.saved_bytes.unwrap_or(0));
        let note = format!(": {saved} on disk, in {} ms", took.as_millis());
        Ok((json!(paused.sandbox), note))
    })
    .await
}

/// Lets paused sandboxes go on, all that can, and returns 125 if any could not.
pub(crate) async fn resume(options: PauseOptions) -> Result<i32, Failure> {
    each(&options.sandboxes, options.json, async |client, sandbox| {
        Ok((json!(client.resume(sandbox).await?), String::new()))
    })
    .await
}

/// Stops sandboxes, all that can be, and returns 125 if any could not. Tells what is lost by that.
pub(crate) async fn stop(options: StopOptions) -> Result<i32, Failure> {
    let request = StopSandbox { timeout_seconds: Some(options.timeout) };
    each(&options.sandboxes, options.json, async |client, sandbox| {
        let stopped = client.stop_sandbox(sandbox, &request).await?;
        let mut lost = Vec::new();
        if let Some(why) = &stopped.unclean {
            lost.push(format!("what was not on its disk yet is lost: {}", output::plain(why)));
        }
        if !stopped.lost_secrets.is_empty() {
            lost.push(format!("its secrets are gone: {}", output::plain(&stopped.lost_secrets.join(", "))));
        }
        let note = if lost.is_empty() { String::new() } else { format!(": {}", lost.join("; ")) };
        let mut value = json!(stopped.sandbox);
        value["unclean"] = json!(stopped.unclean);
        value["lost_secrets"] = json!(stopped.lost_secrets);
        Ok((value, note))
    })
    .await
}

/// Boots stopped sandboxes, all that can be, and returns 125 if any could not.
pub(crate) async fn start(options: StartOptions) -> Result<i32, Failure> {
    let request = StartSandbox { secrets: secrets(&options.secret)? };
    each(&options.sandboxes, options.json, async |client, sandbox| {
        Ok((json!(client.start_sandbox(sandbox, &request).await?), String::new()))
    })
    .await
}

/// Changes one after another. What comes of each is a value for JSON, and a note behind its name for people.
async fn each(
    sandboxes: &[String],
    json: bool,
    change: impl AsyncFn(&hearth_client::Client, &str) -> Result<(Value, String), Failure>,
) -> Result<i32, Failure> {
    let client = existing(&sandboxes[0]).await?;
    let (mut changed, mut code) = (Vec::new(), 0);
    for sandbox in sandboxes {
        match change(&client, sandbox).await {
            Ok((value, _)) if json => changed.push(value),
            Ok((_, note)) => output::print(&format!("{sandbox}{note}"))?,
            Err(failure) if sandboxes.len() == 1 => return Err(failure),
            Err(failure) => {
                failure.report(false);
                code = OWN;
            }
        }
    }
    if json {
        output::print_json(&json!({ "sandboxes": changed }))?;
    }
    Ok(code)
}

/// Copies a sandbox, and prints the copies' ids. One that is interrupted leaves none: the daemon sees the connection end.
pub(crate) async fn fork(options: ForkOptions) -> Result<i32, Failure> {
    let labels = options.label.into_iter().map(|Label { key, value }| (key, value));
    let request = ForkSandbox {
        copies: Some(options.copies),
        name: options.name,
        labels: (labels.len() > 0).then(|| labels.collect()),
        ttl_seconds: options.ttl.map(whole_seconds).transpose()?,
        idle: options.idle.map(idle).transpose()?.flatten(),
        secrets: options.keep_secrets,
    };
    let forked = existing(&options.sandbox).await?.fork(&options.sandbox, &request).await?;
    if options.json {
        output::print_json(&forked)?;
    } else {
        forked.sandboxes.iter().try_for_each(|copy| output::print(&copy.id))?;
    }
    Ok(0)
}
