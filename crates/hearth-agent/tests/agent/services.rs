//! Services.

use std::time::{Duration, Instant};

use hearth_channel::{Channel, ChannelError, Sent};
use hearth_protocol::service::{
    Backoff, LogPositions, Readiness, RestartPolicy, ServiceInfo, ServiceLogs, ServiceReason, ServiceResult,
    ServiceStart, ServiceState,
};
use hearth_protocol::{Command, ErrorCode, Finished, StreamName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{Agent, HANG, is_alive, run};

fn service(script: &str) -> ServiceStart {
    ServiceStart::new("web", Command::Shell(script.into()))
}

/// How often something is tried that must be fast: the fastest is what the machine's other work has not slowed.
const TRIES: usize = 3;

fn ready_when(script: &str, readiness: Readiness) -> ServiceStart {
    ServiceStart { readiness: Some(readiness), ready_interval_ms: Some(10), ..service(script) }
}

fn code(error: ChannelError) -> ErrorCode {
    match error {
        ChannelError::Fault { source } => source.code,
        other => panic!("not a fault of the agent's: {other}"),
    }
}

fn state(info: &ServiceInfo) -> (ServiceState, Option<ServiceReason>) {
    (info.state, info.reason)
}

/// What is wanted of a log, and the result.
async fn logs(channel: &Channel, wanted: ServiceLogs) -> (String, String, LogPositions, LogPositions) {
    let operation = channel.service_logs(wanted).await.unwrap();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match tokio::time::timeout(HANG, operation.next()).await.unwrap().unwrap().unwrap() {
            Sent::Piece(StreamName::Stderr, bytes) => stderr.extend_from_slice(&bytes),
            Sent::Piece(_, bytes) => stdout.extend_from_slice(&bytes),
            Sent::End(_) => {}
            Sent::Finished(result) => {
                let Finished::Service(ServiceResult::Logs { next, dropped }) = *result else { panic!("{result:?}") };
                return (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap(), next, dropped);
            }
        }
    }
}

fn all() -> ServiceLogs {
    ServiceLogs { name: "web".into(), ..ServiceLogs::default() }
}

/// Asks until the service is as it should be; each question is a turn of the agent.
async fn until(channel: &Channel, holds: impl Fn(&ServiceInfo) -> bool) -> ServiceInfo {
    let asking = async {
        loop {
            let info = channel.service("web").await.unwrap();
            if holds(&info) {
                return info;
            }
        }
    };
    tokio::time::timeout(HANG, asking).await.expect("the service gets there")
}

#[tokio::test]
async fn b40_an_exit_before_it_is_ready_is_seen_at_once_whatever_the_readiness() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for readiness in [
        Readiness::File { path: "never".into() },
        Readiness::Tcp { address: unused.to_string() },
        Readiness::Http { url: format!("http://{unused}/") },
        Readiness::Command { command: Command::Shell("false".into()) },
        Readiness::Command { command: Command::Shell("sleep 300".into()) },
    ] {
        let mut fastest = Duration::MAX;
        for _ in 0..TRIES {
            let begun = Instant::now();
            let info = channel.start_service(ready_when("exit 7", readiness.clone())).await.unwrap();
            fastest = fastest.min(begun.elapsed());
            assert_eq!(
                state(&info),
                (ServiceState::Failed, Some(ServiceReason::ProcessExitedBeforeReady)),
                "{readiness:?}"
            );
            assert_eq!(info.exit.as_ref().and_then(|exit| exit.code), Some(7), "{readiness:?}");
            assert!(info.ready_unix_ms.is_none() && info.ended_unix_ms.is_some());
            assert_eq!(channel.service("web").await.unwrap(), info);
        }
        assert!(fastest < Duration::from_secs(1), "{readiness:?}: {fastest:?}");
    }
}

#[tokio::test]
async fn b40_without_a_readiness_an_exit_is_seen_as_well() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    channel.start_service(service("exit 7")).await.unwrap();
    let info = until(&channel, |info| info.state.is_final()).await;
    assert_eq!(info.exit.and_then(|exit| exit.code), Some(7));
    // A machine so slow that the shell takes longer to exit than a service to settle would say that it has exited.
    assert!(matches!(info.state, ServiceState::Failed | ServiceState::Exited), "{:?}", info.state);
}

