//! `hearth pause`, `resume`, `fork`.

use std::time::Duration;

use hearth_client::api::{ForkSandbox, SandboxInfo};
use serde_json::json;

use super::sandbox::{existing, idle, whole_seconds};
use crate::arguments::{ForkOptions, PauseOptions};
use crate::failure::{Failure, OWN};
use crate::output;
use crate::values::Label;

/// Puts sandboxes on disk, all that can be, and returns 125 if any could not.
pub(crate) async fn pause(options: PauseOptions) -> Result<i32, Failure> {
    each(&options, async |client, sandbox| {
        let paused = client.pause(sandbox).await?;
        let took = Duration::from_micros(paused.took_us);
        let saved = output::bytes(paused.sandbox.saved_bytes.unwrap_or(0));
        Ok((paused.sandbox, format!(": {saved} on disk, in {} ms", took.as_millis())))
    })
    .await
}

/// Lets paused sandboxes go on, all that can, and returns 125 if any could not.
pub(crate) async fn resume(options: PauseOptions) -> Result<i32, Failure> {
    each(&options, async |client, sandbox| Ok((client.resume(sandbox).await?, String::new()))).await
}

async fn each(
    options: &PauseOptions,
    change: impl AsyncFn(&hearth_client::Client, &str) -> Result<(SandboxInfo, String), Failure>,
) -> Result<i32, Failure> {
    let client = existing(&options.sandboxes[0]).await?;
    let (mut changed, mut code) = (Vec::new(), 0);
    for sandbox in &options.sandboxes {
        match change(&client, sandbox).await {
            Ok((info, note)) if options.json => changed.push((info, note)),
            Ok((_, note)) => output::print(&format!("{sandbox}{note}"))?,
            Err(failure) if options.sandboxes.len() == 1 => return Err(failure),
            Err(failure) => {
                failure.report(false);
                code = OWN;
            }
        }
    }
    if options.json {
        let changed: Vec<SandboxInfo> = changed.into_iter().map(|(info, _)| info).collect();
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
