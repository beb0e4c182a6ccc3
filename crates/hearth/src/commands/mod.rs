//! One module a command.

pub(crate) mod agent;
pub(crate) mod doctor;
pub(crate) mod image;
pub(crate) mod run;
