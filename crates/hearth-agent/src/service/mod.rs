//! Services: processes with a name, a readiness, a policy and a log.
//!
//! They belong to the agent: a host that comes back finds them as they are. What is asked is done here; [`run`] attends to one service.

mod log;
mod policy;
mod probe;
mod run;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use hearth_protocol::service::{LogPositions, ServiceLogs, ServiceRequest, ServiceResult, ServiceStart};
use hearth_protocol::{ErrorCode, Fault, Finished, StreamName, encode_line, limits};

use crate::agent::Agent;
use crate::session::operation::{Outlet, Streams};
use log::Log;
use run::Service;

/// All services of an agent, by name.
#[derive(Default)]
pub(crate) struct Services {
    all: RefCell<BTreeMap<String, Rc<Service>>>,
}

/// Does what is asked.
pub(crate) async fn run(agent: Rc<Agent>, request: ServiceRequest, streams: Streams) -> Result<Finished, Fault> {
    let services = &agent.services;
    let described = |service: &Service| ServiceResult::Service(Box::new(service.info()));
    let result = match request {
        ServiceRequest::Start(start) => {
            let service = services.start(&agent, *start)?;
            service.wait_until_decided().await;
            described(&service)
        }
        ServiceRequest::Status { name } => described(&*services.get(&name)?),
        ServiceRequest::List {} => {
            services.list(&streams.output).await;
            ServiceResult::Done {}
        }
        ServiceRequest::Logs(logs) => send_logs(&*services.get(&logs.name)?, &logs, &streams.output).await,
        ServiceRequest::Stop { name, grace_ms } => {
            let service = services.get(&name)?;
            service.stop(grace_ms.map(Duration::from_millis)).await;
            described(&service)
        }
        ServiceRequest::Restart { name } => {
            let service = services.restart(&name).await?;
            service.wait_until_decided().await;
            described(&service)
        }
        ServiceRequest::Remove { name } => {
            let service = services.get(&name)?;
            service.stop(None).await;
            services.forget(&name, &service);
            ServiceResult::Done {}
        }
    };
    Ok(Finished::Service(result))
}

impl Services {
    fn start(&self, agent: &Agent, start: ServiceStart) -> Result<Rc<Service>, Fault> {
        let name = start.name.clone();
        let refuse = |code, message| Err(Fault::never_started(code, message));
        match self.all.borrow().get(&name) {
            Some(service) if !service.is_over() => {
                return refuse(ErrorCode::AlreadyExists, format!("service {name:?} is already running"));
            }
            None if self.all.borrow().len() >= limits::SERVICES => {
                return refuse(ErrorCode::Busy, format!("there are {} services; remove one", limits::SERVICES));
            }
            _ => {}
        }
        let service = Service::start(start, &agent.processes)?;
        self.all.borrow_mut().insert(name, Rc::clone(&service));
        Ok(service)
    }

    fn get(&self, name: &str) -> Result<Rc<Service>, Fault> {
        let found = self.all.borrow().get(name).cloned();
        found.ok_or_else(|| Fault::never_started(ErrorCode::UnknownName, format!("there is no service {name:?}")))
    }

    /// Stops a service as often as others start it meanwhile, and starts it.
    async fn restart(&self, name: &str) -> Result<Rc<Service>, Fault> {
        loop {
            // Looked up anew each time: it may have been removed.
            let service = self.get(name)?;
            if service.is_over() {
                service.start_again()?;
                return Ok(service);
            }
            service.stop(None).await;
        }
    }

    fn forget(&self, name: &str, service: &Rc<Service>) {
        let mut all = self.all.borrow_mut();
        // Another may bear the name by now, or it may run again.
        if all.get(name).is_some_and(|found| Rc::ptr_eq(found, service) && found.is_over()) {
            all.remove(name);
        }
    }

    async fn list(&self, output: &Outlet) {
        let all: Vec<_> = self.all.borrow().values().cloned().collect();
        for service in all {
            let mut line = Vec::new();
            if encode_line(&service.info(), &mut line).is_ok() {
                output.send(StreamName::Data, line.into()).await;
            }
        }
    }
}

async fn send_logs(service: &Service, logs: &ServiceLogs, output: &Outlet) -> ServiceResult {
    let since = logs.since.unwrap_or_default();
    let send = |log, stream, since| async move {
        let from = logs.tail_lines.map_or(since, |lines| Log::tail(log, lines));
        send_log(service, (log, stream), from, logs.follow, output).await
    };
    let (stdout, stderr) = tokio::join!(
        send(&service.stdout, StreamName::Stdout, since.stdout),
        send(&service.stderr, StreamName::Stderr, since.stderr),
    );
    ServiceResult::Logs {
        next: LogPositions { stdout: stdout.0, stderr: stderr.0 },
        dropped: LogPositions { stdout: stdout.1, stderr: stderr.1 },
    }
}

/// Sends what there is from a position on, and, to follow, what comes until the service has ended. Returns where it stands then, and how many
/// bytes were no longer there.
async fn send_log(
    service: &Service,
    (log, stream): (&Log, StreamName),
    from: u64,
    follow: bool,
    output: &Outlet,
) -> (u64, u64) {
    let (mut position, mut dropped) = (from, 0);
    // What comes meanwhile is no part of what was asked for, unless it is followed.
    let end = if follow { u64::MAX } else { log.end() };
    while position < end {
        let current = log.current();
        let (changed, more) = (service.changed.notified(), async {
            match &current {
                Some(current) => current.changed.notified().await,
                None => std::future::pending().await,
            }
        });
        match log.read(position) {
            Some((at, bytes)) => {
                dropped += at - position;
                position = at + bytes.len() as u64;
                output.send(stream, bytes).await;
            }
            None if service.is_final() || !follow => break,
            None => tokio::select! { () = changed => {}, () = more => {} },
        }
    }
    (position, dropped)
}
