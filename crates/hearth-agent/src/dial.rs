//! Dial: a request's streams, joined to a socket inside the guest.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use bytes::BytesMut;
use hearth_protocol::dial::{DialRequest, DialResult};
use hearth_protocol::{ErrorCode, Fault, Finished, StreamName, limits};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::process::{Intake, OUTPUT_PIECE};
use crate::session::operation::{Outlet, Streams};

/// Connects, and carries bytes both ways until both have ended.
pub(crate) async fn run(request: DialRequest, streams: Streams) -> Result<Finished, Fault> {
    let Streams { input, output } = streams;
    let sent = match request {
        DialRequest::Tcp { host, port, timeout_ms } => {
            let timeout = Duration::from_millis(timeout_ms.unwrap_or(limits::CONNECT_MS));
            let mut stream = connect_tcp(host.as_deref(), port, timeout).await?;
            // Latency is what a dialled stream is for; where it cannot be had, it works all the same.
            let _ = stream.set_nodelay(true);
            let (reader, writer) = stream.split();
            join(input, output, reader, writer).await
        }
        DialRequest::Unix { path } => {
            let name = Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()));
            let connected = UnixStream::connect(name).await;
            let mut stream = connected.map_err(|error| refused(&name.display().to_string(), &error))?;
            let (reader, writer) = stream.split();
            join(input, output, reader, writer).await
        }
    };
    Ok(Finished::Dial(DialResult::Ended { sent }))
}

async fn connect_tcp(host: Option<&str>, port: u16, timeout: Duration) -> Result<TcpStream, Fault> {
    let hosts = match host.and_then(|host| host.parse().ok()) {
        Some(address) => vec![address],
        None => vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
    };
    let shown = format!("{} port {port}", hosts[0]);
    let attempt = async {
        let mut first = None;
        for host in hosts {
            match TcpStream::connect((host, port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
    };
    match tokio::time::timeout(timeout, attempt).await {
        Ok(connected) => connected.map_err(|error| refused(&shown, &error)),
        Err(_) => Err(Fault::never_started(
            ErrorCode::ConnectionFailed,
            format!("{shown} did not answer within {} ms", timeout.as_millis()),
        )),
    }
}

fn refused(what: &str, error: &io::Error) -> Fault {
    Fault::never_started(ErrorCode::ConnectionFailed, format!("cannot connect to {what}: {error}"))
}

/// Carries bytes both ways, and returns how many the socket took.
async fn join(
    mut input: Intake,
    output: Outlet,
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
) -> u64 {
    let outward = async {
        let mut sent = 0;
        while let Ok(Some(bytes)) = input.next().await {
            if writer.write_all(&bytes).await.is_err() {
                // It listens no more; what it still has to say is carried all the same.
                return sent;
            }
            sent += bytes.len() as u64;
        }
        let _ = writer.shutdown().await;
        sent
    };
    let inward = async {
        loop {
            let mut buffer = BytesMut::with_capacity(OUTPUT_PIECE);
            match reader.read_buf(&mut buffer).await {
                Ok(count) if count > 0 => output.send(StreamName::Data, buffer.freeze()).await,
                // A reset ends a stream as an end does: there is nothing better to tell a byte stream.
                _ => return output.end(StreamName::Data).await,
            }
        }
    };
    tokio::join!(outward, inward).0
}
