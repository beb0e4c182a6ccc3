//! Calls about shells of a guest.

use bytes::Bytes;
use hearth_api::protocol::process::{OutputRead, Written};
use hearth_api::protocol::shell::{IdleEnd, Opened};
use hearth_api::protocol::{ExitStatus, PtySize};
use hearth_api::shells::{
    CloseShell, OpenShell, ReadScreen, ReadShell, Screen, ShellList, SignalShell, WaitShell, WriteShell,
};
use hyper::Method;

use crate::connection::{parsed, whole};
use crate::{Client, ClientError, escaped, path, with_query};

/// Each call fails with any [`ClientError`].
impl Client {
    /// Starts a shell. As a process it can be followed by its id.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn open_shell(&self, sandbox: &str, open: &OpenShell) -> Result<Opened, ClientError> {
        self.ask(sandbox, "/shells", open).await
    }

    /// Lists the shells that were not closed.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn shells(&self, sandbox: &str) -> Result<ShellList, ClientError> {
        self.get(&path(sandbox, "/shells")).await
    }

    /// Reads a piece of what was written to a shell's terminal, byte for byte, and tells where it lies.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn read_shell(
        &self,
        sandbox: &str,
        name: &str,
        read: &ReadShell,
    ) -> Result<(OutputRead, Bytes), ClientError> {
        self.read_output(&with_query(&path(sandbox, &of_shell(name, "/output")), read)).await
    }

    /// Reads the lines of a shell's screen that have changed, as text.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn read_screen(&self, sandbox: &str, name: &str, read: &ReadScreen) -> Result<Screen, ClientError> {
        self.get(&with_query(&path(sandbox, &of_shell(name, "/screen")), read)).await
    }

    /// Types at a shell, and tells how many bytes were taken: all, unless the job in the foreground does not read.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn write_shell(
        &self,
        sandbox: &str,
        name: &str,
        write: &WriteShell,
        bytes: Bytes,
    ) -> Result<Written, ClientError> {
        let path = with_query(&path(sandbox, &of_shell(name, "/input")), write);
        let answer = self.connect().await?.send(Method::POST, &path, Some(bytes)).await?;
        parsed(&whole(answer).await?)
    }

    /// Waits until a shell has nothing more to say for now, within the bound of the wait itself.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn wait_shell(&self, sandbox: &str, name: &str, wait: &WaitShell) -> Result<IdleEnd, ClientError> {
        self.ask(sandbox, &of_shell(name, "/wait"), wait).await
    }

    /// Sends a signal to a shell, by default to the job in its foreground.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn signal_shell(&self, sandbox: &str, name: &str, signal: &SignalShell) -> Result<(), ClientError> {
        self.connect().await?.send_json(Method::POST, &path(sandbox, &of_shell(name, "/signal")), signal).await
    }

    /// Changes the size of a shell's terminal.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn resize_shell(&self, sandbox: &str, name: &str, size: PtySize) -> Result<(), ClientError> {
        self.connect().await?.send_json(Method::POST, &path(sandbox, &of_shell(name, "/resize")), &size).await
    }

    /// Ends a shell and all it has started: HUP, a grace, KILL. Tells how it ended.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn close_shell(&self, sandbox: &str, name: &str, close: &CloseShell) -> Result<ExitStatus, ClientError> {
        let path = with_query(&path(sandbox, &of_shell(name, "")), close);
        self.connect().await?.json(Method::DELETE, &path, None::<&()>).await
    }
}

fn of_shell(name: &str, below: &str) -> String {
    format!("/shells/{}{below}", escaped(name))
}
