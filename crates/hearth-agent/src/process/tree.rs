//! A process and all it has started: signalled, stopped and found empty as one.
//!
//! A control group (v2) makes that exact, whatever a process does to hide. Where there is none, the tree is found by
//! parents and sessions in `/proc`, which a daemon that leaves both escapes; [`Trees::describe`] then says why.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use hearth_protocol::{ErrorCode, Fault, ResourceLimits, Signal};
use rustix::fs::{Mode, OFlags};

use crate::sys;

/// The time over which processor time is shared out, in microseconds: the kernel's own default.
const CPU_PERIOD_US: u64 = 100_000;
/// Control groups that are kept ready, so that a start need not make one.
const SPARE: usize = 4;

/// What may be charged to a group that is used again, in bytes: pages of files that an earlier tree has read or written, which count for the next.
/// Some is always there, since the kernel charges in advance.
const LEFT_CHARGED: u64 = 512 * 1024;

/// The file of a group that stops all in it.
const FREEZE: &str = "cgroup.freeze";

/// Makes the trees of one agent.
pub(crate) struct Trees {
    groups: Result<Groups, String>,
}

struct Groups {
    root: PathBuf,
    frozen: Cell<bool>,
    spare: RefCell<Vec<Group>>,
    next: Cell<u64>,
}

/// A control group of its own for one process tree.
pub(crate) struct Group {
    path: PathBuf,
    directory: OwnedFd,
    /// Whether it was killed as a whole. Some kernels then kill whatever is born into it later, too (seen with 6.18: the
    /// count of kills is compared with that of the parent's group).
    killed: Cell<bool>,
    /// Whether limits were set, which one that comes later must not inherit.
    limited: bool,
    /// Its `memory.peak`, where the kernel can begin that anew for a group that is used again.
    peak: Option<File>,
}

/// One process and all it has started.
pub(crate) struct Tree {
    group: RefCell<Option<Rc<Group>>>,
    owner: Rc<Trees>,
    leader: Cell<u32>,
}

impl Trees {
    /// Uses the control group hierarchy (v2) mounted at `mount` through the new group `name` in it; falls back, with the reason.
    pub(crate) fn in_cgroup(mount: &Path, name: &str) -> Rc<Self> {
        let root = mount.join(name);
        let groups = prepare(mount, &root).and_then(|()| {
            let groups =
                Groups { root: root.clone(), frozen: Cell::new(false), spare: RefCell::default(), next: Cell::new(0) };
            groups.refill()?;
            Ok(groups)
        });
        Rc::new(Self {
            groups: groups.map_err(|error| format!("walk of /proc: no control group at {}: {error}", root.display())),
        })
    }

    /// Finds trees in `/proc` only, for `reason`.
    pub(crate) fn by_walking(reason: &str) -> Rc<Self> {
        Rc::new(Self { groups: Err(format!("walk of /proc: {reason}")) })
    }

    /// How trees are tracked: `cgroup`, or the fallback and its reason.
    pub(crate) fn describe(&self) -> String {
        self.groups.as_ref().map_or_else(Clone::clone, |_| "cgroup".to_owned())
    }

    /// Makes the tree for a process that is about to start.
    ///
    /// # Errors
    /// [`ErrorCode::Unavailable`] for limits that cannot be set here.
    pub(crate) fn prepare(self: &Rc<Self>, limits: &ResourceLimits) -> Result<Tree, Fault> {
        let group = match limits.is_empty() {
            true => self.groups.as_ref().ok().and_then(Groups::take),
            false => Some(self.limited(limits)?),
        };
        Ok(Tree { group: RefCell::new(group.map(Rc::new)), owner: Rc::clone(self), leader: Cell::new(0) })
    }

