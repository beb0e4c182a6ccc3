//! What one followed process, or one operation, has sent and its consumer has not taken. Pure: no I/O, no waiting.
//!
//! Memory is bounded by the credit granted (a window a stream) whatever the sizes of the chunks: small neighbours are joined, and the
//! pieces that cannot be (there is a gap between them) are counted. A large payload is kept as it came, without a copy: it holds the
//! buffer that it was read into, which is a few times its size at most.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use hearth_protocol::{ChunkHeader, ExitStatus, Finished, OutputTotals, ReceiveWindow, RequestId, StreamName, limits};

use crate::error::Violation;

/// From this many pieces on, small ones are joined even where that loses the order between the two streams.
const CROWDED: usize = 1024;
/// From this many bytes on a payload is kept as it came.
const LARGE: usize = 32 * 1024;
/// The most pieces. Only gaps can make so many.
const PIECES: usize = 8192;

/// Credit to send for bytes that were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) stream: StreamName,
    pub(crate) bytes: u64,
}

#[derive(Debug)]
struct Piece {
    stream: StreamName,
    at: u64,
    data: Data,
}

#[derive(Debug)]
enum Data {
    /// Small payloads, joined.
    Joined(BytesMut),
    /// One large payload, as it came.
    Whole(Bytes),
}

impl Data {
    fn len(&self) -> usize {
        match self {
            Self::Joined(bytes) => bytes.len(),
            Self::Whole(bytes) => bytes.len(),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Joined(bytes) => bytes.freeze(),
            Self::Whole(bytes) => bytes,
        }
    }
}

impl From<&Bytes> for Data {
    fn from(payload: &Bytes) -> Self {
        if payload.len() >= LARGE {
            Self::Whole(payload.clone())
        } else {
            Self::Joined(BytesMut::from(payload.as_ref()))
        }
    }
}

impl Piece {
    fn end(&self) -> u64 {
        self.at + self.data.len() as u64
    }
}

#[derive(Debug)]
struct Stream {
    window: ReceiveWindow,
    /// Where the next byte belongs.
    position: u64,
    /// Whether a chunk has come, before which the position is only what was asked for.
    begun: bool,
    ended: bool,
    /// The number of its newest piece, counted from the first that ever was.
    newest: Option<u64>,
}

impl Stream {
    fn starting_at(position: u64) -> Self {
        Self { window: ReceiveWindow::default(), position, begun: false, ended: false, newest: None }
    }

    fn complete(&self, total: u64) -> bool {
        self.ended || self.position >= total
    }
}

/// The output and the end of one process or operation.
#[derive(Debug)]
pub(crate) struct Inbox {
    id: RequestId,
    pieces: VecDeque<Piece>,
    /// How many pieces were taken.
    taken: u64,
    stdout: Stream,
    stderr: Stream,
    data: Stream,
    last: Option<(Last, OutputTotals)>,
}

/// What a consumer takes.
#[derive(Debug, Clone)]
pub(crate) enum Taken {
    /// A piece of a stream.
    Output {
        /// Which stream.
        stream: StreamName,
        /// The position of the first byte.
        at: u64,
        /// At least one byte.
        bytes: Bytes,
    },
    /// A stream has ended, before the rest.
    End(StreamName),
    /// The end, and where the streams end.
    Last(Last, OutputTotals),
}

/// What comes behind all streams.
#[derive(Debug, Clone)]
pub(crate) enum Last {
    /// The end of a process.
    Exit(ExitStatus),
    /// The end of an operation.
    Finished(Box<Finished>),
}

impl Inbox {
    /// Makes the inbox of a request that asked for its streams from these positions on.
    pub(crate) fn new(id: RequestId, from: OutputTotals) -> Self {
        Self {
            id,
            pieces: VecDeque::new(),
            taken: 0,
            stdout: Stream::starting_at(from.stdout),
            stderr: Stream::starting_at(from.stderr),
            data: Stream::starting_at(from.data),
            last: None,
        }
    }

    /// Takes in a chunk.
    pub(crate) fn chunk(&mut self, header: &ChunkHeader, payload: &Bytes) -> Result<(), Violation> {
        let (id, name, length) = (self.id, header.stream, payload.len() as u64);
        let stream = match name {
            StreamName::Stdout => &mut self.stdout,
            StreamName::Stderr => &mut self.stderr,
            StreamName::Data => &mut self.data,
            StreamName::Stdin => return Err(Violation::OutOfPlace { id, what: "a chunk of stdin" }),
        };
        if stream.ended {
            return Err(Violation::OutOfPlace { id, what: "a chunk behind the end" });
        }
        let end = header.at.checked_add(length).filter(|_| !stream.begun || header.at >= stream.position);
        let Some(end) = end else { return Err(Violation::Backwards { id, stream: name, at: header.at }) };
        stream.window.receive(length).map_err(|source| Violation::Credit { id, stream: name, source })?;
        (stream.begun, stream.position, stream.ended) = (true, end, header.end);
        if !payload.is_empty() {
            self.keep(name, header.at, payload)?;
        }
        if header.end {
            // A piece without bytes marks the end behind those before it. There is one a stream at most.
            self.pieces.push_back(Piece { stream: name, at: end, data: Data::Joined(BytesMut::new()) });
        }
        Ok(())
    }

