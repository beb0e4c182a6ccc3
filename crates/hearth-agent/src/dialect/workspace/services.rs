//! Services: the actions of those that have `_service` in their names.
//!
//! A service of this dialect is one of the agent's; what its client said in words of its own is remembered here, to be said again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use hearth_protocol::service::{
    LogPositions, Readiness, ServiceInfo, ServiceLogs, ServiceRequest, ServiceResult, ServiceStart, ServiceState,
};
use hearth_protocol::{Command, ErrorCode, Fault, Finished, ProcessId, StreamName, limits};

use super::connection::Connection;
use super::exec::{exit_code, login_shell};
use super::path::WorkspacePath;
use super::reply::{Object, write_json};
use super::request::{Request, Value, find};
use super::texts::{Refusal, repr};
use super::{files, hide_secrets};
use crate::agent::Agent;
use crate::session::operation::Streams;

/// The services whose words are remembered: more than there can be.
const REMEMBERED: usize = 4 * limits::SERVICES;

/// How the services were asked for that this dialect's clients have started.
#[derive(Default)]
pub(super) struct Services {
    asked: RefCell<BTreeMap<String, Asked>>,
}

/// What a client said.
#[derive(Clone)]
struct Asked {
    process: ProcessId,
    words: Words,
}

/// The fields that come back as they were said.
#[derive(Clone)]
struct Words {
    command: Vec<u8>,
    cwd: Vec<u8>,
    /// JSON.
    readiness: Vec<u8>,
}

impl Services {
    fn remember(&self, name: String, asked: Asked) {
        let mut all = self.asked.borrow_mut();
        all.insert(name, asked);
        // Of services that were removed by others nothing is heard here.
        if all.len() > REMEMBERED {
            all.pop_first();
        }
    }

    /// The fields that every reply about a service has.
    fn describe(&self, agent: &Agent, info: &ServiceInfo) -> Object {
        let asked = self.asked.borrow().get(&info.name).filter(|asked| asked.process == info.process).cloned();
        let words = asked.map_or_else(|| Words::of(info), |asked| asked.words);
        let state = match info.state {
            ServiceState::Starting | ServiceState::Running | ServiceState::Restarting => "running",
            ServiceState::Exited => "exited",
            ServiceState::Stopped => "stopped",
            ServiceState::Failed => "failed",
        };
        let seconds = |ms: u64| ms as f64 / 1000.0;
        Object::default()
            .field("service_name", &info.name)
            .name_field("command", &hide_secrets(agent, words.command))
            .name_field("cwd", &words.cwd)
            .field("state", state)
            .field("started_at", seconds(info.started_unix_ms))
            .raw_field("readiness", &hide_secrets(agent, words.readiness))
            .field("ready_at", info.ready_unix_ms.map(seconds))
            .field("ended_at", info.ended_unix_ms.map(seconds))
            .field("exit_code", info.exit.as_ref().map(exit_code))
            .field("pid", info.pid)
            .field("stop_reason", info.reason)
    }
}

impl Words {
    /// The words for a service that somebody else has started.
    fn of(info: &ServiceInfo) -> Self {
        let command = match &info.command {
            Command::Shell(text) => text.as_bytes().to_vec(),
            Command::Argv(argv) => argv.iter().map(|word| word.as_bytes()).collect::<Vec<_>>().join(b" ".as_slice()),
        };
        let cwd = info.cwd.as_ref().map(|cwd| cwd.as_bytes().to_vec()).unwrap_or_default();
        let mut readiness = Vec::new();
        write_json(&mut readiness, &info.readiness);
        Self { command, cwd, readiness }
    }
}

/// Does something with a service, as the agent's own protocol would ask for it. Returns what it has sent as well.
async fn ask(agent: &Rc<Agent>, request: ServiceRequest) -> Result<(ServiceResult, [Vec<u8>; 2]), Fault> {
    let (streams, _input, mut pieces) = Streams::local();
    let mut sent = [Vec::new(), Vec::new()];
    let collect = async {
        while let Some((stream, bytes)) = pieces.recv().await {
            sent[usize::from(stream == StreamName::Stderr)].extend_from_slice(&bytes);
        }
    };
    match tokio::join!(crate::service::run(Rc::clone(agent), request, streams), collect).0? {
        Finished::Service(result) => Ok((result, sent)),
        _ => Err(Fault::failed(ErrorCode::Internal, "a request about a service had another result")),
    }
}

/// As [`ask`], for what is answered with the service as it is.
async fn ask_for_service(agent: &Rc<Agent>, name: &str, request: ServiceRequest) -> Result<ServiceInfo, Refusal> {
    match ask(agent, request).await {
        Ok((ServiceResult::Service(info), _)) => Ok(*info),
        Ok(_) => Err("a service was not described".into()),
        Err(fault) => Err(refusal(name, &fault)),
    }
}

/// What this dialect says to the core's refusal.
fn refusal(name: &str, fault: &Fault) -> Refusal {
    match fault.code {
        ErrorCode::UnknownName => format!("service {} does not exist", repr(name)).into(),
        ErrorCode::AlreadyExists => format!("service {} is already running", repr(name)).into(),
        _ => Refusal::of(fault),
    }
}

