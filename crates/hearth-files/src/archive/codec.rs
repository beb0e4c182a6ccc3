//! Compression. What comes in is looked at: plain, gzip, zstd, bzip2 or xz. What goes out is plain, gzip or zstd, at the levels that
//! are fast rather than small: an archive mostly moves between a guest and its own host.
//!
//! A decoder's memory is bounded by its window: at most 128 MiB for zstd and 64 MiB for xz, for archives that were made so; some MiB
//! otherwise. Several compressed streams one behind the other are one archive, as they are for the tools that make them.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read, Write};
use std::rc::Rc;

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use hearth_protocol::archive::Compression;
use lzma_rust2::XzReader;

use super::header::Header;
use super::source::BLOCK;

const INPUT: usize = 64 * 1024;
/// The least that is passed on of what was compressed, but at the end, in bytes.
const OUTPUT: usize = 64 * 1024;
/// The most memory that an archive may make the xz decoder use, in KiB: `xz -9` needs 65 MiB.
const XZ_MEMORY: u32 = 80 * 1024;
const GZIP_LEVEL: u32 = 2;
const ZSTD_LEVEL: i32 = 1;

type Input<R> = BufReader<Tap<Chain<Cursor<Vec<u8>>, R>>>;

/// Reads an archive's bytes as they were before compression.
///
/// Its errors say whose they are: [`io::ErrorKind::InvalidData`] for a damaged stream, [`io::ErrorKind::UnexpectedEof`] for one that is cut
/// off, [`io::ErrorKind::Other`] for what the reader beneath failed with.
pub(super) struct Decoder<R: Read> {
    form: Form<R>,
    failure: Rc<Cell<Option<io::Error>>>,
}

enum Form<R: Read> {
    Plain(Chain<Cursor<Vec<u8>>, R>),
    Gzip(Box<GzipMembers<Input<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Input<R>>>),
    Bzip2(Box<MultiBzDecoder<Input<R>>>),
    Xz(Box<XzReader<Input<R>>>),
}

impl<R: Read> Decoder<R> {
    /// Looks at the first block and chooses.
    pub(super) fn new(mut input: R) -> io::Result<Self> {
        let mut head = Vec::with_capacity(BLOCK);
        input.by_ref().take(BLOCK as u64).read_to_end(&mut head).map_err(io::Error::other)?;
        let is_plain = <&[u8; BLOCK]>::try_from(head.as_slice())
            .is_ok_and(|block| Header(block).is_zero() || Header(block).sum_is_right());
        let failure = Rc::<Cell<_>>::default();
        let magic = if is_plain { [0; 6] } else { std::array::from_fn(|at| head.get(at).copied().unwrap_or_default()) };
        let input = Cursor::new(head).chain(input);
        let tapped = |input| BufReader::with_capacity(INPUT, Tap { input, failure: Rc::clone(&failure) });
        let form = match magic {
            [0x1f, 0x8b, ..] => Form::Gzip(Box::new(GzipMembers { current: Some(GzDecoder::new(tapped(input))) })),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Form::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(tapped(input))?))
            }
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Form::Bzip2(Box::new(MultiBzDecoder::new(tapped(input)))),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => {
                Form::Xz(Box::new(XzReader::new_mem_limit(tapped(input), true, XZ_MEMORY)))
            }
            _ => Form::Plain(input),
        };
        Ok(Self { form, failure })
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = match &mut self.form {
            Form::Plain(input) => return input.read(buffer).map_err(transfer),
            Form::Gzip(decoder) => decoder.read(buffer),
            Form::Zstd(decoder) => decoder.read(buffer),
            Form::Bzip2(decoder) => decoder.read(buffer),
            Form::Xz(decoder) => decoder.read(buffer),
        };
        result.map_err(|error| match (self.failure.take(), error.kind()) {
            (Some(failure), _) => transfer(failure),
            (None, io::ErrorKind::UnexpectedEof | io::ErrorKind::Interrupted) => error,
            (None, _) => io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
        })
    }
}

