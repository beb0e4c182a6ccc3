//! Secrets.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use hearth_channel::{Channel, ChannelError, Event, Process};
use hearth_protocol::secrets::{Secret, SecretValue};
use hearth_protocol::{
    Attach, Command, Delivery, ErrorCode, Outcome as Retry, PtySize, Renew, Signal, SignalScope, Start, Tag,
};

use crate::support::{Agent, HANG, finish, run, shell};

const VALUE: &str = "s3cr3t-Value";

fn secret(name: &str, value: impl Into<Vec<u8>>) -> Secret {
    Secret { name: name.into(), value: value.into().into(), file: true }
}

fn fault(error: ChannelError) -> (ErrorCode, Retry, String) {
    match error {
        ChannelError::Fault { source } => (source.code, source.outcome, source.message),
        other => panic!("not a fault of the agent's: {other}"),
    }
}

/// Takes output until it ends with `end`.
async fn until(process: &Process, end: &str) -> String {
    let mut said = Vec::new();
    let reading = async {
        while !said.ends_with(end.as_bytes()) {
            match process.next_event().await.unwrap().unwrap() {
                Event::Output { bytes, .. } => said.extend_from_slice(&bytes),
                exit @ Event::Exit { .. } => panic!("{exit:?} after {:?}", String::from_utf8_lossy(&said)),
            }
        }
    };
    tokio::time::timeout(HANG, reading).await.unwrap_or_else(|_| panic!("waiting for {end:?}"));
    String::from_utf8(said).unwrap()
}

#[tokio::test]
async fn b43_a_secret_printed_in_two_halves_leaks_no_prefix_and_loses_no_text() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    channel.set_secrets(vec![secret("TOKEN", VALUE), secret("OTHER", "zzz")]).await.unwrap();
    for cut in 1..VALUE.len() {
        let (first, second) = VALUE.split_at(cut);
        let mut start = shell("read -r line; printf 'a%s' \"$line\"; read -r line; printf '%s!' \"$line\"");
        start.stdin = true;
        let process = channel.start(start).await.unwrap();
        let mut stdin = process.stdin().unwrap();
        stdin.write(Bytes::from(format!("{first}\n"))).await.unwrap();
        // The half comes out in one write with what is before it, so when that is here the half was read, and held back.
        assert_eq!(until(&process, "a").await, "a", "cut at {cut}");
        stdin.write(Bytes::from(format!("{second}\n"))).await.unwrap();
        let outcome = finish(&process).await;
        assert_eq!(String::from_utf8(outcome.stdout).unwrap(), "[REDACTED]!", "cut at {cut}");
        assert_eq!(outcome.totals.stdout, "a[REDACTED]!".len() as u64);
    }
}

#[tokio::test]
async fn b43_what_turns_out_to_be_no_secret_is_there_at_the_exit() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    channel.set_secrets(vec![secret("TOKEN", VALUE)]).await.unwrap();
    // A child that holds the pipe is no reason to hold it back for longer.
    for script in ["printf s3cr3t", "printf s3cr3t; sleep 300 &"] {
        let outcome = run(&channel, script).await;
        assert_eq!((outcome.stdout.as_slice(), outcome.totals.stdout), (b"s3cr3t".as_slice(), 6), "{script}");
    }
}

#[tokio::test]
async fn b43_a_terminal_shows_no_half_and_everything_else_at_once() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    channel.set_secrets(vec![secret("KEY", "first line\nsecond line\n")]).await.unwrap();
    let mut start = shell("stty -echo; echo go; while read -r line; do printf '%s\\n$ ' \"$line\"; done");
    start.pty = Some(PtySize { columns: 80, rows: 24 });
    let process = channel.start(start).await.unwrap();
    let mut stdin = process.stdin().unwrap();
    assert_eq!(until(&process, "go\r\n").await, "go\r\n");
    for (typed, shown) in [("plain", "plain\r\n$ "), ("first", "first\r\n$ "), ("a first li", "a first li\r\n$ ")] {
        stdin.write(Bytes::from(format!("{typed}\n"))).await.unwrap();
        assert_eq!(until(&process, "$ ").await, shown);
    }
    process.signal(Signal::Kill, SignalScope::Tree).await.unwrap();
    let mut start = shell("cat $HEARTH_SECRETS/KEY");
    start.pty = Some(PtySize { columns: 80, rows: 24 });
    let outcome = finish(&channel.start(start).await.unwrap()).await;
    assert_eq!(String::from_utf8(outcome.stdout).unwrap(), "[REDACTED]\r\n");
}

