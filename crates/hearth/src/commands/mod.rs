//! One module a command.

pub(crate) mod agent;
pub(crate) mod audit;
mod conversation;
pub(crate) mod daemon;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod guest;
pub(crate) mod help;
pub(crate) mod history;
pub(crate) mod image;
pub(crate) mod kernel;
pub(crate) mod key;
pub(crate) mod lifecycle;
pub(crate) mod mcp;
pub(crate) mod pool;
pub(crate) mod run;
pub(crate) mod sandbox;
pub(crate) mod service;
pub(crate) mod snapshot;
pub(crate) mod template;
pub(crate) mod top;
pub(crate) mod transfer;
