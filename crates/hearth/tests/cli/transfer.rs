//! Files and trees between this host and a sandbox.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use rustix::process::Signal;
use serde_json::Value;

use crate::held::Daemon;
use crate::support::{Home, Running, assert_code, said, text};

fn error_of(output: &Output) -> Value {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(output)));
    report["error"].clone()
}

#[test]
fn what_cannot_be_copied_or_synced_is_refused_before_anything_is_made() {
    let home = Home::empty();
    for (arguments, code, message) in [
        (&["cp", "--json", "x:a", "."][..], "unknown_sandbox", "no sandbox"),
        (&["cp", "--json", "/dev/null", "x:a"], "unknown_sandbox", "no sandbox"),
        (&["cp", "--json", "/no/such", "x:a"], "host", "nothing at"),
        (&["cp", "--json", "a", "b"], "invalid_value", "one side is"),
        (&["cp", "--json", "x:a", "y:b"], "invalid_value", "one side is"),
        (&["cp", "--json", "-", "-"], "invalid_value", "one side is"),
        (&["cp", "--json", ":a", "b"], "invalid_value", "SANDBOX:PATH"),
        (&["sync", "--json", "/", "x:."], "unknown_sandbox", "no sandbox"),
        (&["sync", "--json", "x:.", "."], "unknown_sandbox", "no sandbox"),
        (&["sync", "--json", "/no/such", "x:."], "host", "cannot open"),
        (&["sync", "--json", "/dev/null", "x:."], "not_a_directory", "not a directory"),
        (&["sync", "--json", "-", "x:."], "invalid_value", "one side is"),
        (&["sync", "--json", "--exclude", "[z-a]", ".", "x:."], "invalid_value", "--exclude"),
    ] {
        let output = home.hearth(arguments);
        assert_code(&output, 125);
        let error = error_of(&output);
        assert_eq!(error["code"], code, "{arguments:?}: {error}");
        assert!(error["message"].as_str().unwrap().contains(message), "{arguments:?}: {error}");
    }
    for (arguments, named) in [(&["cp", "a"][..], "DESTINATION"), (&["sync", "--prune", "a", "b"], "--prune")] {
        let output = home.hearth(arguments);
        assert_code(&output, 125);
        assert!(text(&output.stderr).contains(named), "{}", said(&output));
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "nothing was made");
}

/// What tells one state of a directory here from another.
fn state(directory: &Path) -> String {
    let script =
        "find . -mindepth 1 -printf '%p %y %m %s %l\\n' | sort; find . -type f -print0 | sort -z | xargs -r0 sha256sum";
    text(&Command::new("sh").args(["-c", script]).current_dir(directory).output().unwrap().stdout)
}

