//! Reading what has an `id` beside a body's own fields.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{BorrowedStrDeserializer, MapAccessDeserializer};
use serde::de::{DeserializeSeed, Error, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Reads an object: its `id`, if it has one, and all else as a body. As `serde(flatten)` does, which would keep the object as values once more
/// than the body's tag does.
pub(crate) fn addressed<'de, D, I, B>(deserializer: D) -> Result<(Option<I>, B), D::Error>
where
    D: Deserializer<'de>,
    I: Deserialize<'de>,
    B: Deserialize<'de>,
{
    deserializer.deserialize_map(Whole(PhantomData))
}

struct Whole<I, B>(PhantomData<fn() -> (I, B)>);

impl<'de, I: Deserialize<'de>, B: Deserialize<'de>> Visitor<'de> for Whole<I, B> {
    type Value = (Option<I>, B);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with an id")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let mut id = None;
        let body = B::deserialize(MapAccessDeserializer::new(Others { map, id: &mut id }))?;
        Ok((id, body))
    }
}

/// The fields but for `id`, which is put aside as it passes.
struct Others<'a, A, I> {
    map: A,
    id: &'a mut Option<I>,
}

impl<'de, A: MapAccess<'de>, I: Deserialize<'de>> MapAccess<'de> for Others<'_, A, I> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        loop {
            match self.map.next_key()? {
                None => return Ok(None),
                Some(Name(name)) if name == "id" => {
                    if self.id.replace(self.map.next_value()?).is_some() {
                        return Err(A::Error::duplicate_field("id"));
                    }
                }
                Some(Name(Cow::Borrowed(name))) => {
                    return seed.deserialize(BorrowedStrDeserializer::new(name)).map(Some);
                }
                Some(Name(Cow::Owned(name))) => return seed.deserialize(name.into_deserializer()).map(Some),
            }
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

/// A field's name, borrowed where it is written without escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(tag = "type", deny_unknown_fields)]
    enum Body {
        A { x: u64 },
    }

    fn read(text: &str) -> Result<(Option<u64>, Body), String> {
        addressed(&mut serde_json::Deserializer::from_str(text)).map_err(|error| error.to_string())
    }

    #[test]
    fn an_id_is_found_wherever_it_stands_and_is_no_field_of_the_body() {
        for text in
            [r#"{"id":7,"type":"A","x":1}"#, r#"{"x":1,"type":"A","\u0069d":7}"#, r#"{"type":"A","id":7,"x":1}"#]
        {
            assert_eq!(read(text), Ok((Some(7), Body::A { x: 1 })), "{text}");
        }
        assert_eq!(read(r#"{"type":"A","x":1}"#), Ok((None, Body::A { x: 1 })));
        for text in [
            r#"{"id":7,"type":"A","x":1,"id":8}"#,
            r#"{"id":"7","type":"A","x":1}"#,
            r#"{"id":7,"type":"A","y":1}"#,
            "[7]",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
