//! The jail around QEMU, built as if the guest had already broken out of it.
//!
//! [`main`] is the launcher: the owner starts it in new namespaces with a plan on one descriptor, it builds what
//! the plan says, reports on another, and becomes QEMU, or one that was there before (`checkpoint`). It is one process from beginning to end, so QEMU is process 1
//! of its own process namespace, and nothing is left when it ends. In order:
//!
//! 1. a control group with limits on memory and tasks, where one may be made (`cgroup.rs`): the owner's work, done beside the rest, before
//!    there is a guest;
//! 2. a root of its own (`root.rs`): `/usr` and QEMU's own directory read-only, `/dev/null`, `/dev/kvm` when it is used,
//!    its own entry of `/proc`, and nothing else. There is no writable directory at all: the kernel, disks, memory and
//!    sockets are descriptors that the owner has opened;
//! 3. an identity of its own (`identity.rs`): for an owner that is root, an unprivileged user id made from the machine's
//!    directory, 0x70000000 to 0x7fffffff, a range that distributions leave free; then a user namespace in which it is
//!    nobody; no capabilities, no new privileges, resource limits;
//! 4. Landlock over files, TCP, abstract sockets and signals, and a filter of system calls (`rules.rs`), to which QEMU adds
//!    its own (`-sandbox`).
//!
//! A QEMU that may outlive its owner does not run before that has noted which process it is, and lets any process of the same user trace
//! it, since a later owner is not its parent.
//!
//! Where namespaces are refused (Ubuntu 24.04 without a profile, most containers), steps 2 and the namespaces of 3 are
//! missing, Landlock alone keeps files away, and [`JailReport`] says so. What must hold in either case: QEMU cannot
//! write to any path, make a socket, run a program, signal another process or gain a privilege.

mod cgroup;
mod identity;
mod plan;
mod probe;
mod root;
mod rules;

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PTracer, Signal, set_parent_process_death_signal, set_ptracer};

use crate::{checkpoint, sys};
pub use cgroup::groups_of;
pub(crate) use cgroup::{CgroupLimits, Groups, confine};
pub(crate) use identity::dedicated_user;
use plan::JailFailure as Failure;
pub(crate) use plan::{Becomes, FromLauncher, Plan, Prepared, Step};
pub use plan::{JailFailure, JailGap, JailLevel, JailReport};
pub use probe::{JailSupport, probe};

/// The plan, as JSON in a file without a name.
pub(crate) const PLAN_FD: RawFd = sys::FIRST_PASSED_FD;
/// Where the launcher reports, in JSON lines; closed by exec, or by a checkpoint's script, so that its end means QEMU runs.
pub(crate) const REPORT_FD: RawFd = PLAN_FD + 1;
/// The reading end of a pipe that only the owner holds the other end of: its end is the owner's. For a machine that may outlive its owner,
/// a byte in it is the word to go on.
pub(crate) const OWNER_FD: RawFd = REPORT_FD + 1;
/// The first of the descriptors meant for QEMU.
pub(crate) const FIRST_QEMU_FD: RawFd = OWNER_FD + 1;

/// A variable of the C library's: the kernel then has no place in a thread's memory to write to, which a checkpoint would have to know of,
/// and which the launcher that becomes one takes away.
pub(crate) const WITHOUT_RESTARTABLE_SEQUENCES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.pthread.rseq=0");

/// The longest plan or report, in bytes.
pub(crate) const MAX_MESSAGE: u64 = 256 * 1024;

/// Builds the jail that its owner has asked for and becomes QEMU; returns only on failure.
///
/// To be called at once by a program that was started with [`crate::Launcher::arguments`], before it has threads.
/// Started in any other way it reports a failure and does nothing.
pub fn main() -> ExitCode {
    // The owner reads the report; without that descriptor there is no one to tell.
    let Ok(report) = sys::take_passed(REPORT_FD) else { return ExitCode::from(125) };
    let mut report = std::fs::File::from(report);
    if let Err(failure) = run(&mut report) {
        drop(send(&mut report, &FromLauncher::Failed(failure)));
    }
    ExitCode::from(125)
}

