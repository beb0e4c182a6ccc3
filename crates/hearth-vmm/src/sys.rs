//! The system calls that have no safe wrapper elsewhere: creating a jailed child, changing mount attributes,
//! closing descriptors in bulk and reading the processor's clock.
//!
//! Everything here is a thin, checked doorway; policy lives with the callers.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Where a launcher finds what was passed to it: descriptors are numbered from here in the order given.
pub(crate) const FIRST_PASSED_FD: RawFd = 3;

/// A child that exists, and whose program is about to run.
#[derive(Debug)]
pub(crate) struct RawChild {
    /// The process id as this process sees it.
    pub(crate) pid: i32,
    /// Refers to exactly this child for as long as it is held.
    pub(crate) pidfd: OwnedFd,
}

/// The identity maps that a child writes for its own new user namespace.
#[derive(Debug)]
pub(crate) struct IdentityMaps {
    pub(crate) users: CString,
    pub(crate) groups: CString,
}

/// All that a child needs, made before the fork: between fork and exec nothing may be allocated.
pub(crate) struct ChildPlan<'a> {
    pub(crate) program: &'a CStr,
    pub(crate) arguments: &'a [CString],
    pub(crate) environment: &'a [CString],
    /// `CLONE_NEW*` bits.
    pub(crate) namespaces: u64,
    pub(crate) maps: Option<&'a IdentityMaps>,
    pub(crate) stdin: BorrowedFd<'a>,
    /// Becomes both standard output and standard error.
    pub(crate) output: BorrowedFd<'a>,
    pub(crate) passed: &'a [BorrowedFd<'a>],
    /// Where a child that cannot exec says so: a byte 0, the step, and the error number as two bytes.
    pub(crate) report: BorrowedFd<'a>,
}

/// What a child was doing when it failed before its program ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ChildStep {
    Descriptors = 1,
    IdentityMaps = 2,
    Exec = 3,
    /// Of one that was to become a process as it was.
    Checkpoint = 4,
}

impl ChildStep {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Descriptors, Self::IdentityMaps, Self::Exec, Self::Checkpoint]
            .into_iter()
            .find(|step| *step as u8 == byte)
    }
}

/// Creates a child in new namespaces and has it exec a program; returns as soon as the child exists.
///
/// The thread that calls this is the child's parent in the sense of `PR_SET_PDEATHSIG`.
pub(crate) fn spawn(plan: &ChildPlan<'_>) -> io::Result<RawChild> {
    let arguments = null_terminated(plan.arguments);
    let environment = null_terminated(plan.environment);
    let passed: Vec<RawFd> = plan.passed.iter().map(AsRawFd::as_raw_fd).collect();
    let mut parked = vec![-1; passed.len()];
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_PIDFD as u64 | plan.namespaces;
    let pid = clone3(flags, &mut pidfd)?;
    if pid == 0 {
        // This is the child: only plain system calls from here to exec, for other threads' locks were copied as they were.
        let report = park(plan.report.as_raw_fd(), passed.len());
        let step = become_program(plan, &arguments, &environment, &passed, &mut parked);
        report_and_exit(report, step);
    }
    // SAFETY: the kernel has just stored a new descriptor there, which nothing else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(RawChild { pid, pidfd })
}

fn null_terminated(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

fn clone3(flags: u64, pidfd: &mut RawFd) -> io::Result<i32> {
    // SAFETY: an all-zero clone_args is valid; every field is an integer.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags;
    arguments.pidfd = ptr::from_mut(pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM this is a fork: the child has its own copy of this stack and of all memory.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid as i32) }
}

/// Returns only on failure, with the step that failed; the error number is in errno.
fn become_program(
    plan: &ChildPlan<'_>,
    arguments: &[*const libc::c_char],
    environment: &[*const libc::c_char],
    passed: &[RawFd],
    parked: &mut [RawFd],
) -> ChildStep {
    reset_signals();
    if let Some(maps) = plan.maps
        && !write_maps(maps)
    {
        return ChildStep::IdentityMaps;
    }
    if !place_descriptors(plan, passed, parked) {
        return ChildStep::Descriptors;
    }
    // SAFETY: plain system calls on null-terminated arrays of strings that outlive the call.
    unsafe {
        libc::setsid();
        libc::execve(plan.program.as_ptr(), arguments.as_ptr(), environment.as_ptr());
    }
    ChildStep::Exec
}

/// An ignored signal stays ignored across exec, and Rust programs ignore SIGPIPE.
fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: restores a default disposition; the two real-time signals that libc reserves are refused harmlessly.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: an all-zero set is the empty set on Linux.
    unsafe {
        let empty: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, ptr::null_mut());
    }
}

fn write_maps(maps: &IdentityMaps) -> bool {
    write_file(c"/proc/self/setgroups", c"deny")
        && write_file(c"/proc/self/uid_map", &maps.users)
        && write_file(c"/proc/self/gid_map", &maps.groups)
}