#[tokio::test]
async fn b43_both_streams_of_any_length_are_redacted_exactly_as_a_whole_would_be() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    channel.set_secrets(vec![secret("A", "1234"), secret("B", "99999")]).await.unwrap();
    let outcome = run(&channel, "seq 1 400000; seq 1 100000 >&2").await;
    let expected = |count: u32| -> String {
        (1..=count).map(|n| format!("{n}\n").replace("99999", "[REDACTED]").replace("1234", "[REDACTED]")).collect()
    };
    assert!(outcome.stdout == expected(400_000).as_bytes(), "stdout");
    assert!(outcome.stderr == expected(100_000).as_bytes(), "stderr");
    assert_eq!((outcome.gaps, outcome.totals.stdout), (0, outcome.stdout.len() as u64));
}

#[tokio::test]
async fn b43_every_cursor_leads_to_the_same_bytes() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    channel.set_secrets(vec![secret("TOKEN", VALUE)]).await.unwrap();
    let mut start = shell(&format!("echo one {VALUE} two; echo three {VALUE}"));
    let whole = "one [REDACTED] two\nthree [REDACTED]\n";
    start.attach = None;
    let id = channel.start(start).await.unwrap().id();
    for stdout in 0..=whole.len() as u64 {
        let attach = Attach { process: id.into(), stdout, stderr: 0, delivery: Delivery::Lossless };
        let outcome = finish(&channel.attach(attach).await.unwrap()).await;
        assert_eq!(String::from_utf8(outcome.stdout).unwrap(), whole[stdout as usize..], "from {stdout}");
        assert_eq!(outcome.totals.stdout, whole.len() as u64);
    }
}

#[tokio::test]
async fn b43_no_value_is_in_a_list_or_an_error() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    channel.set_secrets(vec![secret("TOKEN", VALUE), secret("QUOTED", "a\"b\\c\né")]).await.unwrap();
    run(&channel, &format!(": {VALUE}")).await;
    let argv = Command::Argv(vec!["true".into(), VALUE.into(), "-x".into()]);
    let tag = Some(Tag::new(format!("{VALUE} tag")).unwrap());
    channel.start(Start { tag, ..Start::new(argv) }).await.unwrap();
    let listed = format!("{:?}", channel.list().await.unwrap());
    assert!(listed.contains("[REDACTED] tag"), "{listed}");
    assert!(!listed.contains(VALUE) && listed.contains(": [REDACTED]") && listed.contains("-x"), "{listed}");

    let program = |name: &str| Start::new(Command::Argv(vec![name.into()]));
    let mut nowhere = shell("true");
    nowhere.cwd = Some(format!("/tmp/{VALUE}/x").into());
    let mut nobody = shell("true");
    nobody.user = Some(VALUE.into());
    for start in [program(VALUE), program("a\"b\\c\né"), nowhere, nobody] {
        let (.., message) = fault(channel.start(start).await.unwrap_err());
        assert!(message.contains("[REDACTED]") && !message.contains(VALUE) && !message.contains("\\c"), "{message}");
    }
    let (.., message) = fault(channel.read_whole(format!("no/{VALUE}"), 10).await.unwrap_err());
    assert!(message.contains("[REDACTED]") && !message.contains(VALUE), "{message}");
    // Cut in the middle of the value: a message has 1000 characters.
    let long = format!("{}{}", "x".repeat(1000 - "\"".len() - 5), VALUE);
    let (.., message) = fault(channel.start(program(&long)).await.unwrap_err());
    assert!(message.ends_with("x[REDA…"), "{message}");
}

#[tokio::test]
async fn b43_a_value_that_becomes_secret_is_hidden_in_what_was_there_before() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let mut start = shell(&format!("while read -r line; do echo \"$line\"; done # {VALUE}"));
    start.stdin = true;
    let process = channel.start(start).await.unwrap();
    channel.set_secrets(vec![secret("TOKEN", VALUE)]).await.unwrap();
    let mut stdin = process.stdin().unwrap();
    stdin.write(Bytes::from(format!("{VALUE} one\n"))).await.unwrap();
    assert_eq!(until(&process, "one\n").await, "[REDACTED] one\n");
    // Rotated: the process may know both.
    channel.set_secrets(vec![secret("TOKEN", "another")]).await.unwrap();
    stdin.write(Bytes::from(format!("{VALUE} another two\n"))).await.unwrap();
    assert_eq!(until(&process, "two\n").await, "[REDACTED] [REDACTED] two\n");
    assert_eq!(
        run(&channel, &format!("echo {VALUE} another")).await.stdout,
        format!("{VALUE} [REDACTED]\n").as_bytes()
    );
    channel.remove_secrets(vec!["TOKEN".into()]).await.unwrap();
    stdin.write(Bytes::from(format!("{VALUE} another three\n"))).await.unwrap();
    assert_eq!(until(&process, "three\n").await, "[REDACTED] [REDACTED] three\n");
    assert_eq!(run(&channel, "echo another").await.stdout, b"another\n");
    let listed = format!("{:?}", channel.list().await.unwrap()[0]);
    assert!(!listed.contains(VALUE), "{listed}");
}

