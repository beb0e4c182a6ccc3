//! Starting a child without copying the agent, at once or in two halves.
//!
//! A child borrows the agent's memory until it has become its program, as `posix_spawn` has it (`CLONE_VM`), and is born inside its control
//! group, which spares the kernel-wide lock that moving it there takes. The agent stands still while the child does anything: for all of it
//! (`CLONE_VFORK`), or, for one that is [parked](Parked), until it waits and again once it was told to go on. So nothing that they share, the
//! C library's `errno` for one, is used by both.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::ffi::{CString, c_char, c_int};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::sys::DESCRIPTORS;

/// A parked child's stack, in bytes: it makes system calls and nothing else.
const STACK: usize = 32 * 1024;

/// Where a child is to be, and as who, with everything it needs made beforehand: between `clone` and `execve` nothing may allocate.
pub(super) struct Place<'a> {
    pub(super) cwd: CString,
    /// What becomes descriptors 0, 1 and 2.
    pub(super) stdio: [BorrowedFd<'a>; 3],
    /// What becomes further descriptors, and their numbers, none of which may be that of a descriptor here.
    pub(super) extra: Vec<(BorrowedFd<'a>, RawFd)>,
    /// Makes descriptor 0 the controlling terminal.
    pub(super) terminal: bool,
    /// Who to become; `None` stays who the agent is.
    pub(super) identity: Option<Identity<'a>>,
    /// The directory of the control group (v2) to be born in.
    pub(super) cgroup: Option<BorrowedFd<'a>>,
}

/// What a child is to become.
pub(super) struct Program {
    /// Paths to try in turn.
    pub(super) paths: Vec<CString>,
    pub(super) argv: Vec<CString>,
    pub(super) env: Vec<CString>,
}

/// Who a child runs as.
#[derive(Clone, Copy)]
pub(super) struct Identity<'a> {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: &'a [u32],
}

/// The step at which a child failed before it became the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Step {
    Clone = 0,
    Session = 1,
    Stdio = 2,
    Terminal = 3,
    Identity = 4,
    WorkingDirectory = 5,
    Exec = 6,
}

impl Step {
    fn from_number(number: i32) -> Self {
        match number {
            1 => Self::Session,
            2 => Self::Stdio,
            3 => Self::Terminal,
            4 => Self::Identity,
            5 => Self::WorkingDirectory,
            6 => Self::Exec,
            _ => Self::Clone,
        }
    }
}

/// Why a child could not be started.
#[derive(Debug)]
pub(super) struct SpawnError {
    pub(super) step: Step,
    pub(super) error: io::Error,
}

impl SpawnError {
    fn of_clone(error: impl Into<io::Error>) -> Self {
        Self { step: Step::Clone, error: error.into() }
    }
}

/// What the child reads, all of it made by the parent, and where it leaves word of a failure.
struct Child {
    cwd: *const c_char,
    stdio: [RawFd; 3],
    extra: Vec<(RawFd, RawFd)>,
    terminal: bool,
    identity: Option<(u32, u32, *const u32, usize)>,
    descriptors: Option<libc::rlimit>,
    ignored: &'static [c_int],
    /// For one that is parked.
    gate: Option<Gate>,
    /// Written before the child is told to go on.
    order: UnsafeCell<Order>,
    step: AtomicI32,
    errno: AtomicI32,
}

/// Where a parked child says that it waits, and what it waits for.
#[derive(Clone, Copy)]
struct Gate {
    word: RawFd,
    go: RawFd,
    /// What it keeps open above the first three: these two, and what may become descriptor 0; in order.
    kept: [RawFd; 3],
    /// The parent's ends of both.
    parents: [RawFd; 2],
}

/// A program, as the system takes it.
#[derive(Default)]
struct Order {
    paths: Vec<*const c_char>,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    /// What becomes descriptor 0 in place of what is there.
    stdin: Option<RawFd>,
}

