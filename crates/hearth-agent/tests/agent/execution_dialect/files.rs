//! Files: what a transcript cannot say.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::client::{Client, Served, WAYS, Way, frame};

const MIB: usize = 1024 * 1024;

fn noise(length: usize) -> Vec<u8> {
    let mut state = 7_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn names(served: &Served) -> Vec<String> {
    let entries = fs::read_dir(served.home()).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn read(client: &mut Client, path: &str) -> Vec<u8> {
    client.ask(&json!({"action": "read_file", "op_id": "read", "path": path})).content()
}

fn list(client: &mut Client, path: &str) -> Value {
    client.ask(&json!({"action": "list_files", "op_id": "list", "path": path})).last
}

#[test]
fn files_of_any_size_go_both_ways_whole_in_any_cut() {
    let served = Served::start();
    for (way, (length, cut)) in WAYS.into_iter().cycle().zip([
        (1, 1),
        (1000, 1),
        (300_000, 1000),
        (128 * 1024, 128 * 1024),
        (3 * MIB, 100_001),
        (20 * MIB, 128 * 1024),
    ]) {
        let mut client = served.connect(way);
        let content = noise(length);
        let written = client.write_frame("w", "deep/down/file", &frame(&content), cut);
        assert_eq!(written.last["bytes_written"], length, "{written:?}");
        assert!(fs::read(served.home().join("deep/down/file")).unwrap() == content);
        assert!(read(&mut client, "deep/down/file") == content);
    }
}

#[test]
fn a_chunk_of_a_read_has_at_most_128_kib() {
    let served = Served::start();
    let mut client = served.connect(Way::Unix);
    fs::write(served.home().join("noise"), noise(MIB)).unwrap();
    client.send(&json!({"action": "read_file", "op_id": 1, "path": "noise"}));
    let mut sizes = Vec::new();
    loop {
        let message = client.receive();
        match message["data"].as_str() {
            Some(data) => sizes.push(STANDARD.decode(data).unwrap().len()),
            None => break,
        }
    }
    assert!(sizes.len() >= 8 && sizes.iter().all(|&size| size <= 128 * 1024), "{sizes:?}");
}

#[test]
fn modes_are_as_asked_and_what_is_replaced_keeps_its_owner() {
    let served = Served::start();
    let mut client = served.connect(Way::Dual);
    let mode = || fs::metadata(served.home().join("tool")).unwrap().mode() & 0o7777;
    let mut write = |executable: Value| {
        client.send(&json!({"action": "write_file", "op_id": 1, "path": "tool", "make_executable": executable}));
        client.send(&json!({"action": "file_chunk", "op_id": 1, "data": STANDARD.encode(frame(b"x"))}));
        assert_eq!(client.ask(&json!({"action": "file_end", "op_id": 1})).last["type"], "file_write_ack");
    };
    for (executable, expected) in [(json!(null), 0o644), (json!(true), 0o755), (json!(false), 0o644)] {
        write(executable);
        assert_eq!(mode(), expected);
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(served.home().join("tool"), Some(1234), Some(2345)).unwrap();
        write(json!(true));
        let after = fs::metadata(served.home().join("tool")).unwrap();
        assert_eq!((after.uid(), after.gid(), mode()), (1234, 2345, 0o755));
    }
}

#[test]
fn what_is_made_belongs_to_the_user_new_directories_too() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can run things as another user");
        return;
    }
    let served = Served::start_with(&["--user", "nobody"]);
    let mut client = served.connect(Way::Tcp);
    let written = client.write_frame("w", "new/directory/file", &frame(b"x"), 100);
    assert_eq!(written.last["bytes_written"], 1, "{written:?}");
    for path in ["new", "new/directory", "new/directory/file"] {
        assert_eq!(fs::metadata(served.home().join(path)).unwrap().uid(), 65534, "{path}");
    }
}

