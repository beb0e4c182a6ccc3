//! The earlier protocols at a sandbox's door.

use hearth_engine::protocol::dial::DialRequest;

use crate::support::Guest;

#[tokio::test]
async fn b42_a_service_on_the_guests_loopback_is_reached_through_the_agent() {
    let Some(guest) = Guest::boot().await else { return };
    let server = "import socket; s=socket.create_server(('127.0.0.1', 8000)); print('up', flush=True); c=s.accept()[0]; \
                  data=b''\nwhile True:\n part=c.recv(65536)\n if not part: break\n data+=part\nc.sendall(data[::-1])";
    let serve = guest.run(&format!("python3 -c \"{server}\" >up & while ! grep -qs up up; do :; done")).await;
    assert_eq!(serve.status.code, Some(0), "{serve:?}");
    let stream = guest.channel().dial(DialRequest::Tcp { host: None, port: 8000, timeout_ms: None }).await.unwrap();
    let mut writer = stream.writer().unwrap();
    writer.write(bytes::Bytes::from_static(b"half-close")).await.unwrap();
    writer.finish();
    let mut answer = Vec::new();
    while let Some(bytes) = stream.read().await.unwrap() {
        answer.extend_from_slice(&bytes);
    }
    assert_eq!(answer, b"esolc-flah");
    guest.remove().await;
}