impl Order {
    /// The strings must outlive it.
    fn of(program: &Program, stdin: Option<RawFd>) -> Self {
        Self { paths: pointers(&program.paths), argv: pointers(&program.argv), env: pointers(&program.env), stdin }
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

impl Child {
    fn new(place: &Place<'_>, order: Order, gate: Option<Gate>) -> Self {
        Self {
            cwd: place.cwd.as_ptr(),
            stdio: place.stdio.map(|fd| fd.as_raw_fd()),
            extra: place.extra.iter().map(|(fd, number)| (fd.as_raw_fd(), *number)).collect(),
            terminal: place.terminal,
            identity: place.identity.map(|who| (who.uid, who.gid, who.groups.as_ptr(), who.groups.len())),
            descriptors: DESCRIPTORS.get().copied(),
            ignored: IGNORED.get_or_init(ignored),
            gate,
            order: UnsafeCell::new(order),
            step: AtomicI32::new(0),
            errno: AtomicI32::new(0),
        }
    }

    /// What became of a child that has become its program or has exited.
    fn outcome(&self, pid: u32) -> Result<(), SpawnError> {
        match self.errno.load(Ordering::Acquire) {
            0 => Ok(()),
            errno => {
                wait_for(pid);
                let step = Step::from_number(self.step.load(Ordering::Relaxed));
                Err(SpawnError { step, error: io::Error::from_raw_os_error(errno) })
            }
        }
    }
}

/// Takes the status of a child that has exited, before the reaper could: that runs on this very thread.
fn wait_for(pid: u32) {
    // SAFETY: the status is not asked for.
    unsafe { libc::waitpid(pid as libc::pid_t, std::ptr::null_mut(), 0) };
}

/// The signals that this process ignores and its programs would too: a broken pipe, and what whoever has started it has it ignore, as `nohup` does.
static IGNORED: OnceLock<Vec<c_int>> = OnceLock::new();

fn ignored() -> Vec<c_int> {
    let is_ignored = |&signal: &c_int| {
        // SAFETY: without a new action nothing changes, and an all-zero old one is valid.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
        }
    };
    (1..=libc::SIGRTMAX()).filter(is_ignored).collect()
}

/// Starts a child in a session of its own and returns its pid.
pub(super) fn spawn(place: &Place<'_>, program: &Program) -> Result<u32, SpawnError> {
    let child = Child::new(place, Order::of(program, None), None);
    let pid = with_signals_blocked(|| clone(&child, libc::CLONE_VFORK as u64, None, place.cgroup));
    let pid = pid.map_err(SpawnError::of_clone)?;
    child.outcome(pid).map(|()| pid)
}

/// A child that has all but its program, and waits for it. One that is dropped ends by itself, unless it was stopped; what it runs on is then
/// never freed.
pub(super) struct Parked {
    pid: u32,
    child: ManuallyDrop<Box<Child>>,
    stack: ManuallyDrop<Box<[u128]>>,
    /// It reads a byte of this, or its end.
    go: OwnedFd,
    /// It has the other end until it has become its program or has exited.
    word: OwnedFd,
}

impl Parked {
    /// Makes one, whose descriptor 0 may become another one.
    ///
    /// # Errors
    /// As [`spawn`].
    pub(super) fn new(place: &Place<'_>, other_stdin: BorrowedFd<'_>) -> Result<Self, SpawnError> {
        let (go_on, go) = pipe_with(PipeFlags::CLOEXEC).map_err(SpawnError::of_clone)?;
        let (word, its_word) = pipe_with(PipeFlags::CLOEXEC).map_err(SpawnError::of_clone)?;
        let parents = [go.as_raw_fd(), word.as_raw_fd()];
        let (word_end, go_end) = (its_word.as_raw_fd(), go_on.as_raw_fd());
        let mut kept = [word_end, go_end, other_stdin.as_raw_fd()];
        kept.sort_unstable();
        let gate = Gate { word: word_end, go: go_end, kept, parents };
        let child = ManuallyDrop::new(Box::new(Child::new(place, Order::default(), Some(gate))));
        let mut stack = ManuallyDrop::new(vec![0; STACK / size_of::<u128>()].into_boxed_slice());
        let pid = with_signals_blocked(|| clone(&child, 0, Some(&mut stack), place.cgroup));
        let parked = pid.map(|pid| Self { pid, child, stack, go, word }).map_err(SpawnError::of_clone)?;
        drop((go_on, its_word));
        match parked.await_word() {
            true => Ok(parked),
            // One that was killed has left no word of a failure.
            false => Err(parked.end().err().unwrap_or(SpawnError::of_clone(io::ErrorKind::BrokenPipe))),
        }
    }

    /// Its number.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets it become a program, with `stdin` as descriptor 0 if it is given, which must be the one it was made with, and returns its pid;
    /// `None` for one that is not there any more.
    ///
    /// # Errors
    /// As [`spawn`].
    pub(super) fn become_program(self, program: &Program, stdin: Option<RawFd>) -> Option<Result<u32, SpawnError>> {
        // SAFETY: the child waits, and does not look at its order.
        unsafe { *self.child.order.get() = Order::of(program, stdin) };
        rustix::io::write(&self.go, b"g").ok()?;
        // Its end comes when the child no longer uses this memory.
        while self.await_word() {}
        let pid = self.pid;
        Some(self.end().map(|()| pid))
    }

    /// Waits for the child to say that it waits; false when it has become its program or has exited.
    fn await_word(&self) -> bool {
        matches!(rustix::io::retry_on_intr(|| rustix::io::read(&self.word, &mut [0; 1])), Ok(1))
    }

    /// Frees what the child ran on, which it does no longer.
    fn end(mut self) -> Result<(), SpawnError> {
        let outcome = self.child.outcome(self.pid);
        // SAFETY: both are dropped once, and nobody uses them: the child has another memory, or none.
        unsafe {
            ManuallyDrop::drop(&mut self.child);
            ManuallyDrop::drop(&mut self.stack);
        }
        outcome
    }
}

/// Keeps handlers from running in a child that shares this memory.
fn with_signals_blocked<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: both sets are initialised before they are read, and the old mask is put back.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut old);
        let result = work();
        libc::pthread_sigmask(libc::SIG_SETMASK, &old, std::ptr::null_mut());
        result
    }
}

