//! Shells: the faults of the first agent, which this one must not have.

use std::time::Instant;

use serde_json::{Value, json};

use super::Rpc;
use crate::support::{HANG, SOON};

fn open(rpc: &Rpc, more: Value) {
    // A terminal that cannot do much: bash then writes nothing but what it is asked to.
    let mut request = json!({"action": "open_shell", "shell_id": "s", "env": {"TERM": "dumb"}});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let reply = rpc.ask(&request);
    assert_eq!(reply["state"], "running", "{reply}");
    shows(rpc, "pyro$ ");
}

fn shows(rpc: &Rpc, text: &str) {
    rpc.wait_for_shell(&json!({"shell_id": "s", "shows": text}));
}

fn write(rpc: &Rpc, input: &str) -> Value {
    rpc.ask(&json!({"action": "write_shell", "shell_id": "s", "input": input}))
}

fn read(rpc: &Rpc, cursor: u64, most: u64) -> Value {
    rpc.ask(&json!({"action": "read_shell", "shell_id": "s", "cursor": cursor, "max_chars": most}))
}

fn signal(rpc: &Rpc, name: &str) {
    let reply = rpc.ask(&json!({"action": "signal_shell", "shell_id": "s", "signal": name}));
    assert_eq!(reply["signal"], name, "{reply}");
}

#[test]
fn b14_int_and_term_reach_the_job_in_the_foreground() {
    let rpc = Rpc::start();
    open(&rpc, json!({}));
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        write(&rpc, &format!("sh -c 'echo job-$1; exec sleep 100' - {name}; echo code-$?"));
        shows(&rpc, &format!("\njob-{name}"));
        let begun = Instant::now();
        signal(&rpc, name);
        // Bash forgets the rest of the line after an INT.
        write(&rpc, "echo code-$?");
        shows(&rpc, &format!("\ncode-{code}"));
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
    signal(&rpc, "KILL");
    rpc.wait_for_shell(&json!({"shell_id": "s", "state": "stopped"}));
    assert_eq!(read(&rpc, 0, 0)["exit_code"], -9);
}

#[test]
fn b15_a_write_to_a_job_that_does_not_read_is_answered_and_holds_nobody() {
    let rpc = Rpc::start();
    open(&rpc, json!({}));
    write(&rpc, "stty raw; echo begun; exec sleep 100");
    shows(&rpc, "\nbegun");
    let text = "é".repeat(150_000);
    std::thread::scope(|scope| {
        let written = scope.spawn(|| write(&rpc, &text));
        let before = Instant::now();
        assert_eq!(rpc.exec("echo on")["stdout"], "on\n");
        assert!(before.elapsed() < SOON, "{:?}", before.elapsed());
        let reply = written.join().unwrap();
        let accepted = reply["input_length"].as_u64().unwrap();
        assert!(accepted < 150_000, "{accepted}");
    });
}

#[test]
fn a_large_write_is_read_whole_by_a_job_that_reads() {
    let rpc = Rpc::start();
    open(&rpc, json!({}));
    write(&rpc, "stty raw -echo; echo begun; head -c 1000000 | md5sum; stty sane");
    shows(&rpc, "begun");
    let text = "0123456789".repeat(100_000);
    assert_eq!(write(&rpc, &text)["input_length"], 1_000_000);
    let expected = rpc.exec("i=0; while [ $i -lt 1000 ]; do printf 0123456789; i=$((i+1)); done > /tmp/$$; for i in $(seq 100); do cat /tmp/$$; done | md5sum; rm /tmp/$$");
    shows(&rpc, expected["stdout"].as_str().unwrap().trim());
}

#[test]
fn b16_cursors_count_characters_and_stay_exact_in_any_cut() {
    let rpc = Rpc::start();
    open(&rpc, json!({}));
    write(&rpc, "stty -onlcr; for i in $(seq 3000); do printf 'é中😀\\n%s\\n' $i; done; echo end-of-it");
    shows(&rpc, "\nend-of-it");
    let whole = read(&rpc, 0, 10_000_000);
    let text: Vec<char> = whole["output"].as_str().unwrap().chars().collect();
    assert_eq!((whole["truncated"].as_bool(), whole["next_cursor"].as_u64()), (Some(false), Some(text.len() as u64)));
    for cut in [1_u64, 7, 4095, 4096, 10_000] {
        let mut cursor = if cut < 10 { text.len() as u64 - 500 } else { 0 };
        while cursor < text.len() as u64 {
            let piece = read(&rpc, cursor, cut);
            let output: Vec<char> = piece["output"].as_str().unwrap().chars().collect();
            let end = (cursor + cut).min(text.len() as u64);
            assert_eq!((piece["cursor"].as_u64(), piece["next_cursor"].as_u64()), (Some(cursor), Some(end)));
            assert_eq!(output, text[cursor as usize..end as usize], "{cursor} {cut}");
            assert_eq!(piece["truncated"], end < text.len() as u64);
            cursor = end;
        }
    }
}

