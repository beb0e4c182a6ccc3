//! What must hold whatever bytes come. Each check takes arbitrary bytes and panics when it does not; the property tests beside it and the
//! fuzz targets in `fuzz/` both run these.

use bytes::{Bytes, BytesMut};
use hearth_protocol::{
    AgentHello, ChunkDecoder, ChunkHeader, Epoch, FrameError, HelloScanner, HostHello, LineDecoder, Reply, RequestBody,
    encode_line, limits, parse_request,
};

/// Cuts `data` into pieces whose sizes come from its own first bytes, from single bytes to all at once.
fn pieces(data: &[u8]) -> Vec<&[u8]> {
    let mut sizes = data.iter().take(16).map(|&size| usize::from(size) + 1).collect::<Vec<_>>().into_iter().cycle();
    let (mut rest, mut pieces) = (data, Vec::new());
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(sizes.next().unwrap_or(1).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// Feeds pieces to a decoder until it fails. Returns what it found, its failure, and the most it left in the buffer.
fn feed<T>(
    pieces: &[&[u8]],
    mut decode: impl FnMut(&mut BytesMut) -> Result<Option<T>, FrameError>,
) -> (Vec<T>, Option<FrameError>, usize) {
    let (mut buffer, mut found, mut held) = (BytesMut::new(), Vec::new(), 0);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decode(&mut buffer) {
                Ok(Some(item)) => found.push(item),
                Ok(None) => break,
                Err(error) => return (found, Some(error), held),
            }
        }
        held = held.max(buffer.len());
    }
    (found, None, held)
}

/// Lines are the same however the stream is cut, equal to a plain split, within their limit, and no more than one is held.
pub(crate) fn line_decoder(data: &[u8]) {
    for limit in [1, 8, 100, limits::HEADER] {
        let decode = |pieces: &[&[u8]]| {
            let mut decoder = LineDecoder::with_limit(limit);
            feed(pieces, |buffer| decoder.decode(buffer))
        };
        let (lines, error, held) = decode(&pieces(data));
        let (expected, too_long) = split(data, limit);
        assert_eq!(lines, expected);
        assert_eq!(error, too_long.then_some(FrameError::LineTooLong { limit }));
        assert!(held < limit);
        let whole = decode(&[data]);
        assert_eq!((lines, error), (whole.0, whole.1));
    }
}

/// What a line decoder must make of `data`: the lines, and whether one is too long.
fn split(data: &[u8], limit: usize) -> (Vec<Bytes>, bool) {
    let (mut rest, mut lines) = (data, Vec::new());
    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
        if end >= limit {
            return (lines, true);
        }
        lines.push(Bytes::copy_from_slice(&rest[..end]));
        rest = &rest[end + 1..];
    }
    (lines, rest.len() >= limit)
}

/// Chunks are the same however the stream is cut, as long as announced, within their limit, and no more than one is held.
pub(crate) fn chunk_decoder(data: &[u8]) {
    let decode = |pieces: &[&[u8]]| {
        let mut decoder = ChunkDecoder::default();
        feed(pieces, |buffer| decoder.decode(buffer))
    };
    let (chunks, error, held) = decode(&pieces(data));
    for (header, payload) in &chunks {
        assert_eq!(header.payload.unwrap_or(0), payload.len() as u64);
        assert!(payload.len() <= limits::PAYLOAD);
        let mut line = Vec::new();
        encode_line(header, &mut line).expect("a chunk header fits a line");
        assert_eq!(&serde_json::from_slice::<ChunkHeader>(&line).expect("what we write can be read"), header);
    }
    assert!(held < limits::HEADER.max(limits::PAYLOAD), "{held} bytes are held");
    let whole = decode(&[data]);
    assert_eq!((chunks, error), (whole.0, whole.1));
}

/// The epoch that [`hello_scanner`] looks for, so that a fuzzer can find it.
pub(crate) fn epoch() -> Epoch {
    Epoch::from_random([0; 16])
}

/// Hellos are the same however the stream is cut, begin with the mark, and less than a line is held.
pub(crate) fn hello_scanner(data: &[u8]) {
    let scan = |pieces: &[&[u8]]| {
        let mut scanner = HelloScanner::new(epoch());
        feed(pieces, |buffer| Ok(scanner.scan(buffer)))
    };
    let (lines, _, held) = scan(&pieces(data));
    for line in &lines {
        assert!(line.starts_with(format!("{{\"hello\":{{\"epoch\":\"{}\"", epoch()).as_bytes()));
        let _ = (HostHello::parse(line), AgentHello::parse(line));
    }
    assert!(held < limits::HEADER, "{held} bytes are held");
    assert_eq!(lines, scan(&[data]).0);
}

/// A request is read as it would be written, and within its limits; anything else has one error that fits a line and names the request
/// where it could be known.
pub(crate) fn request(data: &[u8]) {
    match parse_request(data) {
        Ok(request) => {
            if let RequestBody::Start(start) = &request.body {
                start.validate().expect("what was read is valid");
            }
            let text = serde_json::to_vec(&request).expect("plain data");
            assert_eq!(parse_request(&text).expect("what we write can be read"), request);
        }
        Err(reply) => {
            let mut line = Vec::new();
            encode_line(&reply, &mut line).expect("a refusal fits a line");
            assert_eq!(serde_json::from_slice::<Reply>(&line).expect("what we write can be read"), *reply);
            // A line may be readable as far as its id, and yet hold what is no value, such as a number out of range.
            if let Ok(value) = serde_json::from_slice::<serde_json::Value>(data) {
                let id = value.get("id").and_then(serde_json::Value::as_u64);
                assert!(reply.id.is_none_or(|answered| Some(answered.0) == id));
            }
        }
    }
}

/// A reply is read as it would be written.
pub(crate) fn reply(data: &[u8]) {
    if let Ok(reply) = serde_json::from_slice::<Reply>(data) {
        let text = serde_json::to_vec(&reply).expect("plain data");
        assert_eq!(serde_json::from_slice::<Reply>(&text).expect("what we write can be read"), reply);
    }
}
