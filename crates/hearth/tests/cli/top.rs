//! What sandboxes take of this machine.

use rustix::process::Signal;
use serde_json::Value;

use crate::held::Daemon;
use crate::screen::Terminal;
use crate::support::{Home, Running, assert_code, said, text};

#[test]
fn top_refuses_what_it_cannot_mean_and_shows_nothing_where_no_daemon_runs() {
    let home = Home::empty();
    for (arguments, named) in [
        (&["top", "--interval", "0"][..], "--interval"),
        (&["top", "--once", "--interval", "2"], "--once"),
        (&["top", "web"], "web"),
    ] {
        let refused = home.hearth(arguments);
        assert_code(&refused, 125);
        assert!(text(&refused.stderr).contains(named), "{}", said(&refused));
    }
    let shown = home.hearth(&["top", "--once", "--json"]);
    assert_code(&shown, 0);
    assert_eq!(serde_json::from_slice::<Value>(&shown.stdout).unwrap()["sandboxes"], Value::Array(Vec::new()));
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "no daemon is started for it");
}

#[test]
fn top_shows_what_is_busy_what_idles_and_what_is_on_disk() {
    let Some(home) = Daemon::with_images() else { return };
    for name in ["busy", "idle", "paused"] {
        home.ok(&["create", "--name", name]);
    }
    home.ok(&["exec", "-d", "busy", "sh", "-c", "while :; do :; done"]);
    home.ok(&["pause", "paused"]);
    let picture = home.json(&["top", "--once", "--json"]);
    let sandboxes = picture["sandboxes"].as_array().unwrap();
    let names: Vec<&str> = sandboxes.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["busy", "idle", "paused"], "{picture}");
    let percent = |index: usize| sandboxes[index]["cpu_percent"].as_f64();
    assert!(percent(0).unwrap() > 20.0 && percent(0) > percent(1) && percent(2).is_none(), "{picture}");
    let machine = &sandboxes[0]["machine"];
    assert!(
        machine["memory_bytes"].as_u64() > machine["own_bytes"].as_u64()
            && machine["own_bytes"].as_u64() > Some(1 << 20)
    );
    assert!(sandboxes[2].get("machine").is_none() && picture["host"]["cpus"].as_u64() > Some(0), "{picture}");
    // Live: a line of JSON each time; on a terminal a picture in the place of the one before.
    let mut live = Running::start(&mut home.0.command(&["top", "--json", "--interval", "100ms"]));
    for _ in 0..2 {
        let line: Value = serde_json::from_str(&live.read_until("\n")).unwrap();
        assert_eq!(line["sandboxes"].as_array().unwrap().len(), 3);
    }
    live.signal(Signal::INT);
    assert_code(&live.finish(), 130);
    let mut terminal = Terminal::new(120, 40);
    let live = terminal.start(&mut home.0.command(&["top", "--interval", "100ms"]));
    let shown = terminal.read_until("paused").to_owned();
    assert!(shown.contains("\x1b[H\x1b[J3 sandboxes, ") && shown.contains("OWN"), "{shown:?}");
    live.signal(Signal::TERM);
    assert_code(&live.finish(), 143);
}
