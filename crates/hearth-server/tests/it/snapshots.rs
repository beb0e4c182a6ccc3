//! Snapshots that are being taken in, as far as no machine is needed for it.

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use crate::support::{Daemon, in_time};

/// Asks until the answer has a status.
async fn ask_until(daemon: &Daemon, status: u16) -> String {
    in_time(async {
        loop {
            let (found, said) = daemon.ask("PUT", "/v1/snapshots/late/archive", "hello").await;
            if found == status {
                return said;
            }
        }
    })
    .await
}

#[tokio::test]
async fn so_many_are_moved_at_once_and_those_whose_client_goes_leave_nothing() {
    let daemon = Daemon::start();
    let mut uploads = Vec::new();
    for number in 0..8 {
        let mut stream = UnixStream::connect(daemon.socket()).await.unwrap();
        let head = format!("PUT /v1/snapshots/s{number}/archive HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // A beginning as compressed files have it.
        stream.write_all(&[0x28, 0xb5, 0x2f, 0xfd]).await.unwrap();
        uploads.push(stream);
    }
    let said = ask_until(&daemon, 429).await;
    assert!(said.contains("limit_reached"), "{said}");
    drop(uploads);
    let said = ask_until(&daemon, 400).await;
    assert!(said.contains("no whole snapshot"), "{said}");
    for empty in ["snapshots", "templates"] {
        assert_eq!(std::fs::read_dir(daemon.home.path().join(empty)).map_or(0, Iterator::count), 0, "{empty}");
    }
}
