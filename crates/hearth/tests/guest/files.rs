//! Files in a machine.

use bytes::Bytes;
use hearth_engine::protocol::ErrorCode;

use crate::support::{Guest, code};

#[tokio::test]
async fn b27_b28_files_stay_in_the_workspace_and_belong_to_the_user() {
    let Some(guest) = Guest::boot().await else { return };
    let channel = guest.channel();
    channel.write("src/main.py", None, Bytes::from_static(b"print(1)\n")).await.unwrap();
    guest.run("chmod 755 src/main.py; ln -s /etc t").await;
    channel.write("src/main.py", None, Bytes::from_static(b"print(2)\n")).await.unwrap();
    let seen = guest.run("stat -c '%U %a' src src/main.py; python3 src/main.py").await;
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "user 755\nuser 755\n2\n");
    for path in ["../etc/hostname", "/workspace/../etc/hostname", "t/hostname"] {
        assert_eq!(code(channel.read_whole(path, 100).await), ErrorCode::OutsideRoot, "{path}");
    }
    guest.remove().await;
}
