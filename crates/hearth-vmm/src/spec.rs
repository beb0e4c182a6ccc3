//! What a machine is made of: the values that a caller fills in, each checked where it is built.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::qemu::Qemu;

/// The guest's memory in MiB: 96 to 65,536.
///
/// Debian's kernel and an initramfs need some 80 MiB to boot (seen with 6.1); the upper end only catches slips of the pen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemoryMib(u32);

impl MemoryMib {
    /// The least memory a machine may have, in MiB.
    pub const MIN: u32 = 96;
    /// The most memory a machine may have, in MiB.
    pub const MAX: u32 = 64 * 1024;

    /// Checks an amount of memory given in MiB.
    ///
    /// # Errors
    /// [`InvalidSpec::Memory`] outside of [`MemoryMib::MIN`] to [`MemoryMib::MAX`].
    pub fn new(mib: u32) -> Result<Self, InvalidSpec> {
        if (Self::MIN..=Self::MAX).contains(&mib) { Ok(Self(mib)) } else { Err(InvalidSpec::Memory { mib }) }
    }

    /// Returns the amount in MiB.
    pub fn mib(self) -> u32 {
        self.0
    }

    /// Returns the amount in bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.0) << 20
    }
}

/// The number of virtual processors: 1 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuCount(u8);

impl CpuCount {
    /// One processor.
    pub const ONE: Self = Self(1);
    /// The most processors a machine may have.
    pub const MAX: u32 = 64;

    /// Checks a number of processors.
    ///
    /// # Errors
    /// [`InvalidSpec::Cpus`] for 0 and for more than [`CpuCount::MAX`].
    pub fn new(cpus: u32) -> Result<Self, InvalidSpec> {
        match u8::try_from(cpus) {
            Ok(count) if (1..=Self::MAX).contains(&cpus) => Ok(Self(count)),
            _ => Err(InvalidSpec::Cpus { cpus }),
        }
    }

    /// Returns the number.
    pub fn get(self) -> u32 {
        u32::from(self.0)
    }
}

/// The name of a virtio-serial port, which the guest finds under `/dev/virtio-ports/` and the host as a socket.
///
/// 1 to 32 of ASCII letters, digits, `.`, `-` and `_`, beginning with a letter: it is a part of file names on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortName(String);

impl PortName {
    /// Checks a port's name.
    ///
    /// # Errors
    /// [`InvalidSpec::PortName`] when it breaks the rule above.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidSpec> {
        let name = name.into();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let begins_well = name.starts_with(|c: char| c.is_ascii_alphabetic());
        if begins_well && name.len() <= 32 && name.chars().all(allowed) {
            Ok(Self(name))
        } else {
            Err(InvalidSpec::PortName { name })
        }
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The board that QEMU emulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MachineKind {
    /// `microvm`: virtio-mmio, no PCI; the quicker to boot. The guest's kernel needs `virtio_mmio` and ACPI.
    Microvm,
    /// `pc`: virtio-pci; boots with any distribution's kernel.
    Pc,
}

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Accelerator {
    /// The processor, through `/dev/kvm`.
    Kvm,
    /// QEMU's translator: slower by a factor of 5 to 30, and works everywhere.
    Tcg,
}

/// What a guest's flush of a disk means on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostFlush {
    /// It is passed on: data is on the host's disk when the guest is told so.
    Pass,
    /// It is answered at once: a crash of the *host* may lose what was written. For disks that go with their machine.
    Ignore,
}

/// A disk: a raw image and any number of overlays, opened by the owner and passed to QEMU as descriptors: QEMU itself needs no access to
/// their paths.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The raw image. It is not resized, and only read where there are overlays.
    pub path: PathBuf,
    /// Overlays (see [`crate::create_overlay`]), the lowest first; the last is written, all others are only read.
    pub overlays: Vec<PathBuf>,
    /// The name that the guest reads in `/sys/block/*/serial`; the order in which disks appear is not promised. The
    /// rule is that of [`PortName`], with at most 20 bytes (virtio's limit).
    pub serial: String,
    /// Whether the guest may only read it.
    pub read_only: bool,
    /// What the guest's flushes do.
    pub host_flush: HostFlush,
}

impl Disk {
    /// Its files with whether each is only read, the lowest first.
    pub(crate) fn layers(&self) -> impl Iterator<Item = (&PathBuf, bool)> {
        let last = self.overlays.len();
        let files = [&self.path].into_iter().chain(&self.overlays);
        files.enumerate().map(move |(index, path)| (path, self.read_only || index < last))
    }
}

