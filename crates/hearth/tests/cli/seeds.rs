//! Sandboxes that begin with something in their workspace.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use hearth_client::Client;
use hearth_client::api::{ChangeSandbox, CreateSandbox, Lifespan, ListSandboxes};
use rustix::process::Signal;

use crate::held::Daemon;
use crate::support::{HANG, Home, Running, assert_code, said, text};

fn git(directory: &Path, arguments: &[&str]) {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=t", "-c", "user.email=t@example.org"]).args(arguments).current_dir(directory);
    let done = git.output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {}", text(&done.stderr));
}

/// A Git working tree with one file that was never added, one that is ignored, and one that is gone.
fn working_tree(at: &Path) {
    fs::create_dir_all(at.join("src")).unwrap();
    for (path, content) in
        [("src/main", "main"), ("gone", ""), (".gitignore", "*.log\n"), ("new", "new"), ("x.log", "")]
    {
        fs::write(at.join(path), content).unwrap();
    }
    git(at, &["init", "-q"]);
    git(at, &["add", "src", "gone", ".gitignore"]);
    fs::remove_file(at.join("gone")).unwrap();
}

#[test]
fn what_cannot_be_a_seed_is_refused_before_anything_is_made() {
    let home = Home::empty();
    let plain = tempfile::tempdir().unwrap();
    let plain = plain.path().to_str().unwrap();
    for (arguments, named) in [
        (&["create", "--seed", "/no/such"][..], "/no/such"),
        (&["create", "--tracked"], "--seed"),
        (&["create", "--seed", plain, "--tracked"], "git cannot list"),
        (&["create", "--seed", "/dev/null", "--tracked"], "is no directory"),
    ] {
        let refused = home.hearth(arguments);
        assert_code(&refused, 125);
        assert!(text(&refused.stderr).contains(named), "{arguments:?}: {}", said(&refused));
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn a_sandbox_is_seeded_from_a_directory_an_archive_or_what_git_knows_and_has_its_baseline() {
    let Some(home) = Daemon::with_images() else { return };
    let tree = tempfile::tempdir().unwrap();
    working_tree(tree.path());
    let path = tree.path().to_str().unwrap();
    let archive = home.0.path().join("seed.tar.gz");
    let tar = Command::new("tar").arg("-czf").arg(&archive).args(["-C", path, "src", "new"]).status().unwrap();
    assert!(tar.success());
    let archive = archive.to_str().unwrap();
    for (name, options, expected) in [
        ("tracked", &["--seed", path, "--tracked"][..], ".gitignore\nsrc\nsrc/main"),
        ("whole", &["--seed", path], ".gitignore\nnew\nsrc\nsrc/main\nx.log"),
        ("archive", &["--seed", archive], "new\nsrc\nsrc/main"),
    ] {
        home.ok(&[&["create", "--name", name], options].concat());
        let list = "find . -mindepth 1 -path ./.git -prune -o -printf '%P\\n' | sort | sed '/^$/d'";
        assert_eq!(home.ok(&["exec", name, "sh", "-c", list]), expected, "{name}");
        assert_eq!(home.ok(&["diff", name, "--stat"]), "0 created, 0 modified, 0 deleted");
        home.ok(&["exec", name, "sh", "-c", "echo more >> src/main"]);
        assert!(home.ok(&["diff", name]).contains("+mainmore"));
        home.ok(&["reset", name]);
        assert_eq!(home.ok(&["exec", name, "cat", "src/main"]), "main");
    }
    let bytes = fs::read(archive).unwrap();
    assert_code(&home.0.hearth_with_input(&["create", "--name", "stream", "--seed", "-"], bytes), 0);
    assert_eq!(home.ok(&["exec", "stream", "cat", "new"]), "new");
    let damaged = home.0.hearth_with_input(&["create", "--json", "--seed", "-"], b"no archive".to_vec());
    assert_code(&damaged, 125);
    assert!(text(&damaged.stdout).contains("\"bad_archive\""), "{}", said(&damaged));
    wait_for_count(&home, 4);
}

/// Waits until so many sandboxes are there, and none that is on its way out.
fn wait_for_count(home: &Daemon, count: usize) {
    let begun = Instant::now();
    while home.json(&["ls", "--json"]).as_array().unwrap().len() != count {
        assert!(begun.elapsed() < HANG, "{}", home.ok(&["ls"]));
    }
}

#[test]
fn b51_a_seeding_that_is_cut_off_leaves_no_sandbox() {
    let Some(home) = Daemon::with_images() else { return };
    for signal in [Signal::INT, Signal::KILL] {
        let mut command = home.0.command(&["create", "--name", "a", "--seed", "-"]);
        let mut running = Running::start(command.stdin(Stdio::piped()));
        let mut stdin = running.child.stdin.take().unwrap();
        // More than all buffers on the way hold: it is taken once there is a sandbox.
        stdin.write_all(&vec![0; 4_000_000]).unwrap();
        running.signal(signal);
        drop(running.finish());
        drop(stdin);
        wait_for_count(&home, 0);
    }
}

#[test]
fn a_provisional_sandbox_is_kept_by_the_connection_that_made_it_and_by_no_other() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "other"]);
    let client = Client::new(home.0.path().join("hearth.sock"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let provisional = client.create_provisional(&CreateSandbox::default()).await.unwrap();
        let kept = ChangeSandbox { lifespan: Some(Lifespan::Kept), ..ChangeSandbox::default() };
        let refused = client.change(&provisional.info.id, &kept).await.unwrap_err().to_string();
        assert!(refused.contains("provisional over this connection"), "{refused}");
        let id = provisional.keep().await.unwrap().id;
        let there = client.list(&ListSandboxes::default()).await.unwrap().sandboxes;
        assert!(there.len() == 2 && there.iter().any(|info| info.id == id));
        // What is bound for good, or is not kept in time, goes with its connection.
        let bound = client.create_bound(&CreateSandbox::default()).await.unwrap();
        assert!(bound.keep().await.is_err());
        drop(client.create_provisional(&CreateSandbox::default()).await.unwrap());
    });
    // With it goes what it has connected.
    drop(runtime);
    wait_for_count(&home, 2);
}
