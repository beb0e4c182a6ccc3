use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use hearth_channel::{
    Channel, ChannelError, ConnectError, ConnectOptions, Endpoint, Endpoints, SOCKET_PATH_LIMIT, reconnecting,
};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_LOCAL, VsockAddr, VsockListener};

use crate::peer::{Peer, PeerLane, own_uid, seconds};

/// `VMADDR_PORT_ANY` of `<linux/vm_sockets.h>`: the kernel chooses.
const ANY_PORT: u32 = u32::MAX;

struct Socket {
    _dir: TempDir,
    path: PathBuf,
    listener: UnixListener,
}

fn socket() -> Socket {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    Socket { _dir: dir, path, listener }
}

async fn refused(endpoint: Endpoint) -> ConnectError {
    endpoint.connect(seconds(10)).await.expect_err("refused")
}

/// Serves one session over two accepted streams and answers one ping.
async fn serve<T: AsyncRead + AsyncWrite + Unpin>(control: T, bulk: T) -> Peer<T> {
    let mut peer = Peer { control: PeerLane::new(control), bulk: PeerLane::new(bulk) };
    peer.greet().await;
    peer.pong().await;
    peer
}

async fn ping(endpoints: Endpoints) -> Channel {
    let channel = Channel::connect(&endpoints, ConnectOptions::default()).await.unwrap();
    channel.ping().await.unwrap();
    channel
}

#[tokio::test]
async fn a_session_runs_over_two_unix_sockets() {
    let (control, bulk) = (socket(), socket());
    let unix = |path: &PathBuf| Endpoint::Unix { path: path.clone(), expected_uid: own_uid() };
    let endpoints = Endpoints { control: unix(&control.path), bulk: unix(&bulk.path) };
    let script = async {
        let (control, bulk) = tokio::try_join!(control.listener.accept(), bulk.listener.accept()).unwrap();
        serve(control.0, bulk.0).await
    };
    tokio::join!(ping(endpoints), script);
}

#[tokio::test]
async fn reconnecting_closes_connects_and_has_nothing_of_the_earlier_session() {
    let (control, bulk) = (socket(), socket());
    let unix = |path: &PathBuf| Endpoint::Unix { path: path.clone(), expected_uid: own_uid() };
    let endpoints = Endpoints { control: unix(&control.path), bulk: unix(&bulk.path) };
    let accept = async || {
        let (control, bulk) = tokio::try_join!(control.listener.accept(), bulk.listener.accept()).unwrap();
        serve(control.0, bulk.0).await
    };
    let (channel, mut old) = tokio::join!(ping(endpoints.clone()), accept());
    old.control.send(b"{\"id\":1,\"type\":\"done\"}\n").await;
    let host = async {
        let channel = reconnecting(Some(channel), &endpoints, ConnectOptions::default()).await.unwrap();
        channel.ping().await.unwrap();
        channel
    };
    let script = async {
        assert_eq!(old.control.rest().await, b"", "the earlier session is closed first");
        accept().await
    };
    tokio::join!(host, script);
}

#[tokio::test]
async fn a_session_runs_over_one_tcp_listener() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let script = async {
        let (first, second) = (listener.accept().await.unwrap().0, listener.accept().await.unwrap().0);
        let (mut one, mut other) = ([0], [0]);
        // Only the one that carries the control hello has anything to read yet.
        let (control, bulk) = tokio::select! {
            peeked = first.peek(&mut one) => { assert_eq!(peeked.unwrap(), 1); (first, second) }
            peeked = second.peek(&mut other) => { assert_eq!(peeked.unwrap(), 1); (second, first) }
        };
        serve(control, bulk).await
    };
    tokio::join!(ping(Endpoints::both(Endpoint::Tcp { addr })), script);
}

#[tokio::test]
async fn a_session_runs_over_vsock() {
    let listener = match VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, ANY_PORT)) {
        Ok(listener) => listener,
        Err(error) => return println!("skipped: this kernel has no AF_VSOCK: {error}"),
    };
    let port = listener.local_addr().unwrap().port();
    let endpoint = Endpoint::Vsock { cid: VMADDR_CID_LOCAL, port };
    if let Err(error) = endpoint.connect(seconds(10)).await {
        return println!("skipped: this kernel has no vsock loopback: {error:?}");
    }
    listener.accept().await.unwrap();
    let script = async {
        let (control, bulk) = (listener.accept().await.unwrap().0, listener.accept().await.unwrap().0);
        serve(control, bulk).await
    };
    // One after the other, so that the script knows which is which.
    let host = async {
        let (control, bulk) =
            (endpoint.connect(seconds(10)).await.unwrap(), endpoint.connect(seconds(10)).await.unwrap());
        let channel = Channel::over(control, bulk, ConnectOptions::default()).await.unwrap();
        channel.ping().await.unwrap();
        channel
    };
    tokio::join!(host, script);
}

#[tokio::test]
async fn a_vsock_proxy_is_told_the_port_first() {
    let socket = socket();
    let endpoint = Endpoint::VsockUnix { path: socket.path.clone(), port: 5005, expected_uid: own_uid() };
    let script = async {
        let (mut stream, _) = socket.listener.accept().await.unwrap();
        let mut line = [0; 13];
        stream.read_exact(&mut line).await.unwrap();
        assert_eq!(&line, b"CONNECT 5005\n");
        stream.write_all(b"OK 1073741824\nand what follows").await.unwrap();
        stream
    };
    let (connection, _stream) = tokio::join!(endpoint.connect(seconds(10)), script);
    connection.unwrap();
}

