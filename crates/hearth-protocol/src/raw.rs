//! Strings of the guest's operating system: any bytes but NUL.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::hex;

/// An argument, a path or a value of the environment: bytes that are mostly, but need not be, UTF-8.
///
/// On the wire a JSON string where the bytes are UTF-8, else `{"hex": "..."}`, so that every name of a Linux file round-trips.
/// NUL is refused when one is read.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RawString(Vec<u8>);

impl RawString {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text, with what is not UTF-8 replaced.
    pub fn to_string_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

impl<T: Into<Vec<u8>>> From<T> for RawString {
    fn from(bytes: T) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for RawString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string_lossy())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form<'a> {
    Text(Cow<'a, str>),
    Hex { hex: String },
}

impl Serialize for RawString {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => Form::Text(Cow::Borrowed(text)),
            Err(_) => Form::Hex { hex: hex::encode(&self.0) },
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RawString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let form =
            Form::deserialize(deserializer).map_err(|_| D::Error::custom("expected a string or {\"hex\": \"...\"}"))?;
        let bytes = match form {
            Form::Text(text) => text.into_owned().into_bytes(),
            Form::Hex { hex } => {
                hex::decode(&hex).ok_or_else(|| D::Error::custom("hex is not pairs of hexadecimal digits"))?
            }
        };
        if bytes.contains(&0) {
            return Err(D::Error::custom("a string holds a NUL byte"));
        }
        Ok(Self(bytes))
    }
}