#[tokio::test]
async fn b40_a_stop_is_a_term_that_is_seen_at_once() {
    for options in [&[][..], &["--no-cgroup"]] {
        let agent = Agent::start_with(options);
        let channel = agent.connect().await;
        let mut fastest = Duration::MAX;
        for _ in 0..TRIES {
            let info = channel.start_service(service("sleep 100")).await.unwrap();
            assert_eq!(state(&info), (ServiceState::Running, None));
            let begun = Instant::now();
            let info = channel.stop_service("web", None).await.unwrap();
            fastest = fastest.min(begun.elapsed());
            assert_eq!(state(&info), (ServiceState::Stopped, Some(ServiceReason::Sigterm)));
            assert!(!is_alive(info.pid));
            assert_eq!(channel.stop_service("web", None).await.unwrap(), info, "once more changes nothing");
        }
        assert!(fastest < Duration::from_secs(1), "{fastest:?}");
    }
}

#[tokio::test]
async fn b40_what_ignores_term_is_killed_with_all_it_has_started() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let script = "trap '' TERM; (trap '' TERM; setsid sleep 300) & echo $!; touch up; while :; do sleep 300; done";
    channel.start_service(ready_when(script, Readiness::File { path: "up".into() })).await.unwrap();
    let child: u32 = logs(&channel, all()).await.0.trim().parse().unwrap();
    let info = channel.stop_service("web", Some(Duration::from_millis(50))).await.unwrap();
    assert_eq!(state(&info), (ServiceState::Stopped, Some(ServiceReason::Sigkill)));
    assert!(!is_alive(info.pid) && !is_alive(child));
}

#[tokio::test]
async fn b40_an_exit_ends_what_it_leaves_behind_and_is_told_before_that() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let script = "(trap '' TERM; touch deaf; sleep 300) & echo $!; while ! [ -e deaf ]; do sleep 0.01; done; exit 3";
    let mut start = ready_when(script, Readiness::File { path: "deaf".into() });
    (start.ready_interval_ms, start.process.grace_ms) = (Some(1), Some(300));
    channel.start_service(start).await.unwrap();
    let info = until(&channel, |info| info.state.is_final()).await;
    assert_eq!(info.exit.and_then(|exit| exit.code), Some(3));
    let child: u32 = logs(&channel, all()).await.0.trim().parse().unwrap();
    let gone = async {
        while is_alive(child) {
            channel.ping().await.unwrap();
        }
    };
    tokio::time::timeout(HANG, gone).await.expect("what is left behind ends");
}

/// A server that answers every connection with `answer`, and counts them.
async fn answering(answer: &'static str) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

#[tokio::test]
async fn b41_each_readiness_is_seen() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let ok = answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let elsewhere = answering("HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n").await;
    run(&channel, "mkdir sub").await;
    for (script, readiness) in [
        ("touch up; sleep 300", Readiness::File { path: "up".into() }),
        (
            "sleep 0.1; touch up2; sleep 300",
            Readiness::File { path: agent.workspace().join("up2").into_os_string().into_encoded_bytes().into() },
        ),
        ("sleep 300", Readiness::Tcp { address: ok.to_string() }),
        ("sleep 300", Readiness::Tcp { address: format!("localhost:{}", ok.port()) }),
        ("sleep 300", Readiness::Http { url: format!("http://{ok}/health?x=1") }),
        ("sleep 300", Readiness::Http { url: format!("http://localhost:{}", elsewhere.port()) }),
        ("touch up3; sleep 300", Readiness::Command { command: Command::Shell("test -e up3 && test $A = b".into()) }),
    ] {
        let mut start = ready_when(script, readiness.clone());
        start.process.env.insert("A".into(), "b".into());
        let info = channel.start_service(start).await.unwrap();
        assert_eq!(state(&info), (ServiceState::Running, None), "{readiness:?}");
        assert!(info.ready_unix_ms.unwrap() >= info.started_unix_ms);
        channel.stop_service("web", None).await.unwrap();
    }
}

