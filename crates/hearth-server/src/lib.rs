//! The daemon's HTTP API, thin over the engine: reads requests, calls the [`Fleet`](hearth_engine::fleet::Fleet), writes answers.
//!
//! The binary binds a [`Socket`], and a [`Remote`] where TCP was asked for, makes a fleet, and calls [`serve`]. What is asked and answered stands in `hearth-api`. What must stay true:
//!
//! - *Only its owner may use the socket.* It is 0600 from before anybody can connect, and each peer's uid is asked of the kernel.
//! - *Who comes over TCP shows a key*, and names this host and no other (`remote/gate.rs`).
//! - *Every operation is written down* once it is over (`audit.rs`): who, what, where, how it ended, and nothing that was sent.
//! - *A span says no more than that line does* (`traces.rs`), and is sent nowhere unless somebody asks for it.
//! - *A request that nobody waits for any more is given up.* A connection that ends drops what it asked for, and a creation undoes itself;
//!   what was bound to the connection goes with it (`connection.rs`). Programs in a guest go on.
//! - *Every answer that is no success is an `ErrorBody`,* and every wait for a guest that a request names has a bound.

mod answer;
mod audit;
mod connection;
mod events;
mod exec;
mod files;
mod health;
mod history;
pub mod home;
mod images;
mod input;
mod kernels;
mod openapi;
mod packages;
mod pool;
mod processes;
mod remote;
mod routes;
mod sandboxes;
mod services;
mod shells;
mod snapshots;
mod socket;
mod templates;
mod traces;
mod uploads;
mod usage;

pub use answer::error_body;
pub use audit::Audit;
pub use connection::{Ended, Listeners, serve};
pub use remote::{KeyError, KeyInfo, Keys, Privacy, Remote, RemoteError, RemoteOptions};
pub use routes::{App, openapi};
pub use socket::{Socket, SocketError};
pub use traces::{TraceOptions, Traces, TracesError};
