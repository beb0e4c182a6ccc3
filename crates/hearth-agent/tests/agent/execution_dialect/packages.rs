//! Packages, by installers that stand in for the real ones: no test uses a network.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use hearth_protocol::Renew;
use serde_json::{Value, json};

use super::client::{Served, WAYS, Way};
use crate::support::is_alive;

/// An agent whose processes find `python3` and `npm` with these scripts first, and believe in a way out.
async fn served_with(python: &str, npm: &str) -> Served {
    let served = Served::start();
    let bin = served.home().join("bin");
    fs::create_dir(&bin).unwrap();
    // Whether there is a pip is not what is tried here.
    program(&bin, "python3", &format!("case \"$2\" in *find_spec*) exit 0;; esac\n{python}"));
    program(&bin, "npm", npm);
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display());
    let variables = [("PATH".into(), path.into()), ("HTTPS_PROXY".into(), "http://127.0.0.1:1".into())];
    let renew = Renew { env: Some(variables.into()), ..Renew::default() };
    served.agent.connect().await.renew(renew).await.unwrap();
    served
}

fn program(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn install(language: &str, packages: &[&str]) -> Value {
    json!({"action": "install_packages", "op_id": "install", "language": language, "packages": packages})
}

#[tokio::test]
async fn an_installer_gets_the_packages_as_they_are_and_its_output_and_code_come_back() {
    let served = served_with("echo \"$@\"; echo warned >&2; exit 3", "echo \"$@\"; pwd").await;
    for way in WAYS {
        let mut client = served.connect(way);
        let python = client.ask(&install("python", &["six==1.16", "uvicorn[standard]>=0.2,<1"]));
        assert!(python.stdout.starts_with("-m pip install "), "{python:?}");
        assert!(python.stdout.ends_with(" -- six==1.16 uvicorn[standard]>=0.2,<1\n"), "{python:?}");
        assert_eq!((python.stderr.as_str(), python.code()), ("warned\n", 3));
        assert!(["execution_time_ms", "spawn_ms", "process_ms"].iter().all(|field| python.last[field].is_u64()));
        // JavaScript's go where this dialect's code runs, and so finds them.
        let javascript = client.ask(&install("javascript", &["lodash@^4.17", "@types/node@20"]));
        let home = served.home().display().to_string();
        assert!(javascript.stdout.contains(&format!(" --prefix={home} -- lodash@^4.17 @types/node@20\n{home}\n")));
        assert_eq!(javascript.code(), 0);
    }
}

#[tokio::test]
async fn installations_and_code_of_one_language_run_in_turn() {
    let python = "test \"$1\" = -m || exec /usr/bin/python3 \"$@\"\nsleep 0.3; touch \"$HOME/done\"";
    let served = served_with(python, "true").await;
    let mut client = served.connect(Way::Dual);
    client.send(&install("python", &["six==1"]));
    let code = |language, code| json!({"action": "exec", "op_id": language, "language": language, "code": code});
    client.send(&code("python", "import os; print(os.path.exists('done'))"));
    assert_eq!(client.ask(&code("raw", "test -e done || echo beside")).stdout, "beside\n");
    assert_eq!(client.outcome(&json!("install")).code(), 0);
    assert_eq!(client.outcome(&json!("python")).stdout, "True\n");
}

#[tokio::test]
async fn b03_an_installer_past_its_timeout_or_cancelled_is_stopped_with_all_it_started() {
    let served = served_with("true", "sleep 600 & echo $$ $!; wait").await;
    let mut client = served.connect(Way::Dual);
    let mut timed = install("javascript", &["a@1"]);
    timed["timeout"] = json!(0.5);
    let outcome = client.ask(&timed);
    assert_eq!(outcome.error(), "timeout_error");
    let pids = |text: &str| text.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>();
    let told = pids(&outcome.stdout);
    assert_eq!(told.len(), 2, "{outcome:?}");
    served.wait_until("the installer is gone", || !told.iter().any(|&pid| is_alive(pid)));

    client.send(&install("javascript", &["a@1"]));
    let told = pids(client.receive()["chunk"].as_str().unwrap());
    client.send(&json!({"action": "cancel", "op_id": "install"}));
    assert_eq!(client.outcome(&json!("install")).message(), "cancelled");
    served.wait_until("the installer is gone", || !told.iter().any(|&pid| is_alive(pid)));
}

#[tokio::test]
async fn an_installer_that_says_too_much_is_stopped() {
    let served = served_with("true", "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done").await;
    let outcome = served.connect(Way::Tcp).ask(&install("javascript", &["a@1"]));
    assert_eq!((outcome.stdout.len(), outcome.error()), (1_000_000, "output_limit_error"));
}

#[test]
fn without_a_way_out_packages_are_refused_at_once() {
    let unshared = Command::new("unshare").args(["--net", "--", "true"]).output();
    if !unshared.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no network namespace can be made here");
        return;
    }
    let served = Served::start_under("unshare", &["--net", "--"]);
    for way in [Way::Unix, Way::Dual] {
        let mut client = served.connect(way);
        for (language, package) in [("python", "six==1.16.0"), ("javascript", "lodash@4.17.21")] {
            let refused = client.ask(&install(language, &[package]));
            assert_eq!(refused.error(), "package_error", "{refused:?}");
            assert!(refused.message().contains("no way out"), "{refused:?}");
        }
        client.assert_alive();
    }
}