#[tokio::test]
async fn b41_a_readiness_that_never_comes_or_hangs_leaves_no_service_running() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let not_http = answering("SSH-2.0-OpenSSH_9.2\r\n").await;
    let failing = answering("HTTP/1.1 503 Service Unavailable\r\n\r\n").await;
    let hangs = "echo $$ > probe; (setsid sleep 301 & echo $! >> probe); sleep 302";
    for readiness in [
        Readiness::File { path: "never".into() },
        Readiness::Http { url: format!("http://{}/", silent.local_addr().unwrap()) },
        Readiness::Http { url: format!("http://{not_http}/") },
        Readiness::Http { url: format!("http://{failing}/") },
        Readiness::Command { command: Command::Shell("exit 1".into()) },
        Readiness::Command { command: Command::Shell(hangs.into()) },
    ] {
        let mut start = ready_when("sleep 300", readiness.clone());
        start.ready_timeout_ms = Some(300);
        let info = channel.start_service(start).await.unwrap();
        assert_eq!(state(&info), (ServiceState::Failed, Some(ServiceReason::ReadinessTimeout)), "{readiness:?}");
        assert!(!is_alive(info.pid), "{readiness:?}");
        assert!(info.exit.is_some());
    }
    let probes = std::fs::read_to_string(agent.workspace().join("probe")).unwrap();
    let gone = async {
        while probes.lines().any(|pid| is_alive(pid.parse().unwrap())) {
            channel.ping().await.unwrap();
        }
        // What is dead is forgotten when the next process ends, at the latest.
        while format!("{:?}", channel.list().await.unwrap()).contains("sleep 302") {
            run(&channel, ":").await;
        }
    };
    tokio::time::timeout(HANG, gone).await.expect("nothing of a probe is left");
    assert!(!format!("{:?}", channel.list().await.unwrap()).contains("exit 1"), "probes are not remembered");
}

#[tokio::test]
async fn b41_a_service_that_cannot_start_says_why_and_is_not_there() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let start = ServiceStart::new("web", Command::Argv(vec!["no-such-program".into()]));
    assert_eq!(code(channel.start_service(start).await.unwrap_err()), ErrorCode::CommandNotFound);
    for error in [
        channel.service("web").await.unwrap_err(),
        channel.stop_service("web", None).await.unwrap_err(),
        channel.restart_service("web").await.unwrap_err(),
        channel.remove_service("web").await.unwrap_err(),
    ] {
        assert_eq!(code(error), ErrorCode::UnknownName);
    }
}

#[tokio::test]
async fn a_service_outlives_its_client_even_while_it_is_being_started() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    run(&channel, "mkfifo go").await;
    let starting =
        channel.start_service(ready_when("read x < go; touch up; sleep 300", Readiness::File { path: "up".into() }));
    tokio::select! {
        biased;
        info = starting => panic!("{info:?}"),
        info = until(&channel, |info| info.state == ServiceState::Starting) => drop(info),
    }
    drop(channel);
    let channel = agent.connect().await;
    assert_eq!(channel.service("web").await.unwrap().state, ServiceState::Starting);
    let taken = channel.start_service(service("true")).await.unwrap_err();
    assert_eq!(code(taken), ErrorCode::AlreadyExists);
    run(&channel, "echo > go").await;
    let info = until(&channel, |info| info.state == ServiceState::Running).await;
    assert!(is_alive(info.pid));
    assert!(agent.stop());
    assert!(!is_alive(info.pid));
}

