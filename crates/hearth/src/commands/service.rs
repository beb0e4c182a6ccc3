//! `hearth service`.

use std::os::unix::ffi::OsStringExt;

use hearth_client::Client;
use hearth_client::api::exec::CommandLine;
use hearth_client::api::protocol::RawString;
use hearth_client::api::protocol::service::{Backoff, RestartPolicy, ServiceInfo, ServiceState};
use hearth_client::api::services::{PublishPort, ReadServiceLog, StartService, StopService};
use serde_json::json;

use super::guest::{command, to_stdout};
use super::sandbox::existing;
use crate::arguments::{ServiceCommand, ServiceOptions, ServiceStartOptions};
use crate::failure::Failure;
use crate::output;
use crate::values::{EnvVar, Ready, Seconds};

/// The exit code of a start whose service has failed.
const FAILED: i32 = 1;

/// Does something with a service.
pub(crate) async fn run(service: ServiceCommand) -> Result<i32, Failure> {
    match service {
        ServiceCommand::Start(options) => start(options).await,
        ServiceCommand::Ls(options) => {
            let services = existing(&options.sandbox).await?.services(&options.sandbox).await?.services;
            match options.json {
                true => output::print_json(&services)?,
                false => {
                    let rows: Vec<Vec<String>> = services.iter().map(row).collect();
                    output::print_table(&["NAME", "STATE", "PID", "RESTARTS", "COMMAND"], &rows)?;
                }
            }
            Ok(0)
        }
        ServiceCommand::Inspect(ServiceOptions { sandbox, name, .. }) => {
            output::print_json(&existing(&sandbox).await?.service(&sandbox, &name).await?)?;
            Ok(0)
        }
        ServiceCommand::Logs { follow, tail, service: ServiceOptions { sandbox, name, .. } } => {
            let log = ReadServiceLog { tail_lines: tail, follow: Some(follow), ..ReadServiceLog::default() };
            to_stdout(existing(&sandbox).await?.service_log(&sandbox, &name, &log).await?).await
        }
        ServiceCommand::Stop { grace, service: ServiceOptions { sandbox, name, json } } => {
            let stop = StopService { grace_ms: grace.map(milliseconds) };
            tell(&existing(&sandbox).await?.stop_service(&sandbox, &name, &stop).await?, json)
        }
        ServiceCommand::Restart(ServiceOptions { sandbox, name, json }) => {
            tell(&existing(&sandbox).await?.restart_service(&sandbox, &name).await?, json)
        }
        ServiceCommand::Rm(ServiceOptions { sandbox, name, .. }) => {
            existing(&sandbox).await?.remove_service(&sandbox, &name).await?;
            Ok(0)
        }
    }
}

fn milliseconds(time: Seconds) -> u64 {
    u64::try_from(time.0.as_millis()).unwrap_or(u64::MAX)
}

fn row(service: &ServiceInfo) -> Vec<String> {
    let restarts = service.restarts.to_string();
    vec![service.name.clone(), state(service), service.pid.to_string(), restarts, command(&service.command)]
}

/// Its state, and why it is in it.
fn state(service: &ServiceInfo) -> String {
    let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    match service.reason {
        Some(reason) => format!("{} ({})", word(json!(service.state)), word(json!(reason))),
        None => word(json!(service.state)),
    }
}

fn tell(service: &ServiceInfo, json: bool) -> Result<i32, Failure> {
    match json {
        true => output::print_json(service)?,
        false => output::print(&format!("{} {}", service.name, state(service)))?,
    }
    Ok(if service.state == ServiceState::Failed { FAILED } else { 0 })
}

/// Starts a service; its ports are published once it is ready.
async fn start(options: ServiceStartOptions) -> Result<i32, Failure> {
    let argv = options.command.into_iter().map(|argument| RawString::from(argument.into_vec())).collect();
    let ServiceOptions { sandbox, name, .. } = options.service;
    let restart = match options.restart_on_failure {
        true => RestartPolicy::OnFailure(Backoff::default()),
        false => RestartPolicy::No,
    };
    let request = StartService {
        cwd: options.workdir.map(|directory| RawString::from(directory.into_vec())),
        env: options.env.iter().filter_map(EnvVar::get).map(|(name, value)| (name, value.into())).collect(),
        user: options.user,
        readiness: options.ready.map(|Ready(readiness)| readiness),
        ready_timeout_ms: options.ready_timeout.map(milliseconds),
        restart,
        ..StartService::new(name, CommandLine::Argv(argv))
    };
    let client = existing(&sandbox).await?;
    let info = client.start_service(&sandbox, &request).await?;
    let ports = match info.state {
        ServiceState::Failed => Vec::new(),
        _ => publish(&client, &sandbox, &info.name, options.publish).await?,
    };
    if options.service.json {
        output::print_json(&json!({ "service": info, "ports": ports }))?;
        return Ok(if info.state == ServiceState::Failed { FAILED } else { 0 });
    }
    let code = tell(&info, false)?;
    ports.iter().try_for_each(|port| output::print(&format!("{} -> {}", port.listen, port.guest_port)))?;
    Ok(code)
}

async fn publish(
    client: &Client,
    sandbox: &str,
    service: &str,
    ports: Vec<crate::values::Publish>,
) -> Result<Vec<PublishPort>, Failure> {
    let mut published = Vec::new();
    for port in ports {
        let service = Some(service.to_owned());
        let port = PublishPort { listen: port.listen, guest_port: port.guest_port, guest_host: None, service };
        published.push(client.publish(sandbox, &port).await?);
    }
    Ok(published)
}
