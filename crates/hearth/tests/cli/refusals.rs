//! What is refused, before anything is created, and what is said then.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use crate::support::{Home, Running, assert_code, said, text};

fn error_of(output: &std::process::Output) -> Value {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(output)));
    report["error"].clone()
}

#[test]
fn a_command_line_that_cannot_be_meant_exits_125_and_names_the_fault() {
    let home = Home::empty();
    for (arguments, named) in [
        (&["run"][..], "COMMAND"),
        (&["run", "--memroy", "1", "--", "true"], "--memroy"),
        (&["run", "--memory", "lots", "--", "true"], "a size is"),
        (&["run", "--timeout", "0", "--", "true"], "a time is"),
        (&["run", "--memory", "1", "--", "true"], "memory of 1 MiB"),
        (&["run", "--cpus", "99", "--", "true"], "99 cpus"),
        (&["run", "--disk", "1", "--", "true"], "a disk of 1 MiB"),
        (&["run", "--timeout", "900h", "--", "true"], "timeout_ms"),
        (&["run", "-e", "=x", "--", "true"], "env name"),
        (&["run", "--accel", "warp", "--", "true"], "warp"),
        (&["image", "build", "Bad Name"], "Bad Name"),
        (&["image", "build", "--packages", "a b"], "a b"),
        (&["image", "inspect", "nothing-of-that-name"], "nothing-of-that-name"),
        (&["image", "rm", "nothing-of-that-name"], "nothing-of-that-name"),
        (&["dance"], "dance"),
    ] {
        let output = home.hearth(arguments);
        assert_code(&output, 125);
        assert!(text(&output.stderr).contains(named), "{arguments:?}: {}", said(&output));
        assert_eq!(output.stdout, b"");
    }
}

#[test]
fn what_is_refused_here_has_the_code_and_the_field_that_the_api_gives_it() {
    let home = Home::empty();
    for (arguments, code, field) in [
        (&["run", "--json", "--memory", "1", "--", "true"][..], "invalid_value", Value::from("memory_mib")),
        (&["create", "--json", "--memory", "1"], "invalid_value", Value::from("memory_mib")),
        (&["run", "--json", "--cpus", "99", "--", "true"], "invalid_value", Value::from("cpus")),
        (&["create", "--json", "--cpus", "99"], "invalid_value", Value::from("cpus")),
        (&["run", "--json", "--disk", "1", "--", "true"], "invalid_value", Value::from("disk_mib")),
        (&["create", "--json", "--disk", "1"], "invalid_value", Value::from("disk_mib")),
        (&["create", "--json"], "unknown_image", Value::from("image")),
        (&["inspect", "nobody"], "unknown_sandbox", Value::Null),
        (&["inspect", "--json", "nobody"], "unknown_sandbox", Value::Null),
        (&["kill", "--json", "nobody", "1"], "unknown_sandbox", Value::Null),
        (&["attach", "--json", "nobody", "1"], "unknown_sandbox", Value::Null),
        (&["file", "read", "--json", "nobody", "x"], "unknown_sandbox", Value::Null),
        (&["export", "--json", "nobody"], "unknown_sandbox", Value::Null),
        (&["service", "rm", "--json", "nobody", "x"], "unknown_sandbox", Value::Null),
        (&["kernel", "rm", "--json", "nobody", "x"], "unknown_sandbox", Value::Null),
        (&["snapshot", "export", "--json", "none", "-"], "invalid_value", Value::Null),
        (&["key", "create", "--json", "a b"], "invalid_value", Value::Null),
    ] {
        let output = home.hearth(arguments);
        assert_code(&output, 125);
        let error = error_of(&output);
        assert_eq!((&error["code"], &error["field"]), (&code.into(), &field), "{arguments:?}: {error}");
    }
}

#[test]
fn b50_no_image_says_how_to_get_one() {
    let home = Home::empty();
    let output = home.hearth(&["run", "--json", "--", "true"]);
    assert_code(&output, 125);
    let error = error_of(&output);
    assert_eq!(
        (&error["kind"], &error["code"], &error["field"]),
        (&"missing".into(), &"unknown_image".into(), &"image".into())
    );
    assert!(error["hint"].as_str().unwrap().contains("hearth image build"), "{error}");
    home.hearth(&["doctor"]);
    home.hearth(&["image", "list"]);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn b50_no_qemu_or_one_that_is_too_old_says_what_to_install() {
    let Some(home) = Home::with_images() else { return };
    let old = home.path().join("old-qemu");
    std::fs::write(&old, "#!/bin/sh\necho 'QEMU emulator version 6.2.0 (Debian)'\n").unwrap();
    std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o755)).unwrap();
    for (qemu, said_of_it) in
        [("/nonexistent/qemu".to_owned(), "was not found"), (old.display().to_string(), "QEMU 6.2.0")]
    {
        let output = Running::start(home.command(&["run", "--json", "--", "true"]).env("HEARTH_QEMU", &qemu)).finish();
        assert_code(&output, 125);
        let error = error_of(&output);
        let message = error["message"].as_str().unwrap();
        assert!(error["kind"] == "missing" && message.contains(said_of_it) && message.contains("install"), "{error}");
        let doctor = Running::start(home.command(&["doctor", "--json"]).env("HEARTH_QEMU", &qemu)).finish();
        assert_code(&doctor, 1);
        assert!(text(&doctor.stdout).contains(said_of_it));
    }
    home.assert_nothing_left();
}