    /// A group of its own, since limits, and what is charged against them, would stay with one that is used again.
    fn limited(&self, limits: &ResourceLimits) -> Result<Group, Fault> {
        let unavailable = |reason: String| Fault::never_started(ErrorCode::Unavailable, format!("limits: {reason}"));
        let groups = self.groups.as_ref().map_err(|reason| unavailable(format!("no control groups; {reason}")))?;
        let mut group = groups.make().map_err(|error| unavailable(format!("make a control group: {error}")))?;
        group.limited = true;
        group.limit(limits).map_err(|reason| {
            let available = fs::read_to_string(groups.root.join("cgroup.subtree_control")).unwrap_or_default();
            let available = match available.trim() {
                "" => "there are none".to_owned(),
                names => format!("there are {names}"),
            };
            group.remove();
            unavailable(format!("{reason}; of the controllers of control groups (v2) {available}"))
        })?;
        Ok(group)
    }

    /// Stops all trees: none of their processes goes on in its own code. What one waits for in the kernel, a disk above all, is not waited for:
    /// behind that it stops as well, here and in every copy. Without control groups nothing is stopped.
    pub(crate) fn freeze(&self) -> io::Result<()> {
        let Ok(groups) = &self.groups else { return Ok(()) };
        fs::write(groups.root.join(FREEZE), "1")?;
        groups.frozen.set(true);
        Ok(())
    }

    /// Lets all trees go on.
    pub(crate) fn thaw(&self) -> io::Result<()> {
        let Ok(groups) = &self.groups else { return Ok(()) };
        fs::write(groups.root.join(FREEZE), "0")?;
        groups.frozen.set(false);
        Ok(())
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.groups.as_ref().is_ok_and(|groups| groups.frozen.get())
    }

    /// Makes up for the groups that were taken; call when there is time.
    pub(crate) fn refill(&self) {
        if let Ok(groups) = &self.groups {
            // Without a spare group the next start makes its own, or walks.
            let _ = groups.refill();
        }
    }

    /// Removes every group that is not in use, and their root, if it is empty then.
    pub(crate) fn remove(&self) {
        if let Ok(groups) = &self.groups {
            groups.spare.borrow_mut().drain(..).for_each(|group| group.remove());
            let _ = fs::remove_dir(&groups.root);
        }
    }
}

/// What groups can account and limit.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Makes the root group, and lets its children account what the kernel can: missing controllers are no obstacle.
///
/// Those there are are enabled together or not at all: memory is refused where a group has processes of its own, and the others alone
/// would then make groups below it that no process can be born into.
fn prepare(mount: &Path, root: &Path) -> io::Result<()> {
    for directory in [mount, root] {
        fs::create_dir_all(directory)?;
        let present = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
        let wanted = CONTROLLERS.iter().filter(|name| present.split_whitespace().any(|word| word == **name));
        let words: Vec<_> = wanted.map(|name| format!("+{name}")).collect();
        let _ = fs::write(directory.join("cgroup.subtree_control"), words.join(" "));
    }
    Ok(())
}

/// Reads a file of at most 4 KiB, which the kernel makes anew at each read from its beginning.
fn read_from_start(file: impl AsFd) -> io::Result<String> {
    let mut buffer = [0; 4096];
    let count = rustix::io::pread(file, &mut buffer, 0)?;
    Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
}

impl Groups {
    fn refill(&self) -> io::Result<()> {
        while self.spare.borrow().len() < SPARE {
            let group = self.make()?;
            self.spare.borrow_mut().push(group);
        }
        Ok(())
    }

