//! QEMU's command line, and the kernel's. Pure: what is said here was found by trying, and the figures say with what gain.
//!
//! All figures are from Debian's 6.1 cloud kernel with QEMU 7.2 under TCG on two busy cores of a server of 2024: processor
//! seconds of QEMU, the least of five to seven interleaved runs, until the guest's first process speaks.
//!
//! | `-cpu` (microvm) | boot | 150 × fork and exec | |
//! |---|---|---|---|
//! | `max` | 2.14 | 0.60 | with an initramfs of 21 MB to unpack 3.24, against 2.54 with the model below |
//! | `qemu64,+rdrand` | 2.00 | 0.49 | |
//! | the model below | 1.94 | 0.45 | x86-64-v2, which many binary packages for Python need |
//!
//! | with that model | boot | |
//! |---|---|---|
//! | microvm | 2.02 | |
//! | microvm, with `cryptomgr.notests` and other words | 1.75 | the kernel's tests of its ciphers are 0.29 of it; that one was taken |
//! | microvm, uncompressed kernel (ELF, PVH) | 1.73 | the caller's choice: it gives up the kernel's random placement |
//! | microvm, two processors | 2.46 | |
//! | microvm, `rtc=off` | 4.04 | the kernel searches for a clock |
//! | microvm, `pit=off,pic=off` | 2.05 | no gain, but see below |
//! | pc | 2.34 | |
//! | pc, uncompressed kernel | 2.13 | |
//!
//! | restored and idle (microvm) | milliseconds of a processor in a second | a sleep of 1 ms takes |
//! |---|---|---|
//! | the model without `arat` | 33 | 4 ms: the kernel takes its timer for one that stops with the processor, and so ticks 250 times a second, always |
//! | with `arat` | 5.3 | 1.2 ms |
//! | with `pit=off` too | 2.3 | 1.2 ms; the PIT, which no kernel for this board uses, woke QEMU 73 times a second |

use std::os::fd::RawFd;

use crate::spec::{Accelerator, HostFlush, InvalidSpec, MachineKind, MachineSpec};
use crate::sys;
use crate::tsc::host_tsc_khz;

/// The emulated processor: x86-64-v2, with a timer that goes on while it halts. Every feature beyond costs time at each switch of process.
/// Random numbers it has none: QEMU makes them with a generator of its own, which all that come from one checkpoint would share.
const TCG_CPU: &str = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+lahf_lm,+arat";
/// The translation cache in MiB, of which what a checkpoint begins with takes some 50. QEMU's own choice is up to a GiB of address space and
/// grows with it.
pub(crate) const TRANSLATION_CACHE_MIB: u64 = 192;
/// The first QEMU that was not found to translate a library again wherever it is mapped next. QEMU 7.2 does: of the 15,800 instructions
/// that a second `true` had translated, 10,700 were the C library's and its loader's once more, and 5,400 in all are left where every
/// program maps them at one place (`norandmaps`). Given up is that a guest's programs cannot guess where each other's code is.
const MOVES_TRANSLATIONS: u32 = 8;
/// What the guest may not do to this host even if QEMU's device models let it: QEMU's own filter of system calls.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// What the command line depends on beside the spec.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Host {
    pub(crate) tsc_khz: u32,
    /// Whether its processors are Intel's.
    pub(crate) intel: bool,
}

impl Host {
    /// Looks at this host.
    pub(crate) fn this() -> Self {
        Self { tsc_khz: host_tsc_khz(), intel: is_intel(sys::cpuid) }
    }
}

/// The numbers that QEMU finds its descriptors under.
#[derive(Debug, Clone)]
pub(crate) struct Descriptors {
    pub(crate) qmp: RawFd,
    pub(crate) console: RawFd,
    pub(crate) ports: Vec<RawFd>,
    pub(crate) memory: RawFd,
    pub(crate) guest: GuestSource<RawFd>,
    /// Those of each disk's layers.
    pub(crate) disks: Vec<Vec<RawFd>>,
}

