//! Checkpoints of a QEMU: the process itself, with all that it has translated, for others to become.
//!
//! Under software emulation a new QEMU begins with nothing translated, and translating is nearly all that a restored guest's first second
//! consists of. A checkpoint is taken of a machine that has warmed up and stands still: what only its process has in memory is copied once, into
//! a sealed file, and how to become that process is written down as a list of system calls ([`script`]). A new machine is then a jailed launcher,
//! as ever, that carries the list out where it would have run QEMU: it maps the copy and the guest's memory privately, has its own sockets and
//! disks under the numbers that QEMU knows, and goes on. Pages are shared until they are written to.
//!
//! One may also be taken of a machine that began from a checkpoint and is to run on afterwards ([`Checkpoint::take_running`]): it lies on the one
//! that the machine began from, and has beside it what that machine has written since. Nothing is asked of the machine's own threads, which are only
//! held: whoever holds them may be killed at any moment.
//!
//! What a checkpoint relies on is looked at when it is taken, and whatever it does not know is refused: a machine is then restored as ever. It
//! fits the host's kernel that it was taken under, and the program and libraries that were installed then ([`file`]).

mod descriptors;
mod file;
mod maps;
mod script;
mod sys;
mod told;

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use descriptors::{Passed, Which};
pub(crate) use script::Layout;

use crate::areas::{Area, areas};
use crate::jail::REPORT_FD;
use crate::saved::SealedRam;
use crate::spec::MachineSpec;
use crate::sys::Filling;
use descriptors::{Descriptors, number};
use file::{Ground, Head};
use maps::{Difference, Piece, Source};
use script::{Outcome, ROOM_ASIDE, Script, Word};
use sys::Tracee;
use told::Told;

/// The floating-point units' control words as every program finds them (x87: all exceptions masked, extended precision; SSE: all masked).
const FLOAT_CONTROL: (u16, u32) = (0x037f, 0x1f80);
/// SSE's flags of what has happened, which nobody asks for.
const FLOAT_FLAGS: u32 = 0x3f;
/// The most threads that a machine's QEMU may have.
const MOST_THREADS: usize = 128;
/// How far the main thread's stack may grow, in bytes: what Linux gives every program.
const STACK: u64 = 8 << 20;

/// A QEMU as it was at one moment.
#[derive(Debug)]
pub struct Checkpoint {
    script: File,
    pages: Arc<File>,
    /// What goes over the pages, which are another's; of a machine that ran on.
    own: Option<File>,
    head: Head,
}

impl Checkpoint {
    /// Takes one of a machine whose guest stands still, and which the owner is connected to as it will be to every other. QEMU is then of no
    /// use any more. Blocks.
    pub(crate) fn take(pid: u32, spec: &MachineSpec, ram: &SealedRam) -> io::Result<Self> {
        let memory = ram.identity()?;
        let threads = stop_at_rest(pid, LOOKS)?;
        let told = Told::by(pid, &threads)?;
        let areas = areas(pid)?;
        let pages = file::unsealed(file::PAGES)?;
        let pieces = maps::copy(pid, &areas, memory, &pages)?;
        let ground = Ground::of(&areas, memory)?;
        let process = Process { pid, threads: &threads, areas: &areas, pieces: &pieces };
        let (script, head) = process.described(Descriptors::of(pid, spec, memory, false)?, told, ground)?;
        Ok(Self { script, pages: Arc::new(file::sealed_pages(pages)?), own: None, head })
    }

