//! The API against its description, by schemathesis: what answers, answers as it is described, bad input is refused, and nothing breaks.
//!
//! It is the one of the tests' Python (`python.rs`).

use std::process::Command;

use crate::python::Python;
use crate::remote::Listening;
use crate::support::{Home, Running, assert_code};

/// How long it may look, in seconds.
const BUDGET: &str = "20";
/// What it checks is all that it can, but for these: a schema does not say every rule, and a valid request may break one.
const UNCHECKED: &str = "positive_data_acceptance";
/// What may be answered. 503 is what the guest or the host lacks, node for one; 500 is a bug, and 502 a machine or an agent that broke.
const EXPECTED: &str =
    "checks.not_a_server_error.expected-statuses = [\"2xx\", \"3xx\", \"4xx\", \"503\", \"504\", \"507\"]\n";
/// What does not end by itself.
const ENDLESS: &str = "events_follow";

/// Has it look for faults in all operations but some, with this for `{sandbox}`.
fn check(python: &Python, there: &Listening, sandbox: Option<&str>, without: &[&str]) {
    let home = there.home.path();
    let description = there.home.hearth(&["openapi"]);
    assert_code(&description, 0);
    std::fs::write(home.join("openapi.json"), description.stdout).unwrap();
    // In a sandbox nothing is to wait for what does not come.
    let parameters =
        |id| format!("[parameters]\n\"path.sandbox\" = \"{id}\"\n\"query.wait_ms\" = 0\n\"query.follow\" = false\n");
    let parameters = sandbox.map(parameters).unwrap_or_default();
    std::fs::write(home.join("schemathesis.toml"), format!("{EXPECTED}{parameters}")).unwrap();
    let mut command = Command::new(python.beside("schemathesis"));
    command.args(["run", "openapi.json", "--url", there.url(), "--header"]);
    command.arg(format!("Authorization: Bearer {}", there.key("schemathesis")));
    command.args(["--max-time", BUDGET, "--seed", "1", "--request-timeout", "60", "--continue-on-failure"]);
    command.args([
        "--phases",
        "examples,coverage,fuzzing",
        "--exclude-checks",
        UNCHECKED,
        "--no-color",
        "--warnings",
        "off",
    ]);
    for operation in without.iter().chain([&ENDLESS]) {
        command.args(["--exclude-operation-id", operation]);
    }
    command.current_dir(home).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    assert_code(&Running::start(&mut command).finish(), 0);
}

#[test]
fn the_api_answers_as_it_is_described_where_there_is_no_sandbox() {
    let Some(python) = Python::found() else { return };
    check(&python, &Listening::start(Home::empty(), &[]), None, &[]);
}

#[test]
fn the_api_answers_as_it_is_described_in_a_sandbox() {
    let (Some(python), Some(home)) = (Python::found(), Home::with_images()) else { return };
    let there = Listening::start(home, &[]);
    let created = there.home.hearth(&["create"]);
    assert_code(&created, 0);
    let id = String::from_utf8(created.stdout).unwrap();
    // What would make others, take this one away or shut its workspace, what would make or remove what all tests share, what would open ports of
    // this host's, and what waits as long as it is told to.
    let without = [
        "sandboxes_create",
        "sandboxes_change",
        "sandboxes_remove",
        "sandboxes_fork",
        "sandboxes_snapshot",
        "files_chmod",
        "services_publish",
        "templates_build",
        "templates_remove",
        "images_remove",
        "shells_wait",
    ];
    check(&python, &there, Some(id.trim()), &without);
}
