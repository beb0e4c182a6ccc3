//! Kernels: interpreters that keep their state between two pieces of code.
//!
//! A kernel is a process with a driver of ours in it ([`driver`], and the three texts beside it), two pipes to that ([`control`]), and a name.
//! Its code runs one piece at a time ([`exec`]); what waits, waits in order. What must stay true:
//!
//! - A kernel belongs to the agent. Code that has begun goes on without its client, and the next piece waits for it.
//! - The end of a piece of code is exact: its driver says so behind all that the code has written, and what the pipes hold at that
//!   moment is its output.
//! - User code can end its interpreter, and then loses its state. It can not end the kernel: the next code starts another interpreter.
//! - Whether an interpreter was started for its kernel or has waited for one ([`spare`]) makes no difference to the user but in time.

mod bash;
mod control;
mod driver;
mod exec;
mod spare;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::kernel::{
    KernelExec, KernelInfo, KernelLanguage, KernelName, KernelRequest, KernelResult, KernelStart, KernelState,
    checked_code,
};
use hearth_protocol::{ErrorCode, ExitStatus, Fault, Finished, RawString, Signal, SignalScope, limits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::agent::Agent;
use crate::process::{Intake, Output, Process, Processes};
use crate::session::operation::Streams;
use bash::Bash;
use control::Control;
use driver::{Answer, Driver, Job, Plan};
use exec::Exec;
use spare::Spare;

/// The most kernels there may be.
const MOST: usize = 64;
/// The most pieces of code that may wait for one kernel.
const MOST_WAITING: usize = 64;
/// How long an interpreter may take until it is ready, imports included.
const START_PATIENCE: Duration = Duration::from_secs(120);

/// All kernels of an agent, by name.
#[derive(Default)]
pub(crate) struct Kernels {
    all: RefCell<BTreeMap<String, Rc<Kernel>>>,
    spare: Rc<Spare>,
}

/// A kernel.
struct Kernel {
    name: String,
    plan: KernelStart,
    spare: Rc<Spare>,
    /// Held by what runs in it. Closed when it is stopped.
    turn: Arc<Semaphore>,
    waiting: Cell<usize>,
    live: RefCell<Option<Rc<Live>>>,
    /// What a shell that has ended left to the next.
    legacy: RefCell<Option<Bash>>,
    running: RefCell<Option<Rc<Exec>>>,
    execs: Cell<u64>,
    failed_imports: RefCell<BTreeMap<String, String>>,
}

/// An interpreter that runs, or ran last.
struct Live {
    process: Rc<Process>,
    control: Control,
    driver: RefCell<Option<Driver>>,
    /// Up to where its output belongs to code that has ended.
    told: Cell<[u64; 2]>,
    /// How many threads its tree had before it ran any code: with more, code that has ended has left something at work.
    threads: Cell<u32>,
    /// Whether it was started before there was a kernel for it.
    warmed: bool,
}

/// What getting ready has come to.
#[derive(Default)]
struct Prepared {
    code: i32,
    failed_imports: BTreeMap<String, String>,
    /// What the interpreter will not look at again.
    looked_at: Vec<RawString>,
}

/// How an interpreter took a job.
enum Taken {
    /// It did it.
    Done { code: i32, interrupted: bool },
    /// It ended over it.
    Ended(ExitStatus),
}

/// Does what is asked.
pub(crate) async fn run(agent: Rc<Agent>, request: KernelRequest, streams: Streams) -> Result<Finished, Fault> {
    let (kernels, processes) = (&agent.kernels, &agent.processes);
    let result = match request {
        KernelRequest::Start(plan) => {
            let kernel = kernels.get_or_make(plan)?;
            let busy = kernel.running.borrow().is_some();
            if busy { kernel.result() } else { kernel.be_ready(kernels, processes).await? }
        }
        KernelRequest::Exec(request) => {
            let Streams { input, output } = streams;
            let code = code_of(&request, input).await?;
            let plan = KernelStart { name: request.name.clone(), ..KernelStart::new(request.language) };
            let kernel = kernels.get_or_make(plan)?;
            let turn = kernel.turn().await?;
            let ran = exec::run(Rc::clone(&kernel), Rc::clone(processes), turn, (request, code), output).await;
            kernels.forget_unborn(&kernel);
            KernelResult::Ran(ran?)
        }
        KernelRequest::List {} => {
            KernelResult::Kernels(kernels.all.borrow().values().map(|kernel| kernel.info()).collect())
        }
        KernelRequest::Interrupt(KernelName { name }) => {
            kernels.get(&name)?.interrupt();
            KernelResult::Done {}
        }
        KernelRequest::Restart(KernelName { name }) => {
            let kernel = kernels.get(&name)?;
            kernel.kill(processes).await;
            // What waits for it starts it by itself.
            if kernel.waiting.get() == 0 { kernel.be_ready(kernels, processes).await? } else { kernel.result() }
        }
        KernelRequest::Stop(KernelName { name }) => {
            let kernel = kernels.get(&name)?;
            kernels.all.borrow_mut().remove(&name);
            kernel.turn.close();
            kernel.kill(processes).await;
            KernelResult::Done {}
        }
        KernelRequest::Warm {} => {
            let (spare, processes) = (Rc::clone(&kernels.spare), Rc::clone(processes));
            // Once begun it is finished, whoever still waits for it.
            let making = tokio::task::spawn_local(async move { spare.make(&processes).await });
            making.await.map_err(|_| ending())??;
            KernelResult::Done {}
        }
    };
    Ok(Finished::Kernel(result))
}

fn ending() -> Fault {
    Fault::failed(ErrorCode::Cancelled, "the agent is ending")
}

/// The code of a request, from its field or its input.
async fn code_of(request: &KernelExec, mut input: Intake) -> Result<String, Fault> {
    if let Some(code) = &request.code {
        return checked_code(code.as_bytes()).map(str::to_owned);
    }
    let mut code = Vec::new();
    loop {
        match input.next().await {
            Ok(Some(piece)) => code.extend_from_slice(&piece),
            Ok(None) => break,
            Err(_) => return Err(Fault::never_started(ErrorCode::Cancelled, "the code was cut off")),
        }
        // What is too long already need not come whole.
        if code.len() > limits::CODE {
            break;
        }
    }
    checked_code(&code).map(str::to_owned)
}

impl Kernels {
    fn get(&self, name: &str) -> Result<Rc<Kernel>, Fault> {
        let unknown = || Fault::never_started(ErrorCode::UnknownName, format!("there is no kernel {name:?}"));
        self.all.borrow().get(name).cloned().ok_or_else(unknown)
    }

    fn get_or_make(&self, plan: KernelStart) -> Result<Rc<Kernel>, Fault> {
        let name = plan.name.clone().unwrap_or_else(|| plan.language.name().to_owned());
        let mut all = self.all.borrow_mut();
        if let Some(kernel) = all.get(&name) {
            if kernel.plan.language == plan.language {
                return Ok(Rc::clone(kernel));
            }
            let language = kernel.plan.language.name();
            let message = format!("there is a kernel {name:?} already, and it runs {language}");
            return Err(Fault::never_started(ErrorCode::AlreadyExists, message));
        }
        if all.len() >= MOST {
            return Err(Fault::never_started(ErrorCode::Busy, format!("there are {MOST} kernels already")));
        }
        let kernel = Rc::new(Kernel::new(name.clone(), plan, Rc::clone(&self.spare)));
        all.insert(name, Rc::clone(&kernel));
        Ok(kernel)
    }

    /// Forgets a kernel whose interpreter could not be started even once.
    fn forget_unborn(&self, kernel: &Rc<Kernel>) {
        let mut all = self.all.borrow_mut();
        let listed = all.get(&kernel.name).is_some_and(|listed| Rc::ptr_eq(listed, kernel));
        if listed && kernel.live.borrow().is_none() && kernel.waiting.get() == 0 {
            all.remove(&kernel.name);
        }
    }
}

impl Kernel {
    fn new(name: String, plan: KernelStart, spare: Rc<Spare>) -> Self {
        Self {
            name,
            plan,
            spare,
            turn: Arc::new(Semaphore::new(1)),
            waiting: Cell::new(0),
            live: RefCell::default(),
            legacy: RefCell::default(),
            running: RefCell::default(),
            execs: Cell::new(0),
            failed_imports: RefCell::default(),
        }
    }

    fn info(&self) -> KernelInfo {
        let live = self.live.borrow();
        let state = match &*live {
            _ if self.running.borrow().is_some() => KernelState::Busy,
            Some(live) if !live.process.has_ended() => KernelState::Idle,
            // A shell that has ended goes on in the next.
            _ if self.legacy.borrow().is_some() => KernelState::Idle,
            _ => KernelState::Ended,
        };
        let (name, language, execs) = (self.name.clone(), self.plan.language, self.execs.get());
        let (process, warmed) = live.as_ref().map(|live| (live.process.id, live.warmed)).unzip();
        KernelInfo { name, language, state, process, execs, warmed: warmed.unwrap_or(false) }
    }

    /// Waits until nothing else runs in it.
    async fn turn(&self) -> Result<OwnedSemaphorePermit, Fault> {
        if self.waiting.get() >= MOST_WAITING {
            let message = format!("{MOST_WAITING} pieces of code wait for the kernel {:?} already", self.name);
            return Err(Fault::never_started(ErrorCode::Busy, message));
        }
        let _waiting = Waiting::new(&self.waiting);
        let stopped =
            |_| Fault::never_started(ErrorCode::UnknownName, format!("the kernel {:?} was stopped", self.name));
        Arc::clone(&self.turn).acquire_owned().await.map_err(stopped)
    }

    /// Has the interpreter run and wait, unless it does already.
    async fn be_ready(self: &Rc<Self>, kernels: &Kernels, processes: &Rc<Processes>) -> Result<KernelResult, Fault> {
        let turn = self.turn().await?;
        let (kernel, processes) = (Rc::clone(self), Rc::clone(processes));
        // A start that was begun is finished, whoever still waits for it.
        let start = tokio::task::spawn_local(async move {
            let _turn = turn;
            kernel.ensure_live(&processes).await.map(drop)
        });
        let started = start.await;
        kernels.forget_unborn(self);
        started.map_err(|_| ending())??;
        Ok(self.result())
    }

    fn result(&self) -> KernelResult {
        KernelResult::Kernel { kernel: self.info(), failed_imports: self.failed_imports.borrow().clone() }
    }

    /// The interpreter, started if need be; and whether it is without any earlier state. Its turn must be held.
    async fn ensure_live(&self, processes: &Rc<Processes>) -> Result<(Rc<Live>, bool), Fault> {
        if let Some(live) = self.live.borrow().clone().filter(|live| !live.process.has_ended()) {
            return Ok((live, false));
        }
        let legacy = self.legacy.take();
        let fresh = legacy.is_none();
        let live = match self.spare.take(&self.plan, processes).await {
            Some(live) => live,
            None => Live::start(&self.plan, legacy, processes, false)?,
        };
        *self.live.borrow_mut() = Some(Rc::clone(&live));
        let mut failed_imports = BTreeMap::new();
        if !live.warmed || !self.plan.imports.is_empty() {
            let job = Job::Prepare { imports: &self.plan.imports };
            let Some(prepared) = live.prepare(&job, START_PATIENCE).await else {
                self.live.take();
                return Err(live.give_up(processes).await);
            };
            failed_imports = prepared.failed_imports;
            live.note_threads(self.plan.language);
        }
        live.told.set(live.settle().await);
        live.process.rest_with(Some(live.threads.get()));
        *self.failed_imports.borrow_mut() = failed_imports;
        Ok((live, fresh))
    }

    fn begin(&self, live: &Live, exec: &Rc<Exec>) {
        self.execs.set(self.execs.get() + 1);
        live.process.rest_with(None);
        *self.running.borrow_mut() = Some(Rc::clone(exec));
    }

    /// Notes that code has ended so; tells whether the interpreter's state went with it.
    fn end(&self, live: &Live, taken: &Taken) -> bool {
        self.running.take();
        live.process.rest_with(Some(live.threads.get()));
        let Taken::Ended(status) = taken else { return false };
        let legacy = live.driver.take().and_then(|driver| driver.survives(status));
        let lost = legacy.is_none();
        *self.legacy.borrow_mut() = legacy;
        lost
    }

    fn interrupt(&self) {
        if let Some(exec) = &*self.running.borrow() {
            exec.interrupt();
        }
    }

    /// Ends the interpreter, all that it has started, and all memory of them.
    async fn kill(&self, processes: &Processes) {
        // A process has ended when its output is taken.
        if let Some(exec) = &*self.running.borrow() {
            exec.let_go();
        }
        let live = self.live.borrow().clone();
        if let Some(live) = live {
            processes.kill_tree(&live.process).await;
        }
        self.legacy.take();
    }
}

fn explain(language: KernelLanguage, fault: Fault) -> Fault {
    if fault.code != ErrorCode::CommandNotFound {
        return fault;
    }
    let (language, program) = (language.name(), language.program());
    Fault::never_started(ErrorCode::Unavailable, format!("{language} needs {program}, which is not in the guest"))
}

/// Counts one that waits, as long as it does.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Live {
    /// Starts an interpreter for a kernel like `plan`. It is not ready yet.
    fn start(
        plan: &KernelStart,
        legacy: Option<Bash>,
        processes: &Rc<Processes>,
        warmed: bool,
    ) -> Result<Rc<Self>, Fault> {
        let no_pipes = |error| Fault::never_started(ErrorCode::SpawnFailed, format!("make pipes: {error}"));
        let Plan { start, extra, control, driver } = Plan::new(plan, legacy).map_err(no_pipes)?;
        let process = processes.start_with(&start, extra).map_err(|fault| explain(plan.language, fault))?;
        let driver = RefCell::new(Some(driver));
        if warmed {
            process.withhold();
        }
        Ok(Rc::new(Self { process, control, driver, told: Cell::default(), threads: Cell::default(), warmed }))
    }

    /// Has it do a job that is no code of the user's; `None` when it ended over it, or took too long.
    async fn prepare(&self, job: &Job<'_>, patience: Duration) -> Option<Prepared> {
        let mut prepared = Prepared::default();
        let note = async |answer| match answer {
            Answer::NotImported { name, reason } => drop(prepared.failed_imports.insert(name, reason)),
            Answer::LookedAt(paths) => prepared.looked_at = paths,
            _ => {}
        };
        match tokio::time::timeout(patience, self.talk(job, note, || ())).await {
            Ok(Ok(Taken::Done { code, .. })) => Some(Prepared { code, ..prepared }),
            _ => None,
        }
    }

    /// Ends an interpreter that did not get ready, and explains it.
    async fn give_up(&self, processes: &Processes) -> Fault {
        processes.kill_tree(&self.process).await;
        let said = self.process.stderr.last(limits::MESSAGE / 2);
        let message = format!("the interpreter did not get ready. It said: {said}");
        Fault::never_started(ErrorCode::Unavailable, message)
    }

    fn outputs(&self) -> [&Rc<Output>; 2] {
        [&self.process.stdout, &self.process.stderr]
    }

    /// Notes how many threads its tree has when no code of the user's has run.
    fn note_threads(&self, language: KernelLanguage) {
        self.threads.set(match language {
            // The shell, and the subshell in which it waits for the next text, which it may not have begun yet.
            KernelLanguage::Bash => 2,
            _ => self.process.threads(),
        });
    }

    /// Up to where both streams are written at this moment, once it is there to be read.
    async fn settle(&self) -> [u64; 2] {
        let [stdout, stderr] = self.outputs();
        tokio::join!(stdout.settle(), stderr.settle()).into()
    }

    /// Has the driver do a job; hands what it says on the way to `take`. Calls `over` once it says no more, before it waits for the
    /// end of an interpreter that did not say that the job is done.
    async fn talk(
        &self,
        job: &Job<'_>,
        mut take: impl AsyncFnMut(Answer),
        over: impl FnOnce(),
    ) -> Result<Taken, Fault> {
        let token = driver::draw_token()?;
        let request = self.with_driver(Vec::new(), |driver| driver.request(token, job));
        tokio::select! {
            () = self.control.send(&request) => {}
            _ = self.process.wait() => {}
        }
        loop {
            let record = tokio::select! {
                biased;
                record = self.control.next() => record,
                // What it has said before its end counts; its children may hold the pipe open.
                _ = self.process.wait() => self.control.next_now(),
            };
            let Some(record) = record else { break };
            match self.with_driver(Answer::Broken, |driver| driver.answer(&record)) {
                Answer::Done { code, interrupted } => return Ok(Taken::Done { code, interrupted }),
                Answer::Nothing => {}
                Answer::Broken => self.kill(),
                answer => take(answer).await,
            }
        }
        // Whatever closed the pipe: the driver sees the end of its requests, and ends.
        self.control.hang_up();
        over();
        Ok(Taken::Ended(self.process.wait().await.0))
    }

    fn with_driver<T>(&self, without: T, work: impl FnOnce(&mut Driver) -> T) -> T {
        self.driver.borrow_mut().as_mut().map_or(without, work)
    }

    fn waits_for_children(&self) -> bool {
        self.with_driver(false, |driver| driver.waits_for_children())
    }

    /// Tells an interpreter that takes hints that it is to be interrupted; returns whether it does.
    fn hint_interrupt(&self) -> bool {
        let Some(hint) = self.with_driver(None, |driver| driver.hint()) else { return false };
        // One that has ended needs no interrupt.
        let _ = self.process.signal(hint, SignalScope::Process);
        true
    }

    /// Interrupts the interpreter, or all in its process group.
    fn interrupt(&self, group: bool) {
        // One that has ended needs no interrupt.
        let _ = match group {
            true => self.process.signal_group(Signal::Int),
            false => self.process.signal(Signal::Int, SignalScope::Process),
        };
    }

    fn kill(&self) {
        // What has ended already is what is wanted.
        let _ = self.process.signal(Signal::Kill, SignalScope::Tree);
    }
}