    /// As [`Self::take`], of a machine that began from the checkpoint `below`, or from one that lies on the same pages, and goes on afterwards.
    /// None of it runs while `meanwhile` does. Blocks.
    pub(crate) fn take_running<T: Send>(
        pid: u32,
        spec: &MachineSpec,
        ram: &SealedRam,
        below: &Self,
        room: Filling,
        meanwhile: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<(Self, T)> {
        let memory = ram.identity()?;
        let threads = stop_at_rest(pid, FEW_LOOKS)?;
        std::thread::scope(|scope| {
            let meanwhile = scope.spawn(meanwhile);
            let taken = below.of_another(pid, spec, memory, &threads, room);
            let done = meanwhile.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((taken?, done?))
        })
    }

    fn of_another(
        &self,
        pid: u32,
        spec: &MachineSpec,
        memory: (u64, u64),
        threads: &[Tracee],
        room: Filling,
    ) -> io::Result<Self> {
        let Head { told, ground, .. } = &self.head;
        told.check(pid)?;
        let (areas, difference) = self.difference(pid, memory)?;
        let pieces = &difference.pieces;
        if pieces.iter().any(|piece| matches!(&piece.of, Source::File(path, _) if !ground.has(path))) {
            return Err(io::Error::other("it has loaded another library since"));
        }
        let process = Process { pid, threads, areas: &areas, pieces };
        let descriptors = Descriptors::of(pid, spec, memory, true)?;
        let (script, head) = process.described(descriptors, told.clone(), ground.clone())?;
        let own = file::sealed_pages(difference.read(pid, room)?)?;
        Ok(Self { script, pages: self.pages.clone(), own: Some(own), head })
    }

    /// Makes room for what [`Self::take_running`] reads of a machine that runs.
    pub(crate) fn room_for(&self, pid: u32, ram: &SealedRam) -> io::Result<Filling> {
        let (_, difference) = self.difference(pid, ram.identity()?)?;
        difference.room()
    }

    fn difference(&self, pid: u32, memory: (u64, u64)) -> io::Result<(Vec<Area>, Difference)> {
        let areas = areas(pid)?;
        let began_from = file::identity(&self.pages)?;
        if !areas.iter().any(|area| area.file == Some(began_from)) {
            return Err(io::Error::other("it did not begin from this checkpoint"));
        }
        let difference = Difference::of(pid, &areas, memory, began_from)?;
        Ok((areas, difference))
    }

    /// Whether it is of a machine that ran on: whose guest had changed its memory as well.
    pub(crate) fn is_of_running(&self) -> bool {
        self.own.is_some()
    }
}

/// A process that stands still.
struct Process<'a> {
    pid: u32,
    /// The main one first.
    threads: &'a [Tracee],
    areas: &'a [Area],
    /// What whoever becomes it has mapped.
    pieces: &'a [Piece],
}

impl Process<'_> {
    /// How to become it.
    fn described(&self, descriptors: Descriptors, told: Told, ground: Ground) -> io::Result<(File, Head)> {
        let Self { pid, threads, areas, pieces } = *self;
        let (main, threads) = threads.split_first().ok_or_else(|| io::Error::other("it has no threads"))?;
        let mut script = Script::default();
        if areas.iter().any(|area| script.overlaps(area.begin, area.end)) {
            return Err(io::Error::other("it has mapped something where the script would be"));
        }
        // Linux's own bound on names is 15 bytes.
        let name = script.string("qemu-system-x86");
        script.call(libc::SYS_prctl, &[number(libc::PR_SET_NAME), name], Outcome::Any);
        descriptors.park(&mut script, REPORT_FD);
        let no_stack = script.words(&[0.into(), (libc::SS_DISABLE as u64).into(), 0.into()]);
        script.call(libc::SYS_sigaltstack, &[no_stack], Outcome::Success);
        map(&mut script, areas, pieces, &descriptors)?;
        describe_memory(&mut script, pid, areas);
        descriptors.make(&mut script);
        script.call(libc::SYS_prctl, &[number(libc::PR_SET_TIMERSLACK), 1.into()], Outcome::Any);
        told.handle_signals(&mut script);
        go_on(&mut script, main, threads, &told)?;
        let (bytes, layout) = script.finish();
        let script = file::unsealed(file::SCRIPT)?;
        script.write_all_at(&bytes, 0)?;
        let memory = descriptors.memory()?;
        Ok((file::sealed(script)?, Head { layout, passed: descriptors.passed, memory, told, ground }))
    }
}

/// Becomes the process of a checkpoint; returns only where that could not begin. What fails later is reported as a step of its own.
pub(crate) fn become_process(script: BorrowedFd<'_>, layout: &Layout) -> io::Error {
    sys::become_process(script, layout)
}

/// How often a QEMU that has just answered is looked at until all of it waits again, and how long it then has.
const LOOKS: u32 = 2000;
const BETWEEN_LOOKS: Duration = Duration::from_micros(500);
/// The same where a guest stands still meanwhile that is to go on.
const FEW_LOOKS: u32 = 20;

