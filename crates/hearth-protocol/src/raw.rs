//! Strings of the guest's operating system: any bytes but NUL.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error, IgnoredAny, MapAccess, Unexpected, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::hex;

/// An argument, a path or a value of the environment: bytes that are mostly, but need not be, UTF-8.
///
/// On the wire a JSON string where the bytes are UTF-8, else `{"hex": "..."}`, so that every name of a Linux file round-trips.
/// NUL is refused when one is read.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RawString(#[cfg_attr(feature = "schema", schemars(with = "crate::secrets::Form"))] Vec<u8>);

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

impl Serialize for RawString {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let mut object = serializer.serialize_map(Some(1))?;
                object.serialize_entry(HEX, &hex::encode(&self.0))?;
                object.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for RawString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = deserializer.deserialize_any(Forms)?;
        if bytes.contains(&0) {
            return Err(D::Error::custom("a string holds a NUL byte"));
        }
        Ok(Self(bytes))
    }
}

/// The one field of the form for bytes that are no text.
const HEX: &str = "hex";

/// Reads either form.
struct Forms;

impl<'de> Visitor<'de> for Forms {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or {\"hex\": \"...\"}")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<u8>, E> {
        Ok(text.as_bytes().to_vec())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Vec<u8>, E> {
        Ok(text.into_bytes())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Vec<u8>, A::Error> {
        let entry = object.next_entry::<String, String>()?.filter(|(key, _)| key == HEX);
        let Some((_, digits)) = entry else { return Err(A::Error::invalid_type(Unexpected::Map, &self)) };
        if object.next_key::<IgnoredAny>()?.is_some() {
            return Err(A::Error::invalid_type(Unexpected::Map, &self));
        }
        hex::decode(&digits).ok_or_else(|| A::Error::custom("hex is not pairs of hexadecimal digits"))
    }
}