/// Whether a machine may outlive the process that started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// The kernel kills QEMU at the moment the owner's process ends, however it ends.
    WithOwner,
    /// QEMU goes on, and its sockets go on listening, for another process to take over.
    Detached,
}

/// The program that becomes the jail and then QEMU: any whose `main` calls [`crate::jail::main`] when it is given these
/// arguments, usually the running binary itself.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// The program's absolute path; `/proc/self/exe` names the running one even after it was replaced on disk.
    pub program: PathBuf,
    /// What tells it to be the launcher.
    pub arguments: Vec<OsString>,
}

/// How hard QEMU is to be confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confinement {
    /// Namespaces where the host allows them, else Landlock and seccomp; the report says which.
    #[default]
    Strongest,
    /// Landlock and seccomp only: for hosts where namespaces seem to work and do not, and for testing.
    WithoutNamespaces,
}

/// A machine to start.
#[derive(Clone, Debug)]
pub struct MachineSpec {
    /// An existing directory of the caller's own with mode 0700. The sockets are made here, QEMU gets no access to it;
    /// its name decides the user id that QEMU runs as (see [`crate::jail`]).
    pub directory: PathBuf,
    /// The QEMU to run.
    pub qemu: Qemu,
    /// The board.
    pub kind: MachineKind,
    /// What runs the guest.
    pub accelerator: Accelerator,
    /// The number of virtual processors.
    pub cpus: CpuCount,
    /// The guest's memory.
    pub memory: MemoryMib,
    /// A bzImage, or a `vmlinux` ELF file with a PVH entry (13% less time to boot under TCG).
    pub kernel: PathBuf,
    /// The initial RAM file system.
    pub initramfs: PathBuf,
    /// Words for the kernel's command line, after the machine's own (console, TSC, reboot, mitigations), so that a word
    /// given twice takes the caller's value.
    pub command_line: Vec<String>,
    /// Disks, found in the guest by their serial.
    pub disks: Vec<Disk>,
    /// The virtio-serial ports in order; the first is number 1.
    pub ports: Vec<PortName>,
    /// Whether QEMU may outlive this process.
    pub lifetime: Lifetime,
    /// How hard QEMU is to be confined.
    pub confinement: Confinement,
    /// The program that becomes the jail.
    pub launcher: Launcher,
}

impl MachineSpec {
    /// The most disks of one machine.
    pub const MAX_DISKS: usize = 8;
    /// The most overlays of one disk.
    pub const MAX_OVERLAYS: usize = 16;
    /// The most ports of one machine.
    pub const MAX_PORTS: usize = 16;
    /// The longest kernel command line in bytes, that of x86 (`COMMAND_LINE_SIZE`) less its final zero.
    pub const MAX_COMMAND_LINE: usize = 2047;

    /// Everything that decides whether saved state fits the machine, as text to be hashed: QEMU's arguments and the guest's command line, but
    /// not what lies in files, the build of QEMU, or the host.
    ///
    /// # Errors
    /// [`InvalidSpec::CommandLine`].
    pub fn fingerprint(&self) -> Result<String, InvalidSpec> {
        crate::command_line::fingerprint(self)
    }

    pub(crate) fn check(&self) -> Result<(), InvalidSpec> {
        check_distinct(&self.ports)?;
        check_disks(&self.disks)?;
        self.command_line.iter().try_for_each(|word| check_word(word))
    }
}

fn check_distinct(ports: &[PortName]) -> Result<(), InvalidSpec> {
    if ports.len() > MachineSpec::MAX_PORTS {
        return Err(InvalidSpec::TooManyPorts { count: ports.len() });
    }
    let repeated = ports.iter().enumerate().find(|(index, name)| ports[..*index].contains(name));
    match repeated {
        Some((_, name)) => Err(InvalidSpec::PortTwice { name: name.0.clone() }),
        None => Ok(()),
    }
}

fn check_disks(disks: &[Disk]) -> Result<(), InvalidSpec> {
    if disks.len() > MachineSpec::MAX_DISKS {
        return Err(InvalidSpec::TooManyDisks { count: disks.len() });
    }
    for (index, disk) in disks.iter().enumerate() {
        let well_formed = disk.serial.len() <= 20 && PortName::new(disk.serial.as_str()).is_ok();
        let new = disks[..index].iter().all(|other| other.serial != disk.serial);
        if !well_formed || !new {
            return Err(InvalidSpec::DiskSerial { serial: disk.serial.clone() });
        }
        if disk.overlays.len() > MachineSpec::MAX_OVERLAYS {
            return Err(InvalidSpec::TooManyOverlays { count: disk.overlays.len() });
        }
    }
    Ok(())
}

