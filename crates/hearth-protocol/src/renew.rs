//! What makes one guest of many its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::secrets::{Secret, validate_secrets};
use crate::start::validate_variables;
use crate::{ErrorCode, Fault, RawString, hex, limits};

/// What makes a guest this sandbox's own, and its clock right: after a boot, and after each restore.
///
/// Everything is checked before anything changes. Then what is there is done in the order of the fields, before any other request is
/// looked at. Each step may be done again, so a renewal that failed half-way is mended by sending it again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renew {
    /// The time, in nanoseconds since 1970; the clock is stepped to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix_nanoseconds: Option<u64>,
    /// Random bytes, 64 to 1024 hexadecimal digits, mixed into the kernel's generator, which starts anew from them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<String>,
    /// The new host name: 1 to 63 letters, digits and `-`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The new machine id: 32 lowercase hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// The secrets, in place of those there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Vec<Secret>>,
    /// Variables of every process that starts from now on, in place of those of an earlier renewal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, RawString>>,
}

impl Renew {
    /// Checks what types alone do not.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidField`] naming the field and the rule; as [`validate_secrets`].
    pub fn validate(&self) -> Result<(), Fault> {
        let invalid = |message: String| Err(Fault::never_started(ErrorCode::InvalidField, message));
        if self.seed.is_some() && self.seed_bytes().is_none() {
            return invalid("seed must be 64 to 1024 hexadecimal digits".into());
        }
        if self.hostname.as_deref().is_some_and(|name| !is_host_name(name)) {
            return invalid("hostname must be 1 to 63 letters, digits and '-'".into());
        }
        if self.machine_id.as_deref().is_some_and(|id| !is_machine_id(id)) {
            return invalid("machine_id must be 32 lowercase hexadecimal digits, not all of them 0".into());
        }
        if let Some(env) = &self.env {
            if env.len() > limits::RENEWED_VARIABLES {
                let limit = limits::RENEWED_VARIABLES;
                return invalid(format!("env has {} entries, over the limit of {limit}", env.len()));
            }
            validate_variables(env.keys())?;
        }
        validate_secrets(self.secrets.as_deref().unwrap_or_default())
    }

    /// The seed as bytes, 32 to 512 of them.
    pub fn seed_bytes(&self) -> Option<Vec<u8>> {
        hex::decode(self.seed.as_deref()?).filter(|seed| (32..=512).contains(&seed.len()))
    }

    /// Whether it asks for something that only the owner of a whole machine can do.
    pub fn concerns_machine(&self) -> bool {
        self.unix_nanoseconds.is_some() || self.seed.is_some() || self.hostname.is_some() || self.machine_id.is_some()
    }
}

fn is_host_name(name: &str) -> bool {
    (1..=63).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn is_machine_id(id: &str) -> bool {
    let digits = id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    id.len() == 32 && digits && id.bytes().any(|byte| byte != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, fits: bool) {
        let renew: Renew = serde_json::from_str(line).unwrap();
        assert_eq!(renew.validate().is_ok(), fits, "{line}");
    }

    #[test]
    fn each_field_has_its_rule() {
        check("{}", true);
        check(&format!(r#"{{"seed":"{}"}}"#, "0f".repeat(32)), true);
        check(&format!(r#"{{"seed":"{}"}}"#, "0f".repeat(31)), false);
        check(&format!(r#"{{"seed":"{}"}}"#, "0f".repeat(513)), false);
        check(r#"{"hostname":"sb-1"}"#, true);
        check(r#"{"hostname":"a.b"}"#, false);
        check(r#"{"machine_id":"0123456789abcdef0123456789abcdef"}"#, true);
        check(r#"{"machine_id":"0123456789ABCDEF0123456789abcdef"}"#, false);
        check(r#"{"machine_id":"00000000000000000000000000000000"}"#, false);
        check(r#"{"machine_id":"0123"}"#, false);
        check(r#"{"env":{"A":"b"}}"#, true);
        check(r#"{"env":{"A=":"b"}}"#, false);
        check(r#"{"secrets":[{"name":"A","value":"b"}]}"#, true);
        check(r#"{"secrets":[{"name":"../A","value":"b"}]}"#, false);
    }
}
