//! `hearth audit`: who has asked for what.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;
use serde_json::Value;

use crate::held::Daemon;
use crate::remote::Listening;
use crate::support::{Home, Running, assert_code, said, text};

#[test]
fn it_shows_whose_key_it_was_and_follows_what_comes() {
    let there = Listening::start(Home::empty(), &[]);
    let before = there.home.hearth(&["audit"]);
    assert_eq!((before.status.code(), before.stdout.as_slice()), (Some(0), &b""[..]), "{}", said(&before));
    let mut following = Running::start(&mut there.home.command(&["audit", "-f"]));
    let key = there.key("laptop");
    assert_code(&Running::start(&mut there.elsewhere(&key, &["inspect", "nobody"])).finish(), 125);
    let line = following.read_until("\n");
    assert!(line.contains(" key laptop: sandboxes_inspect nobody: 404 unknown_sandbox, "), "{line}");
    assert_code(&there.home.hearth(&["ls"]), 0);
    let line = following.read_until("\n");
    assert!(line.contains(" process ") && line.contains(": sandboxes_list: 200, "), "{line}");
    following.signal(Signal::KILL);
    following.finish();
    let all = text(&there.home.hearth(&["audit", "--json"]).stdout);
    let records: Vec<Value> = all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((records.len(), &records[0]["who"]["key"]), (2, &"laptop".into()), "{all}");
    let log = there.home.path().join("logs/audit.jsonl");
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);
    // What was put aside comes first, and what cannot be read is passed over.
    fs::rename(&log, log.with_added_extension("1")).unwrap();
    fs::write(&log, "half a line\n").unwrap();
    let rest = there.home.hearth(&["audit"]);
    assert_eq!((text(&rest.stdout).lines().count(), rest.status.code()), (2, Some(0)), "{}", said(&rest));
    assert!(text(&rest.stderr).contains("cannot be read"), "{}", said(&rest));
}

#[test]
fn b43_it_has_no_secret_no_variable_no_argument_and_no_content() {
    let Some(home) = Daemon::with_images() else { return };
    let run = |arguments: &[&str]| {
        let output = Running::start(home.0.command(arguments).env("TOKEN", "hidden-secret")).finish();
        assert_code(&output, 0);
        text(&output.stdout).trim_end().to_owned()
    };
    let id = run(&["create", "--name", "a", "--secret", "TOKEN", "-e", "GIVEN=hidden-variable"]);
    run(&["exec", "--secret", "TOKEN", "a", "sh", "-c", "echo $TOKEN $GIVEN hidden-argument > hidden-file"]);
    run(&["file", "read", "a", "hidden-file"]);
    run(&["kernel", "run", "a", "echo hidden-code", "-l", "bash"]);
    run(&["run", "--", "true"]);
    let mut vanishing =
        Running::start(&mut home.0.command(&["exec", "--json", "a", "sh", "-c", "echo ready; sleep 100"]));
    while !home.ok(&["ps", "a"]).contains("sleep 100") {}
    vanishing.signal(Signal::KILL);
    vanishing.child.wait().unwrap();
    // The daemon sees its end by the connection's.
    while home.ok(&["audit"]).matches("exec_held").count() < 2 {}
    home.ok(&["rm", "a"]);
    let log = home.ok(&["audit", "--json"]);
    assert!(!log.contains("hidden") && log.contains("\"made\":["), "{log}");
    let made: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let with = |operation: &'static str| made.iter().filter(move |record| record["operation"] == operation);
    assert_eq!(with("sandboxes_create").next().unwrap()["made"][0], id.as_str());
    assert_eq!(with("sandboxes_remove").next().unwrap()["sandbox"], id.as_str());
    let held: Vec<&Value> = with("exec_held").collect();
    assert!(held.len() == 2 && held.iter().all(|record| record["sandbox"] == id.as_str()), "{log}");
}
