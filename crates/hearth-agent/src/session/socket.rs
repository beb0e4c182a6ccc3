//! Sessions over sockets: two connections each, paired by their epoch; as many sessions as there are hosts.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use hearth_protocol::{Epoch, HelloAnswer, HelloScanner, HostHello, Lane};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::{End, Lines, Outgoing, Reader, Session, Writer, answer};
use crate::agent::Agent;

/// How long a connection may take to say hello.
const HELLO_PATIENCE: Duration = Duration::from_secs(30);

/// The sessions that wait for their bulk connection.
#[derive(Default)]
pub(crate) struct Sessions {
    waiting: RefCell<HashMap<Epoch, Waiting>>,
}

struct Waiting {
    session: Rc<Session>,
    queue: mpsc::Receiver<Outgoing>,
}

/// Serves one connection, whichever lane it turns out to be, until it ends.
pub(crate) async fn serve(agent: Rc<Agent>, sessions: Rc<Sessions>, reader: Reader, mut writer: Writer) {
    let mut lines = Lines::new(reader);
    let hello = tokio::time::timeout(HELLO_PATIENCE, wait_for_hello(&mut lines)).await;
    match hello {
        Ok(Some(hello)) if hello.lane == Lane::Control => serve_control(agent, sessions, lines, writer, hello).await,
        Ok(Some(hello)) => serve_bulk(&sessions, lines, writer, &hello).await,
        // Whoever this is, it does not speak this protocol.
        Ok(None) | Err(_) => drop(writer.shutdown().await),
    }
}

async fn wait_for_hello(lines: &mut Lines) -> Option<HostHello> {
    loop {
        let line = lines.next().await.ok()??;
        if let Some(hello) = HostHello::parse(&line) {
            return Some(hello);
        }
        // Only the newline before a hello may come first: on a fresh connection there is nothing stale.
        if !line.is_empty() {
            return None;
        }
    }
}

async fn serve_control(
    agent: Rc<Agent>,
    sessions: Rc<Sessions>,
    mut lines: Lines,
    mut writer: Writer,
    hello: HostHello,
) {
    let reply = answer(&hello);
    let refused = matches!(reply.answer, HelloAnswer::Error(_));
    if writer.write_all(&reply.to_bytes()).await.is_err() || refused {
        return;
    }
    let (session, queue) = Session::new(agent, writer);
    sessions.waiting.borrow_mut().insert(hello.epoch, Waiting { session: Rc::clone(&session), queue });
    // A second hello on a socket is a new host only in name: it has to connect anew, so that its bulk lane can too.
    let (End::Gone | End::Hello(_)) = session.serve_control(&mut lines).await;
    sessions.waiting.borrow_mut().remove(&hello.epoch);
    session.end();
}

async fn serve_bulk(sessions: &Sessions, lines: Lines, writer: Writer, hello: &HostHello) {
    let waiting = sessions.waiting.borrow_mut().remove(&hello.epoch);
    let Some(Waiting { session, queue }) = waiting else { return };
    let (reader, ahead) = lines.into_parts();
    // The hello is read already; the session looks for it again, which keeps one way to open a bulk lane.
    let mut replay = hello.to_bytes();
    replay.extend_from_slice(&ahead);
    let reader: Reader = Box::new(std::io::Cursor::new(replay).chain(reader));
    let lane = Rc::clone(&session).serve_bulk(reader, writer, HelloScanner::new(hello.epoch), queue, async || false);
    session.spawn(lane);
}
