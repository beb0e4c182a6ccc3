//! Files: the faults of the first agent, which this one must not have.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::Rpc;

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn b28_a_write_keeps_the_mode_and_leaves_no_temporary_file() {
    let rpc = Rpc::start();
    let tool = rpc.place("tool");
    fs::write(&tool, "old").unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    for (path, expected) in [("tool", 0o755), ("new", 0o644)] {
        rpc.ask(&json!({"action": "write_workspace_file", "path": path, "text": "new"}));
        assert_eq!(fs::read_to_string(rpc.place(path)).unwrap(), "new");
        assert_eq!(mode(&rpc.place(path)), expected, "{path}");
    }
    let too_long = json!({"action": "write_workspace_file", "path": "tool", "text": "x".repeat(1_048_577)});
    let refusal = json!({"error": "text must be at most 1048576 bytes when encoded as UTF-8"});
    assert_eq!(rpc.ask(&too_long), refusal);
    let mut names: Vec<_> = fs::read_dir(rpc.agent.workspace()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["agent.sock", "new", "tool"]);
}

#[test]
fn a_mebibyte_of_text_is_written_however_it_is_escaped() {
    let rpc = Rpc::start();
    for (character, escape) in [("x", "x"), ("\u{1}", "\\u0001"), ("é", "\\u00e9"), ("😀", "\\ud83d\\ude00")] {
        let count = 1024 * 1024 / character.len();
        let line =
            format!("{{\"action\":\"write_workspace_file\",\"path\":\"a\",\"text\":\"{}\"}}", escape.repeat(count));
        assert_eq!(rpc.ask_raw(line.as_bytes())["bytes_written"], 1024 * 1024);
        assert_eq!(fs::read_to_string(rpc.place("a")).unwrap(), character.repeat(count));
    }
}

#[test]
fn b29_names_that_are_not_utf8_are_written_as_python_writes_them() {
    let rpc = Rpc::start();
    let mut connection = rpc.connect();
    connection.send(b"{\"action\":\"write_workspace_file\",\"path\":\"a\\udcff\",\"text\":\"x\"}\n");
    assert_eq!(connection.line(), b"{\"path\":\"/workspace/a\\udcff\",\"size_bytes\":1,\"bytes_written\":1}");
    assert!(rpc.agent.workspace().join(std::ffi::OsStr::from_bytes(b"a\xff")).is_file());
    let long = "n".repeat(255);
    assert_eq!(rpc.ask(&json!({"action": "write_workspace_file", "path": long, "text": ""}))["size_bytes"], 0);
    let longer = rpc.ask(&json!({"action": "write_workspace_file", "path": "n".repeat(256), "text": ""}));
    assert!(longer["error"].as_str().unwrap().contains("255 bytes"), "{longer}");
}

#[test]
fn b30_a_large_tree_in_motion_is_listed_and_a_client_that_leaves_ends_its_list() {
    let rpc = Rpc::start();
    for directory in 0..50 {
        let directory = rpc.place(&format!("tree/d{directory:02}"));
        fs::create_dir_all(&directory).unwrap();
        (0..200).for_each(|file| fs::write(directory.join(format!("f{file:03}")), "x").unwrap());
    }
    let mut leaving = rpc.connect();
    leaving.send(b"{\"action\":\"list_workspace\",\"recursive\":true}\n");
    drop(leaving);
    let list = json!({"action": "list_workspace", "path": "tree", "recursive": true});
    let reply = rpc.ask(&list);
    let entries = reply["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 50 * 201);
    let paths: Vec<_> = entries.iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert_eq!(&paths[..2], ["/workspace/tree/d00", "/workspace/tree/d00/f000"]);
    assert!(paths.is_sorted());
    std::thread::scope(|scope| {
        let vanishing =
            scope.spawn(|| (0..50).for_each(|d| fs::remove_dir_all(rpc.place(&format!("tree/d{d:02}"))).unwrap()));
        while !vanishing.is_finished() {
            assert!(rpc.ask(&list)["entries"].is_array());
        }
    });
    assert_eq!(rpc.ask(&list)["entries"], json!([]));
}

#[test]
fn b29_odd_names_are_listed_and_deleted_as_they_were_named() {
    let rpc = Rpc::start();
    let name = std::ffi::OsStr::from_bytes(b" a\xff\"\n ");
    fs::create_dir(rpc.place("d")).unwrap();
    fs::write(rpc.place("d").join(name), "").unwrap();
    let mut connection = rpc.connect();
    connection.send(b"{\"action\":\"list_workspace\",\"path\":\"d\"}\n");
    let line = String::from_utf8(connection.line()).unwrap();
    let path = "/workspace/d/ a\\udcff\\\"\\n ";
    assert!(line.contains(&format!("\"path\":\"{path}\"")), "{line}");
    let mut connection = rpc.connect();
    connection.send(format!("{{\"action\":\"delete_workspace_path\",\"path\":\"{path}\"}}\n").as_bytes());
    assert!(connection.line().ends_with(b"\"deleted\":true}"));
    assert_eq!(fs::read_dir(rpc.place("d")).unwrap().count(), 0);
}
