//! The host end of the wire: one [`Channel`] to the agent in one guest, over any of the ways to reach it.
//!
//! The engine opens a [`Channel`] and keeps it for the life of a sandbox; requests and followed processes share it. What must
//! stay true:
//!
//! - **Reading never waits for writing.** Each lane has a reader task and a writer task with a queue between callers and the
//!   writer. A guest that stops draining makes senders fail after a bound; it never stops output from being read.
//! - **Reading never waits for a consumer.** A process's output is held in its own [inbox](Process::next_event) up to the credit
//!   that was granted, so a consumer that does not read delays nobody else.
//! - **The guest is hostile.** Every line, payload, queue and count has a bound; whoever breaks one ends the channel with a typed
//!   error. Text from the guest is escaped and cut before it gets into an error.
//! - **Nothing is sent twice.** No retry, no reconnect behind the caller's back; every error says whether the operation
//!   [may have run](ChannelError::outcome).
//!
//! ```text
//! caller ── request ──> Session ── queue (100) ── writer ──> control lane ──> agent
//!        <── reply ──── (slots)  <─────────────── reader <── control lane <──
//!        <── event ──── Inbox    <─────────────── reader <── bulk lane    <──
//! ```
//!
//! [`lines`] is the other host end: the client of the execution channel's dialect, on the same transport and writer.

mod archives;
mod channel;
mod connection;
mod dial;
mod endpoint;
mod error;
mod files;
mod follower;
mod handshake;
mod history;
mod inbox;
mod kernels;
pub mod lines;
mod operation;
mod owed;
mod packages;
mod process;
mod processes;
mod reader;
mod records;
mod secrets;
mod services;
mod session;
mod shells;
mod text;
mod writer;

pub use archives::{ArchivePiece, Exporting};
pub use channel::{Channel, ConnectOptions, reconnecting};
pub use connection::Connection;
pub use dial::Dialled;
pub use endpoint::{Endpoint, Endpoints, SOCKET_PATH_LIMIT};
pub use error::{ChannelError, ConnectError, Ended, Violation};
pub use files::{Listing, Matches, Watching};
pub use history::{DiffPiece, Diffing};
pub use kernels::{KernelOperation, KernelSent};
pub use operation::{Operation, Sent, Upload};
pub use process::{Event, Process, Stdin};
pub use records::Records;
