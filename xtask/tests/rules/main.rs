//! Rules that the compiler does not know: which crate may know which, who owns a technology, what may be depended on at all.

#![allow(clippy::panic, clippy::print_stderr, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What each crate may know of the others, in the product. Arrows go down only; the agent knows nothing of the host's end.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("hearth-protocol", &[]),
    ("hearth-files", &["hearth-protocol"]),
    ("hearth-socket", &[]),
    ("hearth-agent", &["hearth-protocol", "hearth-files", "hearth-socket"]),
    ("hearth-channel", &["hearth-protocol", "hearth-socket"]),
    ("hearth-vmm", &[]),
    ("hearth-image", &[]),
    ("hearth-engine", &["hearth-protocol", "hearth-channel", "hearth-vmm", "hearth-image"]),
    ("hearth-api", &["hearth-protocol"]),
    ("hearth-client", &["hearth-api"]),
    ("hearth-mcp", &["hearth-client"]),
    ("hearth-server", &["hearth-api", "hearth-client", "hearth-engine", "hearth-mcp"]),
    ("hearth", &["hearth-files", "hearth-engine", "hearth-client", "hearth-mcp", "hearth-server"]),
    ("xtask", &["hearth-protocol", "hearth-channel", "hearth-vmm", "hearth-image", "hearth-engine", "hearth-client"]),
];

/// The one or two crates that may use a technology.
const OWNERS: &[(&str, &[&str])] = &[
    ("clap", &["hearth", "xtask"]),
    ("clap_complete", &["hearth"]),
    ("clap_mangen", &["hearth"]),
    ("indicatif", &["hearth"]),
    ("jsonc-parser", &["hearth"]),
    ("toml_edit", &["hearth"]),
    ("rmcp", &["hearth-mcp"]),
    ("ignore", &["hearth-files"]),
    ("regex", &["hearth-files"]),
    ("anyhow", &["xtask"]),
    ("axum", &["hearth-server"]),
    ("tower-service", &["hearth-server"]),
    ("hyper", &["hearth-client", "hearth-server"]),
    ("hyper-util", &["hearth-client", "hearth-server"]),
    ("tokio-tungstenite", &["hearth-client"]),
    ("tokio-rustls", &["hearth-client", "hearth-server"]),
    ("schemars", &["hearth-protocol", "hearth-api", "hearth-server", "hearth-mcp"]),
    ("rcgen", &["hearth-server"]),
    ("tracing", &["hearth-engine", "hearth-server"]),
    ("tracing-subscriber", &["hearth-server"]),
    ("tracing-opentelemetry", &["hearth-server"]),
    ("opentelemetry", &["hearth-server"]),
    ("opentelemetry-http", &["hearth-server"]),
    ("opentelemetry-otlp", &["hearth-server"]),
    ("opentelemetry_sdk", &["hearth-server"]),
    ("subtle", &["hearth-server"]),
    ("landlock", &["hearth-vmm"]),
    ("seccompiler", &["hearth-vmm"]),
    ("flate2", &["hearth-image", "hearth-files"]),
    ("imara-diff", &["hearth-files"]),
    ("sha1", &["hearth-files"]),
    ("bzip2", &["hearth-files"]),
    ("zstd", &["hearth-files", "hearth-engine"]),
    ("rusqlite", &["hearth-engine"]),
    ("ruzstd", &["hearth-image"]),
    ("lzma-rust2", &["hearth-image", "hearth-files"]),
    ("vte", &["hearth-agent"]),
    ("unicode-width", &["hearth-agent"]),
    ("tokio-vsock", &["hearth-agent", "hearth-channel"]),
];

/// Never, directly or not: the reason stands behind each.
const BANNED: &[(&str, &str)] = &[
    ("tokio-tar", "CVE-2025-62518, and nobody mends it"),
    ("openssl-sys", "a C library of the host's would come along"),
    ("native-tls", "a C library of the host's would come along"),
    ("serde_yml", "unsound and abandoned"),
];

