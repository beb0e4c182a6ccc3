//! Finds out, before anything is created, what would make a build fail.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{BuildSpec, KernelSource, apt::KEYRING, assemble::scratch_parent, run::find_tool};
use crate::{ImageError, KernelError, error::At, kernel, store::Layout};

/// Programs that a build runs, and the packages that have them.
const TOOLS: [(&str, &str); 7] = [
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
    ("flock", "util-linux"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
    ("mmdebstrap", "mmdebstrap"),
    ("mkfs.erofs", "erofs-utils"),
];

/// What a build of the default image takes at its height, with room to spare: the unpacked packages (360 MB), the
/// filesystem twice (200 MB each), downloads (90 MB) and the kernel twice (110 MB each).
const SPACE_MIB: u64 = 1500;

/// Checks the host and the caller's files.
pub(super) fn check(layout: &Layout, spec: &BuildSpec) -> Result<(), ImageError> {
    let missing = TOOLS.into_iter().find(|(tool, _)| find_tool(tool).is_none());
    if let Some((tool, package)) = missing {
        return Err(ImageError::ToolMissing { tool, package });
    }
    if !Path::new(KEYRING).is_file() {
        return Err(ImageError::KeyringMissing { path: KEYRING.into() });
    }
    if !rustix::process::geteuid().is_root() {
        check_subordinate_ids()?;
    }
    check_kernel(&spec.kernel)?;
    check_space(&layout.staging())?;
    check_space(&scratch_parent(&layout.staging()))
}

fn check_kernel(source: &KernelSource) -> Result<(), ImageError> {
    let KernelSource::File { kernel, modules } = source else { return Ok(()) };
    kernel::release_of(kernel)?;
    match modules {
        Some(directory) if !directory.is_dir() => Err(KernelError::NoModules { path: directory.clone() }.into()),
        _ => Ok(()),
    }
}

fn check_space(directory: &Path) -> Result<(), ImageError> {
    let found = rustix::fs::statvfs(directory).map_err(std::io::Error::from).reading(directory)?;
    let free_mib = (found.f_bavail * found.f_frsize) >> 20;
    if free_mib < SPACE_MIB {
        return Err(ImageError::TooLittleSpace { path: directory.to_owned(), free_mib, needed_mib: SPACE_MIB });
    }
    Ok(())
}

/// A namespace with more than one user needs a range of ids and the setuid programs that hand it out.
fn check_subordinate_ids() -> Result<(), ImageError> {
    if find_tool("newuidmap").is_none() {
        return Err(ImageError::ToolMissing { tool: "newuidmap", package: "uidmap" });
    }
    let uid = rustix::process::getuid().as_raw();
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = user_name(&users, uid);
    for file in ["/etc/subuid", "/etc/subgid"] {
        let ranges = fs::read_to_string(file).unwrap_or_default();
        if !has_range(&ranges, name, uid) {
            let user = name.map_or_else(|| uid.to_string(), str::to_owned);
            return Err(ImageError::NoSubordinateIds { user, file: PathBuf::from(file) });
        }
    }
    Ok(())
}

/// Looks up a user's name in the text of a passwd file.
fn user_name(users: &str, uid: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

/// Tells whether a subuid file gives the user a range that can hold a Debian system's ids.
fn has_range(ranges: &str, name: Option<&str>, uid: u32) -> bool {
    ranges.lines().any(|line| {
        let mut fields = line.split(':');
        let owner = fields.next();
        let owned = owner.is_some() && (owner == name || owner == Some(uid.to_string().as_str()));
        owned && fields.nth(1).and_then(|count| count.parse::<u32>().ok()).is_some_and(|count| count >= 65536)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let users = "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(user_name(users, 1000), Some("ann"));
        assert!(has_range("bob:100000:65536\nann:165536:65536\n", Some("ann"), 1000));
        assert!(has_range("1000:165536:65536\n", None, 1000));
        assert!(!has_range("ann:165536:1000\n", Some("ann"), 1000));
        assert!(!has_range("bob:100000:65536\n", Some("ann"), 1000));
        assert!(!has_range("", None, 1000));
    }
}
