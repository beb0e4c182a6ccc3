//! Packages of a guest's languages: installed by pip or npm, in the guest.
//!
//! What cannot succeed is refused before anything runs: an installer that is not there, and a guest without a way out where no directory
//! with the packages is named. The installer ends with its request.

use std::collections::BTreeMap;

use hearth_protocol::packages::{Install, PackageLanguage, PackageRequest};
use hearth_protocol::{ExitStatus, RawString};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::exec::output_limit;
use crate::{Captured, ErrorBody};

/// Packages to install.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InstallPackages {
    /// Whose packages.
    pub language: PackageLanguage,
    /// What, 1 to 50: each a name with a version, such as `numpy==2.1`, `six>=1.16,<2` or `lodash@^4.17`.
    pub packages: Vec<String>,
    /// A directory of the guest with the packages as files, wheels or tarballs: only they are used then, and no network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<RawString>,
    /// For JavaScript, the directory whose `node_modules` they go to; the workspace by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<RawString>,
    /// Variables of the installer's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, RawString>,
    /// The deadline in milliseconds: the installer is ended then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// The most that the answer has of each stream, in bytes: half of it from the beginning, half from the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_bytes: Option<u64>,
}

impl InstallPackages {
    /// Makes the plainest request.
    pub fn new(language: PackageLanguage, packages: Vec<String>) -> Self {
        let env = BTreeMap::new();
        Self { language, packages, from: None, directory: None, env, timeout_ms: None, max_output_bytes: None }
    }

    /// What the guest is asked, and how much of each stream the answer is to have.
    ///
    /// # Errors
    /// A refusal that names the field.
    pub fn checked(self) -> Result<(Install, u64), ErrorBody> {
        let limit = output_limit(self.max_output_bytes)?;
        let Self { language, packages, from, directory, env, timeout_ms, .. } = self;
        let install = Install { language, packages, from, directory, env, timeout_ms };
        PackageRequest::Install(install.clone()).validate()?;
        Ok((install, limit))
    }
}

/// How the installer has ended, and what it said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InstallResult {
    /// 0 when all is installed; else the installer's own, or 128 + n for signal n.
    pub exit_code: i32,
    /// How it ended.
    #[serde(flatten)]
    pub status: ExitStatus,
    /// What it said.
    pub stdout: Captured,
    /// What it said of errors.
    pub stderr: Captured,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_field() {
        for (json, field) in [
            (r#"{"language":"python","packages":[]}"#, "packages"),
            (r#"{"language":"python","packages":["six"]}"#, "packages"),
            (r#"{"language":"javascript","packages":["--global@1"]}"#, "packages"),
            (r#"{"language":"python","packages":["six==1"],"directory":"app"}"#, "directory"),
            (r#"{"language":"python","packages":["six==1"],"timeout_ms":0}"#, "timeout_ms"),
            (r#"{"language":"python","packages":["six==1"],"env":{"A=B":"c"}}"#, "env"),
            (r#"{"language":"python","packages":["six==1"],"max_output_bytes":99999999}"#, "max_output_bytes"),
        ] {
            let request: InstallPackages = serde_json::from_str(json).unwrap();
            let refused = request.checked().unwrap_err();
            assert_eq!((refused.field.as_deref(), refused.code.status()), (Some(field), 400), "{json}: {refused:?}");
        }
    }
}
