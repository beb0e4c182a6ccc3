//! `hearth create`, `ls`, `inspect`, `update`, `rm`, `logs`.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStringExt;

use hearth_client::api::protocol::secrets::Secret;
use hearth_client::api::services::PublishPort;
use hearth_client::api::{
    Accelerator, ChangeSandbox, Code, CreateSandbox, Idle, ListSandboxes, OwnCode, SandboxInfo, SandboxState, StartFrom,
};
use hearth_client::{Client, ClientError};
use serde_json::json;

use super::image;
use super::transfer::Seed;
use crate::arguments::{Accel, CreateOptions, ListOptions, RemoveOptions, UpdateOptions};
use crate::failure::{Failure, OWN};
use crate::signals::{Signals, Told};
use crate::values::{EnvVar, Label, Seconds, SecretSource};
use crate::{daemon, output, times, values};

/// Makes a sandbox, and prints its id. One that is interrupted leaves nothing: the daemon sees the connection end.
pub(crate) async fn create(options: CreateOptions) -> Result<i32, Failure> {
    let json = options.json;
    let seed = options.seed.as_deref().map(|path| Seed::find(path, options.tracked)).transpose()?;
    let request = request(options)?;
    let client = daemon::client().await?;
    let mut signals = Signals::new().map_err(Failure::runtime)?;
    let info = tokio::select! {
        created = create_seeded(&client, &request, seed) => created?,
        code = to_end(&mut signals) => return Ok(code),
    };
    tell_of_creation(&info, json);
    if json {
        output::print_json(&info)?
    } else {
        output::print(&info.id)?
    }
    Ok(0)
}

/// Makes a sandbox. While it is seeded it is provisional: one that is half done is not kept.
async fn create_seeded(client: &Client, request: &CreateSandbox, seed: Option<Seed>) -> Result<SandboxInfo, Failure> {
    let Some(seed) = seed else { return Ok(client.create(request).await?) };
    let provisional = client.create_provisional(request).await?;
    seed.plant(client, &provisional.info.id).await?;
    Ok(provisional.keep().await?)
}

/// Says what a person should know of a new sandbox. A report in JSON has it in it.
fn tell_of_creation(info: &SandboxInfo, json: bool) {
    let accelerator = info.accelerator.as_deref().unwrap_or("another way");
    for failed in &info.failed_before {
        output::say(&format!("hearth: {}; using {accelerator} from now on", output::plain(failed)));
    }
    if let Some(warning) = info.jail_warning.as_ref().filter(|_| !json) {
        output::say(&format!("hearth: warning: {}", output::plain(warning)));
    }
}

async fn to_end(signals: &mut Signals) -> i32 {
    loop {
        match signals.told().await {
            Told::Interrupt => return 130,
            Told::End(code) => return code,
            Told::Resized => {}
        }
    }
}

fn request(options: CreateOptions) -> Result<CreateSandbox, Failure> {
    // A snapshot has its own, and the defaults here are none of it.
    let is_new = options.snapshot.is_none();
    Ok(CreateSandbox {
        name: options.name,
        image: is_new.then_some(options.image),
        cpus: is_new.then_some(options.cpus),
        memory_mib: is_new.then_some(options.memory.0),
        snapshot: options.snapshot,
        disk_mib: options.disk.map(|disk| disk.0),
        accelerator: accelerator(options.accel),
        start: if options.boot { StartFrom::Boot } else { StartFrom::Template },
        env: options.env.iter().filter_map(EnvVar::get).map(|(name, value)| (name, value.into())).collect(),
        secrets: secrets(&options.secret)?,
        ports: options.publish.into_iter().map(port).collect(),
        labels: options.label.into_iter().map(|Label { key, value }| (key, value)).collect(),
        ttl_seconds: options.ttl.map(whole_seconds).transpose()?,
        idle: options.idle.map(idle).transpose()?.flatten(),
        ..CreateSandbox::default()
    })
}

fn port(port: values::Publish) -> PublishPort {
    PublishPort { listen: port.listen, guest_port: port.guest_port, guest_host: None, service: None }
}

/// Reads the values of secrets.
pub(super) fn secrets(sources: &[SecretSource]) -> Result<Vec<Secret>, Failure> {
    sources.iter().map(secret).collect()
}

/// Reads a secret's value. A file's last newline belongs to the file, not to the value.
fn secret(source: &SecretSource) -> Result<Secret, Failure> {
    let SecretSource { name, file } = source;
    let value = match file {
        Some(path) => {
            let read = std::fs::read(path);
            let mut value = read.map_err(|error| Failure::host(format!("cannot read {}: {error}", path.display())))?;
            value.pop_if(|byte| *byte == b'\n');
            value
        }
        None => {
            let value = std::env::var_os(name).map(OsStringExt::into_vec);
            value.ok_or_else(|| {
                Failure::invalid(format!("the variable {name:?}, whose value is to be a secret, is not set"))
            })?
        }
    };
    Ok(Secret { name: name.clone(), value: value.into(), file: true })
}

pub(super) fn accelerator(accel: Accel) -> Accelerator {
    match accel {
        Accel::Auto => Accelerator::Auto,
        Accel::Kvm => Accelerator::Kvm,
        Accel::Tcg => Accelerator::Tcg,
    }
}

pub(super) fn whole_seconds(time: Seconds) -> Result<u64, Failure> {
    match time.0.as_secs() {
        0 => Err(Failure::invalid("this time is at least 1 s".to_owned())),
        seconds => Ok(seconds),
    }
}

pub(super) fn idle(idle: values::Idle) -> Result<Option<Idle>, Failure> {
    let policy = idle.0.map(|(action, time)| Ok(Idle { action, after_seconds: whole_seconds(time)? }));
    policy.transpose()
}