/// Where a guest comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GuestSource<T> {
    /// It boots from these.
    Boot { kernel: T, initramfs: T },
    /// It goes on from saved state, which is read from this socket.
    Saved { state: T },
}

impl<T> GuestSource<T> {
    /// Its parts in the order in which descriptors are numbered.
    pub(crate) fn into_parts(self) -> impl Iterator<Item = T> {
        let (first, second) = match self {
            Self::Boot { kernel, initramfs } => (kernel, Some(initramfs)),
            Self::Saved { state } => (state, None),
        };
        [Some(first), second].into_iter().flatten()
    }
}

impl Descriptors {
    /// Numbers them from `first` in this order: control, console, ports, memory, kernel and initramfs or saved state, disks.
    pub(crate) fn numbered(first: RawFd, spec: &MachineSpec, guest: GuestSource<()>) -> Self {
        let mut numbers = first..;
        let mut next = || numbers.next().unwrap_or(first);
        Self {
            qmp: next(),
            console: next(),
            ports: spec.ports.iter().map(|_| next()).collect(),
            memory: next(),
            guest: match guest {
                GuestSource::Boot { .. } => GuestSource::Boot { kernel: next(), initramfs: next() },
                GuestSource::Saved { .. } => GuestSource::Saved { state: next() },
            },
            disks: spec.disks.iter().map(|disk| disk.layers().map(|_| next()).collect()).collect(),
        }
    }

    pub(crate) fn count(&self) -> i32 {
        const SINGLE: usize = 3;
        let guest = self.guest.into_parts().count();
        let layers: usize = self.disks.iter().map(Vec::len).sum();
        i32::try_from(SINGLE + guest + self.ports.len() + layers).unwrap_or(i32::MAX)
    }
}

/// Makes QEMU's arguments.
pub(crate) fn arguments(spec: &MachineSpec, fds: &Descriptors, host: &Host) -> Result<Vec<String>, InvalidSpec> {
    let mut line = Arguments::default();
    line.add_all(&["-nodefaults", "-no-user-config", "-display", "none"]);
    line.option("-sandbox", SANDBOX);
    line.option("-machine", board(spec.kind));
    line.option("-accel", accelerator(spec.accelerator));
    line.option("-cpu", processor(spec.accelerator, host));
    line.option("-smp", spec.cpus.get());
    line.memory(spec, fds.memory, sharing(fds.guest));
    // A guest that panics or reboots ends its QEMU, instead of going round.
    line.option("-action", "reboot=shutdown,panic=shutdown");
    let first = first_client(fds.guest);
    line.option("-chardev", socket("qmp", fds.qmp, FirstClient::MayCome));
    line.option("-mon", "chardev=qmp,mode=control");
    line.option("-chardev", socket("console", fds.console, first));
    line.option("-serial", "chardev:console");
    line.ports(spec, &fds.ports, first);
    line.disks(spec, &fds.disks);
    let append = kernel_command_line(spec, host)?;
    match fds.guest {
        GuestSource::Boot { kernel, initramfs } => {
            // The owner starts the guest when it has hold of the console.
            line.add_all(&["-S"]);
            line.option("-kernel", reopened(kernel));
            line.option("-initrd", reopened(initramfs));
            line.option("-append", append);
        }
        // What the guest was booted from is in its memory, and need not be loaded again. It goes on by itself once all is read.
        GuestSource::Saved { state } => {
            // The state is that of the devices alone, without a word about the configuration.
            line.option("-global", "migration.send-configuration=off");
            line.option("-incoming", format!("fd:{state}"));
        }
    }
    Ok(line.0)
}

