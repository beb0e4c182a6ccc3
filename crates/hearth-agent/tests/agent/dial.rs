//! Byte streams to what listens inside the guest.

use std::time::Duration;

use bytes::Bytes;
use hearth_channel::{ChannelError, Dialled};
use hearth_protocol::dial::DialRequest;
use hearth_protocol::{ErrorCode, Fault, Outcome};
use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use crate::support::{Agent, HANG};

fn tcp(port: u16) -> DialRequest {
    DialRequest::Tcp { host: None, port, timeout_ms: None }
}

async fn read_all(stream: &Dialled) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(bytes) = tokio::time::timeout(HANG, stream.read()).await.unwrap().unwrap() {
        all.extend_from_slice(&bytes);
    }
    all
}

#[tokio::test]
async fn b42_each_way_of_a_dialled_stream_ends_on_its_own() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        // The first client hears all before it speaks; the second speaks first.
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut question = Vec::new();
        stream.read_to_end(&mut question).await.unwrap();
        stream.write_all(&question).await.unwrap();
        said
    });
    let stream = channel.dial(tcp(port)).await.unwrap();
    assert_eq!(read_all(&stream).await, b"hello");
    let mut writer = stream.writer().unwrap();
    writer.write(Bytes::from_static(b"after the end")).await.unwrap();
    writer.finish();
    let stream = channel.dial(tcp(port)).await.unwrap();
    let mut writer = stream.writer().unwrap();
    writer.write(Bytes::from_static(b"question")).await.unwrap();
    writer.finish();
    assert_eq!(read_all(&stream).await, b"question");
    assert_eq!(server.await.unwrap(), b"after the end");
}

#[tokio::test]
async fn b42_sixty_megabytes_reach_a_slow_reader_whole() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let path = agent.workspace().join("service.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let content: Vec<u8> = (0..60_000_000_u32 / 4).flat_map(u32::to_le_bytes).collect();
    let sent = content.clone();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&sent).await.unwrap();
    });
    let path = path.into_os_string().into_encoded_bytes().into();
    let stream = channel.dial(DialRequest::Unix { path }).await.unwrap();
    let (mut received, mut reads) = (Vec::new(), 0);
    while let Some(bytes) = stream.read().await.unwrap() {
        received.extend_from_slice(&bytes);
        reads += 1;
        if reads % 64 == 0 {
            // Whoever reads slowly delays nobody else.
            channel.ping().await.unwrap();
        }
    }
    assert!(received == content, "{} bytes came", received.len());
}

/// Reads until the stream breaks.
async fn read_until_broken(stream: &Dialled) -> (Vec<u8>, Fault) {
    let mut all = Vec::new();
    loop {
        match tokio::time::timeout(HANG, stream.read()).await.unwrap() {
            Ok(Some(bytes)) => all.extend_from_slice(&bytes),
            Ok(None) => panic!("a clean end after {} bytes", all.len()),
            Err(ChannelError::Fault { source }) => return (all, source),
            Err(other) => panic!("not a fault of the agent's: {other}"),
        }
    }
}

#[tokio::test]
async fn b42_a_connection_that_is_reset_is_not_taken_for_one_that_ended() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for finished in [false, true] {
        let stream = channel.dial(tcp(port)).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        // Its input stays open, with nothing to write, or has ended.
        let mut writer = stream.writer().unwrap();
        if finished {
            writer.write(Bytes::new()).await.unwrap();
            writer.finish();
            server.read_to_end(&mut Vec::new()).await.unwrap();
        }
        server.write_all(&[b'x'; 1000]).await.unwrap();
        set_socket_linger(&server, Some(Duration::ZERO)).unwrap();
        drop(server);
        let (said, broken) = read_until_broken(&stream).await;
        assert_eq!((broken.code, broken.outcome), (ErrorCode::ConnectionFailed, Outcome::Failed), "{broken}");
        assert_eq!(said, [b'x'; 1000]);
    }
}

#[tokio::test]
async fn b42_a_reset_that_a_write_runs_into_breaks_the_reader_too() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = channel.dial(tcp(listener.local_addr().unwrap().port())).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let mut writer = stream.writer().unwrap();
    let write = async {
        // Until the connection takes no more, and then until nobody takes it.
        while writer.write(Bytes::from(vec![0; 100_000])).await.is_ok() {}
    };
    let reset = async {
        server.readable().await.unwrap();
        set_socket_linger(&server, Some(Duration::ZERO)).unwrap();
        drop(server);
        read_until_broken(&stream).await
    };
    let ((), (said, broken)) = tokio::join!(write, reset);
    assert_eq!(
        (said.len(), broken.code, broken.outcome),
        (0, ErrorCode::ConnectionFailed, Outcome::Failed),
        "{broken}"
    );
}

#[tokio::test]
async fn b42_a_port_where_nobody_listens_refuses_at_once() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    for (to, wanted) in [
        (tcp(unused), ErrorCode::ConnectionFailed),
        (DialRequest::Unix { path: "/nowhere".into() }, ErrorCode::ConnectionFailed),
        (DialRequest::Unix { path: "relative".into() }, ErrorCode::InvalidField),
        (tcp(0), ErrorCode::InvalidField),
    ] {
        match channel.dial(to).await.unwrap_err() {
            ChannelError::Fault { source } => assert_eq!(source.code, wanted, "{source}"),
            other => panic!("not a fault of the agent's: {other}"),
        }
    }
}

#[tokio::test]
async fn a_dropped_stream_closes_its_connection() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = channel.dial(tcp(listener.local_addr().unwrap().port())).await.unwrap();
    let (mut accepted, _) = listener.accept().await.unwrap();
    drop(stream);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(HANG, accepted.read_to_end(&mut rest)).await.unwrap();
    assert!(ended.is_err() || rest.is_empty());
}