#[test]
fn b27_links_that_lead_out_are_followed_by_nothing() {
    let served = Served::start();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    symlink(outside.path(), served.home().join("t")).unwrap();
    symlink(outside.path().join("secret"), served.home().join("link")).unwrap();
    let mut client = served.connect(Way::Unix);
    for request in [
        json!({"action": "read_file", "op_id": 1, "path": "t/secret"}),
        json!({"action": "read_file", "op_id": 1, "path": "link"}),
        json!({"action": "list_files", "op_id": 1, "path": "t"}),
        json!({"action": "write_file", "op_id": 1, "path": "t/new"}),
        json!({"action": "write_file", "op_id": 1, "path": "t/secret"}),
    ] {
        assert_eq!(client.ask(&request).error(), "path_error", "{request}");
    }
    let entries = list(&mut client, "");
    assert_eq!(entries["entries"][0]["name"], "link");
    assert_eq!((&entries["entries"][0]["is_dir"], &entries["entries"][1]["is_dir"]), (&json!(false), &json!(false)));
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn b28_a_frame_that_is_not_whole_leaves_the_old_file_and_nothing_else() {
    let served = Served::start();
    let mut client = served.connect(Way::Dual);
    fs::write(served.home().join("kept"), "old").unwrap();
    let whole = frame(&noise(500_000));
    let two = [frame(b"one"), frame(b"two")].concat();
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    std::io::Write::write_all(&mut encoder, &noise(500_000)).unwrap();
    let mut spoilt = encoder.finish().unwrap();
    spoilt[250_000] ^= 0x40;
    let behind = [whole.clone(), b"x".to_vec()].concat();
    let skippable = vec![0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
    for (what, frame) in [
        ("nothing", &whole[..0]),
        ("a beginning", &whole[..3]),
        ("a part", &whole[..whole.len() / 2]),
        ("all but one byte", &whole[..whole.len() - 1]),
        ("two frames", &two),
        ("damage", &spoilt),
        ("garbage behind", &behind),
        ("a frame to skip", &skippable),
        ("plain text", b"old"),
    ] {
        let outcome = client.write_frame("w", "kept", frame, 100_000);
        assert_eq!(outcome.error(), "io_error", "{what}");
        assert_eq!(fs::read_to_string(served.home().join("kept")).unwrap(), "old", "{what}");
        assert_eq!(names(&served), ["kept"], "{what}");
    }
    client.assert_alive();
}

#[test]
fn a_bomb_is_stopped_at_500_mib() {
    let served = Served::start();
    let mut client = served.connect(Way::Tcp);
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    let zeros = vec![0; MIB];
    for _ in 0..501 {
        std::io::Write::write_all(&mut encoder, &zeros).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    let outcome = client.write_frame("bomb", "zeros", &bomb, 128 * 1024);
    assert_eq!(outcome.error(), "io_error");
    assert!(outcome.message().contains("500 MiB"), "{outcome:?}");
    assert_eq!(names(&served), [""; 0]);
    let sparse = fs::File::create(served.home().join("sparse")).unwrap();
    sparse.set_len(501 * MIB as u64).unwrap();
    let outcome = client.ask(&json!({"action": "read_file", "op_id": 1, "path": "sparse"}));
    assert_eq!(outcome.error(), "io_error");
    client.assert_alive();
}

#[test]
fn b30_what_is_no_file_blocks_nothing() {
    let served = Served::start();
    let fifo = served.home().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(served.home().join("socket")).unwrap();
    let mut client = served.connect(Way::Dual);
    let entries = list(&mut client, "");
    let expected = json!([
        {"name": "fifo", "is_dir": false, "size": 0},
        {"name": "socket", "is_dir": false, "size": 0},
    ]);
    assert_eq!(entries["entries"], expected);
    for action in ["read_file", "write_file"] {
        for path in ["fifo", "socket"] {
            let outcome = client.ask(&json!({"action": action, "op_id": 1, "path": path}));
            assert_eq!(outcome.error(), "io_error", "{action} {path}");
        }
    }
}

#[test]
fn b32_a_sparse_file_is_listed_with_the_disk_it_uses() {
    let served = Served::start();
    let file = fs::File::create(served.home().join("sparse")).unwrap();
    file.set_len(100_000_000_000).unwrap();
    let mut client = served.connect(Way::Unix);
    let size = list(&mut client, "")["entries"][0]["size"].as_u64().unwrap();
    assert!(size < MIB as u64, "{size}");
}

#[test]
fn a_list_too_long_for_a_line_is_an_error_and_one_that_fits_is_sorted() {
    let served = Served::start();
    let mut client = served.connect(Way::Tcp);
    fs::create_dir(served.home().join("many")).unwrap();
    for number in (0..3000).rev() {
        fs::write(served.home().join(format!("many/{number:05}-{}", "x".repeat(90))), "").unwrap();
    }
    let entries = list(&mut client, "many");
    let entries = entries["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 3000);
    assert!(entries.is_sorted_by_key(|entry| entry["name"].as_str().unwrap()));
    for number in 3000..6000 {
        fs::write(served.home().join(format!("many/{number:05}-{}", "x".repeat(90))), "").unwrap();
    }
    let outcome = client.ask(&json!({"action": "list_files", "op_id": 1, "path": "many"}));
    assert_eq!(outcome.error(), "io_error");
    client.assert_alive();
}

#[test]
fn fifty_writes_at_once_are_fifty_files() {
    let served = Served::start();
    let mut client = served.connect(Way::Dual);
    let content = |number: usize| noise(100_000 + number);
    for number in 0..50 {
        client.send(&json!({"action": "write_file", "op_id": number, "path": format!("{number}")}));
    }
    let frames: Vec<_> = (0..50).map(|number| frame(&content(number))).collect();
    for at in 0..11 {
        for (number, frame) in frames.iter().enumerate() {
            let piece = &frame[(at * 10_000).min(frame.len())..((at + 1) * 10_000).min(frame.len())];
            client.send(&json!({"action": "file_chunk", "op_id": number, "data": STANDARD.encode(piece)}));
        }
    }
    for number in 0..50 {
        client.send(&json!({"action": "file_end", "op_id": number}));
    }
    for _ in 0..50 {
        assert_eq!(client.receive()["type"], "file_write_ack");
    }
    for number in 0..50 {
        assert!(fs::read(served.home().join(number.to_string())).unwrap() == content(number), "{number}");
    }
}

#[test]
fn b28_a_client_that_leaves_in_the_middle_of_a_write_leaves_nothing() {
    let served = Served::start();
    fs::write(served.home().join("kept"), "old").unwrap();
    for way in WAYS {
        let mut client = served.connect(way);
        client.send(&json!({"action": "write_file", "op_id": 1, "path": "kept"}));
        client.send(
            &json!({"action": "file_chunk", "op_id": 1, "data": STANDARD.encode(&frame(&noise(MIB))[..MIB / 2])}),
        );
        client.assert_alive();
        drop(client);
        let mut next = served.connect(way);
        next.send(&json!({"action": "file_end", "op_id": 1}));
        assert_eq!(next.outcome(&json!(1)).error(), "protocol_error", "{way:?}");
        assert_eq!(fs::read_to_string(served.home().join("kept")).unwrap(), "old");
        served.wait_until("nothing but the old file is open or there", || {
            names(&served) == ["kept"] && served.open_files_in_home() == 0
        });
    }
}

#[test]
fn a_write_that_is_refused_has_one_last_message_whatever_was_sent_behind_it() {
    let served = Served::start();
    symlink("/tmp", served.home().join("t")).unwrap();
    for way in WAYS {
        let mut client = served.connect(way);
        for path in ["../x", "", "t/x", &"x".repeat(256)] {
            client.send(&json!({"action": "write_file", "op_id": 1, "path": path}));
            client.send(&json!({"action": "file_chunk", "op_id": 1, "data": STANDARD.encode(frame(b"x"))}));
            client.send(&json!({"action": "file_end", "op_id": 1}));
            assert_eq!(client.outcome(&json!(1)).error(), "path_error", "{path}");
            client.assert_alive();
        }
        // Up to its end, and no further.
        assert_eq!(client.ask(&json!({"action": "file_end", "op_id": 1})).error(), "protocol_error");
        assert_eq!(client.write_frame("1", "whole", &frame(b"x"), 3).last["bytes_written"], 1);
    }
}

#[test]
fn a_second_write_of_a_name_in_use_is_refused_and_the_first_goes_on() {
    let served = Served::start();
    let mut client = served.connect(Way::Unix);
    client.send(&json!({"action": "write_file", "op_id": "w", "path": "first"}));
    for path in ["second", "../second"] {
        let refused = client.ask(&json!({"action": "write_file", "op_id": "w", "path": path}));
        assert_eq!(refused.error(), if path == "second" { "request_error" } else { "path_error" });
    }
    client.send(&json!({"action": "file_chunk", "op_id": "w", "data": STANDARD.encode(frame(b"x"))}));
    assert_eq!(client.ask(&json!({"action": "file_end", "op_id": "w"})).last["path"], "first");
    assert_eq!(names(&served), ["first"]);
}

#[test]
fn a_write_and_a_read_can_be_cancelled() {
    let served = Served::start();
    let mut client = served.connect(Way::Dual);
    client.send(&json!({"action": "write_file", "op_id": "w", "path": "new"}));
    client.send(&json!({"action": "cancel", "op_id": "w"}));
    let outcome = client.outcome(&json!("w"));
    assert_eq!((outcome.error(), outcome.message()), ("execution_error", "cancelled"));
    client.send(&json!({"action": "file_chunk", "op_id": "w", "data": "AAAA"}));
    client.send(&json!({"action": "file_end", "op_id": "w"}));
    client.assert_alive();
    fs::write(served.home().join("large"), noise(30 * MIB)).unwrap();
    client.send(&json!({"action": "read_file", "op_id": "r", "path": "large"}));
    assert_eq!(client.receive()["type"], "file_chunk");
    client.send(&json!({"action": "cancel", "op_id": "r"}));
    let outcome = client.outcome(&json!("r"));
    assert_eq!((outcome.error(), outcome.message()), ("execution_error", "cancelled"));
    assert_eq!(names(&served), ["large"]);
}

#[test]
fn b31_memory_stays_flat_while_files_stream_and_while_nobody_reads() {
    let served = Served::start();
    fs::write(served.home().join("large"), noise(40 * MIB)).unwrap();
    let before = served.memory_kib();
    let mut stuck = served.connect(Way::Unix);
    for number in 0..16 {
        stuck.send(&json!({"action": "read_file", "op_id": number, "path": "large"}));
    }
    let mut client = served.connect(Way::Tcp);
    assert_eq!(read(&mut client, "large").len(), 40 * MIB);
    let written = client.write_frame("w", "copy", &frame(&noise(40 * MIB)), 128 * 1024);
    assert_eq!(written.last["bytes_written"], 40 * MIB);
    let after = served.memory_kib();
    assert!(after < before + 40 * 1024, "{before} KiB grew to {after} KiB");
}

#[test]
fn permissions_of_the_file_system_are_said_as_errors_of_io() {
    if !rustix::process::geteuid().is_root() {
        let served = Served::start();
        fs::write(served.home().join("closed"), "").unwrap();
        fs::set_permissions(served.home().join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        let outcome = served.connect(Way::Tcp).ask(&json!({"action": "read_file", "op_id": 1, "path": "closed"}));
        assert_eq!(outcome.error(), "io_error");
        return;
    }
    eprintln!("skipped: root may read everything");
}
