//! One zstd frame: the form in which the execution channel moves the content of a file.
//!
//! A frame comes and goes in pieces of any size. What is not exactly one whole frame is told from one that is, so that nothing cut off or
//! spoilt ever takes a file's place. Memory is bounded by the frame's window, whatever it holds.

use std::io;

use zstd::stream::raw::{Decoder, Encoder, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::{CParameter, DParameter};

/// How hard is tried to make a frame small.
const LEVEL: i32 = 3;
/// The largest window of a frame that is read, as a power of two: 8 MiB, four times what the level above makes use of.
const WINDOW_LOG: u32 = 23;
/// The window of a frame that is made: 512 KiB, since many may be under way at once.
const OWN_WINDOW_LOG: u32 = 19;
/// What is unpacked at a time, in bytes.
const PIECE: usize = 128 * 1024;
/// How every frame begins that holds something. Skippable frames begin otherwise.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Why bytes are not one whole frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// They begin with something else.
    #[error("it does not begin as a zstd frame does")]
    NotAFrame,
    /// They cannot be unpacked: damaged, or with a window over 8 MiB.
    #[error("the zstd frame cannot be unpacked: {reason}")]
    Damaged {
        /// What the decoder says.
        reason: String,
    },
    /// The frame has not ended.
    #[error("the zstd frame is cut off")]
    CutOff,
    /// Something stands behind it.
    #[error("something follows the zstd frame")]
    Behind,
}

/// Unpacks a frame.
pub struct FrameDecoder {
    decoder: Decoder<'static>,
    /// How much of the beginning has been looked at.
    begun: usize,
    ended: bool,
    unpacked: Vec<u8>,
}

impl FrameDecoder {
    /// Begins before the first byte of a frame.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new() -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
        Ok(Self { decoder, begun: 0, ended: false, unpacked: vec![0; PIECE] })
    }

    /// Reads on, and hands what was unpacked to `take`, in pieces.
    ///
    /// # Errors
    /// [`FrameError`], or what `take` fails with. There is no going on after either.
    pub fn feed<E: From<FrameError>>(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.look_at_beginning(bytes)?;
        let mut input = InBuffer::around(bytes);
        // Output that has filled its place may have more behind it, input or no input.
        let mut filled = false;
        while !self.ended && (filled || input.pos() < bytes.len()) {
            let mut output = OutBuffer::around(self.unpacked.as_mut_slice());
            let wanted = self.decoder.run(&mut input, &mut output);
            self.ended = wanted.map_err(|error| FrameError::Damaged { reason: error.to_string() })? == 0;
            filled = output.pos() == PIECE;
            take(output.as_slice())?;
        }
        if input.pos() < bytes.len() {
            return Err(FrameError::Behind.into());
        }
        Ok(())
    }

    fn look_at_beginning(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        let expected = &MAGIC[self.begun..];
        let seen = bytes.len().min(expected.len());
        self.begun += seen;
        if bytes[..seen] == expected[..seen] { Ok(()) } else { Err(FrameError::NotAFrame) }
    }

    /// Says that no more comes.
    ///
    /// # Errors
    /// [`FrameError::CutOff`] unless the frame was whole.
    pub fn finish(self) -> Result<(), FrameError> {
        if self.ended { Ok(()) } else { Err(FrameError::CutOff) }
    }
}

/// Makes a frame.
pub struct FrameEncoder {
    encoder: Encoder<'static>,
}

