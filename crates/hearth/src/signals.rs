//! The signals that this process gets while a program runs or an image is built.

use std::io;

use hearth_engine::protocol;
use hearth_engine::{channel::Process, protocol::SignalScope};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{sys, terminal};

/// What a shell reports for a process that signal n ended.
fn code(signal: protocol::Signal) -> i32 {
    128 + signal.number()
}

/// The handlers. A signal that was ignored when this process started, as `nohup` does it, stays ignored.
pub(crate) struct Signals {
    interrupt: Option<Signal>,
    quit: Option<Signal>,
    terminate: Option<Signal>,
    hang_up: Option<Signal>,
    resize: Signal,
}

impl Signals {
    /// Installs them.
    pub(crate) fn new() -> io::Result<Self> {
        let handled = |kind: SignalKind| match sys::is_ignored(kind.as_raw_value())? {
            false => signal(kind).map(Some),
            true => Ok(None),
        };
        Ok(Self {
            interrupt: handled(SignalKind::interrupt())?,
            quit: handled(SignalKind::quit())?,
            terminate: handled(SignalKind::terminate())?,
            hang_up: handled(SignalKind::hangup())?,
            resize: signal(SignalKind::window_change())?,
        })
    }

    /// Waits for the first that ends this process, and returns its exit code.
    pub(crate) async fn first(&mut self) -> i32 {
        tokio::select! {
            () = next(&mut self.interrupt) => code(protocol::Signal::Int),
            code = ending(&mut self.quit, &mut self.terminate, &mut self.hang_up) => code,
        }
    }

    /// Waits for the next. Cancel-safe.
    pub(crate) async fn told(&mut self) -> Told {
        tokio::select! {
            () = next(&mut self.interrupt) => Told::Interrupt,
            code = ending(&mut self.quit, &mut self.terminate, &mut self.hang_up) => Told::End(code),
            Some(()) = self.resize.recv() => Told::Resized,
        }
    }

    /// Passes on what is for the program, until one comes that ends this process; returns its exit code. Ctrl-C goes to the
    /// program and all it has started, as a terminal would send it to the whole foreground job; the second one ends the sandbox, even
    /// while the guest has not taken the first.
    pub(crate) async fn pass_on(&mut self, process: &Process, has_terminal: bool) -> i32 {
        tokio::select! {
            () = async {
                next(&mut self.interrupt).await;
                let second = next(&mut self.interrupt);
                tokio::pin!(second);
                tokio::select! {
                    () = interrupt(process) => second.await,
                    () = &mut second => {}
                }
            } => code(protocol::Signal::Int),
            code = ending(&mut self.quit, &mut self.terminate, &mut self.hang_up) => code,
            never = pass_sizes(&mut self.resize, process), if has_terminal => never,
        }
    }
}

/// What a signal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// Ctrl-C.
    Interrupt,
    /// This process is to end, with this code.
    End(i32),
    /// The terminal has another size.
    Resized,
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            if signal.recv().await.is_none() {
                std::future::pending().await
            }
        }
        None => std::future::pending().await,
    }
}

async fn ending(quit: &mut Option<Signal>, terminate: &mut Option<Signal>, hang_up: &mut Option<Signal>) -> i32 {
    tokio::select! {
        () = next(quit) => code(protocol::Signal::Quit),
        () = next(terminate) => code(protocol::Signal::Term),
        () = next(hang_up) => code(protocol::Signal::Hup),
    }
}

async fn interrupt(process: &Process) {
    // A program that has just ended needs no signal; that it ended arrives by its output.
    let _ = process.signal(protocol::Signal::Int, SignalScope::Tree).await;
}

async fn pass_sizes(resize: &mut Signal, process: &Process) -> ! {
    loop {
        if resize.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        // A size that did not arrive is followed by the next.
        let _ = process.resize(terminal::size()).await;
    }
}
