//! The agent's only unsafe code: starting a child without copying the agent, and a few calls that `rustix` does not have.

#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A child to start, with everything it needs made beforehand: between `clone` and `execve` nothing may allocate.
pub(crate) struct Plan<'a> {
    /// Paths to try in turn.
    pub(crate) programs: Vec<CString>,
    pub(crate) argv: Vec<CString>,
    pub(crate) env: Vec<CString>,
    pub(crate) cwd: CString,
    /// What becomes descriptors 0, 1 and 2.
    pub(crate) stdio: [BorrowedFd<'a>; 3],
    /// What becomes further descriptors, and their numbers, none of which may be that of a descriptor here.
    pub(crate) extra: Vec<(BorrowedFd<'a>, RawFd)>,
    /// Makes descriptor 0 the controlling terminal.
    pub(crate) terminal: bool,
    /// Who to become; `None` stays who the agent is.
    pub(crate) identity: Option<Identity<'a>>,
    /// The directory of the control group (v2) to be born in.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
}

/// Who a child runs as.
#[derive(Clone, Copy)]
pub(crate) struct Identity<'a> {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: &'a [u32],
}

/// The step at which a child failed before it became the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Step {
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
pub(crate) struct SpawnError {
    pub(crate) step: Step,
    pub(crate) error: io::Error,
}

