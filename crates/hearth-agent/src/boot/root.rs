//! The mounts of a machine: the kernel's file systems, a read-only EROFS image under a writable overlay, and what goes on top.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::mount::{MountFlags, mount, mount_move};

use super::{BootError, BootOptions};

/// The serials by which the host names the disks; their order is not promised.
const IMAGE_SERIAL: &str = "root";
const SCRATCH_SERIAL: &str = "scratch";
const LOWER: &str = "/lower";
const CHANGES: &str = "/changes";
const ROOT: &str = "/root";

const NO_PROGRAMS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
const NO_DEVICES: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

fn attach(source: &str, target: &str, kind: &str, flags: MountFlags, data: &str) -> Result<(), BootError> {
    let what = || format!("mount {source} on {target} as {kind}");
    fs::create_dir_all(target).map_err(|error| BootError::new(what(), error))?;
    let data = std::ffi::CString::new(data).expect("mount options hold no NUL");
    mount(source, target, kind, flags, Some(data.as_c_str())).map_err(|error| BootError::new(what(), error))
}

/// Mounts what the kernel itself provides.
pub(super) fn mount_kernel_filesystems() -> Result<(), BootError> {
    attach("proc", "/proc", "proc", NO_PROGRAMS, "")?;
    attach("sysfs", "/sys", "sysfs", NO_PROGRAMS, "")?;
    attach("devtmpfs", "/dev", "devtmpfs", MountFlags::NOSUID, "mode=0755")
}

/// Mounts the image under an overlay that keeps changes in memory, or on the scratch disk. Returns the root of the disk's file system, which
/// has no path once the overlay is the root.
pub(super) fn mount_root(options: &BootOptions) -> Result<Option<fs::File>, BootError> {
    attach(&disk(IMAGE_SERIAL)?, LOWER, "erofs", MountFlags::RDONLY, "")?;
    match options.scratch {
        // Without a journal that can be written the kernel neither writes nor drops what programs have written, and has them wait for ever.
        true => attach(&disk(SCRATCH_SERIAL)?, CHANGES, "ext4", MountFlags::NOATIME, "errors=panic")?,
        false => attach("changes", CHANGES, "tmpfs", MountFlags::empty(), "mode=0755")?,
    }
    for directory in ["upper", "work"] {
        let path = Path::new(CHANGES).join(directory);
        fs::create_dir_all(&path).map_err(|error| BootError::new(format!("make {}", path.display()), error))?;
    }
    let layers = format!("lowerdir={LOWER},upperdir={CHANGES}/upper,workdir={CHANGES}/work");
    attach("overlay", ROOT, "overlay", MountFlags::empty(), &layers)?;
    let scratch = options.scratch.then(|| fs::File::open(CHANGES)).transpose();
    scratch.map_err(|error| BootError::new(format!("open {CHANGES}"), error))
}

/// The device of the disk with this serial.
fn disk(serial: &str) -> Result<String, BootError> {
    let entries = fs::read_dir("/sys/block").map_err(|error| BootError::new("list the disks", error))?;
    let has_serial =
        |path: &std::path::PathBuf| fs::read_to_string(path.join("serial")).is_ok_and(|text| text.trim() == serial);
    let found = entries.flatten().map(|entry| entry.path()).find(has_serial);
    let name = found.as_deref().and_then(Path::file_name).map(|name| format!("/dev/{}", name.to_string_lossy()));
    name.ok_or_else(|| {
        BootError::new(format!("find the disk with serial {serial}"), io::Error::from(io::ErrorKind::NotFound))
    })
}

/// Makes the overlay the root, takes the kernel's file systems along, and gives the initramfs's memory back.
pub(super) fn enter() -> Result<(), BootError> {
    let failed = |what: &'static str| move |error: rustix::io::Errno| BootError::new(what, error);
    for name in ["proc", "sys", "dev"] {
        let target = format!("{ROOT}/{name}");
        fs::create_dir_all(&target).map_err(|error| BootError::new(format!("make {target}"), error))?;
        mount_move(format!("/{name}"), &target).map_err(|error| BootError::new(format!("move /{name}"), error))?;
    }
    // The agent goes on running from the file that is removed here; what cannot be removed costs memory, no more.
    let _ = fs::remove_file("/init");
    let _ = fs::remove_dir_all(super::MODULES);
    std::env::set_current_dir(ROOT).map_err(|error| BootError::new("enter the root", error))?;
    mount_move(".", "/").map_err(failed("move the root"))?;
    rustix::process::chroot(".").map_err(failed("change the root"))?;
    std::env::set_current_dir("/").map_err(|error| BootError::new("enter the root", error))
}

/// Mounts what a running system expects.
pub(super) fn mount_runtime_filesystems(options: &BootOptions) -> Result<(), BootError> {
    attach("run", "/run", "tmpfs", NO_DEVICES, "mode=0755")?;
    attach("lock", "/run/lock", "tmpfs", NO_PROGRAMS, "mode=1777")?;
    if !options.scratch {
        // With a scratch disk /tmp stays on it, where there is more room.
        attach("tmp", "/tmp", "tmpfs", NO_DEVICES, "mode=1777")?;
    }
    attach(
        "devpts",
        "/dev/pts",
        "devpts",
        MountFlags::NOSUID.union(MountFlags::NOEXEC),
        "gid=5,mode=0620,ptmxmode=0666",
    )?;
    attach("shm", "/dev/shm", "tmpfs", NO_DEVICES, "mode=1777")?;
    // Found missing, process trees are tracked by walking /proc; the info request says so.
    let _ = attach("cgroup2", "/sys/fs/cgroup", "cgroup2", NO_PROGRAMS, "nsdelegate");
    for (link, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        make_link(target, &format!("/dev/{link}"))?;
    }
    Ok(())
}

fn make_link(target: &str, link: &str) -> Result<(), BootError> {
    match symlink(target, link) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(BootError::new(format!("link {link}"), error))
        }
        _ => Ok(()),
    }
}
