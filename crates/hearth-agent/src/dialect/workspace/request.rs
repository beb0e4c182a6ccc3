//! A request: one line with a JSON object, and what its fields mean.
//!
//! Fields are taken as loosely as the first agent did, which was written in Python: a number may be written as a string, a string as a
//! number, and anything is true or false. A name that is not UTF-8 travels as Python writes it, each of its odd bytes as a lone surrogate.
//!
//! A line's memory is bounded by its length and [`VALUES`], whatever it holds.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::texts::{Refusal, repr};

/// The most values that a request may hold, in all its lists and objects.
const VALUES: usize = 16 * 1024;
/// Stands, with the byte added, for a byte that is not UTF-8, in the texts of a request that holds such bytes.
const ODD: u32 = 0x10_ff00;
/// What Python says of a NUL in anything that goes to the system.
const NUL: &str = "embedded null byte";

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    fields: Vec<(String, Value)>,
    /// Whether its texts hold bytes that are not UTF-8.
    odd: bool,
}

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Flag(bool),
    Integer(i128),
    Real(f64),
    Text(String),
    List(Vec<Value>),
    Object(Vec<(String, Value)>),
}

impl Request {
    /// Reads a line.
    pub(super) fn parse(line: &[u8]) -> Result<Self, Refusal> {
        let (line, odd) = mark_odd_bytes(line);
        let left = Cell::new(VALUES);
        let mut json = serde_json::Deserializer::from_slice(&line);
        let value = Bounded(&left).deserialize(&mut json).and_then(|value| json.end().map(|()| value));
        match value {
            Ok(Value::Object(fields)) => Ok(Self { fields, odd }),
            Ok(_) => Err("request must be a JSON object".into()),
            Err(error) => Err(format!("request is not valid JSON: {error}").into()),
        }
    }

    /// A field; of several with one name the last.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        find(&self.fields, name)
    }

    /// A field that is not null.
    pub(super) fn given(&self, name: &str) -> Option<&Value> {
        self.get(name).filter(|value| **value != Value::Null)
    }

    /// A field as text.
    pub(super) fn text(&self, name: &str, default: &str) -> Result<String, Refusal> {
        self.get(name).map_or_else(|| Ok(default.to_owned()), |value| self.text_of(value))
    }

    /// A value as text.
    pub(super) fn text_of(&self, value: &Value) -> Result<String, Refusal> {
        let text = value.to_text().into_owned();
        if self.odd && text.chars().any(|character| odd_byte(character).is_some()) {
            return Err("text must be valid Unicode: surrogates are not allowed".into());
        }
        Ok(text)
    }

    /// A field as text for the system: a command or a path.
    pub(super) fn bytes(&self, name: &str, default: &str) -> Result<Vec<u8>, Refusal> {
        self.get(name).map_or_else(|| Ok(default.into()), |value| self.bytes_of(value))
    }

    /// A value as text for the system.
    pub(super) fn bytes_of(&self, value: &Value) -> Result<Vec<u8>, Refusal> {
        let text = value.to_text();
        if text.contains('\0') {
            return Err(NUL.into());
        }
        if !self.odd {
            return Ok(text.into_owned().into_bytes());
        }
        let mut bytes = Vec::with_capacity(text.len());
        for character in text.chars() {
            match odd_byte(character) {
                Some(byte) => bytes.push(byte),
                None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        Ok(bytes)
    }

    /// A field as a whole number. One that no number of ours can hold is the nearest that one can.
    pub(super) fn integer(&self, name: &str, default: i64) -> Result<i64, Refusal> {
        self.get(name).map_or(Ok(default), Value::to_integer)
    }

    /// A field as true or false.
    pub(super) fn flag(&self, name: &str, default: bool) -> bool {
        self.get(name).map_or(default, Value::is_true)
    }

    /// An object of texts for the system, none where the field is not there; `kind` names it in the refusal.
    pub(super) fn environment(&self, kind: &str) -> Result<Vec<(String, Vec<u8>)>, Refusal> {
        match self.given("env") {
            None => Ok(Vec::new()),
            Some(Value::Object(fields)) => {
                let variable = |(name, value): &(String, Value)| Ok((secret_name(name)?, self.bytes_of(value)?));
                fields.iter().map(variable).collect()
            }
            Some(_) => Err(format!("{kind} env must be a JSON object").into()),
        }
    }
}

/// Checks the name of a variable or secret.
pub(super) fn secret_name(name: &str) -> Result<String, Refusal> {
    let name = name.trim();
    let fits =
        |(index, byte): (usize, u8)| byte == b'_' || byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit());
    match name {
        "" => Err("secret name is required".into()),
        _ if name.len() <= 64 && name.bytes().enumerate().all(fits) => Ok(name.to_owned()),
        _ => Err("secret name is invalid".into()),
    }
}

