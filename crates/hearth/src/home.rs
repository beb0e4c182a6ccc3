//! Where Hearth lives on this machine, and how the engine is opened. The only place that reads the environment for it.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::OnceLock;

use hearth_client::{Client, Trust};
use hearth_engine::vmm::Launcher;
use hearth_engine::{Directories, Engine};
use hearth_server::TraceOptions;

use crate::failure::Failure;
use crate::sys;
use crate::values::Memory;

/// The host that was named on the command line.
static HOST: OnceLock<String> = OnceLock::new();

/// Has the daemon of another host used, whatever the environment says.
pub(crate) fn choose_host(host: Option<String>) {
    if let Some(host) = host {
        // There is one command line.
        let _ = HOST.set(host);
    }
}

/// The daemon of another host, where one is named.
pub(crate) fn remote() -> Result<Option<Client>, Failure> {
    let Some(host) = host()? else { return Ok(None) };
    sys::look_up_names_alone();
    let key = text("HEARTH_API_KEY")?;
    let trust = match (text("HEARTH_FINGERPRINT")?, set("HEARTH_CA")) {
        (Some(fingerprint), _) => Trust::Fingerprint(fingerprint),
        (None, Some(path)) => Trust::Authorities(path.into()),
        (None, None) if set("HEARTH_INSECURE").is_some() => Trust::InTheClear,
        (None, None) => Trust::System,
    };
    Ok(Some(Client::remote(&host, key.as_deref(), &trust)?))
}

fn host() -> Result<Option<String>, Failure> {
    HOST.get().map_or_else(|| text("HEARTH_HOST"), |host| Ok(Some(host.clone())))
}

/// A variable that is set, and not to nothing.
fn set(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

fn text(name: &str) -> Result<Option<String>, Failure> {
    let plain = |value: OsString| value.into_string().map_err(|_| Failure::invalid(format!("{name} is no text")));
    set(name).map(plain).transpose()
}

/// Opens the engine on this user's directories.
pub(crate) fn open() -> Result<Engine, Failure> {
    let launcher = Launcher { program: "/proc/self/exe".into(), arguments: vec![crate::JAIL.into()] };
    let qemu = set("HEARTH_QEMU").map(PathBuf::from);
    let engine = Engine::open(local_directories()?, launcher, qemu)?;
    if let Some(space) = template_space()? {
        engine.limit_templates(space);
    }
    Ok(if set("HEARTH_FRESH_QEMU").is_some() { engine.with_fresh_qemu() } else { engine })
}

/// What templates may take on disk, in bytes, as the environment has it.
fn template_space() -> Result<Option<u64>, Failure> {
    let Some(text) = set("HEARTH_TEMPLATE_SPACE") else { return Ok(None) };
    let size = text.to_str().and_then(|text| text.parse::<Memory>().ok());
    let invalid = || Failure::invalid(format!("HEARTH_TEMPLATE_SPACE is {text:?}: must be a size, such as 4G"));
    size.map(|Memory(mib)| Some(u64::from(mib) << 20)).ok_or_else(invalid)
}

/// Whether a QEMU is named that may not be the one of a daemon.
pub(crate) fn names_qemu() -> bool {
    set("HEARTH_QEMU").is_some()
}

/// This user's directories.
pub(crate) fn directories() -> Result<Directories, Failure> {
    Directories::of_user(|name| env::var_os(name)).map_err(|error| Failure::invalid(error.to_string()))
}

/// The same, for what is done here and nowhere else.
///
/// # Errors
/// A [`Failure`] where another host is named.
pub(crate) fn local_directories() -> Result<Directories, Failure> {
    match host()? {
        None => directories(),
        Some(host) => {
            let message = format!("this can be done on this machine only, and {host} was named");
            Err(Failure::invalid(message).with_hint("leave out --host, and unset HEARTH_HOST"))
        }
    }
}

/// How long a daemon that was started by a command stays without anything to do, as the environment has it.
pub(crate) fn daemon_idle() -> Option<OsString> {
    set("HEARTH_DAEMON_IDLE")
}

/// Where traces go, as the environment has it: for traces alone, or for all that OpenTelemetry knows.
pub(crate) fn traces(base: Option<&str>) -> Result<Option<TraceOptions>, Failure> {
    let below = |base: &str| format!("{}/v1/traces", base.trim_end_matches('/'));
    let endpoint = match base {
        Some(base) => Some(below(base)),
        None => match text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")? {
            Some(own) => Some(own),
            None => text("OTEL_EXPORTER_OTLP_ENDPOINT")?.as_deref().map(below),
        },
    };
    if endpoint.is_some() {
        sys::look_up_names_alone();
    }
    let authorities = set("OTEL_EXPORTER_OTLP_CERTIFICATE").map(PathBuf::from);
    Ok(endpoint.map(|endpoint| TraceOptions { endpoint, authorities, service: "hearth".to_owned() }))
}

/// How many machines of a kind a daemon keeps ready, as the environment has it.
pub(crate) fn pool() -> Result<Option<usize>, Failure> {
    let Some(text) = set("HEARTH_POOL") else { return Ok(None) };
    let count = text.to_str().and_then(|text| text.parse().ok());
    let invalid = || Failure::invalid(format!("HEARTH_POOL is {text:?}: must be a number, 0 for no pool"));
    count.map(Some).ok_or_else(invalid)
}
