//! What becomes of a machine when its owner ends, and owners who are not root.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::guest::{self, Then};
use crate::support::*;

/// A process that owns a machine.
struct Owner {
    process: Child,
    home: Home,
    pid: u32,
    level: String,
    uid: u32,
}

impl Owner {
    fn start(user: Option<u32>, kind: &str, confinement: &str) -> Self {
        let home = Home::new();
        let kernel = home.file("kernel", &guest::elf(LINE, Then::Spin));
        let mut command = Command::new(launcher_for_all(&home));
        command.args(["own", kind, confinement]).arg(home.machine()).arg(kernel).stdout(Stdio::piped());
        if let Some(user) = user {
            chown(home.machine(), Some(user), Some(user)).unwrap();
            command.uid(user).gid(user);
        }
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut field = |name: &str| {
            let line = lines.next().expect("the owner ended").unwrap();
            line.strip_prefix(name).unwrap_or_else(|| panic!("no {name} but {line}")).to_owned()
        };
        let pid = field("pid=").parse().unwrap();
        let (level, uid) = (field("level="), field("uid=").parse().unwrap());
        Self { process, home, pid, level, uid }
    }

    /// Kills it without warning and waits until its machine has ended.
    fn kill_and_wait_for_machine(mut self) -> Home {
        let machine = handle(self.pid);
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        wait_for_end(&machine);
        self.home
    }
}

/// The launcher where every user may run it, wherever it was built.
fn launcher_for_all(home: &Home) -> PathBuf {
    home.file("launcher", &std::fs::read(LAUNCHER).unwrap())
}

#[test]
fn killed_owner_leaves_no_qemu() {
    for confinement in ["strongest", "landlock"] {
        let owner = Owner::start(None, "microvm", confinement);
        let pid = owner.pid;
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        owner.kill_and_wait_for_machine();
        assert!(!process_is_alive(pid), "{cgroup}");
    }
}

/// A zombie that its new parent has not taken note of yet is not alive.
fn process_is_alive(pid: u32) -> bool {
    process_exists(pid) && !status_field(pid, "State").starts_with(['Z', 'X'])
}

#[test]
fn machine_of_root_runs_as_a_user_of_its_own_and_without_any_privilege() {
    if !is_root() {
        println!("skipped: this user is not root");
        return;
    }
    for confinement in ["strongest", "landlock"] {
        let owner = Owner::start(None, "microvm", confinement);
        assert!((0x7000_0000..=0x7fff_ffff).contains(&owner.uid), "{:#x}", owner.uid);
        let id = owner.uid.to_string();
        assert_eq!(status_field(owner.pid, "Uid"), [&*id; 4].join("\t"));
        assert_eq!(status_field(owner.pid, "Gid"), [&*id; 4].join("\t"));
        assert_eq!(status_field(owner.pid, "Groups"), "");
        assert_unprivileged(&owner);
        owner.kill_and_wait_for_machine();
    }
}

#[test]
fn unprivileged_owner_boots_saves_and_restores_every_board_in_every_jail() {
    if !is_root() {
        println!("skipped: only root can become another user; the other tests run as this one");
        return;
    }
    for kind in ["microvm", "pc"] {
        for confinement in ["strongest", "landlock"] {
            let owner = Owner::start(Some(OTHER_USER), kind, confinement);
            assert_eq!(owner.uid, OTHER_USER);
            assert_unprivileged(&owner);
            let wanted = if confinement == "landlock" { "Landlock" } else { "Namespaces" };
            if owner.level != wanted {
                println!("this host refuses namespaces to users: {}", owner.level);
            }
            owner.kill_and_wait_for_machine();
        }
    }
}

fn assert_unprivileged(owner: &Owner) {
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status_field(owner.pid, set), "0000000000000000", "{set}, {}", owner.level);
    }
    assert_eq!(status_field(owner.pid, "NoNewPrivs"), "1");
    assert_eq!(status_field(owner.pid, "Seccomp"), "2");
}

#[test]
fn killed_owners_sockets_can_be_removed_and_its_directory_used_again() {
    let home = Owner::start(None, "microvm", "strongest").kill_and_wait_for_machine();
    for name in home.leftovers() {
        std::fs::remove_file(home.machine().join(name)).unwrap();
    }
    let mode = std::fs::metadata(home.machine()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let machine = hearth_vmm::Machine::start(home.spec(KINDS[0])).await.unwrap();
        console_says(&machine, LINE.trim()).await;
        machine.stop().await;
    });
}

#[test]
fn launcher_started_by_hand_does_nothing() {
    let mut child = Command::new(LAUNCHER).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(125), ""));
}
