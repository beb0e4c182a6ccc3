//! A control group for QEMU, with limits on memory and tasks, where the host lets us make one: below our own group, in
//! the unified hierarchy or in the old ones. Where it does not, the reason is reported and nothing else changes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::identity::{MAX_TASKS, directory_hash};
use super::plan::CgroupLimits;

const MOUNT: &str = "/sys/fs/cgroup";
/// All our groups' names begin so; empty ones are left over from owners that were killed.
const PREFIX: &str = "hearth-";

impl CgroupLimits {
    /// Limits for the machine in a directory, in a group below this process's own; none where there are no control groups.
    pub(crate) fn below_own(directory: &Path, memory_bytes: u64) -> Option<Self> {
        let memberships = fs::read_to_string("/proc/self/cgroup").ok()?;
        Some(Self { name: group_name(directory), memberships, memory_bytes, tasks: MAX_TASKS })
    }
}

/// The control groups that a machine of this process in a directory may get, for whoever cleans up after a process that is killed before it
/// has heard which they are.
pub fn groups_of(directory: &Path) -> Vec<PathBuf> {
    let memberships = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let name = group_name(directory);
    let parents = ["", "memory", "pids"].into_iter().filter_map(|controller| own_group(&memberships, controller));
    parents.map(|parent| parent.join(&name)).collect()
}

/// The name of the group of the machine in a directory.
fn group_name(directory: &Path) -> String {
    format!("{PREFIX}{:016x}", directory_hash(directory))
}

/// Moves this process into new groups and returns their directories, or says why that cannot be.
pub(super) fn join(limits: &CgroupLimits) -> Result<Vec<PathBuf>, String> {
    if Path::new(MOUNT).join("cgroup.controllers").exists() {
        let own = own_group(&limits.memberships, "").ok_or("not in the unified hierarchy")?;
        return join_unified(&own, limits).map(|group| vec![group]);
    }
    join_old(&limits.memberships, limits)
}

/// Finds the group of a hierarchy in lines like `4:memory:/user.slice`; the unified one has no name.
fn own_group(memberships: &str, controller: &str) -> Option<PathBuf> {
    let line = memberships.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let names = fields.next()?;
        names.split(',').any(|name| name == controller).then(|| fields.next())?
    })?;
    Some(Path::new(MOUNT).join(controller).join(line.trim_start_matches('/')))
}

fn join_unified(own: &Path, limits: &CgroupLimits) -> Result<PathBuf, String> {
    sweep(own);
    let group = make(own, &limits.name)?;
    let limited = enable_controllers(own, &group)
        .and_then(|()| put(&group, "memory.max", limits.memory_bytes))
        .and_then(|()| put(&group, "pids.max", limits.tasks))
        .and_then(|()| put(&group, "cgroup.procs", 0));
    limited.inspect_err(|_| drop(fs::remove_dir(&group)))?;
    Ok(group)
}

fn enable_controllers(own: &Path, group: &Path) -> Result<(), String> {
    let available = || {
        let text = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
        ["memory", "pids"].iter().all(|wanted| text.split_whitespace().any(|name| name == *wanted))
    };
    if available() {
        return Ok(());
    }
    // Refused while the group has processes of its own, as it has unless a service manager has delegated it emptied.
    put(own, "cgroup.subtree_control", "+memory +pids")?;
    if available() { Ok(()) } else { Err(format!("{} does not delegate memory and pids", own.display())) }
}

fn join_old(memberships: &str, limits: &CgroupLimits) -> Result<Vec<PathBuf>, String> {
    let memory = join_one_old(memberships, "memory", "memory.limit_in_bytes", limits.memory_bytes, &limits.name)?;
    let tasks = join_one_old(memberships, "pids", "pids.max", u64::from(limits.tasks), &limits.name)?;
    Ok(vec![memory, tasks])
}

fn join_one_old(memberships: &str, controller: &str, file: &str, limit: u64, name: &str) -> Result<PathBuf, String> {
    let own = own_group(memberships, controller).ok_or_else(|| format!("no {controller} hierarchy"))?;
    sweep(&own);
    let group = make(&own, name)?;
    put(&group, file, limit)
        .and_then(|()| put(&group, "cgroup.procs", 0))
        .inspect_err(|_| drop(fs::remove_dir(&group)))?;
    Ok(group)
}

/// Removes groups whose owner was killed; the kernel keeps those that are in use.
fn sweep(own: &Path) {
    let entries = fs::read_dir(own).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()))
        .for_each(|entry| drop(fs::remove_dir(entry.path())));
}

fn make(own: &Path, name: &str) -> Result<PathBuf, String> {
    let group = own.join(name);
    match fs::create_dir(&group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(format!("{}: {error}", group.display())),
        _ => Ok(group),
    }
}

fn put(group: &Path, file: &str, value: impl ToString) -> Result<(), String> {
    let path = group.join(file);
    fs::write(&path, value.to_string()).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_group_is_found_in_old_and_unified_hierarchies() {
        let old = "8:pids:/a\n5:cpu,cpuacct:/b\n4:memory:/c:d\n0::/\n";
        assert_eq!(own_group(old, "memory"), Some(PathBuf::from("/sys/fs/cgroup/memory/c:d")));
        assert_eq!(own_group(old, "cpuacct"), Some(PathBuf::from("/sys/fs/cgroup/cpuacct/b")));
        assert_eq!(own_group(old, "devices"), None);
        let unified = own_group("0::/user.slice/user-1000.slice", "").unwrap();
        assert_eq!(unified, Path::new("/sys/fs/cgroup/user.slice/user-1000.slice"));
    }
}
