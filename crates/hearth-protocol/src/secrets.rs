//! Requests about secrets, values that the guest's processes may have and that nothing shows: group `secret`.

use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{ErrorCode, Fault, hex, limits};

/// What a host may ask about secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum SecretRequest {
    /// Adds secrets, or gives new values to those that are there. All or none.
    Set {
        /// Which.
        secrets: Vec<Secret>,
    },
    /// Makes these the only secrets there are. All or none.
    Replace {
        /// Which.
        secrets: Vec<Secret>,
    },
    /// Removes secrets. All, or none where one is not there.
    Remove {
        /// By name.
        names: Vec<String>,
    },
    /// Lists what there is, without the values.
    List {},
}

/// What comes of a request about secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretResult {
    /// It is done.
    Done {},
    /// What there is.
    List(SecretList),
}

/// A secret to install.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// Its name: a letter or `_`, then at most 63 letters, digits and `_`.
    pub name: String,
    /// What is to be kept.
    pub value: SecretValue,
    /// Whether it is a file in the directory of secrets, or only to be had as a variable.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub file: bool,
}

fn yes() -> bool {
    true
}

/// A secret in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SecretInfo {
    /// Its name.
    pub name: String,
    /// The length of its value in bytes.
    pub bytes: u64,
    /// Whether it is a file.
    pub file: bool,
    /// When its value was set, in milliseconds since 1970 by the guest's clock.
    pub set_unix_ms: u64,
}

/// The secrets there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SecretList {
    /// The directory that the files are in, by name; processes know it as `HEARTH_SECRETS`.
    pub directory: String,
    /// By name.
    pub secrets: Vec<SecretInfo>,
}

/// Bytes that must not be shown. On the wire as [`crate::RawString`], but NUL is a byte like any other; what is debugged or refused does
/// not repeat them.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SecretValue(#[cfg_attr(feature = "schema", schemars(with = "Form"))] Vec<u8>);

impl SecretValue {
    /// The bytes, for what may know them.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl<T: Into<Vec<u8>>> From<T> for SecretValue {
    fn from(bytes: T) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

/// Bytes in JSON: text where they are some, else digits.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(inline))]
#[serde(untagged, deny_unknown_fields)]
pub(crate) enum Form {
    Text(String),
    Hex { hex: String },
}

impl Serialize for SecretValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Form::Hex { hex: hex::encode(&self.0) }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for SecretValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = match Form::deserialize(deserializer) {
            Ok(Form::Text(text)) => Some(text.into_bytes()),
            Ok(Form::Hex { hex }) => hex::decode(&hex),
            Err(_) => None,
        };
        bytes.map(Self).ok_or_else(|| D::Error::custom("a value is a string or {\"hex\": \"...\"}"))
    }
}

impl SecretRequest {
    /// Checks what types alone do not.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidField`] or [`ErrorCode::TooLarge`], naming the secret and the rule, never the value.
    pub fn validate(&self) -> Result<(), Fault> {
        match self {
            Self::Set { secrets } | Self::Replace { secrets } => validate_secrets(secrets),
            Self::Remove { names } => names.iter().try_for_each(|name| validate_secret_name(name)),
            Self::List {} => Ok(()),
        }
    }
}

/// Checks a set of secrets: names, each once, and sizes.
///
/// # Errors
/// As [`SecretRequest::validate`].
pub fn validate_secrets(secrets: &[Secret]) -> Result<(), Fault> {
    let refuse = |code, message| Err(Fault::never_started(code, message));
    if secrets.len() > limits::SECRETS {
        return refuse(
            ErrorCode::TooLarge,
            format!("{} secrets, over the limit of {}", secrets.len(), limits::SECRETS),
        );
    }
    for (index, Secret { name, value, .. }) in secrets.iter().enumerate() {
        validate_secret_name(name)?;
        if secrets[..index].iter().any(|earlier| earlier.name == *name) {
            return refuse(ErrorCode::InvalidField, format!("secret {name} is there twice"));
        }
        let length = value.reveal().len();
        if length > limits::SECRET_VALUE {
            let message = format!("secret {name} has {length} bytes, over the limit of {}", limits::SECRET_VALUE);
            return refuse(ErrorCode::TooLarge, message);
        }
    }
    Ok(())
}

/// Checks the name of a secret.
///
/// # Errors
/// [`ErrorCode::InvalidField`].
pub fn validate_secret_name(name: &str) -> Result<(), Fault> {
    let fits =
        |(index, byte): (usize, u8)| byte == b'_' || byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit());
    if (1..=limits::SECRET_NAME).contains(&name.len()) && name.bytes().enumerate().all(fits) {
        return Ok(());
    }
    let message = format!(
        "secret name {name:?} must be a letter or '_', then at most {} letters, digits and '_'",
        limits::SECRET_NAME - 1
    );
    Err(Fault::never_started(ErrorCode::InvalidField, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, length: usize) -> Secret {
        Secret { name: name.into(), value: vec![b'x'; length].into(), file: true }
    }

    #[test]
    fn values_are_any_bytes_and_debugging_does_not_show_them() {
        let wire = [r#""a\u0000b""#, r#"{"hex":"ff00"}"#];
        for (text, bytes) in wire.into_iter().zip([b"a\0b".as_slice(), b"\xff\0"]) {
            let value: SecretValue = serde_json::from_str(text).unwrap();
            assert_eq!(value.reveal(), bytes);
            assert_eq!(serde_json::to_string(&value).unwrap(), text);
        }
        let shown = format!("{:?}", Secret { name: "A".into(), value: "hunter2".into(), file: true });
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn names_sizes_and_counts_have_bounds() {
        for name in ["", "1A", "A-B", "A B", "../x", "é", &"A".repeat(65)] {
            assert_eq!(validate_secret_name(name).unwrap_err().code, ErrorCode::InvalidField, "{name:?}");
        }
        for name in ["A", "_", "a1_", &"A".repeat(64)] {
            validate_secret_name(name).unwrap();
        }
        assert_eq!(validate_secrets(&[secret("A", 1), secret("A", 1)]).unwrap_err().code, ErrorCode::InvalidField);
        assert_eq!(validate_secrets(&[secret("A", limits::SECRET_VALUE + 1)]).unwrap_err().code, ErrorCode::TooLarge);
        let many: Vec<_> = (0..=limits::SECRETS).map(|number| secret(&format!("A{number}"), 1)).collect();
        assert_eq!(validate_secrets(&many).unwrap_err().code, ErrorCode::TooLarge);
        validate_secrets(&many[1..]).unwrap();
    }
}