/// What the child reads, all of it made by the parent, and where it leaves word of a failure.
struct Child {
    programs: Vec<*const c_char>,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    cwd: *const c_char,
    stdio: [RawFd; 3],
    extra: Vec<(RawFd, RawFd)>,
    terminal: bool,
    identity: Option<(u32, u32, *const u32, usize)>,
    descriptors: Option<libc::rlimit>,
    ignored: &'static [c_int],
    step: AtomicI32,
    errno: AtomicI32,
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
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
///
/// As `posix_spawn` does, the child borrows the parent's memory until it has become the program (`CLONE_VM | CLONE_VFORK`), so
/// that nothing of the agent is copied; unlike it, the child is born inside its control group, which spares the
/// kernel-wide lock that moving it there takes.
pub(crate) fn spawn(plan: &Plan<'_>) -> Result<u32, SpawnError> {
    let child = Child {
        programs: pointers(&plan.programs),
        argv: pointers(&plan.argv),
        env: pointers(&plan.env),
        cwd: plan.cwd.as_ptr(),
        stdio: plan.stdio.map(|fd| fd.as_raw_fd()),
        extra: plan.extra.iter().map(|(fd, number)| (fd.as_raw_fd(), *number)).collect(),
        terminal: plan.terminal,
        identity: plan.identity.map(|who| (who.uid, who.gid, who.groups.as_ptr(), who.groups.len())),
        descriptors: DESCRIPTORS.get().copied(),
        ignored: IGNORED.get_or_init(ignored),
        step: AtomicI32::new(0),
        errno: AtomicI32::new(0),
    };
    let pid = with_signals_blocked(|| clone_and_exec(&child, plan.cgroup));
    let failure = |step, errno| Err(SpawnError { step, error: io::Error::from_raw_os_error(errno) });
    if pid < 0 {
        return failure(Step::Clone, -pid as i32);
    }
    match child.errno.load(Ordering::Relaxed) {
        0 => Ok(pid as u32),
        errno => {
            // SAFETY: the child of this pid has exited and nobody has waited for it: the reaper runs on this very thread.
            unsafe { libc::waitpid(pid as libc::pid_t, std::ptr::null_mut(), 0) };
            failure(Step::from_number(child.step.load(Ordering::Relaxed)), errno)
        }
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

fn clone_and_exec(child: &Child, cgroup: Option<BorrowedFd<'_>>) -> i64 {
    // SAFETY: an all-zero clone_args is valid.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(directory) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = directory.as_raw_fd() as u64;
    }
    let mut result: i64;
    // SAFETY: the parent is suspended until the child execs or exits. The child runs on the stack below this frame (the block
    // may push, so the compiler keeps nothing in the red zone), touches only `child`, and never returns.
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
    result
}

extern "C" fn child_main(child: &Child) -> ! {
    // SAFETY: only system calls on memory that the suspended parent keeps alive; nothing allocates or takes a lock.
    unsafe {
        let step = become_program(child);
        child.step.store(step as i32, Ordering::Relaxed);
        child.errno.store(*libc::__errno_location(), Ordering::Relaxed);
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
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        try_programs(child);
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
unsafe fn try_programs(child: &Child) {
    // SAFETY: every array ends with a null pointer, every string with NUL; errno is this thread's.
    unsafe {
        let mut refused = 0;
        for &program in child.programs.iter().take_while(|program| !program.is_null()) {
            if libc::access(program, libc::X_OK) == 0 {
                libc::execve(program, child.argv.as_ptr(), child.env.as_ptr());
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

/// Lets the runtime watch a descriptor.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    hearth_socket::watch(fd, Interest::READABLE | Interest::WRITABLE)
}

/// A child that has ended, and what it used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reaped {
    pub(crate) pid: u32,
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) cpu_us: u64,
    /// The largest resident memory of it or a child it waited for; the agent's own at its start counts, too.
    pub(crate) resident_bytes: u64,
}

/// Has the signal of ended children wait for whoever reads [`child_signals`], in all threads that are started from here on. A handler would
/// interrupt the thread, and pass the word on through a socket.
pub(crate) fn hold_child_signals() {
    // SAFETY: plain sets and actions; no thread but this is there yet.
    unsafe {
        // Whoever started this may have had it ignored: children would end unseen.
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        libc::sigprocmask(libc::SIG_BLOCK, &child_signal(), std::ptr::null_mut());
    }
}

fn child_signal() -> libc::sigset_t {
    // SAFETY: an all-zero set is valid.
    unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut signals);
        libc::sigaddset(&mut signals, libc::SIGCHLD);
        signals
    }
}

/// What can be read when a child has ended since it was read last.
pub(crate) fn child_signals() -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: makes a descriptor, which is owned from here on.
    let signals = unsafe {
        let made = libc::signalfd(-1, &child_signal(), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(made)
    };
    watch(signals)
}

/// Waits until a child has ended since the last time; an error when it can no longer be known.
pub(crate) async fn child_ended(signals: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut ready = signals.readable().await?;
    // However many have ended, the signal waits once.
    let _ = rustix::io::read(signals, &mut [0; size_of::<libc::signalfd_siginfo>()]);
    ready.clear_ready();
    Ok(())
}

/// Reaps one ended child, if there is one. Must only be called by the reaper.
pub(crate) fn reap_one() -> Option<Reaped> {
    let mut status = 0;
    // SAFETY: plain out-parameters; an all-zero rusage is valid.
    let (pid, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::wait4(-1, &mut status, libc::WNOHANG, &mut usage), usage)
    };
    if pid <= 0 {
        return None;
    }
    let microseconds = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    Some(Reaped {
        pid: pid as u32,
        code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
        cpu_us: microseconds(usage.ru_utime) + microseconds(usage.ru_stime),
        resident_bytes: usage.ru_maxrss as u64 * 1024,
    })
}

/// The largest resident memory that the agent itself ever had, in bytes.
pub(crate) fn own_resident_bytes() -> u64 {
    // SAFETY: a plain out-parameter; an all-zero rusage is valid.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage.ru_maxrss as u64 * 1024
    }
}

/// Whether all threads have to share one processor.
pub(crate) fn has_one_processor() -> bool {
    rustix::thread::sched_getaffinity(None).is_ok_and(|processors| processors.count() == 1)
}

/// Sends a signal to a process, or, by the negative of its number, to a process group.
pub(crate) fn kill(target: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes two numbers.
    match unsafe { libc::kill(target, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The limit on descriptors that children start with.
static DESCRIPTORS: OnceLock<libc::rlimit> = OnceLock::new();

/// Lets the agent itself have as many descriptors as the system allows: each process that it watches takes some. Children get the
/// limit as it was, where a program that uses `select` still works; where the machine is the agent's, with room to raise it.
pub(crate) fn raise_descriptor_limit(owns_machine: bool) {
    /// What a machine's programs may raise their limit to: what service managers grant.
    const MACHINE: libc::rlim_t = 512 * 1024;
    // SAFETY: plain out-parameters. A refusal leaves the limit as it is.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) < 0 {
            return;
        }
        if owns_machine && limit.rlim_max < MACHINE {
            let raised = libc::rlimit { rlim_max: MACHINE, ..limit };
            if libc::setrlimit(libc::RLIMIT_NOFILE, &raised) == 0 {
                limit = raised;
            }
        }
        let _ = DESCRIPTORS.set(limit);
        libc::setrlimit(libc::RLIMIT_NOFILE, &libc::rlimit { rlim_cur: limit.rlim_max, ..limit });
    }
}

/// Keeps up to two MiB of freed memory, so that a stream's chunks and larger pieces, made and sent and made again, do not have the kernel
/// take back and clear the same pages each time; and has worker threads share the memory of two, in place of each keeping its own.
pub(crate) fn keep_freed_memory() {
    // SAFETY: sets parameters of the allocator; nothing else runs yet. A refusal costs time and memory only.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 << 20);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// The limit on descriptors that children start with, where the agent's own is another.
pub(crate) fn children_descriptor_limit() -> Option<u64> {
    DESCRIPTORS.get().map(|limit| limit.rlim_cur)
}

/// Keeps what the agent's own starter left open from every program that the agent starts.
pub(crate) fn keep_inherited_descriptors() {
    // SAFETY: only sets a flag of descriptors. A kernel without the call leaves them as they are.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Mixes `seed` into the kernel's random generator, credits every bit of it, and makes the generator start anew from that: by itself it would go
/// on for up to a minute from the key it has, which every machine restored from one template shares.
pub(crate) fn reseed(seed: &[u8]) -> io::Result<()> {
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
    // Open in a template's guest already.
    static RANDOM: OnceLock<File> = OnceLock::new();
    let random = match RANDOM.get() {
        Some(random) => random,
        None => {
            let random = File::options().write(true).open("/dev/urandom")?;
            RANDOM.get_or_init(|| random)
        }
    };
    let mut request = Vec::with_capacity(8 + seed.len());
    request.extend_from_slice(&(seed.len() as i32 * 8).to_ne_bytes());
    request.extend_from_slice(&(seed.len() as i32).to_ne_bytes());
    request.extend_from_slice(seed);
    // SAFETY: the request is two ints and then as many bytes as the second says; the second call has no argument.
    let done = unsafe {
        libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, request.as_ptr()) == 0
            && libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A file as memory: what is written here is in the file, without a call. It stays mapped when this is dropped, for that costs the guest that it
/// is done in more than a page.
#[derive(Debug)]
pub(crate) struct MappedFile {
    bytes: &'static mut [u8],
}

impl MappedFile {
    /// Maps a file of at most a page, which must keep its length for as long as this is written to, and writes to it as it is: the page is there then.
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        const MOST: u64 = 4096;
        let length = file.metadata()?.len();
        if !(1..=MOST).contains(&length) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        // SAFETY: a mapping at an address of the kernel's choice, checked below.
        let address = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), length as usize, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: that many bytes are mapped there, for good, and nothing else has this address.
        let bytes = unsafe { std::slice::from_raw_parts_mut(address.cast::<u8>(), length as usize) };
        // SAFETY: a byte of the slice's own; volatile, or it would be no write.
        unsafe { std::ptr::write_volatile(&raw mut bytes[0], bytes[0]) };
        Ok(Self { bytes })
    }

    /// Writes bytes over all that the file has; false, and nothing is written, where they are not as many.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> bool {
        let fits = self.bytes.len() == bytes.len();
        if fits {
            self.bytes.copy_from_slice(bytes);
        }
        fits
    }
}

/// Writes a file system back, marks it clean on its disk, and has all that would write to it from now on wait.
pub(crate) fn freeze_file_system(root: &File) -> io::Result<()> {
    const FIFREEZE: libc::c_ulong = 0xc004_5877;
    // SAFETY: the call has no argument that the kernel reads.
    match unsafe { libc::ioctl(root.as_raw_fd(), FIFREEZE as libc::Ioctl, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Brings the loopback interface up.
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: the socket is owned at once; the request is zeroed but for the name and the flags, both within bounds.
    unsafe {
        let raw = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(raw);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as c_char;
        request.ifr_name[1] = b'o' as c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
        match libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
