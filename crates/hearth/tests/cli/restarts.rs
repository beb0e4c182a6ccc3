//! Daemons that end in order, or cannot begin: whatever they were at, no sandbox comes to harm.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::held::Daemon;
use crate::support::{HANG, Home, Running, assert_code, said, text};

/// A sandbox with a disk and something on it.
fn with_note() -> Option<Daemon> {
    let home = Daemon::with_images()?;
    home.ok(&["create", "--name", "a", "--disk", "64M"]);
    home.ok(&["exec", "a", "sh", "-c", "echo kept > note; sync"]);
    Some(home)
}

#[track_caller]
fn assert_whole(home: &Daemon, when: &str) {
    let note = home.0.hearth(&["exec", "a", "cat", "note"]);
    assert!(note.status.success() && text(&note.stdout) == "kept\n", "{when}: {}", said(&note));
}

#[test]
fn a_daemon_that_cannot_begin_leaves_sandboxes_as_they_are() {
    let Some(home) = with_note() else { return };
    home.ok(&["create", "--name", "b"]);
    home.ok(&["pause", "b"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let missing = ["--tls-cert", "/nonexistent", "--tls-key", "/nonexistent"];
    for listen in
        [vec!["--listen", &taken], vec!["--listen", "0.0.0.0:0"], [&["--listen", "127.0.0.1:0"], &missing[..]].concat()]
    {
        home.end(Signal::TERM);
        let machines = home.0.noted_machines();
        assert_code(&home.0.hearth(&[&["daemon"], &listen[..]].concat()), 125);
        assert_eq!(home.0.noted_machines(), machines, "{listen:?}");
        assert_whole(&home, &format!("{listen:?}"));
    }
    home.ok(&["exec", "b", "true"]);
    home.ok(&["rm", "-a"]);
    home.0.assert_nothing_left();
}

#[test]
fn whoever_starts_a_daemon_and_is_interrupted_takes_no_sandbox_along() {
    let Some(home) = with_note() else { return };
    for signal in [Signal::INT, Signal::KILL] {
        home.end(Signal::KILL);
        // Nobody is there any more to be told that it is ready.
        let mut unheard = Running::start(&mut home.0.command(&["daemon", "--started"]));
        drop(unheard.child.stdout.take());
        let begun = Instant::now();
        while home.pid().is_none() {
            assert!(begun.elapsed() < HANG, "no daemon holds the lock");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_whole(&home, "nobody heard that it was ready");
        home.end(Signal::TERM);
        unheard.finish();
        for delay_ms in [2, 8, 14, 20, 26, 40] {
            let starting = Running::start(&mut home.0.command(&["ls"]));
            std::thread::sleep(Duration::from_millis(delay_ms));
            starting.signal(signal);
            starting.finish();
            assert_whole(&home, &format!("{signal:?} after {delay_ms} ms"));
            home.end(Signal::KILL);
        }
        assert_whole(&home, "after all");
    }
    home.ok(&["rm", "-a"]);
    home.0.assert_nothing_left();
}

#[test]
fn a_daemon_that_is_told_to_end_brings_its_work_to_an_end_first() {
    let Some(home) = with_note() else { return };
    let moments: [(&[&str], [u64; 3]); 4] = [
        (&["fork", "a", "-n", "2"], [30, 120, 300]),
        (&["snapshot", "create", "a", "s"], [10, 50, 150]),
        (&["stop", "a"], [20, 100, 250]),
        (&["start", "a"], [50, 400, 1500]),
    ];
    for (work, delays) in moments {
        for delay_ms in delays {
            let when = format!("{work:?} for {delay_ms} ms");
            if work[0] == "start" {
                home.ok(&["stop", "a"]);
            }
            let working = Running::start(&mut home.0.command(work));
            std::thread::sleep(Duration::from_millis(delay_ms));
            home.end(Signal::TERM);
            working.finish();
            if home.json(&["inspect", "a"])["state"] == "stopped" {
                home.ok(&["start", "a"]);
            }
            assert_whole(&home, &when);
            // A snapshot that was taken is there, whether or not its taker was told.
            home.0.hearth(&["snapshot", "rm", "s"]);
            for copy in home.ok(&["ls", "-q"]).lines().filter(|id| home.json(&["inspect", id])["name"] != "a") {
                home.ok(&["rm", copy]);
            }
        }
    }
    home.ok(&["rm", "-a"]);
    home.0.assert_nothing_left();
}

#[test]
fn a_program_whose_output_is_no_longer_read_ends_as_if_it_ran_here() {
    let Some(home) = with_note() else { return };
    let mut flood = Running::start(&mut home.0.command(&["exec", "a", "yes"]));
    flood.read_until("y\n");
    drop(flood.child.stdout.take());
    assert_code(&flood.finish(), 141);
    let ended =
        |home: &Daemon| home.ok(&["ps", "a"]).lines().any(|line| line.contains("yes") && line.contains("exited 141"));
    let begun = Instant::now();
    while !ended(&home) {
        assert!(begun.elapsed() < HANG, "{}", home.ok(&["ps", "a"]));
    }
    let process = home.ok(&["exec", "-d", "a", "sh", "-c", "while :; do echo more; sleep 0.01; done"]);
    let mut watching = Running::start(&mut home.0.command(&["attach", "a", &process]));
    watching.read_until("more\n");
    watching.signal(Signal::TERM);
    assert_code(&watching.finish(), 143);
    let listed = home.ok(&["ps", "a"]);
    assert!(listed.lines().any(|line| line.contains("echo more") && line.contains("running")), "{listed}");
    home.ok(&["rm", "a"]);
    home.0.assert_nothing_left();
}

#[test]
fn what_ran_on_another_versions_machine_is_neither_saved_nor_resumed_and_the_reason_is_said() {
    let Some(home) = Home::fresh_with_images().map(Daemon) else { return };
    home.ok(&["create", "--name", "a"]);
    home.ok(&["create", "--name", "b"]);
    home.ok(&["pause", "b"]);
    home.end(Signal::TERM);
    let templates = fs::read_dir(home.0.path().join("templates")).unwrap();
    for record in templates.map(|template| template.unwrap().path().join("template.json")).filter(|path| path.exists())
    {
        let said = fs::read_to_string(&record).unwrap();
        assert!(said.contains("memory-backend=ram"), "{said}");
        fs::write(&record, said.replace("memory-backend=ram", "x-of-an-earlier-one=on,memory-backend=ram")).unwrap();
    }
    for refused in [&["pause", "a"][..], &["snapshot", "create", "a", "s"], &["fork", "a"], &["resume", "b"]] {
        let refused = home.0.hearth(refused);
        assert_code(&refused, 125);
        assert!(text(&refused.stderr).contains("another version of Hearth"), "{}", said(&refused));
    }
    home.ok(&["exec", "a", "true"]);
    assert_eq!(home.ok(&["ls", "--quiet", "--state", "paused"]).lines().count(), 1);
    // New ones get another template.
    home.ok(&["run", "--", "true"]);
    home.ok(&["rm", "-a"]);
    home.0.assert_nothing_left();
}
