//! A session with an agent that sends anything at all. The property test here and the fuzz target `host` run the same check.

use std::time::Duration;

use hearth_channel::Event;
use hearth_protocol::{Command, Delivery, Start};

use crate::peer::{Peer, connected};

/// Feeds `control` and `bulk` to a session with one process (request 1) and one ping under way, and then hangs up. Whatever the
/// bytes: everybody who waits is told, output is no more than what came, and the channel ends.
pub(crate) fn host(control: &[u8], bulk: &[u8]) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
    let session = async { tokio::time::timeout(Duration::from_secs(3600), session(control, bulk)).await };
    runtime.block_on(session).expect("somebody waits for ever");
}

async fn session(control: &[u8], bulk: &[u8]) {
    let (channel, mut peer) = connected().await;
    let mut start = Start::new(Command::Shell("cat".into()));
    (start.attach, start.stdin) = (Some(Delivery::Bounded), true);
    let (process, _) = tokio::join!(channel.start(start), peer.start());
    let process = process.expect("started");
    let events = async {
        let mut bytes = 0;
        while let Ok(Some(event)) = process.next_event().await {
            bytes += if let Event::Output { bytes, .. } = event { bytes.len() } else { 0 };
        }
        bytes
    };
    let script = async {
        let Peer { control: control_lane, bulk: bulk_lane } = &mut peer;
        tokio::join!(control_lane.offer(control), bulk_lane.offer(bulk));
        drop(peer);
    };
    let (received, _pinged, ended, ()) = tokio::join!(events, channel.ping(), channel.closed(), script);
    assert!(received <= bulk.len(), "more output than was sent");
    assert!(!ended.to_string().contains(char::is_control));
}

#[cfg(test)]
mod tests {
    use hearth_protocol::files::FileResult;
    use hearth_protocol::{
        ChunkHeader, ErrorCode, Fault, Finished, OutputTotals, ProcessId, Reply, ReplyBody, RequestId, StreamName,
    };
    use proptest::prelude::*;

    use crate::peer::{line, success};

    fn body() -> impl Strategy<Value = ReplyBody> {
        prop_oneof![
            Just(ReplyBody::Pong {}),
            Just(ReplyBody::Done {}),
            Just(ReplyBody::Started { process: ProcessId(1), pid: 2 }),
            any::<String>().prop_map(|text| ReplyBody::Error(Fault::failed(ErrorCode::Io, text))),
            any::<u64>().prop_map(|bytes| ReplyBody::Credit { stream: StreamName::Stdin, bytes: bytes >> 32 }),
            (0..100u64, 0..100u64).prop_map(|(stdout, stderr)| {
                ReplyBody::Exit {
                    status: success(),
                    output: OutputTotals { stdout, stderr, ..OutputTotals::default() },
                }
            }),
            (0..100u64).prop_map(|data| {
                let result = Finished::File(FileResult::Read { size: data });
                ReplyBody::Finished { result, output: OutputTotals { data, ..OutputTotals::default() } }
            }),
        ]
    }

    fn reply() -> impl Strategy<Value = Vec<u8>> {
        (prop::option::weighted(0.9, 0..4u64), body())
            .prop_map(|(id, body)| line(&Reply { id: id.map(RequestId), body }))
    }

    fn chunks() -> impl Strategy<Value = Vec<u8>> {
        let stream = prop::sample::select(vec![StreamName::Stdout, StreamName::Stderr, StreamName::Stdin]);
        let payload = prop::collection::vec(any::<u8>(), 0..40);
        let at = prop_oneof![0..100u64, any::<u64>()];
        let last = prop::option::weighted(0.2, body().prop_map(Box::new));
        (0..4u64, stream, at, any::<bool>(), last, payload).prop_map(|(id, stream, at, end, last, bytes)| {
            let payload = (!bytes.is_empty()).then_some(bytes.len() as u64);
            let header = ChunkHeader { id: RequestId(id), stream, at, end, detach: false, last, payload };
            [line(&header), bytes].concat()
        })
    }

    fn lane(message: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
        let noise = prop::collection::vec(any::<u8>(), 0..40);
        prop::collection::vec(prop_oneof![9 => message, 1 => noise], 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn b48_whatever_an_agent_sends_the_host_neither_panics_nor_hangs(control in lane(reply()), bulk in lane(chunks())) {
            super::host(&control, &bulk);
        }
    }
}
