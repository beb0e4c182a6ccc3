//! Files.

use bytes::Bytes;
use hearth_channel::ChannelError;
use hearth_protocol::ErrorCode;

use crate::support::Agent;

fn code(error: ChannelError) -> ErrorCode {
    match error {
        ChannelError::Fault { source } => source.code,
        other => panic!("not a fault of the agent's: {other}"),
    }
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
    assert_eq!(code(channel.read_whole("a/b/c", 10).await.unwrap_err()), ErrorCode::TooLarge);
    channel.ping().await.unwrap();
}

#[tokio::test]
async fn b27_paths_that_leave_the_workspace_are_refused() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    std::os::unix::fs::symlink("/tmp", agent.workspace().join("t")).unwrap();
    for path in ["../etc/hostname", "/workspace/../etc/hostname", "t/x", "/etc/hostname"] {
        assert_eq!(code(channel.read_whole(path, 100).await.unwrap_err()), ErrorCode::OutsideRoot, "{path}");
        let written = channel.write(path, None, Bytes::from_static(b"x")).await;
        assert_eq!(code(written.unwrap_err()), ErrorCode::OutsideRoot, "{path}");
    }
}

#[tokio::test]
async fn b28_a_write_that_is_cut_off_leaves_the_old_file_and_nothing_else() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    channel.write("kept", None, Bytes::from_static(b"old")).await.unwrap();
    let before = std::fs::read_dir(agent.workspace()).unwrap().count();
    let request = r#"{"id":1,"type":"file","op":"write","path":"kept"}"#;
    let operation = channel.operate(hearth_protocol::parse_request(request.as_bytes()).unwrap().body).await.unwrap();
    let mut upload = operation.upload().unwrap();
    upload.write(Bytes::from_static(b"half")).await.unwrap();
    let entries = || std::fs::read_dir(agent.workspace()).unwrap().count();
    while entries() == before {
        channel.ping().await.unwrap();
    }
    drop((upload, operation));
    while entries() != before {
        channel.ping().await.unwrap();
    }
    assert_eq!(std::fs::read(agent.workspace().join("kept")).unwrap(), b"old");
}