/// A field of an object; of several with one name the last.
pub(super) fn find<'a>(fields: &'a [(String, Value)], name: &str) -> Option<&'a Value> {
    fields.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value)
}

fn odd_byte(character: char) -> Option<u8> {
    u8::try_from(u32::from(character).checked_sub(ODD)?).ok().filter(|byte| *byte >= 0x80)
}

impl Value {
    /// What Python's `str` makes of it.
    pub(super) fn to_text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            other => Cow::Owned(other.repr()),
        }
    }

    /// What Python's `repr` makes of it.
    fn repr(&self) -> String {
        match self {
            Self::Null => "None".into(),
            Self::Flag(true) => "True".into(),
            Self::Flag(false) => "False".into(),
            Self::Integer(number) => number.to_string(),
            Self::Real(number) => format!("{number:?}"),
            Self::Text(text) => repr(text),
            Self::List(values) => format!("[{}]", values.iter().map(Self::repr).collect::<Vec<_>>().join(", ")),
            Self::Object(fields) => {
                let field = |(name, value): &(String, Self)| format!("{}: {}", repr(name), value.repr());
                format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// What Python's `int` makes of it.
    fn to_integer(&self) -> Result<i64, Refusal> {
        let number = match self {
            Self::Flag(flag) => i128::from(*flag),
            Self::Integer(number) => *number,
            // Cut towards zero.
            Self::Real(number) => *number as i128,
            Self::Text(text) => {
                let plain = text.trim().replace('_', "");
                let number = plain.strip_prefix('+').unwrap_or(&plain).parse();
                number.map_err(|_| format!("invalid literal for int() with base 10: {}", repr(text)))?
            }
            Self::Null | Self::List(_) | Self::Object(_) => {
                let kind = match self {
                    Self::Null => "NoneType",
                    Self::List(_) => "list",
                    _ => "dict",
                };
                let rule = "int() argument must be a string, a bytes-like object or a real number";
                return Err(format!("{rule}, not '{kind}'").into());
            }
        };
        Ok(number.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
    }

    /// What Python's `bool` makes of it.
    fn is_true(&self) -> bool {
        match self {
            Self::Null => false,
            Self::Flag(flag) => *flag,
            Self::Integer(number) => *number != 0,
            Self::Real(number) => *number != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(values) => !values.is_empty(),
            Self::Object(fields) => !fields.is_empty(),
        }
    }
}

impl serde::Serialize for Value {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::Integer(number) => serializer.serialize_i128(*number),
            Self::Real(number) => serializer.serialize_f64(*number),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(values) => serializer.collect_seq(values),
            Self::Object(fields) => serializer.collect_map(fields.iter().map(|(name, value)| (name, value))),
        }
    }
}

/// Replaces each lone surrogate that stands for a byte by a character of ours, since JSON's strings have no others; and tells whether
/// there were any.
fn mark_odd_bytes(line: &[u8]) -> (Cow<'_, [u8]>, bool) {
    let escape = |at: usize| -> Option<u32> {
        let digits = line.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let (mut marked, mut copied, mut at) = (Vec::new(), 0, 0);
    while let Some(offset) = line[at..].iter().position(|&byte| byte == b'\\') {
        at += offset;
        match escape(at) {
            // The first half of a pair, if the second follows: then both are skipped.
            Some(0xd800..=0xdbff) => {
                at += if matches!(escape(at + 6), Some(0xdc00..=0xdfff)) { 12 } else { 6 };
            }
            Some(code @ 0xdc80..=0xdcff) => {
                marked.extend_from_slice(&line[copied..at]);
                let character = char::from_u32(ODD + (code & 0xff)).expect("the last plane has these");
                marked.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                at += 6;
                copied = at;
            }
            _ => at += 2,
        }
        at = at.min(line.len());
    }
    if copied == 0 {
        return (Cow::Borrowed(line), false);
    }
    marked.extend_from_slice(&line[copied..]);
    (Cow::Owned(marked), true)
}

/// Reads values, and counts down how many there may still be.
struct Bounded<'a>(&'a Cell<usize>);

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.0.set(
            self.0
                .get()
                .checked_sub(1)
                .ok_or_else(|| D::Error::custom(format_args!("a request may hold {VALUES} values")))?,
        );
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Flag(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Integer(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Integer(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Real(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = access.next_element_seed(Bounded(self.0))? {
            values.push(value);
        }
        Ok(Value::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(name) = access.next_key::<String>()? {
            fields.push((name, access.next_value_seed(Bounded(self.0))?));
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str) -> Request {
        Request::parse(line.as_bytes()).unwrap()
    }

    fn refusal(line: &str) -> String {
        Request::parse(line.as_bytes()).unwrap_err().0
    }

    #[test]
    fn only_objects_are_requests() {
        for line in ["[]", "1", "null", "\"exec\""] {
            assert_eq!(refusal(line), "request must be a JSON object", "{line}");
        }
        for line in ["", "{", "{}{}", "{\"a\":}", "\u{1}"] {
            assert!(refusal(line).starts_with("request is not valid JSON: "), "{line}");
        }
        let many = format!("{{\"a\":[{}0]}}", "0,".repeat(VALUES));
        assert!(refusal(&many).contains("may hold"));
    }

    #[test]
    fn numbers_may_be_written_as_python_would_take_them() {
        let numbers = request(
            r#"{"a":7,"b":"7","c":7.9,"d":-7.9,"e":" +7 ","f":true,"g":"1_000","h":1e300,"i":99999999999999999999,"j":"-7"}"#,
        );
        let number = |name| numbers.integer(name, 1).unwrap();
        let all = ["a", "b", "c", "d", "e", "f", "g", "j", "none"].map(number);
        assert_eq!(all, [7, 7, 7, -7, 7, 1, 1000, -7, 1]);
        assert_eq!(["h", "i"].map(number), [i64::MAX; 2]);
        let wrong = request(r#"{"a":"7.5","b":null,"c":[],"d":{},"e":""}"#);
        for (name, text) in [
            ("a", "invalid literal for int() with base 10: '7.5'"),
            ("e", "invalid literal for int() with base 10: ''"),
            ("b", "int() argument must be a string, a bytes-like object or a real number, not 'NoneType'"),
            ("c", "int() argument must be a string, a bytes-like object or a real number, not 'list'"),
            ("d", "int() argument must be a string, a bytes-like object or a real number, not 'dict'"),
        ] {
            assert_eq!(wrong.integer(name, 1).unwrap_err().0, text);
        }
    }

    #[test]
    fn anything_is_a_text_and_true_or_false() {
        let fields = request(r#"{"a":1,"b":true,"c":null,"d":["x",{"y":0.5}],"e":"","f":"false","g":0,"a":2}"#);
        let texts = ["a", "b", "c", "d", "e", "none"].map(|name| fields.text(name, "default").unwrap());
        assert_eq!(texts, ["2", "True", "None", "['x', {'y': 0.5}]", "", "default"]);
        let flags = ["a", "b", "c", "d", "e", "f", "g", "none"].map(|name| fields.flag(name, true));
        assert_eq!(flags, [true, true, false, true, false, true, false, true]);
    }

    #[test]
    fn odd_bytes_travel_as_lone_surrogates() {
        let fields = request(r#"{"path":"a\udcff\\udcfe\ud83d\ude00b","text":"\\udcff"}"#);
        assert_eq!(fields.bytes("path", "").unwrap(), b"a\xff\\udcfe\xf0\x9f\x98\x80b");
        assert_eq!(fields.text("text", "").unwrap(), "\\udcff");
        assert!(fields.text("path", "").is_err());
        let plain = request("{\"path\":\"\u{10ff80}\"}");
        assert_eq!(plain.bytes("path", "").unwrap(), "\u{10ff80}".as_bytes());
        for line in [r#"{"a":"\ud800"}"#, r#"{"a":"\udc41"}"#, r#"{"a":"\udcf"#, r#"{"a":"\"#] {
            assert!(Request::parse(line.as_bytes()).is_err(), "{line}");
        }
        assert_eq!(request(r#"{"a":"\u0000"}"#).bytes("a", "").unwrap_err().0, NUL);
    }

    #[test]
    fn variables_have_names_that_a_shell_can_say() {
        let fields = request(r#"{"env":{" A ":1,"_b":"x"}}"#);
        assert_eq!(fields.environment("exec").unwrap(), [("A".into(), b"1".to_vec()), ("_b".into(), b"x".to_vec())]);
        assert_eq!(request("{\"env\":null}").environment("exec").unwrap(), []);
        let long = format!("{{\"env\":{{\"{}\":\"\"}}}}", "a".repeat(65));
        for (line, text) in [
            (r#"{"env":[]}"#, "exec env must be a JSON object"),
            (r#"{"env":{" ":""}}"#, "secret name is required"),
            (r#"{"env":{"1A":""}}"#, "secret name is invalid"),
            (r#"{"env":{"A-B":""}}"#, "secret name is invalid"),
            (long.as_str(), "secret name is invalid"),
        ] {
            assert_eq!(request(line).environment("exec").unwrap_err().0, text, "{line}");
        }
    }
}
