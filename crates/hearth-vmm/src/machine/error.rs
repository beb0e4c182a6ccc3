//! What can go wrong with a machine.

use std::io;
use std::path::PathBuf;

use crate::console::Stall;
use crate::launch::LaunchError;
use crate::machine::Exit;
use crate::qmp::QmpError;
use crate::saved::DeltaError;
use crate::sockets::SocketError;
use crate::spec::InvalidSpec;

/// Why a machine does not run.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The spec cannot be.
    #[error("the machine cannot be as asked for")]
    Spec(#[from] InvalidSpec),
    /// A file that the machine needs could not be opened.
    #[error("cannot open the {what} {}", path.display())]
    Open {
        /// What it is: `kernel`, `initramfs`, `disk`.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that the machine needs is a directory, a device or something else.
    #[error("the {what} {} is not a regular file", path.display())]
    NotAFile {
        /// What it is: `kernel`, `initramfs`, `disk`.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
    },
    /// The guest's memory could not be set up.
    #[error("cannot set up {mib} MiB of guest memory")]
    Memory {
        /// The amount.
        mib: u32,
        /// Why.
        source: io::Error,
    },
    /// A socket could not be made, reached or trusted.
    #[error("a socket of the machine cannot be used")]
    Socket(#[from] SocketError),
    /// QEMU could not be started in its jail.
    #[error("QEMU could not be started in its jail")]
    Launch(#[from] LaunchError),
    /// The operating system refused something small.
    #[error("cannot {doing}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The machine ended before it was ready: QEMU refused what it was given, or its guest panicked.
    #[error("the machine ended before it was ready{}{}", status(.0), last_words(.0))]
    Died(Box<Exit>),
    /// There is no machine to take over: the one that is noted has ended, or was never whole.
    #[error("the machine is gone")]
    Gone,
    /// A machine cannot be taken over.
    #[error("cannot take over the machine in {}", directory.display())]
    Adopt {
        /// Its directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// QEMU could not be controlled.
    #[error("QEMU cannot be controlled")]
    Control(#[from] QmpError),
    /// Saved state of one size for a machine of another.
    #[error("saved state of a machine with {saved} MiB does not fit one with {spec} MiB")]
    SavedSize {
        /// The saved machine's memory in MiB.
        saved: u64,
        /// The spec's memory in MiB.
        spec: u32,
    },
    /// A guest that is to go on in a QEMU that was started ahead, and lies on other memory than that has.
    #[error("the QEMU that waits has another template's memory than the guest lies on")]
    OtherMemory,
    /// A machine that is to begin as another one's checkpoint, and has other disks or ports than that.
    #[error("the checkpoint is of a machine with other disks or ports")]
    OtherCheckpoint,
    /// Only a QEMU with a process namespace of its own can be one for others to become: its threads' numbers must be the same.
    #[error("this host allows QEMU no process namespace of its own, which a checkpoint needs")]
    NoNamespaces,
    /// What a machine's QEMU is cannot be written down.
    #[error("cannot take a checkpoint of QEMU")]
    Checkpoint {
        /// Why.
        source: io::Error,
    },
    /// The machine was restored: its memory is a template's already.
    #[error("the machine was started from a template and cannot become one")]
    AlreadyRestored,
    /// The guest's memory could not be read or written from outside.
    #[error("cannot read or write the memory of a running guest")]
    GuestMemory {
        /// Why.
        source: io::Error,
    },
    /// The pages that the guest had changed are not what was written, or cannot be read. The guest has not gone on.
    #[error("cannot load the memory {}", path.display())]
    Changes {
        /// Where they are.
        path: PathBuf,
        /// Why.
        source: DeltaError,
    },
    /// QEMU's own state is empty, or larger than any that was seen.
    #[error("QEMU saved {bytes} bytes of device state: 1 to {} are taken", crate::saved::MAX_DEVICE_STATE)]
    DeviceState {
        /// Its size in bytes.
        bytes: u64,
    },
    /// The memory of a template could not be made.
    #[error("the memory of a template cannot be made")]
    Ram(#[from] crate::saved::RamError),
    /// The guest stopped speaking before it was ready.
    #[error("the guest {} for {} s while booting{}", silence(stall), stall.silent_for.as_secs(), said(console))]
    Stalled {
        /// How far it came.
        stall: Stall,
        /// The last of its console, raw.
        console: Vec<u8>,
    },
}

impl MachineError {
    /// Whether a machine was refused for its checkpoint's sake, and may start without it.
    pub fn is_checkpoints(&self) -> bool {
        match self {
            Self::OtherCheckpoint => true,
            Self::Launch(LaunchError::Launch { failure, .. }) => failure.is_checkpoints(),
            _ => false,
        }
    }
}

fn status(exit: &Exit) -> String {
    exit.status.map(|status| format!(" ({status})")).unwrap_or_default()
}

/// QEMU's, or else those of the guest that it ended with.
fn last_words(exit: &Exit) -> String {
    let qemu = said(&exit.stderr);
    if qemu.is_empty() { said(&exit.console) } else { qemu }
}

fn silence(stall: &Stall) -> &'static str {
    if stall.bytes_seen == 0 { "said nothing at all" } else { "fell silent" }
}

/// The last lines of somebody's output, made safe for a terminal.
fn said(bytes: &[u8]) -> String {
    const LINES: usize = 8;
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    if last.is_empty() {
        return String::new();
    }
    let safe = last.iter().map(|line| line.trim_end().chars().take(300).flat_map(escape_control).collect::<String>());
    format!(": {}", safe.collect::<Vec<_>>().join(" | "))
}

fn escape_control(c: char) -> impl Iterator<Item = char> {
    let escaped = c.is_control().then(|| c.escape_default());
    let plain = (!c.is_control()).then_some(c);
    escaped.into_iter().flatten().chain(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_output_in_a_message_is_its_escaped_end() {
        let text = said(b"one\r\n\x1b[2Jtwo\r\n\r\n");
        assert_eq!(text, ": one | \\u{1b}[2Jtwo");
        let many: Vec<u8> = (0..100).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        assert!(said(&many).starts_with(": line 92 | ") && said(&many).ends_with("line 99"));
        assert_eq!(said(b"\r\n"), "");
    }
}
