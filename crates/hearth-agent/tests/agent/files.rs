//! Files: what is read, written and edited. Lists, trees and watches have rooms of their own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use bytes::Bytes;
use hearth_channel::ChannelError;
use hearth_protocol::files::{Create, Read, TextEdit, Write};
use hearth_protocol::{ErrorCode, Outcome};
use sha2::{Digest, Sha256};

use crate::support::Agent;

/// The fault of something that had to fail.
pub(crate) fn fault<T: std::fmt::Debug>(result: Result<T, ChannelError>) -> (ErrorCode, Outcome) {
    match result.unwrap_err() {
        ChannelError::Fault { source } => (source.code, source.outcome),
        other => panic!("not a fault of the agent's: {other}"),
    }
}

pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, ChannelError>) -> ErrorCode {
    fault(result).0
}

#[tokio::test]
async fn a_file_is_written_and_read_back_whole() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let content: Bytes = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let entry = channel.write("a/b/c", None, content.clone()).await.unwrap();
    assert_eq!((entry.size, entry.mode), (content.len() as u64, 0o644));
    assert_eq!(channel.read_whole("/workspace/a/b/c", 100_000_000).await.unwrap(), content);
    assert_eq!(channel.stat("a/b/c").await.unwrap(), entry);
    assert_eq!(fault(channel.read_whole("a/b/c", 10).await), (ErrorCode::TooLarge, Outcome::NeverStarted));
    channel.ping().await.unwrap();
}

#[tokio::test]
async fn any_part_of_a_file_can_be_read() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let content: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
    channel.write("f", None, content.clone().into()).await.unwrap();
    let parts = [(0, 0), (0, 1), (199_999, 10), (200_000, 1), (1 << 40, 1), (100, 150_000), (7, 70_000)];
    let beyond_any_file = [(i64::MAX as u64, 1), (1 << 63, 1), (u64::MAX, u64::MAX)];
    for (offset, length) in parts.into_iter().chain(beyond_any_file) {
        let read = channel.read_with(Read { offset, length: Some(length), ..Read::new("f") }).await.unwrap();
        let mut bytes = Vec::new();
        while let Some(sent) = read.next().await.unwrap() {
            if let hearth_channel::Sent::Piece(_, piece) = sent {
                bytes.extend_from_slice(&piece);
            }
        }
        let start = content.len().min(offset as usize);
        let end = content.len().min(start.saturating_add(length as usize));
        assert_eq!(bytes, &content[start..end], "{offset}+{length}");
    }
    // Files that the kernel makes up say that they are empty.
    let place = hearth_protocol::files::Place::new(hearth_protocol::files::FileRoot::System, "/proc/version");
    assert!(channel.read_whole(place, 1000).await.unwrap().starts_with(b"Linux"));
}

#[tokio::test]
async fn b27_paths_that_leave_the_workspace_are_refused() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    symlink("/tmp", agent.workspace().join("t")).unwrap();
    for path in ["../etc/hostname", "/workspace/../etc/hostname", "t/x", "/etc/hostname"] {
        assert_eq!(code(channel.read_whole(path, 100).await), ErrorCode::OutsideRoot, "{path}");
        let written = channel.write(path, None, Bytes::from_static(b"x")).await;
        assert_eq!(code(written), ErrorCode::OutsideRoot, "{path}");
        let edited = channel.edit(path, &[TextEdit::once("a", "b")]).await;
        assert_eq!(code(edited), ErrorCode::OutsideRoot, "{path}");
    }
    channel.write("..%2f", None, Bytes::from_static(b"literal")).await.unwrap();
    assert_eq!(fs::read(agent.workspace().join("..%2f")).unwrap(), b"literal");
}

#[tokio::test]
async fn b28_what_is_written_over_keeps_mode_and_owner() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let file = agent.workspace().join("tool");
    fs::write(&file, "old").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&file, Some(1234), Some(2345)).unwrap();
    }
    let before = fs::metadata(&file).unwrap();
    channel.write("tool", Some(0o600), Bytes::from_static(b"new")).await.unwrap();
    channel.edit("tool", &[TextEdit::once("new", "newer")]).await.unwrap();
    let after = fs::metadata(&file).unwrap();
    assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
    assert_eq!(fs::read(&file).unwrap(), b"newer");
}