#[tokio::test]
async fn values_of_a_process_alone_are_hidden_in_its_output_alone() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let mut start = shell("echo mine; echo mine >&2");
    start.redact = vec![SecretValue::from("mine")];
    let outcome = finish(&channel.start(start).await.unwrap()).await;
    assert_eq!((outcome.stdout, outcome.stderr), (b"[REDACTED]\n".to_vec(), b"[REDACTED]\n".to_vec()));
    assert_eq!(run(&channel, "echo mine").await.stdout, b"mine\n");
}

/// The directory of the files, and what is in it.
async fn files(channel: &Channel) -> (PathBuf, Vec<String>) {
    let directory = PathBuf::from(channel.list_secrets().await.unwrap().directory);
    let names = fs::read_dir(&directory).into_iter().flatten();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    (directory, names)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn secrets_are_private_files_in_memory_that_come_and_go_as_a_whole() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let hidden = Secret { file: false, ..secret("C", "ccc") };
    channel.set_secrets(vec![secret("A", "aaa\n"), secret("B", b"\0\xff".as_slice()), hidden]).await.unwrap();
    let (directory, names) = files(&channel).await;
    assert_eq!(names, ["A", "B"]);
    assert_eq!((mode(&directory), mode(&directory.join("A"))), (0o700, 0o600));
    assert_eq!(fs::read(directory.join("B")).unwrap(), b"\0\xff");
    assert_eq!(
        run(&channel, "sha256sum < $HEARTH_SECRETS/A").await.stdout,
        run(&channel, "printf 'aa\\141\\n' | sha256sum").await.stdout
    );
    let list = channel.list_secrets().await.unwrap();
    let shown: Vec<_> = list.secrets.iter().map(|info| (info.name.as_str(), info.bytes, info.file)).collect();
    assert_eq!(shown, [("A", 4, true), ("B", 2, true), ("C", 3, false)]);
    assert!(list.secrets.iter().all(|info| info.set_unix_ms > 1_600_000_000_000));

    // Whatever a user has put there is in nobody's way, and nothing is written through it.
    let target = agent.workspace().join("target");
    fs::write(&target, "kept").unwrap();
    fs::remove_file(directory.join("A")).unwrap();
    std::os::unix::fs::symlink(&target, directory.join("A")).unwrap();
    fs::create_dir_all(directory.join("D/e/f")).unwrap();
    channel.set_secrets(vec![secret("A", "new"), secret("D", "d")]).await.unwrap();
    assert_eq!(files(&channel).await.1, ["A", "B", "D"]);
    assert_eq!(
        (fs::read(directory.join("A")).unwrap(), fs::read(&target).unwrap()),
        (b"new".to_vec(), b"kept".to_vec())
    );

    let gone = channel.remove_secrets(vec!["A".into(), "NONE".into()]).await.unwrap_err();
    assert_eq!(fault(gone).0, ErrorCode::UnknownName);
    assert_eq!(files(&channel).await.1, ["A", "B", "D"], "all or none");
    channel.replace_secrets(vec![secret("E", "e")]).await.unwrap();
    assert_eq!(files(&channel).await.1, ["E"]);
    assert_eq!(fs::read_dir(directory.parent().unwrap()).unwrap().count(), 1, "no other set is left");
    channel.remove_secrets(vec!["E".into()]).await.unwrap();
    assert!(!directory.exists());
    assert_eq!(run(&channel, "echo ${HEARTH_SECRETS-none}").await.stdout, b"none\n");
}

#[tokio::test]
async fn an_agent_takes_its_secrets_along_and_a_killed_ones_are_swept_by_the_next() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    channel.set_secrets(vec![secret("A", "aaa")]).await.unwrap();
    let (kept, _) = files(&channel).await;
    let killed = Agent::start();
    let other = killed.connect().await;
    other.set_secrets(vec![secret("A", "aaa")]).await.unwrap();
    let (left, _) = files(&other).await;
    assert!(left.join("A").exists());
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(killed.pid() as i32).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    other.closed().await;
    drop(killed);
    // Any other agent that starts, of another test too, may sweep it before this one does.
    let next = Agent::start();
    assert!(!left.parent().unwrap().exists(), "the killed one's");
    assert!(kept.join("A").exists(), "the living one's");
    assert!(next.stop() && agent.stop());
    assert!(!kept.parent().unwrap().exists());
}

#[tokio::test]
async fn an_agent_that_is_root_gives_the_files_to_the_user() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can give files away");
    }
    let agent = Agent::start_with(&["--user", "nobody"]);
    let channel = agent.connect().await;
    channel.set_secrets(vec![secret("A", "aaa")]).await.unwrap();
    let (directory, _) = files(&channel).await;
    let nobody = 65_534;
    for path in [directory.clone(), directory.join("A")] {
        assert_eq!(fs::metadata(path).unwrap().uid(), nobody);
    }
    let mut start = shell("id -un; wc -c < $HEARTH_SECRETS/A");
    start.cwd = Some("/".into());
    assert_eq!(finish(&channel.start(start).await.unwrap()).await.stdout, b"nobody\n3\n");
}

