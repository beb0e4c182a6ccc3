//! Code in a language: run by a kernel of the agent's, one for each language, which keeps its state from one exec to the next.
//!
//! A kernel shows values and tells of errors as data; here they are what a program would have written: values are shown by nobody, an
//! error's traceback is the end of the error output.

use std::cell::Cell;
use std::convert::Infallible;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_protocol::kernel::{
    KernelEvent, KernelExec, KernelInfo, KernelLanguage, KernelName, KernelRan, KernelRequest, KernelResult,
    KernelStart, KernelState,
};
use hearth_protocol::{ErrorCode, Fault, Finished, ProcessRef, Signal, SignalScope, StreamName};
use tokio::sync::{Notify, mpsc};

use super::exec::{Complete, GRACE, relay, timed_out};
use super::output::{Output, OverLimit, Stream};
use super::request::{ErrorType, Exec, Language, Refusal};
use super::{Entry, Execution, cancelled};
use crate::kernel;
use crate::process::Process;
use crate::session::operation::Streams;

/// The kernel of a language.
fn kernel_of(language: Language) -> (KernelLanguage, String) {
    let kernel = match language {
        Language::Python => KernelLanguage::Python,
        Language::Javascript => KernelLanguage::Javascript,
        Language::Raw => KernelLanguage::Bash,
    };
    (kernel, format!("execution-channel.{}", language.name()))
}

/// Has the interpreter of a language run and wait. One that runs already keeps its state.
pub(super) async fn warm(execution: &Execution, language: Language) -> Result<(), Refusal> {
    let (kernel, name) = kernel_of(language);
    let mut start = KernelStart::new(kernel);
    start.name = Some(name);
    start.cwd = Some(execution.home()?.path().as_os_str().as_bytes().into());
    ask(execution, KernelRequest::Start(start)).await.map_err(not_run)?;
    Ok(())
}

/// Asks for something that has no streams.
async fn ask(execution: &Execution, request: KernelRequest) -> Result<KernelResult, Fault> {
    let (streams, _input, _output) = Streams::local();
    match kernel::run(Rc::clone(&execution.agent), request, streams).await? {
        Finished::Kernel(result) => Ok(result),
        _ => Err(Fault::failed(ErrorCode::Internal, "a kernel answered with something else")),
    }
}

fn not_run(fault: Fault) -> Refusal {
    Refusal::new(ErrorType::Execution, fault)
}

/// Runs code by its language's kernel, in its turn.
pub(super) async fn run(
    execution: &Execution,
    exec: Exec,
    output: &Output,
    entry: &Entry,
) -> Result<Complete, Refusal> {
    let _turn = tokio::select! {
        turn = execution.turns[exec.language as usize].lock() => turn,
        () = entry.cancelled() => return Err(cancelled()),
    };
    let begun = Instant::now();
    warm(execution, exec.language).await?;
    let spawned = begun.elapsed();
    let (language, name) = kernel_of(exec.language);
    let mut request = KernelExec::new(language);
    request.name = Some(name.clone());
    request.code = Some(exec.code);
    request.env = exec.variables.into_iter().map(|(name, value)| (name, value.into())).collect();
    let (streams, _input, pieces) = Streams::local();
    let run = kernel::run(Rc::clone(&execution.agent), KernelRequest::Exec(request), streams);
    let (timeout, over, why) = (exec.timeout, Notify::new(), Cell::new(None));
    let watch = Watch { execution, name, timeout, entry, output, over, why };
    let mut said = Said { pieces, traceback: String::new(), over: None };
    let (ran, ()) = tokio::select! {
        both = async { tokio::join!(run, said.follow(output, &watch.over)) } => both,
        never = watch.watch() => match never {},
    };
    let ran = match ran.map_err(not_run)? {
        Finished::Kernel(KernelResult::Ran(ran)) => ran,
        _ => return Err(Refusal::new(ErrorType::Execution, "the kernel did not say how the code ended")),
    };
    let why = watch.why.get();
    if why.is_some() {
        watch.end_children().await;
    }
    said.end(output, why.is_some()).await?;
    watch.outcome(why, &ran)?;
    let process = Duration::from_micros(ran.duration_us);
    Ok(Complete { exit_code: ran.code, spawned: Some(spawned), process: Some(process) })
}

/// What a kernel says of code.
struct Said {
    pieces: mpsc::Receiver<(StreamName, Bytes)>,
    traceback: String,
    over: Option<OverLimit>,
}

