//! What this crate's tests start as other processes: without arguments the jail launcher, whose place in an
//! installation the `hearth` binary takes; with `own KIND CONFINEMENT DIRECTORY KERNEL`, the owner of a machine, who
//! saves and restores it, prints what came of it and then waits to be killed.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use hearth_vmm::jail::JailLevel;
use hearth_vmm::{
    Accelerator, Confinement, CpuCount, Launcher, Lifetime, Machine, MachineError, MachineKind, MachineSpec, MemoryMib,
    Qemu, SavedMachine,
};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [] => hearth_vmm::jail::main(),
        [own, kind, confinement, directory, kernel] if own == "own" => {
            match own_machine(kind == "pc", confinement == "landlock", directory.into(), kernel.into()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => say(&format!("error={error:?}")),
            }
        }
        _ => say("error=usage"),
    }
}

fn say(line: &str) -> ExitCode {
    // A reader that is gone has no use for it.
    drop(writeln!(std::io::stdout(), "{line}"));
    ExitCode::FAILURE
}

#[tokio::main(flavor = "current_thread")]
async fn own_machine(pc: bool, landlock: bool, directory: PathBuf, kernel: PathBuf) -> Result<(), OwnerError> {
    let spec = MachineSpec {
        directory,
        qemu: Qemu::find(None)?,
        kind: if pc { MachineKind::Pc } else { MachineKind::Microvm },
        accelerator: Accelerator::Tcg,
        cpus: CpuCount::ONE,
        memory: MemoryMib::new(MemoryMib::MIN)?,
        initramfs: kernel.clone(),
        kernel,
        command_line: Vec::new(),
        disks: Vec::new(),
        ports: Vec::new(),
        lifetime: Lifetime::WithOwner,
        confinement: if landlock { Confinement::WithoutNamespaces } else { Confinement::Strongest },
        launcher: Launcher { program: std::env::current_exe()?, arguments: Vec::new() },
    };
    let machine = Machine::start(spec.clone()).await?;
    let mut progress = machine.console().progress();
    // The tests' guests say one line at most; the first byte shows that they run.
    drop(progress.wait_for(|seen| *seen > 0).await);
    let machine = saved_twice(spec, machine).await?;
    let mut out = std::io::stdout();
    writeln!(out, "pid={}\nlevel={:?}\nuid={}", machine.pid(), machine.jail().level, machine.jail().uid)?;
    out.flush()?;
    machine.exited().await;
    Ok(())
}

/// Takes a machine through all that is done to its memory from outside, which not every owner might be allowed: it becomes a template, is
/// restored, saved, restored once more, and goes on in a QEMU that becomes what that was.
async fn saved_twice(spec: MachineSpec, machine: Machine) -> Result<Machine, MachineError> {
    let template = machine.into_template().await?;
    let ram = template.ram.clone();
    let restored = Machine::restore(spec.clone(), template).await?;
    restored.suspend().await?;
    let saved = restored.capture(restored.prepare_capture(&ram).await?).await?;
    restored.kill().await;
    let restored = Machine::restore(spec.clone(), saved).await?;
    restored.suspend().await?;
    let saved = restored.capture(restored.prepare_capture(&ram).await?).await?;
    let changed = saved.delta.as_deref().map(|delta| ram.with(delta)).ok_or(MachineError::AlreadyRestored)?;
    let ram = Arc::new(changed.map_err(|error| MachineError::GuestMemory { source: std::io::Error::other(error) })?);
    let saved = SavedMachine { ram: ram.clone(), delta: None, ..saved };
    if restored.jail().level != JailLevel::Namespaces {
        restored.kill().await;
        return Machine::restore(spec, saved).await;
    }
    let checkpoint = restored.into_checkpoint(spec.clone()).await?;
    Machine::stand_by(spec, ram, Some(&checkpoint)).await?.go_on(saved).await
}

#[derive(Debug, thiserror::Error)]
enum OwnerError {
    #[error("no QEMU")]
    Qemu(#[from] hearth_vmm::QemuError),
    #[error("no such machine")]
    Spec(#[from] hearth_vmm::InvalidSpec),
    #[error("no machine")]
    Machine(#[from] MachineError),
    #[error("no input or output")]
    Io(#[from] std::io::Error),
}
