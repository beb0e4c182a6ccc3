//! What a jailed QEMU may open and call: Landlock, and a filter of system calls.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use super::plan::{JailFailure as Failure, JailLevel, Plan, Step};
use super::root::{LIBRARY_CACHE, NULL_DEVICE, SYSTEM};
use crate::{kvm, sys};

/// The newest version whose rights are asked for; an older kernel gives what it has.
const LANDLOCK: ABI = ABI::V6;

/// Lets this process open its programs for reading, its devices, and nothing else; TCP, abstract sockets and signals to
/// others are closed. Returns whether the kernel could do any of it.
pub(super) fn restrict_access(plan: &Plan) -> Result<bool, Failure> {
    let status = apply_landlock(plan)
        .map_err(|_| Failure::at(Step::Landlock)(std::io::Error::from_raw_os_error(libc::EINVAL)))?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

fn apply_landlock(plan: &Plan) -> Result<RestrictionStatus, RulesetError> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?;
    let ruleset = allow_paths(ruleset, &readable_paths(plan), AccessFs::from_read(LANDLOCK))?;
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let mut devices = vec![Path::new(NULL_DEVICE)];
    devices.extend(plan.kvm.then_some(Path::new(kvm::DEVICE)));
    let ruleset = allow_paths(ruleset, &devices, device)?;
    allow_reopened(ruleset, &plan.reopened)?.restrict_self()
}

/// In a root of its own everything that can be seen may be read.
fn readable_paths(plan: &Plan) -> Vec<&Path> {
    if plan.level == JailLevel::Namespaces {
        return vec![Path::new("/")];
    }
    let system = SYSTEM.into_iter().chain([LIBRARY_CACHE]).map(Path::new);
    system.chain(plan.installation.as_deref()).collect()
}

/// Paths that are not there cannot be opened either.
fn allow_paths(
    mut ruleset: RulesetCreated,
    paths: &[&Path],
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    for path in paths {
        let Ok(opened) = PathFd::new(path) else { continue };
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(LANDLOCK) };
        ruleset = ruleset.add_rule(PathBeneath::new(opened, access))?;
    }
    Ok(ruleset)
}

fn allow_reopened(mut ruleset: RulesetCreated, numbers: &[RawFd]) -> Result<RulesetCreated, RulesetError> {
    for number in numbers {
        let file = sys::borrow_passed(*number);
        let rule: PathBeneath<BorrowedFd<'_>> = PathBeneath::new(file, AccessFs::ReadFile);
        ruleset = ruleset.add_rule(rule)?;
    }
    Ok(ruleset)
}

/// Calls that QEMU has no use for here and that its own filter leaves open. The kernel's answer is EPERM.
const REFUSED: [libc::c_long; 43] = [
    // Its sockets are passed to it; so no network, and no local service's socket either, whatever the level.
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Signals to others; older kernels' Landlock does not stop them. Its own threads QEMU signals by tgkill, see below.
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_send_signal,
    // Namespaces and mounts.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    // Parts of the kernel with much surface and no use.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
];

/// Calls that a program which has begun has no use for, beside those above: what QEMU's own filter closes once it runs
/// (`-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny`).
const REFUSED_AT_LAST: [libc::c_long; 27] = [
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setpgid,
    libc::SYS_setsid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setpriority,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setaffinity,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_syslog,
    libc::SYS__sysctl,
    libc::SYS_sysfs,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_acct,
];

/// Filters system calls from here on, exec and all threads included.
pub(super) fn filter_system_calls() -> Result<(), Failure> {
    apply(filters())
}

/// As QEMU does itself when it has begun, for one that becomes what it was.
pub(super) fn filter_as_qemu_does() -> Result<(), Failure> {
    let mut refused: Rules = REFUSED_AT_LAST.iter().map(|call| (*call, Vec::new())).collect();
    let another_process = || {
        let thread = libc::CLONE_THREAD as u64;
        let unset = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), 0)?;
        SeccompRule::new(vec![unset])
    };
    apply(another_process().and_then(|rule| {
        refused.insert(libc::SYS_clone, vec![rule]);
        Ok(vec![filter(refused, libc::EPERM)?])
    }))
}

fn apply(filters: Result<Vec<BpfProgram>, BackendError>) -> Result<(), Failure> {
    let failed = |_| Failure::at(Step::SystemCalls)(std::io::Error::from_raw_os_error(libc::EINVAL));
    for program in filters.map_err(failed)? {
        seccompiler::apply_filter(&program)
            .map_err(|_| Failure::at(Step::SystemCalls)(std::io::Error::last_os_error()))?;
    }
    Ok(())
}

/// Refuses calls by the numbers of the x32 convention, which a kernel may have, and which mean other calls to the filters below.
fn without_x32() -> BpfProgram {
    const BIT: u32 = 0x4000_0000;
    // linux/bpf_common.h; the number is the first word of what a filter sees.
    let instruction = |code: u32, jf, k| sock_filter { code: code as u16, jt: 0, jf, k };
    vec![
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 1, BIT),
        instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

fn filters() -> Result<Vec<BpfProgram>, BackendError> {
    let mut refused: Rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    refused.insert(libc::SYS_clone, new_namespace_rules()?);
    refused.insert(libc::SYS_tgkill, vec![not_to_itself()?]);
    Ok(vec![
        without_x32(),
        filter(refused, libc::EPERM)?,
        // The C library then uses clone, whose flags a filter can read.
        filter([(libc::SYS_clone3, Vec::new())].into(), libc::ENOSYS)?,
        // QEMU calls listen again on sockets that listen already, which would make its credentials those that clients
        // see. Answered with success and not done, the sockets stay the owner's.
        filter([(libc::SYS_listen, Vec::new())].into(), 0)?,
    ])
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// This process keeps its number when it becomes QEMU.
fn not_to_itself() -> Result<SeccompRule, BackendError> {
    let own = u64::from(std::process::id());
    SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, own)?])
}

fn new_namespace_rules() -> Result<Vec<SeccompRule>, BackendError> {
    const NAMESPACES: [libc::c_int; 7] = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];
    let rule = |flag: libc::c_int| {
        let flag = flag as u64;
        let set = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)?;
        SeccompRule::new(vec![set])
    };
    NAMESPACES.into_iter().map(rule).collect()
}

fn filter(rules: Rules, errno: i32) -> Result<BpfProgram, BackendError> {
    let answer = SeccompAction::Errno(errno as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, answer, TargetArch::x86_64)?.try_into()
}
