//! Services of a sandbox, and ports of this host that lead into it.

use std::net::{Ipv4Addr, SocketAddr};

use hearth_client::api::Encoding;
use hearth_client::api::exec::CommandLine;
use hearth_client::api::protocol::service::{Readiness, ServiceInfo, ServiceReason, ServiceState};
use hearth_client::api::services::{PublishPort, ReadServiceLog, StartService, StopService};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::files::all;
use super::process::{End, spoken};
use crate::output::encode;
use crate::refused::Refused;
use crate::schema;
use crate::tool::{Call, Effect, Entry, Profile};

/// The lines of each stream of a log where the call does not say.
const LINES: u64 = 100;
/// The most bytes of a log in a result.
const LOG: u64 = 256 * 1024;

pub(crate) fn tools() -> Vec<Entry> {
    use Effect::{Adds, Changes, Reads};
    use Profile::Full;
    vec![
        Entry::new(
            Full,
            "service_start",
            "Start a program that serves, such as a web server, in a sandbox, and wait until it is ready. A \
            service that has failed is a normal result: its state and reason say so, and service_log says why.",
            Adds,
            start,
        ),
        Entry::new(Full, "service_list", "List the services of a sandbox and where each stands.", Reads, list),
        Entry::new(Full, "service_log", "Read the last lines of what a service of a sandbox has written.", Reads, log),
        Entry::new(Full, "service_stop", "Stop a service of a sandbox and all that it has started.", Changes, stop),
        Entry::new(
            Full,
            "port_publish",
            "Have a port of this computer, on 127.0.0.1, lead to a port in a sandbox.",
            Adds,
            publish,
        ),
        Entry::new(Full, "port_list", "List the ports of this computer that lead into a sandbox.", Reads, ports),
        Entry::new(
            Full,
            "port_close",
            "Close a published port of this computer, with its connections.",
            Changes,
            close,
        ),
    ]
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Start {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// The service's name: letters, digits, `.`, `_` and `-`. One of this name that has ended is replaced.
    #[schemars(length(min = 1, max = 64))]
    name: String,
    /// What to run: a string for /bin/sh -c, or an array of program and arguments.
    #[schemars(schema_with = "schema::command")]
    command: CommandLine,
    /// Working directory; /workspace by default.
    cwd: Option<String>,
    /// It is ready when this TCP port takes a connection. Without it or ready_url, when it has run for a moment.
    #[schemars(range(min = 1, max = 65535))]
    ready_port: Option<u16>,
    /// It is ready when this URL in the sandbox, such as http://localhost:8000/, answers with a status from 200 to 399.
    #[schemars(length(min = 1, max = 1000))]
    ready_url: Option<String>,
    /// How long it may take to become ready, in milliseconds; 60000 by default.
    #[schemars(range(min = 1, max = 600_000))]
    ready_timeout_ms: Option<u64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Which {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Named {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// The service's name.
    #[schemars(length(min = 1, max = 64))]
    name: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReadLog {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// The service's name.
    #[schemars(length(min = 1, max = 64))]
    name: String,
    /// The last so many lines of stdout and of stderr; 100 by default.
    #[schemars(range(max = 10_000))]
    tail_lines: Option<u64>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Log {
    /// What it wrote, at most 256 KiB.
    text: String,
    /// How `text` is to be read.
    #[schemars(schema_with = "schema::encoding")]
    encoding: Encoding,
    /// The bytes behind that, which are left out: ask for fewer lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    omitted_bytes: Option<u64>,
}

/// A service.
#[derive(Debug, Serialize, JsonSchema)]
struct Service {
    /// Its name.
    name: String,
    /// What it runs, shortened.
    command: String,
    /// `starting`, `running`, `restarting`, `exited`, `stopped` or `failed`.
    #[schemars(schema_with = "schema::text")]
    state: ServiceState,
    /// Why it was stopped, or has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::text")]
    reason: Option<ServiceReason>,
    /// Its process, or the last one there was.
    process: u64,
    /// How that has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<End>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Services {
    /// The services, by name.
    services: Vec<Service>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Publish {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// The port in the sandbox.
    #[schemars(range(min = 1, max = 65535))]
    guest_port: u16,
    /// The port of this computer; one that is free by default.
    #[schemars(range(min = 1, max = 65535))]
    port: Option<u16>,
    /// The service that it is for: it is closed when that is stopped.
    #[schemars(length(min = 1, max = 64))]
    service: Option<String>,
}

/// A published port.
#[derive(Debug, Serialize, JsonSchema)]
struct Port {
    /// Where it listens on this computer, such as 127.0.0.1:8080.
    listen: String,
    /// The port in the sandbox.
    guest_port: u16,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Ports {
    /// Each of them.
    ports: Vec<Port>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Close {
    /// Sandbox: an id, a name, or the beginning of an id.
    #[schemars(length(min = 1, max = 128))]
    sandbox: String,
    /// The port of this computer.
    #[schemars(range(min = 1, max = 65535))]
    port: u16,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Closed {
    /// The port of this computer that was closed.
    closed: u16,
}

impl From<ServiceInfo> for Service {
    fn from(info: ServiceInfo) -> Self {
        Self {
            name: info.name,
            command: spoken(&info.command),
            state: info.state,
            reason: info.reason,
            process: info.process.0,
            exit: info.exit.map(|status| End::of(Some(&status))),
        }
    }
}

impl From<PublishPort> for Port {
    fn from(port: PublishPort) -> Self {
        Self { listen: port.listen.to_string(), guest_port: port.guest_port }
    }
}

async fn start(call: Call, asked: Start) -> Result<Service, Refused> {
    let readiness = match (asked.ready_port, asked.ready_url) {
        (Some(_), Some(_)) => return Err(Refused::invalid("ready_url", "ready_port and ready_url exclude each other")),
        (Some(port), None) => Some(Readiness::Tcp { address: format!("localhost:{port}") }),
        (None, url) => url.map(|url| Readiness::Http { url }),
    };
    let start = StartService {
        cwd: asked.cwd.map(|cwd| cwd.into_bytes().into()),
        readiness,
        ready_timeout_ms: asked.ready_timeout_ms,
        ..StartService::new(asked.name, asked.command)
    };
    Ok(call.client.start_service(&asked.sandbox, &start).await?.into())
}

async fn list(call: Call, asked: Which) -> Result<Services, Refused> {
    let services = call.client.services(&asked.sandbox).await?.services;
    Ok(Services { services: services.into_iter().map(Into::into).collect() })
}

async fn log(call: Call, asked: ReadLog) -> Result<Log, Refused> {
    let read = ReadServiceLog { tail_lines: Some(asked.tail_lines.unwrap_or(LINES)), ..ReadServiceLog::default() };
    let (bytes, total) = all(call.client.service_log(&asked.sandbox, &asked.name, &read).await?, LOG).await?;
    let (encoding, text) = encode(&bytes);
    Ok(Log { text, encoding, omitted_bytes: (total > LOG).then(|| total - LOG) })
}

async fn stop(call: Call, asked: Named) -> Result<Service, Refused> {
    Ok(call.client.stop_service(&asked.sandbox, &asked.name, &StopService::default()).await?.into())
}

async fn publish(call: Call, asked: Publish) -> Result<Port, Refused> {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, asked.port.unwrap_or(0)));
    let port = PublishPort { listen, guest_port: asked.guest_port, guest_host: None, service: asked.service };
    Ok(call.client.publish(&asked.sandbox, &port).await?.into())
}

async fn ports(call: Call, asked: Which) -> Result<Ports, Refused> {
    let ports = call.client.ports(&asked.sandbox).await?.ports;
    Ok(Ports { ports: ports.into_iter().map(Into::into).collect() })
}

async fn close(call: Call, asked: Close) -> Result<Closed, Refused> {
    call.client.unpublish(&asked.sandbox, asked.port).await?;
    Ok(Closed { closed: asked.port })
}
