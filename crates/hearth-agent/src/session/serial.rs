//! Sessions over two virtio-serial ports: one at a time, the newest hello wins.

use std::rc::Rc;

use hearth_protocol::{AgentHello, HelloAnswer, HelloScanner, HostHello, Lane};
use tokio::io::AsyncWriteExt;

use super::port::Port;
use super::{End, LaneError, Lines, Session, answer};
use crate::agent::Agent;

/// Serves hosts by a control and a bulk port for the life of the agent.
pub(crate) async fn serve(agent: Rc<Agent>, control: Rc<Port>, bulk: Rc<Port>) {
    let (reader, _) = control.halves();
    let mut lines = Lines::new(reader);
    loop {
        let mut hello = wait_for_hello(&control, &mut lines).await;
        while let Some(next) = run(&agent, &control, &bulk, &mut lines, &hello).await {
            hello = next;
        }
        lines.reset();
    }
}

/// Discards what is not a hello: an earlier host's words, and the newline that ends its last.
async fn wait_for_hello(control: &Port, lines: &mut Lines) -> HostHello {
    loop {
        match lines.next().await {
            Ok(Some(line)) => {
                if let Some(hello) = HostHello::parse(&line).filter(|hello| hello.lane == Lane::Control) {
                    return hello;
                }
            }
            Err(LaneError::Frame(_)) => lines.reset(),
            Ok(None) | Err(LaneError::Io(_)) => {
                lines.reset();
                // No host is connected. A failing wait has nothing better to offer than the next read.
                let _ = control.changed().await;
            }
        }
    }
}

/// Runs one session; returns the hello that ended it, if one did.
async fn run(
    agent: &Rc<Agent>,
    control: &Rc<Port>,
    bulk: &Rc<Port>,
    lines: &mut Lines,
    hello: &HostHello,
) -> Option<HostHello> {
    let (_, mut writer) = control.halves();
    let reply = answer(hello);
    if writer.write_all(&reply.to_bytes()).await.is_err() || is_refusal(&reply) {
        return None;
    }
    let (session, queue) = Session::new(Rc::clone(agent), writer);
    let (bulk_reader, bulk_writer) = bulk.halves();
    // One port may show a new host before the other shows that the last one has left.
    let next_host = async || bulk.changed().await.is_ok();
    let scanner = HelloScanner::new(hello.epoch);
    let serve_bulk = Rc::clone(&session).serve_bulk(bulk_reader, bulk_writer, scanner, queue, next_host);
    let serve_control = session.serve_control(lines);
    tokio::pin!(serve_bulk, serve_control);
    let end = tokio::select! {
        end = &mut serve_control => end,
        // The bulk port says end of file when its host has left; the control port will, too. Else the host is told what that costs it.
        () = &mut serve_bulk => serve_control.await,
    };
    match end {
        End::Hello(hello) => Some(hello),
        End::Gone => None,
    }
}

fn is_refusal(hello: &AgentHello) -> bool {
    matches!(hello.answer, HelloAnswer::Error(_))
}
