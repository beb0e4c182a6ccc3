//! The daemon's HTTP API as types: what is asked, what is answered. No I/O. Their schemas make up `docs/openapi.json`.
//!
//! The server and its client share it. Requests refuse fields that they do not know; answers may gain some. Times are milliseconds since
//! 1970 (`…_unix_ms`), durations say their unit, sizes are in bytes unless they say MiB. Strings of the guest's system (arguments, paths) are
//! JSON strings, or `{"hex": "…"}` where they are no UTF-8.
//!
//! | method and path, below `/v1` | asks for | answer |
//! |---|---|---|
//! | `GET /health`, `GET /version` | whether the daemon is there; what it is | [`Health`], [`Version`] |
//! | `POST /sandboxes` | [`CreateSandbox`] | [`SandboxInfo`], once it takes requests |
//! | `GET /sandboxes` | [`ListSandboxes`] | [`SandboxList`] |
//! | `GET`, `PATCH`, `DELETE /sandboxes/{sandbox}` | nothing, [`ChangeSandbox`], nothing | [`SandboxInfo`]; nothing for `DELETE` |
//! | `POST /sandboxes/{sandbox}/pause`, `/resume` | nothing | [`PausedSandbox`], [`SandboxInfo`] |
//! | `POST /sandboxes/{sandbox}/fork` | [`ForkSandbox`] | [`ForkedSandboxes`] |
//! | `POST /sandboxes/{sandbox}/snapshot` | [`SaveSandbox`] | [`SavedSandbox`] |
//! | `GET /sandboxes/{sandbox}/logs` | the end of its console | text |
//! | `POST /sandboxes/{sandbox}/exec` | [`ExecRequest`] | [`ExecResult`], once it has ended |
//! | `GET /sandboxes/{sandbox}/exec`, upgraded to a WebSocket | see [`exec`] | |
//! | `GET`, `POST {sandbox}/services` | nothing, [`services::StartService`] | [`services::ServiceList`]; the service, once it is ready or has failed |
//! | `GET`, `DELETE {sandbox}/services/{name}`, `POST …/stop`, `…/restart` | nothing, [`services::StopService`] | the service |
//! | `GET {sandbox}/services/{name}/logs` | [`services::ReadServiceLog`] | bytes |
//! | `GET`, `POST {sandbox}/ports`, `DELETE …/{port}` | nothing, [`services::PublishPort`] | [`services::PortList`], the port |
//! | `GET`, `PUT {sandbox}/secrets`, `DELETE …/{name}` | nothing, [`services::SetSecrets`] | the wire's list, without values |
//! | `GET /run`, upgraded | [`exec::RunRequest`] | see [`exec`] |
//! | `GET`, `POST {sandbox}/processes` | nothing, [`ExecRequest`] | [`process::ProcessList`], [`process::ProcessStarted`] |
//! | `GET {sandbox}/processes/{process}/output` | [`process::ReadProcess`] | bytes |
//! | `POST {sandbox}/processes/{process}/input` | [`process::WriteProcess`], bytes | how many were taken |
//! | `POST {sandbox}/processes/{process}/signal` | [`process::SignalProcess`] | nothing |
//! | `GET {sandbox}/processes/{process}/attach`, upgraded | [`process::AttachProcess`] | see [`exec`] |
//! | `GET`, `POST {sandbox}/shells`, `DELETE …/{name}` | nothing, [`shells::OpenShell`], [`shells::CloseShell`] | [`shells::ShellList`], the wire's `Opened`, how it ended |
//! | `GET {sandbox}/shells/{name}/output`, `…/screen` | [`shells::ReadShell`], [`shells::ReadScreen`] | bytes; [`shells::Screen`] |
//! | `POST {sandbox}/shells/{name}/input` | [`shells::WriteShell`], bytes | how many were taken |
//! | `POST {sandbox}/shells/{name}/wait`, `…/signal`, `…/resize` | [`shells::WaitShell`], [`shells::SignalShell`], the size | the wire's `IdleEnd`; nothing |
//! | `POST {sandbox}/files/{op}`: `stat`, `list`, `mkdir`, `move`, `copy`, `remove`, `symlink`, `chmod`, `edit`, `search` | the wire's own request, see [`files`] | its result |
//! | `GET`, `PUT {sandbox}/files/content` | [`files::ReadFile`]; [`files::WriteFile`], bytes | bytes; the file |
//! | `GET`, `POST {sandbox}/kernels` | nothing, the wire's own start | [`kernels::KernelList`], [`kernels::KernelReady`] |
//! | `POST {sandbox}/kernels/{name}/exec` | the wire's own exec | [`kernels::KernelLine`]s, as they come |
//! | `POST {sandbox}/kernels/{name}/interrupt`, `…/restart`, `DELETE …/{name}` | nothing | nothing, [`kernels::KernelReady`], nothing |
//! | `GET`, `PUT {sandbox}/archive` | [`files::ExportTree`]; [`files::ImportTree`], tar | tar; what was unpacked |
//! | `POST {sandbox}/archive` | [`files::ExportTree`], the names of what is wanted of it, a NUL behind each | tar |
//! | `GET {sandbox}/diff`, `/changes` | [`history::Since`] | a patch as text; [`history::ChangeList`] |
//! | `POST {sandbox}/patch` | [`history::ApplyPatch`], the patch | the wire's `Patched` |
//! | `POST {sandbox}/reset` | the wire's `Named` | the wire's `ResetDone` |
//! | `GET`, `POST {sandbox}/checkpoints`, `DELETE …/{name}` | nothing, the wire's `Named` | [`history::CheckpointList`], the checkpoint |
//! | `POST {sandbox}/packages` | [`packages::InstallPackages`] | [`packages::InstallResult`], once the installer has ended |
//! | `GET /snapshots`, `GET`, `DELETE …/{name}` | nothing | [`home::SnapshotList`], [`home::SnapshotInfo`], nothing |
//! | `GET`, `PUT /snapshots/{name}/archive` | nothing; the bytes of one | the bytes of one; [`home::SnapshotInfo`] |
//! | `GET`, `POST /templates`, `DELETE …/{template}` | nothing, [`home::BuildTemplate`], nothing | [`home::TemplateList`], [`home::TemplateInfo`], [`home::RemovedTemplate`] |
//! | `GET /images`, `GET`, `DELETE …/{image}` | nothing | [`home::ImageList`], [`home::ImageInfo`], nothing |
//! | `GET /pool`, `GET /usage` | nothing | [`PoolInfo`]; [`usage::UsageList`] |
//! | `GET /events` | [`FollowEvents`] | [`Event`]s, as server-sent events |
//! | `GET /metrics`, `GET /openapi.json` (without `/v1`) | figures; the description of all this | Prometheus' text; JSON |
//!
//! A request to the guest of a paused sandbox wakes it.
//!
//! `{sandbox}` is an id, a name, or the beginning of an id that only one has. Whatever fails is an [`ErrorBody`] with a status that
//! [`Code::status`] gives.