#[tokio::test]
async fn processes_get_secrets_as_variables_by_name() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    channel.set_secrets(vec![secret("A", VALUE), secret("NUL", b"a\0b".as_slice())]).await.unwrap();
    let with = |secret: &str| {
        let mut start = shell("echo ${#TOKEN} $TOKEN; echo ${A-none}");
        start.secrets.insert("TOKEN".into(), secret.into());
        start
    };
    let outcome = finish(&channel.start(with("A")).await.unwrap()).await;
    assert_eq!(outcome.stdout, format!("{} [REDACTED]\nnone\n", VALUE.len()).as_bytes());
    for (name, code) in
        [("B", ErrorCode::UnknownName), ("NUL", ErrorCode::InvalidField), ("a b", ErrorCode::InvalidField)]
    {
        let (refused, outcome, _) = fault(channel.start(with(name)).await.unwrap_err());
        assert_eq!((refused, outcome), (code, Retry::NeverStarted), "{name}");
    }
    let mut twice = with("A");
    twice.env.insert("TOKEN".into(), "x".into());
    assert_eq!(fault(channel.start(twice).await.unwrap_err()).0, ErrorCode::InvalidField);
}

#[tokio::test]
async fn secrets_have_bounds_and_a_refusal_changes_nothing() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let large = |name: &str| vec![secret(name, vec![b'x'; 60_000])];
    channel.set_secrets(large("A")).await.unwrap();
    channel.set_secrets(large("B")).await.unwrap();
    assert_eq!(fault(channel.set_secrets(large("C")).await.unwrap_err()).0, ErrorCode::TooLarge);
    let many = (0..63).map(|number| secret(&format!("N{number}"), "x")).collect();
    assert_eq!(fault(channel.set_secrets(many).await.unwrap_err()).0, ErrorCode::TooLarge);
    for name in ["", "../x", "a/b", "1"] {
        let refused = channel.set_secrets(vec![secret("OK", "x"), secret(name, "x")]).await;
        assert_eq!(fault(refused.unwrap_err()).0, ErrorCode::InvalidField, "{name:?}");
    }
    assert_eq!(files(&channel).await.1, ["A", "B"]);
}

#[tokio::test]
async fn a_renewal_brings_secrets_and_variables_and_is_refused_as_a_whole() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    channel.set_secrets(vec![secret("OLD", "old-value")]).await.unwrap();
    let renew = |variable: &str| Renew {
        secrets: Some(vec![secret("NEW", VALUE)]),
        env: Some([("HEARTH_SANDBOX_ID".to_owned(), variable.into())].into()),
        ..Renew::default()
    };
    for refused in [
        Renew { hostname: Some("other".into()), ..renew("a") },
        Renew { machine_id: Some("0".repeat(31) + "1"), ..renew("a") },
        Renew { secrets: Some(vec![secret("A", "x"), secret("A", "y")]), ..renew("a") },
        Renew { env: Some([("A=".to_owned(), "x".into())].into()), ..renew("a") },
    ] {
        let (code, outcome, _) = fault(channel.renew(refused).await.unwrap_err());
        assert_eq!((code, outcome), (ErrorCode::InvalidField, Retry::NeverStarted));
    }
    assert_eq!(files(&channel).await.1, ["OLD"]);
    let say = "echo ${HEARTH_SANDBOX_ID-none}";
    assert_eq!(run(&channel, say).await.stdout, b"none\n");
    channel.renew(renew("sb-1")).await.unwrap();
    assert_eq!(files(&channel).await.1, ["NEW"]);
    assert_eq!(run(&channel, say).await.stdout, b"sb-1\n");
    assert_eq!(run(&channel, &format!("echo {VALUE}")).await.stdout, b"[REDACTED]\n");
    channel.renew(renew("sb-2")).await.unwrap();
    assert_eq!(run(&channel, say).await.stdout, b"sb-2\n");
}

#[tokio::test]
async fn a_follower_that_is_slow_loses_nothing_of_a_redacted_stream() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    channel.set_secrets(vec![secret("A", "x")]).await.unwrap();
    // Ten times as much comes out as goes in: the ring must not overflow for that.
    let process = channel.start(shell("head -c 1000000 /dev/zero | tr '\\0' x")).await.unwrap();
    let outcome = finish(&process).await;
    assert_eq!((outcome.gaps, outcome.totals.stdout), (0, 10_000_000));
    assert!(outcome.stdout.chunks(10).all(|mark| mark == b"[REDACTED]"));
}