fn transfer(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::Interrupted => error,
        _ => io::Error::other(error),
    }
}

/// Keeps what the reader beneath failed with: a decoder may tell it in other words.
struct Tap<R> {
    input: R,
    failure: Rc<Cell<Option<io::Error>>>,
}

impl<R: Read> Read for Tap<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read(buffer).map_err(|error| {
            if error.kind() == io::ErrorKind::Interrupted {
                return error;
            }
            let kind = error.kind();
            self.failure.set(Some(error));
            kind.into()
        })
    }
}

/// All members of a gzip file, and the zeros with which tapes and some tools fill it up.
struct GzipMembers<B> {
    current: Option<GzDecoder<B>>,
}

impl<B: BufRead> Read for GzipMembers<B> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.current {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let mut input = self.current.take().expect("it was there a line before").into_inner();
            match input.fill_buf()?.first() {
                None => {}
                Some(0) => only_zeros(input)?,
                Some(0x1f) => self.current = Some(GzDecoder::new(input)),
                Some(_) => return Err(more_follows()),
            }
        }
        Ok(0)
    }
}

fn only_zeros(mut input: impl BufRead) -> io::Result<()> {
    loop {
        let piece = input.fill_buf()?;
        let (length, zero) = (piece.len(), piece.iter().all(|&byte| byte == 0));
        match (length, zero) {
            (0, _) => return Ok(()),
            (_, true) => input.consume(length),
            (_, false) => return Err(more_follows()),
        }
    }
}

fn more_follows() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "something follows the gzip stream")
}

/// Whoever takes an archive, piece by piece.
pub(super) trait Sink {
    /// Takes the next bytes.
    fn take(&mut self, piece: Vec<u8>) -> io::Result<()>;
}

impl<F: FnMut(Vec<u8>) -> io::Result<()>> Sink for F {
    fn take(&mut self, piece: Vec<u8>) -> io::Result<()> {
        self(piece)
    }
}

/// Passes an archive's pieces on, compressed.
pub(super) enum Encoder<S: Sink> {
    Plain(S),
    Gzip(Box<GzEncoder<Gathered<S>>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, Gathered<S>>>),
}

impl<S: Sink> Encoder<S> {
    pub(super) fn new(sink: S, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Plain(sink),
            Compression::Gzip => {
                let level = flate2::Compression::new(GZIP_LEVEL);
                Self::Gzip(Box::new(GzEncoder::new(Gathered::new(sink), level)))
            }
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Gathered::new(sink), ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                Self::Zstd(Box::new(encoder))
            }
        })
    }

    /// Takes the next bytes, and returns an empty buffer for those that follow: the same one, where it was not passed on itself.
    pub(super) fn take(&mut self, mut piece: Vec<u8>) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain(sink) => {
                let next = Vec::with_capacity(piece.capacity());
                return sink.take(piece).map(|()| next);
            }
            Self::Gzip(encoder) => encoder.write_all(&piece)?,
            Self::Zstd(encoder) => encoder.write_all(&piece)?,
        }
        piece.clear();
        Ok(piece)
    }

    /// Passes on what the compression still holds.
    pub(super) fn finish(self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Gzip(encoder) => encoder.finish()?.end(),
            Self::Zstd(encoder) => encoder.finish()?.end(),
        }
    }
}

/// Gathers what a compressor writes into pieces.
pub(super) struct Gathered<S> {
    sink: S,
    buffer: Vec<u8>,
}

impl<S: Sink> Gathered<S> {
    fn new(sink: S) -> Self {
        Self { sink, buffer: Vec::new() }
    }

    fn end(mut self) -> io::Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { self.sink.take(self.buffer) }
    }
}

impl<S: Sink> Write for Gathered<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= OUTPUT {
            self.sink.take(std::mem::take(&mut self.buffer))?;
        }
        Ok(bytes.len())
    }

    /// What is held here is part of the next piece: only the end passes it on.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