pub mod audit;
pub mod exec;
pub mod files;
pub mod history;
pub mod home;
pub mod kernels;
pub mod packages;
pub mod process;
pub mod services;
pub mod shells;
pub mod strict;
pub mod usage;

mod capture;
mod error;
mod events;
mod output;
mod pool;
mod sandbox;

pub use capture::Capture;
pub use error::{Code, ErrorBody, OwnCode};
pub use events::{Event, FollowEvents, Happening};
pub use exec::{ExecRequest, ExecResult};
pub use hearth_protocol as protocol;
pub use output::{Captured, Encoding, TextDecoder};
pub use pool::{PoolInfo, PoolKindInfo};
pub use sandbox::{
    Accelerator, ChangeSandbox, CreateSandbox, ForkSandbox, ForkedSandboxes, Idle, IdleAction, Lifespan, ListSandboxes,
    PausedSandbox, Phase, SandboxInfo, SandboxList, SandboxState, SaveSandbox, SavedSandbox, StartFrom,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The daemon is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// How many sandboxes it holds.
    pub sandboxes: usize,
    /// The most it takes.
    pub sandboxes_limit: usize,
    /// The memory that their guests have, in MiB.
    pub memory_mib: u64,
    /// The most that they may have, in MiB.
    pub memory_limit_mib: u64,
    /// The processors that their guests have.
    #[serde(default)]
    pub cpus: u64,
    /// The most that they may have.
    #[serde(default)]
    pub cpus_limit: u64,
    /// Requests for a sandbox that wait for room.
    #[serde(default)]
    pub waiting: usize,
}

/// What the daemon is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Version {
    /// Hearth's version.
    pub version: String,
    /// The API's: the number in its paths.
    pub api: u32,
    /// The daemon's process.
    pub pid: u32,
}

/// The API's version: the number in its paths.
pub const VERSION: u32 = 1;
/// The socket in Hearth's home on which the daemon listens.
pub const SOCKET: &str = "hearth.sock";
