//! The dialects: two earlier protocols, spoken on listeners of their own and translated to the same core.
//!
//! A dialect owns its framing, its field names, its error texts and nothing else: what is done is done by the modules that the
//! agent's own protocol uses, through [`Streams::local`](crate::session::operation::Streams::local) or directly.

pub(crate) mod execution;
pub(crate) mod workspace;