    fn keep(&mut self, name: StreamName, at: u64, payload: &Bytes) -> Result<(), Violation> {
        let crowded = self.pieces.len() >= CROWDED;
        if payload.len() < LARGE
            && let Some(index) = self.newest(name)
            && (crowded || index + 1 == self.pieces.len())
            && let Some(piece) = self.pieces.get_mut(index)
            && piece.end() == at
            && let Data::Joined(data) = &mut piece.data
            && data.len() + payload.len() <= limits::CHUNK
        {
            data.extend_from_slice(payload);
            return Ok(());
        }
        if self.pieces.len() >= PIECES {
            return Err(Violation::Gaps { id: self.id });
        }
        let number = self.taken + self.pieces.len() as u64;
        self.stream(name).newest = Some(number);
        self.pieces.push_back(Piece { stream: name, at, data: Data::from(payload) });
        Ok(())
    }

    /// The index of a stream's newest piece, if it is still here.
    fn newest(&mut self, name: StreamName) -> Option<usize> {
        let taken = self.taken;
        self.stream(name).newest.and_then(|number| number.checked_sub(taken)).map(|index| index as usize)
    }

    fn stream(&mut self, name: StreamName) -> &mut Stream {
        match name {
            StreamName::Stderr => &mut self.stderr,
            StreamName::Data => &mut self.data,
            StreamName::Stdout | StreamName::Stdin => &mut self.stdout,
        }
    }

    /// Takes in the end.
    pub(crate) fn last(&mut self, last: Last, output: OutputTotals) -> Result<(), Violation> {
        if self.last.is_some() {
            return Err(Violation::OutOfPlace { id: self.id, what: "a second end" });
        }
        self.last = Some((last, output));
        Ok(())
    }

    /// Whether the end and all output before it are here: nothing more is to come.
    pub(crate) fn complete(&self) -> bool {
        let totals = self.last.as_ref().map(|(_, totals)| totals);
        totals.is_some_and(|totals| {
            self.stdout.complete(totals.stdout)
                && self.stderr.complete(totals.stderr)
                && self.data.complete(totals.data)
        })
    }

    /// Whether the end is here.
    pub(crate) fn has_last(&self) -> bool {
        self.last.is_some()
    }

    /// Takes the oldest piece of output and tells what to grant for it; the end once there will be no more output.
    pub(crate) fn take(&mut self) -> Option<(Taken, Option<Grant>)> {
        if let Some(Piece { stream, at, data }) = self.pieces.pop_front() {
            self.taken += 1;
            if data.len() == 0 {
                return Some((Taken::End(stream), None));
            }
            let grant = self.consumed(stream, data.len() as u64);
            return Some((Taken::Output { stream, at, bytes: data.into_bytes() }, grant));
        }
        let (last, output) = if self.complete() { self.last.clone()? } else { return None };
        Some((Taken::Last(last, output), None))
    }

    fn consumed(&mut self, name: StreamName, bytes: u64) -> Option<Grant> {
        let complete = self.complete();
        let stream = self.stream(name);
        let grant = stream.window.consume(bytes).filter(|_| !stream.ended && !complete);
        grant.map(|bytes| Grant { stream: name, bytes })
    }

