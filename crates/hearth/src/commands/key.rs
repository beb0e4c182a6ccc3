//! `hearth key`: the keys by which the daemon knows who comes over TCP. They are files of this home, so no daemon is needed.

use hearth_engine::chain;
use hearth_server::{KeyError, KeyInfo, Keys};
use serde_json::{Value, json};

use crate::arguments::KeyCommand;
use crate::failure::Failure;
use crate::{home, output, times};

/// Runs a key command.
pub(crate) fn run(command: KeyCommand) -> Result<i32, Failure> {
    let keys = Keys::below(home::local_directories()?.home());
    match command {
        KeyCommand::Create { name, json } => create(&keys, &name, json)?,
        KeyCommand::Ls { json } => list(&keys.list()?, json)?,
        KeyCommand::Rm { names, .. } => remove(&keys, &names)?,
    }
    Ok(0)
}

fn create(keys: &Keys, name: &str, json: bool) -> Result<(), Failure> {
    let key = keys.create(name)?;
    if json {
        return output::print_json(&json!({ "name": name, "key": key }));
    }
    output::print(&key)?;
    output::say("hearth: this is shown once; clients take it from HEARTH_API_KEY");
    Ok(())
}

fn list(keys: &[KeyInfo], json: bool) -> Result<(), Failure> {
    if json {
        return output::print_json(&keys.iter().map(describe).collect::<Vec<_>>());
    }
    let row = |key: &KeyInfo| vec![output::plain(&key.name), times::distance(unix_ms(key))];
    output::print_table(&["KEY", "MADE"], &keys.iter().map(row).collect::<Vec<_>>())
}

fn remove(keys: &Keys, names: &[String]) -> Result<(), Failure> {
    let known = keys.list()?;
    // All that are not there are found before the first is removed.
    if let Some(name) = names.iter().find(|name| known.iter().all(|key| key.name != **name)) {
        return Err(KeyError::Unknown { name: name.clone() }.into());
    }
    Ok(names.iter().try_for_each(|name| keys.remove(name))?)
}

fn describe(key: &KeyInfo) -> Value {
    json!({ "name": key.name, "created_unix_ms": unix_ms(key) })
}

fn unix_ms(key: &KeyInfo) -> u64 {
    let since = key.created.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Host { .. } => Self::host(chain(&error)),
            _ => Self::invalid(chain(&error)),
        }
    }
}