/// Licences that a program under Apache-2.0 may be made of.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
    "0BSD",
    "CC0-1.0",
    "BSL-1.0",
    "bzip2-1.0.6",
];

const LONGEST_FILE: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The workspace's crates with what each depends on in the product: not for tests alone.
fn members(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let local = array(metadata, "packages").iter().filter(|package| package["source"].is_null());
    let direct = |package: &Value| {
        let product = array(package, "dependencies").iter().filter(|dependency| dependency["kind"] != "dev");
        product.map(|dependency| dependency["name"].as_str().unwrap().to_owned()).collect()
    };
    local.map(|package| (package["name"].as_str().unwrap().to_owned(), direct(package))).collect()
}

#[test]
fn crates_know_only_those_below_them() {
    let members = members(&metadata());
    let allowed: BTreeMap<&str, &[&str]> = MAY_KNOW.iter().copied().collect();
    for (name, dependencies) in &members {
        let allowed =
            allowed.get(name.as_str()).unwrap_or_else(|| panic!("{name} has no place in the table of levels"));
        for dependency in dependencies.iter().filter(|dependency| members.contains_key(*dependency)) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not know {dependency}");
        }
    }
}

#[test]
fn each_technology_has_its_owner() {
    for (name, dependencies) in members(&metadata()) {
        for (technology, owners) in OWNERS.iter().filter(|(technology, _)| dependencies.contains(*technology)) {
            assert!(owners.contains(&name.as_str()), "{name} uses {technology}, which is for {owners:?}");
        }
    }
}

#[test]
fn the_wire_does_no_io() {
    let members = members(&metadata());
    let protocol = &members["hearth-protocol"];
    for io in ["tokio", "rustix", "libc", "nix"] {
        assert!(!protocol.contains(io), "hearth-protocol uses {io}");
    }
}

#[test]
fn everything_comes_from_the_registry_under_a_fitting_licence_and_nothing_is_banned() {
    let metadata = metadata();
    for package in array(&metadata, "packages") {
        let name = package["name"].as_str().unwrap();
        let source = package["source"].as_str().unwrap_or("local");
        assert!(source == "local" || source.starts_with("registry+"), "{name} comes from {source}");
        let licence = package["license"].as_str().unwrap_or_else(|| panic!("{name} names no licence"));
        assert!(is_fitting(licence), "{name} is under {licence}");
        let banned = BANNED.iter().find(|(banned, _)| *banned == name);
        assert!(banned.is_none(), "{banned:?}");
    }
}

/// Reads an SPDX expression of the plain kind: of alternatives one must fit, of conjunctions all.
fn is_fitting(licence: &str) -> bool {
    let plain = licence.replace(['(', ')'], "").replace('/', " OR ");
    plain.split(" OR ").any(|choice| choice.split(" AND ").all(|one| LICENCES.contains(&one.trim())))
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path());
    let nested = |path: PathBuf| if path.is_dir() { sources(&path) } else { vec![path] };
    let is_source = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    entries.flat_map(nested).filter(is_source).collect()
}

fn product_sources() -> Vec<PathBuf> {
    let crates = fs::read_dir(root().join("crates")).unwrap().flatten().map(|entry| entry.path().join("src"));
    crates.chain([root().join("xtask/src")]).flat_map(|directory| sources(&directory)).collect()
}

#[test]
fn unsafe_code_lives_in_sys_modules_only() {
    for path in product_sources() {
        let in_sys = path.file_name().is_some_and(|name| name == "sys.rs")
            || path.components().any(|part| part.as_os_str() == "sys");
        let text = fs::read_to_string(&path).unwrap();
        assert!(in_sys || !text.contains("allow(unsafe_code"), "{} allows unsafe code", path.display());
    }
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    for path in product_sources() {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= LONGEST_FILE, "{} has {lines} lines: give it a second room", path.display());
    }
}
