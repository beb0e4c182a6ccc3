//! The messages of the group `service`.

use hearth_protocol::service::{
    Backoff, LogPositions, Readiness, RestartPolicy, ServiceInfo, ServiceLogs, ServiceReason, ServiceRequest,
    ServiceResult, ServiceStart, ServiceState,
};
use hearth_protocol::{Command, Finished, OutputTotals, ProcessId, Reply, ReplyBody, RequestBody, RequestId};

use crate::golden::{check_reply, check_request, status};

pub(crate) fn messages() -> Vec<String> {
    let requests = requests().into_iter().map(|(text, _)| text.to_owned());
    requests.chain(replies().into_iter().map(|(text, _)| text.to_owned())).collect()
}

fn requests() -> Vec<(&'static str, RequestBody)> {
    let name = || "web".to_owned();
    let command = Command::Shell("true".into());
    let backoff = Backoff { first_ms: Some(10), longest_ms: Some(20), max: Some(3) };
    let full = ServiceStart {
        readiness: Some(Readiness::Http { url: "http://127.0.0.1:80/".into() }),
        ready_timeout_ms: Some(1000),
        ready_interval_ms: Some(50),
        restart: RestartPolicy::OnFailure(backoff),
        ..ServiceStart::new("web", command.clone())
    };
    let ready = |readiness| ServiceStart { readiness: Some(readiness), ..ServiceStart::new("web", command.clone()) };
    let always = RestartPolicy::Always(Backoff::default());
    let service = |request| RequestBody::Service(request);
    let start = |start| service(ServiceRequest::Start(Box::new(start)));
    let since = Some(LogPositions { stdout: 7, stderr: 0 });
    vec![
        (
            r#"{"id":9,"type":"service","op":"start","name":"web","process":{"command":{"shell":"true"}},"readiness":{"type":"http","url":"http://127.0.0.1:80/"},"ready_timeout_ms":1000,"ready_interval_ms":50,"restart":{"on_failure":{"first_ms":10,"longest_ms":20,"max":3}}}"#,
            start(full),
        ),
        (
            r#"{"id":9,"type":"service","op":"start","name":"web","process":{"command":{"shell":"true"}},"restart":{"always":{}}}"#,
            start(ServiceStart { restart: always, ..ServiceStart::new("web", command.clone()) }),
        ),
        (
            r#"{"id":9,"type":"service","op":"start","name":"web","process":{"command":{"shell":"true"}},"readiness":{"type":"file","path":"up"}}"#,
            start(ready(Readiness::File { path: "up".into() })),
        ),
        (
            r#"{"id":9,"type":"service","op":"start","name":"web","process":{"command":{"shell":"true"}},"readiness":{"type":"tcp","address":"localhost:80"}}"#,
            start(ready(Readiness::Tcp { address: "localhost:80".into() })),
        ),
        (
            r#"{"id":9,"type":"service","op":"start","name":"web","process":{"command":{"shell":"true"}},"readiness":{"type":"command","command":{"shell":"true"}}}"#,
            start(ready(Readiness::Command { command: command.clone() })),
        ),
        (r#"{"id":9,"type":"service","op":"status","name":"web"}"#, service(ServiceRequest::Status { name: name() })),
        (r#"{"id":9,"type":"service","op":"list"}"#, service(ServiceRequest::List {})),
        (
            r#"{"id":9,"type":"service","op":"logs","name":"web","tail_lines":10,"follow":true}"#,
            service(ServiceRequest::Logs(ServiceLogs {
                name: name(),
                tail_lines: Some(10),
                since: None,
                follow: true,
            })),
        ),
        (
            r#"{"id":9,"type":"service","op":"logs","name":"web","since":{"stdout":7,"stderr":0}}"#,
            service(ServiceRequest::Logs(ServiceLogs { name: name(), since, ..ServiceLogs::default() })),
        ),
        (
            r#"{"id":9,"type":"service","op":"stop","name":"web","grace_ms":100}"#,
            service(ServiceRequest::Stop { name: name(), grace_ms: Some(100) }),
        ),
        (r#"{"id":9,"type":"service","op":"restart","name":"web"}"#, service(ServiceRequest::Restart { name: name() })),
        (r#"{"id":9,"type":"service","op":"remove","name":"web"}"#, service(ServiceRequest::Remove { name: name() })),
    ]
}

fn replies() -> Vec<(&'static str, Reply)> {
    let reply = |result| {
        let body = ReplyBody::Finished { result: Finished::Service(result), output: OutputTotals::default() };
        Reply { id: Some(RequestId(9)), body }
    };
    let running = ServiceInfo {
        name: "web".into(),
        command: Command::Shell("true".into()),
        cwd: None,
        readiness: None,
        state: ServiceState::Running,
        reason: None,
        failure: None,
        process: ProcessId(3),
        pid: 70,
        started_unix_ms: 1,
        ready_unix_ms: Some(2),
        ended_unix_ms: None,
        exit: None,
        restarts: 0,
        log: LogPositions { stdout: 5, stderr: 0 },
    };
    let failed = ServiceInfo {
        cwd: Some("/".into()),
        readiness: Some(Readiness::File { path: "up".into() }),
        state: ServiceState::Failed,
        reason: Some(ServiceReason::ProcessExitedBeforeReady),
        failure: Some("no".into()),
        ready_unix_ms: None,
        ended_unix_ms: Some(3),
        exit: Some(status(Some(7), None)),
        ..running.clone()
    };
    let logs = ServiceResult::Logs {
        next: LogPositions { stdout: 5, stderr: 1 },
        dropped: LogPositions { stdout: 2, stderr: 0 },
    };
    vec![
        (r#"{"id":9,"type":"finished","result":{"service":{"done":{}}}}"#, reply(ServiceResult::Done {})),
        (
            r#"{"id":9,"type":"finished","result":{"service":{"service":{"name":"web","command":{"shell":"true"},"state":"running","process":3,"pid":70,"started_unix_ms":1,"ready_unix_ms":2,"restarts":0,"log":{"stdout":5,"stderr":0}}}}}"#,
            reply(ServiceResult::Service(Box::new(running))),
        ),
        (
            r#"{"id":9,"type":"finished","result":{"service":{"service":{"name":"web","command":{"shell":"true"},"cwd":"/","readiness":{"type":"file","path":"up"},"state":"failed","reason":"process_exited_before_ready","failure":"no","process":3,"pid":70,"started_unix_ms":1,"ended_unix_ms":3,"exit":{"code":7,"timed_out":false,"out_of_memory":false,"duration_us":1,"cpu_us":2,"peak_memory_bytes":3},"restarts":0,"log":{"stdout":5,"stderr":0}}}}}"#,
            reply(ServiceResult::Service(Box::new(failed))),
        ),
        (
            r#"{"id":9,"type":"finished","result":{"service":{"logs":{"next":{"stdout":5,"stderr":1},"dropped":{"stdout":2,"stderr":0}}}}}"#,
            reply(logs),
        ),
    ]
}

#[test]
fn each_message_about_services_has_its_bytes() {
    requests().into_iter().for_each(|(text, body)| check_request(text, body));
    replies().into_iter().for_each(|(text, reply)| check_reply(text, &reply));
}

#[test]
fn reasons_and_states_keep_their_names() {
    let name = |value| serde_json::to_value(value).unwrap();
    for (reason, expected) in [
        (ServiceReason::ProcessExitedBeforeReady, "process_exited_before_ready"),
        (ServiceReason::ReadinessTimeout, "readiness_timeout"),
        (ServiceReason::StartFailed, "start_failed"),
        (ServiceReason::TooManyRestarts, "too_many_restarts"),
        (ServiceReason::Sigterm, "sigterm"),
        (ServiceReason::Sigkill, "sigkill"),
    ] {
        assert_eq!(name(reason), expected);
    }
    let name = |value| serde_json::to_value(value).unwrap();
    for (state, expected) in [
        (ServiceState::Starting, "starting"),
        (ServiceState::Running, "running"),
        (ServiceState::Restarting, "restarting"),
        (ServiceState::Exited, "exited"),
        (ServiceState::Stopped, "stopped"),
        (ServiceState::Failed, "failed"),
    ] {
        assert_eq!(name(state), expected);
    }
}
