//! A few calls that `rustix` does not have. How children start has unsafe code of its own (`process/sys.rs`).

#![allow(unsafe_code)]

use std::ffi::c_char;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

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
pub(crate) static DESCRIPTORS: OnceLock<libc::rlimit> = OnceLock::new();

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
