//! The workspace of a sandbox that stays: what has changed in it, and the way back.

use std::process::Output;

use serde_json::Value;

use crate::held::Daemon;
use crate::screen::Terminal;
use crate::support::{Home, assert_code, said, text};

fn error_of(output: &Output) -> Value {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(output)));
    report["error"].clone()
}

#[test]
fn refusals_about_a_workspace_have_the_codes_of_the_api() {
    let home = Home::empty();
    for (arguments, code, field) in [
        (&["diff", "--json", "x"][..], "unknown_sandbox", None),
        (&["diff", "--json", "--since", "a/b", "x"], "invalid_request", Some("since")),
        (&["patch", "--json", "x", "/dev/null"], "unknown_sandbox", None),
        (&["patch", "--json", "-p", "65", "x", "/dev/null"], "invalid_field", Some("strip")),
        (&["reset", "--json", "x"], "unknown_sandbox", None),
        (&["reset", "--json", "x", ".."], "invalid_request", Some("name")),
        (&["checkpoint", "create", "--json", "x", "a b"], "invalid_request", Some("name")),
        (&["checkpoint", "ls", "--json", "x"], "unknown_sandbox", None),
        (&["checkpoint", "rm", "--json", "x", "a"], "unknown_sandbox", None),
    ] {
        let output = home.hearth(arguments);
        assert_code(&output, 125);
        let error = error_of(&output);
        assert_eq!((error["code"].as_str(), error["field"].as_str()), (Some(code), field), "{arguments:?}: {error}");
    }
    for (arguments, named) in [
        (&["diff"][..], "SANDBOX"),
        (&["diff", "--stat", "--json", "x"], "--json"),
        (&["patch", "-p", "x", "y"], "--strip"),
        (&["patch", "x", "/no/such/file"], "/no/such/file"),
        (&["checkpoint", "rm", "x"], "NAME"),
    ] {
        let output = home.hearth(arguments);
        assert_code(&output, 125);
        assert!(text(&output.stderr).contains(named), "{arguments:?}: {}", said(&output));
    }
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "nothing was made");
}

/// What tells one state of the workspace from another.
const STATE: &str = "find . -printf '%p %y %m %u %l\\n' | sort; find . -type f -print0 | sort -z | xargs -0 sha256sum";

#[test]
fn b36_b38_b39_a_workspace_is_diffed_patched_reset_and_kept_at_checkpoints() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a"]);
    let sh = |script: &str| home.ok(&["exec", "a", "sh", "-c", script]);
    let early = home.0.hearth(&["diff", "a"]);
    assert_code(&early, 125);
    assert!(text(&early.stderr).contains("hint: hearth checkpoint create a"), "{}", said(&early));
    sh("printf 'one\\ntwo\\n' > a; mkdir d; printf x > d/b; ln -s a l");
    let before = sh(STATE);
    assert_eq!(home.ok(&["checkpoint", "create", "a"]), "baseline");
    assert_eq!(home.ok(&["diff", "a"]), "");
    sh("echo three >> a; rm -r d; head -c 3000 /dev/urandom > binary; chmod 755 binary; mkfifo pipe; \
        printf '\\033[2J' > escapes");
    let diffed = home.0.hearth(&["diff", "a"]);
    assert_code(&diffed, 0);
    assert!(text(&diffed.stderr).contains("1 of the changes fit in no patch"), "{}", said(&diffed));
    assert!(text(&diffed.stdout).contains("+\x1b[2J"), "a pipe gets all bytes as they are");
    let mut terminal = Terminal::new(80, 24);
    let shown = terminal.start(&mut home.0.command(&["diff", "a"]));
    assert!(terminal.read_until("+\\u{1b}[2J").contains("+three\r\n"), "a terminal is driven by nobody");
    assert_code(&shown.finish(), 0);
    let stat = home.ok(&["diff", "a", "--stat"]);
    assert!(stat.contains("modified  a  8 B -> 14 B\n") && stat.ends_with("1 modified, 1 deleted"), "{stat}");
    let json = home.json(&["diff", "a", "--json"]);
    assert_eq!((json["totals"]["created"].as_u64(), json["changes"].as_array().unwrap().len()), (Some(3), 5));
    sh("rm pipe");
    let after = sh(STATE);
    home.ok(&["checkpoint", "create", "a", "changed"]);
    assert!(home.ok(&["reset", "a"]).contains("restored"));
    assert_eq!(sh(STATE), before);
    // The second file does not match: nothing is changed, and the error says which and where.
    sh("printf y > d/b");
    let patch = || diffed.stdout.clone();
    let conflict = home.0.hearth_with_input(&["patch", "--json", "a"], patch());
    assert_code(&conflict, 125);
    let error = error_of(&conflict);
    assert!(error["code"] == "patch_conflict" && error["message"].as_str().unwrap().contains("d/b"), "{error}");
    assert!(error["message"].as_str().unwrap().contains("hunk"), "{error}");
    assert_eq!(sh("cat a; ls"), "one\ntwo\na\nd\nl");
    sh("printf x > d/b");
    assert!(home.0.hearth_with_input(&["patch", "--check", "a", "-"], patch()).stdout.starts_with(b"applies"));
    assert_eq!(sh(STATE), before);
    let file = home.0.path().join("p.patch");
    std::fs::write(&file, patch()).unwrap();
    let file = file.to_str().unwrap();
    assert!(home.ok(&["patch", "a", file]).starts_with("applied: 4 files, "));
    assert_eq!(sh(STATE), after);
    home.ok(&["patch", "-R", "a", file]);
    assert_eq!(sh(STATE), before);
    let bad = home.0.hearth_with_input(&["patch", "--json", "a"], b"no patch at all".to_vec());
    assert_eq!(error_of(&bad)["code"], "bad_patch");
    home.json(&["reset", "--json", "a", "changed"]);
    assert_eq!(sh(STATE), after);
    let names = |list: Value| list.as_array().unwrap().iter().map(|one| one["name"].clone()).collect::<Vec<_>>();
    assert_eq!(names(home.json(&["checkpoint", "ls", "--json", "a"])), ["baseline", "changed"]);
    assert!(home.ok(&["checkpoint", "ls", "a"]).contains("changed"));
    home.ok(&["checkpoint", "rm", "a", "changed"]);
    let gone = home.0.hearth(&["checkpoint", "rm", "--json", "a", "changed"]);
    assert_eq!(error_of(&gone)["code"], "unknown_name");
    // What is copied and synced into it is a change like any other.
    home.ok(&["reset", "a"]);
    let here = tempfile::tempdir().unwrap();
    std::fs::write(here.path().join("copied"), "copied").unwrap();
    home.ok(&["cp", here.path().join("copied").to_str().unwrap(), "a:d"]);
    home.ok(&["sync", "--delete", "a:.", here.path().join("all").to_str().unwrap()]);
    std::fs::remove_file(here.path().join("all/a")).unwrap();
    home.ok(&["sync", "--delete", here.path().join("all").to_str().unwrap(), "a:."]);
    let stat = home.ok(&["diff", "a", "--stat"]);
    assert!(stat.contains("deleted   a") && stat.contains("created   d/copied"), "{stat}");
    assert!(stat.ends_with("1 created, 0 modified, 1 deleted"), "{stat}");
}
