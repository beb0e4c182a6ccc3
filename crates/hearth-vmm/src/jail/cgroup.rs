//! A control group for QEMU, with limits on memory and tasks, where the host lets us make one: below our own group, in
//! the unified hierarchy or in the old ones. Where it does not, the reason is reported and nothing else changes.
//!
//! Its owner puts the launcher into it, while that builds the rest of the jail: the kernel takes some 10 ms for a process that changes its
//! group, all of it waiting.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::identity::{MAX_TASKS, directory_hash};

const MOUNT: &str = "/sys/fs/cgroup";
/// All our groups' names begin so.
const PREFIX: &str = "hearth-";
/// The file of a group into which the processes are written that it is to have.
const PROCESSES: &str = "cgroup.procs";

/// Limits for QEMU's control group.
#[derive(Clone, Debug)]
pub(crate) struct CgroupLimits {
    /// The group's name, below this process's own group.
    name: String,
    memory_bytes: u64,
    tasks: u32,
}

impl CgroupLimits {
    /// Limits for the machine in a directory.
    pub(crate) fn of(directory: &Path, memory_bytes: u64) -> Self {
        Self { name: group_name(directory), memory_bytes, tasks: MAX_TASKS }
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

/// The control groups of one machine. Dropping this removes them, which the kernel does when they are empty.
#[derive(Debug, Default)]
pub(crate) struct Groups(Vec<PathBuf>);

impl Groups {
    /// Those of a machine that was taken over.
    pub(crate) fn noted(directories: Vec<PathBuf>) -> Self {
        Self(directories)
    }

    fn make(&mut self, own: &Path, name: &str) -> Result<PathBuf, String> {
        let group = own.join(name);
        match fs::create_dir(&group) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(format!("{}: {error}", group.display())),
            _ => {
                self.0.push(group.clone());
                Ok(group)
            }
        }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        self.0.iter().for_each(|group| drop(fs::remove_dir(group)));
    }
}

/// Moves a process into new groups, or says why that cannot be.
pub(crate) fn confine(process: u32, limits: &CgroupLimits) -> Result<Groups, String> {
    let memberships = fs::read_to_string("/proc/self/cgroup").map_err(|error| format!("/proc/self/cgroup: {error}"))?;
    if Path::new(MOUNT).join("cgroup.controllers").exists() {
        let own = own_group(&memberships, "").ok_or("not in the unified hierarchy")?;
        return confine_unified(process, &own, limits);
    }
    let mut groups = Groups::default();
    let kinds = [("memory", "memory.limit_in_bytes", limits.memory_bytes), ("pids", "pids.max", limits.tasks.into())];
    for (controller, file, limit) in kinds {
        let own = own_group(&memberships, controller).ok_or_else(|| format!("no {controller} hierarchy"))?;
        let group = groups.make(&own, &limits.name)?;
        put(&group, file, limit)?;
        put(&group, PROCESSES, process)?;
    }
    Ok(groups)
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

fn confine_unified(process: u32, own: &Path, limits: &CgroupLimits) -> Result<Groups, String> {
    let mut groups = Groups::default();
    let group = groups.make(own, &limits.name)?;
    enable_controllers(own, &group)?;
    put(&group, "memory.max", limits.memory_bytes)?;
    put(&group, "pids.max", limits.tasks)?;
    put(&group, PROCESSES, process)?;
    Ok(groups)
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