fn write_file(path: &CStr, text: &CStr) -> bool {
    let length = text.count_bytes();
    // SAFETY: plain system calls on valid strings; the descriptor is closed by exec.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        fd >= 0 && libc::write(fd, text.as_ptr().cast(), length) == length as isize
    }
}

/// Duplicates a descriptor to a number above every target, as a source may have a number that is another's target.
fn park(source: RawFd, targets: usize) -> RawFd {
    // SAFETY: duplicates a descriptor of this process; failure is a negative number, which later calls refuse.
    unsafe { libc::fcntl(source, libc::F_DUPFD_CLOEXEC, FIRST_PASSED_FD + targets as RawFd) }
}

/// Gives the child its descriptors under their final numbers; all others are closed by exec.
fn place_descriptors(plan: &ChildPlan<'_>, passed: &[RawFd], parked: &mut [RawFd]) -> bool {
    let count = passed.len();
    for (source, slot) in passed.iter().zip(parked.iter_mut()) {
        *slot = park(*source, count);
    }
    let (stdin, output) = (park(plan.stdin.as_raw_fd(), count), park(plan.output.as_raw_fd(), count));
    let standard = [(stdin, 0), (output, 1), (output, 2)];
    let numbered = parked.iter().copied().zip(FIRST_PASSED_FD..);
    // SAFETY: no descriptor that is replaced here is used by Rust code in this child again.
    let placed =
        standard.into_iter().chain(numbered).all(|(source, target)| unsafe { libc::dup2(source, target) } >= 0);
    placed && close_on_exec_from(FIRST_PASSED_FD + count as RawFd).is_ok()
}

fn report_and_exit(report: RawFd, step: ChildStep) -> ! {
    let error = io::Error::last_os_error().raw_os_error().unwrap_or(0) as u16;
    let [low, high] = error.to_le_bytes();
    let message = [0, step as u8, low, high];
    // SAFETY: plain system calls; _exit runs nothing of the parent's.
    unsafe {
        libc::write(report, message.as_ptr().cast(), message.len());
        libc::_exit(125)
    }
}

