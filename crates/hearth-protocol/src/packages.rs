//! Requests about packages for the guest's languages: group `packages`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::start::validate_variables;
use crate::{ErrorCode, ExitStatus, Fault, RawString, limits};

/// A language whose packages can be installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PackageLanguage {
    /// Python, by pip.
    Python,
    /// JavaScript, by npm.
    Javascript,
}

/// What may be asked about packages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum PackageRequest {
    /// Installs packages. Streams: what the installer says as `stdout` and `stderr`. Result: [`PackageResult`].
    ///
    /// The installer is a process of the default user, and ends with its request.
    Install(Install),
}

/// Packages to install.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Install {
    /// Whose packages.
    pub language: PackageLanguage,
    /// What, 1 to [`limits::PACKAGES`]: each a name with a version, such as `numpy==2.1`, `six>=1.16,<2` or `lodash@^4.17`. Neither an option, nor a
    /// path, nor an address.
    pub packages: Vec<String>,
    /// A directory of the guest with the packages as files, wheels or tarballs: only they are used then, and no network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<RawString>,
    /// For JavaScript, the directory whose `node_modules` they go to; the workspace by default. Python has one place for each user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<RawString>,
    /// Variables of the installer's environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, RawString>,
    /// The deadline in milliseconds of guest time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// What came of an install.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PackageResult {
    /// The installer has ended, with code 0 when all is installed.
    Installed(ExitStatus),
}

/// One package, its name apart from the versions that will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// The name, a scope included.
    pub name: &'a str,
    /// What stands behind it; for JavaScript without the `@`.
    pub version: &'a str,
}

impl Install {
    /// Makes the plainest install of `packages`.
    pub fn new<T: Into<String>>(language: PackageLanguage, packages: impl IntoIterator<Item = T>) -> Self {
        let packages = packages.into_iter().map(Into::into).collect();
        Self { language, packages, from: None, directory: None, env: BTreeMap::new(), timeout_ms: None }
    }
}

impl PackageLanguage {
    /// Reads a package with its version; `None` when it is none, or names no version.
    pub fn read(self, package: &str) -> Option<Wanted<'_>> {
        if package.len() > limits::PACKAGE {
            return None;
        }
        match self {
            Self::Python => read_python(package),
            Self::Javascript => read_javascript(package),
        }
    }
}

/// A name, perhaps with extras, and what versions will do: `name[extra]>=1,<2`.
fn read_python(package: &str) -> Option<Wanted<'_>> {
    let (name, version) = package.split_at(package.find(['=', '>', '<', '~', '!'])?);
    let (base, extras) = match name.strip_suffix(']') {
        Some(inner) => inner.split_once('[')?,
        None => (name, ""),
    };
    let extras_fit = !name.ends_with(']') || extras.split(',').all(is_python_name);
    (is_python_name(base) && extras_fit && version.split(',').all(is_python_version))
        .then_some(Wanted { name, version })
}

fn is_python_name(name: &str) -> bool {
    let alphanumeric = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    alphanumeric(name.as_bytes().first()) && alphanumeric(name.as_bytes().last()) && name.bytes().all(inside)
}

fn is_python_version(version: &str) -> bool {
    let operators = ["===", "==", ">=", "<=", "~=", "!=", ">", "<"];
    let number = operators.iter().find_map(|operator| version.strip_prefix(operator));
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'+' | b'!' | b'*');
    number.is_some_and(|number| {
        number.starts_with(|first: char| first.is_ascii_alphanumeric()) && number.bytes().all(inside)
    })
}

/// A name, perhaps with a scope, `@`, and a range or tag: `@scope/name@^1.2`.
fn read_javascript(package: &str) -> Option<Wanted<'_>> {
    // The first character may be the `@` of a scope.
    let (name, version) = package.split_at(package.get(1..)?.find('@')? + 1);
    let version = &version[1..];
    let fits = match name.strip_prefix('@') {
        Some(scoped) => scoped.split_once('/').is_some_and(|(scope, name)| is_npm_name(scope) && is_npm_name(name)),
        None => is_npm_name(name),
    };
    // A range may have several parts, with `||` or `-` between them.
    let is_range =
        !version.is_empty() && version.split(' ').all(|part| matches!(part, "||" | "-") || is_npm_version(part));
    (fits && version != "-" && is_range).then_some(Wanted { name, version })
}

