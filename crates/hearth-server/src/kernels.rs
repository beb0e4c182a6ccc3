//! Kernels of a guest: code with state. What runs in one is told line by line, as it comes.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::NoContent;
use bytes::Bytes;
use hearth_api::TextDecoder;
use hearth_api::kernels::{KernelLine, KernelList, KernelReady, checked_start, exec_in};
use hearth_engine::channel::{ChannelError, KernelOperation, KernelSent};
use hearth_engine::fleet::Guest;
use hearth_engine::protocol::StreamName;
use hearth_engine::protocol::kernel::{KernelExec, KernelStart};

use crate::App;
use crate::answer::{Content, Created, KernelLines, Refusal};
use crate::files::{Pieces, cut_off, stream};
use crate::input::{Body, Nothing};

type Answer<T> = Result<Json<T>, Refusal>;

pub(crate) async fn list(State(app): State<App>, Path(sandbox): Path<String>) -> Answer<KernelList> {
    Ok(Json(KernelList { kernels: app.member(&sandbox)?.channel().await?.kernels().await? }))
}

/// Starts a kernel ahead of its first code.
pub(crate) async fn start(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Body(request): Body<KernelStart>,
) -> Result<Created<KernelReady>, Refusal> {
    let start = checked_start(request)?;
    let (kernel, failed_imports) = app.member(&sandbox)?.channel().await?.start_kernel(start).await?;
    Ok(Created(KernelReady { kernel, failed_imports }))
}

/// Runs code. When the connection ends before it, the code goes on.
pub(crate) async fn exec(
    State(app): State<App>,
    Path((sandbox, name)): Path<(String, String)>,
    Body(request): Body<KernelExec>,
) -> Result<Content<KernelLines>, Refusal> {
    let (exec, code) = exec_in(name, request)?;
    let guest = app.member(&sandbox)?.channel().await?;
    let operation = guest.exec_in_kernel(exec, &code).await?;
    stream(Lines { operation, decoders: Default::default(), begun: false, over: false, _guest: guest }).await
}

pub(crate) async fn interrupt(
    State(app): State<App>,
    Path((sandbox, name)): Path<(String, String)>,
    Body(Nothing {}): Body<Nothing>,
) -> Result<NoContent, Refusal> {
    app.member(&sandbox)?.channel().await?.interrupt_kernel(name).await?;
    Ok(NoContent)
}

pub(crate) async fn restart(
    State(app): State<App>,
    Path((sandbox, name)): Path<(String, String)>,
    Body(Nothing {}): Body<Nothing>,
) -> Answer<KernelReady> {
    let (kernel, failed_imports) = app.member(&sandbox)?.channel().await?.restart_kernel(name).await?;
    Ok(Json(KernelReady { kernel, failed_imports }))
}

pub(crate) async fn remove(
    State(app): State<App>,
    Path((sandbox, name)): Path<(String, String)>,
) -> Result<NoContent, Refusal> {
    app.member(&sandbox)?.channel().await?.stop_kernel(name).await?;
    Ok(NoContent)
}

/// What code does, as lines. As long as it runs and is listened to, its sandbox is not idle.
struct Lines {
    operation: KernelOperation,
    /// Of `stdout` and `stderr`.
    decoders: [TextDecoder; 2],
    /// Whether a line was sent: what goes wrong from then on is one, too.
    begun: bool,
    over: bool,
    _guest: Guest,
}

impl Lines {
    async fn next(&mut self) -> Result<Vec<u8>, ChannelError> {
        loop {
            let line = match self.operation.next().await?.ok_or_else(cut_off)? {
                KernelSent::Output(stream, bytes) => {
                    let decoder = &mut self.decoders[usize::from(stream == StreamName::Stderr)];
                    let bytes = decoder.take(&bytes);
                    if bytes.is_empty() {
                        continue;
                    }
                    KernelLine::output(stream, &bytes)
                }
                KernelSent::Event(event) => event.into(),
                KernelSent::Ran(ran) => {
                    self.over = true;
                    return Ok([self.rest(), KernelLine::Ran(*ran).to_line()].concat());
                }
            };
            return Ok(line.to_line());
        }
    }

    /// What was the beginning of a character that did not come whole.
    fn rest(&mut self) -> Vec<u8> {
        let streams = [StreamName::Stdout, StreamName::Stderr].into_iter().zip(&mut self.decoders);
        let rests = streams.map(|(stream, decoder)| (stream, decoder.finish())).filter(|(_, bytes)| !bytes.is_empty());
        rests.flat_map(|(stream, bytes)| KernelLine::output(stream, &bytes).to_line()).collect()
    }
}

impl Pieces for Lines {
    async fn piece(&mut self) -> Result<Option<Bytes>, ChannelError> {
        if self.over {
            return Ok(None);
        }
        let line = match self.next().await {
            Err(error) if self.begun => {
                self.over = true;
                KernelLine::Failed { error: *Refusal::from(error).0 }.to_line()
            }
            line => line?,
        };
        self.begun = true;
        Ok(Some(line.into()))
    }
}