/// Lists sandboxes. Where no daemon runs and none was left there are none.
pub(crate) async fn list(options: ListOptions) -> Result<i32, Failure> {
    let joined = |parts: Vec<String>| (!parts.is_empty()).then(|| parts.join(","));
    let query = ListSandboxes { name: options.name, label: joined(options.label), state: joined(options.state) };
    let sandboxes = match daemon::holding_client().await? {
        Some(client) => client.list(&query).await?.sandboxes,
        None => Vec::new(),
    };
    if options.json {
        output::print_json(&sandboxes)?;
    } else if options.quiet {
        sandboxes.iter().try_for_each(|info| output::print(&info.id))?;
    } else {
        let rows: Vec<Vec<String>> = sandboxes.iter().map(row).collect();
        output::print_table(&["ID", "NAME", "STATE", "IMAGE", "CPUS", "MEMORY", "AGE", "EXPIRES"], &rows)?;
    }
    Ok(0)
}

fn row(info: &SandboxInfo) -> Vec<String> {
    vec![
        info.id.clone(),
        info.name.clone().unwrap_or_else(|| "-".to_owned()),
        state(info.state),
        output::plain(image::named(&info.image)),
        info.cpus.to_string(),
        output::mebibytes(info.memory_mib),
        times::distance(info.created_unix_ms),
        info.expires_unix_ms.map_or_else(|| "-".to_owned(), |at| format!("in {}", times::distance(at))),
    ]
}

/// The word for a state, as it is in JSON.
pub(crate) fn state(state: SandboxState) -> String {
    json!(state).as_str().unwrap_or("unknown").to_owned()
}

/// Shows a sandbox.
pub(crate) async fn inspect(sandbox: &str) -> Result<i32, Failure> {
    output::print_json(&existing(sandbox).await?.inspect(sandbox).await?)?;
    Ok(0)
}

/// A client for something that must be there already: no daemon is started where there can be nothing.
pub(crate) async fn existing(sandbox: &str) -> Result<Client, Failure> {
    daemon::holding_client().await?.ok_or_else(|| {
        let message = format!("there is no sandbox {sandbox:?}: no daemon runs");
        let body = hearth_client::api::ErrorBody::new(OwnCode::UnknownSandbox, message);
        body.with_hint(Some("hearth create makes one".to_owned())).into()
    })
}

/// Changes a sandbox.
pub(crate) async fn update(options: UpdateOptions) -> Result<i32, Failure> {
    let client = existing(&options.sandbox).await?;
    let labels = match options.label.is_empty() && options.remove_label.is_empty() {
        true => None,
        false => {
            let there = client.inspect(&options.sandbox).await?.labels;
            Some(changed_labels(there, options.label, &options.remove_label))
        }
    };
    let changes = ChangeSandbox {
        name: options.name.map(|name| (!name.is_empty()).then_some(name)),
        labels,
        ttl_seconds: options.ttl.map(|ttl| ttl.0.map(whole_seconds).transpose()).transpose()?,
        idle: options.idle.map(idle).transpose()?,
        lifespan: None,
    };
    let info = client.change(&options.sandbox, &changes).await?;
    if options.json {
        output::print_json(&info)?;
    }
    Ok(0)
}

fn changed_labels(
    mut labels: BTreeMap<String, String>,
    set: Vec<Label>,
    removed: &[String],
) -> BTreeMap<String, String> {
    labels.retain(|key, _| !removed.contains(key));
    labels.extend(set.into_iter().map(|Label { key, value }| (key, value)));
    labels
}

/// Removes sandboxes, all that can be, and returns 125 if any could not.
pub(crate) async fn remove(options: RemoveOptions) -> Result<i32, Failure> {
    let Some(client) = daemon::holding_client().await? else {
        return match options.sandboxes.first().filter(|_| !options.force) {
            Some(sandbox) => Err(existing(sandbox)
                .await
                .err()
                .unwrap_or_else(|| Failure::host("a daemon was started meanwhile; try again".to_owned()))),
            None => print_removed(options.json, &[]),
        };
    };
    let sandboxes = match options.all {
        true => client.list(&ListSandboxes::default()).await?.sandboxes.into_iter().map(|info| info.id).collect(),
        false => options.sandboxes,
    };
    let (mut removed, mut code) = (Vec::new(), 0);
    for sandbox in &sandboxes {
        match client.remove(sandbox).await {
            Ok(()) => removed.push(sandbox.as_str()),
            Err(error) if (options.force || options.all) && is_gone(&error) => {}
            Err(error) => {
                Failure::from(error).report(false);
                code = OWN;
            }
        }
    }
    print_removed(options.json, &removed)?;
    Ok(code)
}

fn is_gone(error: &ClientError) -> bool {
    let ClientError::Refused { body } = error else { return false };
    matches!(body.code, Code::Own(OwnCode::UnknownSandbox | OwnCode::SandboxRemoved))
}

fn print_removed(json: bool, removed: &[&str]) -> Result<i32, Failure> {
    match json {
        true => output::print_json(&json!({ "removed": removed }))?,
        false => removed.iter().try_for_each(|sandbox| output::print(sandbox))?,
    }
    Ok(0)
}

/// Shows the end of a sandbox's console.
pub(crate) async fn logs(sandbox: &str, json: bool) -> Result<i32, Failure> {
    let console = existing(sandbox).await?.logs(sandbox).await?;
    match json {
        true => output::print_json(&json!({ "console": console }))?,
        false => output::print(console.trim_end_matches('\n'))?,
    }
    Ok(0)
}