fn is_npm_version(version: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b".-+^~<>=*".contains(&byte);
    let begins = |first: char| first.is_ascii_alphanumeric() || "^~<>=*".contains(first);
    version.starts_with(begins) && version.bytes().all(inside)
}

fn is_npm_name(name: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    name.starts_with(|first: char| first.is_ascii_alphanumeric()) && name.bytes().all(inside)
}

impl PackageRequest {
    /// Checks what types alone do not.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidField`] naming the field and the rule.
    pub fn validate(&self) -> Result<(), Fault> {
        let Self::Install(install) = self;
        let invalid = |message: String| Err(Fault::never_started(ErrorCode::InvalidField, message));
        let count = install.packages.len();
        if !(1..=limits::PACKAGES).contains(&count) {
            return invalid(format!("packages has {count} entries, and must have 1 to {}", limits::PACKAGES));
        }
        if let Some(package) = install.packages.iter().find(|package| install.language.read(package).is_none()) {
            let example = match install.language {
                PackageLanguage::Python => "numpy==2.1 or six>=1.16,<2",
                PackageLanguage::Javascript => "lodash@4.17.21 or @scope/name@^1.2",
            };
            return invalid(format!("packages: {package:?} is not a name with a version, such as {example}"));
        }
        if install.language == PackageLanguage::Python && install.directory.is_some() {
            return invalid("directory is for javascript: python has one place for each user".into());
        }
        if install.timeout_ms.is_some_and(|ms| ms == 0 || ms > limits::TIMEOUT_MS) {
            return invalid(format!("timeout_ms must be 1 to {}", limits::TIMEOUT_MS));
        }
        validate_variables(install.env.keys())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PackageLanguage::{Javascript, Python};

    #[test]
    fn a_package_is_a_name_with_a_version() {
        for (language, package, name, version) in [
            (Python, "six==1.16.0", "six", "==1.16.0"),
            (Python, "ruamel.yaml~=0.17", "ruamel.yaml", "~=0.17"),
            (Python, "uvicorn[standard,a-b]>=0.2,<1", "uvicorn[standard,a-b]", ">=0.2,<1"),
            (Python, "a===1.0+local", "a", "===1.0+local"),
            (Python, "torch==2.*", "torch", "==2.*"),
            (Javascript, "lodash@4.17.21", "lodash", "4.17.21"),
            (Javascript, "@types/node@^20", "@types/node", "^20"),
            (Javascript, "left-pad@~1.3.0", "left-pad", "~1.3.0"),
            (Javascript, "is-odd@>=1 <4 || 7.x", "is-odd", ">=1 <4 || 7.x"),
            (Javascript, "react@latest", "react", "latest"),
        ] {
            assert_eq!(language.read(package), Some(Wanted { name, version }), "{package}");
        }
    }

    #[test]
    fn options_paths_addresses_and_bare_names_are_none() {
        for package in [
            "",
            "six",
            "-r==1",
            "--index-url==x",
            "-e",
            "==1",
            "six==",
            "six= =1",
            "six ==1",
            "six==1 --pre",
            "./six==1",
            "/tmp/six==1",
            "six @ https://example.com/six.whl",
            "six@1.0",
            "six>=1;python_version<'3'",
            "a[]==1",
            "a[b==1",
            "a]==1",
            "git+https://x/y==1",
            "six==1\n--pre",
            "six==-1",
            "_six==1",
            "six_==1",
            "sïx==1",
        ] {
            assert_eq!(Python.read(package), None, "{package:?}");
        }
        for package in [
            "",
            "@",
            "lodash",
            "@scope/name",
            "-g@1",
            "--prefix@1",
            "lodash@",
            "./lodash@1",
            "../x@1",
            "lodash@file:../x",
            "lodash@npm:other@1",
            "lodash@git+ssh://x",
            "lodash@https://x",
            "lodash@1 --global",
            "lodash@-g",
            "lodash@-",
            "lodash@ 1",
            "a/b@1",
            "@a@1",
            "@/b@1",
            "@a/@1",
            "lodash==1",
            "lodash@1\n",
            "lodash@1;x",
            "lodash@$(x)",
            "löd@1",
            "é@1",
        ] {
            assert_eq!(Javascript.read(package), None, "{package:?}");
        }
        assert_eq!(Python.read(&format!("{}==1", "a".repeat(limits::PACKAGE))), None);
    }
}