fn check_word(word: &str) -> Result<(), InvalidSpec> {
    let printable = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if printable { Ok(()) } else { Err(InvalidSpec::KernelWord { word: word.to_owned() }) }
}

/// A machine that cannot be, found before anything was created. Names the field and its rule.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidSpec {
    /// Memory out of range.
    #[error("memory of {mib} MiB: must be {} to {} MiB", MemoryMib::MIN, MemoryMib::MAX)]
    Memory {
        /// What was asked for.
        mib: u32,
    },
    /// Processors out of range.
    #[error("{cpus} cpus: must be 1 to {}", CpuCount::MAX)]
    Cpus {
        /// What was asked for.
        cpus: u32,
    },
    /// A port's name that cannot be a file's.
    #[error("port name {name:?}: must be a letter and up to 31 letters, digits, '.', '-' or '_'")]
    PortName {
        /// What was asked for.
        name: String,
    },
    /// Two ports of one name.
    #[error("port name {name:?} is given twice")]
    PortTwice {
        /// The name.
        name: String,
    },
    /// More ports than a machine takes.
    #[error("{count} ports: must be at most {}", MachineSpec::MAX_PORTS)]
    TooManyPorts {
        /// What was asked for.
        count: usize,
    },
    /// More disks than a machine takes.
    #[error("{count} disks: must be at most {}", MachineSpec::MAX_DISKS)]
    TooManyDisks {
        /// What was asked for.
        count: usize,
    },
    /// More overlays than a disk takes.
    #[error("{count} overlays of a disk: must be at most {}", MachineSpec::MAX_OVERLAYS)]
    TooManyOverlays {
        /// What was asked for.
        count: usize,
    },
    /// A disk's serial that is ill-formed or not its own.
    #[error(
        "disk serial {serial:?}: must be a letter and up to 19 letters, digits, '.', '-' or '_', and no other disk's"
    )]
    DiskSerial {
        /// What was asked for.
        serial: String,
    },
    /// A kernel word that is empty or not printable ASCII.
    #[error("kernel command line word {word:?}: must be printable ASCII and not empty")]
    KernelWord {
        /// What was asked for.
        word: String,
    },
    /// The command line is longer than the kernel reads.
    #[error("kernel command line of {length} bytes: must be at most {}", MachineSpec::MAX_COMMAND_LINE)]
    CommandLine {
        /// Its length in bytes.
        length: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_cpus_keep_their_limits() {
        assert!(MemoryMib::new(95).is_err() && MemoryMib::new(65_537).is_err());
        assert_eq!(MemoryMib::new(512).unwrap().bytes(), 536_870_912);
        assert!(CpuCount::new(0).is_err() && CpuCount::new(65).is_err() && CpuCount::new(u32::MAX).is_err());
        assert_eq!(CpuCount::new(64).unwrap().get(), 64);
    }

    #[test]
    fn port_names_are_safe_in_file_names_and_option_strings() {
        for bad in ["", ".", "../x", "a/b", "a,b", "a b", "1a", "é", &"a".repeat(33)] {
            assert!(PortName::new(bad).is_err(), "{bad:?} was taken");
        }
        assert!(PortName::new("hearth.control-0_1").is_ok());
    }

    #[test]
    fn repeated_ports_and_serials_are_refused() {
        let name = PortName::new("a").unwrap();
        assert_eq!(check_distinct(&[name.clone(), name]), Err(InvalidSpec::PortTwice { name: "a".into() }));
        let disk = |serial: &str| Disk {
            path: "/d".into(),
            overlays: Vec::new(),
            serial: serial.into(),
            read_only: true,
            host_flush: HostFlush::Ignore,
        };
        assert!(check_disks(&[disk("root"), disk("scratch")]).is_ok());
        assert!(check_disks(&[disk("root"), disk("root")]).is_err());
        assert!(check_disks(&[disk("a,readonly=off")]).is_err());
    }

    #[test]
    fn kernel_words_hold_no_line_ends() {
        assert!(check_word("hearth.dns=1.1.1.1").is_ok());
        assert!(check_word("a\nb").is_err() && check_word("").is_err());
    }
}
