//! The earlier protocols at a sandbox's door.

use std::path::Path;

use hearth_engine::protocol::dial::DialRequest;
use hearth_engine::{DialectSpec, SandboxSpec};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};

use crate::support::Guest;

#[tokio::test]
async fn b42_a_service_on_the_guests_loopback_is_reached_through_the_agent() {
    let Some(guest) = Guest::boot().await else { return };
    let server = "import socket; s=socket.create_server(('127.0.0.1', 8000)); print('up', flush=True); c=s.accept()[0]; \
                  data=b''\nwhile True:\n part=c.recv(65536)\n if not part: break\n data+=part\nc.sendall(data[::-1])";
    let serve = guest.run(&format!("python3 -c \"{server}\" >up & while ! grep -qs up up; do :; done")).await;
    assert_eq!(serve.status.code, Some(0), "{serve:?}");
    let stream = guest.channel().dial(DialRequest::Tcp { host: None, port: 8000, timeout_ms: None }).await.unwrap();
    let mut writer = stream.writer().unwrap();
    writer.write(bytes::Bytes::from_static(b"half-close")).await.unwrap();
    writer.finish();
    let mut answer = Vec::new();
    while let Some(bytes) = stream.read().await.unwrap() {
        answer.extend_from_slice(&bytes);
    }
    assert_eq!(answer, b"esolc-flah");
    guest.remove().await;
}

/// Sends `request` on a connection of its own, and reads all that comes back.
async fn ask(socket: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_earlier_protocols_are_spoken_at_a_sandboxs_door() {
    let spec = SandboxSpec { dialects: Some(DialectSpec { port: Some(0) }), ..SandboxSpec::default() };
    let Some(guest) = Guest::boot_with(spec).await else { return };
    let addresses = guest.sandbox().dialects().unwrap().clone();

    let exec = "{\"action\":\"exec\",\"command\":\"id -un; pwd; exit 3\"}\n";
    let answer = ask(&addresses.workspace, exec).await;
    assert!(answer.contains("\"exit_code\": 3") || answer.contains("\"exit_code\":3"), "{answer}");
    let answer = ask(&addresses.workspace, &format!("CONNECT 5005\n{exec}")).await;
    assert!(answer.starts_with("OK 5005\n") && answer.contains("stdout"), "{answer}");

    let mut command = UnixStream::connect(&addresses.command).await.unwrap();
    let mut event = BufReader::new(UnixStream::connect(&addresses.event).await.unwrap());
    command.write_all(b"{\"action\":\"ping\",\"op_id\":\"a\"}\n").await.unwrap();
    let mut line = String::new();
    event.read_line(&mut line).await.unwrap();
    assert!(line.contains("pong") && line.contains("\"a\""), "{line}");

    let mut single = BufReader::new(TcpStream::connect(("127.0.0.1", addresses.port.unwrap())).await.unwrap());
    let code = "{\"action\":\"exec\",\"language\":\"python\",\"code\":\"print(6 * 7)\",\"timeout\":60}\n";
    single.write_all(code.as_bytes()).await.unwrap();
    let mut said = String::new();
    while !said.contains("complete") && !said.contains("error") {
        assert!(single.read_line(&mut said).await.unwrap() > 0, "{said}");
    }
    assert!(said.contains("42") && said.contains("\"exit_code\":0"), "{said}");
    // A sandbox has no network, and is told so at once.
    let install = "{\"action\":\"install_packages\",\"language\":\"python\",\"packages\":[\"six==1.16.0\"]}\n";
    single.write_all(install.as_bytes()).await.unwrap();
    let mut said = String::new();
    single.read_line(&mut said).await.unwrap();
    assert!(said.contains("package_error") && said.contains("no way out"), "{said}");
    guest.remove().await;
}
