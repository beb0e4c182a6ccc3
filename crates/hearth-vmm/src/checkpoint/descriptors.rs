//! What a machine's QEMU has open, and what takes the place of each in the next one.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::sockopt::socket_acceptconn;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde::{Deserialize, Serialize};

use super::script::{Outcome, PARKED_GATE, PARKED_REPORT, Script, Word};
use super::sys::parked;
use crate::jail::FIRST_QEMU_FD;
use crate::spec::MachineSpec;

/// What the owner passes to a machine that comes from a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Passed {
    /// Where the owner says that the guest is to go on: with its end, so does the process.
    Gate,
    /// The copied pages.
    Pages,
    /// Those that go over them.
    Own,
    Memory,
    /// A disk's layer, counted from the lowest.
    Layer {
        disk: usize,
        layer: usize,
    },
    /// A socket that listens, or a connection that came from it.
    Socket {
        which: Which,
        is_connected: bool,
    },
}

impl Passed {
    /// The socket that it is a connection of.
    pub(crate) fn connection(self) -> Option<Which> {
        match self {
            Self::Socket { which, is_connected: true } => Some(which),
            _ => None,
        }
    }
}

/// The machine's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Which {
    Control,
    Console,
    Port(usize),
}

/// An open descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One of the three that every child is given.
    Standard,
    Passed(Passed),
    Event {
        count: u32,
        flags: u32,
    },
    Signals {
        mask: u64,
        flags: u32,
    },
    Epoll,
    /// It was taken back, and QEMU closes it some time after its guest has gone on.
    TakenBack,
}

/// All that a QEMU has open.
#[derive(Debug)]
pub(super) struct Descriptors {
    open: Vec<(RawFd, Kind)>,
    /// What is to be passed, each once.
    pub(super) passed: Vec<Passed>,
}

/// The file that the devices' state was saved to.
const DEVICES: &str = "/memfd:hearth-devices";

/// Flags that descriptors of events and signals share with open files.
const NONBLOCK: u32 = libc::O_NONBLOCK as u32;

impl Descriptors {
    /// Looks at them. `memory` is the file of the guest's memory; `has_own` is whether pages go over the copied ones.
    pub(super) fn of(pid: u32, spec: &MachineSpec, memory: (u64, u64), has_own: bool) -> io::Result<Self> {
        let process = Pid::from_raw(pid as i32).ok_or(io::ErrorKind::InvalidInput)?;
        let process = pidfd_open(process, PidfdFlags::empty())?;
        let mut layers = Vec::new();
        for (disk, its) in spec.disks.iter().enumerate() {
            for (layer, (path, _)) in its.layers().enumerate() {
                layers.push((identity(path)?, Passed::Layer { disk, layer }));
            }
        }
        let mut numbers: Vec<RawFd> = Vec::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()));
        }
        numbers.sort_unstable();
        if numbers.last().is_some_and(|last| *last >= PARKED_GATE) {
            return Err(io::Error::other("it has more open than a QEMU does"));
        }
        let mut open = Vec::new();
        for number in numbers {
            let link = format!("/proc/{pid}/fd/{number}");
            let target = fs::read_link(&link)?.to_string_lossy().into_owned();
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}"))?;
            let kind = match target.as_str() {
                _ if number <= 2 => Some(Kind::Standard),
                "anon_inode:[eventfd]" => event(&info),
                "anon_inode:[signalfd]" => signals(&info),
                "anon_inode:[eventpoll]" => (!info.contains("tfd:")).then_some(Kind::Epoll),
                // The second is what takes the place of the first.
                name if name.starts_with(DEVICES) || name == "/dev/null" => Some(Kind::TakenBack),
                name if name.starts_with("socket:") => {
                    let copy = pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?;
                    socket(copy, spec)?.map(Kind::Passed)
                }
                _ => {
                    let file = identity(Path::new(&link))?;
                    let layer = layers.iter().find(|(known, _)| *known == file).map(|(_, layer)| *layer);
                    let passed = layer.or_else(|| (file == memory).then_some(Passed::Memory));
                    passed.map(Kind::Passed)
                }
            };
            let unknown = || io::Error::other(format!("its descriptor {number} ({target}) cannot be made again"));
            open.push((number, kind.ok_or_else(unknown)?));
        }
        let mut passed = vec![Passed::Gate, Passed::Pages, Passed::Memory];
        passed.extend(has_own.then_some(Passed::Own));
        for (_, kind) in &open {
            if let Kind::Passed(one) = kind
                && !passed.contains(one)
            {
                passed.push(*one);
            }
        }
        let ports = (0..spec.ports.len()).map(Which::Port);
        let sockets = [Which::Control, Which::Console].into_iter().chain(ports);
        let both = sockets.flat_map(|which| [false, true].map(|is_connected| Passed::Socket { which, is_connected }));
        if both.into_iter().any(|socket| !passed.contains(&socket)) {
            return Err(io::Error::other("not all of its sockets are listening and connected"));
        }
        Ok(Self { open, passed })
    }

    /// The number under which the memory was passed.
    pub(super) fn memory(&self) -> io::Result<RawFd> {
        let mut open = self.open.iter();
        let memory = open.find(|(_, kind)| *kind == Kind::Passed(Passed::Memory)).map(|(number, _)| *number);
        memory.ok_or_else(|| io::Error::other("it has no memory"))
    }

    /// Where a descriptor that was passed waits until all else is done.
    pub(super) fn parked(&self, which: Passed) -> Option<RawFd> {
        if which == Passed::Gate {
            return Some(PARKED_GATE);
        }
        let index = self.passed.iter().position(|passed| *passed == which)?;
        Some(parked(RawFd::try_from(index).ok()?))
    }

    /// Puts what was passed out of the way, and closes all else.
    pub(super) fn park(&self, script: &mut Script, report: RawFd) {
        let mut move_to = |from: RawFd, to: RawFd| {
            script.call(libc::SYS_dup3, &[number(from), number(to), number(libc::O_CLOEXEC)], Outcome::Success);
        };
        move_to(report, PARKED_REPORT);
        for (index, which) in (0..).zip(&self.passed) {
            move_to(FIRST_QEMU_FD + index, self.parked(*which).unwrap_or(-1));
        }
        let most = PARKED_GATE - 1;
        script.call(libc::SYS_close_range, &[number(3), number(most), Word::Is(0)], Outcome::Success);
    }

    /// Makes each, and closes what was parked, but for the report.
    pub(super) fn make(&self, script: &mut Script) {
        let mut used: BTreeSet<RawFd> = (0..=2).collect();
        for (wanted, kind) in &self.open {
            let (call, arguments) = match kind {
                Kind::Standard => continue,
                Kind::Passed(_) | Kind::TakenBack => {
                    let from = if let Kind::Passed(which) = kind { self.parked(*which).unwrap_or(-1) } else { 0 };
                    let arguments = [number(from), number(*wanted), Word::Is(0)];
                    script.call(libc::SYS_dup3, &arguments, Outcome::Success);
                    used.insert(*wanted);
                    continue;
                }
                Kind::Event { count, flags } => {
                    (libc::SYS_eventfd2, vec![u64::from(*count).into(), u64::from(*flags).into()])
                }
                Kind::Signals { mask, flags } => {
                    let mask = script.data(&mask.to_le_bytes());
                    (libc::SYS_signalfd4, vec![number(-1), mask, Word::Is(8), u64::from(*flags).into()])
                }
                Kind::Epoll => (libc::SYS_epoll_create1, vec![Word::Is(0)]),
            };
            let lowest = (0..).find(|number| !used.contains(number)).unwrap_or(0);
            script.call(call, &arguments, Outcome::Number(lowest as u64));
            if lowest != *wanted {
                let arguments = [number(lowest), number(*wanted), Word::Is(0)];
                script.call(libc::SYS_dup3, &arguments, Outcome::Success);
                script.call(libc::SYS_close, &[number(lowest)], Outcome::Success);
            }
            used.insert(*wanted);
        }
        let first = number(PARKED_REPORT + 1);
        script.call(libc::SYS_close_range, &[first, u64::from(u32::MAX).into(), Word::Is(0)], Outcome::Success);
    }
}

