//! The proof that kernel, modules, initramfs and root filesystem fit together: a guest boots from them.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use hearth_image::{Image, Initramfs};

use crate::support::{default_image, has, skip};

/// What the engine will want loaded.
const WANTED: [&str; 7] = ["virtio_mmio", "virtio_pci", "virtio_console", "virtio_blk", "erofs", "overlay", "ext4"];

/// Loads the modules in the order of the list, mounts the root filesystem under an overlay, and runs some of it.
const INIT: &str = r#"#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc p /proc; $B mount -t devtmpfs d /dev
while read -r module; do $B insmod "/modules/$module" || echo "REFUSED $module"; done < /modules/order
$B mount -t erofs -o ro /dev/vda /lower && $B mount -t tmpfs t /over && $B mkdir /over/up /over/work
$B mount -t overlay -o lowerdir=/lower,upperdir=/over/up,workdir=/over/work o /root || echo "NO ROOT"
$B mount -t devtmpfs d /root/dev; $B mount -t proc p /root/proc
$B chroot /root /bin/bash -c '
  echo "release $(uname -r)"
  echo "user $(su user -c "cd && pwd && id -un && sudo -n id -u" | tr "\n" " ")"
  echo "python $(python3 -c "import sys, json; print(sys.version_info[0])")"
  echo "git $(git --version | cut -d" " -f1-2)"
  echo "written $(su user -c "echo x > /workspace/f && cat /workspace/f")"
'
echo "order-done"
$B reboot -f
"#;

#[test]
fn the_image_boots_with_its_modules_in_their_order() {
    let Some(image) = default_image() else { return };
    if !has("qemu-system-x86_64") || !Path::new("/bin/busybox").exists() {
        return skip("qemu-system-x86 and busybox-static are needed");
    }
    for machine in ["pc", "microvm"] {
        let console = boot(&image, machine);
        let expect = [
            format!("release {}", image.kernel_release()),
            "user /home/user user 0".to_owned(),
            "python 3".to_owned(),
            "git git version".to_owned(),
            "written x".to_owned(),
            "order-done".to_owned(),
        ];
        for line in expect {
            assert!(console.contains(&line), "{machine}: no {line:?} in:\n{console}");
        }
        assert!(!console.contains("REFUSED") && !console.contains("NO ROOT"), "{machine}:\n{console}");
    }
}

fn boot(image: &Image, machine: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let initrd = directory.path().join("initrd");
    fs::write(&initrd, initramfs(image)).unwrap();
    let device = if machine == "microvm" { "virtio-blk-device" } else { "virtio-blk-pci" };
    let output = Command::new("timeout")
        .args(["120", "qemu-system-x86_64", "-M", machine, "-accel", "tcg", "-cpu", "max", "-m", "512"])
        .args(["-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-serial", "stdio"])
        .arg("-kernel")
        .arg(image.kernel())
        .arg("-initrd")
        .arg(&initrd)
        .args(["-append", &format!("console=ttyS0 quiet panic=-1 reboot=t tsc_early_khz={}", tsc_khz())])
        .arg("-drive")
        .arg(format!("if=none,id=root,format=raw,readonly=on,file={}", image.rootfs().display()))
        .args(["-device", &format!("{device},drive=root")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn initramfs(image: &Image) -> Vec<u8> {
    let order = image.modules().unwrap().load_order(&WANTED).unwrap();
    let mut archive = Initramfs::new()
        .character_device("dev/console", 0o600, (5, 1))
        .and_then(|archive| archive.file("init", 0o755, INIT.as_bytes()))
        .and_then(|archive| archive.file("bin/busybox", 0o755, &fs::read("/bin/busybox").unwrap()))
        .unwrap();
    for mount_point in ["proc", "lower", "over", "root"] {
        archive = archive.directory(mount_point, 0o755).unwrap();
    }
    let mut list = String::new();
    for module in &order {
        list += &format!("{}.ko\n", module.name);
        let path = format!("modules/{}.ko", module.name);
        archive = archive.file(&path, 0o644, &fs::read(&module.path).unwrap()).unwrap();
    }
    archive.file("modules/order", 0o644, list.as_bytes()).unwrap().finish()
}

/// Under emulation the guest's time stamp counter is the host's, and `microvm` has nothing to measure it by.
fn tsc_khz() -> u64 {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap();
    let mhz = cpus.lines().find_map(|line| line.strip_prefix("cpu MHz")?.rsplit(' ').next()?.parse::<f64>().ok());
    (mhz.unwrap_or(2000.0) * 1000.0) as u64
}