/// Everything that decides whether saved state fits a machine: QEMU's arguments, and the guest's command line. `None` where the machine
/// could not be; the TSC's speed is left out, since a measured one differs from time to time.
pub(crate) fn fingerprint(spec: &MachineSpec) -> Result<String, InvalidSpec> {
    let boot = GuestSource::Boot { kernel: (), initramfs: () };
    let fds = Descriptors::numbered(0, spec, boot);
    Ok(arguments(spec, &fds, &Host { tsc_khz: 0, ..Host::this() })?.join("\n"))
}

/// A booting guest's memory is its file's, so that it can become a template's; a restored one's changes are its own.
fn sharing(guest: GuestSource<RawFd>) -> &'static str {
    match guest {
        GuestSource::Boot { .. } => "on",
        GuestSource::Saved { .. } => "off",
    }
}

#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn add_all(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(ToString::to_string));
    }

    fn option(&mut self, name: &str, value: impl ToString) {
        self.0.extend([name.to_owned(), value.to_string()]);
    }

    /// The memory is a file without a name that the owner holds too.
    fn memory(&mut self, spec: &MachineSpec, fd: RawFd, share: &str) {
        let mib = spec.memory.mib();
        self.option("-m", format!("{mib}M"));
        let path = reopened(fd);
        self.option("-object", format!("memory-backend-file,id=ram,size={mib}M,mem-path={path},share={share}"));
    }

    fn ports(&mut self, spec: &MachineSpec, fds: &[RawFd], first: FirstClient) {
        if spec.ports.is_empty() {
            return;
        }
        self.option("-device", format!("virtio-serial-{},id=serial", transport(spec.kind)));
        for (index, (name, fd)) in spec.ports.iter().zip(fds).enumerate() {
            let (name, number) = (name.as_str(), index + 1);
            self.option("-chardev", socket(&format!("port{number}"), *fd, first));
            let port = format!("virtserialport,bus=serial.0,nr={number},chardev=port{number},name={name}");
            self.option("-device", port);
        }
    }

    fn disks(&mut self, spec: &MachineSpec, fds: &[Vec<RawFd>]) {
        let mut set = 0..;
        for (index, (disk, fds)) in spec.disks.iter().zip(fds).enumerate() {
            let mut node = String::new();
            for (layer, ((_, read_only), fd)) in disk.layers().zip(fds).enumerate() {
                let set = set.next().unwrap_or(0);
                self.option("-add-fd", format!("fd={fd},set={set}"));
                let below = (layer > 0).then_some(node.as_str());
                let name = layer_node(index, layer);
                self.option("-blockdev", block_device(disk.host_flush, read_only, set, &name, below));
                node = name;
            }
            let transport = transport(spec.kind);
            let serial = &disk.serial;
            // A host that is full is an I/O error for the guest. QEMU's default would stop the machine until somebody makes room.
            let errors = "werror=report,rerror=report";
            self.option("-device", format!("virtio-blk-{transport},drive={node},serial={serial},{errors}"));
        }
    }
}

/// The name of a disk's layer in QEMU, counted from the lowest.
pub(crate) fn layer_node(disk: usize, layer: usize) -> String {
    if layer == 0 { format!("disk{disk}") } else { format!("disk{disk}-{layer}") }
}

/// The board without what nobody uses. `suppress-vmdesc` keeps saved state free of a description that the loader of a fork has no use for.
fn board(kind: MachineKind) -> &'static str {
    match kind {
        // Debian's kernel finds virtio-mmio by ACPI only, and so that it uses no PIT. Without option ROMs there is nothing for firmware to load.
        MachineKind::Microvm => "microvm,acpi=on,pit=off,x-option-roms=off,memory-backend=ram,suppress-vmdesc=on",
        MachineKind::Pc => "pc,usb=off,vmport=off,memory-backend=ram,suppress-vmdesc=on",
    }
}

/// The board and the emulated processor, in QEMU's words: a guest that was saved goes on with just these. Under KVM the processor is the host's.
pub fn hardware(kind: MachineKind, accelerator: Accelerator) -> String {
    match accelerator {
        Accelerator::Kvm => board(kind).to_owned(),
        Accelerator::Tcg => format!("{} {TCG_CPU}", board(kind)),
    }
}

