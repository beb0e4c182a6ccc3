//! What a checkpoint needs of the kernel and the processor: looking into a process that stands still, and becoming it.
//!
//! Everything here is a thin doorway; what is asked, and in which order, is the callers' business.
#![allow(unsafe_code)]

use std::arch::{asm, global_asm};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;

use super::script::{Layout, PARKED_REPORT, STEP};

/// `PTRACE_GET_RSEQ_CONFIGURATION` (linux/ptrace.h), which libc does not name.
const GET_RSEQ: libc::c_uint = 0x420f;
/// A stop at a system call's entry or exit, told apart from a signal.
const AT_SYSTEM_CALL: i32 = libc::SIGTRAP | 0x80;
/// x86's `syscall`.
const SYSTEM_CALL: [u8; 2] = [0x0f, 0x05];
/// What compiled code may rely on below the stack pointer, and room behind it for what a call is to fill.
const BELOW_STACK: u64 = 4096;

/// A thread that stands still, held by the thread of this process that has stopped it. It goes on when this is dropped.
#[derive(Debug)]
pub(super) struct Tracee {
    pub(super) thread: i32,
    pub(super) registers: libc::user_regs_struct,
}

impl Tracee {
    /// Stops a thread.
    pub(super) fn stop(thread: i32) -> io::Result<Self> {
        // SAFETY: attaches to another process's thread; no memory of this one is passed.
        check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, thread, 0, libc::PTRACE_O_TRACESYSGOOD) })?;
        // SAFETY: an all-zero structure of integers is valid.
        let mut tracee = Self { thread, registers: unsafe { std::mem::zeroed() } };
        // SAFETY: as above.
        check(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, thread, 0, 0) })?;
        tracee.stopped()?;
        tracee.registers = tracee.read_registers()?;
        Ok(tracee)
    }

    /// Whether it is in a system call, or has just come back from one.
    pub(super) fn is_in_system_call(&self) -> bool {
        self.registers.orig_rax as i64 >= 0
    }

    /// Waits for its next stop, and returns the signal that this counts as.
    fn stopped(&self) -> io::Result<i32> {
        let mut status = 0;
        // SAFETY: the status is a place of this function's.
        let waited = unsafe { libc::waitpid(self.thread, &raw mut status, libc::__WALL) };
        if waited < 0 {
            return Err(io::Error::last_os_error());
        }
        if libc::WIFSTOPPED(status) { Ok(libc::WSTOPSIG(status)) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn read_registers(&self) -> io::Result<libc::user_regs_struct> {
        // SAFETY: an all-zero structure of integers is valid, and the kernel fills just this one.
        unsafe {
            let mut registers: libc::user_regs_struct = std::mem::zeroed();
            check(libc::ptrace(libc::PTRACE_GETREGS, self.thread, 0, &raw mut registers))?;
            Ok(registers)
        }
    }

    fn write_registers(&self, registers: &libc::user_regs_struct) -> io::Result<()> {
        // SAFETY: the kernel reads the structure. What the thread does with them is its own affair, and it is not this process's.
        check(unsafe { libc::ptrace(libc::PTRACE_SETREGS, self.thread, 0, ptr::from_ref(registers)) }).map(drop)
    }

    /// The control words of its floating-point units: x87's, and SSE's.
    pub(super) fn float_control(&self) -> io::Result<(u16, u32)> {
        // SAFETY: an all-zero structure of integers is valid, and the kernel fills just this one.
        let registers = unsafe {
            let mut registers: libc::user_fpregs_struct = std::mem::zeroed();
            check(libc::ptrace(libc::PTRACE_GETFPREGS, self.thread, 0, &raw mut registers))?;
            registers
        };
        Ok((registers.cwd, registers.mxcsr))
    }

    /// Its blocked signals, a bit each.
    pub(super) fn blocked_signals(&self) -> io::Result<u64> {
        let mut mask = 0_u64;
        // SAFETY: the kernel fills eight bytes, which is what it is told.
        check(unsafe { libc::ptrace(libc::PTRACE_GETSIGMASK, self.thread, size_of::<u64>(), &raw mut mask) })?;
        Ok(mask)
    }

    /// Whether it has registered a place for restartable sequences. A kernel that cannot say so fails.
    pub(super) fn has_restartable_sequences(&self) -> io::Result<bool> {
        let mut configuration = [0_u64; 3];
        let size = size_of_val(&configuration);
        // SAFETY: the kernel fills at most the size that it is told: an address, two lengths and flags.
        check(unsafe { libc::ptrace(GET_RSEQ, self.thread, size, configuration.as_mut_ptr()) })?;
        Ok(configuration[0] != 0)
    }

    /// Its list of mutexes that are to be let go of when it dies: where it is, and the size of its head.
    pub(super) fn robust_list(&self) -> io::Result<(u64, u64)> {
        let (mut head, mut length) = (0_u64, 0_u64);
        // SAFETY: the kernel fills two places of this function's.
        check(unsafe { libc::syscall(libc::SYS_get_robust_list, self.thread, &raw mut head, &raw mut length) })?;
        Ok((head, length))
    }

    /// Has it do a system call, and returns what that returned. Afterwards its registers are what they were.
    pub(super) fn call(&self, number: i64, arguments: [u64; 4]) -> io::Result<i64> {
        let mut instruction = [0; 2];
        let at = self.registers.rip - SYSTEM_CALL.len() as u64;
        read(self.thread, at, &mut instruction)?;
        if instruction != SYSTEM_CALL {
            return Err(io::Error::other("a thread is not in a system call"));
        }
        let mut registers = self.registers;
        (registers.rip, registers.rax, registers.orig_rax) = (at, number as u64, u64::MAX);
        [registers.rdi, registers.rsi, registers.rdx, registers.r10] = arguments;
        self.write_registers(&registers)?;
        for _entry_and_exit in 0..2 {
            // SAFETY: lets the thread go on to the next stop.
            check(unsafe { libc::ptrace(libc::PTRACE_SYSCALL, self.thread, 0, 0) })?;
            if self.stopped()? != AT_SYSTEM_CALL {
                return Err(io::Error::other("a thread did not do what it was to"));
            }
        }
        let result = self.read_registers()?.rax as i64;
        self.write_registers(&self.registers)?;
        Ok(result)
    }

    /// As [`Self::call`], for one that fills `out`: `arguments` are made of the place where it does so.
    pub(super) fn call_for(
        &self,
        number: i64,
        arguments: impl FnOnce(u64) -> [u64; 4],
        out: &mut [u8],
    ) -> io::Result<()> {
        let place = (self.registers.rsp - BELOW_STACK) & !63;
        let result = self.call(number, arguments(place))?;
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result as i32));
        }
        read(self.thread, place, out)
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        // SAFETY: lets go of the thread; one that was killed meanwhile is gone already.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.thread, 0, 0) };
    }
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn read(process: i32, at: u64, out: &mut [u8]) -> io::Result<()> {
    crate::sys::read_process(process as u32, &[(at, out.len() as u64)], out)
}