#[tokio::test]
async fn what_follows_the_answer_of_a_vsock_proxy_belongs_to_the_session() {
    let socket = socket();
    let endpoint = Endpoint::VsockUnix { path: socket.path.clone(), port: 7, expected_uid: own_uid() };
    let accept = async || {
        let (mut stream, _) = socket.listener.accept().await.unwrap();
        stream.read_exact(&mut [0; 10]).await.unwrap();
        stream.write_all(b"OK 1\nstale bytes\n").await.unwrap();
        stream
    };
    let host = async {
        let (control, bulk) =
            (endpoint.connect(seconds(10)).await.unwrap(), endpoint.connect(seconds(10)).await.unwrap());
        let channel = Channel::over(control, bulk, ConnectOptions::default()).await.unwrap();
        channel.ping().await.unwrap();
        channel
    };
    let script = async {
        let (control, bulk) = (accept().await, accept().await);
        serve(control, bulk).await
    };
    tokio::join!(host, script);
}

#[tokio::test]
async fn a_vsock_proxy_that_refuses_or_babbles_is_a_typed_error() {
    for (answer, shown) in [
        (b"no such port\x1b[2J\n".to_vec(), "no such port\\u{1b}[2J".to_owned()),
        (b"OKAY\n".to_vec(), "OKAY".to_owned()),
        (vec![], String::new()),
        (vec![b'x'; 100_000], "x".repeat(256)),
    ] {
        let socket = socket();
        let endpoint = Endpoint::VsockUnix { path: socket.path.clone(), port: 7, expected_uid: own_uid() };
        let script = async {
            let (mut stream, _) = socket.listener.accept().await.unwrap();
            stream.read_exact(&mut [0; 10]).await.unwrap();
            let _ = stream.write_all(&answer).await;
        };
        let (error, ()) = tokio::join!(refused(endpoint), script);
        let ConnectError::PortRefused { answer, .. } = error else { panic!("{error:?}") };
        assert_eq!(answer, shown);
    }
}

#[tokio::test]
async fn b44_a_socket_served_by_another_user_than_expected_is_refused_before_a_byte_is_sent() {
    let socket = socket();
    for endpoint in [
        Endpoint::Unix { path: socket.path.clone(), expected_uid: own_uid() + 1 },
        Endpoint::VsockUnix { path: socket.path.clone(), port: 5, expected_uid: own_uid() + 1 },
    ] {
        let error = refused(endpoint).await;
        assert!(matches!(error, ConnectError::WrongPeer { found_uid, .. } if found_uid == own_uid()), "{error:?}");
        let mut received = Vec::new();
        socket.listener.accept().await.unwrap().0.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"");
    }
}

#[tokio::test]
async fn b44_a_socket_that_another_user_really_serves_is_refused_before_a_byte_is_sent() {
    const NOBODY: u32 = 65534;
    const SERVER: &str = "import socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print('listening', flush=True)
c, _ = s.accept(); data = c.recv(100); print(len(data), flush=True)";
    if own_uid() != 0 {
        return println!("skipped: only root can serve a socket as another user");
    }
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(NOBODY), None).unwrap();
    assert_eq!(std::fs::metadata(dir.path()).unwrap().uid(), NOBODY);
    let path = dir.path().join("socket");
    let server = Command::new("setpriv")
        .args(["--reuid", "65534", "--clear-groups", "python3", "-c", SERVER])
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn();
    let mut server = match server {
        Ok(server) => server,
        Err(error) => return println!("skipped: setpriv cannot be run: {error}"),
    };
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(server.stdout.take().unwrap()));
    let Some(Ok(listening)) = lines.next() else { return println!("skipped: there is no python3") };
    assert_eq!(listening, "listening");
    let error = refused(Endpoint::Unix { path, expected_uid: 0 }).await;
    assert!(matches!(error, ConnectError::WrongPeer { expected_uid: 0, found_uid: NOBODY, .. }), "{error:?}");
    assert_eq!(lines.next().unwrap().unwrap(), "0", "bytes were sent");
    server.wait().unwrap();
}

#[tokio::test]
async fn b44_a_socket_path_over_107_bytes_is_refused_with_its_length() {
    let dir = tempfile::tempdir().unwrap();
    let fill = |length: usize| dir.path().join("x".repeat(length - dir.path().as_os_str().len() - 1));
    let longest = fill(SOCKET_PATH_LIMIT);
    let _listener = UnixListener::bind(&longest).unwrap();
    Endpoint::Unix { path: longest, expected_uid: own_uid() }.connect(seconds(10)).await.unwrap();
    let error = refused(Endpoint::Unix { path: fill(SOCKET_PATH_LIMIT + 1), expected_uid: own_uid() }).await;
    assert!(matches!(error, ConnectError::SocketPathTooLong { length: 108, .. }), "{error:?}");
    assert!(error.to_string().contains("107"), "{error}");
}

#[tokio::test]
async fn nobody_there_is_one_attempt_and_an_error_that_names_the_place() {
    let path = PathBuf::from("/nonexistent/socket");
    let endpoint = Endpoint::Unix { path, expected_uid: own_uid() };
    let error =
        Channel::connect(&Endpoints::both(endpoint), ConnectOptions::default()).await.expect_err("nobody there");
    assert!(matches!(error, ChannelError::Connect(ConnectError::Dial { .. })), "{error:?}");
    assert!(error.to_string().contains("unix:/nonexistent/socket"), "{error}");
}
