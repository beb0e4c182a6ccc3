//! Calls about kernels: code with state, in a guest.

use bytes::{Bytes, BytesMut};
use hearth_api::kernels::{KernelLine, KernelList, KernelReady};
use hearth_api::protocol::kernel::{KernelExec, KernelStart};
use hyper::Method;

use crate::{Client, ClientError, Download, escaped, path};

/// The longest line that is taken, in bytes: a value in its forms, and what JSON needs to say it.
const LINE: usize = 32 * 1024 * 1024;

/// Code that runs in a kernel. Dropping it lets the code go on, unheard.
#[derive(Debug)]
pub struct KernelRun {
    download: Download,
    received: BytesMut,
    /// How much of that has no end of a line in it.
    searched: usize,
}

impl KernelRun {
    /// Waits for what the code does next: output and values as they come, then [`KernelLine::Ran`]; `None` after that. Cancel-safe.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the code was lost, with the reason; [`ClientError::Lost`], [`ClientError::BadAnswer`].
    pub async fn next(&mut self) -> Result<Option<KernelLine>, ClientError> {
        loop {
            if let Some(line) = self.line() {
                return match serde_json::from_slice(&line) {
                    Ok(KernelLine::Failed { error }) => Err(error.into()),
                    Ok(line) => Ok(Some(line)),
                    Err(error) => Err(ClientError::BadAnswer { what: error.to_string() }),
                };
            }
            if self.received.len() > LINE {
                return Err(ClientError::BadAnswer { what: "a line is too long".to_owned() });
            }
            match self.download.next().await? {
                Some(bytes) => self.received.extend_from_slice(&bytes),
                None => return Ok(None),
            }
        }
    }

    fn line(&mut self) -> Option<Bytes> {
        let found = self.received[self.searched..].iter().position(|&byte| byte == b'\n');
        let Some(offset) = found else {
            self.searched = self.received.len();
            return None;
        };
        let end = std::mem::take(&mut self.searched) + offset + 1;
        Some(self.received.split_to(end).freeze())
    }
}

/// Each call fails with any [`ClientError`].
impl Client {
    /// Lists kernels by name.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn kernels(&self, sandbox: &str) -> Result<KernelList, ClientError> {
        self.get(&path(sandbox, "/kernels")).await
    }

    /// Starts a kernel ahead of its first code, or finds it there.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn start_kernel(&self, sandbox: &str, start: &KernelStart) -> Result<KernelReady, ClientError> {
        self.connect().await?.json(Method::POST, &path(sandbox, "/kernels"), Some(start)).await
    }

    /// Runs code in the kernel of this name, which is started if it is not there. `exec` has the code, and no name.
    ///
    /// # Errors
    /// Any [`ClientError`]. Code that fails is no error: its last line says so.
    pub async fn exec_in_kernel(
        &self,
        sandbox: &str,
        kernel: &str,
        exec: &KernelExec,
    ) -> Result<KernelRun, ClientError> {
        let body = serde_json::to_vec(exec).expect("plain data always becomes JSON").into();
        let download = self.download_by(Method::POST, &path(sandbox, &of_kernel(kernel, "/exec")), Some(body)).await?;
        Ok(KernelRun { download, received: BytesMut::new(), searched: 0 })
    }

    /// Interrupts the code that runs in a kernel, if any does. Code that goes on all the same is ended by a restart.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn interrupt_kernel(&self, sandbox: &str, kernel: &str) -> Result<(), ClientError> {
        let path = path(sandbox, &of_kernel(kernel, "/interrupt"));
        self.connect().await?.bytes(Method::POST, &path).await.map(drop)
    }

    /// Ends a kernel's interpreter, and all that it has started, and starts a fresh one.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn restart_kernel(&self, sandbox: &str, kernel: &str) -> Result<KernelReady, ClientError> {
        self.connect().await?.json(Method::POST, &path(sandbox, &of_kernel(kernel, "/restart")), None::<&()>).await
    }

    /// Ends a kernel, and all that it has started, and forgets it.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn remove_kernel(&self, sandbox: &str, kernel: &str) -> Result<(), ClientError> {
        self.delete(&path(sandbox, &of_kernel(kernel, ""))).await
    }
}

fn of_kernel(name: &str, below: &str) -> String {
    format!("/kernels/{}{below}", escaped(name))
}