// Carries a script out, an entry of 64 bytes after the other: r12 is the next one, r15 a place for what went wrong. It uses no stack, for it
// takes away the one that it came with.
global_asm!(
    ".pushsection .text.hearth_checkpoint_code, \"ax\", @progbits",
    ".globl hearth_checkpoint_code",
    ".globl hearth_checkpoint_code_end",
    "hearth_checkpoint_code:",
    "2:",
    "mov eax, dword ptr [r12]",
    "mov ebx, dword ptr [r12 + 4]",
    "mov rdi, qword ptr [r12 + 8]",
    "mov rsi, qword ptr [r12 + 16]",
    "mov rdx, qword ptr [r12 + 24]",
    "mov r10, qword ptr [r12 + 32]",
    "mov r8, qword ptr [r12 + 40]",
    "mov r9, qword ptr [r12 + 48]",
    "mov r13, qword ptr [r12 + 56]",
    "add r12, 64",
    "cmp ebx, {back}",
    "jne 3f",
    "mov rsp, rdi",
    "3:",
    "syscall",
    "cmp ebx, {any}",
    "je 2b",
    "cmp rax, -4095",
    "jae 6f",
    "cmp ebx, {success}",
    "je 2b",
    "cmp ebx, {thread}",
    "jne 4f",
    "test rax, rax",
    "jnz 4f",
    "mov r12, qword ptr [rsp]",
    "jmp 2b",
    "4:",
    "cmp rax, r13",
    "je 2b",
    "mov rax, -{wrong}",
    "6:",
    "neg eax",
    "mov byte ptr [r15], 0",
    "mov byte ptr [r15 + 1], {step}",
    "mov word ptr [r15 + 2], ax",
    "mov eax, {write}",
    "mov edi, {report}",
    "mov rsi, r15",
    "mov edx, 4",
    "syscall",
    "mov eax, {exit}",
    "mov edi, 125",
    "syscall",
    "ud2",
    "hearth_checkpoint_code_end:",
    ".popsection",
    any = const super::script::Outcome::ANY,
    success = const super::script::Outcome::SUCCESS,
    thread = const super::script::Outcome::THREAD,
    back = const super::script::Outcome::BACK,
    wrong = const libc::EBADE,
    step = const STEP,
    write = const libc::SYS_write,
    exit = const libc::SYS_exit_group,
    report = const PARKED_REPORT,
);

