//! The root that a jailed QEMU sees: a small read-only tree made of bind mounts.

use std::ffi::CString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, chown, makedev, mknodat, open, stat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change, unmount,
};
use rustix::process::{Gid, Uid, chdir, pivot_root};
use rustix::system::sethostname;

use super::plan::{JailFailure as Failure, Plan, Step};
use crate::kvm;
use crate::sys;

/// Programs and libraries; where `/lib` and its like are links into `/usr`, they are made as the same links.
pub(super) const SYSTEM: [&str; 6] = ["/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin"];
pub(super) const LIBRARY_CACHE: &str = "/etc/ld.so.cache";
pub(super) const NULL_DEVICE: &str = "/dev/null";

const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
/// A device node must stay one.
const DEVICE: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;

/// Opens this process's own directory of `/proc`, through which it can still describe itself when `/proc` is gone.
pub(super) fn open_own_proc() -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open("/proc/self", flags, Mode::empty()).map_err(Failure::at_path(Step::Mount, "/proc/self"))
}

/// Builds the root and moves into it. Afterwards nothing of the host's tree can be reached but what was bound.
pub(super) fn build(plan: &Plan) -> Result<(), Failure> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(at("/"))?;
    let root = NewRoot::mount(&plan.mount_point)?;
    root.add_system(plan.installation.as_deref())?;
    root.add_devices(plan)?;
    // Its own entry and no other: QEMU opens the kernel and its memory again through `/proc/self/fd`.
    root.bind(Path::new("/proc/self"), libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC)?;
    root.enter()?;
    // The host's name is nobody's business in there; failing to hide it is no reason not to run.
    let _ = sethostname(b"jail");
    Ok(())
}

fn at<E: Into<std::io::Error>>(path: impl AsRef<Path>) -> impl FnOnce(E) -> Failure {
    Failure::at_path(Step::Mount, path)
}

struct NewRoot<'a> {
    path: &'a Path,
}

impl<'a> NewRoot<'a> {
    fn mount(path: &'a Path) -> Result<Self, Failure> {
        let flags = MountFlags::NOSUID | MountFlags::NOATIME;
        mount("hearth-jail", path, "tmpfs", flags, c"mode=0755,size=256k,nr_inodes=256").map_err(at(path))?;
        Ok(Self { path })
    }

    fn inside(&self, path: &Path) -> PathBuf {
        self.path.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn add_system(&self, installation: Option<&Path>) -> Result<(), Failure> {
        for path in SYSTEM.map(Path::new) {
            match fs::read_link(path) {
                Ok(target) => symlink(target, self.inside(path)).map_err(at(path))?,
                Err(_) if path.is_dir() => self.bind(path, READ_ONLY)?,
                Err(_) => {}
            }
        }
        if let Some(path) = installation {
            self.bind(path, READ_ONLY)?;
        }
        let cache = Path::new(LIBRARY_CACHE);
        if cache.exists() { self.bind(cache, READ_ONLY) } else { Ok(()) }
    }

    fn add_devices(&self, plan: &Plan) -> Result<(), Failure> {
        self.bind(Path::new(NULL_DEVICE), DEVICE)?;
        match (plan.kvm, plan.user) {
            (false, _) => Ok(()),
            (true, None) => self.bind(Path::new(kvm::DEVICE), DEVICE),
            // The host's node is closed to the user that QEMU becomes, so it gets one of its own.
            (true, Some(user)) => self.make_kvm_node(user),
        }
    }

    fn make_kvm_node(&self, user: u32) -> Result<(), Failure> {
        let device = stat(kvm::DEVICE).map_err(at(kvm::DEVICE))?.st_rdev;
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let node = self.inside(Path::new(kvm::DEVICE));
        mknodat(CWD, &node, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, makedev(major, minor))
            .map_err(at(&node))?;
        chown(&node, Some(Uid::from_raw(user)), Some(Gid::from_raw(user))).map_err(at(&node))
    }

    /// Makes a host path appear at the same place inside.
    fn bind(&self, path: &Path, attributes: u64) -> Result<(), Failure> {
        let target = self.inside(path);
        self.make_target(path, &target).map_err(at(&target))?;
        mount_bind_recursive(path, &target).map_err(at(path))?;
        let target = CString::new(target.as_os_str().as_bytes()).map_err(std::io::Error::from).map_err(at(path))?;
        sys::add_mount_attributes(&target, attributes, true).map_err(at(path))
    }

    fn make_target(&self, path: &Path, target: &Path) -> std::io::Result<()> {
        let directory = if path.is_dir() { target } else { target.parent().unwrap_or(self.path) };
        fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        if path.is_dir() { Ok(()) } else { fs::File::create(target).map(drop) }
    }

    fn enter(&self) -> Result<(), Failure> {
        chdir(self.path).map_err(at(self.path))?;
        // With both names the same, the old root is stacked on the new one and is the next to be unmounted here.
        pivot_root(".", ".").map_err(at(self.path))?;
        unmount(".", UnmountFlags::DETACH).map_err(at("/"))?;
        chdir("/").map_err(at("/"))?;
        sys::add_mount_attributes(c"/", libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID, false).map_err(at("/"))
    }
}
