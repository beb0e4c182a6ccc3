//! What code writes, on its way to a client: gathered for a short while, cut between characters, and no more than so much of it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{self, Instant};

use super::answer::{Answer, Answers, PIECE};
use super::request::{ErrorType, Refusal};

/// How long the first byte of a message may wait for more.
const PATIENCE: Duration = Duration::from_millis(50);
/// What an exec may write to its standard output, in bytes.
const STDOUT: usize = 1_000_000;
/// What it may write to its error output.
const STDERR: usize = 100_000;
/// What may wait for the clients of all execs, in bytes. Past it code waits for its client, and is stopped when that does not read.
const HELD: usize = 32 * 1024 * 1024;
/// How long it waits.
const STALL: Duration = Duration::from_secs(1);

/// One of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    fn message(self, chunk: &str) -> Answer<'_> {
        match self {
            Self::Stdout => Answer::Stdout { chunk },
            Self::Stderr => Answer::Stderr { chunk },
        }
    }
}

/// Both streams of one exec. Whoever writes does not wait for the client: what waits for that is bounded by what an exec may write, and by
/// [`HELD`] for all of them.
pub(super) struct Output {
    answers: Answers,
    batches: RefCell<[Batch; 2]>,
    /// Nobody listens: the rest is let go, and the code is none the wiser.
    gone: Cell<bool>,
    /// Nothing waits for room any more: what there is none for is let go.
    hurried: Cell<bool>,
    ended: Cell<bool>,
    changed: Notify,
    held: Rc<Held>,
}

/// What waits for the clients of all execs, in bytes.
#[derive(Debug, Default)]
pub(super) struct Held(Cell<usize>);

struct Batch {
    stream: Stream,
    text: Text,
    /// When it must be sent.
    due: Option<Instant>,
    /// What may still be written.
    left: usize,
}

/// Code has written more than there is room for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum OverLimit {
    /// More than it may write to this stream.
    Stream(Stream),
    /// Too much that its client, among others, has not read.
    Unread,
}

impl Output {
    pub(super) fn new(answers: Answers, held: Rc<Held>) -> Self {
        let batch = |stream, left| Batch { stream, text: Text::default(), due: None, left };
        Self {
            answers,
            batches: RefCell::new([batch(Stream::Stdout, STDOUT), batch(Stream::Stderr, STDERR)]),
            gone: Cell::new(false),
            hurried: Cell::new(false),
            ended: Cell::new(false),
            changed: Notify::new(),
            held,
        }
    }

    /// Takes bytes. What is over a limit is let go.
    pub(super) async fn take(&self, stream: Stream, bytes: &[u8]) -> Result<(), OverLimit> {
        if !self.room(bytes.len()).await {
            return Err(OverLimit::Unread);
        }
        let batch = &mut self.batches.borrow_mut()[stream as usize];
        let kept = &bytes[..bytes.len().min(batch.left)];
        batch.left -= kept.len();
        if !kept.is_empty() && !self.gone.get() {
            batch.text.push(kept);
            batch.due.get_or_insert_with(|| Instant::now() + PATIENCE);
            self.held.0.set(self.held.0.get() + kept.len());
            self.changed.notify_waiters();
        }
        if kept.len() < bytes.len() { Err(OverLimit::Stream(stream)) } else { Ok(()) }
    }

    /// Waits until there is room for so many bytes; false when none comes, or nothing waits for it any more.
    async fn room(&self, bytes: usize) -> bool {
        loop {
            let changed = self.changed.notified();
            if self.waiting() == 0 || self.held.0.get() + bytes <= HELD || self.gone.get() {
                return true;
            }
            if self.hurried.get() || time::timeout(STALL, changed).await.is_err() {
                return false;
            }
        }
    }

    fn waiting(&self) -> usize {
        self.batches.borrow().iter().map(|batch| batch.text.bytes.len()).sum()
    }

    /// Has nothing wait for room any more.
    pub(super) fn hurry(&self) {
        self.hurried.set(true);
        self.changed.notify_waiters();
    }

    /// Says that nothing more comes.
    pub(super) fn end(&self) {
        self.ended.set(true);
        self.changed.notify_waiters();
    }

