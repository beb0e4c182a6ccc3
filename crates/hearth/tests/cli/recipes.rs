//! The recipes in `docs/recipes`, run as they stand there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::python::{Python, with_hearth};
use crate::support::{Home, Running, assert_code, said, text};

fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/recipes").canonicalize().unwrap()
}

/// Runs a recipe, which must say all of this in this order, and leave nothing.
fn check(recipe: &str, expected: &[&str]) {
    let Some(home) = Home::with_images() else { return };
    let script = recipes().join(recipe);
    let mut command = match recipe.ends_with(".py") {
        true => match Python::with_client() {
            Some(python) => python.command(&home),
            None => return,
        },
        false => with_hearth(&home, Command::new("sh")),
    };
    let output = Running::start(command.arg(script).current_dir(home.path())).finish();
    assert_code(&output, 0);
    let whole = text(&output.stdout);
    let mut rest = whole.as_str();
    for part in expected {
        let (_, behind) = rest.split_once(part).unwrap_or_else(|| panic!("{part:?} is not in {}", said(&output)));
        rest = behind;
    }
    home.assert_nothing_left();
    let snapshots = fs::read_dir(home.path().join("snapshots")).into_iter().flatten().count();
    assert_eq!(snapshots, 0, "a snapshot is left");
}

#[test]
fn a_failing_project_is_repaired_in_a_loop() {
    let proposals = ["proposal 0: FAILED (failures=1)", "proposal 1: FAILED (failures=2)", "proposal 2: OK"];
    let ends = ["modified  median.py", "the project is repaired", "the sandbox is as it was"];
    check("repair-loop.sh", &[proposals, ends].concat());
}

#[test]
fn the_best_of_several_attempts_in_forks_is_kept() {
    let expected =
        ["set        failed", "dict       500", "reversed   12750", "kept dict: 12750 -> 500", "+++ b/program.py"];
    check("attempts.py", &expected);
}

#[test]
fn untrusted_code_gets_nothing_and_what_it_did_is_told() {
    let expected = [
        "-- it ended with 1",
        "'secrets: []'",
        "'network: Network is unreachable'",
        "Resource temporarily unavailable",
        "-- it left running",
        "while :; do sleep 10; done",
        "-- it changed in the workspace\n   modified 'README'\n",
        "-- it changed in the home\n   '.bashrc'\n",
    ];
    check("untrusted.py", &expected);
}

#[test]
fn programs_are_evaluated_a_few_at_a_time() {
    let expected = [
        "  passed\n",
        "  wrong answer\n",
        "  failed (1): NameError: name 'undefined' is not defined\n",
        "  too slow\n",
        "  out of memory\n",
        "  wrong answer\n",
        "1 of 6 passed",
    ];
    check("evaluate.py", &expected);
}

#[test]
fn a_repository_is_served_and_from_a_snapshot_the_second_time() {
    check("serve.sh", &["cold: page 1, ", "what git does not know stayed here", "warm: page 2, ", "site  running"]);
}

#[test]
fn each_recipe_has_a_page_and_is_run_here() {
    let entries = fs::read_dir(recipes()).unwrap().map(|entry| entry.unwrap().path());
    let names = |wanted: &[&str], paths: &[PathBuf]| -> BTreeSet<String> {
        let has = |path: &&PathBuf| wanted.iter().any(|wanted| path.extension().is_some_and(|found| found == *wanted));
        paths.iter().filter(has).map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    let paths: Vec<PathBuf> = entries.collect();
    let scripts = names(&["sh", "py"], &paths);
    assert_eq!(scripts, ["attempts", "evaluate", "repair-loop", "serve", "untrusted"].map(str::to_owned).into());
    let index = fs::read_to_string(recipes().join("README.md")).unwrap();
    let pages = names(&["md"], &paths);
    assert!(scripts.iter().all(|name| pages.contains(name) && index.contains(&format!("[{name}]({name}.md)"))));
}
