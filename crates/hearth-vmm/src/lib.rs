//! A machine: QEMU, jailed and driven over QMP.
//!
//! The engine builds a [`MachineSpec`], starts a [`Machine`] from it, and talks to the guest through the machine's ports, which
//! are Unix sockets that it connects to itself. This crate knows nothing of what is said there.
//!
//! Start reading at [`Machine::start`] (`machine/start.rs`), which makes the sockets and the command line, has
//! the launcher build the [`jail`], and takes hold of control ([`Qmp`]) and console ([`Console`]) before the guest runs.
//!
//! What must stay true:
//! - Nothing waits by polling: sockets listen before QEMU exists, ends are seen by pidfd, progress by watch channels.
//! - QEMU is given descriptors, never paths of ours; it has no writable directory, no network and no device that it need not have.
//! - What comes from QEMU or its guest is bounded and never trusted.
//! - No QEMU outlives its [`Machine`] unless the caller has said so.

mod areas;
mod checkpoint;
mod command_line;
mod console;
pub mod jail;
mod kvm;
mod launch;
mod load;
mod machine;
mod memory;
mod overlay;
mod process;
mod qemu;
mod qmp;
mod saved;
mod sockets;
mod spec;
mod sys;
mod tsc;

pub use checkpoint::Checkpoint;
pub use command_line::hardware;
pub use console::{CONSOLE_TAIL, Console, Stall};
pub use kvm::{KvmStatus, kvm_status};
pub use launch::LaunchError;
pub use load::Load;
pub use machine::{
    Adoption, Exit, Machine, MachineError, PreparedCapture, PreparedOverlay, PreparedRunning, STDERR_TAIL, Standby,
    end_noted, noted_ram,
};
pub use memory::HostMemory;
pub use overlay::create_overlay;
pub use qemu::{Qemu, QemuError, QemuProgram, QemuVersion};
pub use qmp::{CloseReason, DEFAULT_TIMEOUT, MAX_LINE, Qmp, QmpError, QmpEvent};
pub use saved::{
    Changes, Delta, DeltaError, MAX_DEVICE_STATE, PAGE, RamError, Resting, Run, SavedMachine, SealedRam, read_pages,
};
pub use sockets::{MAX_SOCKET_PATH, SocketError};
pub use spec::{
    Accelerator, Confinement, CpuCount, Disk, HostFlush, InvalidSpec, Launcher, Lifetime, MachineKind, MachineSpec,
    MemoryMib, PortName,
};
pub use tsc::host_tsc_khz;