/// Marks every descriptor from `first` on to be closed by exec.
pub(crate) fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    // SAFETY: changes flags of descriptors only.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes a descriptor that the parent has passed under a known number, or says that it is not there.
pub(crate) fn take_passed(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: asking for the flags of any number is safe; setting close-on-exec on it is wanted.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, was passed to this program for this purpose, and is taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Borrows a passed descriptor that stays open until exec.
pub(crate) fn borrow_passed(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the owner passes it under this number and nothing in the launcher closes it; a number that is not open
    // makes the calls that use it fail.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Moves this process, which has one thread, into a new user namespace.
pub(crate) fn unshare_user_namespace() -> io::Result<()> {
    // SAFETY: changes credentials only; no memory or descriptor is affected.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Adds attributes (`MOUNT_ATTR_*`) to a mount, and with `recursive` to all below it. Attributes are only added, so
/// that those locked by a user namespace stay as they are.
pub(crate) fn add_mount_attributes(path: &CStr, attributes: u64, recursive: bool) -> io::Result<()> {
    let request = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the structure is initialised and its true size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const request,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The version of Landlock that the running kernel offers, if any.
pub(crate) fn landlock_abi() -> Option<u32> {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the call only reports a number.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<u8>(), 0_usize, VERSION) };
    u32::try_from(abi).ok().filter(|abi| *abi > 0)
}

/// Registers a descriptor with the runtime, to be told when it is readable.
pub(crate) fn watch_readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, and the same, for as long as it lives, which is as long as the registration.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

/// One CPUID leaf as `[eax, ebx, ecx, edx]`.
pub(crate) fn cpuid(leaf: u32) -> [u32; 4] {
    let registers = std::arch::x86_64::__cpuid(leaf);
    [registers.eax, registers.ebx, registers.ecx, registers.edx]
}

/// The processor's time-stamp counter.
pub(crate) fn time_stamp() -> u64 {
    // SAFETY: RDTSC exists on every x86_64 processor and Linux leaves it enabled; the fence only orders it.
    unsafe {
        std::arch::x86_64::_mm_lfence();
        std::arch::x86_64::_rdtsc()
    }
}

/// A page, in bytes.
const PAGE: usize = 4096;
/// The most stretches of memory that one call takes (`UIO_MAXIOV`).
const MOST_STRETCHES: usize = 1024;
/// The most bytes that one call is asked for; the kernel's own bound is a little under 2 GiB.
const MOST_BYTES: u64 = 1 << 30;

/// Fills `out` with what another process has at `stretches` (address and length of each, in bytes), which have the same length together.
pub(crate) fn read_process(pid: u32, stretches: &[(u64, u64)], out: &mut [u8]) -> io::Result<()> {
    let mut rest = out;
    in_batches(stretches, |remote, length| {
        let (piece, after) = std::mem::take(&mut rest)
            .split_at_mut_checked(length)
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        rest = after;
        let local = libc::iovec { iov_base: piece.as_mut_ptr().cast(), iov_len: length };
        // SAFETY: the kernel writes at most `length` bytes, which are there; the other process's addresses are only looked up.
        let count = unsafe {
            libc::process_vm_readv(pid as i32, &raw const local, 1, remote.as_ptr(), remote.len() as libc::c_ulong, 0)
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    })
}

/// Zeros to be written over, in as large pages as the host has. `are_there` has all of them be there at once; else each page comes when it is first
/// used, which takes as long as to fill it.
pub(crate) fn zeros(length: usize, are_there: bool) -> io::Result<Vec<u8>> {
    // Whether there is room for it is told here; nothing is written before it is used.
    Vec::<u8>::new().try_reserve_exact(length).map_err(io::Error::other)?;
    let zeros = vec![0; length];
    advise(zeros.as_ptr() as usize, length, libc::MADV_HUGEPAGE);
    if are_there {
        advise(zeros.as_ptr() as usize, length, libc::MADV_POPULATE_WRITE);
    }
    Ok(zeros)
}

/// Gives the kernel advice on the whole pages of a buffer of the caller's that changes nothing that is in them. One that cannot follow it refuses,
/// which costs time.
fn advise(at: usize, length: usize, advice: i32) {
    let (first, end) = (at.next_multiple_of(PAGE), (at + length) / PAGE * PAGE);
    if first < end {
        // SAFETY: the two kinds of advice that are given here leave every byte as it is.
        unsafe { libc::madvise(first as *mut libc::c_void, end - first, advice) };
    }
}

/// A file in memory that is mapped to be filled, with all its pages there.
#[derive(Debug)]
pub(crate) struct Filling {
    file: File,
    at: *mut libc::c_void,
    length: usize,
}

// SAFETY: the mapping is this value's alone, and can be used and undone by any thread.
unsafe impl Send for Filling {}

impl Filling {
    /// Maps a file that nobody else has, and makes it so long.
    pub(crate) fn new(file: File, length: usize) -> io::Result<Self> {
        file.set_len(length as u64)?;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: maps a file of this length where the kernel likes.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), length.max(1), protection, flags, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        advise(at as usize, length, libc::MADV_POPULATE_WRITE);
        Ok(Self { file, at, length })
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: so much is mapped for writing for as long as this lives, and nobody else has the file.
        unsafe { std::slice::from_raw_parts_mut(self.at.cast(), self.length) }
    }

    /// The file with its first bytes, mapped no more.
    pub(crate) fn finish(self, length: usize) -> io::Result<File> {
        let file = self.file.try_clone()?;
        drop(self);
        file.set_len(length as u64)?;
        Ok(file)
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        // SAFETY: undoes what was mapped when this was made.
        unsafe { libc::munmap(self.at, self.length.max(1)) };
    }
}

/// Writes `bytes` over what another process has at `stretches`, which have the same length together.
pub(crate) fn write_process(pid: u32, stretches: &[(u64, u64)], bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    in_batches(stretches, |remote, length| {
        let piece = rest.get(..length).ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let local = libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: length };
        // SAFETY: the kernel reads `length` bytes, which are there, and looks the other process's addresses up.
        let count = unsafe {
            libc::process_vm_writev(pid as i32, &raw const local, 1, remote.as_ptr(), remote.len() as libc::c_ulong, 0)
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        rest = &rest[count..];
        Ok(count)
    })
}

/// Hands stretches on as many at a time as one call takes. Each call must do all it was asked: no stretch here may be left half done.
fn in_batches(
    stretches: &[(u64, u64)],
    mut each: impl FnMut(&[libc::iovec], usize) -> io::Result<usize>,
) -> io::Result<()> {
    let mut batch: Vec<libc::iovec> = Vec::new();
    let mut length = 0;
    let mut flush = |batch: &mut Vec<libc::iovec>, length: &mut u64| {
        if *length > 0 && each(batch, *length as usize)? as u64 != *length {
            return Err(io::Error::other("the process's memory was copied in part only"));
        }
        batch.clear();
        *length = 0;
        Ok(())
    };
    for (mut address, mut left) in stretches.iter().copied() {
        while left > 0 {
            if batch.len() == MOST_STRETCHES || length == MOST_BYTES {
                flush(&mut batch, &mut length)?;
            }
            let part = left.min(MOST_BYTES - length);
            batch.push(libc::iovec { iov_base: address as *mut libc::c_void, iov_len: part as usize });
            (address, left, length) = (address + part, left - part, length + part);
        }
    }
    flush(&mut batch, &mut length)
}
