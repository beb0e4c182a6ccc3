//! A real kernel, under both boards: it reaches a port, and its panic is told.
//!
//! `HEARTH_TEST_KERNEL` is a Debian kernel's file and `HEARTH_TEST_MODULES` the directory of its modules; the initramfs is
//! made here, of the host's static busybox.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth_vmm::jail::JailLevel;
use hearth_vmm::{
    Checkpoint, Confinement, Machine, MachineError, MachineKind, MachineSpec, MemoryMib, PAGE, PortName, SavedMachine,
    SealedRam,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::support::*;

const MODULES: [&str; 7] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_mmio",
    "virtio_console",
];

/// Answers each line that comes on the first port. The port's node is there before it can be opened; its name is not. Until a host has connected, reading
/// finds the end of a file.
const ECHO: &str = "\
B=/bin/busybox
$B mount -t devtmpfs dev /dev
$B mount -t sysfs sys /sys
for m in $($B ls /modules); do $B insmod /modules/$m 2>/dev/null; done
until $B cat /sys/class/virtio-ports/vport0p1/name 2>/dev/null; do :; done
exec 3<>/dev/vport0p1
echo LISTENING
n=0
while :; do read -r line <&3 && n=$((n+1)) && echo \"guest read $n: $line\" >&3; done
";

const PANIC: &str = "echo last words; exit 3\n";

struct Linux {
    kernel: PathBuf,
    modules: PathBuf,
    busybox: PathBuf,
}

/// What is needed, or why it is not there.
fn linux() -> Result<Linux, String> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).ok_or(format!("{name} is not set"));
    let busybox = PathBuf::from("/bin/busybox");
    if !busybox.exists() {
        return Err("there is no /bin/busybox (install busybox-static)".into());
    }
    Ok(Linux { kernel: variable("HEARTH_TEST_KERNEL")?, modules: variable("HEARTH_TEST_MODULES")?, busybox })
}

impl Linux {
    fn spec(&self, home: &Home, kind: MachineKind, init: &str) -> MachineSpec {
        let mut spec = home.spec(kind);
        spec.kernel = self.kernel.clone();
        spec.initramfs = home.file("initramfs", &self.initramfs(init));
        spec.memory = MemoryMib::new(192).unwrap();
        spec.ports = vec![PortName::new("echo").unwrap()];
        spec
    }

    fn initramfs(&self, init: &str) -> Vec<u8> {
        let mut archive = Vec::new();
        for directory in ["bin", "dev", "sys", "modules"] {
            member(&mut archive, directory, 0o040_755, &[]);
        }
        member(&mut archive, "bin/busybox", 0o100_755, &std::fs::read(&self.busybox).unwrap());
        for (index, name) in MODULES.iter().enumerate() {
            let Some(path) = find(&self.modules, &format!("{name}.ko")) else { continue };
            // In the order in which they need each other.
            member(&mut archive, &format!("modules/{index}.ko"), 0o100_644, &std::fs::read(path).unwrap());
        }
        member(&mut archive, "init", 0o100_755, format!("#!/bin/busybox sh\n{init}").as_bytes());
        member(&mut archive, "TRAILER!!!", 0, &[]);
        archive
    }
}

