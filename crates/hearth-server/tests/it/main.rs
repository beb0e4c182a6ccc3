//! The API over a real socket and a real engine that has no images: everything up to the first machine.

#![allow(clippy::panic, clippy::print_stderr, clippy::unwrap_used)]

mod audit;
mod endings;
mod kernels;
mod openapi;
mod refusals;
mod snapshots;
mod support;
mod workspace;