/// Succeeds only for a probe, which runs nothing.
fn run(report: &mut std::fs::File) -> Result<(), Failure> {
    let plan_file = sys::take_passed(PLAN_FD).map_err(Failure::at(Step::ReadPlan))?;
    let owner = sys::take_passed(OWNER_FD).map_err(Failure::at(Step::ReadPlan))?;
    let plan = Plan::read(plan_file.into()).map_err(Failure::at(Step::ReadPlan))?;
    let prepared = prepare(&plan)?;
    send(report, &FromLauncher::Ready(prepared)).map_err(Failure::at(Step::Report))?;
    if matches!(plan.becomes, Becomes::Nothing) {
        return Ok(());
    }
    follow_owner(&plan, &owner)?;
    rules::filter_system_calls()?;
    match &plan.becomes {
        Becomes::Nothing => Ok(()),
        Becomes::Program { path, arguments } => {
            let mut command = Command::new(path);
            command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").current_dir("/");
            let (name, value) = WITHOUT_RESTARTABLE_SEQUENCES;
            Err(Failure::at_path(Step::Exec, path)(command.env(name, value).exec()))
        }
        Becomes::Checkpoint(_) if plan.level != JailLevel::Namespaces => {
            // Its threads would have other numbers than they had.
            Err(Failure::at(Step::Checkpoint)(std::io::Error::from_raw_os_error(libc::ENOSYS)))
        }
        Becomes::Checkpoint(layout) => {
            rules::filter_as_qemu_does()?;
            let script = sys::borrow_passed(FIRST_QEMU_FD + plan.descriptors - 1);
            Err(Failure::at(Step::Checkpoint)(checkpoint::become_process(script, layout)))
        }
    }
}

fn prepare(plan: &Plan) -> Result<Prepared, Failure> {
    let mut gaps = Vec::new();
    let own_proc = root::open_own_proc()?;
    if plan.level == JailLevel::Namespaces {
        root::build(plan)?;
    }
    gaps.extend(identity::renounce(plan, &own_proc)?);
    drop(own_proc);
    sys::close_on_exec_from(FIRST_QEMU_FD + plan.descriptors).map_err(Failure::at(Step::Descriptors))?;
    if !rules::restrict_access(plan)? {
        gaps.push(JailGap::Landlock);
    }
    Ok(Prepared { gaps })
}

/// Ties this process's life to its owner's. This comes after every change of identity, each of which unties it.
fn follow_owner(plan: &Plan, owner: &OwnedFd) -> Result<(), Failure> {
    if !plan.with_owner {
        // A later daemon that adopts the machine is not its ancestor, which Yama would ask for; hosts without Yama refuse the call.
        let _ = set_ptracer(PTracer::Any);
        return await_go_ahead(owner);
    }
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(Failure::at(Step::FollowOwner))?;
    let mut hung_up = [PollFd::from_borrowed_fd(owner.as_fd(), PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut hung_up, Some(&at_once)).map_err(Failure::at(Step::FollowOwner))?;
    if hung_up[0].revents().is_empty() {
        return Ok(());
    }
    // It ended before the signal was asked for.
    Err(Failure::at(Step::FollowOwner)(std::io::Error::from_raw_os_error(libc::ESRCH)))
}

/// Waits until the owner has noted which process this is, so that no QEMU is ever without such a note; ends with an owner that did not live
/// to do so.
fn await_go_ahead(owner: &OwnedFd) -> Result<(), Failure> {
    match rustix::io::retry_on_intr(|| rustix::io::read(owner, &mut [0; 1])) {
        Ok(1) => Ok(()),
        Ok(_) => Err(Failure::at(Step::FollowOwner)(std::io::Error::from_raw_os_error(libc::ESRCH))),
        Err(error) => Err(Failure::at(Step::FollowOwner)(error)),
    }
}

fn send(report: &mut std::fs::File, message: &FromLauncher) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    report.write_all(&line)
}
