//! Who a jailed QEMU is: nobody, with no capabilities and no way to gain any, under resource limits.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat, stat};
use rustix::io::write;
use rustix::process::{
    DumpableBehavior, Gid, Resource, Rlimit, Uid, getegid, geteuid, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::plan::{JailFailure as Failure, JailGap, JailLevel, Plan, Step};
use crate::{kvm, sys};

/// The user that QEMU is inside its own user namespace: nobody.
const INNER_ID: u32 = 65_534;
/// QEMU has a thread a virtual processor, up to 64 for disks, and a few of its own.
pub(super) const MAX_TASKS: u32 = 256;
const MAX_DESCRIPTORS: u64 = 1024;

/// The user ids that machines of root run as.
const FIRST_USER: u32 = 0x7000_0000;
const USERS: u64 = 0x1000_0000;

/// The user id of the machine in a directory: 0x70000000 to 0x7fffffff, above what distributions, user namespaces of
/// containers and systemd's dynamic users take. Two directories of one host get the same once in 268 million pairs.
pub(crate) fn dedicated_user(directory: &Path) -> u32 {
    let offset = directory_hash(directory) % USERS;
    FIRST_USER + u32::try_from(offset).unwrap_or(0)
}

/// FNV-1a, which stays the same in every version of this program.
pub(super) fn directory_hash(directory: &Path) -> u64 {
    let bytes = directory.as_os_str().as_bytes();
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Gives up every privilege; what could not be given up safely fails, what is merely missing is returned.
pub(super) fn renounce(plan: &Plan, own_proc: &OwnedFd) -> Result<Vec<JailGap>, Failure> {
    let mut gaps = Vec::new();
    empty_bounding_set();
    if let Some(user) = plan.user
        && let Err(error) = become_user(user, &device_groups(plan))
    {
        gaps.push(JailGap::User { reason: error.to_string() });
    }
    if plan.level == JailLevel::Namespaces
        && let Err(error) = enter_user_namespace(own_proc)
    {
        gaps.push(JailGap::UserNamespace { reason: error.to_string() });
    }
    // A new user namespace came with a full set.
    empty_bounding_set();
    drop_capabilities().map_err(Failure::at(Step::Identity))?;
    let counted_alone = plan.level == JailLevel::Namespaces || plan.user.is_some();
    limit_resources(plan.file_size, counted_alone).map_err(Failure::at(Step::Limits))?;
    Ok(gaps)
}

/// Needs a capability that an unprivileged owner does not have, and then has no bounding set to lose either:
/// without privileges to gain by exec (`no_new_privs`) it decides nothing.
fn empty_bounding_set() {
    // The kernel refuses the first number that it has no capability for.
    let known = (0..64).map(|bit| CapabilitySet::from_bits_retain(1 << bit));
    known.take_while(|capability| remove_capability_from_bounding_set(*capability).is_ok()).for_each(drop);
}

/// Without a root of its own QEMU opens the host's `/dev/kvm`, by the group that the node belongs to.
fn device_groups(plan: &Plan) -> Vec<Gid> {
    if !plan.kvm || plan.level == JailLevel::Namespaces {
        return Vec::new();
    }
    stat(kvm::DEVICE).map(|node| Gid::from_raw(node.st_gid)).into_iter().filter(|group| !group.is_root()).collect()
}

fn become_user(id: u32, groups: &[Gid]) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_groups(groups)?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    Ok(())
}

/// Enters a user namespace in which this user is nobody, so that even regained capabilities would mean nothing outside.
fn enter_user_namespace(own_proc: &OwnedFd) -> io::Result<()> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    sys::unshare_user_namespace()?;
    // A change of identity hides the process's own files from itself until exec.
    set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    describe(own_proc, "setgroups", "deny")?;
    describe(own_proc, "uid_map", &format!("{INNER_ID} {user} 1"))?;
    describe(own_proc, "gid_map", &format!("{INNER_ID} {group} 1"))
}

fn describe(own_proc: &OwnedFd, name: &str, text: &str) -> io::Result<()> {
    let file = openat(own_proc, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    write(&file, text.as_bytes())?;
    Ok(())
}

fn drop_capabilities() -> io::Result<()> {
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    set_no_new_privs(true)?;
    Ok(())
}

/// The number of tasks is counted by user: a limit would hit an unprivileged owner's other programs, unless QEMU has a
/// user or a user namespace of its own.
fn limit_resources(file_size: u64, counted_alone: bool) -> io::Result<()> {
    let fixed = |limit| Rlimit { current: Some(limit), maximum: Some(limit) };
    setrlimit(Resource::Core, fixed(0))?;
    setrlimit(Resource::Nofile, fixed(MAX_DESCRIPTORS))?;
    setrlimit(Resource::Fsize, fixed(file_size))?;
    if counted_alone {
        setrlimit(Resource::Nproc, fixed(u64::from(MAX_TASKS)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_directory_has_its_user_in_the_range() {
        let users: Vec<u32> = (0..100).map(|n| dedicated_user(Path::new(&format!("/run/m{n}")))).collect();
        assert!(users.iter().all(|user| (0x7000_0000..=0x7fff_ffff).contains(user)));
        let distinct: std::collections::HashSet<_> = users.iter().collect();
        assert_eq!(distinct.len(), users.len());
        assert_eq!(dedicated_user(Path::new("/run/m1")), users[1], "it must not change between runs");
    }
}
