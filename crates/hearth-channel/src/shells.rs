//! Shells of the guest.

use std::time::Duration;

use bytes::Bytes;
use hearth_protocol::process::{OutputRead, Written};
use hearth_protocol::shell::{
    CloseShell, IdleEnd, NoFields, OpenShell, Opened, PlainRead, ReadPlain, ReadShell, ResizeShell, ShellInfo,
    ShellName, ShellRequest, ShellResult, SignalShell, WaitIdle, WriteShell,
};
use hearth_protocol::{ExitStatus, Finished, PtySize, RequestBody, Signal, SignalScope, limits};

use crate::channel::{Channel, wrong_result};
use crate::error::ChannelError;
use crate::processes::inline;

/// The most text that a plain read takes from a guest, in bytes: one line may be as long as all that a screen keeps.
const MOST_TEXT: usize = 8 * 1024 * 1024;

impl Channel {
    /// Starts a shell. As a process it can be followed by its id.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn open_shell(&self, open: OpenShell) -> Result<Opened, ChannelError> {
        match self.shell(ShellRequest::Open(open), Duration::ZERO).await? {
            ShellResult::Opened(opened) => Ok(opened),
            _ => Err(wrong_result("open a shell")),
        }
    }

    /// Lists the shells that were not closed.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn shells(&self) -> Result<Vec<ShellInfo>, ChannelError> {
        match self.shell(ShellRequest::List(NoFields {}), Duration::ZERO).await? {
            ShellResult::List(shells) => Ok(shells),
            _ => Err(wrong_result("list shells")),
        }
    }

    /// Types at a shell, with a newline behind it if `newline`, and tells how many bytes were taken: all, unless the job in the
    /// foreground does not read for as long as `wait`.
    ///
    /// # Errors
    /// As [`Self::request`]. `wait` comes on top of the default bound.
    pub async fn write_shell(
        &self,
        name: ShellName,
        bytes: Bytes,
        newline: bool,
        wait: Duration,
    ) -> Result<Written, ChannelError> {
        let (text, upload) = inline(bytes);
        let write = WriteShell { name, text, newline, wait_ms: wait.as_millis() as u64 };
        match self.exchange(RequestBody::Shell(ShellRequest::Write(write)), wait, upload, 0).await? {
            (Finished::Shell(ShellResult::Written(written)), _) => Ok(written),
            _ => Err(wrong_result("write to a shell")),
        }
    }

    /// Reads a piece of what was written to a shell's terminal, byte for byte, and tells where it lies.
    ///
    /// # Errors
    /// As [`Self::request`]. The wait that the read asks for comes on top of the default bound.
    pub async fn read_shell(&self, read: ReadShell) -> Result<(OutputRead, Bytes), ChannelError> {
        let wait = Duration::from_millis(read.wait_ms);
        let body = RequestBody::Shell(ShellRequest::Read(read));
        match self.exchange(body, wait, None, limits::READ as usize).await? {
            (Finished::Shell(ShellResult::Read(read)), bytes) => Ok((read, bytes)),
            _ => Err(wrong_result("read a shell")),
        }
    }

    /// Reads the lines of a shell's screen that have changed, as text. What is not UTF-8 was replaced in the guest already.
    ///
    /// # Errors
    /// As [`Self::request`]. The wait that the read asks for comes on top of the default bound.
    pub async fn read_shell_plain(&self, read: ReadPlain) -> Result<(PlainRead, String), ChannelError> {
        let wait = Duration::from_millis(read.wait_ms);
        let body = RequestBody::Shell(ShellRequest::ReadPlain(read));
        match self.exchange(body, wait, None, MOST_TEXT).await? {
            (Finished::Shell(ShellResult::Plain(plain)), text) => {
                Ok((plain, String::from_utf8_lossy(&text).into_owned()))
            }
            _ => Err(wrong_result("read a shell's lines")),
        }
    }

    /// Waits until a shell has nothing more to say for now, within the bound of the wait itself.
    ///
    /// # Errors
    /// As [`Self::request`]. The bound comes on top of the default one.
    pub async fn wait_shell(&self, wait: WaitIdle) -> Result<IdleEnd, ChannelError> {
        let patience = Duration::from_millis(wait.timeout_ms);
        match self.shell(ShellRequest::WaitIdle(wait), patience).await? {
            ShellResult::Idle(end) => Ok(end),
            _ => Err(wrong_result("wait for a shell")),
        }
    }

    /// Sends a signal to a shell: to the job in its foreground, as Ctrl-C would, to the shell alone, or to all it has started.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn signal_shell(&self, name: ShellName, signal: Signal, scope: SignalScope) -> Result<(), ChannelError> {
        let signal = SignalShell { name, signal, scope };
        self.shell_done("signal a shell", ShellRequest::Signal(signal)).await
    }

    /// Changes the size of a shell's terminal.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn resize_shell(&self, name: ShellName, size: PtySize) -> Result<(), ChannelError> {
        self.shell_done("resize a shell", ShellRequest::Resize(ResizeShell { name, size })).await
    }

    /// Ends a shell and all it has started: HUP, a grace, KILL. Tells how it ended.
    ///
    /// # Errors
    /// As [`Self::request`]. The grace comes on top of the default bound.
    pub async fn close_shell(&self, name: ShellName, grace: Duration) -> Result<ExitStatus, ChannelError> {
        let close = CloseShell { name, grace_ms: Some(grace.as_millis() as u64) };
        match self.shell(ShellRequest::Close(close), grace).await? {
            ShellResult::Closed(status) => Ok(status),
            _ => Err(wrong_result("close a shell")),
        }
    }

    async fn shell(&self, request: ShellRequest, wait: Duration) -> Result<ShellResult, ChannelError> {
        match self.finish_within(RequestBody::Shell(request), wait).await? {
            Finished::Shell(result) => Ok(result),
            _ => Err(wrong_result("a request about shells")),
        }
    }

    async fn shell_done(&self, asked: &'static str, request: ShellRequest) -> Result<(), ChannelError> {
        match self.shell(request, Duration::ZERO).await? {
            ShellResult::Done {} => Ok(()),
            _ => Err(wrong_result(asked)),
        }
    }
}