#[tokio::test]
async fn a_policy_brings_a_service_back_with_growing_waits_until_it_has_had_enough() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let backoff = Backoff { first_ms: Some(20), longest_ms: Some(40), max: Some(3) };
    let script = "echo run; exit 5";
    for (policy, script) in [(RestartPolicy::OnFailure(backoff), script), (RestartPolicy::Always(backoff), "echo run")]
    {
        let begun = Instant::now();
        let info = channel.start_service(ServiceStart { restart: policy, ..service(script) }).await.unwrap();
        assert_eq!(state(&info), (ServiceState::Restarting, Some(ServiceReason::ProcessExitedBeforeReady)));
        let info = until(&channel, |info| info.state.is_final()).await;
        assert_eq!(state(&info), (ServiceState::Failed, Some(ServiceReason::TooManyRestarts)));
        assert!(info.restarts == 3 && begun.elapsed() >= Duration::from_millis(20 + 40 + 40), "{:?}", begun.elapsed());
        assert_eq!(logs(&channel, all()).await.0, "run\n".repeat(4));
    }
    let policy = RestartPolicy::OnFailure(backoff);
    let info = channel.start_service(ServiceStart { restart: policy, ..service("sleep 0.5") }).await.unwrap();
    assert_eq!(info.state, ServiceState::Running);
    let info = until(&channel, |info| info.state.is_final()).await;
    assert_eq!((state(&info), info.restarts), ((ServiceState::Exited, None), 0));
}

#[tokio::test]
async fn a_service_that_waits_to_be_started_again_can_be_stopped_and_removed() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let backoff = Backoff { first_ms: Some(600_000), longest_ms: Some(600_000), max: None };
    let start = ServiceStart { restart: RestartPolicy::Always(backoff), ..service("exit 1") };
    assert_eq!(channel.start_service(start.clone()).await.unwrap().state, ServiceState::Restarting);
    assert_eq!(state(&channel.stop_service("web", None).await.unwrap()), (ServiceState::Stopped, None));
    channel.start_service(start).await.unwrap();
    channel.remove_service("web").await.unwrap();
    assert_eq!(code(channel.service("web").await.unwrap_err()), ErrorCode::UnknownName);
    assert!(channel.services().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_restart_is_another_process_and_the_same_log() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let first = channel.start_service(service("echo $$; sleep 300")).await.unwrap();
    let length = until(&channel, |info| info.log.stdout > 0).await.log.stdout;
    let second = channel.restart_service("web").await.unwrap();
    assert_eq!((second.state, second.restarts), (ServiceState::Running, 0));
    assert!(second.pid != first.pid && !is_alive(first.pid) && is_alive(second.pid));
    until(&channel, |info| info.log.stdout > length).await;
    assert_eq!(logs(&channel, all()).await.0, format!("{}\n{}\n", first.pid, second.pid));
    channel.stop_service("web", None).await.unwrap();
    let third = channel.restart_service("web").await.unwrap();
    assert!(third.state == ServiceState::Running && third.ended_unix_ms.is_none() && third.reason.is_none());
    assert_eq!(channel.services().await.unwrap(), [third]);
}

#[tokio::test]
async fn logs_have_tails_and_positions_and_keep_their_line_ends() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let script = "printf 'a\\r\\nb\\n\\nlast'; echo err >&2; touch up; sleep 300";
    channel.start_service(ready_when(script, Readiness::File { path: "up".into() })).await.unwrap();
    let (stdout, stderr, next, dropped) = logs(&channel, all()).await;
    assert_eq!((stdout.as_str(), stderr.as_str()), ("a\r\nb\n\nlast", "err\n"));
    assert_eq!((next, dropped), (LogPositions { stdout: 10, stderr: 4 }, LogPositions::default()));
    for (tail_lines, out, err) in
        [(0, "", ""), (1, "last", "err\n"), (2, "\nlast", "err\n"), (4, "a\r\nb\n\nlast", "err\n")]
    {
        let (stdout, stderr, next, _) = logs(&channel, ServiceLogs { tail_lines: Some(tail_lines), ..all() }).await;
        assert_eq!((stdout.as_str(), stderr.as_str()), (out, err), "{tail_lines}");
        assert_eq!(next.stdout, 10);
    }
    let since = Some(LogPositions { stdout: 3, stderr: 99 });
    let (stdout, stderr, next, _) = logs(&channel, ServiceLogs { since, ..all() }).await;
    assert_eq!((stdout.as_str(), stderr.as_str(), next.stderr), ("b\n\nlast", "", 99));
    let both = ServiceLogs { since, tail_lines: Some(1), ..all() };
    assert_eq!(code(channel.service_logs(both).await.unwrap().finish().await.unwrap_err()), ErrorCode::InvalidField);
}