/// Stops every thread of a process, the main one first, when all of them wait in system calls.
fn stop_at_rest(pid: u32, looks: u32) -> io::Result<Vec<Tracee>> {
    for _ in 0..looks {
        let threads = match stop_all(pid) {
            // One has just ended.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) || error.kind() == io::ErrorKind::NotFound => {
                continue;
            }
            threads => threads?,
        };
        if threads.iter().all(Tracee::is_in_system_call) {
            return Ok(threads);
        }
        drop(threads);
        // Nothing tells when another process has come to rest.
        std::thread::sleep(BETWEEN_LOOKS);
    }
    Err(io::Error::other("it does not come to rest"))
}

/// Stops every thread of a process, the main one first.
fn stop_all(pid: u32) -> io::Result<Vec<Tracee>> {
    let mut stopped: Vec<(i32, Tracee)> = Vec::new();
    // Threads may come while others are stopped; once none has, there are no others.
    loop {
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
        }
        numbers.retain(|number| !stopped.iter().any(|(known, _)| known == number));
        if numbers.is_empty() {
            break;
        }
        if stopped.len() + numbers.len() > MOST_THREADS {
            return Err(io::Error::other("it has too many threads"));
        }
        for number in numbers {
            stopped.push((number, Tracee::stop(number)?));
        }
    }
    stopped.sort_by_key(|(number, _)| (*number != pid as i32, *number));
    Ok(stopped.into_iter().map(|(_, tracee)| tracee).collect())
}

/// Clears all that is mapped, and maps what is to be there.
fn map(script: &mut Script, areas: &[Area], pieces: &[Piece], descriptors: &Descriptors) -> io::Result<()> {
    let kernels: Vec<&Area> = areas.iter().filter(|area| area.is_the_kernels()).collect();
    let code = kernels.iter().find(|area| area.name == "[vdso]").ok_or_else(|| io::Error::other("it has no vDSO"))?;
    let first = kernels.iter().map(|area| area.begin).min().unwrap_or(code.begin);
    if kernels.iter().any(|area| area.end - first > ROOM_ASIDE) {
        return Err(io::Error::other("the kernel's mappings are too large"));
    }
    let aside = |area: &Area, script: &Script| script.aside() + (area.begin - first);
    let moved = |script: &mut Script, area: &Area, from: Word, to: u64| {
        let (length, flags) = (area.length().into(), number(libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED));
        script.call(libc::SYS_mremap, &[from, length, length, flags, to.into()], Outcome::Number(to));
    };
    for area in &kernels {
        let to = aside(area, script);
        moved(script, area, Word::Own(area.begin.wrapping_sub(code.begin)), to);
    }
    script.clear();
    for area in &kernels {
        let from = aside(area, script);
        moved(script, area, from.into(), area.begin);
    }
    let parked = |which| descriptors.parked(which).ok_or_else(|| io::Error::other("it is not passed"));
    let (copy, memory) = (parked(Passed::Pages)?, parked(Passed::Memory)?);
    let own = || parked(Passed::Own);
    let mut open: Option<&str> = None;
    let stack = areas.iter().find(|area| area.name == "[stack]");
    for piece in pieces {
        let is_stack = stack.is_some_and(|stack| (stack.begin..stack.end).contains(&piece.begin));
        let (descriptor, offset) = match &piece.of {
            Source::Blank => (-1, 0),
            Source::Copy(_) | Source::Own(_) if is_stack => (-1, 0),
            Source::Copy(offset) => (copy, *offset),
            Source::Memory(offset) => (memory, *offset),
            Source::Own(offset) => (own()?, *offset),
            Source::File(path, offset) => {
                if open != Some(path) {
                    if open.replace(path).is_some() {
                        script.call(libc::SYS_close, &[number(FILE)], Outcome::Success);
                    }
                    let name = script.string(path);
                    let flags = number(libc::O_RDONLY | libc::O_CLOEXEC);
                    let arguments = [number(libc::AT_FDCWD), name, flags];
                    script.call(libc::SYS_openat, &arguments, Outcome::Number(FILE as u64));
                }
                (FILE, *offset)
            }
        };
        let kind = if descriptor == -1 { libc::MAP_ANONYMOUS } else { 0 };
        let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE | kind;
        script.call(
            libc::SYS_mmap,
            &[
                piece.begin.into(),
                piece.length.into(),
                number(piece.protection),
                number(flags),
                number(descriptor),
                offset.into(),
            ],
            Outcome::Number(piece.begin),
        );
        // On it are the arguments, which `/proc` shows of a process's own memory only.
        let from = match piece.of {
            Source::Copy(offset) => Some((copy, offset)),
            Source::Own(offset) => Some((own()?, offset)),
            _ => None,
        };
        if let (Some((from, offset)), true) = (from, is_stack) {
            let arguments = [number(from), piece.begin.into(), piece.length.into(), offset.into()];
            script.call(libc::SYS_pread64, &arguments, Outcome::Number(piece.length));
        }
    }
    if open.is_some() {
        script.call(libc::SYS_close, &[number(FILE)], Outcome::Success);
    }
    // The kernel lets a stack grow by itself only where it has made it.
    if let Some(stack) = stack {
        let free = areas.iter().filter(|area| area.end <= stack.begin).map(|area| area.end).max().unwrap_or(0);
        let from = free.max(stack.end.saturating_sub(STACK)) + crate::saved::PAGE;
        if from < stack.begin {
            let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE | libc::MAP_ANONYMOUS;
            let length = (stack.begin - from).into();
            let protection = number(libc::PROT_READ | libc::PROT_WRITE);
            let arguments = [from.into(), length, protection, number(flags), number(-1), 0.into()];
            script.call(libc::SYS_mmap, &arguments, Outcome::Number(from));
        }
    }
    Ok(())
}

