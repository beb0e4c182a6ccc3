//! Kernels of the guest: interpreters that keep their state.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hearth_protocol::kernel::{
    KernelEvent, KernelExec, KernelInfo, KernelName, KernelRan, KernelRequest, KernelResult, KernelStart, checked_code,
};
use hearth_protocol::{ErrorCode, Fault, Finished, RequestBody, StreamName, limits};

use crate::channel::{Channel, wrong_result};
use crate::error::ChannelError;
use crate::operation::{Operation, Sent};
use crate::text::tame;

/// How long a kernel may take to be ready, imports included: somewhat longer than the agent allows it.
const START: Duration = Duration::from_secs(150);
/// The longest code that travels with its request, in bytes: most code, which so needs no second message.
const SHORT: usize = 16 * 1024;

/// Code that runs in a kernel. Dropping it lets the code go on, unheard.
#[derive(Debug)]
pub struct KernelOperation {
    operation: Operation,
    events: Mutex<Events>,
}

/// What code in a kernel has sent.
#[derive(Debug, Clone, PartialEq)]
pub enum KernelSent {
    /// A piece of its `stdout` or `stderr`.
    Output(StreamName, Bytes),
    /// A value, a figure or an error.
    Event(KernelEvent),
    /// How it ended. The last.
    Ran(Box<KernelRan>),
}

/// The `data` stream, as it is cut into lines.
#[derive(Debug, Default)]
struct Events {
    line: Vec<u8>,
    whole: VecDeque<KernelEvent>,
}

impl Channel {
    /// Starts a kernel ahead of its first code, or finds it there; returns it, and the imports that failed with the reasons.
    ///
    /// # Errors
    /// As [`Self::request`]; [`hearth_protocol::ErrorCode::Unavailable`] when the guest has no such interpreter.
    pub async fn start_kernel(
        &self,
        start: KernelStart,
    ) -> Result<(KernelInfo, BTreeMap<String, String>), ChannelError> {
        self.await_kernel("start_kernel", KernelRequest::Start(start)).await
    }

    /// Ends a kernel's interpreter, and all that it has started, and starts a fresh one.
    ///
    /// # Errors
    /// As [`Self::request`]; [`hearth_protocol::ErrorCode::UnknownName`].
    pub async fn restart_kernel(
        &self,
        name: impl Into<String>,
    ) -> Result<(KernelInfo, BTreeMap<String, String>), ChannelError> {
        self.await_kernel("restart_kernel", KernelRequest::Restart(KernelName { name: name.into() })).await
    }

    async fn await_kernel(
        &self,
        asked: &'static str,
        request: KernelRequest,
    ) -> Result<(KernelInfo, BTreeMap<String, String>), ChannelError> {
        match self.finish_within(RequestBody::Kernel(request), START).await? {
            Finished::Kernel(KernelResult::Kernel { kernel, failed_imports }) => Ok((kernel, failed_imports)),
            _ => Err(wrong_result(asked)),
        }
    }

    /// Has a Python interpreter wait in the guest for the first kernel that it fits: for whoever saves the guest to start others from it.
    ///
    /// # Errors
    /// As [`Self::request`]; [`hearth_protocol::ErrorCode::Unavailable`] when the guest has no Python.
    pub async fn warm_kernel(&self) -> Result<(), ChannelError> {
        match self.finish_within(RequestBody::Kernel(KernelRequest::Warm {}), START).await? {
            Finished::Kernel(KernelResult::Done {}) => Ok(()),
            _ => Err(wrong_result("warm_kernel")),
        }
    }

    /// Runs code in a kernel, which is started if it is not there.
    ///
    /// # Errors
    /// As [`Self::operate`]. Code that is refused is refused here already, before anything is sent.
    pub async fn exec_in_kernel(&self, mut exec: KernelExec, code: &str) -> Result<KernelOperation, ChannelError> {
        let code = checked_code(code.as_bytes()).map_err(|source| ChannelError::Fault { source })?;
        let short = code.len() <= SHORT;
        exec.code = short.then(|| code.to_owned());
        let operation = self.operate(RequestBody::Kernel(KernelRequest::Exec(exec))).await?;
        if !short {
            operation.send_all(Bytes::copy_from_slice(code.as_bytes())).await?;
        }
        Ok(KernelOperation { operation, events: Mutex::default() })
    }