pub(super) fn number(descriptor: RawFd) -> Word {
    Word::Is(descriptor as i64 as u64)
}

/// What makes a file itself: device and inode.
pub(super) fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The socket that a copy of a descriptor is; a connection has the name of the socket that it came from.
fn socket(copy: OwnedFd, spec: &MachineSpec) -> io::Result<Option<Passed>> {
    let is_connected = !socket_acceptconn(copy.as_fd())?;
    let own = UnixStream::from(copy).local_addr()?;
    let name = own.as_pathname().filter(|path| path.parent() == Some(&spec.directory));
    let name = name.and_then(|path| path.file_name()?.to_str()?.strip_suffix(".sock"));
    let which = name.and_then(|name| match name {
        "qmp" => Some(Which::Control),
        "console" => Some(Which::Console),
        name => spec.ports.iter().position(|port| port.as_str() == name).map(Which::Port),
    });
    Ok(which.map(|which| Passed::Socket { which, is_connected }))
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn flags(info: &str) -> Option<u32> {
    Some(u32::from_str_radix(field(info, "flags:")?, 8).ok()? & NONBLOCK)
}

fn event(info: &str) -> Option<Kind> {
    let count = u32::from_str_radix(field(info, "eventfd-count:")?, 16).ok()?;
    (field(info, "eventfd-semaphore:").unwrap_or("0") == "0").then_some(Kind::Event { count, flags: flags(info)? })
}

fn signals(info: &str) -> Option<Kind> {
    let mask = u64::from_str_radix(field(info, "sigmask:")?, 16).ok()?;
    Some(Kind::Signals { mask, flags: flags(info)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_of_events_and_signals_is_read() {
        let info = "pos:\t0\nflags:\t02004002\nmnt_id:\t16\neventfd-count:               1f\neventfd-id: 4\neventfd-semaphore: 0\n";
        assert_eq!(event(info), Some(Kind::Event { count: 0x1f, flags: NONBLOCK }));
        assert_eq!(event(&info.replace("semaphore: 0", "semaphore: 1")), None);
        let info = "pos:\t0\nflags:\t02\nsigmask:\t0000000010002040\n";
        assert_eq!(signals(info), Some(Kind::Signals { mask: 0x1000_2040, flags: 0 }));
        assert_eq!(signals("flags:\t02\n"), None);
    }
}
