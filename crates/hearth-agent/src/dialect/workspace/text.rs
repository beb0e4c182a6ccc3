//! Bytes of programs as text: UTF-8 as it comes, whatever the cut, with U+FFFD for what is none.

/// Decodes a stream.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The beginning of a character whose rest has not come.
    begun: Vec<u8>,
}

impl Decoder {
    /// Hands the characters that are whole now to `out`.
    pub(super) fn decode(&mut self, mut bytes: &[u8], out: &mut impl FnMut(&str)) {
        while let ([first, rest @ ..], false) = (bytes, self.begun.is_empty()) {
            self.begun.push(*first);
            match std::str::from_utf8(&self.begun) {
                Ok(character) => out(character),
                Err(error) if error.error_len().is_none() => {
                    bytes = rest;
                    continue;
                }
                // What was begun is none; the byte may begin another.
                Err(_) => {
                    out("\u{fffd}");
                    self.begun.clear();
                    continue;
                }
            }
            self.begun.clear();
            bytes = rest;
        }
        let mut left = bytes.len();
        for chunk in bytes.utf8_chunks() {
            left -= chunk.valid().len() + chunk.invalid().len();
            if !chunk.valid().is_empty() {
                out(chunk.valid());
            }
            let is_begun = || std::str::from_utf8(chunk.invalid()).is_err_and(|error| error.error_len().is_none());
            if left == 0 && is_begun() {
                self.begun.extend_from_slice(chunk.invalid());
            } else if !chunk.invalid().is_empty() {
                out("\u{fffd}");
            }
        }
    }

    /// How many bytes wait for the rest of their character.
    pub(super) fn begun(&self) -> usize {
        self.begun.len()
    }

    /// Ends the stream, or a stretch of it: what was begun becomes no character.
    pub(super) fn finish(&mut self, out: &mut impl FnMut(&str)) {
        if !self.begun.is_empty() {
            self.begun.clear();
            out("\u{fffd}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8], cuts: &[usize]) -> String {
        let (mut text, mut decoder, mut rest) = (String::new(), Decoder::default(), bytes);
        for cut in cuts {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            decoder.decode(piece, &mut |piece| text.push_str(piece));
            rest = after;
        }
        decoder.decode(rest, &mut |piece| text.push_str(piece));
        decoder.finish(&mut |piece| text.push_str(piece));
        text
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_text(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0xe4), Just(0xb8), Just(0xad), Just(0xf0), Just(0x9f)], 0..64),
            cuts in prop::collection::vec(0_usize..5, 0..40),
        ) {
            prop_assert_eq!(decode(&bytes, &cuts), String::from_utf8_lossy(&bytes));
        }
    }
}
