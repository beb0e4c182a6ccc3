//! Machines that run, from start to stop.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use hearth_vmm::{Accelerator, Adoption, Disk, HostFlush, Lifetime, Machine, MachineError, PortName};

use crate::guest::{self, Then};
use crate::support::*;

#[tokio::test]
async fn every_board_boots_in_every_jail_and_stop_leaves_nothing() {
    for kind in KINDS {
        for confinement in CONFINEMENTS {
            let home = Home::new();
            let mut spec = home.spec(kind);
            spec.confinement = confinement;
            spec.ports = vec![PortName::new("control").unwrap(), PortName::new("bulk").unwrap()];
            let machine = Machine::start(spec).await.unwrap();
            console_says(&machine, LINE.trim()).await;
            let pid = machine.pid();
            assert!(process_exists(pid));
            let exit = machine.stop().await;
            assert!(exit.status.unwrap().success(), "{exit:?}");
            assert!(!process_exists(pid), "{kind:?}, {confinement:?}");
            assert_eq!((home.leftovers(), jail_mounts()), (vec![], 0), "{kind:?}, {confinement:?}");
        }
    }
}

#[tokio::test]
async fn ports_listen_from_the_start_and_are_served_as_this_user() {
    let home = Home::new();
    let mut spec = home.spec(KINDS[0]);
    let names = ["one", "two"].map(|name| PortName::new(name).unwrap());
    spec.ports = names.to_vec();
    let machine = Machine::start(spec).await.unwrap();
    for name in &names {
        // Again and again: QEMU goes on listening.
        for _ in 0..3 {
            let stream = UnixStream::connect(machine.port_path(name).unwrap()).unwrap();
            let peer = rustix::net::sockopt::socket_peercred(&stream).unwrap();
            assert_eq!(peer.uid, rustix::process::geteuid());
        }
    }
    assert_eq!(machine.port_path(&PortName::new("three").unwrap()), None);
    machine.stop().await;
}

#[tokio::test]
async fn control_connection_answers_and_tells_events() {
    let home = Home::new();
    let machine = Machine::start(home.spec(KINDS[0])).await.unwrap();
    let mut events = machine.qmp().await.unwrap().events();
    let status = machine.qmp().await.unwrap().execute("query-status", None).await.unwrap();
    assert_eq!(status["status"], "running");
    machine.qmp().await.unwrap().execute("stop", None).await.unwrap();
    assert_eq!(events.recv().await.unwrap().name, "STOP");
    machine.stop().await;
}

#[tokio::test]
async fn passed_descriptor_takes_the_machines_state() {
    let home = Home::new();
    let machine = Machine::start(home.spec(KINDS[0])).await.unwrap();
    console_says(&machine, LINE.trim()).await;
    let (read, write) = rustix::pipe::pipe().unwrap();
    let reader = std::thread::spawn(move || std::io::copy(&mut std::fs::File::from(read), &mut std::io::sink()));
    let mut events = machine.qmp().await.unwrap().events();
    machine
        .qmp()
        .await
        .unwrap()
        .execute(
            "migrate-set-capabilities",
            Some(serde_json::json!({
                "capabilities": [{ "capability": "events", "state": true }]
            })),
        )
        .await
        .unwrap();
    machine.qmp().await.unwrap().pass_fd("state", write).await.unwrap();
    machine.qmp().await.unwrap().execute("migrate", Some(serde_json::json!({ "uri": "fd:state" }))).await.unwrap();
    loop {
        let event = events.recv().await.unwrap();
        if event.name == "MIGRATION" && event.data["status"] == "completed" {
            break;
        }
        assert_ne!(event.data["status"], "failed");
    }
    machine.stop().await;
    assert!(reader.join().unwrap().unwrap() > 4096);
}

#[tokio::test]
async fn disks_are_used_through_descriptors_that_only_their_owner_could_open() {
    let home = Home::new();
    let mut spec = home.spec(KINDS[0]);
    let disk = |serial: &str, read_only| {
        let path = home.machine().join(serial);
        std::fs::write(&path, vec![0; 1 << 20]).unwrap();
        Disk { path, overlays: Vec::new(), serial: serial.into(), read_only, host_flush: HostFlush::Ignore }
    };
    spec.disks = vec![disk("root", true), disk("scratch", false)];
    let machine = Machine::start(spec).await.unwrap();
    let blocks = machine.qmp().await.unwrap().execute("query-named-block-nodes", None).await.unwrap();
    let read_only = |name: &str| {
        let node = blocks.as_array().unwrap().iter().find(|node| node["node-name"] == name).unwrap();
        node["ro"].as_bool().unwrap()
    };
    assert_eq!((read_only("disk0"), read_only("disk1")), (true, false));
    machine.stop().await;
}