    /// Drops the output that nobody will take.
    pub(crate) fn clear(&mut self) {
        self.taken += self.pieces.len() as u64;
        self.pieces = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use hearth_protocol::CreditError;
    use proptest::prelude::*;

    use super::*;

    const X: Bytes = Bytes::from_static(b"x");

    fn header(stream: StreamName, at: u64, end: bool) -> ChunkHeader {
        ChunkHeader { id: RequestId(1), stream, at, end, detach: false, last: None, payload: None }
    }

    fn inbox() -> Inbox {
        Inbox::new(RequestId(1), OutputTotals::default())
    }

    /// The memory that the pieces take, in bytes.
    fn held(inbox: &Inbox) -> usize {
        let capacity = |data: &Data| match data {
            Data::Joined(bytes) => bytes.capacity(),
            Data::Whole(bytes) => bytes.len(),
        };
        inbox.pieces.iter().map(|piece| capacity(&piece.data) + size_of::<Piece>()).sum()
    }

    #[test]
    fn a_full_window_of_single_bytes_takes_little_more_memory_than_its_bytes() {
        let mut inbox = inbox();
        for at in 0..limits::WINDOW {
            for stream in [StreamName::Stdout, StreamName::Stderr] {
                inbox.chunk(&header(stream, at, false), &X).unwrap();
            }
        }
        assert!(held(&inbox) < 6 * limits::WINDOW as usize, "{} bytes", held(&inbox));
    }

    #[test]
    fn gaps_are_counted_and_bounded() {
        let mut inbox = inbox();
        let broken = (0..limits::WINDOW).find_map(|n| inbox.chunk(&header(StreamName::Stdout, 2 * n, false), &X).err());
        assert_eq!(broken, Some(Violation::Gaps { id: RequestId(1) }));
        assert!(held(&inbox) < 2 << 20, "{} bytes", held(&inbox));
    }

    #[test]
    fn empty_chunks_take_no_memory() {
        let mut inbox = inbox();
        for at in 0..100_000 {
            inbox.chunk(&header(StreamName::Stdout, at * 10, false), &Bytes::new()).unwrap();
        }
        assert_eq!(held(&inbox), 0);
    }

    #[test]
    fn a_large_payload_is_handed_on_as_it_came() {
        let mut inbox = inbox();
        let payload = Bytes::from(vec![7; LARGE]);
        inbox.chunk(&header(StreamName::Data, 0, false), &X).unwrap();
        inbox.chunk(&header(StreamName::Data, 1, false), &payload).unwrap();
        inbox.chunk(&header(StreamName::Data, 1 + LARGE as u64, false), &X).unwrap();
        let mut taken = std::iter::from_fn(|| match inbox.take() {
            Some((Taken::Output { bytes, .. }, _)) => Some(bytes),
            _ => None,
        });
        let mut place = || taken.next().map(|bytes| (bytes.len(), bytes.as_ptr() == payload.as_ptr()));
        assert_eq!(
            [place(), place(), place(), place()],
            [Some((1, false)), Some((LARGE, true)), Some((1, false)), None]
        );
    }

    #[test]
    fn output_beyond_the_window_is_refused() {
        let mut inbox = inbox();
        inbox.chunk(&header(StreamName::Stdout, 0, false), &vec![0; limits::WINDOW as usize].into()).unwrap();
        inbox.chunk(&header(StreamName::Stderr, 0, false), &Bytes::from_static(b"has a window of its own")).unwrap();
        let source = CreditError::Overrun { excess: 1 };
        let refused = Violation::Credit { id: RequestId(1), stream: StreamName::Stdout, source };
        assert_eq!(inbox.chunk(&header(StreamName::Stdout, limits::WINDOW, false), &X), Err(refused));
    }

    fn script() -> impl Strategy<Value = Vec<(bool, u64, usize, bool)>> {
        prop::collection::vec(
            (any::<bool>(), prop_oneof![4 => Just(0u64), 1 => 0..1000u64], 0..200usize, any::<bool>()),
            0..100,
        )
    }

    proptest! {
        #[test]
        fn whatever_the_chunks_each_byte_comes_out_once_at_its_place(script in script()) {
            let mut inbox = inbox();
            let mut sent: HashMap<StreamName, (u64, Vec<(u64, u8)>)> = HashMap::new();
            let mut received: HashMap<StreamName, Vec<(u64, u8)>> = HashMap::new();
            let mut take = |inbox: &mut Inbox| {
                while let Some((Taken::Output { stream, at, bytes }, _)) = inbox.take() {
                    received.entry(stream).or_default().extend((at..).zip(bytes));
                }
            };
            for (number, (stderr, gap, length, read)) in script.into_iter().enumerate() {
                let stream = if stderr { StreamName::Stderr } else { StreamName::Stdout };
                let (position, bytes) = sent.entry(stream).or_default();
                let payload = vec![number as u8; length];
                inbox.chunk(&header(stream, *position + gap, false), &payload.clone().into()).unwrap();
                bytes.extend((*position + gap..).zip(payload));
                *position += gap + length as u64;
                if read {
                    take(&mut inbox);
                }
            }
            take(&mut inbox);
            for (stream, (_, bytes)) in sent {
                prop_assert_eq!(received.remove(&stream).unwrap_or_default(), bytes);
            }
        }

        #[test]
        fn the_exit_comes_last_wherever_it_arrives(chunks in 0..20u64, exit_at in 0..20u64, end in any::<bool>()) {
            let mut inbox = inbox();
            let status = ExitStatus {
                code: Some(0), signal: None, timed_out: false, out_of_memory: false, duration_us: 0, cpu_us: 0, peak_memory_bytes: None,
            };
            let exit_at = exit_at.min(chunks);
            for at in 0..=chunks {
                if at == exit_at {
                    let totals = OutputTotals { stdout: chunks, ..OutputTotals::default() };
                    inbox.last(Last::Exit(status.clone()), totals).unwrap();
                }
                if at < chunks {
                    inbox.chunk(&header(StreamName::Stdout, at, end && at + 1 == chunks), &X).unwrap();
                }
            }
            prop_assert!(inbox.complete());
            let mut total = 0;
            while let Some((Taken::Output { bytes, .. }, _)) = inbox.take() {
                total += bytes.len() as u64;
            }
            prop_assert_eq!(total, chunks);
        }
    }
}
