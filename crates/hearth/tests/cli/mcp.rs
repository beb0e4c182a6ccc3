//! MCP as other people's clients speak it, and their configurations.
//!
//! `tests/mcp` has the script for the official Python client, which the Python of the tests has (`python.rs`), and the version of the inspector, which
//! is installed once, below `target`, and anew when that changes.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::held::Daemon;
use crate::python::{Python, digest, once, succeed};
use crate::support::{Home, Running, assert_code, said, text};

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mcp")
}

/// Runs cases of the official Python client's script.
fn cases(python: &Python, home: &Home, transport: &str, mode: &str, cases: &[&str]) {
    let mut command = python.plain();
    let arguments = [env!("CARGO_BIN_EXE_hearth"), transport, mode];
    command.arg(script().join("client.py")).args(arguments).args(cases);
    assert_code(&Running::start(home.give_to(&mut command)).finish(), 0);
}

/// Installs the inspector, or finds it installed.
fn inspector() -> PathBuf {
    let own = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mcp");
    fs::create_dir_all(&own).unwrap();
    let lock = File::create(own.join("lock")).unwrap();
    lock.lock().unwrap();
    let modules = ["package.json", "package-lock.json"].map(|file| script().join(file));
    once(&own.join("node"), &digest(&modules), || {
        for file in &modules {
            fs::copy(file, own.join(file.file_name().unwrap())).unwrap();
        }
        let install = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
        succeed(Command::new("npm").args(install).current_dir(&own));
    });
    own.join("node_modules/.bin/mcp-inspector")
}

/// Calls the inspector, and returns what it prints.
fn inspect(inspector: &Path, home: &Home, arguments: &[&str]) -> Value {
    let mut command = Command::new(inspector);
    command.args(["--cli", env!("CARGO_BIN_EXE_hearth"), "mcp"]).args(arguments);
    let output = Running::start(home.give_to(&mut command)).finish();
    assert_code(&output, 0);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)))
}

/// What differs between transports and versions of the protocol.
const WIRE: [&str; 5] = [
    "files_and_diffs_are_resources",
    "progress_is_told_while_a_call_lasts",
    "calls_run_side_by_side",
    "a_cancelled_call_stops_its_work_in_the_guest",
    "a_cancelled_run_takes_its_sandbox_with_it",
];

#[test]
fn the_official_client_is_served_at_standard_streams() {
    let (Some(home), Some(python)) = (Home::with_images(), Python::found()) else { return };
    cases(&python, &home, "stdio", "legacy", &[]);
    cases(&python, &home, "stdio", "auto", &WIRE);
    home.assert_nothing_left();
}

#[test]
fn the_official_client_is_served_over_http() {
    let (Some(home), Some(python)) = (Home::with_images(), Python::found()) else { return };
    assert_code(&home.run(&["true"]), 0);
    cases(&python, &home, "http", "auto", &[]);
    cases(&python, &home, "http", "legacy", &WIRE);
    home.assert_nothing_left();
}

#[test]
fn the_inspector_lists_and_calls_tools() {
    let Some(home) = Home::with_images() else { return };
    let inspector = inspector();
    let tools = inspect(&inspector, &home, &["--method", "tools/list"]);
    let names: Vec<&str> = tools["tools"].as_array().unwrap().iter().filter_map(|tool| tool["name"].as_str()).collect();
    assert!(names.contains(&"run") && names.contains(&"patch") && !names.contains(&"sandbox_fork"), "{names:?}");
    let call = |tool: &str, arguments: &[&str]| {
        let mut all = vec!["--method", "tools/call", "--tool-name", tool];
        arguments.iter().for_each(|argument| all.extend(["--tool-arg", argument]));
        inspect(&inspector, &home, &all)
    };
    let ran = call("run", &["command=echo out; exit 3"]);
    assert_eq!(ran["structuredContent"]["exit_code"], 3, "{ran}");
    assert_eq!(ran["structuredContent"]["stdout"]["text"], "out\n", "{ran}");
    assert_eq!(ran["isError"], false, "{ran}");
    let refused = call("exec", &["sandbox=nobody", "command=true"]);
    assert_eq!(refused["isError"], true, "{refused}");
    assert!(refused["content"][0]["text"].as_str().unwrap().contains("unknown_sandbox"), "{refused}");
    let templates = inspect(&inspector, &home, &["--method", "resources/templates/list"]);
    assert_eq!(templates["resourceTemplates"].as_array().unwrap().len(), 2, "{templates}");
    home.assert_nothing_left();
}

#[test]
fn nothing_but_the_protocol_is_on_standard_output() {
    let home = Home::empty();
    let begin = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } } });
    let started = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    let call = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": { "name": "run", "arguments": { "command": "true" } } });
    let input = format!("{begin}\n{started}\nthis is no JSON\n{call}\n");
    let served = home.hearth_with_input(&["mcp", "--profile", "run"], input.into_bytes());
    assert_code(&served, 0);
    let lines: Vec<Value> = text(&served.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(text(&served.stderr).contains("started the daemon"), "{}", said(&served));
    let answer = lines.iter().find(|line| line["id"] == 2).unwrap_or_else(|| panic!("{}", said(&served)));
    assert_eq!(answer["result"]["isError"], true, "{answer}");
    let error: Value = serde_json::from_str(answer["result"]["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(error["code"], "unknown_image", "{error}");
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("hearth image build")), "{error}");
    let refused = home.hearth_with_input(&["mcp"], b"hello\n{}\n".to_vec());
    assert!(
        refused.stdout.is_empty() || text(&refused.stdout).lines().all(|line| line.starts_with('{')),
        "{}",
        said(&refused)
    );
}

