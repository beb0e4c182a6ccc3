//! The floor of a restore: bare QEMU, without a jail, that restores a guest whose first process is a static program of forty lines
//! (`floor.c`).
//!
//! Same QEMU, board, processor, accelerator, memory, guest kernel and trick as a sandbox's: a sealed memory file mapped privately, and the
//! devices' state by `-incoming`. Less than a sandbox's: one port and no disk; its end of the port is connected before it starts, nothing is
//! asked of it, and the guest has no file system but the initial one. Its `true` is the image's own, with the libraries that it needs, and has
//! run once before the guest was saved.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hearth_engine::image::{Image, Initramfs};
use hearth_engine::vmm::{Machine, MachineKind, MachineSpec, PortName, SavedMachine};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::host::{Host, write_file};
use super::live::{argv, finish};

const INIT: &str = include_str!("floor.c");
/// Says where `true` is, and what its loader reads.
const FIND_TRUE: &str = r#"echo /usr/bin/true; echo /etc/ld.so.cache; ldd /usr/bin/true | grep -o "/[^ ]*""#;
const PORT: &str = "floor";
const SEND: u8 = b'r';
/// A bound on a boot, and on a restore, that never ends.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the guest is left alone before it is saved.
const SETTLE: Duration = Duration::from_millis(500);
/// The options whose values a sandbox's machine and the floor share.
const SHARED: [&str; 5] = ["-machine", "-accel", "-cpu", "-smp", "-m"];

/// A saved guest to restore.
pub(crate) struct Floor {
    saved: SavedMachine,
    qemu: PathBuf,
    arguments: Vec<String>,
    mib: u32,
}

/// A restored one. It ends when this is dropped.
pub(crate) struct Bare {
    child: Child,
    port: UnixStream,
}

impl Floor {
    /// Boots the guest once, has it run its `true`, and saves it.
    pub(crate) async fn boot(host: &Host) -> Result<Self> {
        let draft = host.draft()?;
        let mut spec = draft.machine.clone();
        spec.disks.clear();
        spec.ports = vec![PortName::new(PORT)?];
        let own_true = Files::of_true(host).await?;
        let archive = initramfs(&host.image()?, spec.kind, &spec.directory, &own_true)?;
        spec.initramfs = write_file(&spec, "floor.cpio", &archive)?;
        let arguments = arguments(&spec)?;
        let (qemu, mib) = (spec.qemu.path().to_owned(), spec.memory.mib());
        let machine = Machine::start(spec).await?;
        let path = machine.port_path(&PortName::new(PORT)?).context("the machine was given this port")?;
        // Before the guest sees the port: a read of one without a host would end it.
        let mut port = UnixStream::connect(path).await.context("connect to the floor's port")?;
        run_true(&mut port).await.context("the floor's first boot")?;
        // As a template's guest is: what its kernel has put off is not for the restored ones to do.
        tokio::time::sleep(SETTLE).await;
        let saved = machine.into_template().await?;
        Ok(Self { saved, qemu, arguments, mib })
    }

    /// Starts QEMU on what was saved.
    pub(crate) fn restore(&self) -> Result<Bare> {
        let (ours, theirs) = StdUnixStream::pair().context("make a pair of sockets")?;
        let state = self.state()?;
        let memory = self.saved.ram.as_fd();
        let (port, incoming) = (theirs.as_raw_fd(), state.as_raw_fd());
        let memory_backend = format!(
            "memory-backend-file,id=ram,size={}M,mem-path=/proc/self/fd/{},share=off",
            self.mib,
            memory.as_raw_fd()
        );
        let passed = Passed::on([theirs.as_fd(), state.as_fd(), memory])?;
        let mut command = Command::new(&self.qemu);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "null"]).args(&self.arguments);
        command.args(["-action", "reboot=shutdown,panic=shutdown", "-object", &memory_backend]);
        command.args(["-chardev", &format!("socket,id=port,fd={port}")]);
        command.args(["-device", &format!("virtserialport,bus=serial.0,nr=1,chardev=port,name={PORT}")]);
        command.args(["-global", "migration.send-configuration=off", "-incoming", &format!("fd:{incoming}")]);
        let child = command.stdin(Stdio::null()).kill_on_drop(true).spawn().context("start the floor's QEMU")?;
        drop(passed);
        ours.set_nonblocking(true)?;
        Ok(Bare { child, port: UnixStream::from_std(ours)? })
    }

    /// The devices' state, all of it in a pipe.
    fn state(&self) -> Result<OwnedFd> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let size = fcntl_setpipe_size(&write, self.saved.devices.len())?;
        ensure!(size >= self.saved.devices.len(), "the devices' state does not fit a pipe");
        std::fs::File::from(write).write_all(&self.saved.devices)?;
        Ok(read)
    }
}

impl Bare {
    /// Has the guest answer a byte and run its `true`.
    pub(crate) async fn run_true(&mut self) -> Result<()> {
        run_true(&mut self.port).await
    }

    /// The process id of its QEMU.
    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.id().context("the floor's QEMU has ended")
    }

    /// Ends it, and waits until it is gone.
    pub(crate) async fn stop(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// Descriptors that a child is to have: they stay open over exec while this lives.
struct Passed<'a, const N: usize>([BorrowedFd<'a>; N]);