unsafe extern "C" {
    static hearth_checkpoint_code: u8;
    static hearth_checkpoint_code_end: u8;
}

/// The code that carries a script out, wherever it is put.
pub(super) fn code() -> &'static [u8] {
    let (begin, end) = (&raw const hearth_checkpoint_code, &raw const hearth_checkpoint_code_end);
    // SAFETY: the two symbols are the begin and the end of one piece of this program's code, which is never written.
    unsafe { std::slice::from_raw_parts(begin, end as usize - begin as usize) }
}

/// Where the kernel's code for programs is in this process.
pub(super) fn own_vdso() -> u64 {
    // SAFETY: only reads what the kernel has told this program when it started.
    unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) }
}

/// Becomes what a script says. Nothing of this program is left then; returns only where that could not even begin.
pub(super) fn become_process(script: BorrowedFd<'_>, layout: &Layout) -> io::Error {
    match put_in_place(script, layout) {
        Err(error) => error,
        // SAFETY: the script and the code were just put where the layout says, and both are this program's own, passed by its owner in a
        // sealed file. Nothing of this program is used afterwards.
        Ok(()) => unsafe {
            asm!(
                "mov r12, rdi",
                "mov r15, rsi",
                "jmp rdx",
                in("rdi") layout.first(),
                in("rsi") layout.scratch(),
                in("rdx") layout.code(),
                options(noreturn)
            )
        },
    }
}

fn put_in_place(script: BorrowedFd<'_>, layout: &Layout) -> io::Result<()> {
    let (address, length) = (layout.address as *mut libc::c_void, layout.length as usize);
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED_NOREPLACE;
    let writable = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: it takes the place of nothing, and the file is sealed and as long as the layout says, which the kernel checks when it is read.
    let mapped = unsafe { libc::mmap(address, length, writable, flags, script.as_raw_fd(), 0) };
    if mapped != address {
        return Err(io::Error::last_os_error());
    }
    for place in &layout.own_addresses {
        let place = layout.address + place;
        if !(layout.first()..=layout.scratch() - 8).contains(&place) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // SAFETY: it lies within what was just mapped for writing.
        unsafe { *(place as *mut u64) = (*(place as *const u64)).wrapping_add(own_vdso()) };
    }
    let protect = |from: u64, to: u64, protection: i32| {
        // SAFETY: changes what was just mapped, which nothing else uses.
        check(i64::from(unsafe { libc::mprotect(from as *mut libc::c_void, (to - from) as usize, protection) }))
    };
    protect(layout.code(), layout.first(), libc::PROT_READ | libc::PROT_EXEC)?;
    protect(layout.first(), layout.scratch(), libc::PROT_READ)?;
    Ok(())
}

/// The number under which a descriptor was passed is free for others from here on.
pub(super) const fn parked(number: RawFd) -> RawFd {
    PARKED_REPORT + 1 + number
}
