//! What code, variables, paths and packages must hold to.

use hearth_protocol::limits;
use hearth_protocol::packages::PackageLanguage;

use super::{CODE, ErrorType, Language, Refusal};

/// The longest name of a variable, in bytes.
const NAME: usize = 256;
/// The longest value of a variable, in bytes.
const VALUE: usize = 4096;
/// The longest path, in bytes.
const PATH: usize = 4096;
/// The longest part of a path, in bytes.
const PART: usize = 255;

/// Variables that would change how the loader, the C library, an interpreter or the shell itself works.
const REFUSED: &[&str] = &[
    // What the C library itself does not take from the environment of a program with more rights.
    "GCONV_PATH",
    "GETCONF_DIR",
    "GLIBC_TUNABLES",
    "HOSTALIASES",
    "LOCALDOMAIN",
    "LOCPATH",
    "NIS_PATH",
    "NLSPATH",
    "RESOLV_HOST_CONF",
    "RES_OPTIONS",
    "TMPDIR",
    "TZDIR",
    // The shells.
    "BASHOPTS",
    "BASH_ENV",
    "CDPATH",
    "ENV",
    "GLOBIGNORE",
    "IFS",
    "PATH",
    "PROMPT_COMMAND",
    "PS4",
    "SHELLOPTS",
    // The interpreters.
    "NODE_OPTIONS",
    "NODE_PATH",
    "PERL5LIB",
    "PERL5OPT",
    "PYTHONBREAKPOINT",
    "PYTHONEXECUTABLE",
    "PYTHONHOME",
    "PYTHONINSPECT",
    "PYTHONPATH",
    "PYTHONPLATLIBDIR",
    "PYTHONSTARTUP",
    "PYTHONUSERBASE",
    "PYTHONWARNINGS",
    "RUBYLIB",
    "RUBYOPT",
];

/// How the names of whole families of such variables begin.
const REFUSED_FAMILIES: &[&str] = &["LD_", "MALLOC_", "BASH_FUNC_"];

/// Checks code, and returns it without the byte order mark that an editor may have left before it.
pub(super) fn check_code(code: &str) -> Result<&str, Refusal> {
    let refuse = |message: String| Err(Refusal::new(ErrorType::Code, message));
    let code = code.strip_prefix('\u{feff}').unwrap_or(code);
    if code.trim().is_empty() {
        return refuse("Code cannot be empty".into());
    }
    if code.len() > CODE {
        return refuse(format!("the code has {} bytes, over the limit of {CODE}", code.len()));
    }
    match code.bytes().position(|byte| byte == 0) {
        Some(at) => refuse(format!("the code has a NUL at byte {at}")),
        None => Ok(code),
    }
}

/// Checks a variable of an exec.
pub(super) fn check_variable(language: Language, name: &str, value: &str) -> Result<(), Refusal> {
    let refuse = |message: String| Err(Refusal::new(ErrorType::EnvVar, message));
    let is_bad = |character: char| character.is_control() && character != '\t';
    if name.is_empty() || name.len() > NAME {
        return refuse(format!("a variable's name has {} bytes: it has 1 to {NAME}", name.len()));
    }
    if name.contains('=') || name.contains(is_bad) {
        return refuse(format!("the variable {name:?} has a '=' or a control character in its name"));
    }
    if language == Language::Raw && !is_identifier(name) {
        return refuse(format!("the variable {name:?} is none that a shell can have: letters, digits and '_'"));
    }
    if value.len() > VALUE {
        return refuse(format!("the variable {name:?} has {} bytes, over the limit of {VALUE}", value.len()));
    }
    if value.contains(is_bad) {
        return refuse(format!("the variable {name:?} has a control character in its value"));
    }
    // In any case: some of what reads them does not care.
    let upper = name.to_ascii_uppercase();
    if REFUSED.contains(&upper.as_str()) || REFUSED_FAMILIES.iter().any(|family| upper.starts_with(family)) {
        return refuse(format!("the variable {name:?} is not for clients to set: it changes how programs are run"));
    }
    Ok(())
}

fn is_identifier(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Checks a path by its text. Whether it leads out through a link, the kernel finds when it is used.
pub(super) fn check_path(path: &str) -> Result<(), Refusal> {
    let refuse = |message: String| Err(Refusal::new(ErrorType::Path, message));
    if path.len() > PATH {
        return refuse(format!("the path has {} bytes, over the limit of {PATH}", path.len()));
    }
    if path.contains(char::is_control) {
        return refuse(format!("the path {path:?} has a control character"));
    }
    if path.starts_with('/') {
        return refuse(format!("the path {path:?} is absolute: paths are relative to the home directory"));
    }
    if let Some(part) = path.split('/').find(|part| part.len() > PART) {
        return refuse(format!("a part of the path has {} bytes, over the limit of {PART}", part.len()));
    }
    let climb = path.split('/').try_fold(0_usize, |depth, part| match part {
        "" | "." => Some(depth),
        ".." => depth.checked_sub(1),
        _ => Some(depth + 1),
    });
    match climb {
        Some(_) => Ok(()),
        None => refuse(format!("the path {path:?} leads out of the home directory")),
    }
}

/// Checks a package and the version that it must name: a name in a registry and no more, neither an option, nor a path, nor an address.
pub(super) fn check_package(language: PackageLanguage, package: &str) -> Result<(), Refusal> {
    let refuse = |rule: &str| Err(Refusal::new(ErrorType::Package, format!("the package {package:?} {rule}")));
    if package.is_empty() || package.len() > limits::PACKAGE {
        return refuse(&format!("has {} bytes: it has 1 to {}", package.len(), limits::PACKAGE));
    }
    if package.starts_with('-') {
        return refuse("is an option");
    }
    // An "@" before all else begins a scope.
    if !package.chars().skip(1).any(|character| "=><~@".contains(character)) {
        return refuse("names no version: ==, >=, ~ or @");
    }
    match (language.read(package), language) {
        (Some(_), _) => Ok(()),
        (None, PackageLanguage::Python) => refuse("is not a name with a version, such as numpy==2.1 or six>=1.16,<2"),
        (None, PackageLanguage::Javascript) => refuse("is not a name with a version, such as lodash@^4.17"),
    }
}