    /// Lists the kernels, by name.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn kernels(&self) -> Result<Vec<KernelInfo>, ChannelError> {
        match self.finish(RequestBody::Kernel(KernelRequest::List {})).await? {
            Finished::Kernel(KernelResult::Kernels(kernels)) => Ok(kernels),
            _ => Err(wrong_result("kernels")),
        }
    }

    /// Interrupts the code that runs in a kernel, if any does. Code that goes on all the same is ended by a restart.
    ///
    /// # Errors
    /// As [`Self::request`]; [`hearth_protocol::ErrorCode::UnknownName`].
    pub async fn interrupt_kernel(&self, name: impl Into<String>) -> Result<(), ChannelError> {
        self.kernel_done("interrupt_kernel", KernelRequest::Interrupt(KernelName { name: name.into() })).await
    }

    /// Ends a kernel, and all that it has started. Code that waits for it is refused.
    ///
    /// # Errors
    /// As [`Self::request`]; [`hearth_protocol::ErrorCode::UnknownName`].
    pub async fn stop_kernel(&self, name: impl Into<String>) -> Result<(), ChannelError> {
        self.kernel_done("stop_kernel", KernelRequest::Stop(KernelName { name: name.into() })).await
    }

    async fn kernel_done(&self, asked: &'static str, request: KernelRequest) -> Result<(), ChannelError> {
        match self.finish(RequestBody::Kernel(request)).await? {
            Finished::Kernel(KernelResult::Done {}) => Ok(()),
            _ => Err(wrong_result(asked)),
        }
    }
}

impl KernelOperation {
    /// Waits for what comes next: output and events as they come, then [`KernelSent::Ran`]; `None` after that. Cancel-safe.
    ///
    /// # Errors
    /// As [`Operation::next`]. An event that is none ends it.
    pub async fn next(&self) -> Result<Option<KernelSent>, ChannelError> {
        loop {
            if let Some(event) = self.with_events(|events| events.whole.pop_front()) {
                return Ok(Some(KernelSent::Event(event)));
            }
            match self.operation.next().await? {
                None => return Ok(None),
                Some(Sent::Piece(StreamName::Data, bytes)) => self.with_events(|events| events.take(&bytes))?,
                Some(Sent::End(_)) => {}
                Some(Sent::Piece(stream, bytes)) => return Ok(Some(KernelSent::Output(stream, bytes))),
                Some(Sent::Finished(result)) => {
                    return match *result {
                        Finished::Kernel(KernelResult::Ran(ran)) => Ok(Some(KernelSent::Ran(Box::new(ran)))),
                        _ => Err(wrong_result("exec_in_kernel")),
                    };
                }
            }
        }
    }

    fn with_events<T>(&self, work: impl FnOnce(&mut Events) -> T) -> T {
        work(&mut self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Events {
    fn take(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        let bad = |message: String| {
            let message = format!("a kernel's event cannot be read: {}", tame(&message));
            ChannelError::Fault { source: Fault::failed(ErrorCode::Internal, message) }
        };
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(piece);
            if self.line.len() > limits::KERNEL_EVENT {
                return Err(bad(format!("it is longer than {} bytes", limits::KERNEL_EVENT)));
            }
            if let Some(line) = self.line.strip_suffix(b"\n") {
                self.whole.push_back(KernelEvent::parse(line).map_err(bad)?);
                self.line.clear();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_their_stream_is_cut() {
        let lines = "{\"type\":\"result\",\"data\":{\"text/plain\":\"1\"}}\n{\"type\":\"error\",\"name\":\"E\",\"value\":\"\",\"traceback\":\"\"}\n";
        for cut in 1..lines.len() {
            let mut events = Events::default();
            lines.as_bytes().chunks(cut).for_each(|piece| events.take(piece).unwrap());
            assert_eq!(events.whole.len(), 2, "{cut}");
        }
    }

    #[test]
    fn what_is_no_event_ends_it() {
        assert!(Events::default().take(b"nonsense\n").is_err());
        assert!(Events::default().take(&vec![b'x'; limits::KERNEL_EVENT + 1]).is_err());
    }
}