/// The lowest number that is free while files are mapped.
const FILE: RawFd = 3;

/// Tells the kernel where program, heap and arguments are: for whoever looks, and so that the heap can grow where it is.
fn describe_memory(script: &mut Script, pid: u32, areas: &[Area]) {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return };
    // The second field, the name, may have anything in it; what follows has not.
    let Some((_, rest)) = text.rsplit_once(')') else { return };
    let fields: Vec<u64> = rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    // Numbered from 1 in proc(5), of which two are before the parenthesis.
    let field = |number: usize| Word::Is(fields.get(number - 3).copied().unwrap_or(0));
    let Word::Is(heap) = field(47) else { return };
    let end = areas.iter().filter(|area| area.name == "[heap]").map(|area| area.end).max().unwrap_or(heap);
    let map = [
        field(26),
        field(27),
        field(45),
        field(46),
        Word::Is(heap),
        Word::Is(end),
        field(28),
        field(48),
        field(49),
        field(50),
        field(51),
        Word::Is(0),
        // No auxiliary vector, and no other program's file.
        Word::Is(u64::from(u32::MAX) << 32),
    ];
    let place = script.words(&map);
    let size = (map.len() * 8) as u64;
    script.call(
        libc::SYS_prctl,
        &[number(libc::PR_SET_MM), number(libc::PR_SET_MM_MAP), place, size.into()],
        Outcome::Any,
    );
}

/// The number of a process's main thread in a namespace of its own.
const MAIN_THREAD: u64 = 1;
/// The most threads that may have ended between two that are there.
const MOST_GONE: u64 = 256;
/// What makes a thread that has nothing of its own.
const GONE: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM) as u64;

/// A thread's number as its process sees it.
fn number_within(thread: i32) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status"))?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let number = numbers.and_then(|numbers| numbers.split_whitespace().last()?.parse().ok());
    number.ok_or_else(|| io::Error::other("a thread has no number"))
}