#[test]
fn b51_a_server_that_is_told_to_end_takes_along_what_its_calls_run() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a"]);
    let mut command = home.0.command(&["mcp"]);
    let mut server = Running::start(command.stdin(Stdio::piped()));
    // The client stays, and says nothing.
    let mut stdin = server.child.stdin.take().unwrap();
    let begin = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } } });
    let started = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    let call = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": { "name": "exec",
        "arguments": { "sandbox": "a", "command": "sleep 1005 & sleep 1005" } } });
    stdin.write_all(format!("{begin}\n{started}\n{call}\n").as_bytes()).unwrap();
    while !home.ok(&["ps", "a"]).contains("sleep 1005") {}
    let begun = Instant::now();
    server.signal(Signal::TERM);
    assert_code(&server.finish(), 143);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    drop(stdin);
    let count = ["exec", "a", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sleep 100[5]' || true"];
    assert_eq!(home.ok(&count), "0");
}

/// Writes a client's configuration as somebody who lives in `home`, from the directory `project` of it.
fn install(home: &Home, arguments: &[&str]) -> std::process::Output {
    let project = home.path().join("project");
    fs::create_dir_all(&project).unwrap();
    let mut command = home.command(&[&["mcp", "install"], arguments].concat());
    command.current_dir(project).env("HOME", home.path()).env_remove("XDG_CONFIG_HOME").env_remove("CODEX_HOME");
    Running::start(&mut command).finish()
}

#[test]
fn each_clients_configuration_is_written_where_it_looks() {
    let home = Home::empty();
    let hearth = fs::canonicalize(env!("CARGO_BIN_EXE_hearth")).unwrap();
    for (client, user, project) in [
        ("claude-code", ".claude.json", "project/.mcp.json"),
        ("codex", ".codex/config.toml", "project/.codex/config.toml"),
        ("opencode", ".config/opencode/opencode.json", "project/opencode.json"),
        ("cursor", ".cursor/mcp.json", "project/.cursor/mcp.json"),
        ("vscode", ".config/Code/User/mcp.json", "project/.vscode/mcp.json"),
    ] {
        let (user, project) = (home.path().join(user), home.path().join(project));
        let printed = install(&home, &[client, "--print"]);
        assert_code(&printed, 0);
        assert!(!user.exists(), "{client}: --print wrote");
        assert_code(&install(&home, &[client]), 0);
        let written = fs::read_to_string(&user).unwrap();
        assert_eq!(text(&printed.stdout).trim_end(), written.trim_end());
        assert!(written.contains(hearth.to_str().unwrap()) && written.contains("HEARTH_HOME"), "{written}");
        assert_eq!(fs::metadata(&user).unwrap().permissions().mode() & 0o777, 0o600);
        assert_code(&install(&home, &[client, "--scope", "project", "--profile", "full"]), 0);
        let written = fs::read_to_string(project).unwrap();
        assert!(!written.contains(hearth.to_str().unwrap()) && written.contains("\"full\""), "{written}");
    }
}

#[test]
fn a_configuration_keeps_what_else_is_in_it_and_one_that_is_broken_is_left_alone() {
    let home = Home::empty();
    let path = home.path().join(".claude.json");
    let before = "{\n  \"numStartups\": 7,\n  \"mcpServers\": {\"other\": {\"command\": \"x\"}},\n  \"z\": [1,2]\n}\n";
    fs::write(&path, before).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert_code(&install(&home, &["claude-code"]), 0);
    let after = fs::read_to_string(&path).unwrap();
    let value: Value = serde_json::from_str(&after).unwrap();
    assert!(after.starts_with("{\n  \"numStartups\": 7,\n") && after.contains("\"z\": [1,2]"), "{after}");
    assert_eq!(value["mcpServers"]["other"]["command"], "x");
    assert_eq!(value["mcpServers"]["hearth"]["args"], json!(["mcp"]));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    let again = install(&home, &["claude-code"]);
    assert!(text(&again.stderr).contains("has it already"), "{}", said(&again));
    assert_eq!(fs::read_to_string(&path).unwrap(), after);

    for broken in ["{\"mcpServers\": ", "[]", "{\"mcpServers\": 5}"] {
        fs::write(&path, broken).unwrap();
        let refused = install(&home, &["claude-code"]);
        assert_code(&refused, 125);
        assert!(text(&refused.stderr).contains(".claude.json"), "{}", said(&refused));
        assert_eq!(fs::read_to_string(&path).unwrap(), broken);
    }
    // Through a link, as those have it who keep their configurations elsewhere.
    let real = home.path().join("real.json");
    fs::write(&real, "{}").unwrap();
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&real, &path).unwrap();
    assert_code(&install(&home, &["claude-code"]), 0);
    assert!(path.is_symlink() && fs::read_to_string(&real).unwrap().contains("hearth"));
    assert!(
        fs::read_dir(home.path())
            .unwrap()
            .flatten()
            .all(|entry| !text(entry.file_name().as_encoded_bytes()).ends_with(".new"))
    );
}
