//! The daemon's API as tools and resources of the Model Context Protocol, spoken by the official SDK.
//!
//! The binary calls [`stdio`], the daemon mounts [`http`]; both reach the daemon over its own socket, by [`hearth_client`]. A tool
//! (`tool.rs`, `tools/`) is a function from arguments to a result, whose types make its schemas. What must stay true:
//!
//! - *Arguments are strict.* What a schema does not know is refused by name, and its ranges are held to before anything is sent.
//! - *Errors are the API's own.* A call that Hearth refuses is an error with the `ErrorBody` that HTTP would have answered; a program that
//!   fails is a result.
//! - *Nothing is too long.* What is left out of a result is counted, and the result says how to get it.
//! - *A cancelled call stops what it began,* in the guest too; and so does one whose client is gone. Only what was started to outlive its
//!   call does.

mod output;
mod refused;
mod resources;
mod schema;
mod serve;
mod server;
mod sessions;
mod tool;
mod tools;

pub use serve::{HttpService, http, stdio};
pub use server::{Connect, Server};
pub use sessions::Sessions;
pub use tool::Profile;
