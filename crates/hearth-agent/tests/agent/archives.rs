//! Archives: the workspace as one stream, in and out.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::task::{Context, Poll};

use bytes::Bytes;
use hearth_channel::{ArchivePiece, Channel, ChannelError, Exporting, Operation, Upload};
use hearth_protocol::archive::{ArchiveRequest, Compression, Export, Exported, Import, Imported};
use hearth_protocol::files::{FileKind, FileRoot};
use hearth_protocol::{ErrorCode, Fault, Outcome, RequestBody};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncRead, ReadBuf};

use crate::support::Agent;
use crate::tree;

fn to(path: &str) -> Import {
    Import { root: FileRoot::Workspace, path: path.into(), limit_bytes: None }
}

fn fault(error: ChannelError) -> Fault {
    match error {
        ChannelError::Fault { source } => source,
        other => panic!("not a fault of the agent's: {other}"),
    }
}

async fn export(channel: &Channel, path: &str, compression: Compression) -> Result<(Vec<u8>, Exported), ChannelError> {
    let request = Export { root: FileRoot::Workspace, path: path.into(), compression };
    collect(&channel.export(request).await?).await
}

async fn collect(exporting: &Exporting) -> Result<(Vec<u8>, Exported), ChannelError> {
    let mut archive = Vec::new();
    loop {
        match exporting.next().await?.expect("an end comes before nothing does") {
            ArchivePiece::Bytes(bytes) => archive.extend_from_slice(&bytes),
            ArchivePiece::End(exported) => return Ok((archive, exported)),
        }
    }
}

#[tokio::test]
async fn a_part_of_a_tree_is_exported_by_its_names() {
    let agent = Agent::start();
    let (workspace, channel) = (agent.workspace(), agent.connect().await);
    fs::create_dir_all(workspace.join("d/e")).unwrap();
    for name in ["d/e/one", "d/two", "three"] {
        fs::write(workspace.join(name), name).unwrap();
    }
    let tree = Export { root: FileRoot::Workspace, path: "d".into(), compression: Compression::None };
    let exporting = channel.export_only(tree.clone(), b"e/one\0gone\0".as_slice()).await.unwrap();
    let (archive, exported) = collect(&exporting).await.unwrap();
    assert_eq!((exported.members, exported.skipped), (1, 1), "{exported:?}");
    let there = tempfile::tempdir().unwrap();
    untar(&archive, there.path());
    assert_eq!(fs::read(there.path().join("e/one")).unwrap(), b"d/e/one");
    let refused = async |tree: Export, names: &[u8]| {
        let exporting = channel.export_only(tree, names).await.unwrap();
        fault(collect(&exporting).await.unwrap_err()).code
    };
    assert_eq!(refused(tree.clone(), b"../three\0").await, ErrorCode::BadArchive);
    assert_eq!(refused(tree.clone(), &vec![b'x'; (16 << 20) + 1]).await, ErrorCode::TooLarge);
    assert_eq!(refused(Export { path: "three".into(), ..tree }, b"x\0").await, ErrorCode::NotADirectory);
}

/// What GNU tar makes of a directory.
fn tar(directory: &Path, options: &[&str]) -> Vec<u8> {
    let made = Command::new("tar").arg("--create").args(options).arg(".").current_dir(directory).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

/// Has GNU tar unpack an archive.
fn untar(archive: &[u8], directory: &Path) {
    let mut child = Command::new("tar").args(["-xp"]).current_dir(directory).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), archive).unwrap();
    assert!(child.wait().unwrap().success());
}

/// A workspace that outlives its agent, with something in it.
fn workspace() -> tempfile::TempDir {
    let workspace = tempfile::tempdir().unwrap();
    fs::write(workspace.path().join("there"), "before").unwrap();
    workspace
}

fn agent_in(workspace: &tempfile::TempDir) -> Agent {
    Agent::start_with(&["--workspace", workspace.path().to_str().unwrap()])
}

fn names(workspace: &tempfile::TempDir) -> Vec<String> {
    let entries = fs::read_dir(workspace.path()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn b34_a_tree_comes_in_with_modes_times_and_links_and_goes_out_as_it_was() {
    let (source, unpacked, agent) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), Agent::start());
    let channel = agent.connect().await;
    tree::project(source.path());
    let expected = tree::read(source.path());
    let archive = tar(source.path(), &["--format=posix"]);
    let imported = channel.import(to("new/project"), archive.as_slice()).await.unwrap();
    assert_eq!(imported.members as usize, expected.len() + 1);
    tree::assert_same(&tree::read(&agent.workspace().join("new/project")), &expected, "imported");
    let (archive, exported) = export(&channel, "new/project", Compression::None).await.unwrap();
    assert_eq!((exported.kind, exported.members as usize), (FileKind::Directory, expected.len()));
    untar(&archive, unpacked.path());
    tree::assert_same(&tree::read(unpacked.path()), &expected, "exported");
    for compression in [Compression::Gzip, Compression::Zstd] {
        let (archive, _) = export(&channel, "new/project", compression).await.unwrap();
        let place = format!("{compression:?}");
        let back = channel.import(to(&place), archive.as_slice()).await.unwrap();
        assert_eq!(back, Imported { members: exported.members, bytes: exported.bytes });
        tree::assert_same(&tree::read(&agent.workspace().join(&place)), &expected, &place);
    }
}

