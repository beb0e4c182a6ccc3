//! Code with state, by the command and over the API.

use hearth_client::Client;
use hearth_client::api::kernels::KernelLine;
use hearth_client::api::protocol::kernel::{KernelExec, KernelLanguage, KernelStart};
use rustix::process::Signal;
use serde_json::Value;

use crate::held::Daemon;
use crate::support::{Running, assert_code, said, text};

#[test]
fn b19_code_keeps_its_state_from_one_command_to_the_next() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a"]);
    assert_eq!(home.ok(&["kernel", "run", "a", "import os\nx = 20"]), "");
    assert!(home.json(&["kernel", "ls", "--json", "a"])[0]["warmed"] == true, "it was in the template");
    assert_eq!(
        home.ok(&["kernel", "run", "-e", "ADD=2", "a", "print('so'); x * 2 + int(os.environ['ADD'])"]),
        "so\n42"
    );
    assert_eq!(home.ok(&["kernel", "run", "-c", "other", "a", "'x' in globals()"]), "False");
    let shell = home.0.hearth_with_input(&["kernel", "run", "-l", "bash", "a", "-"], b"y=5; echo $y; false".to_vec());
    assert_code(&shell, 1);
    assert_eq!(text(&shell.stdout), "5\n");
    assert_eq!(home.ok(&["kernel", "run", "-l", "bash", "a", "echo $y"]), "5");
    let listed = home.ok(&["kernel", "ls", "a"]);
    let names: Vec<_> = listed.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["bash", "other", "python"], "{listed}");
    home.ok(&["kernel", "restart", "a", "python"]);
    let lost = home.0.hearth(&["kernel", "run", "a", "x"]);
    assert_code(&lost, 1);
    assert!(text(&lost.stderr).contains("NameError") && lost.stdout.is_empty(), "{}", said(&lost));
    home.ok(&["kernel", "rm", "a", "other"]);
    for gone in [&["kernel", "rm", "a", "other"][..], &["kernel", "interrupt", "a", "other"]] {
        let refused = home.0.hearth(gone);
        assert_code(&refused, 125);
        assert!(text(&refused.stderr).contains("no kernel \"other\""), "{}", said(&refused));
    }
    let language = home.0.hearth(&["kernel", "run", "-c", "bash", "a", "1"]);
    assert_code(&language, 125);
    assert_code(&home.0.hearth(&["kernel", "run", "a", " "]), 125);
}

#[test]
fn a_report_has_output_values_in_all_forms_and_the_end() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a"]);
    let code = "import sys\nprint('out'); sys.stdout.buffer.write(b'\\xff'); print('err', file=sys.stderr)\n\
        class Rich:\n  def _repr_html_(self): return '<b>'\n  def _repr_png_(self): return b'PNG'\n  def __repr__(self): return 'rich'\nRich()";
    let report = home.json(&["kernel", "run", "--json", "a", code]);
    assert_eq!(report["stdout"]["data"], "b3V0Cv8=", "{report}");
    assert_eq!(report["stderr"]["data"], "err\n");
    let forms = &report["shown"][0]["data"];
    assert_eq!(
        (&forms["text/plain"], &forms["text/html"], &forms["image/png"]),
        (&"rich".into(), &"<b>".into(), &"UE5H".into())
    );
    assert_eq!((&report["exit_code"], &report["ran"]["fresh"]), (&0.into(), &true.into()));
    let failed = home.0.hearth(&["kernel", "run", "--json", "a", "raise KeyError('k')"]);
    assert_code(&failed, 1);
    let failed: Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!((&failed["shown"][0]["type"], &failed["ran"]["error"]["name"]), (&"error".into(), &"KeyError".into()));
    let late = home.0.hearth(&["kernel", "run", "--json", "--timeout", "0.3", "a", "while True: pass"]);
    assert_code(&late, 124);
    let late: Value = serde_json::from_slice(&late.stdout).unwrap();
    assert!(late["ran"]["timed_out"] == true && late["ran"]["state_lost"].is_null(), "{late}");
    assert_code(&home.0.hearth(&["kernel", "run", "a", "import sys; sys.exit(5)"]), 5);
}