#[tokio::test]
async fn guest_that_resets_ends_its_machine_and_the_console_is_kept() {
    for kind in KINDS {
        let home = Home::new();
        let mut spec = home.spec(kind);
        spec.kernel = home.file("kernel", &guest::elf("going down\n", Then::Reset));
        let machine = Machine::start(spec).await.unwrap();
        let exit = machine.exited().await;
        assert!(exit.status.unwrap().success(), "{exit:?}");
        assert!(String::from_utf8_lossy(&exit.console).contains("going down"), "{exit:?}");
    }
}

#[tokio::test]
async fn guest_that_never_speaks_is_reported_by_the_watchdog() {
    let home = Home::new();
    let mut spec = home.spec(KINDS[0]);
    spec.kernel = home.file("kernel", &guest::elf("", Then::Spin));
    let machine = Machine::start(spec).await.unwrap();
    let error = machine.boot_stalled(std::time::Duration::from_secs(1), PATIENCE).await;
    assert!(error.to_string().contains("said nothing at all for 1 s"), "{error}");
    machine.kill().await;
}

/// That KVM then runs the guest is another matter, which the engine finds out.
#[tokio::test]
async fn kvm_can_be_opened_in_the_jail_by_whoever_can_open_it_outside() {
    let status = hearth_vmm::kvm_status();
    if !status.usable() {
        return println!("skipped: {status:?}");
    }
    // Without a root of its own QEMU has the host's node, and as a user of its own only by its group.
    let closed = is_root() && std::fs::metadata("/dev/kvm").unwrap().permissions().mode() & 0o066 == 0;
    for confinement in CONFINEMENTS.into_iter().take(if closed { 1 } else { 2 }) {
        let home = Home::new();
        let mut spec = home.spec(KINDS[0]);
        (spec.accelerator, spec.confinement) = (Accelerator::Kvm, confinement);
        match Machine::start(spec).await {
            Ok(machine) => drop(machine.kill().await),
            Err(error) => {
                let text = full_text(&error);
                assert!(!text.contains("Could not access KVM kernel module"), "{confinement:?}: {text}");
                println!("this host's KVM does not start QEMU: {text}");
            }
        }
    }
}

#[tokio::test]
async fn dropped_machine_is_killed() {
    let home = Home::new();
    let machine = Machine::start(home.spec(KINDS[0])).await.unwrap();
    let process = handle(machine.pid());
    drop(machine);
    wait_for_end(&process);
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_released_machine_goes_on_and_whoever_comes_next_takes_it_over() {
    let home = Home::new();
    let mut spec = home.spec(KINDS[0]);
    spec.lifetime = Lifetime::Detached;
    let (ports, directory) = (spec.ports.clone(), spec.directory.clone());
    let machine = Machine::start(spec).await.unwrap();
    let (pid, jail) = (machine.pid(), machine.jail().clone());
    machine.release();
    let adoption = || Adoption { directory: directory.clone(), ports: ports.clone(), cgroups: Vec::new() };
    let next = Machine::adopt(adoption()).await.unwrap();
    assert_eq!((next.pid(), next.jail()), (pid, &jail));
    assert_eq!(next.qmp().await.unwrap().execute("query-status", None).await.unwrap()["status"], "running");
    next.release();
    let last = Machine::adopt(adoption()).await.unwrap();
    let process = handle(pid);
    drop(last);
    wait_for_end(&process);
    assert!(matches!(Machine::adopt(adoption()).await, Err(MachineError::Gone)));
}

#[tokio::test]
async fn memory_of_a_machine_is_measured() {
    let home = Home::new();
    let machine = Machine::start(home.spec(KINDS[0])).await.unwrap();
    let memory = machine.memory().unwrap();
    assert!(memory.rss_kib > 10_000 && memory.anonymous_kib > 1000 && memory.pss_kib <= memory.rss_kib, "{memory:?}");
    machine.stop().await;
}