/// One member of a cpio archive in the "newc" form.
fn member(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    archive.extend(b"070701");
    let fields = [0, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
    archive.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
    archive.extend(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(directory).ok()?.flatten();
    entries.map(|entry| entry.path()).find_map(|path| match path.is_dir() {
        true => find(&path, name),
        false => path.ends_with(name).then_some(path),
    })
}

async fn check_port(linux: &Linux, kind: MachineKind) {
    let home = Home::new();
    let machine = Machine::start(linux.spec(&home, kind, ECHO)).await.unwrap();
    console_says(&machine, "LISTENING").await;
    check_answer(&machine, 1).await;
    machine.stop().await;
}

/// Checks that the guest answers, and that it has read so many lines by now. A restored machine's first connection was there before it.
async fn check_answer(machine: &Machine, count: u32) {
    let mut stream = reach(machine).await;
    check_answer_on(&mut stream, machine, count).await;
}

async fn reach(machine: &Machine) -> BufReader<UnixStream> {
    let port = PortName::new("echo").unwrap();
    let stream = match machine.take_port(&port) {
        Some(stream) => stream,
        None => UnixStream::connect(machine.port_path(&port).unwrap()).await.unwrap(),
    };
    BufReader::new(stream)
}

async fn check_answer_on(stream: &mut BufReader<UnixStream>, machine: &Machine, count: u32) {
    stream.write_all(b"one line\n").await.unwrap();
    let mut answer = String::new();
    tokio::select! {
        read = stream.read_line(&mut answer) => drop(read.unwrap()),
        exit = machine.exited() => panic!("{}", MachineError::Died(Box::new(exit))),
    }
    assert_eq!(answer, format!("guest read {count}: one line\n"));
}

/// A guest goes on from its template, from what it had changed since, and beside its own copies.
async fn check_restore(linux: &Linux, kind: MachineKind, confinement: Confinement) {
    let spec = |home: &Home| MachineSpec { confinement, ..linux.spec(home, kind, ECHO) };
    let home = Home::new();
    let machine = Machine::start(spec(&home)).await.unwrap();
    console_says(&machine, "LISTENING").await;
    check_answer(&machine, 1).await;
    // Of a machine that was booted all is saved, to lie on nothing.
    let other = Arc::new(SealedRam::blank(MemoryMib::new(777).unwrap()).unwrap());
    assert!(matches!(machine.prepare_capture(&other).await, Err(MachineError::SavedSize { .. })));
    let blank = Arc::new(SealedRam::blank(linux.spec(&home, kind, ECHO).memory).unwrap());
    machine.suspend().await.unwrap();
    let moment = machine.capture(machine.prepare_capture(&blank).await.unwrap()).await.unwrap();
    machine.proceed().await.unwrap();
    let booted = Home::new();
    let copy = Machine::restore(spec(&booted), moment).await.unwrap();
    check_answer(&copy, 2).await;
    copy.kill().await;
    let template = machine.into_template().await.unwrap();
    assert!(home.leftovers().is_empty() && template.delta.is_none(), "{:?}", home.leftovers());
    let (one, other) = (Home::new(), Home::new());
    let first = Machine::restore(spec(&one), template.clone()).await.unwrap();
    check_answer(&first, 2).await;
    check_answer(&first, 3).await;
    let changed = first.changed_bytes().unwrap();
    assert!(changed > 0 && changed < template.ram.size(), "{changed}");
    first.suspend().await.unwrap();
    let moment = first.capture(first.prepare_capture(&blank).await.unwrap()).await.unwrap();
    first.proceed().await.unwrap();
    let second = Machine::restore(spec(&other), moment).await.unwrap();
    check_answer(&second, 4).await;
    check_answer(&first, 4).await;
    second.suspend().await.unwrap();
    let again = second.capture(second.prepare_capture(&blank).await.unwrap()).await.unwrap();
    second.kill().await;
    first.kill().await;
    let third = Machine::restore(spec(&one), again).await.unwrap();
    check_answer(&third, 5).await;
    third.kill().await;
    // What the copies have changed is not in the template.
    let fresh = Machine::restore(spec(&other), template.clone()).await.unwrap();
    check_answer(&fresh, 2).await;
    fresh.kill().await;
    check_standby(&spec, template.clone()).await;
    check_checkpoint(spec, template).await;
}

/// Nothing of what a process was made with is left open in it: no file of the checkpoint's, and no pipe but the one for its output.
fn check_descriptors(machine: &Machine) {
    let open = std::fs::read_dir(format!("/proc/{}/fd", machine.pid())).unwrap().map(|entry| entry.unwrap().path());
    let open: Vec<(String, String)> = open
        .map(|path| {
            let target = std::fs::read_link(&path).unwrap().display().to_string();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), target)
        })
        .collect();
    let is_left = |(number, target): &&(String, String)| {
        let is_output = ["1", "2"].contains(&number.as_str());
        target.contains("hearth-script") || target.contains("hearth-qemu") || target.starts_with("pipe:") && !is_output
    };
    assert!(open.len() > 10 && open.iter().find(is_left).is_none(), "{open:?}");
}

