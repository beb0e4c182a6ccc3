//! Everything the guest agent does to a directory tree. Synchronous: the agent runs what may take long on a thread of its own.
//!
//! What must stay true:
//!
//! - **Every path goes through [`Root`].** It is resolved by the kernel (`openat2`), beneath its root, at the moment of use: no `..`, no
//!   symbolic link, no absolute name and no race leaves the root. Nothing here opens a path by its text alone. Below a directory that was resolved
//!   so, trees are walked by descriptors, one name at a time, through no link.
//! - **Nothing blocks on what is no file.** FIFOs, sockets and devices are looked at, never opened.
//! - **What is replaced is replaced whole.** New content is written beside its target without a name, or under a temporary one, and
//!   takes its place by one rename; what fails or is cut off leaves the old.
//! - **Memory is bounded** by buffers, not by files; what grows with a tree says so. So are stacks and descriptors, whatever the depth.

mod append;
pub mod archive;
mod attributes;
mod change;
mod content;
mod copy;
mod edit;
mod entry;
mod error;
mod exclude;
mod frame;
mod fresh;
pub mod history;
mod list;
mod remove;
mod root;
#[cfg(feature = "search")]
mod search;
mod unnamed;
mod walk;
mod watch;

pub use append::Addition;
pub use change::{Permissions, chmod, mkdir, rename_to, symlink};
pub use content::{Replacement, open_file};
pub use copy::{Copied, carry, copy};
pub use edit::edit;
pub use entry::stat;
pub use error::{FileError, Reason};
pub use exclude::Exclude;
pub use frame::{FrameDecoder, FrameEncoder, FrameError};
pub use list::{Listed, Lister, Listing};
pub use remove::{Removal, Wanted, remove};
pub use root::{Name, Owner, Root};
#[cfg(feature = "search")]
pub use search::{Searched, search};
pub use unnamed::unnamed;
pub use watch::Watcher;
