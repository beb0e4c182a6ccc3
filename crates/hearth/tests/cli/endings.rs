//! Ends that nobody planned: signals, kills, readers that leave. Nothing may be left of any of them.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Signal, kill_process};

use crate::support::{Home, Running, assert_code, said, text, wait_until_gone};

#[test]
fn b51_ctrl_c_reaches_the_program() {
    let Some(home) = Home::with_images() else { return };
    let script = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.1; done";
    let mut running = Running::start(&mut home.command(&["run", "--", "sh", "-c", script]));
    running.read_until("ready\n");
    running.signal(Signal::INT);
    let output = running.finish();
    assert_eq!(text(&output.stdout), "caught\n");
    assert_code(&output, 5);
    home.assert_nothing_left();
}

#[test]
fn b51_a_second_ctrl_c_ends_the_sandbox() {
    let Some(home) = Home::with_images() else { return };
    let script = "trap 'echo ignored' INT; echo ready; while :; do sleep 0.1; done";
    let mut running = Running::start(&mut home.command(&["run", "--", "sh", "-c", script]));
    running.read_until("ready\n");
    running.signal(Signal::INT);
    running.read_until("ignored\n");
    let machines = home.machines(&running);
    running.signal(Signal::INT);
    assert_code(&running.finish(), 130);
    machines.into_iter().for_each(wait_until_gone);
    home.assert_nothing_left();
}

#[test]
fn b51_sigterm_ends_the_sandbox() {
    let Some(home) = Home::with_images() else { return };
    let mut running = Running::start(&mut home.command(&["run", "--", "sh", "-c", "echo ready; sleep 300"]));
    running.read_until("ready\n");
    let machines = home.machines(&running);
    assert_eq!(machines.len(), 1);
    running.signal(Signal::TERM);
    assert_code(&running.finish(), 143);
    machines.into_iter().for_each(wait_until_gone);
    home.assert_nothing_left();
}

#[test]
fn b51_a_killed_hearth_without_a_daemon_takes_its_machine_along_and_the_next_start_removes_the_rest() {
    let Some(home) = Home::with_images() else { return };
    let arguments = ["run", "--no-daemon", "--", "sh", "-c", "echo ready; sleep 300"];
    let mut running = Running::start(&mut home.command(&arguments));
    running.read_until("ready\n");
    assert!(home.daemon().is_none());
    let machines = home.machines(&running);
    assert_eq!(machines.len(), 1);
    running.signal(Signal::KILL);
    running.finish();
    machines.into_iter().for_each(wait_until_gone);
    assert_eq!(home.left().len(), 1, "a killed process removes nothing itself");
    assert_code(&home.hearth(&["doctor"]), 0);
    home.assert_nothing_left();
}

#[test]
fn b51_the_daemon_removes_what_a_killed_run_leaves() {
    let Some(home) = Home::with_images() else { return };
    let mut running = Running::start(&mut home.command(&["run", "--", "sh", "-c", "echo ready; sleep 300"]));
    running.read_until("ready\n");
    let machines = home.machines(&running);
    assert_eq!((machines.len(), home.left().len()), (1, 1));
    running.signal(Signal::KILL);
    running.finish();
    machines.into_iter().for_each(wait_until_gone);
    home.assert_nothing_left();
}

#[test]
fn b51_a_run_whose_daemon_is_killed_fails_and_the_next_start_removes_the_rest() {
    let Some(home) = Home::with_images() else { return };
    let running = Running::start(&mut home.command(&["run", "--json", "--", "sh", "-c", "echo ready; sleep 300"]));
    while home.daemon().is_none() || home.machines(&running).is_empty() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let (daemon, machines) = (home.daemon().unwrap(), home.machines(&running));
    kill_process(daemon, Signal::KILL).unwrap();
    assert_code(&running.finish(), 125);
    assert_code(&home.run(&["true"]), 0);
    machines.into_iter().for_each(wait_until_gone);
    home.assert_nothing_left();
}

#[test]
fn b51_kills_at_any_moment_leave_nothing_after_the_next_start() {
    let Some(home) = Home::with_images() else { return };
    // From before the first file to after the first byte of the guest.
    for delay_ms in [0, 5, 20, 40, 60, 80, 120, 200, 400, 900, 2500] {
        for (signal, daemon) in [(Signal::KILL, "--no-daemon"), (Signal::TERM, "--no-daemon"), (Signal::KILL, "")] {
            let arguments = ["run", "--accel", "tcg", daemon, "--", "sleep", "300"];
            let arguments: Vec<&str> = arguments.into_iter().filter(|argument| !argument.is_empty()).collect();
            let running = Running::start(&mut home.command(&arguments));
            std::thread::sleep(Duration::from_millis(delay_ms));
            let machines = home.machines(&running);
            running.signal(signal);
            running.finish();
            machines.into_iter().for_each(wait_until_gone);
        }
    }
    home.hearth(&["doctor"]);
    home.assert_nothing_left();
}

