//! Programs in sandboxes: their streams, codes, surroundings.

use std::fs::File;
use std::io::{Read, Write};

use crate::screen::Terminal;
use crate::support::{Home, Running, assert_code, said, text};

#[test]
fn the_guest_has_a_kernel_of_its_own() {
    let Some(home) = Home::with_images() else { return };
    let output = home.run(&["python3", "-c", "import platform; print(platform.release())"]);
    let own = rustix::system::uname().release().to_string_lossy().into_owned();
    let image = text(&home.hearth(&["image", "inspect", "debian"]).stdout);
    let printed = text(&output.stdout).trim().to_owned();
    assert!(printed != own && image.contains(&format!("\"release\": \"{printed}\"")), "{}", said(&output));
    home.assert_nothing_left();
}

#[test]
fn b01_streams_and_code_are_the_programs_own() {
    let Some(home) = Home::with_images() else { return };
    let output = home.run(&["sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!((text(&output.stdout).as_str(), text(&output.stderr).as_str()), ("out\n", "err\n"));
    assert_code(&output, 3);
    home.assert_nothing_left();
}

#[test]
fn b02_b04_bytes_pass_unchanged() {
    let Some(home) = Home::with_images() else { return };
    assert_eq!(home.run(&["printf", "\\377\\001a\\r\\nb\\rc"]).stdout, b"\xff\x01a\r\nb\rc");
}

#[test]
fn b03_a_deadline_keeps_what_was_said_and_exits_124() {
    let Some(home) = Home::with_images() else { return };
    let script = "echo partial; (sleep 77 & wait)";
    let output = home.hearth(&["run", "--timeout", "1", "--", "sh", "-c", script]);
    assert_eq!(text(&output.stdout), "partial\n");
    assert_code(&output, 124);
}

#[test]
fn b11_b12_the_guest_reaps_orphans_and_survives_its_user() {
    let Some(home) = Home::with_images() else { return };
    let script = r#"
        for i in $(seq 50); do (setsid sh -c 'sleep 0.1; echo $PPID >> parents' &); done
        while [ "$(wc -l < parents 2>/dev/null)" != 50 ]; do sleep 0.1; done
        sort -u parents
        until [ -z "$(grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null)" ]; do sleep 0.1; done
        echo reaped
        sudo sh -c 'echo still root' && kill -9 -1"#;
    let output = home.run(&["sh", "-c", script]);
    assert_eq!(text(&output.stdout), "1\nreaped\nstill root\n", "{}", said(&output));
    // A process that kills all others is spared itself; that its end is reported is the agent's answer.
    assert_code(&output, 0);
}

#[test]
fn b09_standard_input_passes_whole() {
    let Some(home) = Home::with_images() else { return };
    let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let output = home.hearth_with_input(&["run", "--", "cat"], data.clone());
    assert!(output.stdout == data, "3 MB came back changed");
    assert_code(&output, 0);
    assert_code(&home.hearth_with_input(&["run", "--", "cat"], Vec::new()), 0);
    // The null device is no input to pass on.
    let nothing = home.run(&["sh", "-c", "cat; readlink /proc/self/fd/0"]);
    assert_eq!((text(&nothing.stdout), nothing.status.code()), ("/dev/null\n".into(), Some(0)));
}

#[test]
fn b10_signals_are_128_and_the_number() {
    let Some(home) = Home::with_images() else { return };
    for (script, code) in [("kill -SEGV $$", 139), ("kill -KILL $$", 137), ("exit 137", 137)] {
        assert_code(&home.run(&["sh", "-c", script]), code);
    }
}

#[test]
fn user_directory_variables_and_scratch_disk_are_as_asked() {
    let Some(home) = Home::with_images() else { return };
    let script =
        "id -un; pwd; echo $A $HOME; stat -f -c %S:%b /var | awk -F: '{print ($1 * $2 > 150000000)}'; touch /var/x";
    let options =
        ["run", "-u", "root", "-w", "/usr", "-e", "A=b c", "--disk", "200M", "--memory", "256M", "--", "sh", "-c"];
    let output = home.hearth(&[&options[..], &[script]].concat());
    assert_eq!(text(&output.stdout), "root\n/usr\nb c /root\n1\n", "{}", said(&output));
    let output = home.run(&["sh", "-c", "id -un; pwd; touch /workspace/x && sudo id -u; grep -c . /proc/self/cgroup"]);
    assert_eq!(text(&output.stdout), "user\n/workspace\n0\n1\n", "{}", said(&output));
}

#[test]
fn a_report_holds_what_the_streams_would() {
    let Some(home) = Home::with_images() else { return };
    // One that is booted has something on its console.
    let options = ["run", "--boot", "--json", "--keep-logs", "--", "sh", "-c"];
    let output = home.hearth(&[&options[..], &["printf '\\377'; echo err >&2; kill -TERM $$"]].concat());
    assert_code(&output, 143);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["stdout"], serde_json::json!({ "encoding": "base64", "data": "/w==", "dropped_bytes": 0 }));
    assert_eq!(
        (&report["stderr"]["data"], &report["signal"], &report["exit_code"]),
        (&"err\n".into(), &"TERM".into(), &143.into())
    );
    assert!(report["sandbox"]["phases_us"]["ready"].as_u64() > report["sandbox"]["phases_us"]["prepared"].as_u64());
    assert!(report["timings_us"]["ended"].as_u64() >= report["timings_us"]["ready"].as_u64(), "{report}");
    let id = report["sandbox"]["id"].as_str().unwrap();
    let console = std::fs::read_to_string(home.path().join(format!("logs/{id}.console"))).unwrap();
    assert!(console.contains("hearth-agent: 7/7"), "{console}");
}

#[test]
fn a_run_goes_through_the_daemon_says_its_times_when_asked_and_needs_no_daemon_if_it_must_not() {
    let Some(home) = Home::with_images() else { return };
    let direct = home.hearth(&["run", "--no-daemon", "--timings", "--", "echo", "hi"]);
    assert_code(&direct, 0);
    assert!(home.daemon().is_none());
    let through = home.hearth(&["run", "--timings", "--", "echo", "hi"]);
    assert_code(&through, 0);
    assert!(home.daemon().is_some());
    for output in [direct, through] {
        assert_eq!(text(&output.stdout), "hi\n");
        let said = text(&output.stderr);
        assert!(
            ["sandbox template", "sandbox ready", "program started", "program ended"]
                .iter()
                .all(|part| said.contains(part)),
            "{said}"
        );
    }
    home.assert_nothing_left();
}

#[test]
fn with_t_the_program_has_a_terminal_of_the_same_size() {
    let Some(home) = Home::with_images() else { return };
    let mut terminal = Terminal::new(91, 33);
    let before = terminal.settings();
    let script = "stty size; tty >/dev/null && echo tty; read line; echo got $line";
    let running = terminal.start(&mut home.command(&["run", "-t", "--", "sh", "-c", script]));
    assert!(terminal.read_until("tty\r\n").contains("33 91\r\ntty\r\n"));
    terminal.type_text("hello\r");
    terminal.read_until("got hello");
    assert_code(&running.finish(), 0);
    let after = terminal.settings();
    assert_eq!(format!("{:?}", after.local_modes), format!("{:?}", before.local_modes), "the terminal is as it was");
}

#[test]
fn input_and_output_that_do_not_block_pass_whole() {
    let Some(home) = Home::with_images() else { return };
    let (input, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let (reader, output) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    for end in [&input, &output] {
        rustix::io::ioctl_fionbio(end, true).unwrap();
    }
    let mut command = home.command(&["run", "--", "sh", "-c", "echo ready; wc -c; head -c 1000000 /dev/zero"]);
    let running = Running::start(command.stdin(input).stdout(output));
    drop(command);
    let (mut reader, mut writer) = (File::from(reader), File::from(writer));
    let mut ready = [0; 6];
    reader.read_exact(&mut ready).unwrap();
    writer.write_all(&[b'x'; 1000]).unwrap();
    drop(writer);
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert!(all.starts_with(b"1000\n\0") && all.len() == 1_000_005, "{} bytes", all.len());
    assert_code(&running.finish(), 0);
}

#[test]
fn the_agent_serves_outside_a_machine_from_the_one_binary() {
    let home = Home::empty();
    let socket = home.path().join("agent.sock");
    let mut agent =
        home.command(&["agent", "serve", "--native", &format!("unix:{}", socket.display())]).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(agent.stderr.take().unwrap()), &mut line).unwrap();
    assert_eq!(line, format!("hearth-agent: serving unix:{}\n", socket.display()));
    let pid = rustix::process::Pid::from_child(&agent);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(agent.wait().unwrap().success());
    assert!(!socket.exists());
    assert_code(&home.hearth(&["agent", "dance"]), 2);
}

#[test]
fn b43_a_run_is_given_secrets_and_shows_none() {
    let Some(home) = Home::with_images() else { return };
    let value = "s3cr3t-of-the-run";
    let show = "echo ${#TOKEN}; echo $TOKEN; cat $HEARTH_SECRETS/TOKEN";
    for options in [&["run", "--json"][..], &["run", "--json", "--no-daemon"]] {
        let mut command = home.command(&[options, &["--secret", "TOKEN", "--", "sh", "-c", show]].concat());
        let output = Running::start(command.env("TOKEN", value)).finish();
        assert_code(&output, 0);
        let shown = text(&output.stdout);
        assert!(shown.contains(&format!("{}\\n", value.len())) && !shown.contains(value), "{shown}");
    }
    for (secret, named) in
        [("HEARTH_SURELY_UNSET", "is not set"), ("A B=/dev/null", "secret"), ("A=/no/such", "/no/such")]
    {
        let refused = home.hearth(&["run", "--secret", secret, "--", "true"]);
        assert_code(&refused, 125);
        assert!(text(&refused.stderr).contains(named), "{}", said(&refused));
    }
    home.assert_nothing_left();
}
