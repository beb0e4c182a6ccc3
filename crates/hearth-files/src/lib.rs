//! Everything the guest agent does to a directory tree. Synchronous: the agent runs what may take long on a thread of its own.
//!
//! What must stay true:
//!
//! - **Every path goes through [`Root`].** It is resolved by the kernel (`openat2`), beneath its root, at the moment of use: no `..`, no
//!   symbolic link, no absolute name and no race leaves the root. Nothing here opens a path by its text alone.
//! - **Nothing blocks on what is no file.** FIFOs, sockets and devices are looked at, never opened.
//! - **What is replaced is replaced whole.** New content is written beside its target without a name, or under a temporary one, and
//!   takes its place by one rename; what fails or is cut off leaves the old.
//! - **Memory is bounded** by buffers, not by files; what grows with a tree says so.

pub mod archive;
mod content;
mod entry;
mod error;
mod root;

pub use content::{Replacement, open_file};
pub use entry::stat;
pub use error::{FileError, Reason};
pub use root::{Name, Owner, Root};
