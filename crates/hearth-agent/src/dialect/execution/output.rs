//! What code writes, on its way to a client: gathered for a short while, cut between characters, and no more than so much of it.

use std::time::Duration;

use tokio::time::Instant;

use super::answer::{Answer, Answers, PIECE};
use super::request::{ErrorType, Refusal};

/// How long the first byte of a message may wait for more.
const PATIENCE: Duration = Duration::from_millis(50);
/// What an exec may write to its standard output, in bytes.
const STDOUT: usize = 1_000_000;
/// What it may write to its error output.
const STDERR: usize = 100_000;

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

/// Both streams of one exec.
pub(super) struct Output {
    answers: Answers,
    /// Nobody listens: the rest is let go, and the code is none the wiser.
    gone: bool,
    batches: [Batch; 2],
}

struct Batch {
    stream: Stream,
    text: Text,
    /// When it must be sent.
    due: Option<Instant>,
    /// What may still be written.
    left: usize,
}

/// Code has written more than it may.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OverLimit(Stream);

impl Output {
    pub(super) fn new(answers: Answers) -> Self {
        let batch = |stream, left| Batch { stream, text: Text::default(), due: None, left };
        Self { answers, gone: false, batches: [batch(Stream::Stdout, STDOUT), batch(Stream::Stderr, STDERR)] }
    }

    /// Takes bytes, and sends what is enough for a message. What is over the limit is let go.
    pub(super) async fn take(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), OverLimit> {
        let batch = &mut self.batches[stream as usize];
        let kept = &bytes[..bytes.len().min(batch.left)];
        batch.left -= kept.len();
        if !kept.is_empty() {
            batch.text.push(kept);
            batch.due.get_or_insert_with(|| Instant::now() + PATIENCE);
        }
        while self.batches[stream as usize].text.is_enough() {
            self.send(stream as usize, false).await;
        }
        if kept.len() < bytes.len() { Err(OverLimit(stream)) } else { Ok(()) }
    }

    /// When [`Self::send_due`] is to be called, if it is.
    pub(super) fn due(&self) -> Option<Instant> {
        self.batches.iter().filter_map(|batch| batch.due).min()
    }

    /// Sends what has waited long enough.
    pub(super) async fn send_due(&mut self) {
        let now = Instant::now();
        for index in [0, 1] {
            if self.batches[index].due.is_some_and(|due| due <= now) {
                self.send(index, false).await;
            }
        }
    }

    /// Sends all there is, the pieces of characters that were never finished included.
    pub(super) async fn finish(&mut self) {
        let mut order = [0, 1];
        order.sort_by_key(|&index| self.batches[index].due);
        for index in order {
            self.send(index, true).await;
        }
    }

    async fn send(&mut self, index: usize, last: bool) {
        let batch = &mut self.batches[index];
        batch.due = None;
        let chunk = batch.text.take(last);
        if !chunk.is_empty() && !self.gone {
            self.gone = self.answers.send(&batch.stream.message(&chunk)).await.is_err();
        }
    }
}

impl From<OverLimit> for Refusal {
    fn from(OverLimit(stream): OverLimit) -> Self {
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
    use std::rc::Rc;

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
        let mut output = Output::new(answers(queue));
        let mut result = Ok(());
        for (stream, bytes) in pieces {
            result = result.and(output.take(*stream, bytes).await);
        }
        output.finish().await;
        drop(output);
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
        assert_eq!(result, Err(OverLimit(Stream::Stdout)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_waits_for_more_only_so_long() {
        let (queue, mut lines) = mpsc::channel(10);
        let mut output = Output::new(answers(queue));
        let begun = Instant::now();
        assert_eq!(output.due(), None);
        output.take(Stream::Stderr, b"a").await.unwrap();
        tokio::time::advance(PATIENCE / 2).await;
        output.take(Stream::Stdout, b"b").await.unwrap();
        assert_eq!(output.due(), Some(begun + PATIENCE));
        output.send_due().await;
        assert!(lines.try_recv().is_err());
        tokio::time::advance(PATIENCE / 2).await;
        output.send_due().await;
        assert!(lines.try_recv().is_ok_and(|line| line.starts_with(br#"{"type":"stderr","chunk":"a""#)));
        assert_eq!(output.due(), Some(begun + PATIENCE * 3 / 2));
    }
}
