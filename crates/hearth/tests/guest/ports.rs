//! The listeners that the earlier protocols' own clients look for: virtio-serial ports, vsock, a port of the loopback. Sandboxes of ours
//! are reached over `dial`, so their machines have neither the ports nor vsock; these machines are given them.

use std::fs;
use std::io::Write;
use std::time::Duration;

use hearth_engine::channel::lines::{LineChannel, LineEndpoints, LineOptions, reconnecting_channel};
use hearth_engine::channel::{Dialled, Endpoint};
use hearth_engine::image::{Image, Initramfs};
use hearth_engine::protocol::dial::DialRequest;
use hearth_engine::vmm::{MachineSpec, PortName};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use crate::support::ChangedMachine;

/// A bound on everything that a test waits for: reached only by a hang.
const HANG: Duration = Duration::from_secs(120);

/// A machine with the execution channel's own ports, and a client that is connected to them.
async fn with_ports() -> Option<(ChangedMachine, LineChannel)> {
    let names = ["org.dualeai.cmd", "org.dualeai.event"].map(|name| PortName::new(name).unwrap());
    let ports = names.clone();
    // Before our own, as the reference numbers them.
    let change = |spec: &mut MachineSpec, _: &Image| {
        spec.ports.splice(0..0, ports);
        Some(())
    };
    let (machine, ()) = ChangedMachine::boot(change).await?;
    let [command, event] = names.map(|name| Endpoint::Unix {
        path: machine.machine.port_path(&name).unwrap().to_owned(),
        expected_uid: rustix::process::geteuid().as_raw(),
    });
    let client = LineChannel::new(LineEndpoints::Dual { command, event }, LineOptions::default());
    client.connect(HANG).await.unwrap();
    Some((machine, client))
}

/// What code says, and its last message.
async fn exec(client: &LineChannel, language: &str, code: &str) -> (String, Value) {
    let request = json!({"action": "exec", "language": language, "code": code});
    let mut messages = client.stream_messages(&request, HANG).await.unwrap();
    let (mut said, mut last) = (String::new(), Value::Null);
    while let Some(message) = messages.next().await.unwrap() {
        said += message["chunk"].as_str().unwrap_or_default();
        last = message;
    }
    (said, last)
}

#[tokio::test]
async fn the_execution_channel_is_served_on_its_two_virtio_serial_ports() {
    let Some((machine, client)) = with_ports().await else { return };
    let pong = client.send_request(&json!({"action": "ping"}), HANG).await.unwrap();
    assert_eq!(pong["type"], "pong");
    let (said, last) = exec(&client, "python", "x = 6 * 7; print(x)").await;
    assert_eq!((said.as_str(), &last["exit_code"]), ("42\n", &json!(0)), "{last}");
    // More than the ports' queues hold, and every byte of it arrives.
    let (said, last) = exec(&client, "raw", "head -c 900000 /dev/zero | tr '\\0' x").await;
    assert!(said.len() == 900_000 && said.bytes().all(|byte| byte == b'x') && last["exit_code"] == 0, "{last}");
    // A ping is answered while code runs.
    let sleep = json!({"action": "exec", "op_id": "sleeps", "language": "raw", "code": "sleep 600"});
    client.send_command(&sleep).await.unwrap();
    assert_eq!(client.send_request(&json!({"action": "ping"}), HANG).await.unwrap()["type"], "pong");
    client.send_command(&json!({"action": "cancel", "op_id": "sleeps"})).await.unwrap();
    let mut events = client.stream_events(HANG).await.unwrap();
    let end = events.next().await.unwrap().unwrap();
    assert_eq!((&end["op_id"], &end["message"]), (&json!("sleeps"), &json!("cancelled")));
    drop(events);
    machine.machine.stop().await;
}

#[tokio::test]
async fn b46_a_client_of_the_ports_goes_and_comes_and_finds_the_state_and_no_old_answers() {
    let Some((machine, client)) = with_ports().await else { return };
    exec(&client, "python", "kept = 1").await;
    for round in 0..5 {
        // What is under way when a client goes is for nobody else.
        let code = format!("for n in range(50): print('stale {round}')");
        client.send_command(&json!({"action": "exec", "language": "python", "code": code})).await.unwrap();
        reconnecting_channel(&client, HANG).await.unwrap();
        let (said, last) = exec(&client, "python", "print(kept)").await;
        assert_eq!((said.as_str(), &last["exit_code"]), ("1\n", &json!(0)), "{last}");
    }
    machine.machine.stop().await;
}