impl Said {
    /// Passes everything on, to the end. What is over a limit is told to `over`, and let go.
    async fn follow(&mut self, output: &Output, over: &Notify) {
        while let Err(limit) = relay(output, async || self.next().await).await {
            self.over.get_or_insert(limit);
            over.notify_one();
        }
    }

    /// The next piece of output. Cancel-safe.
    async fn next(&mut self) -> Option<(Stream, Bytes)> {
        loop {
            match self.pieces.recv().await? {
                (StreamName::Stdout, bytes) => return Some((Stream::Stdout, bytes)),
                (StreamName::Stderr, bytes) => return Some((Stream::Stderr, bytes)),
                (_, line) => {
                    if let Ok(KernelEvent::Error { traceback, .. }) = KernelEvent::parse(line.trim_ascii_end()) {
                        self.traceback += &traceback;
                    }
                }
            }
        }
    }

    /// Writes what comes behind the output: the traceback, unless it is that of having been stopped.
    async fn end(self, output: &Output, stopped: bool) -> Result<(), Refusal> {
        let mut traceback = self.traceback;
        if !stopped && !traceback.is_empty() {
            if !traceback.ends_with('\n') {
                traceback.push('\n');
            }
            output.take(Stream::Stderr, traceback.as_bytes()).await?;
        }
        match self.over {
            Some(over) => Err(over.into()),
            None => Ok(()),
        }
    }
}

/// Why code was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    TimedOut,
    Cancelled,
    TooMuch,
}

/// What ends code that does not end by itself.
struct Watch<'a> {
    execution: &'a Execution,
    name: String,
    timeout: Duration,
    entry: &'a Entry,
    output: &'a Output,
    /// The code has written more than it may.
    over: Notify,
    why: Cell<Option<Why>>,
}

impl Watch<'_> {
    /// Waits for a reason to stop the code, and does. Never returns: the end of the code ends it.
    async fn watch(&self) -> Infallible {
        let why = tokio::select! {
            () = tokio::time::sleep(self.timeout) => Why::TimedOut,
            () = self.entry.cancelled() => Why::Cancelled,
            () = self.over.notified() => Why::TooMuch,
        };
        self.why.set(Some(why));
        self.output.hurry();
        // Code that has ended, and only waits for its client, has nothing to be stopped: the interpreter is the next one's.
        let is_busy = |state| state == KernelState::Busy;
        if let Some(process) = self.process(is_busy).await {
            // An interpreter that would only be ended by a TERM is interrupted instead, and so keeps its state.
            if process.handles(Signal::Term) {
                let _ = process.signal_group(Signal::Term);
            } else {
                let interrupt = KernelRequest::Interrupt(KernelName { name: self.name.clone() });
                let _ = ask(self.execution, interrupt).await;
                process.signal_children(Signal::Term);
            }
            tokio::time::sleep(GRACE).await;
            if let Some(process) = self.process(is_busy).await {
                let _ = process.signal(Signal::Kill, SignalScope::Tree);
            }
        }
        std::future::pending().await
    }

    /// Ends what the code has left behind that it started: it has been told before.
    async fn end_children(&self) {
        if let Some(process) = self.process(|_| true).await {
            process.signal_children(Signal::Kill);
        }
    }

    /// The interpreter, if it is in a state that counts.
    async fn process(&self, counts: impl Fn(KernelState) -> bool) -> Option<Rc<Process>> {
        let Ok(KernelResult::Kernels(kernels)) = ask(self.execution, KernelRequest::List {}).await else { return None };
        let own = |kernel: &KernelInfo| {
            (kernel.name == self.name && counts(kernel.state)).then_some(kernel.process).flatten()
        };
        self.execution.agent.processes.get(&ProcessRef::Id(kernels.iter().find_map(own)?)).ok()
    }

    /// What the code ends with if it was stopped.
    fn outcome(&self, why: Option<Why>, ran: &KernelRan) -> Result<(), Refusal> {
        match why {
            Some(Why::Cancelled) => Err(cancelled()),
            // One that takes its timeout for an order to end has the last word.
            Some(Why::TimedOut) if ran.signal.is_some() || ran.interrupted => Err(timed_out(self.timeout)),
            Some(Why::TimedOut | Why::TooMuch) | None => Ok(()),
        }
    }
}