impl<'a, const N: usize> Passed<'a, N> {
    fn on(descriptors: [BorrowedFd<'a>; N]) -> Result<Self> {
        descriptors.iter().try_for_each(|descriptor| fcntl_setfd(descriptor, FdFlags::empty()))?;
        Ok(Self(descriptors))
    }
}

impl<const N: usize> Drop for Passed<'_, N> {
    fn drop(&mut self) {
        // A descriptor that stays open over exec would be one more in somebody's child.
        for descriptor in self.0 {
            let _ = fcntl_setfd(descriptor, FdFlags::CLOEXEC);
        }
    }
}

async fn run_true(port: &mut UnixStream) -> Result<()> {
    let mut answer = [0xff; 2];
    let exchange = async {
        port.write_all(&[SEND]).await?;
        port.read_exact(&mut answer).await
    };
    tokio::time::timeout(PATIENCE, exchange).await.context("the floor's guest does not answer")??;
    ensure!(answer == [SEND, 0], "the floor's guest says {answer:?}");
    Ok(())
}

/// What the floor's machine has in common with a sandbox's, in QEMU's words, and its serial device.
fn arguments(spec: &MachineSpec) -> Result<Vec<String>> {
    let fingerprint = spec.fingerprint()?;
    let words: Vec<&str> = fingerprint.lines().collect();
    let mut shared = Vec::new();
    for option in SHARED {
        let at = words.iter().position(|word| *word == option).with_context(|| format!("there is no {option}"))?;
        shared.extend(words[at..at + 2].iter().map(|word| (*word).to_owned()));
    }
    let device = words.iter().find(|word| word.starts_with("virtio-serial-")).context("there is no serial device")?;
    shared.extend(["-device".to_owned(), (*device).to_owned()]);
    Ok(shared)
}

/// Files of the image, by their paths.
struct Files(Vec<(String, Vec<u8>)>);

impl Files {
    /// Reads the image's `true` in a sandbox, and what it needs to run.
    async fn of_true(host: &Host) -> Result<Self> {
        let sandbox = host.create(host.spec()).await?;
        let output = async |words: &[&str]| {
            let mut output = Vec::new();
            let process = sandbox.channel().start(argv(words)).await?;
            finish(&process, |bytes| output.extend_from_slice(bytes)).await?;
            anyhow::Ok(output)
        };
        let paths = String::from_utf8(output(&["sh", "-c", FIND_TRUE]).await?)?;
        let mut files = Vec::new();
        for path in paths.lines() {
            files.push((path.to_owned(), output(&["cat", path]).await?));
        }
        sandbox.remove().await;
        Ok(Self(files))
    }

    /// The path of `true` itself.
    fn program(&self) -> Result<&str> {
        self.0.first().map(|(path, _)| path.as_str()).context("the image has no `true`")
    }

    fn add_to(&self, mut archive: Initramfs) -> Result<Initramfs> {
        let parents = self.0.iter().flat_map(|(path, _)| Path::new(path).ancestors().skip(1));
        let directories: BTreeSet<&str> =
            parents.filter_map(|parent| parent.to_str()).map(|parent| parent.trim_start_matches('/')).collect();
        for directory in directories.into_iter().filter(|directory| !directory.is_empty()) {
            archive = archive.directory(directory, 0o755)?;
        }
        for (path, content) in &self.0 {
            archive = archive.file(path.trim_start_matches('/'), 0o755, content)?;
        }
        Ok(archive)
    }
}

fn initramfs(image: &Image, kind: MachineKind, directory: &Path, own_true: &Files) -> Result<Vec<u8>> {
    let bus = if kind == MachineKind::Pc { "virtio_pci" } else { "virtio_mmio" };
    let init = compile(directory, own_true.program()?)?;
    let archive = Initramfs::new()
        .directory("dev", 0o755)?
        .character_device("dev/console", 0o600, (5, 1))?
        .directory("modules", 0o755)?
        .file("init", 0o755, &init)?;
    let mut archive = own_true.add_to(archive)?;
    let mut order = String::new();
    for module in image.modules()?.load_order(&[bus, "virtio_console"])? {
        let name = format!("modules/{}.ko", module.name);
        archive = archive.file(&name, 0o644, &std::fs::read(&module.path)?)?;
        order.push_str(&format!("/{name}\n"));
    }
    Ok(archive.file("modules/order", 0o644, order.as_bytes())?.finish())
}

/// Compiles the guest's first program, which is to spawn another.
fn compile(directory: &Path, program: &str) -> Result<Vec<u8>> {
    let (input, output) = (directory.join("floor.c"), directory.join("floor"));
    std::fs::write(&input, INIT)?;
    let program = format!("-DPROGRAM={program:?}");
    let compiled =
        StdCommand::new("cc").args(["-O2", "-static", "-w", &program, "-o"]).arg(&output).arg(&input).status();
    let status = compiled.context("run cc, which `scripts/setup --demo` installs")?;
    ensure!(status.success(), "cc does not compile the floor's program");
    Ok(std::fs::read(&output)?)
}
