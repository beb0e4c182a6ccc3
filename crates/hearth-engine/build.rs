//! Builds the guest agent as a static program, which the engine carries inside it.
//!
//! Cargo cannot yet depend on another crate's binary for another set of flags, so this calls cargo again, with a target
//! directory of its own: the outer build holds the lock of the usual one. It is the same for every kind of outer build, so that
//! checks, tests and releases share what is built there. `HEARTH_AGENT=FILE` uses a program that was built elsewhere.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The agent's profiles: small for a release, quick to build for all else.
const RELEASED: &str = "agent";
const TRIED: &str = "agent-dev";

fn main() {
    println!("cargo:rerun-if-env-changed=HEARTH_AGENT");
    let agent = match env::var_os("HEARTH_AGENT") {
        Some(path) => PathBuf::from(path),
        None => build_agent(),
    };
    println!("cargo:rerun-if-changed={}", agent.display());
    println!("cargo:rustc-env=HEARTH_AGENT_PATH={}", agent.display());
    let program = std::fs::read(&agent).expect("the agent is there");
    let digest: String = Sha256::digest(program).iter().map(|byte| format!("{byte:02x}")).collect();
    println!("cargo:rustc-env=HEARTH_AGENT_SHA256={digest}");
}

fn build_agent() -> PathBuf {
    let crates = Path::new(&env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("..");
    for source in [
        "hearth-agent/src",
        "hearth-agent/Cargo.toml",
        "hearth-files/src",
        "hearth-files/Cargo.toml",
        "hearth-protocol/src",
        "hearth-protocol/Cargo.toml",
        "hearth-socket/src",
        "hearth-socket/Cargo.toml",
        "../Cargo.toml",
        "../Cargo.lock",
    ] {
        println!("cargo:rerun-if-changed={}", crates.join(source).display());
    }
    let profile = if env::var("PROFILE").is_ok_and(|profile| profile == "release") { RELEASED } else { TRIED };
    // OUT_DIR is TARGET/PROFILE/build/PACKAGE-HASH/out.
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let target_directory = out.ancestors().nth(4).expect("cargo's layout").join("agent");
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets it"));
    // What cargo and clippy tell a build script about the outer build must not leak into this one.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let inner = ["CARGO_HOME", "CARGO_MAKEFLAGS", "CARGO_NET_OFFLINE", "CARGO_HTTP_CAINFO"].contains(&&*text);
        if (text.starts_with("CARGO_") && !inner) || text.starts_with("RUSTC") || text == "RUSTFLAGS" {
            cargo.env_remove(&name);
        }
    }
    let status = cargo
        .args(["build", "--locked", "--package", "hearth-agent", "--profile", profile, "--target", TARGET])
        .arg("--manifest-path")
        .arg(crates.join("hearth-agent/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_directory)
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static")
        .status()
        .expect("cargo can be started");
    assert!(status.success(), "the guest agent does not build");
    target_directory.join(TARGET).join(profile).join("hearth-agent")
}
