//! What is in the default image, seen from outside.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::Command,
};

use crate::support::{Mounted, default_image, has, skip};

#[test]
fn owners_and_modes_are_those_of_an_installed_system() {
    let Some(mounted) = default_image().and_then(|image| Mounted::new(&image.rootfs())) else { return };
    let expect = [
        ("", 0, 0o755),
        ("usr/bin/sudo", 0, 0o4755),
        ("usr/bin/passwd", 0, 0o4755),
        ("etc/shadow", 0, 0o640),
        ("etc/sudoers.d/hearth", 0, 0o440),
        ("tmp", 0, 0o1777),
        ("root", 0, 0o700),
        ("workspace", 1000, 0o755),
        ("home/user", 1000, 0o755),
        ("home/user/.bashrc", 1000, 0o644),
        ("dev", 0, 0o755),
    ];
    for (path, uid, mode) in expect {
        let found = fs::symlink_metadata(mounted.path(path)).unwrap();
        let shown = (found.uid(), found.permissions().mode() & 0o7777);
        assert!(shown == (uid, mode), "{path:?} has owner {} and mode {:o}", shown.0, shown.1);
    }
}

#[test]
fn nothing_of_the_host_or_the_build_is_left() {
    let Some(mounted) = default_image().and_then(|image| Mounted::new(&image.rootfs())) else { return };
    let read = |path: &str| fs::read_to_string(mounted.path(path)).unwrap();
    assert_eq!(read("etc/machine-id"), "");
    assert_eq!(read("etc/resolv.conf"), "");
    assert_eq!(read("etc/hostname"), "hearth\n");
    for path in
        [".hearth", "usr/sbin/policy-rc.d", "sbin/start-stop-daemon.REAL", "var/log/dpkg.log", "usr/share/man/man1"]
    {
        assert!(!mounted.path(path).exists(), "{path} is there");
    }
    for path in ["dev", "proc", "sys", "run", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial"] {
        assert_eq!(fs::read_dir(mounted.path(path)).unwrap().count(), 0, "{path} is not empty");
    }
}

#[test]
fn nobody_can_log_in_by_password() {
    let Some(mounted) = default_image().and_then(|image| Mounted::new(&image.rootfs())) else { return };
    let shadow = fs::read_to_string(mounted.path("etc/shadow")).unwrap();
    let password = |line: &str| line.split(':').nth(1).unwrap().to_owned();
    assert!(shadow.lines().map(password).all(|hash| hash == "*" || hash == "!"), "{shadow}");
}

#[test]
fn python_finds_its_compiled_library_fresh() {
    let Some(mounted) = default_image().and_then(|image| Mounted::new(&image.rootfs())) else { return };
    let library = glob(&mounted, "usr/lib", "python3.");
    let source = fs::metadata(library.join("json/decoder.py")).unwrap();
    let cached = fs::read_dir(library.join("json/__pycache__")).unwrap().map(|entry| entry.unwrap().path());
    let compiled = cached.into_iter().find(|path| path.to_string_lossy().contains("decoder.")).unwrap();
    let header = fs::read(compiled).unwrap();
    // PEP 552: magic, flags (0: by time and size), time, size.
    let field = |at: usize| u64::from(u32::from_le_bytes(header[at..at + 4].try_into().unwrap()));
    assert_eq!((field(4), field(8), field(12)), (0, source.mtime() as u64, source.len()));
}

fn glob(mounted: &Mounted, directory: &str, prefix: &str) -> std::path::PathBuf {
    let entries = fs::read_dir(mounted.path(directory)).unwrap().map(|entry| entry.unwrap());
    let fits = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(prefix);
    entries.into_iter().find(fits).unwrap().path()
}

#[test]
fn the_filesystem_is_sound() {
    let Some(image) = default_image() else { return };
    if !has("fsck.erofs") {
        return skip("fsck.erofs is needed");
    }
    let check = Command::new("fsck.erofs").arg(image.rootfs()).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}

#[test]
fn the_manifest_says_what_is_there() {
    let Some(image) = default_image() else { return };
    let names: Vec<_> = image.manifest.packages.iter().map(|package| package.name.as_str()).collect();
    for package in ["apt", "bash", "ca-certificates", "coreutils", "git", "python3", "sudo"] {
        assert!(names.contains(&package), "{package} is missing from {names:?}");
    }
    assert_eq!(image.manifest.suite.as_str(), "bookworm");
    assert_eq!(image.manifest.rootfs_bytes, fs::metadata(image.rootfs()).unwrap().len());
    assert!(image.kernel_release().ends_with("-cloud-amd64"), "{}", image.kernel_release());
    assert!(image.modules().unwrap().len() > 100);
}