fn accelerator(accelerator: Accelerator) -> String {
    match accelerator {
        Accelerator::Kvm => "kvm".to_owned(),
        Accelerator::Tcg => format!("tcg,thread=multi,tb-size={TRANSLATION_CACHE_MIB}"),
    }
}

fn processor(accelerator: Accelerator, host: &Host) -> &'static str {
    match accelerator {
        Accelerator::Kvm if host.intel => "host",
        // The register that lists what a processor is immune to is Intel's. Elsewhere KVM may offer it and then not take it
        // (seen under PVM), which ends QEMU.
        Accelerator::Kvm => "host,arch-capabilities=off",
        Accelerator::Tcg => TCG_CPU,
    }
}

fn is_intel(cpuid: impl Fn(u32) -> [u32; 4]) -> bool {
    let [_, b, c, d] = cpuid(0);
    [b, d, c].map(u32::to_le_bytes).concat() == b"GenuineIntel"
}

fn transport(kind: MachineKind) -> &'static str {
    match kind {
        MachineKind::Microvm => "device",
        MachineKind::Pc => "pci",
    }
}

/// Whether a socket's first client is there before QEMU.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FirstClient {
    MayCome,
    IsThere,
}

/// A guest was saved with a host at its ports, and is told of one that is not there any more, and of each that comes. A restored one
/// need not be: QEMU takes up the owner, who has connected already, before it has a guest.
fn first_client(guest: GuestSource<RawFd>) -> FirstClient {
    match guest {
        GuestSource::Boot { .. } => FirstClient::MayCome,
        GuestSource::Saved { .. } => FirstClient::IsThere,
    }
}

/// A socket that listens already; QEMU takes one client after another.
fn socket(id: &str, fd: RawFd, first: FirstClient) -> String {
    let wait = if first == FirstClient::IsThere { "on" } else { "off" };
    format!("socket,id={id},fd={fd},server=on,wait={wait}")
}

/// A path under which QEMU opens a passed file afresh, for options that know no descriptors.
fn reopened(fd: RawFd) -> String {
    format!("/proc/self/fd/{fd}")
}

/// A layer: a raw image, or an overlay of the layer named `below`.
fn block_device(flush: HostFlush, read_only: bool, set: u64, node: &str, below: Option<&str>) -> String {
    let mode = if read_only { "on" } else { "off" };
    let no_flush = if flush == HostFlush::Ignore { "on" } else { "off" };
    // What the guest discards is given back to the host, which a read-only file cannot do.
    let discard = if read_only { "ignore" } else { "unmap" };
    let format = match below {
        None => format!("driver=raw,node-name={node}"),
        Some(below) => format!("driver=qcow2,node-name={node},backing={below}"),
    };
    format!(
        "{format},read-only={mode},discard={discard},cache.no-flush={no_flush},\
         file.driver=file,file.filename=/dev/fdset/{set},file.discard={discard},file.cache.no-flush={no_flush}"
    )
}