/// Those who become a QEMU as it was go on as copies, each for itself, and are machines like any other.
async fn check_checkpoint(spec: impl Fn(&Home) -> MachineSpec, template: SavedMachine) {
    let (one, other) = (Home::new(), Home::new());
    let machine = Machine::restore(spec(&one), template.clone()).await.unwrap();
    machine.suspend().await.unwrap();
    let saved = machine.capture(machine.prepare_capture(&template.ram).await.unwrap()).await.unwrap();
    let ram = Arc::new(template.ram.with(saved.delta.as_ref().unwrap()).unwrap());
    let saved = SavedMachine { ram, delta: None, ..saved };
    let is_possible = machine.jail().level == JailLevel::Namespaces;
    let taken = machine.into_checkpoint(spec(&one)).await;
    if !is_possible {
        assert!(matches!(taken, Err(MachineError::NoNamespaces)) && one.leftovers().is_empty(), "{taken:?}");
        return;
    }
    let checkpoint = Arc::new(taken.unwrap());
    assert!(checkpoint.fits() && one.leftovers().is_empty(), "{:?}", one.leftovers());
    let mut file = Vec::new();
    checkpoint.write_to(&mut file).unwrap();
    let read = Arc::new(Checkpoint::read_from(&file[..]).unwrap());
    let ahead = async |home: &Home, checkpoint| {
        Machine::stand_by(spec(home), saved.ram.clone(), Some(checkpoint)).await.unwrap()
    };
    let first = ahead(&one, &checkpoint).await.go_on(saved.clone()).await.unwrap();
    let second = ahead(&other, &read).await.go_on(saved.clone()).await.unwrap();
    check_descriptors(&first);
    check_answer(&first, 2).await;
    check_answer(&second, 2).await;
    check_answer(&second, 3).await;
    second.suspend().await.unwrap();
    let moment = second.capture(second.prepare_capture(&saved.ram).await.unwrap()).await.unwrap();
    let pages = moment.delta.as_ref().unwrap().content().len() as u64 / PAGE;
    assert!((1..saved.ram.size() / PAGE / 4).contains(&pages), "what it has changed is all that is saved: {pages}");
    second.kill().await;
    // What has changed since needs a QEMU that takes it.
    let waiting = ahead(&other, &read).await;
    assert!(matches!(waiting.go_on(moment.clone()).await, Err(MachineError::OtherMemory)));
    let third = Machine::restore(spec(&other), moment).await.unwrap();
    check_answer(&third, 4).await;
    check_answer(&first, 3).await;
    third.kill().await;
    assert!(first.stop().await.status.unwrap().success());
    check_running(&spec, &saved, [&checkpoint, &read]).await;
    // One that cannot be become says why, and leaves nothing.
    let library = file.windows(10).position(|bytes| bytes == b"libc.so.6\0").unwrap();
    file[library] = b'L';
    let broken = Arc::new(Checkpoint::read_from(&file[..]).unwrap());
    let error = Machine::stand_by(spec(&one), saved.ram.clone(), Some(&broken)).await.unwrap_err();
    assert!(error.is_checkpoints(), "{error:?}");
    let left = [one.leftovers(), other.leftovers()].concat();
    assert!(left.is_empty(), "{left:?}");
}

