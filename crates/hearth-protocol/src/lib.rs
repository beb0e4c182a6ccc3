//! The wire between Hearth's host and its guest agent. Sans-I/O: bytes in, messages out, and back.
//!
//! Both ends use this crate and nothing else of each other. A *session* is one host talking to one agent over two
//! *lanes*, each a byte stream:
//!
//! - **control** carries requests, replies and flow-control credit: one JSON object a line, at most
//!   [`limits::HEADER`] bytes, never a payload. A ping is therefore answered at once while a gigabyte moves.
//! - **bulk** carries stream data: a [`ChunkHeader`] line, then exactly `payload` raw bytes, at most
//!   [`limits::PAYLOAD`]. Program output is never decoded, escaped or base64'd.
//!
//! A virtio-serial port may still hold bytes meant for an earlier host, and the guest sees no end of file when one host
//! dies and the next connects at once. So every session opens with a hello ([`HostHello`], [`AgentHello`]) that carries a random [`Epoch`]:
//!
//! ```text
//! host   control  \n{"hello":{"epoch":E,"lane":"control","min":1,"max":1}}     anything before it is void
//! agent  control  {"hello":{"epoch":E,"lane":"control","protocol":1,...}}      host discards until it reads E
//! host   bulk     \n{"hello":{"epoch":E,"lane":"bulk",...}}                    only after the answer on control, so
//! agent  bulk     {"hello":{"epoch":E,"lane":"bulk",...}}                      that the agent is looking for E
//! ```
//!
//! The hello of a lane voids everything before it, an unfinished payload included: [`HelloScanner`] finds it.
//! Each stream of a request has its own credit ([`SendWindow`], [`ReceiveWindow`]), so that one slow reader delays
//! nobody else. Nothing is ever sent again by itself; a [`Fault`] tells whether sending it again is safe.

mod addressed;
pub mod archive;
mod chunk;
mod command;
pub mod dial;
mod error;
pub mod files;
mod flow;
mod hello;
pub mod hex;
pub mod history;
pub mod kernel;
pub mod limits;
mod line;
mod message;
pub mod packages;
pub mod process;
mod raw;
mod record;
mod renew;
pub mod secrets;
pub mod service;
pub mod shell;
mod signal;
mod start;

pub use chunk::{ChunkDecoder, ChunkHeader, StreamName};
pub use command::Command;
pub use error::{ErrorCode, Fault, FrameError, Outcome};
pub use flow::{CreditError, ReceiveWindow, SendWindow};
pub use hello::{AgentHello, Epoch, HELLO_PREFIX, HelloAnswer, HelloScanner, HostHello, Lane, negotiate};
pub use line::{LineDecoder, encode_line};
pub use message::{Finished, Info, Reply, ReplyBody, Request, RequestBody, RequestId, parse_request};
pub use process::{Attach, ExitStatus, OutputTotals, ProcessId, ProcessInfo, ProcessRef, ProcessState, SignalScope};
pub use raw::RawString;
pub use record::{RECORD, decode_record, encode_record};
pub use renew::Renew;
pub use signal::{Signal, UnknownSignal};
pub use start::{Budget, Delivery, Keep, PtySize, ResourceLimits, Start, Tag};

/// The newest protocol version this crate speaks.
pub const PROTOCOL_MAX: u32 = 1;
/// The oldest protocol version this crate still speaks.
pub const PROTOCOL_MIN: u32 = 1;
/// The name of the virtio-serial port that carries the control lane.
pub const CONTROL_PORT: &str = "hearth.control";
/// The name of the virtio-serial port that carries the bulk lane.
pub const BULK_PORT: &str = "hearth.bulk";