#[tokio::test]
async fn a_followed_log_goes_on_over_restarts_until_the_service_has_ended() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    run(&channel, "mkfifo go").await;
    let backoff = Backoff { first_ms: Some(1), longest_ms: Some(1), max: None };
    let start = ServiceStart {
        restart: RestartPolicy::OnFailure(backoff),
        ..ready_when("touch up; read x < go; echo $x; exit $x", Readiness::File { path: "up".into() })
    };
    channel.start_service(start).await.unwrap();
    let (followed, ()) =
        tokio::join!(logs(&channel, ServiceLogs { tail_lines: Some(0), follow: true, ..all() }), async {
            for (restarts, code) in [1, 2, 0].into_iter().enumerate() {
                // A pipe that is written to while the last reader closes it would lose the word.
                until(&channel, |info| info.restarts == restarts as u64).await;
                run(&channel, &format!("echo {code} > go")).await;
            }
        });
    assert_eq!(followed.0, "1\n2\n0\n");
    assert_eq!(channel.service("web").await.unwrap().state, ServiceState::Exited);
}

#[tokio::test]
async fn a_flood_is_bounded_and_what_was_dropped_is_counted() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let script = "seq 1 2000000; touch up; sleep 300";
    let info = channel.start_service(ready_when(script, Readiness::File { path: "up".into() })).await.unwrap();
    let written: u64 = (1..=2_000_000_u64).map(|number| number.to_string().len() as u64 + 1).sum();
    assert_eq!(info.log.stdout, written);
    let (stdout, _, next, dropped) = logs(&channel, all()).await;
    assert_eq!((stdout.len() as u64 + dropped.stdout, next.stdout), (written, written));
    assert!(dropped.stdout > 0 && stdout.ends_with("\n2000000\n"));
    let (tail, ..) = logs(&channel, ServiceLogs { tail_lines: Some(3), ..all() }).await;
    assert_eq!(tail, "1999998\n1999999\n2000000\n");
}

#[tokio::test]
async fn b43_no_secret_is_in_a_service_its_status_or_its_log() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let value = "s3cr3t-Value";
    let secret = hearth_protocol::secrets::Secret { name: "TOKEN".into(), value: value.into(), file: true };
    channel.set_secrets(vec![secret]).await.unwrap();
    let ok = answering("HTTP/1.1 200 OK\r\n\r\n").await;
    let script = format!("echo $T {value} own-one; sleep 300");
    let mut start = ready_when(&script, Readiness::Http { url: format!("http://{ok}/?{value}") });
    start.process.secrets.insert("T".into(), "TOKEN".into());
    start.process.redact = vec!["own-one".into()];
    let info = channel.start_service(start).await.unwrap();
    assert_eq!(info.state, ServiceState::Running);
    let listed = format!("{info:?} {:?}", channel.services().await.unwrap());
    assert!(!listed.contains(value) && !listed.contains("own-one") && listed.contains("[REDACTED]"), "{listed}");
    let expected = "[REDACTED] [REDACTED] [REDACTED]\n";
    until(&channel, |info| info.log.stdout >= expected.len() as u64).await;
    assert_eq!(logs(&channel, all()).await.0, expected);
}

#[tokio::test]
async fn there_is_a_most_of_services_and_one_that_has_ended_makes_room_for_its_own_name() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let named = |number: usize| ServiceStart { name: format!("s{number}"), ..service("true") };
    let most = hearth_protocol::limits::SERVICES;
    let starts = (0..most).map(|number| channel.start_service(named(number)));
    for start in starts {
        assert_eq!(start.await.unwrap().state, ServiceState::Failed);
    }
    assert_eq!(code(channel.start_service(named(most)).await.unwrap_err()), ErrorCode::Busy);
    channel.start_service(named(0)).await.unwrap();
    channel.remove_service("s1").await.unwrap();
    channel.start_service(named(most)).await.unwrap();
    assert_eq!(channel.services().await.unwrap().len(), most);
}
