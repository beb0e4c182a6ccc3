//! Dial: a request's streams, joined to a socket inside the guest.

use std::cell::Cell;
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
///
/// # Errors
/// [`ErrorCode::ConnectionFailed`]: there is no connection, or, with what came before it carried, it broke.
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
    let broke = |error| Fault::failed(ErrorCode::ConnectionFailed, format!("the connection broke: {error}"));
    Ok(Finished::Dial(DialResult::Ended { sent: sent.map_err(broke)? }))
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

/// Carries bytes both ways until both have ended, and returns how many the socket took.
///
/// # Errors
/// What broke the connection, at once: a stream that was reset has not come to its end.
async fn join(
    mut input: Intake,
    output: Outlet,
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
) -> io::Result<u64> {
    // The kernel tells of a reset once: whoever writes then hears of it, and whoever reads finds an end.
    let reset = Cell::new(None);
    let outward = async {
        let mut sent = 0;
        while let Ok(Some(bytes)) = input.next().await {
            if let Err(error) = writer.write_all(&bytes).await {
                // It listens no more; what it still has to say is carried all the same.
                reset.set(Some(error).filter(|error| error.kind() == io::ErrorKind::ConnectionReset));
                return Ok(sent);
            }
            sent += bytes.len() as u64;
        }
        let _ = writer.shutdown().await;
        Ok(sent)
    };
    let inward = async {
        loop {
            let mut buffer = BytesMut::with_capacity(OUTPUT_PIECE);
            if reader.read_buf(&mut buffer).await? > 0 {
                output.send(StreamName::Data, buffer.freeze()).await;
                continue;
            }
            if let Some(error) = reset.take() {
                return Err(error);
            }
            output.end(StreamName::Data).await;
            return Ok(());
        }
    };
    tokio::try_join!(outward, inward).map(|(sent, ())| sent)
}