fn service_name(request: &Request) -> Result<String, Refusal> {
    let name = request.text("service_name", "")?.trim().to_owned();
    let fits =
        |(index, byte): (usize, u8)| byte.is_ascii_alphanumeric() || (index > 0 && matches!(byte, b'.' | b'_' | b'-'));
    match name.as_str() {
        "" => Err("service_name is required".into()),
        _ if name.len() <= limits::SERVICE_NAME && name.bytes().enumerate().all(fits) => Ok(name),
        _ => Err("service_name is invalid".into()),
    }
}

/// `start_service`.
pub(super) async fn start(
    agent: &Rc<Agent>,
    services: &Services,
    request: &Request,
    connection: &mut Connection,
) -> Result<(), Refusal> {
    let name = service_name(request)?;
    let command = request.bytes("command", "")?;
    let path = WorkspacePath::parse(&request.bytes("cwd", "/workspace")?)?;
    let root = files::open(agent)?;
    let mut start = ServiceStart::new(name.clone(), login_shell(command.clone()));
    start.process.cwd = Some(files::directory(&root, &path)?.into());
    start.process.env = request.environment("service")?.into_iter().map(|(name, value)| (name, value.into())).collect();
    start.process.grace_ms = Some(limits::SERVICE_GRACE_MS);
    let mut words = Words { command, cwd: path.text, readiness: b"null".to_vec() };
    // Anything else than an object is no readiness, as if there were none.
    if let Some(value @ Value::Object(fields)) = request.get("readiness") {
        start.readiness = Some(readiness(agent, request, fields)?);
        words.readiness.clear();
        write_json(&mut words.readiness, value);
    }
    start.ready_timeout_ms = Some(milliseconds(request.integer("ready_timeout_seconds", 30)?, 1000));
    start.ready_interval_ms = Some(milliseconds(request.integer("ready_interval_ms", 500)?, 1));
    start.validate().map_err(|fault| Refusal::of(&fault))?;
    let info = ask_for_service(agent, &name, ServiceRequest::Start(Box::new(start))).await?;
    services.remember(name, Asked { process: info.process, words });
    connection.reply(services.describe(agent, &info)).await;
    Ok(())
}

fn milliseconds(number: i64, unit: u64) -> u64 {
    u64::try_from(number).unwrap_or(0).saturating_mul(unit).clamp(1, limits::TIMEOUT_MS)
}

fn readiness(agent: &Agent, request: &Request, fields: &[(String, Value)]) -> Result<Readiness, Refusal> {
    let field = |name: &str| find(fields, name).ok_or_else(|| format!("a readiness needs {}", repr(name)));
    let text = |name: &str| request.text_of(field(name)?);
    Ok(match text("type")?.as_str() {
        "file" => {
            let path = WorkspacePath::parse(&request.bytes_of(field("path")?)?)?;
            Readiness::File { path: files::place(&files::open(agent)?, &path).into() }
        }
        "tcp" => Readiness::Tcp { address: text("address")? },
        "http" => Readiness::Http { url: text("url")? },
        "command" => Readiness::Command { command: login_shell(request.bytes_of(field("command")?)?) },
        kind => return Err(format!("unsupported readiness type: {kind}").into()),
    })
}

/// `status_service`.
pub(super) async fn status(
    agent: &Rc<Agent>,
    services: &Services,
    request: &Request,
    connection: &mut Connection,
) -> Result<(), Refusal> {
    let name = service_name(request)?;
    let info = ask_for_service(agent, &name, ServiceRequest::Status { name: name.clone() }).await?;
    connection.reply(services.describe(agent, &info)).await;
    Ok(())
}

/// `stop_service`.
pub(super) async fn stop(
    agent: &Rc<Agent>,
    services: &Services,
    request: &Request,
    connection: &mut Connection,
) -> Result<(), Refusal> {
    let name = service_name(request)?;
    let info = ask_for_service(agent, &name, ServiceRequest::Stop { name: name.clone(), grace_ms: None }).await?;
    connection.reply(services.describe(agent, &info)).await;
    Ok(())
}

/// `logs_service`.
pub(super) async fn logs(
    agent: &Rc<Agent>,
    services: &Services,
    request: &Request,
    connection: &mut Connection,
) -> Result<(), Refusal> {
    let name = service_name(request)?;
    let tail = request.given("tail_lines").map(|_| request.integer("tail_lines", 0)).transpose()?;
    let info = ask_for_service(agent, &name, ServiceRequest::Status { name: name.clone() }).await?;
    let wanted = ServiceLogs {
        name: name.clone(),
        tail_lines: tail.map(|lines| lines.max(0).unsigned_abs()),
        ..ServiceLogs::default()
    };
    let (result, [stdout, stderr]) =
        ask(agent, ServiceRequest::Logs(wanted)).await.map_err(|fault| refusal(&name, &fault))?;
    let (next, dropped) = match result {
        ServiceResult::Logs { next, dropped } => (next, dropped),
        _ => <(LogPositions, LogPositions)>::default(),
    };
    let is_short = |next: u64, bytes: &[u8]| next > bytes.len() as u64;
    let truncated =
        dropped != LogPositions::default() || is_short(next.stdout, &stdout) || is_short(next.stderr, &stderr);
    let reply = services
        .describe(agent, &info)
        .field("stdout", String::from_utf8_lossy(&stdout))
        .field("stderr", String::from_utf8_lossy(&stderr))
        .field("tail_lines", tail)
        .field("truncated", truncated);
    connection.reply(reply).await;
    Ok(())
}