impl FrameEncoder {
    /// Begins a frame, which will end with a checksum.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new() -> io::Result<Self> {
        let mut encoder = Encoder::new(LEVEL)?;
        encoder.set_parameter(CParameter::ChecksumFlag(true))?;
        encoder.set_parameter(CParameter::WindowLog(OWN_WINDOW_LOG))?;
        Ok(Self { encoder })
    }

    /// Takes the next bytes of the content, and appends to `frame` what comes of them.
    ///
    /// # Errors
    /// What the encoder fails with, which nothing in the content can bring about.
    pub fn feed(&mut self, bytes: &[u8], frame: &mut Vec<u8>) -> io::Result<()> {
        let mut input = InBuffer::around(bytes);
        while input.pos() < bytes.len() {
            append(frame, |output| self.encoder.run(&mut input, output).map(drop))?;
        }
        Ok(())
    }

    /// Ends the frame, and appends the rest of it to `frame`.
    ///
    /// # Errors
    /// As [`Self::feed`].
    pub fn finish(mut self, frame: &mut Vec<u8>) -> io::Result<()> {
        let mut left = usize::MAX;
        while left > 0 {
            append(frame, |output| {
                left = self.encoder.finish(output, true)?;
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Has `write` write behind what is in `frame`, where there is always room for some.
fn append(frame: &mut Vec<u8>, write: impl FnOnce(&mut OutBuffer<'_, Vec<u8>>) -> io::Result<()>) -> io::Result<()> {
    let length = frame.len();
    frame.reserve(PIECE);
    write(&mut OutBuffer::around_pos(frame, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(length: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        // Half of it can be made smaller.
        (0..length).map(|at| if at % 8192 < 4096 { next() } else { b'x' }).collect()
    }

    fn packed(content: &[u8]) -> Vec<u8> {
        let (mut encoder, mut frame) = (FrameEncoder::new().unwrap(), Vec::new());
        content.chunks(100_000).for_each(|piece| encoder.feed(piece, &mut frame).unwrap());
        encoder.finish(&mut frame).unwrap();
        frame
    }

    fn unpacked(frame: &[u8], cut: usize) -> Result<Vec<u8>, FrameError> {
        let (mut decoder, mut content) = (FrameDecoder::new().unwrap(), Vec::new());
        for piece in frame.chunks(cut) {
            decoder.feed(piece, |bytes| {
                content.extend_from_slice(bytes);
                Ok::<_, FrameError>(())
            })?;
        }
        decoder.finish()?;
        Ok(content)
    }

    #[test]
    fn what_was_packed_is_unpacked_in_any_cut() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3_000_000] {
            let content = content(length);
            let frame = packed(&content);
            for cut in [1, 7, 4096, 131_072, usize::MAX].into_iter().filter(|cut| length / cut < 100_000) {
                assert_eq!(unpacked(&frame, cut).unwrap(), content, "{length} bytes, cut at {cut}");
            }
        }
    }

    #[test]
    fn a_long_content_of_few_bytes_is_unpacked_to_its_end() {
        let frame = packed(&vec![0; 20 * PIECE]);
        assert_eq!(unpacked(&frame, usize::MAX).unwrap().len(), 20 * PIECE);
    }

    #[test]
    fn what_is_not_exactly_one_whole_frame_is_refused() {
        let frame = packed(&content(300_000));
        for end in [0, 1, 3, 5, frame.len() / 2, frame.len() - 4, frame.len() - 1] {
            assert!(matches!(unpacked(&frame[..end], 1000), Err(FrameError::CutOff)), "{end}");
        }
        let mut flipped = frame.clone();
        flipped[frame.len() - 2] ^= 1;
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
        for cut in [1, 1000, usize::MAX] {
            for rest in [&b"x"[..], &frame, &skippable] {
                let more = [&frame, rest].concat();
                assert!(matches!(unpacked(&more, cut), Err(FrameError::Behind)));
            }
            assert!(matches!(unpacked(&flipped, cut), Err(FrameError::Damaged { .. })));
            assert!(matches!(unpacked(b"plain text", cut), Err(FrameError::NotAFrame)));
            assert!(matches!(unpacked(&skippable, cut), Err(FrameError::NotAFrame)));
        }
    }

    #[test]
    fn a_window_beyond_the_bound_is_refused_before_it_is_allocated() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), LEVEL).unwrap();
        encoder.window_log(WINDOW_LOG + 1).unwrap();
        io::Write::write_all(&mut encoder, b"content").unwrap();
        let frame = encoder.finish().unwrap();
        assert!(matches!(unpacked(&frame, usize::MAX), Err(FrameError::Damaged { .. })));
    }

    #[test]
    fn what_a_taker_fails_with_is_handed_on() {
        struct Refused;
        impl From<FrameError> for Refused {
            fn from(error: FrameError) -> Self {
                panic!("{error}")
            }
        }
        let frame = packed(b"content");
        assert!(FrameDecoder::new().unwrap().feed(&frame, |_| Err(Refused)).is_err());
    }
}