/// Everything that comes back for one line, up to the first message that ends something.
async fn answer(stream: &Dialled) -> String {
    let mut said = String::new();
    while !said.contains("\"complete\"") && !said.contains("\"error\"") {
        let bytes = stream.read().await.unwrap().expect("an answer comes before the end");
        said += &String::from_utf8_lossy(&bytes);
    }
    said
}

/// The machine's initial RAM file system, and behind it one with more modules. Later files replace earlier ones of the same name.
fn load_also(spec: &mut MachineSpec, image: &Image, modules: &[&str]) -> Option<tempfile::NamedTempFile> {
    let board = ["virtio_mmio", "virtio_pci", "virtio_console", "virtio_blk", "erofs", "overlay"];
    let order = match image.modules().unwrap().load_order(&[&board, modules].concat()) {
        Ok(order) => order,
        Err(error) => {
            eprintln!("skipped: the image's kernel has not all of {modules:?}: {error}");
            return None;
        }
    };
    let (mut archive, mut list) = (Initramfs::new(), String::new());
    for module in &order {
        let path = format!("modules/also-{}.ko", module.name);
        archive = archive.file(&path, 0o644, &fs::read(&module.path).unwrap()).unwrap();
        list += &format!("also-{}.ko optional\n", module.name);
    }
    let archive = archive.file("modules/order", 0o644, list.as_bytes()).unwrap().finish();
    let mut both = tempfile::NamedTempFile::new().unwrap();
    both.write_all(&fs::read(&spec.initramfs).unwrap()).unwrap();
    both.write_all(&archive).unwrap();
    fs::set_permissions(both.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    spec.initramfs = both.path().to_owned();
    Some(both)
}

#[tokio::test]
async fn the_workspace_agent_is_served_on_vsock_5005_and_the_execution_channel_on_tcp_5000() {
    let change = |spec: &mut MachineSpec, image: &Image| load_also(spec, image, &["vsock_loopback"]);
    let Some((machine, _initramfs)) = ChangedMachine::boot(change).await else { return };
    let client = "import json, socket; s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM); s.connect((1, 5005)); \
                  s.sendall(b'{\"command\": \"id -un; exit 3\"}\\n'); a = b''.join(iter(lambda: s.recv(9999), b'')); \
                  a = json.loads(a); print(a['stdout'].strip(), a['exit_code'])";
    let asked = machine.run(&format!("python3 -c '{}'", client.replace('\'', "'\\''"))).await;
    assert_eq!(String::from_utf8_lossy(&asked.stdout), "user 3\n", "{asked:?}");

    let stream = machine.channel.dial(DialRequest::Tcp { host: None, port: 5000, timeout_ms: None }).await.unwrap();
    let request = json!({"action": "exec", "op_id": 1, "language": "python", "code": "print(6 * 7)"});
    stream.writer().unwrap().write(format!("{request}\n").into()).await.unwrap();
    let said = answer(&stream).await;
    assert!(said.contains("42") && said.contains("\"exit_code\":0"), "{said}");
    drop(stream);
    machine.machine.stop().await;
}

#[tokio::test]
async fn b46_half_a_line_of_a_client_that_died_is_no_part_of_the_next_ones() {
    let Some((machine, client)) = with_ports().await else { return };
    let path = machine.machine.port_path(&PortName::new("org.dualeai.cmd").unwrap()).unwrap().to_owned();
    for _ in 0..5 {
        // More than the guest's queue holds, so that the guest is in the middle of a line, too.
        let flood = json!({"action": "exec", "language": "raw", "code": "head -c 900000 /dev/zero | tr '\\0' x"});
        client.send_command(&flood).await.unwrap();
        let first = client.stream_events(HANG).await.unwrap().next().await.unwrap().unwrap();
        assert_eq!(first["type"], "stdout");
        client.close().await;
        let mut dying = UnixStream::connect(&path).await.unwrap();
        dying.write_all(b"{\"action\":\"exec\",\"language\":\"raw\",\"code\":\"echo {").await.unwrap();
        drop(dying);
        client.connect(HANG).await.unwrap();
        assert_eq!(client.send_request(&json!({"action": "ping"}), HANG).await.unwrap()["type"], "pong");
        let (said, last) = exec(&client, "raw", "echo next").await;
        assert_eq!((said.as_str(), &last["exit_code"]), ("next\n", &json!(0)), "{last}");
    }
    machine.machine.stop().await;
}
