//! The fields of a line, read without building anything that a client could make as large as it likes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{OpId, PACKAGES, Refusal, VARIABLES};

/// The longest `op_id` in bytes.
const OP_ID: usize = 1024;

/// Every field of any request. A client may leave out, or send as null, what has a default; fields that nobody knows are passed over.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Fields<'a> {
    #[serde(borrow)]
    pub(super) action: Option<Text<'a>>,
    pub(super) op_id: Option<OpId>,
    #[serde(borrow)]
    pub(super) language: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) code: Option<Text<'a>>,
    pub(super) timeout: Option<f64>,
    pub(super) env_vars: Option<Variables>,
    pub(super) packages: Option<Packages>,
    #[serde(borrow)]
    pub(super) path: Option<Text<'a>>,
    pub(super) make_executable: Option<bool>,
    #[serde(borrow)]
    pub(super) data: Option<Text<'a>>,
}

/// Reads the fields of a line.
pub(super) fn parse(line: &[u8]) -> Result<Fields<'_>, (Option<OpId>, Refusal)> {
    #[derive(Deserialize)]
    struct Address {
        op_id: Option<OpId>,
    }
    let start = line.iter().find(|byte| !byte.is_ascii_whitespace());
    if start != Some(&b'{') {
        return Err((None, Refusal::request("a request is one JSON object on a line")));
    }
    serde_json::from_slice(line).map_err(|error| {
        // Whatever else is wrong with it: whom it concerns can be told, if that is well-formed.
        let address = serde_json::from_slice::<Address>(line).ok();
        (address.and_then(|address| address.op_id), Refusal::request(format_args!("not a request: {error}")))
    })
}

/// A string, borrowed from the line where it can be.
pub(super) struct Text<'a>(Cow<'a, str>);

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

impl<'de> Deserialize<'de> for OpId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OpIdVisitor;
        impl Visitor<'_> for OpIdVisitor {
            type Value = OpId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an op_id: a string of at most {OP_ID} bytes, or a whole number")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<OpId, E> {
                match text.len() {
                    0..=OP_ID => Ok(OpId::Text(text.to_owned())),
                    length => Err(E::invalid_length(length, &self)),
                }
            }

            fn visit_u64<E>(self, number: u64) -> Result<OpId, E> {
                Ok(OpId::Positive(number))
            }

            fn visit_i64<E>(self, number: i64) -> Result<OpId, E> {
                Ok(OpId::Negative(number))
            }
        }
        deserializer.deserialize_any(OpIdVisitor)
    }
}

/// Things of which only so many are kept, and the rest counted.
pub(super) struct Bounded<T> {
    kept: T,
    count: usize,
    limit: usize,
}

/// Environment variables.
pub(super) type Variables = Bounded<BTreeMap<String, String>>;
/// Names of packages.
pub(super) type Packages = Bounded<Vec<String>>;

impl<T: Default> Default for Bounded<T> {
    fn default() -> Self {
        Self { kept: T::default(), count: 0, limit: usize::MAX }
    }
}

impl<T> Bounded<T> {
    /// All of them, or how many there were.
    pub(super) fn kept(self) -> Result<T, usize> {
        if self.count > self.limit { Err(self.count) } else { Ok(self.kept) }
    }
}

impl<'de> Deserialize<'de> for Variables {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct VariablesVisitor;
        impl<'de> Visitor<'de> for VariablesVisitor {
            type Value = Variables;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Variables, A::Error> {
                let mut variables = Bounded { kept: BTreeMap::new(), count: 0, limit: VARIABLES };
                while variables.count < VARIABLES
                    && let Some((name, value)) = map.next_entry()?
                {
                    variables.kept.insert(name, value);
                    variables.count += 1;
                }
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    variables.count += 1;
                }
                Ok(variables)
            }
        }
        deserializer.deserialize_map(VariablesVisitor)
    }
}

impl<'de> Deserialize<'de> for Packages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PackagesVisitor;
        impl<'de> Visitor<'de> for PackagesVisitor {
            type Value = Packages;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of strings")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Packages, A::Error> {
                let mut packages = Bounded { kept: Vec::new(), count: 0, limit: PACKAGES };
                while packages.count < PACKAGES
                    && let Some(package) = list.next_element()?
                {
                    packages.kept.push(package);
                    packages.count += 1;
                }
                while list.next_element::<IgnoredAny>()?.is_some() {
                    packages.count += 1;
                }
                Ok(packages)
            }
        }
        deserializer.deserialize_seq(PackagesVisitor)
    }
}
