//! The execution channel's dialect, over TCP, over one Unix socket and over a pair of them.

mod client;
mod concurrency;
mod files;
mod kernels;
mod output;
mod packages;
mod ports;
mod scripts;
mod transcripts;