#[test]
fn b16_what_is_no_longer_kept_is_a_jump_and_never_a_shift() {
    let rpc = Rpc::start();
    open(&rpc, json!({}));
    write(&rpc, "stty -onlcr; echo begin-here; seq -f 'é%09.0f' 300000; echo end-of-it; touch done");
    let begun = Instant::now();
    while !rpc.place("done").exists() {
        assert!(begun.elapsed() < HANG);
        std::thread::yield_now();
    }
    let line = |number: u64| format!("é{number:09}\n");
    let head = read(&rpc, 0, 10_000_000);
    let output: Vec<char> = head["output"].as_str().unwrap().chars().collect();
    let mark: Vec<char> = "\nbegin-here\n".chars().collect();
    let base = output.windows(mark.len()).position(|window| window == mark).unwrap() as u64 + mark.len() as u64;
    assert!(head["truncated"].as_bool().unwrap());
    let (mut cursor, mut kept, mut jumps) = (base, 0, 0);
    loop {
        let piece = read(&rpc, cursor, 65_536);
        let start = piece["cursor"].as_u64().unwrap();
        jumps += u64::from(start > cursor);
        let output = piece["output"].as_str().unwrap();
        let first = (start - base) / 11;
        let expected: String = (first + 1..).map(line).take(output.chars().count() / 11 + 2).collect();
        let expected: String =
            expected.chars().skip(((start - base) % 11) as usize).take(output.chars().count()).collect();
        let body = output.split("end-of-it").next().unwrap();
        assert!(expected.starts_with(body), "at {start}: {}", &body[..body.len().min(40)]);
        kept += output.len();
        cursor = piece["next_cursor"].as_u64().unwrap();
        if !piece["truncated"].as_bool().unwrap() {
            break;
        }
    }
    assert_eq!(jumps, 1);
    assert!((500_000..3_000_000).contains(&kept), "{kept}");
    assert!(cursor > base + 3_300_000);
}

#[test]
fn b43_a_secret_printed_in_two_halves_with_a_read_between_shows_nothing_and_loses_nothing() {
    let rpc = Rpc::start();
    let hidden = ["hunter2-is-secret", "hunter2", ""];
    open(&rpc, json!({"redact_values": hidden, "env": {"SECRET": hidden[0], "TERM": "dumb"}}));
    write(&rpc, "stty -echo -onlcr; echo ready");
    shows(&rpc, "\nready\npyro$ ");
    let before = read(&rpc, 0, 1_000_000)["next_cursor"].as_u64().unwrap();
    write(
        &rpc,
        "printf 'A%s' ${SECRET%secret}; read x; printf '%sB é\\n' ${SECRET#hunter2-is-}; echo $SECRET hunter2; echo end-of-it",
    );
    rpc.wait_for_shell(&json!({"shell_id": "s", "shows": "pyro$ A"}));
    let first = read(&rpc, before, 1_000_000);
    write(&rpc, "go");
    shows(&rpc, "end-of-it\n");
    let second = read(&rpc, first["next_cursor"].as_u64().unwrap(), 1_000_000);
    let whole = read(&rpc, before, 1_000_000);
    let text = |reply: &Value| reply["output"].as_str().unwrap().to_owned();
    assert_eq!(text(&first) + &text(&second), text(&whole));
    assert!(text(&whole).starts_with("A[REDACTED]B é\n[REDACTED] [REDACTED]\nend-of-it\n"), "{whole}");
}

#[test]
fn a_shell_outlives_its_clients_and_ends_with_a_close() {
    let rpc = Rpc::start();
    open(&rpc, json!({}));
    write(&rpc, "trap '' HUP; sleep 100 & echo pid-$!-; echo shell-$$-");
    shows(&rpc, "\nshell-");
    let text = read(&rpc, 0, 10_000)["output"].as_str().unwrap().to_owned();
    let pid = |mark: &str| text.rsplit_once(mark).unwrap().1.split('-').next().unwrap().parse().unwrap();
    let begun = Instant::now();
    let closed = rpc.ask(&json!({"action": "close_shell", "shell_id": "s"}));
    assert_eq!((&closed["closed"], &closed["state"]), (&json!(true), &json!("stopped")), "{closed}");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    for pid in [pid("\npid-"), pid("\nshell-")] {
        assert!(!crate::support::is_alive(pid), "{pid}");
    }
}
