//! Sessions over sockets: two connections each, paired by their epoch; as many sessions as there are hosts.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use hearth_protocol::{Epoch, HelloAnswer, HelloScanner, HostHello, Lane};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use super::{End, Lines, Outgoing, Reader, Session, Writer, answer};
use crate::agent::Agent;

/// How long a connection may take to say hello.
const HELLO_PATIENCE: Duration = Duration::from_secs(30);

/// The connections that may wait to say hello. Fewer than a listener has places, so that those who say nothing keep out nobody who does.
const SILENT: usize = 64;

/// The connections that belong to no whole session yet.
#[derive(Default)]
pub(crate) struct Sessions {
    /// Sessions without their bulk connection.
    waiting: RefCell<HashMap<Epoch, Waiting>>,
    /// A sender each connection that has not said hello, the oldest first; one that is dropped ends its connection's wait.
    silent: RefCell<VecDeque<oneshot::Sender<Infallible>>>,
}

struct Waiting {
    session: Rc<Session>,
    queue: mpsc::Receiver<Outgoing>,
}

impl Sessions {
    /// Takes a place among those that may wait to say hello. Where there is none the oldest loses its own, which is told by what is returned.
    fn wait_in_turn(&self) -> oneshot::Receiver<Infallible> {
        let (place, pushed_out) = oneshot::channel();
        let mut silent = self.silent.borrow_mut();
        silent.retain(|place| !place.is_closed());
        if silent.len() >= SILENT {
            silent.pop_front();
        }
        silent.push_back(place);
        pushed_out
    }
}

/// Serves one connection, whichever lane it turns out to be, until it ends.
pub(crate) async fn serve(agent: Rc<Agent>, sessions: Rc<Sessions>, reader: Reader, mut writer: Writer) {
    let mut lines = Lines::new(reader);
    let pushed_out = sessions.wait_in_turn();
    let hello = async {
        tokio::select! { hello = wait_for_hello(&mut lines) => hello, _ = pushed_out => None }
    };
    match tokio::time::timeout(HELLO_PATIENCE, hello).await {
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
