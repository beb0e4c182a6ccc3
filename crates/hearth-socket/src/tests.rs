use std::future::poll_fn;
use std::os::fd::AsRawFd;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn pair() -> ((ReadHalf, WriteHalf), UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (split(ours).unwrap(), theirs)
}

#[tokio::test]
async fn every_byte_arrives_in_its_order_whoever_is_the_slower() {
    const MUCH: usize = 20 << 20;
    for pause in [None, Some(Duration::from_micros(50))] {
        let ((mut read, mut write), theirs) = pair();
        let (mut their_read, mut their_write) = theirs.into_split();
        let sent: Vec<u8> = (0..MUCH).map(|number| (number / 7) as u8).collect();
        let pass_back = async {
            let mut piece = vec![0; 70_000];
            loop {
                let count = their_read.read(&mut piece).await.unwrap();
                if count == 0 {
                    break;
                }
                if let Some(pause) = pause.filter(|_| piece[0].is_multiple_of(16)) {
                    tokio::time::sleep(pause).await;
                }
                their_write.write_all(&piece[..count]).await.unwrap();
            }
            drop(their_write);
        };
        let send = async {
            for piece in sent.chunks(100_001) {
                let (first, second) = piece.split_at(piece.len() / 3);
                let mut slices = [IoSlice::new(first), IoSlice::new(second)];
                let mut rest = slices.as_mut_slice();
                while !rest.is_empty() {
                    let count = write.write_vectored(rest).await.unwrap();
                    IoSlice::advance_slices(&mut rest, count);
                }
            }
            write.shutdown().await.unwrap();
        };
        let receive = async {
            let mut received = Vec::new();
            read.read_to_end(&mut received).await.unwrap();
            received
        };
        let (received, (), ()) = tokio::join!(receive, send, pass_back);
        assert!(received == sent);
    }
}

#[tokio::test]
async fn a_write_to_one_that_has_left_fails_and_a_half_that_goes_ends_the_others_reading() {
    let ((read, mut write), mut theirs) = pair();
    drop(read);
    write.write_all(b"last").await.unwrap();
    drop(write);
    let mut all = Vec::new();
    theirs.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"last");

    let ((_read, mut write), theirs) = pair();
    drop(theirs);
    assert_eq!(write.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_write_that_waits_ends_when_the_other_end_leaves() {
    let ((_read, mut write), theirs) = pair();
    let fill = async { while write.write(&[0; 4096]).await.is_ok() {} };
    let leave = async {
        // The writer has found no room by then.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        drop(theirs);
    };
    tokio::join!(fill, leave);
}

/// Whether room at the socket is watched for by any set of this process, as the kernel tells.
fn watches_for_room(write: &WriteHalf) -> bool {
    let socket = [write.socket.as_raw_fd()].into_iter().chain(write.room.as_ref().map(AsRawFd::as_raw_fd));
    let names: Vec<_> = socket.map(|fd| format!("tfd: {fd:>8} events: ")).collect();
    let sets = std::fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
    let texts: Vec<_> = sets.filter_map(|set| std::fs::read_to_string(set.path()).ok()).collect();
    let mut events = texts.iter().flat_map(|text| text.lines()).filter_map(|line| {
        let events = names.iter().find_map(|name| line.strip_prefix(name.as_str()))?;
        u32::from_str_radix(events.split_whitespace().next()?, 16).ok()
    });
    let first = events.next().expect("one half of it is watched at least");
    events.fold(first, |all, more| all | more) & rustix::event::epoll::EventFlags::OUT.bits() != 0
}

#[tokio::test]
async fn room_is_watched_for_only_while_a_write_finds_none() {
    let ((_read, mut write), mut theirs) = pair();
    write.write_all(b"x").await.unwrap();
    assert!(!watches_for_room(&write));
    let mut sent = 1;
    let full = poll_fn(|context| {
        while let Poll::Ready(count) = Pin::new(&mut write).poll_write(context, &[0; 4096]) {
            sent += count.unwrap();
        }
        Poll::Ready(())
    });
    full.await;
    assert!(watches_for_room(&write));
    theirs.read_exact(&mut vec![0; sent]).await.unwrap();
    write.write_all(b"y").await.unwrap();
    assert!(!watches_for_room(&write));
}
