//! Bytes in JSON: text where they are text, base64 where not. Nothing is replaced.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How bytes stand in a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Encoding {
    /// As themselves: they are UTF-8.
    #[serde(rename = "utf-8")]
    Utf8,
    /// In base64, as they are not.
    #[serde(rename = "base64")]
    Base64,
}

/// What a program wrote to one stream: all of it, or its beginning and its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Captured {
    /// How `data` is to be read.
    pub encoding: Encoding,
    /// The bytes that are kept.
    pub data: String,
    /// How many bytes are not in `data`.
    pub dropped_bytes: u64,
    /// How many bytes of `data`, once decoded, stand before those that were dropped, when some were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped_after: Option<u64>,
}

impl Captured {
    /// Puts all bytes of a stream into words.
    pub fn whole(bytes: &[u8]) -> Self {
        let (encoding, data) = encode(bytes);
        Self { encoding, data, dropped_bytes: 0, dropped_after: None }
    }

    /// Puts the beginning and the end of a stream into words, between which some bytes were dropped.
    pub fn parts(head: &[u8], dropped: u64, tail: &[u8]) -> Self {
        let whole = Self::whole(&[head, tail].concat());
        if dropped == 0 {
            return whole;
        }
        Self { dropped_bytes: dropped, dropped_after: Some(head.len() as u64), ..whole }
    }

    /// The bytes; `None` when `data` is not what `encoding` says.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        decode(self.encoding, &self.data)
    }
}

pub(crate) fn decode(encoding: Encoding, data: &str) -> Option<Vec<u8>> {
    match encoding {
        Encoding::Utf8 => Some(data.as_bytes().to_vec()),
        Encoding::Base64 => STANDARD.decode(data).ok(),
    }
}

pub(crate) fn encode(bytes: &[u8]) -> (Encoding, String) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Encoding::Utf8, text.to_owned()),
        Err(_) => (Encoding::Base64, STANDARD.encode(bytes)),
    }
}

/// Cuts a stream of bytes into pieces that are text where the stream is, wherever it was cut before: a character that is not whole
/// waits for its rest.
#[derive(Debug, Default)]
pub struct TextDecoder {
    /// The beginning of a character: at most three bytes.
    rest: Vec<u8>,
}

impl TextDecoder {
    /// Takes bytes, and returns those that can be told already.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut whole = std::mem::take(&mut self.rest);
        whole.extend_from_slice(bytes);
        if let Err(error) = std::str::from_utf8(&whole)
            && error.error_len().is_none()
        {
            self.rest = whole.split_off(error.valid_up_to());
        }
        whole
    }

    /// Returns what still waits, at the end of the stream.
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_that_are_no_text_survive() {
        let captured = Captured::whole(b"\xff\x01");
        assert_eq!((captured.encoding, captured.data.as_str()), (Encoding::Base64, "/wE="));
        assert_eq!(captured.bytes().unwrap(), b"\xff\x01");
    }

    #[test]
    fn a_gap_is_told_with_its_place() {
        let captured = Captured::parts(b"ab", 7, b"yz");
        assert_eq!((captured.data.as_str(), captured.dropped_bytes, captured.dropped_after), ("abyz", 7, Some(2)));
    }

    proptest! {
        #[test]
        fn text_stays_text_however_it_is_cut(text in "\\PC{0,40}", cuts in prop::collection::vec(1_usize..5, 0..40)) {
            let (mut decoder, mut pieces, mut rest) = (TextDecoder::default(), Vec::new(), text.as_bytes());
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                pieces.push(decoder.take(now));
                rest = later;
            }
            pieces.push(decoder.take(rest));
            pieces.push(decoder.finish());
            prop_assert!(pieces.iter().all(|piece| std::str::from_utf8(piece).is_ok()));
            prop_assert_eq!(pieces.concat(), text.into_bytes());
        }

        #[test]
        fn no_byte_is_lost(bytes in prop::collection::vec(any::<u8>(), 0..60), cut in 0_usize..60) {
            let mut decoder = TextDecoder::default();
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            let pieces = [decoder.take(first), decoder.take(second), decoder.finish()];
            prop_assert_eq!(pieces.concat(), bytes);
        }
    }
}