/// Makes the threads, and has each go on where it was.
fn go_on(script: &mut Script, main: &Tracee, threads: &[Tracee], told: &Told) -> io::Result<()> {
    let (head, length) = main.robust_list()?;
    script.call(libc::SYS_set_robust_list, &[head.into(), length.into()], Outcome::Success);
    let place = told.thread_number_place(main);
    script.call(libc::SYS_set_tid_address, &[place.into()], Outcome::Success);
    script.call(libc::SYS_arch_prctl, &[ARCH_SET_FS.into(), main.registers.fs_base.into()], Outcome::Success);
    // The end of the report says that the process is there. None of what runs from here on may write to it: the guest may have broken it.
    script.call(libc::SYS_close, &[number(script::PARKED_REPORT)], Outcome::Success);
    let gate = number(script::PARKED_GATE);
    script.call(libc::SYS_read, &[gate, Word::Scratch, 1.into()], Outcome::Number(1));
    script.call(libc::SYS_close, &[gate], Outcome::Success);
    let of_its_own = libc::CLONE_SETTLS | libc::CLONE_PARENT_SETTID | libc::CLONE_CHILD_CLEARTID;
    let flags = GONE | of_its_own as u64;
    // Locks know their owners by number. In a namespace of its own a process's threads are numbered in the order in which they begin, so those
    // that have ended must begin as well.
    let numbered = threads.iter().map(|thread| Ok((number_within(thread.thread)?, thread)));
    let mut numbered: Vec<(u64, &Tracee)> = numbered.collect::<io::Result<_>>()?;
    numbered.sort_by_key(|(number, _)| *number);
    let mut next = MAIN_THREAD + 1;
    for (number, thread) in numbered {
        if number >= next + MOST_GONE || number_within(main.thread)? != MAIN_THREAD {
            return Err(io::Error::other("its threads' numbers are not those that others can have"));
        }
        for gone in next..number {
            let own = script.thread();
            let stack = script.words(&[Word::Thread(own), 0.into()]);
            script.call(libc::SYS_clone, &[GONE.into(), stack], Outcome::Thread(gone));
            script.call_in(own, libc::SYS_exit, &[], Outcome::Success);
        }
        next = number + 1;
        let own = script.thread();
        let stack = script.words(&[Word::Thread(own), 0.into()]);
        let (tls, place) = (thread.registers.fs_base, told.thread_number_place(thread));
        let arguments = [flags.into(), stack, place.into(), place.into(), tls.into()];
        script.call(libc::SYS_clone, &arguments, Outcome::Thread(number));
        let (head, length) = thread.robust_list()?;
        script.call_in(own, libc::SYS_set_robust_list, &[head.into(), length.into()], Outcome::Success);
        let frame = frame(script, thread)?;
        script.call_in(own, libc::SYS_rt_sigreturn, &[frame], Outcome::Back);
    }
    let frame = frame(script, main)?;
    script.call(libc::SYS_rt_sigreturn, &[frame], Outcome::Back);
    Ok(())
}

/// `ARCH_SET_FS` (asm/prctl.h).
const ARCH_SET_FS: u64 = 0x1002;

/// What a kernel returns inside of a system call that a signal has interrupted (linux/errno.h), and which is then begun again.
const RESTARTS: [i64; 4] = [-512, -513, -514, -516];

/// What the kernel puts on a stack for a signal's handler to return by (arch/x86/include/uapi/asm/sigcontext.h): all of a thread's state.
/// Its floating-point state is the initial one, for it is in a system call, across which compiled code keeps nothing of it but the control words.
fn frame(script: &mut Script, thread: &Tracee) -> io::Result<Word> {
    let (x87, sse) = thread.float_control()?;
    if (x87, sse & !FLOAT_FLAGS) != FLOAT_CONTROL {
        return Err(io::Error::other(format!("a thread computes in a way of its own ({x87:x}, {sse:x})")));
    }
    if thread.has_restartable_sequences()? {
        return Err(io::Error::other("a thread has restartable sequences"));
    }
    let registers = &thread.registers;
    let (mut rip, mut rax) = (registers.rip, registers.rax);
    if RESTARTS.contains(&(rax as i64)) {
        (rip, rax) = (rip - 2, registers.orig_rax);
    }
    // The stack segment's number is in it, and is to be taken as it is.
    const STRICT_SEGMENTS: u64 = 0x6;
    let segments = registers.cs | registers.ss << 48;
    let [handler_stack, context] = [[0, libc::SS_DISABLE as u64, 0], [0; 3]];
    let numbers: Vec<u64> = [STRICT_SEGMENTS, 0]
        .into_iter()
        .chain(handler_stack)
        .chain([
            registers.r8,
            registers.r9,
            registers.r10,
            registers.r11,
            registers.r12,
            registers.r13,
            registers.r14,
            registers.r15,
            registers.rdi,
            registers.rsi,
            registers.rbp,
            registers.rbx,
            registers.rdx,
            rax,
            registers.rcx,
            registers.rsp,
            rip,
            registers.eflags,
            segments,
        ])
        // Error, trap and old mask; the faulting address; the floating-point state, none; and eight that are reserved.
        .chain(context)
        .chain([0; 10])
        .chain([thread.blocked_signals()?])
        .collect();
    let words: Vec<Word> = numbers.into_iter().map(Word::Is).collect();
    Ok(script.words(&words))
}