    fn make(&self) -> io::Result<Group> {
        let number = self.next.replace(self.next.get() + 1);
        let path = self.root.join(number.to_string());
        fs::create_dir(&path)?;
        let directory = rustix::fs::open(&path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let peak = File::options().read(true).write(true).open(path.join("memory.peak")).ok();
        Ok(Group { path, directory, killed: Cell::new(false), limited: false, peak })
    }

    fn take(&self) -> Option<Group> {
        self.spare.borrow_mut().pop().or_else(|| self.make().ok())
    }

    /// Keeps an empty group for the next tree, unless it bears marks of the last one.
    fn put_back(&self, group: Group) {
        let marked = group.limited || group.killed.get() || group.out_of_memory_kills() > 0 || !group.forget_memory();
        if self.spare.borrow().len() < 2 * SPARE && !marked {
            self.spare.borrow_mut().push(group);
        } else {
            group.remove();
        }
    }
}

impl Group {
    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path.join(file)).unwrap_or_default()
    }

    /// The directory, as `clone3` wants it.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    fn out_of_memory_kills(&self) -> u64 {
        let events = self.read("memory.events");
        events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
    }

    /// Begins the peak of its memory anew; false for one to which too much is charged still, or where that cannot be done.
    fn forget_memory(&self) -> bool {
        let Some(mut peak) = self.peak.as_ref() else { return true };
        let charged = self.read("memory.current").trim().parse();
        charged.is_ok_and(|bytes: u64| bytes <= LEFT_CHARGED) && peak.write_all(b"reset\n").is_ok()
    }

    /// The most memory that was charged to it at once, in bytes, since it was last made use of.
    fn peak_memory(&self) -> Option<u64> {
        read_from_start(self.peak.as_ref()?).ok()?.trim().parse().ok()
    }

    /// Sets the limits, or says which cannot be set.
    fn limit(&self, limits: &ResourceLimits) -> Result<(), String> {
        let set = |field: &str, file: &str, value: String| match fs::write(self.path.join(file), value) {
            Err(error)
                if error.kind() == io::ErrorKind::NotFound || error.kind() == io::ErrorKind::PermissionDenied =>
            {
                let controller = file.split('.').next().unwrap_or_default();
                Err(format!("{field} needs the controller {controller:?}"))
            }
            Err(error) => Err(format!("{field}: {error}")),
            Ok(()) => Ok(()),
        };
        if let Some(bytes) = limits.memory_bytes {
            set("memory_bytes", "memory.max", bytes.to_string())?;
            // The tree is killed as a whole: what is left of one is of no use to anybody.
            set("memory_bytes", "memory.oom.group", "1".to_owned())?;
            // Not there where nothing can be swapped out.
            let _ = fs::write(self.path.join("memory.swap.max"), "0");
        }
        if let Some(pids) = limits.pids {
            set("pids", "pids.max", pids.to_string())?;
        }
        if let Some(percent) = limits.cpu_percent {
            set("cpu_percent", "cpu.max", format!("{} {CPU_PERIOD_US}", u64::from(percent) * CPU_PERIOD_US / 100))?;
        }
        Ok(())
    }

    fn remove(&self) {
        let _ = fs::remove_dir(&self.path);
    }
}

impl Tree {
    /// The group to be born in.
    pub(crate) fn group(&self) -> Option<Rc<Group>> {
        self.group.borrow().clone()
    }

    /// Names the process that the tree grows from.
    pub(crate) fn set_leader(&self, pid: u32) {
        self.leader.set(pid);
    }

    /// The processes that are alive in it.
    pub(crate) fn members(&self) -> Vec<u32> {
        match self.group() {
            Some(group) => group.read("cgroup.procs").lines().filter_map(|line| line.parse().ok()).collect(),
            None if self.leader.get() == 0 => Vec::new(),
            None => walk(self.leader.get()),
        }
    }

    /// Whether nothing of it is alive.
    pub(crate) fn is_empty(&self) -> bool {
        self.members().is_empty()
    }

    /// Sends `signal` to everything in it, and again until no member is new; a KILL misses nothing.
    pub(crate) fn signal(&self, signal: Signal) {
        if signal == Signal::Kill
            && let Some(group) = self.group()
            && fs::write(group.path.join("cgroup.kill"), "1").is_ok()
        {
            group.killed.set(true);
            return;
        }
        let mut signalled: Vec<u32> = Vec::new();
        loop {
            let fresh: Vec<u32> = self.members().into_iter().filter(|pid| !signalled.contains(pid)).collect();
            if fresh.is_empty() {
                return;
            }
            fresh.iter().for_each(|&pid| signal_process(pid, signal));
            signalled.extend(fresh);
        }
    }

