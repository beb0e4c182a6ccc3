//! Processes: started, watched, remembered. The one primitive that shells, services and kernels are made of.
//!
//! A process belongs to the agent, not to the connection that started it ([`child`]). Three tasks serve it: a pump for each output
//! ([`output`]), one that feeds its input ([`input`]), and a supervisor that waits for its end or its deadline:
//!
//! ```text
//! running ──exited──────────────────────────────────────> drained ──> ended
//!    └─deadline─> TERM to the tree ─grace─> KILL ─empty──────┘
//! ```
//!
//! Everything runs on one thread, so that between two awaits nothing changes.

mod child;
mod input;
mod output;
mod parked;
mod part;
mod request;
mod ring;
mod spawn;
mod sys;
mod tree;
mod users;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::ops::{Bound, Deref};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hearth_protocol::{
    ErrorCode, ExitStatus, Fault, ProcessId, ProcessInfo, ProcessRef, RawString, Signal, Start, Tag, limits,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::secrets::{Automaton, Change, Secrets, redact_command, redact_fault, redact_tag};
use child::Pipes;
pub(crate) use child::Process;
pub(crate) use input::{Input, Intake, Piece};
pub(crate) use output::{Cursor, OUTPUT_PIECE, Output};
use parked::Parked;
pub(crate) use part::Part;
pub(crate) use request::{Source, read_output, run, write_input};
use ring::Memory;
pub(crate) use spawn::{Circumstances, Defaults, Extra, home_of};
use spawn::{Spawned, Surroundings};
pub(crate) use tree::Trees;
use tree::{Group, Tree};
pub(crate) use users::User;

/// The ended processes that are remembered.
const REMEMBERED: usize = 256;
/// The memory that the output of ended processes may take, in bytes.
const REMEMBERED_MEMORY: usize = 16 * 1024 * 1024;
/// The most memory that the output of all processes together may take, in bytes; on a small machine an eighth of its memory. Some for
/// each stream comes on top.
const OUTPUT_MEMORY: usize = 256 * 1024 * 1024;
/// How long a killed tree may take to be gone before its end is reported all the same: a process in an uninterruptible
/// wait of the kernel dies later.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// After how long a terminal hangs up again for what waits for input there; then after twice that, and so on. bash notes a signal that comes
/// between its prompt and its wait for a key, and then waits for the key. Other signals are sent once: a server that has heeded a TERM waits
/// for its clients to leave, and may take a second one for haste.
const FIRST_DOUBT: Duration = Duration::from_millis(50);

/// A child that was to begin, and its tree.
struct Begun {
    tree: Tree,
    spawned: Result<Spawned, Fault>,
}

/// All processes of an agent.
pub(crate) struct Processes {
    defaults: Defaults,
    trees: Rc<Trees>,
    pub(crate) secrets: Rc<Secrets>,
    /// Variables of every process.
    variables: RefCell<BTreeMap<String, RawString>>,
    memory: Rc<Memory>,
    next: Cell<u64>,
    /// The agent is about to end: nothing is started any more.
    ending: Cell<bool>,
    all: RefCell<BTreeMap<ProcessId, Rc<Process>>>,
    by_pid: RefCell<HashMap<u32, Rc<Process>>>,
    /// What the first start of a guest that was settled finds done.
    parked: RefCell<Option<Parked>>,
    /// Some child was reaped.
    reaped: Notify,
}

impl Processes {
    /// Makes the table. Its caller must run [`Processes::reap`] beside everything else.
    pub(crate) fn new(defaults: Defaults, trees: Rc<Trees>, secrets: Rc<Secrets>) -> Rc<Self> {
        let machine = rustix::system::sysinfo();
        let eighth = machine.totalram as usize * machine.mem_unit as usize / 8;
        Rc::new(Self {
            defaults,
            trees,
            secrets,
            variables: RefCell::default(),
            memory: Memory::new(OUTPUT_MEMORY.min(eighth)),
            next: Cell::new(1),
            ending: Cell::new(false),
            all: RefCell::default(),
            by_pid: RefCell::default(),
            parked: RefCell::default(),
            reaped: Notify::new(),
        })
    }

