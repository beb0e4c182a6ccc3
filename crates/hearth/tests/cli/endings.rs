//! Ends that nobody planned: signals, kills, readers that leave. Nothing may be left of any of them.

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
    let machines = running.children();
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
    let machines = running.children();
    assert_eq!(machines.len(), 1);
    running.signal(Signal::TERM);
    assert_code(&running.finish(), 143);
    machines.into_iter().for_each(wait_until_gone);
    home.assert_nothing_left();
}

#[test]
fn b51_a_killed_hearth_takes_its_machine_along_and_the_next_start_removes_the_rest() {
    let Some(home) = Home::with_images() else { return };
    let mut running = Running::start(&mut home.command(&["run", "--", "sh", "-c", "echo ready; sleep 300"]));
    running.read_until("ready\n");
    let machines = running.children();
    running.signal(Signal::KILL);
    running.finish();
    machines.into_iter().for_each(wait_until_gone);
    assert_eq!(home.left().len(), 1, "a killed process removes nothing itself");
    assert_code(&home.hearth(&["doctor"]), 0);
    home.assert_nothing_left();
}

#[test]
fn b51_kills_at_any_moment_leave_nothing_after_the_next_start() {
    let Some(home) = Home::with_images() else { return };
    // From before the first file to after the first byte of the guest.
    for delay_ms in [0, 5, 20, 40, 60, 80, 120, 200, 400, 900, 2500] {
        for signal in [Signal::KILL, Signal::TERM] {
            let running = Running::start(&mut home.command(&["run", "--accel", "tcg", "--", "sleep", "300"]));
            std::thread::sleep(Duration::from_millis(delay_ms));
            let machines = running.children();
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
    kill_process(running.children()[0], Signal::KILL).unwrap();
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