#[test]
fn b22_output_comes_as_it_is_written_and_ctrl_c_interrupts_the_code_alone() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a"]);
    let spin = ["kernel", "run", "a", "x = 5; print('on')\nwhile True: pass"];
    let mut running = Running::start(&mut home.0.command(&spin));
    running.read_until("on\n");
    running.signal(Signal::INT);
    let ended = running.finish();
    assert_code(&ended, 130);
    assert!(text(&ended.stderr).contains("KeyboardInterrupt"), "{}", said(&ended));
    assert_eq!(home.ok(&["kernel", "run", "a", "x"]), "5", "the state is kept");
    // The same from beside it.
    let mut running = Running::start(&mut home.0.command(&spin));
    running.read_until("on\n");
    assert!(home.ok(&["kernel", "ls", "a"]).contains("busy"));
    home.ok(&["kernel", "interrupt", "a", "python"]);
    assert_code(&running.finish(), 130);
    // Code goes on without whoever asked for it.
    let slow = "print('on')\nimport os, time\nwhile not os.path.exists('go'): time.sleep(0.05)\ny = 7";
    let mut running = Running::start(&mut home.0.command(&["kernel", "run", "a", slow]));
    running.read_until("on\n");
    running.signal(Signal::KILL);
    running.finish();
    home.ok(&["exec", "a", "touch", "go"]);
    assert_eq!(home.ok(&["kernel", "run", "a", "y"]), "7");
}

#[test]
fn a_kernel_is_started_ahead_over_the_api_and_its_text_is_never_cut_within_a_character() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a"]);
    let client = Client::new(home.0.path().join("hearth.sock"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let start = KernelStart {
            name: Some("one".into()),
            cwd: Some("/tmp".into()),
            imports: vec!["json".into(), "nowhere".into()],
            ..KernelStart::new(KernelLanguage::Python)
        };
        let ready = client.start_kernel("a", &start).await.unwrap();
        assert!(ready.kernel.warmed && ready.failed_imports.keys().eq(["nowhere"]), "{ready:?}");
        let code = "import os, sys\nfor byte in '中'.encode() * 2000: os.write(1, bytes([byte]))\nos.write(1, b'\\xe4')\nos.getcwd()";
        let exec = KernelExec { code: Some(code.into()), ..KernelExec::new(KernelLanguage::Python) };
        let mut run = client.exec_in_kernel("a", "one", &exec).await.unwrap();
        let (mut written, mut pieces, mut value) = (Vec::new(), Vec::new(), None);
        let ran = loop {
            match run.next().await.unwrap().expect("the end is told") {
                KernelLine::Ran(ran) => break ran,
                KernelLine::Result(result) => value = result.data.get("text/plain").cloned(),
                line => {
                    written.extend(line.bytes().unwrap());
                    pieces.push(line);
                }
            }
        };
        assert!(run.next().await.unwrap().is_none() && ran.code == 0 && value == Some("'/tmp'".into()), "{ran:?}");
        assert_eq!(written, ["中".repeat(2000).as_bytes(), b"\xe4"].concat());
        let is_text = |line: &KernelLine| matches!(line, KernelLine::Output { data, .. } if data.chars().all(|c| c == '中'));
        let (last, whole) = pieces.split_last().unwrap();
        assert!(whole.iter().all(is_text) && !is_text(last), "what is half a character comes last, as bytes");
        client.remove_kernel("a", "one").await.unwrap();
        assert!(client.kernels("a").await.unwrap().kernels.is_empty());
    });
}

#[test]
fn b17_a_kernel_that_was_killed_for_want_of_memory_says_so() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a", "--memory", "256M"]);
    let all = "taken = []\nwhile True: taken.append(b'x' * (1 << 20))";
    let killed = home.0.hearth(&["kernel", "run", "a", all]);
    assert_code(&killed, 137);
    assert!(text(&killed.stderr).contains("for want of memory: its state is lost"), "{}", said(&killed));
    let report = home.0.hearth(&["kernel", "run", "--json", "a", all]);
    assert_code(&report, 137);
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert!(report["ran"]["out_of_memory"] == true && report["ran"]["state_lost"] == true, "{report}");
    assert_eq!(home.ok(&["kernel", "run", "a", "6 * 7"]), "42", "the next begins afresh");
    home.ok(&["rm", "a"]);
    home.0.assert_nothing_left();
}