#[test]
fn b51_a_killed_machine_is_an_error_and_leaves_nothing() {
    let Some(home) = Home::with_images() else { return };
    let mut running = Running::start(&mut home.command(&["run", "--", "sh", "-c", "echo ready; sleep 300"]));
    running.read_until("ready\n");
    kill_process(home.machines(&running)[0], Signal::KILL).unwrap();
    let output = running.finish();
    assert_code(&output, 125);
    assert!(text(&output.stderr).contains("machine error"), "{}", said(&output));
    home.assert_nothing_left();
}

#[test]
fn a_reader_that_leaves_ends_the_sandbox() {
    let Some(home) = Home::with_images() else { return };
    let mut running = Running::start(&mut home.command(&["run", "--", "yes"]));
    running.read_until("y\n");
    drop(running.child.stdout.take());
    assert_code(&running.finish(), 141);
    home.assert_nothing_left();
}

#[test]
fn b03_a_guest_that_is_frozen_does_not_outlive_its_deadline() {
    let Some(home) = Home::with_images() else { return };
    let freeze =
        "mkdir /sys/fs/cgroup/x; echo 1 > /sys/fs/cgroup/x/cgroup.procs; echo 1 > /sys/fs/cgroup/x/cgroup.freeze";
    let output = home.hearth(&["run", "--timeout", "3", "-u", "root", "--", "bash", "-c", freeze]);
    assert_code(&output, 124);
    assert!(text(&output.stderr).contains("did not keep the deadline"), "{}", said(&output));
    home.assert_nothing_left();
}

#[test]
fn b51_ctrl_c_twice_ends_a_guest_that_is_stopped() {
    let Some(home) = Home::with_images() else { return };
    let mut running = Running::start(&mut home.command(&["run", "--", "sh", "-c", "echo ready; sleep 300"]));
    running.read_until("ready\n");
    let machines = home.machines(&running);
    kill_process(machines[0], Signal::STOP).unwrap();
    // Two that come before the first is looked at are one: this goes on as an impatient person would.
    assert_code(&running.interrupt_until_it_ends(), 130);
    machines.into_iter().for_each(wait_until_gone);
    home.assert_nothing_left();
}

#[test]
fn b51_sigquit_leaves_nothing_and_an_ignored_sighup_stays_ignored() {
    let Some(home) = Home::with_images() else { return };
    let hearth = env!("CARGO_BIN_EXE_hearth");
    let mut command = home.command(&[]);
    let script = "trap '' HUP; exec \"$0\" run -- sh -c 'echo ready; read line; echo $line'";
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script, hearth]).env("HEARTH_HOME", home.path()).env("HEARTH_POOL", "0");
    shell.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut ignoring = Running::start(&mut shell);
    ignoring.read_until("ready\n");
    ignoring.signal(Signal::HUP);
    ignoring.child.stdin.take().unwrap().write_all(b"still here\n").unwrap();
    let output = ignoring.finish();
    assert_eq!(text(&output.stdout), "still here\n");
    let mut running = Running::start(command.args(["run", "--", "sh", "-c", "echo ready; sleep 300"]));
    running.read_until("ready\n");
    running.signal(Signal::QUIT);
    assert_code(&running.finish(), 131);
    home.assert_nothing_left();
}

#[test]
fn b50_a_host_disk_that_fills_up_is_an_error_in_the_guest_and_no_hang() {
    let Some(home) = Home::with_images() else { return };
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can mount a small file system");
    }
    let (store, templates) = (home.path().join("store"), home.path().join("templates"));
    let (store, templates) = (std::fs::read_link(store).unwrap(), std::fs::read_link(templates).unwrap());
    let script = format!(
        "mount -t tmpfs -o size=90m small {home} && ln -s {store} {home}/store && ln -s {templates} {home}/templates && \
         exec {hearth} run --no-daemon --accel tcg --disk 1G -- dd if=/dev/zero of=/workspace/f bs=1M count=300 conv=fsync",
        home = home.path().display(),
        store = store.display(),
        templates = templates.display(),
        hearth = env!("CARGO_BIN_EXE_hearth"),
    );
    let mut command = std::process::Command::new("unshare");
    command
        .args(["-m", "sh", "-c", &script])
        .env("HEARTH_HOME", home.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = Running::start(&mut command).finish();
    // Where it hits the journal of the guest's file system the guest itself ends.
    let (code, words) = match text(&output.stderr).contains("Input/output error") {
        true => (1, "Input/output error"),
        false => (125, "its kernel gave up: EXT4-fs"),
    };
    assert_code(&output, code);
    assert!(text(&output.stderr).contains(words), "{}", said(&output));
}
