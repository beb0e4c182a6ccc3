//! Templates as a user sees them.

use std::fs;

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::support::{Home, Running, assert_code, said, text, wait_until_gone};

fn list(home: &Home) -> Vec<Value> {
    let output = home.hearth(&["template", "list", "--json"]);
    assert_code(&output, 0);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_damaged_template_is_made_again_and_never_started() {
    let Some(home) = Home::with_images() else { return };
    // Not those that all tests share.
    fs::remove_file(home.path().join("templates")).unwrap();
    let built = home.hearth(&["template", "build"]);
    assert_code(&built, 0);
    let id = text(&built.stdout).trim_end().to_owned();
    assert_code(&home.hearth(&["template", "build"]), 0);
    let there = list(&home);
    assert_eq!((there.len(), &there[0]["id"], &there[0]["in_use"]), (1, &Value::from(id.as_str()), &false.into()));
    let mut known = vec![id];
    for file in ["memory", "qemu"] {
        let path = home.path().join("templates").join(&known[known.len() - 1]).join(file);
        // Where the guest runs by itself there is no QEMU that has translated it.
        let Ok(mut bytes) = fs::read(&path) else { continue };
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        if let Some(daemon) = home.daemon() {
            kill_process(daemon, Signal::TERM).unwrap();
            wait_until_gone(daemon);
        }
        let run = home.run(&["echo", "whole"]);
        assert_code(&run, 0);
        assert_eq!(text(&run.stdout), "whole\n");
        let there = list(&home);
        let id = there[0]["id"].as_str().unwrap().to_owned();
        assert!(there.len() == 1 && !known.contains(&id), "{there:?}");
        known.push(id);
    }
    let there = list(&home);

    let mut running = Running::start(&mut home.command(&["run", "--", "sh", "-c", "echo up; sleep 100"]));
    running.read_until("up\n");
    let used = home.hearth(&["template", "rm", there[0]["id"].as_str().unwrap()]);
    assert_code(&used, 125);
    assert!(text(&used.stderr).contains("is needed by a process"), "{}", said(&used));
    running.interrupt_until_it_ends();
    if let Some(daemon) = home.daemon() {
        kill_process(daemon, Signal::TERM).unwrap();
        wait_until_gone(daemon);
    }
    // So is the blank memory that booted ones lie on.
    let boot = || assert_code(&home.hearth(&["run", "--boot", "--", "true"]), 0);
    boot();
    let blank = list(&home).into_iter().find(|template| template["bytes"].as_u64() < Some(64 * 1024)).unwrap();
    let memory = home.path().join("templates").join(blank["id"].as_str().unwrap()).join("memory");
    let whole = fs::read(&memory).unwrap();
    fs::write(&memory, b"damaged").unwrap();
    if let Some(daemon) = home.daemon() {
        kill_process(daemon, Signal::TERM).unwrap();
        wait_until_gone(daemon);
    }
    boot();
    assert_eq!(fs::read(&memory).unwrap(), whole);
    if let Some(daemon) = home.daemon() {
        kill_process(daemon, Signal::TERM).unwrap();
        wait_until_gone(daemon);
    }
    // What a killed maker has left goes when nobody makes anything.
    let unfinished = home.path().join("templates").join(".unfinished-x");
    fs::create_dir(&unfinished).unwrap();
    assert_code(&home.hearth(&["template", "rm", "--unused"]), 0);
    assert!(list(&home).is_empty() && !unfinished.exists());
    assert_code(&home.hearth(&["template", "rm", "0"]), 125);
    home.assert_nothing_left();
}
