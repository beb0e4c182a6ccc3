//! A look at whether a service is ready. Every look has a bound of its own, and one that is given up leaves nothing behind.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use hearth_protocol::service::{Endpoint, HttpTarget, Readiness};
use hearth_protocol::{Command, Signal, SignalScope, Start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::process::{Process, Processes};

/// How long a connection may take.
const TCP: Duration = Duration::from_secs(1);
/// How long an HTTP server may take to connect and answer.
const HTTP: Duration = Duration::from_secs(2);
/// How long a command may take, in milliseconds.
const COMMAND_MS: u64 = 10_000;
/// The longest status line that is read, in bytes.
const STATUS_LINE: u64 = 1024;

/// Looks once. `service` is what the service itself was started with.
pub(super) async fn is_ready(readiness: &Readiness, service: &Start, processes: &Rc<Processes>) -> bool {
    match readiness {
        Readiness::File { path } => {
            let directory = processes.directory_of(service);
            directory.is_ok_and(|directory| directory.join(Path::new(OsStr::from_bytes(path.as_bytes()))).exists())
        }
        Readiness::Tcp { address } => match Endpoint::parse(address, None) {
            Ok(endpoint) => matches!(timeout(TCP, connect(&endpoint)).await, Ok(Some(_))),
            Err(_) => false,
        },
        Readiness::Http { url } => match HttpTarget::parse(url) {
            Ok(target) => matches!(timeout(HTTP, get(&target)).await, Ok(Some(200..=399))),
            Err(_) => false,
        },
        Readiness::Command { command } => succeeds(command, service, processes).await,
    }
}

async fn connect(endpoint: &Endpoint) -> Option<TcpStream> {
    for &host in &endpoint.hosts {
        let host: IpAddr = host;
        if let Ok(stream) = TcpStream::connect((host, endpoint.port)).await {
            return Some(stream);
        }
    }
    None
}

/// The status that a server answers a GET with; `None` for whatever is no answer.
async fn get(target: &HttpTarget) -> Option<u16> {
    let mut stream = connect(&target.endpoint).await?;
    let HttpTarget { authority, path, .. } = target;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: hearth-agent\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    let mut stream = stream.take(STATUS_LINE);
    while !answer.contains(&b'\n') {
        if stream.read_buf(&mut answer).await.ok()? == 0 {
            return None;
        }
    }
    read_status(&answer)
}

/// Reads `HTTP/1.1 200 OK`.
fn read_status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|&byte| byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line.trim_ascii_end()).ok()?.split(' ');
    let version = words.next()?.strip_prefix("HTTP/")?;
    version.starts_with("1.").then_some(())?;
    words.next().filter(|status| status.len() == 3)?.parse().ok()
}

/// Runs a command as the service is run. Nothing of it is left behind, however this ends.
async fn succeeds(command: &Command, service: &Start, processes: &Rc<Processes>) -> bool {
    let start = Start { command: command.clone(), timeout_ms: Some(COMMAND_MS), grace_ms: Some(0), ..service.clone() };
    match processes.start(&start) {
        Ok(process) => Run(process).0.wait().await.0.code == Some(0),
        Err(_) => false,
    }
}

/// A process that ends with this, and is forgotten then.
struct Run(Rc<Process>);

impl Drop for Run {
    fn drop(&mut self) {
        self.0.forget_when_ended();
        // What has ended already needs none.
        let _ = self.0.signal(Signal::Kill, SignalScope::Tree);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_from_an_answer_and_from_nothing_else() {
        for (answer, status) in [
            ("HTTP/1.1 200 OK\r\nX: y\r\n", Some(200)),
            ("HTTP/1.0 404 Not Found\r\n", Some(404)),
            ("HTTP/1.1 301\r\n", Some(301)),
            ("HTTP/2 200\r\n", None),
            ("HTTP/1.1 20\r\n", None),
            ("HTTP/1.1 2000\r\n", None),
            ("SSH-2.0-OpenSSH_9.2\r\n", None),
            ("\n", None),
        ] {
            assert_eq!(read_status(answer.as_bytes()), status, "{answer:?}");
        }
    }
}
