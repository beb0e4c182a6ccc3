//! The workspace agent's dialect, spoken by the plainest of clients.
//!
//! What a client of that agent sees is written down as transcripts, in files beside this one: a request, and the reply it must have.

mod archives;
mod client;
mod exec;
mod files;
mod framing;
mod invariants;
mod lines;
mod secrets;
mod services;
mod shells;
mod transcripts;

use client::Rpc;