    /// Sends all that is taken, when there is enough of it or it has waited long enough, until all is sent behind the end: the pieces of
    /// characters that were never finished included.
    pub(super) async fn send_all(&self) {
        loop {
            let changed = self.changed.notified();
            if let Some(index) = self.ready() {
                self.send(index).await;
                continue;
            }
            if self.ended.get() {
                return;
            }
            let due = self.due();
            tokio::select! {
                () = changed => {}
                () = time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    fn due(&self) -> Option<Instant> {
        self.batches.borrow().iter().filter_map(|batch| batch.due).min()
    }

    /// What is to be sent now, the oldest first.
    fn ready(&self) -> Option<usize> {
        let (batches, now) = (self.batches.borrow(), Instant::now());
        let is_ready = |batch: &Batch| match self.ended.get() {
            true => !batch.text.bytes.is_empty(),
            false => batch.text.is_enough() || batch.due.is_some_and(|due| due <= now),
        };
        [0, 1].into_iter().filter(|&index| is_ready(&batches[index])).min_by_key(|&index| batches[index].due)
    }

    async fn send(&self, index: usize) {
        let (stream, chunk) = {
            let batch = &mut self.batches.borrow_mut()[index];
            let (before, chunk) = (batch.text.bytes.len(), batch.text.take(self.ended.get()));
            self.held.0.set(self.held.0.get() - (before - batch.text.bytes.len()));
            // The beginning of a character waits for its end.
            batch.due = (batch.text.bytes.len() > 3).then(|| Instant::now() + PATIENCE);
            (batch.stream, chunk)
        };
        self.changed.notify_waiters();
        if !chunk.is_empty() && !self.gone.get() {
            self.gone.set(self.answers.send(&stream.message(&chunk)).await.is_err());
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.held.0.set(self.held.0.get() - self.waiting());
    }
}

impl From<OverLimit> for Refusal {
    fn from(over: OverLimit) -> Self {
        let stream = match over {
            OverLimit::Stream(stream) => stream,
            OverLimit::Unread => {
                let message = "too much output waits for clients that do not read: the code was stopped";
                return Self::new(ErrorType::OutputLimit, message);
            }
        };
        let limit = if stream == Stream::Stdout { STDOUT } else { STDERR };
        let message = format!("{} is over the limit of {limit} bytes: the code was stopped", stream.name());
        Self::new(ErrorType::OutputLimit, message)
    }
}

/// Bytes that become text as soon as that can be told.
#[derive(Default)]
struct Text {
    bytes: Vec<u8>,
}

impl Text {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn is_enough(&self) -> bool {
        self.bytes.len() >= PIECE
    }

    /// Takes a message's worth of text off the front; a character whose rest is still to come stays, unless nothing comes any more.
    fn take(&mut self, last: bool) -> String {
        let piece = &self.bytes[..self.bytes.len().min(PIECE)];
        let unfinished = if last && piece.len() == self.bytes.len() { 0 } else { unfinished(piece) };
        let length = piece.len() - unfinished;
        let text = String::from_utf8_lossy(&piece[..length]).into_owned();
        self.bytes.drain(..length);
        text
    }
}

/// How many bytes at the end are the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    let is_beginning = |&length: &usize| {
        let end = &bytes[bytes.len() - length..];
        std::str::from_utf8(end).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
    };
    (1..=bytes.len().min(3)).find(is_beginning).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::Value;
    use tokio::sync::mpsc;

    use super::super::answer::LINE;
    use super::*;
    use crate::runtime::Runtime;
    use crate::secrets::{Place, Secrets};

    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            any::<char>().prop_map(|character| character.to_string().into_bytes()),
            prop::collection::vec(any::<u8>(), 0..4),
            prop::sample::select(vec!["中", "🦀", "é", "\u{fffd}", "\u{7ff}\u{800}"])
                .prop_map(|text| text.as_bytes()[..text.len() - 1].to_vec()),
        ];
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn text_is_the_same_however_it_is_cut(bytes in hostile(), cuts in prop::collection::vec(1_usize..9, 1..20)) {
            let (mut text, mut found, mut rest) = (Text::default(), String::new(), bytes.as_slice());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                text.push(piece);
                found += &text.take(false);
                rest = after;
            }
            found += &text.take(true);
            prop_assert_eq!(found, String::from_utf8_lossy(&bytes));
        }
    }

    fn answers(queue: mpsc::Sender<Bytes>) -> Answers {
        let place = Place::new(Runtime::at(Path::new("/nowhere")), None);
        Answers::new(None, queue, Rc::new(Secrets::new(place)))
    }

    /// Lets an exec write, with a client that reads all of it.
    async fn sent(pieces: &[(Stream, Vec<u8>)]) -> (Vec<Value>, Result<(), OverLimit>) {
        let (queue, mut lines) = mpsc::channel(10_000);
        let held = Rc::<Held>::default();
        let output = Output::new(answers(queue), Rc::clone(&held));
        let write = async {
            let mut result = Ok(());
            for (stream, bytes) in pieces {
                result = result.and(output.take(*stream, bytes).await);
            }
            output.end();
            result
        };
        let (result, ()) = tokio::join!(write, output.send_all());
        drop(output);
        assert_eq!(held.0.get(), 0);
        let mut messages = Vec::new();
        while let Some(line) = lines.recv().await {
            assert!(line.len() < LINE);
            messages.push(serde_json::from_slice(&line).unwrap());
        }
        (messages, result)
    }

    fn text_of(messages: &[Value], stream: &str) -> String {
        let chunks = messages.iter().filter(|message| message["type"] == stream);
        chunks.map(|message| message["chunk"].as_str().unwrap()).collect()
    }

    #[tokio::test]
    async fn b24_characters_of_any_length_arrive_whole() {
        let text = "中".repeat(40_000);
        let pieces: Vec<_> = text.as_bytes().chunks(8192).map(|piece| (Stream::Stdout, piece.to_vec())).collect();
        let (messages, result) = sent(&pieces).await;
        assert_eq!((text_of(&messages, "stdout"), result), (text, Ok(())));
        assert_eq!(messages.len(), 2);
    }

    #[tokio::test]
    async fn a_line_stays_short_whatever_is_written() {
        for byte in [0, 1, 0x1f, b'"', b'\\', 0x7f, 0x80, 0xff, b'x'] {
            let (messages, result) = sent(&[(Stream::Stdout, vec![byte; STDOUT])]).await;
            let expected = String::from_utf8_lossy(&[byte]).repeat(STDOUT);
            assert!(text_of(&messages, "stdout") == expected && result.is_ok(), "{byte:#x}");
        }
    }

    #[tokio::test]
    async fn what_is_over_a_limit_is_let_go_and_the_other_stream_is_whole() {
        let pieces = [
            (Stream::Stderr, vec![b'e'; STDERR]),
            (Stream::Stdout, vec![b'o'; STDOUT + 1]),
            (Stream::Stdout, vec![b'o'; 10]),
        ];
        let (messages, result) = sent(&pieces).await;
        assert_eq!(text_of(&messages, "stdout").len(), STDOUT);
        assert_eq!(text_of(&messages, "stderr").len(), STDERR);
        assert_eq!(result, Err(OverLimit::Stream(Stream::Stdout)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_waits_for_more_only_so_long() {
        let (queue, mut lines) = mpsc::channel(10);
        let begun = Instant::now();
        let output = Output::new(answers(queue), Rc::default());
        assert_eq!(output.due(), None);
        output.take(Stream::Stderr, b"a").await.unwrap();
        tokio::time::advance(PATIENCE / 2).await;
        output.take(Stream::Stdout, b"b").await.unwrap();
        assert_eq!((output.due(), output.ready()), (Some(begun + PATIENCE), None));
        tokio::time::advance(PATIENCE / 2).await;
        let first = async { lines.recv().await.unwrap() };
        let first =
            tokio::select! { first = first => first, () = output.send_all() => unreachable!("it has not ended") };
        assert!(first.starts_with(br#"{"type":"stderr","chunk":"a""#));
        assert_eq!((output.due(), output.ready()), (Some(begun + PATIENCE * 3 / 2), None));
    }

    #[tokio::test(start_paused = true)]
    async fn b45_what_waits_for_clients_that_do_not_read_is_bounded_and_so_is_the_wait_for_them() {
        let held = Rc::new(Held(Cell::new(HELD - 10)));
        let (queue, _lines) = mpsc::channel(1);
        let output = Output::new(answers(queue), Rc::clone(&held));
        let write = async |count: usize| {
            let begun = Instant::now();
            (output.take(Stream::Stdout, &[b'x'; 11][..count]).await, begun.elapsed())
        };
        // Whoever has nothing that waits may always go on.
        assert_eq!(write(11).await, (Ok(()), Duration::ZERO));
        let (waited, time) = write(1).await;
        assert!(waited == Err(OverLimit::Unread) && time >= STALL);
        output.hurry();
        assert_eq!(write(1).await, (Err(OverLimit::Unread), Duration::ZERO));
        assert_eq!(held.0.get(), HELD + 1);
        drop(output);
        assert_eq!(held.0.get(), HELD - 10);
    }
}
