//! An interpreter that waits for the first kernel.

use std::path::Path;

use hearth_channel::{Channel, ChannelError};
use hearth_protocol::kernel::{KernelExec, KernelStart};
use hearth_protocol::secrets::Secret;
use hearth_protocol::{ErrorCode, Outcome as Retry, ProcessId, Renew, Signal, SignalScope};
use rustix::process::{Pid, kill_process};

use super::{Done, Python, exec, is_here, run};
use crate::support::{Agent, fault, is_alive};

/// An agent in which an interpreter waits, and that interpreter's number; `None` where there is no Python.
async fn warmed(options: &[&str]) -> Option<(Agent, Channel, u32)> {
    if !is_here(Python) {
        return None;
    }
    let agent = Agent::start_with(options);
    let channel = agent.connect().await;
    channel.warm_kernel().await.unwrap();
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", agent.pid())).unwrap();
    let spare = children.trim().parse().expect("it is the agent's only child");
    Some((agent, channel, spare))
}

fn named(name: &str) -> KernelExec {
    KernelExec { name: Some(name.into()), ..KernelExec::new(Python) }
}

async fn is_warmed(channel: &Channel, name: &str) -> bool {
    let kernels = channel.kernels().await.unwrap();
    kernels.iter().find(|kernel| kernel.name == name).unwrap().warmed
}

#[tokio::test]
async fn the_first_kernel_takes_the_interpreter_that_waits_and_the_second_does_not() {
    let Some((_agent, channel, spare)) = warmed(&[]).await else { return };
    channel.warm_kernel().await.unwrap();
    let pid = "import os; os.getpid()";
    let first = run(&channel, Python, pid).await;
    assert!(first.ran().fresh && is_warmed(&channel, "python").await, "{first:?}");
    assert_eq!(first.value().unwrap(), spare.to_string(), "asking twice made no second one");
    let second = exec(&channel, named("other"), pid).await.unwrap();
    assert!(second.ran().fresh && second.value() != first.value() && !is_warmed(&channel, "other").await);
    channel.restart_kernel("python").await.unwrap();
    assert!(!is_warmed(&channel, "python").await);
}

#[tokio::test]
async fn nobody_is_shown_an_interpreter_that_waits_and_it_ends_with_the_agent() {
    let Some((agent, channel, spare)) = warmed(&[]).await else { return };
    assert!(channel.list().await.unwrap().is_empty() && channel.kernels().await.unwrap().is_empty());
    for id in 1..5 {
        let refused = channel.signal(ProcessId(id), Signal::Kill, SignalScope::Tree).await.unwrap_err();
        assert_eq!(fault(&refused), (ErrorCode::UnknownProcess, Retry::NeverStarted));
    }
    assert!(is_alive(spare));
    drop(channel);
    assert!(agent.stop() && !is_alive(spare));
}

/// All that code can see of where it runs, but for what is its own in any case.
const CIRCUMSTANCES: &str = "
def circumstances():
    import gc, os, resource, signal, sys, threading, time
    limits = [resource.getrlimit(kind) for kind in range(16)]
    handlers = [signal.getsignal(number) for number in range(1, 32)]
    numbers = os.listdir('/proc/self/fd')
    links = [(number, '/proc/self/fd/' + number) for number in numbers]
    descriptors = [(number, os.readlink(link).split(':')[0]) for number, link in links if os.path.islink(link)]
    group = open('/proc/self/cgroup').read().rsplit('/', 1)[0]
    return (os.getcwd(), sorted(os.environ.items()), sys.argv, sys.path, sys.flags, os.getuid(), os.getgid(), os.getgroups(),
        limits, handlers, sorted(descriptors), group, os.umask(0o22), os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid(),
        os.getppid(), threading.active_count(), sorted(sys.modules), sorted(globals()), time.tzname, gc.isenabled(), gc.get_threshold(),
        sys.stdin, sys.stdout.encoding, sys.getrecursionlimit(), os.nice(0), len(sys.meta_path), __name__)
circumstances()";

