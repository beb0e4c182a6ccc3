//! Archives: the faults of the first agent, which this one must not have.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use serde_json::{Value, json};

use super::Rpc;

/// A tar archive of what a shell makes in an empty directory.
pub(super) fn tar(made_by: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let script = format!("{made_by}; tar cf - *");
    let output = Command::new("/bin/sh").args(["-ec", &script]).current_dir(directory.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn extract(rpc: &Rpc, destination: &str, archive: &[u8]) -> Value {
    let mut connection = rpc.connect();
    let request = json!({"action": "extract_archive", "archive_size": archive.len(), "destination": destination});
    connection.send(format!("{request}\n").as_bytes());
    connection.send(archive);
    connection.reply()
}

#[test]
fn b35_a_project_of_any_kind_goes_in_and_out() {
    let rpc = Rpc::start();
    let archive = tar("mkdir -p venv/bin node_modules/.bin 'sp ace'; ln -s /usr/bin/python3 venv/bin/python; \
        printf '#!/bin/sh\\n' > tool; chmod 4755 tool; ln tool venv/bin/tool; ln -s ../../tool node_modules/.bin/tool; \
        mkfifo fifo; ln -s .. 'sp ace/up'; printf x > 'sp ace/.hidden'; chmod 000 'sp ace/.hidden'; touch -d @99 tool");
    assert_eq!(extract(&rpc, "p", &archive)["destination"], "/workspace/p");
    let tool = fs::metadata(rpc.place("p/tool")).unwrap();
    assert_eq!((tool.mode() & 0o7777, tool.mtime(), tool.nlink()), (0o4755, 99, 2));
    let mut connection = rpc.connect();
    connection.send(b"{\"action\":\"export_archive\",\"path\":\"p\"}\n");
    let reply = connection.reply();
    let exported = connection.rest();
    assert_eq!(reply["archive_size"], exported.len());
    assert_eq!(extract(&rpc, "q", &exported)["entry_count"], reply["entry_count"]);
    let compare = "find . -mindepth 1 -printf '%P %y %m %s %T@ %l %n\\n' | sort";
    let list =
        |of: &str| Command::new("/bin/sh").args(["-c", compare]).current_dir(rpc.place(of)).output().unwrap().stdout;
    assert_eq!(String::from_utf8(list("p")).unwrap(), String::from_utf8(list("q")).unwrap());
}

#[test]
fn b34_a_cut_or_damaged_archive_changes_nothing_whenever_it_is_found_out() {
    let rpc = Rpc::start();
    let archive = tar("printf one > a; head -c 100000 /dev/zero > b; printf three > c");
    fs::create_dir(rpc.place("p")).unwrap();
    fs::write(rpc.place("p/a"), "old").unwrap();
    let mut damaged = archive.clone();
    let header = archive.windows(8).rposition(|window| window == b"c\0\0\0\0\0\0\0").unwrap();
    damaged[header] = b'd';
    let cut = archive[..archive.len() / 2].to_vec();
    for bytes in [&damaged, &cut] {
        let reply = extract(&rpc, "p", bytes);
        assert!(reply["error"].is_string(), "{reply}");
    }
    // The client announces more than it sends, and leaves or does not.
    for leaves in [false, true] {
        let mut connection = rpc.connect();
        let request = json!({"action": "extract_archive", "archive_size": archive.len() + 1, "destination": "p"});
        connection.send(format!("{request}\n").as_bytes());
        connection.send(&archive);
        if !leaves {
            connection.finish();
            assert_eq!(connection.reply(), json!({"error": "unexpected EOF while reading archive payload"}));
        }
    }
    assert_eq!(rpc.exec("echo on")["stdout"], "on\n");
    assert_eq!(fs::read_dir(rpc.place("p")).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(rpc.place("p/a")).unwrap(), "old");
}

#[test]
fn a_refusal_reaches_a_client_that_sends_its_whole_archive_first() {
    let rpc = Rpc::start();
    let archive = vec![0; 30_000_000];
    assert_eq!(extract(&rpc, "../x", &archive), json!({"error": "destination must stay inside /workspace"}));
}

#[test]
fn b31_large_archives_stream_both_ways() {
    let rpc = Rpc::start();
    let size = 64 << 20;
    let mut file = fs::File::create(rpc.place("large")).unwrap();
    let piece: Vec<u8> = (0..1 << 20).map(|index: u32| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    (0..size / piece.len()).for_each(|_| file.write_all(&piece).unwrap());
    drop(file);
    let mut connection = rpc.connect();
    connection.send(b"{\"action\":\"export_archive\",\"path\":\"large\"}\n");
    assert_eq!(connection.reply()["bytes_written"], size);
    let archive = connection.rest();
    assert_eq!(extract(&rpc, "copy", &archive)["bytes_written"], size);
    assert!(Command::new("cmp").args([rpc.place("large"), rpc.place("copy/large")]).status().unwrap().success());
    let resident = fs::read_to_string(format!("/proc/{}/status", rpc.agent.pid())).unwrap();
    let peak = resident.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB");
    assert!(peak.parse::<u64>().unwrap() < 40 * 1024, "{peak} KiB");
}

#[test]
fn b32_a_sparse_file_is_exported_as_sparse() {
    let rpc = Rpc::start();
    fs::File::create(rpc.place("sparse")).unwrap().set_len(100_000_000_000).unwrap();
    let mut connection = rpc.connect();
    connection.send(b"{\"action\":\"export_archive\",\"path\":\"sparse\"}\n");
    let reply = connection.reply();
    assert!(reply["archive_size"].as_u64().unwrap() < 100_000, "{reply}");
    let archive = connection.rest();
    extract(&rpc, "copy", &archive);
    let copy = fs::metadata(rpc.place("copy/sparse")).unwrap();
    assert_eq!((copy.len(), copy.blocks() < 1000), (100_000_000_000, true));
}

#[test]
fn nothing_is_left_of_an_export_that_nobody_takes() {
    let rpc = Rpc::start();
    fs::write(rpc.place("large"), vec![7; 16 << 20]).unwrap();
    for _ in 0..4 {
        let mut connection = rpc.connect();
        connection.send(b"{\"action\":\"export_archive\"}\n");
        connection.reply();
    }
    assert_eq!(rpc.exec("echo on")["stdout"], "on\n");
    let names: Vec<_> = fs::read_dir(rpc.agent.workspace()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}
