//! What a QEMU that its guest has taken over could see and do: a script runs in its place, in its jail, and reports.

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::path::Path;

use hearth_vmm::{Confinement, MachineError, Qemu};

use crate::support::*;

/// Runs shell lines in QEMU's place and returns what they printed.
async fn from_inside(confinement: Confinement, home: &Home, lines: &str) -> String {
    let version = "case \"$1\" in --version) echo 'QEMU emulator version 9.9.9'; exit;; esac";
    let script = home.program(format!("#!/bin/sh\n{version}\n{lines}\n").as_bytes());
    let mut spec = home.spec(KINDS[0]);
    spec.confinement = confinement;
    spec.qemu = Qemu::find(Some(&script)).unwrap();
    match start_error(spec).await {
        MachineError::Died(exit) => String::from_utf8_lossy(&exit.stderr).into_owned(),
        error => panic!("{}", full_text(&error)),
    }
}

/// Tries one shell line in each jail; it must fail in both.
async fn cannot(what: &str, line: &str) {
    for confinement in CONFINEMENTS {
        let home = Home::new();
        let said =
            from_inside(confinement, &home, &format!("if {line}; then echo DID IT; else echo could not; fi")).await;
        assert!(said.contains("could not") && !said.contains("DID IT"), "{what}, {confinement:?}: {said}");
    }
}

#[tokio::test]
async fn probe_itself_can_run_programs_and_read_libraries() {
    for confinement in CONFINEMENTS {
        let home = Home::new();
        let said = from_inside(confinement, &home, "head -c 4 /usr/bin/env | tail -c 3; echo; echo $((1 + 1))").await;
        assert!(said.contains("ELF") && said.contains('2'), "{confinement:?}: {said}");
    }
}

#[tokio::test]
async fn calls_by_the_numbers_of_x32_are_refused_before_the_kernel_looks_at_them() {
    for confinement in CONFINEMENTS {
        let home = Home::new();
        // A kernel without the convention would say ENOSYS, and one with it would tell its number.
        let said =
            from_inside(confinement, &home, "perl -e 'syscall(0x40000027) < 0 and print \"error \", $! + 0, \"\\n\"'")
                .await;
        assert!(said.contains("error 1\n"), "{confinement:?}: {said}");
    }
}

#[tokio::test]
async fn files_of_the_host_cannot_be_read() {
    for path in ["/etc/shadow", "/etc/passwd", "/etc/hostname", "/proc/1/environ", "/proc/version", "/proc/cpuinfo"] {
        cannot(path, &format!("cat {path} >/dev/null 2>&1")).await;
    }
    for path in
        ["/root", "/home", "/tmp", "/var", "/etc", "/proc", "/sys", "/run", "/dev/shm", env!("CARGO_MANIFEST_DIR")]
    {
        // A root of its own has some of these, with what QEMU needs and nothing else of the host's.
        let listing = format!("ls -A {path} 2>/dev/null | grep -v -e ^self$ -e ^ld.so.cache$ -e ^{PREFIX} | grep -q .");
        cannot(path, &listing).await;
    }
}

