//! Hearth's guest agent: PID 1 of a microVM, or an ordinary process that serves the same requests.
//!
//! `main` decides which; [`boot`] turns a fresh kernel into a machine, [`serve`] opens sockets; from there on both are the
//! same: [`session`] speaks the wire, [`agent`] and [`process`] do what is asked. One thread, no locks, no panics from input.

mod agent;
mod archives;
mod boot;
mod dial;
mod dialect;
mod files;
mod history;
mod kernel;
mod listen;
mod packages;
mod process;
mod renew;
mod roots;
mod runtime;
mod secrets;
mod serve;
mod service;
mod session;
mod shell;
mod sys;

use std::process::ExitCode;

use tokio::runtime::LocalOptions;

fn main() -> ExitCode {
    sys::keep_freed_memory();
    sys::keep_inherited_descriptors();
    sys::hold_child_signals();
    let owns_machine = rustix::process::getpid().as_raw_nonzero().get() == 1;
    sys::raise_descriptor_limit(owns_machine);
    if owns_machine {
        return boot::run_machine();
    }
    serve::run(std::env::args_os().skip(1).collect())
}

/// Runs `work`, and whatever it starts, on this thread.
fn block_on<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    Ok(runtime.block_on(work))
}