#[test]
fn b50_too_little_memory_is_said_before_anything_is_made() {
    let Some(home) = Home::with_images() else { return };
    let output = home.hearth(&["run", "--json", "--memory", "64G", "--", "true"]);
    let available = std::fs::read_to_string("/proc/meminfo").unwrap();
    let available = available.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap();
    if available.trim().trim_end_matches(" kB").parse::<u64>().unwrap() > 66 << 20 {
        return eprintln!("skipped: this machine has more than 66 GiB available");
    }
    assert_code(&output, 125);
    let error = error_of(&output);
    assert!(error["kind"] == "resources" && error["hint"].as_str().unwrap().contains("--memory"), "{error}");
    home.assert_nothing_left();
}

#[test]
fn b50_a_full_disk_is_said_before_anything_is_made() {
    let Some(home) = Home::with_images() else { return };
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can mount a small file system");
    }
    let store = std::fs::read_link(home.path().join("store")).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=8m small {home} && ln -s {store} {home}/store && exec {hearth} run --json -- true",
        home = home.path().display(),
        store = store.display(),
        hearth = env!("CARGO_BIN_EXE_hearth"),
    );
    let output =
        Command::new("unshare").args(["-m", "sh", "-c", &script]).env("HEARTH_HOME", home.path()).output().unwrap();
    assert_code(&output, 125);
    let error = error_of(&output);
    assert!(error["kind"] == "resources" && error["message"].as_str().unwrap().contains("are needed"), "{error}");
}

#[test]
fn what_the_guest_refuses_has_a_shells_exit_code() {
    let Some(home) = Home::with_images() else { return };
    let output = home.run(&["no-such-command"]);
    assert_code(&output, 127);
    assert!(text(&output.stderr).contains("no-such-command"));
    assert_code(&home.run(&["/etc/passwd"]), 126);
    let output = home.hearth(&["run", "--json", "-u", "nobody-of-that-name", "--", "true"]);
    assert_code(&output, 125);
    let error = error_of(&output);
    assert!(
        error["outcome"] == "never_started" && error["message"].as_str().unwrap().contains("nobody-of-that-name"),
        "{error}"
    );
    home.assert_nothing_left();
}

#[test]
fn a_command_that_no_request_can_hold_is_refused_before_anything_starts() {
    let home = Home::empty();
    let output = home.hearth(&["run", "--", "sh", "-c", &"a".repeat(70_000)]);
    assert_code(&output, 125);
    assert!(
        text(&output.stderr).contains("too long together") && text(&output.stderr).contains("standard input"),
        "{}",
        said(&output)
    );
}

#[test]
fn data_that_cannot_be_written_is_an_error() {
    let home = Home::empty();
    for arguments in [&["doctor"][..], &["image", "list", "--json"], &["run", "--json", "--", "true"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = Running::start(home.command(arguments).stdout(full)).finish();
        assert_code(&output, 125);
        assert!(text(&output.stderr).contains("No space left"), "{}", said(&output));
    }
}

#[test]
fn a_home_too_deep_for_sockets_is_said_by_run_and_doctor() {
    let Some(home) = Home::with_images() else { return };
    let deep = home.path().join("d".repeat(100));
    std::fs::create_dir(&deep).unwrap();
    std::os::unix::fs::symlink(std::fs::read_link(home.path().join("store")).unwrap(), deep.join("store")).unwrap();
    let run = Running::start(home.command(&["run", "--", "true"]).env("HEARTH_HOME", &deep)).finish();
    assert_code(&run, 125);
    assert!(text(&run.stderr).contains("too long for the sockets"), "{}", said(&run));
    assert_code(&Running::start(home.command(&["doctor"]).env("HEARTH_HOME", &deep)).finish(), 1);
}

#[test]
fn version_and_help_are_data_and_exit_0() {
    let home = Home::empty();
    let output = home.hearth(&["--version"]);
    assert_eq!(text(&output.stdout), format!("hearth {}\n", env!("CARGO_PKG_VERSION")));
    let help = home.hearth(&["run", "--help"]);
    assert_code(&help, 0);
    assert!(text(&help.stdout).contains("124 when --timeout passed"));
}