#[tokio::test]
async fn other_machines_and_its_own_directory_are_absent() {
    let other = Home::new();
    let secret = other.file("secret", b"everybody may read this");
    cannot("another machine's file", &format!("cat {} >/dev/null 2>&1", secret.display())).await;
    for confinement in CONFINEMENTS {
        let home = Home::new();
        let own = home.machine().display().to_string();
        let said =
            from_inside(confinement, &home, &format!("ls -A {own}/ 2>/dev/null; touch {own}/x 2>&1; echo end")).await;
        assert!(said.contains("end") && !said.contains(".sock"), "{confinement:?}: {said}");
        assert_eq!(home.leftovers(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn nothing_can_be_written_anywhere() {
    let open_to_all = tempfile::tempdir().unwrap();
    std::fs::set_permissions(open_to_all.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let open_to_all = open_to_all.path().display().to_string();
    let name = format!("{PREFIX}escape-{}", std::process::id());
    for directory in
        ["/", "/usr", "/usr/bin", "/etc", "/tmp", "/var/tmp", "/dev", "/dev/shm", "/proc/self", &open_to_all]
    {
        cannot(directory, &format!("(: > {directory}/{name}) 2>/dev/null")).await;
        assert!(!Path::new(directory).join(&name).exists());
    }
}

#[tokio::test]
async fn there_is_no_network_and_no_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    cannot("TCP", &format!("bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}' 2>/dev/null")).await;
    cannot("UDP", &format!("bash -c 'exec 3<>/dev/udp/127.0.0.1/{port}' 2>/dev/null")).await;
    let said = from_inside(Confinement::Strongest, &Home::new(), "cat /proc/self/net/dev").await;
    let interfaces: Vec<&str> = said.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    assert_eq!(interfaces, ["lo"], "{said}");
}

#[tokio::test]
async fn other_processes_cannot_be_seen_or_signalled() {
    let said = from_inside(Confinement::Strongest, &Home::new(), "echo pid $$; echo in proc: $(ls /proc)").await;
    assert!(said.contains("pid 1\n") && said.contains("in proc: self\n"), "{said}");
    let owner = std::process::id();
    // Signal 0 only asks; so this test outlives a jail that leaks.
    cannot("its owner", &format!("kill -0 {owner} 2>/dev/null")).await;
    cannot("everything", "kill -0 -1 2>/dev/null").await;
}

#[tokio::test]
async fn no_privilege_is_held_or_can_be_gained() {
    let said = from_inside(Confinement::Strongest, &Home::new(), "cat /proc/self/status; echo id $(id -u)").await;
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(said.contains(&format!("{set}:\t0000000000000000\n")), "{set}: {said}");
    }
    assert!(said.contains("NoNewPrivs:\t1\n") && said.contains("id 65534\n"), "{said}");
    cannot("become root", "su -c true </dev/null >/dev/null 2>&1").await;
    cannot("mount", "mount -t tmpfs x /usr 2>/dev/null").await;
    cannot("make namespaces", "unshare -Ur true 2>/dev/null").await;
    cannot("make a device", "mknod /dev/mem c 1 1 2>/dev/null").await;
}

#[tokio::test]
async fn only_the_intended_descriptors_are_open() {
    // One that an embedding program has forgotten to mark.
    let leak = std::fs::File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    assert!(leak.as_raw_fd() > 2);
    for confinement in CONFINEMENTS {
        let home = Home::new();
        // The test's spec has control, console, memory, kernel and initramfs; a shell that looks asks by number, for it may not list.
        let look = "for n in $(seq 0 200); do if (: <&$n) 2>/dev/null; then printf '%s ' $n; fi; done; echo .";
        let said = from_inside(confinement, &home, look).await;
        let open: Vec<i32> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        // The shell itself reads its script from one more, which it numbers 10 or above.
        let intended: Vec<i32> = open.iter().copied().filter(|number| *number < 10).collect();
        assert_eq!(intended, [0, 1, 2, 6, 7, 8, 9], "{confinement:?}: {said}");
        assert!(open.len() <= 9, "{confinement:?}: {said}");
    }
}

#[tokio::test]
async fn disk_cannot_be_filled_and_no_core_is_dumped() {
    let said = from_inside(Confinement::Strongest, &Home::new(), "ulimit -c; ulimit -f; ulimit -n").await;
    let limits: Vec<u64> = said.lines().filter_map(|line| line.trim().parse().ok()).collect();
    assert_eq!(limits[0], 0);
    // In units of 512 bytes: 64 MiB of headroom beyond a disk of which there is none.
    assert_eq!(limits[1..], [131_072, 1024], "{said}");
}

#[tokio::test]
async fn probe_finds_the_jail_that_machines_get() {
    let home = Home::new();
    let spec = home.spec(KINDS[0]);
    let support = hearth_vmm::jail::probe(&spec.launcher, &home.machine()).await.unwrap();
    let machine = hearth_vmm::Machine::start(spec).await.unwrap();
    assert_eq!((support.level, &support.missing), (machine.jail().level, &machine.jail().missing));
    machine.stop().await;
}