fn project(at: &Path) {
    fs::create_dir_all(at.join("src/deep")).unwrap();
    fs::write(at.join("src/main"), "main").unwrap();
    fs::write(at.join("src/deep/tool"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(at.join("src/deep/tool"), fs::Permissions::from_mode(0o750)).unwrap();
    fs::write(at.join("large"), vec![7; 3_000_000]).unwrap();
    symlink("src/main", at.join("link")).unwrap();
}

#[test]
fn b53_cp_keeps_trees_and_files_as_they_are_and_lands_where_it_was_told_to() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a"]);
    let here = tempfile::tempdir().unwrap();
    let at = |name: &str| here.path().join(name).to_str().unwrap().to_owned();
    let exec = |script: &str| home.ok(&["exec", "a", "sh", "-c", script]);
    project(&here.path().join("project"));
    let expected = state(&here.path().join("project"));

    // To a sandbox and back: under its own name where a directory is, else under the new one; /. is what is in it.
    home.ok(&["cp", &at("project"), "a:"]);
    home.ok(&["cp", &at("project"), "a:other"]);
    home.ok(&["cp", &at("project/."), "a:/tmp/into"]);
    assert_eq!(
        exec("stat -c %U:%a project/src/deep/tool; diff -r project other && diff -r other /tmp/into && echo same"),
        "user:750\nsame"
    );
    home.ok(&["cp", "a:project", &at("back")]);
    home.ok(&["cp", "a:project", here.path().to_str().unwrap()]);
    fs::create_dir(here.path().join("there")).unwrap();
    home.ok(&["cp", "a:project/.", &at("there")]);
    for copy in ["back", "project", "there"] {
        assert_eq!(state(&here.path().join(copy)), expected, "{copy}");
    }
    // Files: to a name, into a directory, over what is there; with their times.
    home.ok(&["cp", &at("project/src/main"), "a:copied"]);
    let json = home.json(&["cp", "--json", &at("project/src/deep/tool"), "a:/tmp"]);
    assert_eq!(json["members"], 1);
    assert_eq!(exec("cat copied; cat /tmp/tool"), "main#!/bin/sh");
    home.ok(&["cp", "a:project/src/deep/tool", &at("there/src/main")]);
    let (tool, copy) =
        (fs::metadata(at("project/src/deep/tool")).unwrap(), fs::metadata(at("there/src/main")).unwrap());
    assert_eq!((copy.mode(), copy.mtime(), copy.mtime_nsec()), (tool.mode(), tool.mtime(), tool.mtime_nsec()));
    // Streams.
    let tar = Command::new("tar").args(["-c", "-C", &at("project"), "."]).output().unwrap().stdout;
    assert_code(&home.0.hearth_with_input(&["cp", "-", "a:/tmp/tar"], tar), 0);
    assert_eq!(exec("diff -r project /tmp/tar && echo same"), "same");
    let streamed = home.0.hearth(&["cp", "a:project", "-"]);
    assert!(streamed.stdout.len() > 3_000_000 && streamed.stderr.is_empty());

    // What is hostile: links are kept and led through by nobody, bits and devices are not kept.
    exec(
        "mkdir evil; ln -s / evil/out; cp /bin/true evil/suid; chmod 6755 evil/suid; mkfifo evil/pipe; \
          sudo mknod evil/device c 1 3; printf evil > passwd",
    );
    home.ok(&["cp", "a:evil", &at("evil")]);
    assert!(fs::symlink_metadata(at("evil/out")).unwrap().is_symlink());
    assert_eq!(fs::metadata(at("evil/suid")).unwrap().mode() & 0o7777, 0o755);
    assert!(fs::symlink_metadata(at("evil/device")).is_err());
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("passwd"), "own").unwrap();
    symlink(outside.path(), at("planted")).unwrap();
    symlink(outside.path(), at("there/evil")).unwrap();
    symlink(outside.path().join("passwd"), at("file")).unwrap();
    symlink(outside.path().join("passwd"), at("there/passwd")).unwrap();
    for arguments in [
        ["cp", "a:evil", &at("planted")],
        ["cp", "a:evil", &at("there")],
        ["sync", "a:evil", &at("planted")],
        ["cp", "a:passwd", &at("file")],
        ["cp", "a:passwd", &at("there")],
        ["cp", "a:evil/out", &at("file")],
    ] {
        let refused = home.0.hearth(&arguments);
        assert_code(&refused, 125);
        assert!(text(&refused.stderr).contains("symbolic link, which is not followed"), "{}", said(&refused));
    }
    exec("mkdir -p through/planted; cp passwd through/planted/passwd");
    let through = home.0.hearth(&["cp", "a:through/.", here.path().to_str().unwrap()]);
    assert!(text(&through.stderr).contains("symbolic link"), "{}", said(&through));
    assert!(fs::symlink_metadata(at("file")).unwrap().is_symlink(), "it is there as before");
    fs::remove_file(at("file")).unwrap();
    home.ok(&["cp", "a:passwd", &at("file")]);
    assert_eq!(fs::read_to_string(at("file")).unwrap(), "evil");
    assert_eq!(fs::read_to_string(outside.path().join("passwd")).unwrap(), "own");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    for arguments in
        [["cp", "a:evil/pipe", &at("pipe")], ["cp", "a:nothing", &at("nothing")], ["cp", "a:passwd", &at("no/")]]
    {
        assert_code(&home.0.hearth(&arguments), 125);
    }
    for command in ["cp", "sync"] {
        let missing = home.0.hearth(&[command, "--json", "a:nothing", &at("nothing")]);
        assert_eq!(error_of(&missing)["code"], "not_found", "{}", said(&missing));
    }
}

#[test]
fn b51_b53_a_copy_that_is_interrupted_leaves_nothing_here() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a"]);
    let here = tempfile::tempdir().unwrap();
    home.ok(&["exec", "a", "sh", "-c", "mkdir d; head -c 80000000 /dev/zero > d/large"]);
    let destination = here.path().join("d");
    let running = Running::start(&mut home.0.command(&["cp", "a:d", destination.to_str().unwrap()]));
    // The place where it is unpacked is there before the first byte comes.
    while fs::read_dir(here.path()).unwrap().count() == 0 {
        std::thread::yield_now();
    }
    running.signal(Signal::INT);
    assert_code(&running.finish(), 130);
    assert_eq!(fs::read_dir(here.path()).unwrap().count(), 0);
}