/// `libc` has it in a type that is too narrow.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Makes a child that runs [`child_main`], on this thread's stack or one of its own.
fn clone(child: &Child, flags: u64, stack: Option<&mut [u128]>, cgroup: Option<BorrowedFd<'_>>) -> io::Result<u32> {
    // SAFETY: an all-zero clone_args is valid.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = libc::CLONE_VM as u64 | flags;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(stack) = stack {
        arguments.stack = stack.as_mut_ptr() as u64;
        arguments.stack_size = size_of_val(stack) as u64;
    }
    if let Some(directory) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = directory.as_raw_fd() as u64;
    }
    let mut result: i64;
    // SAFETY: without a stack of the child's own the parent is suspended until the child execs or exits, and the child runs below this frame
    // (the block may push, so the compiler keeps nothing in the red zone). It touches only `child`, and never returns.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov rdi, r12",
            "call {child_main}",
            "ud2",
            "2:",
            child_main = sym child_main,
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") &arguments,
            in("rsi") std::mem::size_of::<libc::clone_args>(),
            in("r12") child,
            clobber_abi("C"),
        );
    }
    if result < 0 { Err(io::Error::from_raw_os_error(-result as i32)) } else { Ok(result as u32) }
}

extern "C" fn child_main(child: &Child) -> ! {
    // SAFETY: only system calls on memory that the parent, which stands still meanwhile, keeps alive; nothing allocates or takes a lock.
    unsafe {
        let step = become_program(child);
        child.step.store(step as i32, Ordering::Relaxed);
        child.errno.store(*libc::__errno_location(), Ordering::Release);
        libc::_exit(127)
    }
}

/// Runs in the child. Returns only on failure, with the step that failed and `errno` set.
unsafe fn become_program(child: &Child) -> Step {
    // SAFETY: as for `child_main`. Raw calls where glibc's wrappers would involve the other threads.
    unsafe {
        if libc::setsid() < 0 {
            return Step::Session;
        }
        if !place_descriptors(child) {
            return Step::Stdio;
        }
        if child.terminal && libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
            return Step::Terminal;
        }
        if let Some((uid, gid, groups, count)) = child.identity {
            let failed = libc::syscall(libc::SYS_setgroups, count, groups) < 0
                || libc::syscall(libc::SYS_setresgid, gid, gid, gid) < 0
                || libc::syscall(libc::SYS_setresuid, uid, uid, uid) < 0;
            if failed {
                return Step::Identity;
            }
        }
        if libc::chdir(child.cwd) < 0 {
            return Step::WorkingDirectory;
        }
        if let Some(limit) = &child.descriptors {
            libc::setrlimit(libc::RLIMIT_NOFILE, limit);
        }
        libc::umask(0o022);
        for &signal in child.ignored {
            libc::signal(signal, libc::SIG_DFL);
        }
        if let Some(Gate { word, go, kept, parents }) = child.gate {
            for end in parents {
                libc::close(end);
            }
            // Nothing of the agent's stays open because of a child that waits; a kernel without the call keeps it open so long.
            let mut from = 3;
            for number in kept.into_iter().chain([RawFd::MAX]) {
                if from < number {
                    libc::syscall(libc::SYS_close_range, from, number - 1, 0);
                }
                from = number.saturating_add(1);
            }
            let mut byte = 0_u8;
            libc::syscall(libc::SYS_write, word, &raw const byte, 1_usize);
            // A child that nobody wants ends here, beside a parent that goes on: by a call that touches nothing of its.
            if libc::syscall(libc::SYS_read, go, &raw mut byte, 1_usize) != 1 {
                libc::syscall(libc::SYS_exit_group, 0);
            }
        }
        let order = &*child.order.get();
        if order.stdin.is_some_and(|source| libc::dup2(source, 0) < 0) {
            return Step::Stdio;
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        try_programs(order);
        Step::Exec
    }
}

/// Puts the descriptors in place. The agent's own are all above 2 and close on exec; those that are put in place do not.
unsafe fn place_descriptors(child: &Child) -> bool {
    let stdio = child.stdio.iter().zip(0..);
    let extra = child.extra.iter().map(|(source, target)| (source, *target));
    // SAFETY: dup2 on descriptors that the parent keeps open.
    stdio.chain(extra).all(|(&source, target)| unsafe { libc::dup2(source, target) >= 0 })
}

/// Tries each path as `execvp` does: one that is not there or not a directory is passed over, a refusal is remembered. Each is asked for first: for
/// a program that is not there the kernel would have made a memory, and that is most of what a search costs.
unsafe fn try_programs(order: &Order) {
    // SAFETY: every array ends with a null pointer, every string with NUL; errno is this thread's.
    unsafe {
        let mut refused = 0;
        for &path in order.paths.iter().take_while(|path| !path.is_null()) {
            if libc::access(path, libc::X_OK) == 0 {
                libc::execve(path, order.argv.as_ptr(), order.env.as_ptr());
            }
            match *libc::__errno_location() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => refused = libc::EACCES,
                _ => return,
            }
        }
        *libc::__errno_location() = if refused != 0 { refused } else { libc::ENOENT };
    }
}
