//! The workspace's history in a machine, where the workspace is in an overlay.

use hearth_engine::channel::DiffPiece;
use hearth_engine::protocol::ErrorCode;
use hearth_engine::protocol::history::{CheckpointName, Patch};

use crate::support::{Guest, code};

/// What tells one state of the workspace from another.
const STATE: &str = "find . -printf '%p %y %m %u %l\\n' | sort; find . -type f -print0 | sort -z | xargs -0 sha256sum";

#[tokio::test]
async fn b36_b39_a_workspace_is_diffed_patched_and_brought_back_and_its_history_is_out_of_reach() {
    let Some(guest) = Guest::boot().await else { return };
    let channel = guest.channel();
    let make = "mkdir -p src/lib empty; echo one > src/a; printf two > src/lib/b; echo x > tool; chmod 755 tool; \
                ln -s src/a link; ln tool linked; mkfifo pipe; head -c 1500000 /dev/urandom > large";
    guest.say(make).await;
    let before = guest.say(STATE).await;
    let baseline = CheckpointName::default();
    assert!(channel.checkpoint(baseline.clone()).await.unwrap().bytes > 1_500_000);
    guest.say("echo more >> src/a; rm -r src/lib empty pipe; echo y > tool; echo new > 'new file'; : > large").await;
    let after = guest.say(STATE).await;
    let diffing = channel.diff(baseline.clone()).await.unwrap();
    let mut text = Vec::new();
    while let Some(DiffPiece::Bytes(bytes)) = diffing.next().await.unwrap() {
        text.extend_from_slice(&bytes);
    }
    channel.reset(baseline.clone()).await.unwrap();
    assert_eq!(guest.say(STATE).await, before);
    channel.write("/workspace/p.patch", None, text.clone().into()).await.unwrap();
    guest.say("git apply --check p.patch && rm p.patch").await;
    channel.patch(Patch::default(), text.as_slice()).await.unwrap();
    // What no patch carries: an empty directory, a FIFO, and that two names are one file.
    guest.say("rmdir empty; rm pipe; ln -f tool linked").await;
    assert_eq!(guest.say(STATE).await, after);
    assert_eq!(code(channel.patch(Patch::default(), text.as_slice()).await), ErrorCode::PatchConflict);
    let seen = guest.run("ls /var/lib/hearth").await;
    assert_ne!(seen.status.code, Some(0), "it is the agent's alone");
    guest.remove().await;
}