/// A machine that began from a checkpoint runs on beside those who go on from what it was, and so do they.
async fn check_running(spec: &impl Fn(&Home) -> MachineSpec, saved: &SavedMachine, checkpoints: [&Arc<Checkpoint>; 2]) {
    let [checkpoint, other] = checkpoints;
    let homes = [Home::new(), Home::new(), Home::new()];
    let from = async |home: &Home, checkpoint: &Arc<Checkpoint>, saved: &SavedMachine| {
        let waiting = Machine::stand_by(spec(home), saved.ram.clone(), Some(checkpoint)).await.unwrap();
        waiting.go_on(saved.clone()).await
    };
    let source = from(&homes[0], checkpoint, saved).await.unwrap();
    let mut stream = reach(&source).await;
    check_answer_on(&mut stream, &source, 2).await;
    source.suspend().await.unwrap();
    // One that lies on other pages cannot be told by these, and goes on all the same.
    let refused = source.prepare_running(other.clone()).await;
    assert!(matches!(refused, Err(MachineError::Checkpoint { .. })), "{refused:?}");
    let prepared = source.prepare_running(checkpoint.clone()).await.unwrap();
    let moment = source.capture_running(spec(&homes[0]), prepared).await.unwrap();
    source.proceed().await.unwrap();
    check_answer_on(&mut stream, &source, 3).await;
    let taken = moment.checkpoint.as_ref().unwrap();
    let copy = from(&homes[1], taken, &moment).await.unwrap();
    let mut to_copy = reach(&copy).await;
    check_answer_on(&mut to_copy, &copy, 3).await;
    copy.suspend().await.unwrap();
    let prepared = copy.prepare_running(taken.clone()).await.unwrap();
    let later = copy.capture_running(spec(&homes[1]), prepared).await.unwrap();
    copy.proceed().await.unwrap();
    // It survives its file, which has nothing of the pages below it.
    let mut file = Vec::new();
    later.checkpoint.as_ref().unwrap().write_to(&mut file).unwrap();
    assert!(file.len() < 16 << 20, "{}", file.len());
    let read = Arc::new(other.read_above(&file[..]).unwrap());
    let second = from(&homes[2], &read, &later).await.unwrap();
    check_answer(&second, 4).await;
    check_answer_on(&mut to_copy, &copy, 4).await;
    check_answer_on(&mut stream, &source, 4).await;
    for machine in [source, copy, second] {
        assert!(machine.stop().await.status.unwrap().success());
    }
    let without_changes = SavedMachine { delta: None, ..moment.clone() };
    let refused = from(&homes[1], taken, &without_changes).await;
    assert!(matches!(refused, Err(MachineError::OtherMemory)), "{refused:?}");
    let left: Vec<_> = homes.iter().flat_map(Home::leftovers).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A QEMU that was started ahead takes its own template's guest and no other, and leaves nothing when it is not needed.
async fn check_standby(spec: &impl Fn(&Home) -> MachineSpec, template: SavedMachine) {
    let home = Home::new();
    let ahead = async || {
        let standby = Machine::stand_by(spec(&home), template.ram.clone(), None).await.unwrap();
        standby.until_waiting().await.unwrap();
        standby
    };
    let machine = ahead().await.go_on(template.clone()).await.unwrap();
    check_answer(&machine, 2).await;
    machine.kill().await;
    ahead().await.kill().await;
    let blank = SealedRam::blank(spec(&home).memory).unwrap();
    let other = SavedMachine { ram: Arc::new(blank), ..template.clone() };
    assert!(matches!(ahead().await.go_on(other).await, Err(MachineError::OtherMemory)));
    let standby = ahead().await;
    let cut = SavedMachine { devices: template.devices[..template.devices.len() / 2].into(), ..template };
    let exit = standby.go_on(cut).await.unwrap().exited().await;
    assert!(!exit.status.unwrap().success() && !exit.stderr.is_empty(), "{exit:?}");
    assert!(home.leftovers().is_empty(), "{:?}", home.leftovers());
}

#[tokio::test]
async fn guest_goes_on_from_where_it_was_saved_under_every_board_and_in_every_jail() {
    let linux = match linux() {
        Ok(linux) => linux,
        Err(reason) => return println!("skipped: {reason}"),
    };
    for (kind, confinement) in [(KINDS[0], CONFINEMENTS[0]), (KINDS[0], CONFINEMENTS[1]), (KINDS[1], CONFINEMENTS[0])] {
        check_restore(&linux, kind, confinement).await;
    }
}

#[tokio::test]
async fn state_that_does_not_fit_ends_its_machine_and_says_so() {
    let linux = match linux() {
        Ok(linux) => linux,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let home = Home::new();
    let machine = Machine::start(linux.spec(&home, KINDS[0], ECHO)).await.unwrap();
    console_says(&machine, "LISTENING").await;
    let template = machine.into_template().await.unwrap();
    let cut = SavedMachine { devices: template.devices[..template.devices.len() / 2].into(), ..template.clone() };
    let nonsense = SavedMachine { devices: vec![7; 1000].into(), ..template.clone() };
    for saved in [cut, nonsense] {
        let machine = Machine::restore(linux.spec(&home, KINDS[0], ECHO), saved).await.unwrap();
        let exit = machine.exited().await;
        assert!(!exit.status.unwrap().success() && !exit.stderr.is_empty(), "{exit:?}");
    }
    let mut other = linux.spec(&home, KINDS[0], ECHO);
    other.memory = MemoryMib::new(256).unwrap();
    assert!(matches!(Machine::restore(other, template).await, Err(MachineError::SavedSize { saved: 192, spec: 256 })));
    assert!(home.leftovers().iter().all(|name| !name.ends_with(".sock")), "{:?}", home.leftovers());
}

#[tokio::test]
async fn linux_reaches_a_port_under_every_board() {
    let linux = match linux() {
        Ok(linux) => linux,
        Err(reason) => return println!("skipped: {reason}"),
    };
    for kind in KINDS {
        check_port(&linux, kind).await;
    }
}

#[tokio::test]
async fn guest_that_panics_ends_its_machine_with_the_console_in_hand() {
    let linux = match linux() {
        Ok(linux) => linux,
        Err(reason) => return println!("skipped: {reason}"),
    };
    for kind in KINDS {
        let home = Home::new();
        let machine = Machine::start(linux.spec(&home, kind, PANIC)).await.unwrap();
        let exit = machine.exited().await;
        let console = String::from_utf8_lossy(&exit.console).into_owned();
        assert!(console.contains("last words") && console.contains("Kernel panic"), "{kind:?}: {console}");
        let error = MachineError::Died(Box::new(exit)).to_string();
        assert!(error.contains("end Kernel panic") || error.contains("Kernel Offset"), "{error}");
    }
}