#[tokio::test]
async fn b34_what_would_land_outside_or_is_damaged_changes_nothing() {
    let (source, workspace) = (tempfile::tempdir().unwrap(), workspace());
    let agent = agent_in(&workspace);
    let channel = agent.connect().await;
    symlink("/tmp", workspace.path().join("t")).unwrap();
    fs::write(source.path().join("there"), "after").unwrap();
    fs::write(source.path().join("x"), "x").unwrap();
    let before = tree::read(workspace.path());
    for rename in ["s,^./x,../x,", "s,^./x,/tmp/x,", "s,^./x,t/x,"] {
        let archive = tar(source.path(), &["-P", "--sort=name", "--transform", rename]);
        let fault = fault(channel.import(to(""), archive.as_slice()).await.unwrap_err());
        assert_eq!((fault.code, fault.outcome), (ErrorCode::BadArchive, Outcome::NeverStarted), "{}", fault.message);
        assert!(fault.message.contains("/x"), "it names the member: {}", fault.message);
        tree::assert_same(&tree::read(workspace.path()), &before, rename);
    }
    let archive = tar(source.path(), &[]);
    let mut damaged = archive.clone();
    *damaged.iter_mut().rfind(|byte| **byte != 0).unwrap() ^= 1;
    damaged[600] ^= 1;
    for broken in [&archive[..1024], &damaged, b"no archive"] {
        let fault = fault(channel.import(to(""), broken).await.unwrap_err());
        assert_eq!(fault.code, ErrorCode::BadArchive, "{}", fault.message);
        tree::assert_same(&tree::read(workspace.path()), &before, "damaged");
    }
    channel.import(to(""), archive.as_slice()).await.unwrap();
    assert_eq!(fs::read(workspace.path().join("there")).unwrap(), b"after");
}

#[tokio::test]
async fn b27_archives_stay_in_the_workspace() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    symlink("/tmp", agent.workspace().join("t")).unwrap();
    let nothing = [0; 1024];
    for path in ["../etc", "/workspace/../etc", "t/x", "t", "/etc"] {
        let refused = fault(channel.import(to(path), nothing.as_slice()).await.unwrap_err());
        assert_eq!(refused.code, ErrorCode::OutsideRoot, "{path}: {}", refused.message);
    }
    for path in ["../etc", "/workspace/../etc", "t/x", "/etc"] {
        let refused = fault(export(&channel, path, Compression::None).await.unwrap_err());
        assert_eq!(refused.code, ErrorCode::OutsideRoot, "{path}: {}", refused.message);
    }
    let (_, exported) = export(&channel, "t", Compression::None).await.unwrap();
    assert_eq!((exported.kind, exported.members), (FileKind::Symlink, 1), "the link itself");
    assert_eq!(fault(export(&channel, "nowhere", Compression::None).await.unwrap_err()).code, ErrorCode::NotFound);
}

#[tokio::test]
async fn b30_what_is_no_file_never_stops_an_export() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let place = agent.workspace().join("odd");
    fs::create_dir(&place).unwrap();
    tree::fifo(&place.join("pipe"));
    let _socket = UnixListener::bind(place.join("socket")).unwrap();
    let (_, exported) = export(&channel, "odd", Compression::None).await.unwrap();
    assert_eq!((exported.members, exported.skipped), (1, 1));
}

#[tokio::test]
async fn b32_a_sparse_file_of_100_gb_goes_out_and_comes_in_as_one() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let disk = fs::File::create(agent.workspace().join("disk")).unwrap();
    disk.set_len(100 << 30).unwrap();
    disk.write_all_at(b"far in", 70 << 30).unwrap();
    let (archive, _) = export(&channel, "disk", Compression::None).await.unwrap();
    assert!(archive.len() < 100_000, "{} bytes", archive.len());
    channel.import(to("copy"), archive.as_slice()).await.unwrap();
    let copy = fs::File::open(agent.workspace().join("copy/disk")).unwrap();
    let mut there = [0; 6];
    copy.read_exact_at(&mut there, 70 << 30).unwrap();
    assert_eq!((copy.metadata().unwrap().len(), &there), (100 << 30, b"far in"));
}