/// The machine's own words come first, so that a caller's take precedence.
fn kernel_command_line(spec: &MachineSpec, host: &Host) -> Result<String, InvalidSpec> {
    // A panic reboots at once, by a triple fault that needs no device, and a reboot ends QEMU.
    // Notices only: some twenty lines, the first of them as soon as the kernel has a console, which is what shows that it runs.
    let words = ["console=ttyS0", "panic=-1", "reboot=t", "loglevel=6", "cryptomgr.notests"];
    let mut words = words.map(str::to_owned).to_vec();
    // Policies that nobody writes in a guest, and accounts that nobody reads there, are asked at every call all the same.
    // Sharing processors by sessions is for desktops, and makes and ends a group at each start of a program.
    words.extend(["lsm=landlock,yama", "audit=0", "psi=0", "noautogroup"].map(str::to_owned));
    if spec.accelerator == Accelerator::Tcg {
        // See `tsc`: without it the boot hangs on a busy host.
        words.push(format!("tsc_early_khz={}", host.tsc_khz));
        // The kernel checks the TSC against its own ticks, of which an emulated processor on a busy host misses some, and would then keep time
        // by those: seconds were lost in a minute. The guest's TSC is the host's, and right.
        words.push("tsc=reliable".into());
        // An emulated processor does not speculate, and each switch to the kernel is dear: a boot takes 6% longer with them.
        // Given up is what they might still do against a guest's programs by way of the host's own speculation.
        words.push("mitigations=off".into());
        // Debian's kernel clears each page and object that it hands to itself, lest it tell programs what was there before: a file then takes
        // three tenths longer to write. Given up is that guard, of a guest against its own programs; theirs it clears all the same.
        words.push("init_on_alloc=0".into());
        // A large page is a gain of the hardware's; here it is 2 MiB of the host's memory for a program that wanted a few KiB.
        words.push("transparent_hugepage=madvise".into());
        if spec.qemu.version().major < MOVES_TRANSLATIONS {
            words.push("norandmaps".into());
        }
    }
    words.extend(spec.command_line.iter().cloned());
    let line = words.join(" ");
    let length = line.len();
    if length <= MachineSpec::MAX_COMMAND_LINE { Ok(line) } else { Err(InvalidSpec::CommandLine { length }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::Qemu;
    use crate::spec::{Confinement, CpuCount, Disk, Launcher, Lifetime, MemoryMib, PortName};

    fn spec(kind: MachineKind, accelerator: Accelerator) -> MachineSpec {
        let disk = |serial: &str, read_only, host_flush| Disk {
            path: format!("/images/{serial}").into(),
            overlays: Vec::new(),
            serial: serial.into(),
            read_only,
            host_flush,
        };
        MachineSpec {
            directory: "/m".into(),
            qemu: Qemu::for_tests("/usr/bin/qemu-system-x86_64"),
            kind,
            accelerator,
            cpus: CpuCount::new(2).unwrap(),
            memory: MemoryMib::new(512).unwrap(),
            kernel: "/k".into(),
            initramfs: "/i".into(),
            command_line: vec!["hearth.image=debian".into()],
            disks: vec![disk("root", true, HostFlush::Pass), disk("scratch", false, HostFlush::Ignore)],
            ports: vec![PortName::new("control").unwrap(), PortName::new("bulk").unwrap()],
            lifetime: Lifetime::WithOwner,
            confinement: Confinement::Strongest,
            launcher: Launcher { program: "/l".into(), arguments: Vec::new() },
        }
    }

    const HOST: Host = Host { tsc_khz: 2_596_130, intel: true };

    /// One option with its value a line.
    fn golden(spec: &MachineSpec) -> String {
        golden_of(spec, GuestSource::Boot { kernel: (), initramfs: () })
    }

    fn golden_of(spec: &MachineSpec, guest: GuestSource<()>) -> String {
        let fds = Descriptors::numbered(6, spec, guest);
        let words = arguments(spec, &fds, &HOST).unwrap();
        let mut text = String::new();
        for word in words {
            text += if word.starts_with('-') { "\n" } else { " " };
            text += &word;
        }
        text
    }

    #[test]
    fn microvm_under_tcg_is_as_recorded() {
        assert_eq!(golden(&spec(MachineKind::Microvm, Accelerator::Tcg)), include_str!("golden/microvm-tcg.txt"));
    }

    #[test]
    fn pc_under_kvm_is_as_recorded() {
        assert_eq!(golden(&spec(MachineKind::Pc, Accelerator::Kvm)), include_str!("golden/pc-kvm.txt"));
    }

    #[test]
    fn a_restored_machine_differs_by_its_memory_and_the_source_of_its_guest_alone() {
        let spec = spec(MachineKind::Microvm, Accelerator::Tcg);
        let (booted, restored) = (golden(&spec), golden_of(&spec, GuestSource::Saved { state: () }));
        let only = |text: &str, other: &str| -> Vec<String> {
            let without_numbers = |line: &str| line.replace(|c: char| c.is_ascii_digit(), "");
            let others: Vec<String> = other.lines().map(without_numbers).collect();
            text.lines().filter(|line| !others.contains(&without_numbers(line))).map(str::to_owned).collect()
        };
        assert_eq!(
            only(&restored, &booted),
            [
                "-object memory-backend-file,id=ram,size=512M,mem-path=/proc/self/fd/10,share=off",
                "-chardev socket,id=console,fd=7,server=on,wait=on",
                "-chardev socket,id=port1,fd=8,server=on,wait=on",
                "-chardev socket,id=port2,fd=9,server=on,wait=on",
                "-global migration.send-configuration=off",
                "-incoming fd:11",
            ]
        );
        let gone: Vec<_> =
            only(&booted, &restored).iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
        assert_eq!(gone, ["-object", "-chardev", "-chardev", "-chardev", "-S", "-kernel", "-initrd", "-append"]);
    }

    #[test]
    fn of_a_disks_layers_only_the_last_is_written_and_each_lies_on_the_one_below() {
        let mut spec = spec(MachineKind::Microvm, Accelerator::Tcg);
        spec.disks[1].overlays = vec!["/o/1".into(), "/o/2".into()];
        let text = golden(&spec);
        let lines: Vec<_> = text.lines().filter(|line| line.contains("disk1")).collect();
        let starts = [
            "-blockdev driver=raw,node-name=disk1,read-only=on,discard=ignore",
            "-blockdev driver=qcow2,node-name=disk1-1,backing=disk1,read-only=on,discard=ignore",
            "-blockdev driver=qcow2,node-name=disk1-2,backing=disk1-1,read-only=off,discard=unmap",
            "-device virtio-blk-device,drive=disk1-2,serial=scratch",
        ];
        assert_eq!(lines.len(), starts.len(), "{lines:#?}");
        lines.iter().zip(starts).for_each(|(line, start)| assert!(line.starts_with(start), "{line}"));
        assert!(text.contains("-add-fd fd=16,set=3"), "{text}");
    }

    #[test]
    fn a_fingerprint_changes_with_the_machine_and_not_with_a_measured_clock() {
        let one = spec(MachineKind::Microvm, Accelerator::Tcg);
        let mut other = one.clone();
        other.disks.pop();
        assert_ne!(fingerprint(&one).unwrap(), fingerprint(&other).unwrap());
        assert!(fingerprint(&one).unwrap().contains("tsc_early_khz=0"));
    }

    #[test]
    fn no_machine_has_a_device_that_could_change_a_template_or_reach_a_network() {
        for kind in [MachineKind::Microvm, MachineKind::Pc] {
            let text = golden(&spec(kind, Accelerator::Tcg));
            for device in ["balloon", "free-page", "net", "usb-", "vga", "exec:"] {
                assert!(!text.contains(device), "{device} in {text}");
            }
        }
    }

    #[test]
    fn kernel_words_of_the_caller_come_last() {
        let mut spec = spec(MachineKind::Pc, Accelerator::Tcg);
        spec.command_line = vec!["mitigations=auto".into()];
        let line = kernel_command_line(&spec, &HOST).unwrap();
        assert!(line.contains(" mitigations=off ") && line.ends_with(" mitigations=auto"), "{line}");
    }

    #[test]
    fn kernel_command_line_over_its_limit_is_refused() {
        let mut spec = spec(MachineKind::Pc, Accelerator::Tcg);
        spec.command_line = vec!["x".repeat(2048)];
        assert!(matches!(kernel_command_line(&spec, &HOST), Err(InvalidSpec::CommandLine { length }) if length > 2048));
    }
}