#[test]
fn b53_sync_sends_what_is_other_and_removes_what_it_may_both_ways() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a"]);
    let here = tempfile::tempdir().unwrap();
    let (from, back) = (here.path().join("from"), here.path().join("back"));
    project(&from);
    fs::create_dir_all(from.join("node_modules/x")).unwrap();
    fs::write(from.join("node_modules/x/index"), "x").unwrap();
    let from_text = from.to_str().unwrap();
    let exec = |script: &str| home.ok(&["exec", "a", "sh", "-c", script]);
    let push = |options: &[&str]| {
        home.json(&[&["sync", "--json", "-x", "node_modules/"], options, &[from_text, "a:w"]].concat())
    };
    let list = |value: &Value| {
        value.as_array().unwrap().iter().map(|path| path.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };

    let first = push(&[]);
    assert_eq!(list(&first["sent"]), ["large", "link", "src", "src/deep", "src/deep/tool", "src/main"]);
    assert_eq!(push(&[])["sent"].as_array().unwrap().len(), 0, "nothing is other");
    fs::write(from.join("src/main"), "other").unwrap();
    fs::set_permissions(from.join("large"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(from.join("link")).unwrap();
    exec("mkdir -p w/node_modules w/old/deep; touch w/node_modules/kept w/old/deep/x w/old/y");
    let planned = push(&["--delete", "--dry-run"]);
    assert_eq!(
        (list(&planned["sent"]), list(&planned["removed"])),
        (vec!["large".into(), "src/main".into()], vec!["link".into(), "old".into()])
    );
    assert_eq!(exec("cat w/src/main; ls w"), "mainlarge\nlink\nnode_modules\nold\nsrc");
    assert_eq!(push(&["--delete"]), planned);
    assert_eq!(
        exec("cat w/src/main; stat -c %a w/large; ls w w/node_modules"),
        "other600\nw:\nlarge\nnode_modules\nsrc\n\nw/node_modules:\nkept"
    );
    // A directory where a file is to be, and the other way round.
    exec("rm -r w/large w/src; mkdir w/large; touch w/src w/large/in");
    let refused = home.0.hearth(&["sync", "-x", "node_modules/", from_text, "a:w"]);
    assert_code(&refused, 125);
    assert!(text(&refused.stderr).contains("large is in the way"), "{}", said(&refused));
    let summary = home.ok(&["sync", "--delete", "-x", "node_modules/", from_text, "a:w"]);
    assert!(summary.contains("2 removed, 0 unchanged"), "{summary}");

    // The other way: nothing that is excluded comes, and what only this host has goes with --delete alone.
    exec("chmod 4644 w/src/main; mkdir -p w/.git/hooks; echo evil > w/.git/hooks/pre-commit; ln -s / w/root");
    fs::create_dir_all(back.join(".git/hooks")).unwrap();
    fs::write(back.join("own"), "own").unwrap();
    let back_text = back.to_str().unwrap();
    let pull = |options: &[&str]| {
        home.json(&[&["sync", "--json", "-x", ".git", "-x", "node_modules/"], options, &["a:w", back_text]].concat())
    };
    assert_eq!(pull(&[])["removed"].as_array().unwrap().len(), 0);
    assert!(back.join("own").exists() && !back.join(".git/hooks/pre-commit").exists());
    assert_eq!(list(&pull(&["--delete"])["removed"]), ["own"]);
    assert_eq!(fs::metadata(back.join("src/main")).unwrap().mode() & 0o7777, 0o644);
    assert!(back.join(".git/hooks").exists() && fs::symlink_metadata(back.join("root")).unwrap().is_symlink());
    fs::remove_file(back.join("root")).unwrap();
    fs::remove_dir_all(back.join(".git")).unwrap();
    fs::remove_dir_all(from.join("node_modules")).unwrap();
    assert_eq!(state(&back), state(&from));
    assert_eq!(pull(&[])["sent"].as_array().unwrap().len(), 1, "the link, and nothing else");
    home.ok(&["sync", "a:w/src", here.path().join("fresh").to_str().unwrap()]);
    assert_eq!(fs::read_to_string(here.path().join("fresh/main")).unwrap(), "other");
}