/// An archive of one large file, made as it is read.
struct Large {
    parts: Box<dyn Read + Send>,
}

const LARGE: u64 = 400_000_000;

impl Large {
    fn new() -> Self {
        let mut header = [0; 512];
        header[..5].copy_from_slice(b"large");
        header[100..107].copy_from_slice(b"0000644");
        header[124..135].copy_from_slice(format!("{LARGE:011o}").as_bytes());
        header[136..147].copy_from_slice(b"00000000000");
        header[156] = b'0';
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let end = 1024 + LARGE.next_multiple_of(512) - LARGE;
        let data = std::io::repeat(7).take(LARGE).chain(std::io::repeat(0).take(end));
        Self { parts: Box::new(std::io::Cursor::new(header).chain(data)) }
    }
}

impl AsyncRead for Large {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let count = self.parts.read(buffer.initialize_unfilled())?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

fn peak_memory(agent: &Agent) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn b31_memory_does_not_grow_with_an_archive() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let before = peak_memory(&agent);
    let imported = channel.import(to(""), Large::new()).await.unwrap();
    assert_eq!(imported, Imported { members: 1, bytes: LARGE });
    let request = Export { root: FileRoot::Workspace, path: "large".into(), compression: Compression::Zstd };
    let exporting = channel.export(request).await.unwrap();
    loop {
        match exporting.next().await.unwrap().unwrap() {
            ArchivePiece::Bytes(_) => {}
            ArchivePiece::End(exported) => break assert_eq!(exported.bytes, LARGE),
        }
    }
    let grown = peak_memory(&agent) - before;
    assert!(grown < 32 << 20, "{grown} bytes");
}

/// Begins an import, and waits until some of it is in the staging directory.
async fn half_an_import(channel: &Channel, workspace: &tempfile::TempDir) -> (Operation, Upload) {
    let operation = channel.operate(RequestBody::Archive(ArchiveRequest::Import(to("")))).await.unwrap();
    let mut upload = operation.upload().unwrap();
    let source = tempfile::tempdir().unwrap();
    tree::project(source.path());
    let archive = tar(source.path(), &[]);
    upload.write(Bytes::copy_from_slice(&archive[..archive.len() / 2])).await.unwrap();
    while names(workspace).len() == 1 {
        channel.ping().await.unwrap();
    }
    (operation, upload)
}

#[tokio::test]
async fn b34_an_import_that_is_given_up_leaves_nothing() {
    let workspace = workspace();
    let agent = agent_in(&workspace);
    let channel = agent.connect().await;
    let half = half_an_import(&channel, &workspace).await;
    drop(half);
    while names(&workspace) != ["there"] {
        channel.ping().await.unwrap();
    }
    // A client that vanishes gives up as well.
    let half = half_an_import(&channel, &workspace).await;
    drop((channel, half));
    let channel = agent.connect().await;
    while names(&workspace) != ["there"] {
        channel.ping().await.unwrap();
    }
}

#[tokio::test]
async fn b34_an_agent_that_is_told_to_end_leaves_no_half_import() {
    let workspace = workspace();
    let agent = agent_in(&workspace);
    let channel = agent.connect().await;
    let _half = half_an_import(&channel, &workspace).await;
    assert!(agent.stop());
    assert_eq!(names(&workspace), ["there"]);
}

#[tokio::test]
async fn b34_what_a_killed_agent_left_goes_with_the_next_start() {
    let workspace = workspace();
    let agent = agent_in(&workspace);
    let channel = agent.connect().await;
    let _half = half_an_import(&channel, &workspace).await;
    kill_process(Pid::from_raw(agent.pid() as i32).unwrap(), Signal::KILL).unwrap();
    drop(agent);
    assert_eq!(names(&workspace).len(), 2);
    let agent = agent_in(&workspace);
    let channel = agent.connect().await;
    while names(&workspace) != ["there"] {
        channel.ping().await.unwrap();
    }
}

#[tokio::test]
async fn a_limit_stops_a_bomb_and_a_source_that_fails_gives_up() {
    struct Broken;
    impl AsyncRead for Broken {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Err(std::io::Error::other("no more")))
        }
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    let limited = Import { limit_bytes: Some(1_000_000), ..to("") };
    let fault = fault(channel.import(limited, Large::new()).await.unwrap_err());
    assert_eq!(fault.code, ErrorCode::TooLarge);
    let error = channel.import(to(""), Broken).await.unwrap_err();
    assert!(matches!(error, ChannelError::Source { .. }), "{error}");
    channel.ping().await.unwrap();
}