#[tokio::test]
async fn a_kernel_with_an_interpreter_that_has_waited_sees_what_any_other_sees() {
    let Some((_agent, channel, _)) = warmed(&[]).await else { return };
    // Both given since then, as a sandbox is when it is restored.
    let secrets = vec![Secret { name: "key".into(), value: "hunter2hunter2".into(), file: true }];
    let env = [("GIVEN".to_owned(), "given".into()), ("EMPTY".to_owned(), "".into())].into();
    channel.renew(Renew { secrets: Some(secrets), env: Some(env), ..Renew::default() }).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let start = |name: &str| KernelStart {
        name: Some(name.into()),
        cwd: Some(directory.path().to_str().unwrap().into()),
        env: [("OWN".to_owned(), vec![b'x', 0xff].into())].into(),
        secrets: [("KEY".to_owned(), "key".to_owned())].into(),
        imports: vec!["fractions".into(), "no_such_module".into()],
        ..KernelStart::new(Python)
    };
    let mut seen = Vec::new();
    for name in ["warmed", "fresh"] {
        let (kernel, failed) = channel.start_kernel(start(name)).await.unwrap();
        assert!(failed.len() == 1 && failed["no_such_module"].contains("ModuleNotFoundError"), "{failed:?}");
        assert_eq!(kernel.warmed, name == "warmed");
        let done = exec(&channel, named(name), CIRCUMSTANCES).await.unwrap();
        seen.push(done.value().unwrap_or_else(|| panic!("{done:?}")));
        let key = exec(&channel, named(name), "import os; len(os.environ['KEY']), os.getenv('KEY')").await.unwrap();
        assert!(key.value().unwrap().starts_with("(14, '[") && !format!("{key:?}").contains("hunter"), "{key:?}");
    }
    assert_eq!(seen[0], seen[1]);
    for given in ["GIVEN", "EMPTY", "OWN", "HEARTH_SECRETS", directory.path().to_str().unwrap(), "'fractions'"] {
        assert!(seen[0].contains(given), "{given}: {}", seen[0]);
    }
}

#[tokio::test]
async fn tracebacks_and_numbers_of_code_begin_as_in_a_fresh_interpreter() {
    let Some((_agent, channel, _)) = warmed(&[]).await else { return };
    let failed = run(&channel, Python, "def f():\n  1 / 0\nf()").await;
    let fresh = exec(&channel, named("fresh"), "def f():\n  1 / 0\nf()").await.unwrap();
    assert_eq!(failed.traceback(), fresh.traceback());
    assert!(is_warmed(&channel, "python").await && failed.traceback().contains("<exec-1>"), "{}", failed.traceback());
}

/// Runs code by the first kernel, which must have an interpreter of its own.
async fn check_fresh(channel: &Channel, start: KernelStart, code: &str) -> Done {
    let name = start.name.clone().unwrap_or_else(|| "python".into());
    channel.start_kernel(start).await.unwrap();
    assert!(!is_warmed(channel, &name).await);
    let done = exec(channel, named(&name), code).await.unwrap();
    assert_eq!(done.code(), 0, "{done:?}");
    done
}

#[tokio::test]
async fn what_an_interpreter_cannot_become_is_started_afresh_and_it_waits_on() {
    let Some((_agent, channel, spare)) = warmed(&[]).await else { return };
    let with = |name: &str, value: &str| KernelStart {
        name: Some(name.to_lowercase()),
        env: [(name.to_owned(), value.into())].into(),
        ..KernelStart::new(Python)
    };
    let hashed = check_fresh(&channel, with("PYTHONHASHSEED", "0"), "import sys; sys.flags.hash_randomization").await;
    assert_eq!(hashed.value().unwrap(), "0");
    check_fresh(&channel, with("LANG", "C"), "1").await;
    check_fresh(&channel, with("HOME", "/"), "1").await;
    check_fresh(&channel, with("LD_LIBRARY_PATH", "/tmp"), "1").await;
    if rustix::process::geteuid().is_root() {
        let user = Some("nobody".to_owned());
        let other =
            KernelStart { name: Some("nobody".into()), cwd: Some("/".into()), user, ..KernelStart::new(Python) };
        assert_ne!(check_fresh(&channel, other, "import os; os.getuid()").await.value().unwrap(), "0");
    }
    assert_eq!(run(&channel, Python, "import os; os.getpid()").await.value().unwrap(), spare.to_string());
}