#[tokio::test]
async fn b28_a_write_that_is_cut_off_leaves_the_old_file_and_nothing_else() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    channel.write("kept", None, Bytes::from_static(b"old")).await.unwrap();
    let names = || fs::read_dir(agent.workspace()).unwrap().count();
    let before = names();
    let open_files = || {
        let files = fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().flatten();
        files.filter(|file| fs::read_link(file.path()).is_ok_and(|to| to.starts_with(agent.workspace()))).count()
    };
    for append in [false, true] {
        let operation = channel.write_with(Write { append, ..Write::new("kept") }).await.unwrap();
        let mut upload = operation.upload().unwrap();
        upload.write(Bytes::from_static(b"half")).await.unwrap();
        assert!(open_files() > 0, "it is being written");
        drop((upload, operation));
        while open_files() > 0 {
            channel.ping().await.unwrap();
        }
        assert_eq!(names(), before);
        assert_eq!(fs::read(agent.workspace().join("kept")).unwrap(), b"old");
    }
}

#[tokio::test]
async fn b28_an_agent_that_is_ended_leaves_no_half_written_file() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let directory = agent.workspace().join("d");
    fs::create_dir(&directory).unwrap();
    let operation = channel.write_with(Write::new("d/new")).await.unwrap();
    let mut upload = operation.upload().unwrap();
    upload.write(Bytes::from(vec![7; 300_000])).await.unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(agent.pid() as i32).unwrap(),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    channel.closed().await;
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

#[tokio::test]
async fn a_file_is_new_old_or_longer_as_asked() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let write = async |create, append, text: &'static str| {
        let operation = channel.write_with(Write { create, append, ..Write::new("f") }).await.unwrap();
        let mut upload = operation.upload().unwrap();
        // One that is refused before its upload takes none.
        if upload.write(Bytes::from_static(text.as_bytes())).await.is_ok() {
            upload.finish();
        }
        operation.finish().await
    };
    assert_eq!(code(write(Create::Existing, false, "1").await), ErrorCode::NotFound);
    assert_eq!(code(write(Create::Existing, true, "1").await), ErrorCode::NotFound);
    write(Create::New, true, "2").await.unwrap();
    assert_eq!(code(write(Create::New, false, "3").await), ErrorCode::AlreadyExists);
    write(Create::Any, true, "4").await.unwrap();
    write(Create::Existing, true, "5").await.unwrap();
    assert_eq!(fs::read(agent.workspace().join("f")).unwrap(), b"245");
}

#[tokio::test]
async fn edits_are_all_done_or_none() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    channel.write("f", None, Bytes::from_static(b"one two two\n")).await.unwrap();
    let all = TextEdit { all: true, ..TextEdit::once("two", "2") };
    let (replaced, entry) = channel.edit("f", &[TextEdit::once("one", "1"), all]).await.unwrap();
    assert_eq!((replaced, entry.size), (3, 6));
    let wrong = [TextEdit::once("1", "x"), TextEdit::once("2", "y")];
    assert_eq!(fault(channel.edit("f", &wrong).await), (ErrorCode::PatchConflict, Outcome::NeverStarted));
    assert_eq!(code(channel.edit("f", &[]).await), ErrorCode::InvalidField);
    assert_eq!(code(channel.edit("f", &[TextEdit::once("", "x")]).await), ErrorCode::InvalidField);
    assert_eq!(code(channel.edit("none", &[TextEdit::once("1", "x")]).await), ErrorCode::NotFound);
    assert_eq!(fs::read(agent.workspace().join("f")).unwrap(), b"1 2 2\n");
}

#[tokio::test]
async fn b29_names_of_any_bytes_and_of_255_work_and_longer_ones_are_refused() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let long = vec![b'x'; 255];
    let names: [&[u8]; 6] = [b" blank ", b"'quotes\"", b"new\nline", b"\xff\xfe", b"\x01{\"id\":1}", &long];
    for name in names {
        let entry = channel.write(name, None, Bytes::copy_from_slice(name)).await.unwrap();
        assert_eq!(entry.path.as_bytes(), name);
        assert_eq!(channel.read_whole(name, 1000).await.unwrap(), name);
    }
    let too_long = channel.write(vec![b'x'; 256], None, Bytes::new()).await;
    assert_eq!(code(too_long), ErrorCode::NameTooLong);
}