    /// Sends a signal to those members that wait for input.
    pub(crate) fn signal_the_waiting(&self, signal: Signal) {
        self.members().into_iter().filter(|&pid| waits_for_input(pid)).for_each(|pid| signal_process(pid, signal));
    }

    /// Whether its memory is limited, or anything else of it.
    pub(crate) fn is_limited(&self) -> bool {
        self.group().is_some_and(|group| group.limited)
    }

    /// The most memory that it took at once, in bytes, where the kernel accounts it for each tree.
    pub(crate) fn peak_memory(&self) -> Option<u64> {
        self.group()?.peak_memory()
    }

    /// Whether the kernel has killed a member for want of memory.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        self.group().is_some_and(|group| group.out_of_memory_kills() > 0)
    }

    /// Gives the group back once nothing is alive in it; tells whether that is so. The tree is over then.
    pub(crate) fn release(&self) -> bool {
        let empty = self.is_empty();
        if empty {
            self.leader.set(0);
            self.give_back();
        }
        empty
    }

    fn give_back(&self) {
        let group = self.group.take().and_then(Rc::into_inner);
        if let (Some(group), Ok(groups)) = (group, &self.owner.groups) {
            groups.put_back(group);
        }
    }
}

/// Sends a signal to one process; one that has just ended is no error.
pub(super) fn signal_process(pid: u32, signal: Signal) {
    let _ = sys::kill(pid as i32, signal.number());
}

/// The living members of the session and the descendants of `leader`.
fn walk(leader: u32) -> Vec<u32> {
    let all: Vec<Stat> =
        fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| Stat::read(&entry.path())).collect();
    let mut members: Vec<u32> =
        all.iter().filter(|stat| stat.pid == leader || stat.session == leader).map(|stat| stat.pid).collect();
    let mut parents = members.clone();
    while !parents.is_empty() {
        parents =
            all.iter().filter(|s| parents.contains(&s.parent) && !members.contains(&s.pid)).map(|s| s.pid).collect();
        members.extend(&parents);
    }
    members
}

/// The calls in which a program waits for input: read, poll, select, readv, epoll_wait, pselect6, ppoll, epoll_pwait.
const WAITS_FOR_INPUT: [&str; 8] = ["0", "7", "23", "19", "232", "270", "271", "281"];

/// Whether a process waits for input, as far as can be seen: that it sleeps, and, where the system tells, in which call.
pub(super) fn waits_for_input(pid: u32) -> bool {
    let directory = Path::new("/proc").join(pid.to_string());
    let call = fs::read_to_string(directory.join("syscall"));
    let is_input = |call: &str| call.split(' ').next().is_some_and(|number| WAITS_FOR_INPUT.contains(&number.trim()));
    Stat::read(&directory).is_some_and(|stat| stat.asleep) && call.map_or(true, |call| is_input(&call))
}

/// How many threads a process has.
pub(super) fn threads(pid: u32) -> Option<u32> {
    Stat::read(&Path::new("/proc").join(pid.to_string())).map(|stat| stat.threads)
}

struct Stat {
    pid: u32,
    parent: u32,
    session: u32,
    threads: u32,
    asleep: bool,
}

impl Stat {
    fn read(directory: &Path) -> Option<Self> {
        let pid = directory.file_name()?.to_str()?.parse().ok()?;
        let text = fs::read_to_string(directory.join("stat")).ok()?;
        let mut fields = text.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        let session = fields.nth(1)?.parse().ok()?;
        let threads = fields.nth(13)?.parse().ok()?;
        (!matches!(state, "Z" | "X")).then_some(Self { pid, parent, session, threads, asleep: state == "S" })
    }
}