#[tokio::test]
async fn an_interpreter_that_has_died_or_is_deaf_is_replaced() {
    for signal in [rustix::process::Signal::KILL, rustix::process::Signal::STOP] {
        let Some((_agent, channel, spare)) = warmed(&[]).await else { return };
        kill_process(Pid::from_raw(spare as i32).unwrap(), signal).unwrap();
        let done = check_fresh(&channel, KernelStart::new(Python), "6 * 7").await;
        assert_eq!(done.value().unwrap(), "42");
        assert!(!is_alive(spare), "{signal:?}");
        assert_eq!(channel.list().await.unwrap().len(), 1, "it is still not shown");
    }
}

#[tokio::test]
async fn one_that_died_is_made_again_when_it_is_asked_for() {
    let Some((_agent, channel, spare)) = warmed(&[]).await else { return };
    kill_process(Pid::from_raw(spare as i32).unwrap(), rustix::process::Signal::KILL).unwrap();
    // Until the agent has seen that it ended.
    while Path::new(&format!("/proc/{spare}")).exists() {
        channel.ping().await.unwrap();
    }
    channel.warm_kernel().await.unwrap();
    run(&channel, Python, "1").await;
    assert!(is_warmed(&channel, "python").await);
}

#[tokio::test]
async fn without_python_nothing_waits_and_that_is_said() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let nowhere = [("PATH".to_owned(), "/nowhere".into())].into();
    channel.renew(Renew { env: Some(nowhere), ..Renew::default() }).await.unwrap();
    let ChannelError::Fault { source } = channel.warm_kernel().await.unwrap_err() else { panic!("it is refused") };
    assert_eq!(source.code, ErrorCode::Unavailable);
    assert!(source.message.contains("python3"), "{source}");
}

#[tokio::test]
async fn a_directory_that_cannot_be_entered_is_told_as_by_a_fresh_interpreter() {
    let Some((_agent, channel, _)) = warmed(&[]).await else { return };
    let start = KernelStart { cwd: Some("/nowhere".into()), ..KernelStart::new(Python) };
    let error = channel.start_kernel(start).await.unwrap_err();
    assert_eq!(fault(&error), (ErrorCode::WorkingDirectory, Retry::NeverStarted));
    assert!(channel.kernels().await.unwrap().is_empty());
}

/// Where the interpreter looks for packages of the user whose home this is.
fn packages(home: &std::path::Path) -> std::path::PathBuf {
    let ask = "import site; print(site.getusersitepackages())";
    let said = std::process::Command::new("python3").args(["-c", ask]).env("HOME", home).output().unwrap();
    String::from_utf8(said.stdout).unwrap().trim().into()
}

#[tokio::test]
async fn packages_that_came_since_are_seen() {
    let home = tempfile::tempdir().unwrap();
    let Some((_agent, channel, _)) = warmed(&["--home", home.path().to_str().unwrap()]).await else { return };
    let packages = packages(home.path());
    std::fs::create_dir_all(&packages).unwrap();
    std::fs::write(packages.join("late.pth"), "import sys; sys.late = 5\n").unwrap();
    let done = check_fresh(&channel, KernelStart::new(Python), "import sys; sys.late").await;
    assert_eq!(done.value().unwrap(), "5");
}

#[tokio::test]
async fn what_was_seeded_before_is_seeded_anew() {
    let home = tempfile::tempdir().unwrap();
    if !is_here(Python) {
        return;
    }
    let packages = packages(home.path());
    std::fs::create_dir_all(&packages).unwrap();
    std::fs::write(packages.join("seed.pth"), "import random; random.seed(1)\n").unwrap();
    let Some((_agent, channel, _)) = warmed(&["--home", home.path().to_str().unwrap()]).await else { return };
    let drawn = "import random; random.random() == random.Random(1).random()";
    assert_eq!(run(&channel, Python, drawn).await.value().unwrap(), "False");
    assert!(is_warmed(&channel, "python").await);
}