/// The most memory that the agent has ever held, in bytes.
fn most_resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// A mebibyte that no other number has.
fn block(number: u64) -> Bytes {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut block = Vec::with_capacity(1 << 20);
    while block.len() < 1 << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Each word many times: what counts is that blocks differ, not that making them takes long.
        block.extend_from_slice(&state.to_le_bytes().repeat(64));
    }
    block.into()
}

#[tokio::test]
async fn b31_a_gibibyte_goes_both_ways_in_little_memory() {
    const BLOCKS: u64 = 1024;
    let agent = Agent::start();
    let channel = agent.connect().await;
    channel.write("warm", None, block(0)).await.unwrap();
    channel.read_whole("warm", 1 << 20).await.unwrap();
    let before = most_resident(agent.pid());
    let (mut sent, mut received) = (Sha256::new(), Sha256::new());
    let write = channel.write_with(Write::new("large")).await.unwrap();
    let mut upload = write.upload().unwrap();
    for number in 0..BLOCKS {
        let block = block(number);
        sent.update(&block);
        upload.write(block).await.unwrap();
    }
    upload.finish();
    write.finish().await.unwrap();
    let read = channel.read("large").await.unwrap();
    while let Some(piece) = read.next().await.unwrap() {
        if let hearth_channel::Sent::Piece(_, bytes) = piece {
            received.update(&bytes);
        }
    }
    assert_eq!(received.finalize(), sent.finalize());
    let extra = most_resident(agent.pid()).saturating_sub(before);
    assert!(extra < 32 << 20, "{extra} bytes more");
}

#[tokio::test]
async fn b33_a_full_disk_is_a_typed_error_and_the_old_file_is_intact() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let small = agent.workspace().join("small");
    fs::create_dir(&small).unwrap();
    let mounted =
        rustix::mount::mount("none", &small, "tmpfs", rustix::mount::MountFlags::empty(), Some(c"size=1m,mode=755"));
    if let Err(error) = mounted {
        eprintln!("skipped: no small file system can be mounted here: {error}");
        return;
    }
    let result = fill(&channel, &small).await;
    rustix::mount::unmount(&small, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(result, Ok(()));
}

/// Fills a small disk in every way there is, and tells what was not as it must be.
async fn fill(channel: &hearth_channel::Channel, small: &std::path::Path) -> Result<(), String> {
    let large = || Bytes::from(vec![7; 4 << 20]);
    channel.write("small/kept", None, Bytes::from_static(b"old")).await.map_err(|error| error.to_string())?;
    channel.write("large", None, large()).await.map_err(|error| error.to_string())?;
    let append = channel.write_with(Write { append: true, ..Write::new("small/kept") }).await;
    let append = append.map_err(|error| error.to_string())?;
    let mut upload = append.upload().ok_or("no upload")?;
    if upload.write(large()).await.is_ok() {
        upload.finish();
    }
    let copy = hearth_protocol::files::Transfer::new("large", "small/copy");
    let attempts = [
        code(channel.write("small/kept", None, large()).await),
        code(append.finish().await),
        code(channel.copy_file(copy.clone()).await),
        code(channel.move_file(copy).await),
    ];
    if attempts != [ErrorCode::NoSpace; 4] {
        return Err(format!("{attempts:?}"));
    }
    let names: Vec<_> = fs::read_dir(small).unwrap().flatten().map(|entry| entry.file_name()).collect();
    let kept = fs::read(small.join("kept")).unwrap();
    let source = fs::metadata(small.with_file_name("large")).map(|metadata| metadata.len()).unwrap_or(0);
    match (names.len(), kept.as_slice(), source) {
        (1, b"old", 4_194_304) => Ok(()),
        other => Err(format!("{other:?} {names:?}")),
    }
}
