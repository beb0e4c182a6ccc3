//! Machines that cannot be: a typed error at once, and nothing left.

use std::os::unix::fs::PermissionsExt;

use hearth_vmm::{Disk, HostFlush, LaunchError, Machine, MachineError, PortName, Qemu, QemuError, SocketError};

use crate::support::*;

fn fake_qemu(home: &Home, script: &str) -> std::path::PathBuf {
    home.file("qemu", format!("#!/bin/sh\n{script}\n").as_bytes())
}

#[test]
fn qemu_that_is_too_old_is_refused_with_the_remedy() {
    let home = Home::new();
    let path = fake_qemu(&home, "echo 'QEMU emulator version 6.2.0 (Debian 1:6.2+dfsg-2ubuntu6)'");
    let error = Qemu::find(Some(&path)).unwrap_err();
    assert!(matches!(&error, QemuError::TooOld { version, .. } if version.major == 6), "{error}");
    assert!(error.to_string().contains("7.2.0 or newer"), "{error}");
}

#[tokio::test]
async fn missing_kernel_is_found_before_anything_is_created() {
    let home = Home::new();
    let mut spec = home.spec(KINDS[0]);
    spec.kernel = "/nonexistent/vmlinuz".into();
    let error = start_error(spec).await;
    assert!(matches!(error, MachineError::Open { what: "kernel", .. }), "{error}");
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn file_that_is_none_is_refused_without_waiting_for_it() {
    let home = Home::new();
    let fifo = home.machine().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let mut spec = home.spec(KINDS[0]);
    spec.disks = vec![Disk {
        path: fifo,
        overlays: Vec::new(),
        serial: "root".into(),
        read_only: true,
        host_flush: HostFlush::Pass,
    }];
    let error = start_error(spec).await;
    assert!(matches!(error, MachineError::NotAFile { what: "disk", .. }), "{error}");
}

#[tokio::test]
async fn directory_open_to_others_is_refused() {
    let home = Home::new();
    let spec = home.spec(KINDS[0]);
    std::fs::set_permissions(home.machine(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = start_error(spec).await;
    assert!(matches!(error, MachineError::Socket(SocketError::DirectoryNotPrivate { .. })), "{error}");
}

#[tokio::test]
async fn socket_path_that_is_too_long_is_refused_before_any_socket_is_made() {
    let home = Home::new();
    let mut spec = home.spec(KINDS[0]);
    // The shorter names fit and the port's does not.
    let room = hearth_vmm::MAX_SOCKET_PATH - home.machine().as_os_str().len() - "/qmp.sock".len();
    spec.directory = home.machine().join("d".repeat(room - "console".len()));
    std::fs::create_dir(&spec.directory).unwrap();
    std::fs::set_permissions(&spec.directory, std::fs::Permissions::from_mode(0o700)).unwrap();
    spec.ports = vec![PortName::new("p".repeat(32)).unwrap()];
    let directory = spec.directory.clone();
    let error = start_error(spec).await;
    assert!(matches!(error, MachineError::Socket(SocketError::PathTooLong { .. })), "{error}");
    assert_eq!(std::fs::read_dir(directory).unwrap().count(), 0);
}

#[tokio::test]
async fn qemu_that_dies_at_its_start_is_reported_with_its_words() {
    for confinement in CONFINEMENTS {
        let home = Home::new();
        let mut spec = home.spec(KINDS[0]);
        spec.confinement = confinement;
        spec.kernel = home.file("kernel", b"this is no kernel");
        let error = start_error(spec).await;
        let MachineError::Died(exit) = &error else { panic!("{error:?}") };
        assert_eq!(exit.status.unwrap().code(), Some(1));
        assert!(error.to_string().contains("qemu"), "{error}");
        assert_eq!((home.leftovers(), jail_mounts()), (vec![], 0));
    }
}

#[tokio::test]
async fn launcher_that_is_none_is_named() {
    let home = Home::new();
    for (program, expected) in
        [("/bin/true", "did not act as the jail launcher"), ("/nonexistent", "run the jail launcher")]
    {
        let mut spec = home.spec(KINDS[0]);
        spec.launcher.program = program.into();
        let error = start_error(spec).await;
        assert!(matches!(error, MachineError::Launch(_)), "{error:?}");
        assert!(full_text(&error).contains(expected), "{}", full_text(&error));
        assert_eq!(home.leftovers(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn qemu_that_vanished_is_a_typed_error() {
    let home = Home::new();
    let mut spec = home.spec(KINDS[0]);
    let path = fake_qemu(&home, "echo 'QEMU emulator version 9.0.0'");
    spec.qemu = Qemu::find(Some(&path)).unwrap();
    std::fs::remove_file(&path).unwrap();
    let error = start_error(spec).await;
    assert!(matches!(error, MachineError::Launch(LaunchError::Launch { .. })), "{error:?}");
    assert!(full_text(&error).contains("cannot run QEMU"), "{}", full_text(&error));
}

#[tokio::test]
async fn second_machine_in_a_directory_is_refused_and_the_first_unharmed() {
    let home = Home::new();
    let first = Machine::start(home.spec(KINDS[0])).await.unwrap();
    let error = start_error(home.spec(KINDS[0])).await;
    assert!(matches!(error, MachineError::Socket(SocketError::Bind { .. })), "{error:?}");
    assert_eq!(first.qmp().await.unwrap().execute("query-status", None).await.unwrap()["status"], "running");
    first.stop().await;
}
