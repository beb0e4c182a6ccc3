//! What the tests share: a directory for a machine, a spec to start from, and ways to look at processes.

use std::fs::Permissions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_vmm::{
    Accelerator, Confinement, CpuCount, Launcher, Lifetime, Machine, MachineError, MachineKind, MachineSpec, MemoryMib,
    Qemu,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tempfile::TempDir;

use crate::guest::{self, Then};

pub(crate) const LAUNCHER: &str = env!("CARGO_BIN_EXE_hearth-jail");
pub(crate) const LINE: &str = "hello from the guest\n";
/// What the names of the tests' own directories begin with.
pub(crate) const PREFIX: &str = "hearth-vmm-test-";
/// Nobody; a user who owns nothing.
pub(crate) const OTHER_USER: u32 = 65_534;

pub(crate) const KINDS: [MachineKind; 2] = [MachineKind::Microvm, MachineKind::Pc];
pub(crate) const CONFINEMENTS: [Confinement; 2] = [Confinement::Strongest, Confinement::WithoutNamespaces];

/// A machine's directory, and beside it one that every user may read.
pub(crate) struct Home {
    root: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        let root =
            tempfile::Builder::new().prefix(PREFIX).permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
        let home = Self { root };
        std::fs::create_dir(home.machine()).unwrap();
        std::fs::set_permissions(home.machine(), Permissions::from_mode(0o700)).unwrap();
        home
    }

    pub(crate) fn machine(&self) -> PathBuf {
        self.root.path().join("machine")
    }

    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.root.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// A program in QEMU's place, alone in its directory: what lies beside an installed QEMU may be read in its jail.
    pub(crate) fn program(&self, content: &[u8]) -> PathBuf {
        std::fs::create_dir_all(self.root.path().join("programs")).unwrap();
        self.file("programs/qemu", content)
    }

    /// A spec of a guest that says [`LINE`] and goes on.
    pub(crate) fn spec(&self, kind: MachineKind) -> MachineSpec {
        let kernel = self.file("kernel", &guest::elf(LINE, Then::Spin));
        MachineSpec {
            directory: self.machine(),
            qemu: Qemu::find(None).unwrap(),
            kind,
            accelerator: Accelerator::Tcg,
            cpus: CpuCount::ONE,
            memory: MemoryMib::new(MemoryMib::MIN).unwrap(),
            initramfs: kernel.clone(),
            kernel,
            command_line: Vec::new(),
            disks: Vec::new(),
            ports: Vec::new(),
            lifetime: Lifetime::WithOwner,
            confinement: Confinement::Strongest,
            launcher: Launcher { program: LAUNCHER.into(), arguments: Vec::new() },
        }
    }

    /// What is left in the machine's directory.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.machine()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }
}

/// Waits until the console holds a text; fails with what it holds when the machine ends or falls silent for long.
pub(crate) async fn console_says(machine: &Machine, text: &str) {
    let mut progress = machine.console().progress();
    let seen = async {
        while !String::from_utf8_lossy(&machine.console().tail()).contains(text) {
            if progress.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = seen => {}
        exit = machine.exited() => panic!("ended: {}", String::from_utf8_lossy(&exit.console)),
        stall = machine.boot_stalled(PATIENCE, PATIENCE) => panic!("{stall}"),
    }
}

/// Far more than anything here takes; only a fault waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(100);

pub(crate) async fn start_error(spec: MachineSpec) -> MachineError {
    match Machine::start(spec).await {
        Ok(machine) => panic!("started, with {:?}", machine.jail()),
        Err(error) => error,
    }
}

/// An error with all its sources.
pub(crate) fn full_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

pub(crate) fn process_exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// A handle to a process, taken while it is known to live.
pub(crate) fn handle(pid: u32) -> OwnedFd {
    pidfd_open(Pid::from_raw(pid as i32).unwrap(), PidfdFlags::empty()).unwrap()
}

/// Waits until a process has ended.
pub(crate) fn wait_for_end(process: &OwnedFd) {
    let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let ended = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit)).unwrap();
    assert_eq!(ended, 1, "the process lives on");
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Mounts of jails that the host would still see.
pub(crate) fn jail_mounts() -> usize {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap().matches("hearth-jail").count()
}

/// A field of `/proc/PID/status`.
pub(crate) fn status_field(pid: u32, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}