    /// Stops all processes until [`Self::thaw`].
    ///
    /// # Errors
    /// [`ErrorCode::Io`]; then all go on.
    pub(crate) fn freeze(&self) -> Result<(), Fault> {
        self.trees.freeze().map_err(|error| {
            let _ = self.trees.thaw();
            Fault::failed(ErrorCode::Io, format!("stop all processes: {error}"))
        })
    }

    /// Lets all processes go on.
    ///
    /// # Errors
    /// [`ErrorCode::Io`].
    pub(crate) fn thaw(&self) -> Result<(), Fault> {
        self.trees.thaw().map_err(|error| Fault::failed(ErrorCode::Io, format!("let processes go on: {error}")))
    }

    /// How process trees are tracked.
    pub(crate) fn describe_trees(&self) -> String {
        self.trees.describe()
    }

    /// The shell of the user `user`, or of the default user.
    ///
    /// # Errors
    /// As for a start by that user.
    pub(crate) fn login_shell(&self, user: Option<&str>) -> Result<String, Fault> {
        spawn::login_shell(user, &self.defaults)
    }

    /// Starts a process.
    ///
    /// # Errors
    /// A [`Fault`] that says nothing has run.
    pub(crate) fn start(self: &Rc<Self>, start: &Start) -> Result<Rc<Process>, Fault> {
        self.start_with(start, Vec::new())
    }

    /// Starts a process with more descriptors than the usual three.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(crate) fn start_with(self: &Rc<Self>, start: &Start, extra: Vec<Extra>) -> Result<Rc<Process>, Fault> {
        let started = Instant::now();
        if self.ending.get() {
            return Err(Fault::never_started(ErrorCode::Busy, "the agent is about to end"));
        }
        // What is born into a frozen group does not get as far as its program, and the agent waits for it to.
        if self.trees.is_frozen() {
            return Err(Fault::never_started(ErrorCode::Busy, "the guest is being saved"));
        }
        if let Some(tag) = &start.tag {
            self.refuse_taken(tag)?;
        }
        let hidden = self.secrets.hide_with(&start.redact);
        let values = self.secrets.automaton(&hidden);
        let redact = |fault| redact_fault(values.as_ref(), fault);
        let Begun { tree, spawned } = self.begin(start, extra).map_err(redact)?;
        let spawned = spawned.map_err(|fault| {
            tree.release();
            redact(fault)
        })?;
        tree.set_leader(spawned.pid);
        let id = ProcessId(self.next.replace(self.next.get() + 1));
        let stdout = Output::new(start.keep.stdout, Rc::clone(&self.memory), values.clone());
        let stderr = match spawned.stderr {
            Some(_) => Output::new(start.keep.stderr, Rc::clone(&self.memory), values.clone()),
            None => Output::empty(Rc::clone(&self.memory)),
        };
        let process = Rc::new(Process {
            id,
            pid: spawned.pid,
            command: RefCell::new(redact_command(values.as_ref(), &start.command)),
            hidden,
            tag: start.tag.clone(),
            shown_tag: RefCell::new(start.tag.as_ref().map(|tag| redact_tag(values.as_ref(), tag))),
            tree,
            stdout,
            stderr,
            input: spawned.stdin.map(|target| Rc::new(Input::new(target))),
            terminal: spawned.terminal,
            started: Cell::new(started),
            reaped: Cell::new(None),
            reaping: Notify::new(),
            status: RefCell::default(),
            passing: Cell::new(start.forget),
            withheld: Cell::new(false),
            at_rest: Cell::new(None),
            ended: Notify::new(),
        });
        self.all.borrow_mut().insert(id, Rc::clone(&process));
        self.by_pid.borrow_mut().insert(process.pid, Rc::clone(&process));
        let pipes = Pipes { stdout: spawned.stdout, stderr: spawned.stderr };
        tokio::task::spawn_local(Rc::clone(&process.stdout).pump(Rc::clone(&pipes.stdout)));
        if let Some(stderr) = &pipes.stderr {
            tokio::task::spawn_local(Rc::clone(&process.stderr).pump(Rc::clone(stderr)));
        }
        tokio::task::spawn_local(Rc::clone(self).supervise(Rc::clone(&process), pipes, Deadline::of(start)));
        Ok(process)
    }

