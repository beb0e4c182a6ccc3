//! Archives: directory trees as one stream of bytes, in and out.
//!
//! ```text
//! import  bytes -> codec -> source -> reader -> unpack (into a staging directory) -> merge (into the destination)
//! export  walk -> writer -> codec -> bytes
//! ```
//!
//! What must stay true: an import changes nothing until it has read all of the archive and found it sound; nothing of an archive is
//! ever written outside of the destination, or through a link; memory depends neither on the archive's size nor on a file's.

mod codec;
mod error;
mod export;
mod header;
mod import;
mod merge;
mod path;
mod pax;
mod reader;
mod small;
mod source;
mod sparse;
pub(crate) mod staging;
mod unpack;
pub(crate) mod walk;
mod writer;

pub use error::{ArchiveError, Rule};
pub use export::{export, export_named, export_only, export_pieces};
pub use import::{ImportOptions, import, sweep};
pub use small::{SmallContent, SmallMember, read_small};
pub use staging::is_staging;