    /// Has a child begin, in a tree of its own.
    fn begin(self: &Rc<Self>, start: &Start, extra: Vec<Extra>) -> Result<Begun, Fault> {
        if let Some(begun) = self.begin_parked(start, &extra)? {
            return Ok(begun);
        }
        let tree = self.trees.prepare(&start.limits)?;
        let group = tree.group();
        let spawned = self.circumstances(start).and_then(|circumstances| {
            spawn::spawn(start, circumstances, extra, group.as_deref().map(Group::directory))
        });
        drop(group);
        Ok(Begun { tree, spawned })
    }

    fn surrounded<T>(&self, work: impl FnOnce(&Surroundings<'_>) -> T) -> T {
        let variables = self.variables.borrow();
        work(&Surroundings { defaults: &self.defaults, secrets: &self.secrets, variables: &variables })
    }

    /// Who a process would be if it were started now, where, and with which variables.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownUser`]; those of the secrets that are asked for.
    pub(crate) fn circumstances(&self, start: &Start) -> Result<Circumstances, Fault> {
        self.surrounded(|surroundings| Circumstances::of(start, surroundings))
    }

    /// The working directory that a process would be started in.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownUser`].
    pub(crate) fn directory_of(&self, start: &Start) -> Result<PathBuf, Fault> {
        spawn::directory_of(start, &self.defaults)
    }

    fn refuse_taken(&self, tag: &Tag) -> Result<(), Fault> {
        match self.tagged(tag).filter(|process| !process.has_ended()) {
            Some(process) => {
                let message = format!("process {} runs and has the tag {:?}", process.id.0, tag.as_str());
                Err(Fault::never_started(ErrorCode::AlreadyExists, message))
            }
            None => Ok(()),
        }
    }

    /// The process with a tag that was started last: if one of them runs, it is this one.
    fn tagged(&self, tag: &Tag) -> Option<Rc<Process>> {
        self.all.borrow().values().rev().find(|process| process.tag.as_ref() == Some(tag)).cloned()
    }

    /// Finds a process.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownProcess`].
    pub(crate) fn get(&self, process: &ProcessRef) -> Result<Rc<Process>, Fault> {
        let (found, name) = match process {
            ProcessRef::Id(id) => (self.all.borrow().get(id).cloned(), id.0.to_string()),
            ProcessRef::Tag(tag) => (self.tagged(tag), format!("{:?}", tag.as_str())),
        };
        found.filter(|process| !process.withheld.get()).ok_or_else(|| {
            Fault::never_started(
                ErrorCode::UnknownProcess,
                format!("there is no process {name}, or it was forgotten since"),
            )
        })
    }

    /// Lists those that are remembered, come behind `after` and bear `tag`, as many as one reply may hold; and whether there are more.
    pub(crate) fn list(&self, after: Option<ProcessId>, tag: Option<&Tag>) -> (Vec<ProcessInfo>, bool) {
        let all = self.all.borrow();
        let behind = all.range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded));
        let shown = behind.map(|(_, process)| process).filter(|process| !process.withheld.get());
        let mut rest = shown.filter(|process| tag.is_none() || process.tag.as_ref() == tag);
        let page = rest.by_ref().take(limits::LISTED).map(|process| process.info()).collect();
        (page, rest.next().is_some())
    }

    /// Gives these variables to every process that starts from now on, in place of those it was given before.
    pub(crate) fn give_variables(&self, variables: BTreeMap<String, RawString>) {
        self.variables.replace(variables);
    }

    /// Whether every process is given a variable whose name fits.
    pub(crate) fn gives_variable(&self, fits: impl Fn(&str) -> bool) -> bool {
        self.variables.borrow().keys().any(|name| fits(name))
    }

    /// What to look for in whatever comes of a process beside its output; `None` for nothing.
    pub(crate) fn hidden_in(&self, process: &Process) -> Option<Rc<Automaton>> {
        self.secrets.automaton(&process.hidden)
    }

    /// Makes a change of the secrets, and hides the new values in the output of every process, those that run already included.
    ///
    /// # Errors
    /// As [`Secrets::apply`].
    pub(crate) fn change_secrets(&self, change: Change) -> Result<(), Fault> {
        let all: Vec<_> = self.all.borrow().values().cloned().collect();
        let may_show = |process: &Rc<Process>| process.may_write() && !process.withheld.get();
        self.secrets.apply(change, all.iter().any(may_show))?;
        for process in all {
            process.hide(self.secrets.automaton(&process.hidden));
        }
        Ok(())
    }

    /// Reaps children until the agent ends: its own, and, as PID 1 or subreaper, every orphan.
    pub(crate) async fn reap(self: Rc<Self>, child_signals: AsyncFd<OwnedFd>) {
        loop {
            while let Some(child) = crate::sys::reap_one() {
                if let Some(process) = self.by_pid.borrow_mut().remove(&child.pid) {
                    process.reaped.set(Some(child));
                    process.reaping.notify_waiters();
                } else {
                    self.parked_has_ended(child.pid);
                }
            }
            self.reaped.notify_waiters();
            if crate::sys::child_ended(&child_signals).await.is_err() {
                return;
            }
        }
    }

    /// Ends every process tree: TERM, a grace for all together, KILL. Leaves no control group behind. For the end of the agent: nothing is
    /// started from now on.
    pub(crate) async fn stop_all(&self, grace: Duration) {
        self.ending.set(true);
        self.unpark().await;
        if !grace.is_zero() {
            let all_end = async {
                let running = self.running();
                running.iter().for_each(|process| process.ask_to_end());
                let each_ends = async {
                    for process in &running {
                        self.wait_until_empty(&process.tree, grace).await;
                    }
                };
                tokio::select! { () = each_ends => {} () = hang_up_again(&running) => {} }
            };
            // Those that are left are killed.
            let _ = tokio::time::timeout(grace, all_end).await;
        }
        let running = self.running();
        running.iter().for_each(|process| process.tree.signal(Signal::Kill));
        for process in running {
            self.wait_until_empty(&process.tree, KILL_PATIENCE).await;
            process.tree.release();
        }
        self.trees.remove();
    }

    /// Those of which something runs.
    fn running(&self) -> Vec<Rc<Process>> {
        self.all.borrow().values().filter(|process| !process.tree.release()).cloned().collect()
    }

    /// Kills a process and all that it has started, and waits until nothing of them is left.
    pub(crate) async fn kill_tree(&self, process: &Process) {
        process.tree.signal(Signal::Kill);
        // What even a KILL does not end at once ends later.
        self.wait_until_empty(&process.tree, KILL_PATIENCE).await;
        let _ = tokio::time::timeout(KILL_PATIENCE, process.wait()).await;
    }

    async fn supervise(self: Rc<Self>, process: Rc<Process>, pipes: Pipes, deadline: Deadline) {
        let timed_out = match deadline.timeout {
            Some(timeout) => tokio::time::timeout(timeout, self.wait_until_reaped(&process)).await.is_err(),
            None => {
                self.wait_until_reaped(&process).await;
                false
            }
        };
        if timed_out {
            self.stop(&process, Signal::Term, deadline.grace).await;
            // What is dead may not be reaped yet; what even a KILL does not end is reported as killed.
            let _ = tokio::time::timeout(KILL_PATIENCE, self.wait_until_reaped(&process)).await;
        }
        process.finish(&pipes, timed_out).await;
        // Whoever waits for the end is told before the house is tidied.
        tokio::task::yield_now().await;
        process.tree.release();
        drop((process, pipes));
        self.forget_oldest();
        self.trees.refill();
    }

    async fn wait_until_reaped(&self, process: &Process) {
        loop {
            let reaped = process.reaping.notified();
            if process.reaped.get().is_some() {
                return;
            }
            reaped.await;
        }
    }

    /// Ends a process and all it has started: a signal, a grace, KILL. Returns once nothing of the tree is left.
    pub(crate) async fn stop(&self, process: &Process, signal: Signal, grace: Duration) -> Stopped {
        process.tree.signal(signal);
        // What is stopped must run to see the signal.
        process.tree.signal(Signal::Cont);
        let stopped = [process];
        let in_time = tokio::select! {
            empty = self.wait_until_empty(&process.tree, grace) => empty,
            () = hang_up_again(&stopped), if signal == Signal::Hup => false,
        };
        if in_time {
            return Stopped::InTime;
        }
        process.tree.signal(Signal::Kill);
        self.wait_until_empty(&process.tree, KILL_PATIENCE).await;
        Stopped::Killed
    }

    /// As [`Self::stop`], and how the process ended; `None` for one that even a KILL has not ended yet.
    pub(crate) async fn stop_and_wait(&self, process: &Process, signal: Signal, grace: Duration) -> Option<ExitStatus> {
        self.stop(process, signal, grace).await;
        tokio::time::timeout(KILL_PATIENCE, process.wait()).await.ok().map(|(status, _)| status)
    }

    /// Every member that dies is in the end reaped by the agent, so a reaped child is when to look again.
    async fn wait_until_empty(&self, tree: &Tree, patience: Duration) -> bool {
        let empty = async {
            loop {
                let reaped = self.reaped.notified();
                if tree.is_empty() {
                    return;
                }
                reaped.await;
            }
        };
        tokio::time::timeout(patience, empty).await.is_ok()
    }

    /// Forgets all that have ended: they were nobody's who is to come.
    pub(crate) fn forget_ended(&self) {
        self.all
            .borrow()
            .values()
            .filter(|process| process.has_ended())
            .for_each(|process| process.forget_when_ended());
        self.forget_oldest();
    }

    /// Forgets ended processes, the oldest first, past what may be remembered.
    fn forget_oldest(&self) {
        let mut all = self.all.borrow_mut();
        all.retain(|_, process| !(process.passing.get() && process.has_ended() && process.tree.release()));
        let ended: Vec<_> = all.values().filter(|process| process.has_ended()).map(|p| (p.id, p.memory())).collect();
        let mut memory: usize = ended.iter().map(|(_, bytes)| bytes).sum();
        let mut count = ended.len();
        for (id, bytes) in ended {
            if count <= REMEMBERED && memory <= REMEMBERED_MEMORY {
                return;
            }
            // One that has left children behind is remembered as long as they live, so that they can be stopped.
            if all.get(&id).is_some_and(|process| process.tree.release()) {
                all.remove(&id);
            }
            count -= 1;
            memory -= bytes;
        }
    }
}

/// Has the terminals of `processes` hang up again, ever less often, for as long as it is polled.
async fn hang_up_again(processes: &[impl Deref<Target = Process>]) {
    let mut pause = FIRST_DOUBT;
    loop {
        tokio::time::sleep(pause).await;
        processes.iter().for_each(|process| process.hang_up_again());
        pause *= 2;
    }
}

/// How a tree that was to be stopped has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// Within its grace.
    InTime,
    /// By KILL.
    Killed,
}

struct Deadline {
    timeout: Option<Duration>,
    grace: Duration,
}

impl Deadline {
    fn of(start: &Start) -> Self {
        Self {
            timeout: start.timeout_ms.map(Duration::from_millis),
            grace: Duration::from_millis(start.grace_ms.unwrap_or(limits::DEFAULT_GRACE_MS)),
        }
    }
}
