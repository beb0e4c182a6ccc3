//! Patches: read ([`parse`]), fitted to what is there ([`apply`]), and put in place whole or not at all.
//!
//! All of a patch is read before anything is looked at: its texts in memory, up to a bound, and what is binary in files beside the workspace. Paths
//! are checked names; whatever lies on the way of one must be a directory and no link.

mod apply;
mod binary;
mod error;
mod names;
mod parse;
mod text;

use std::io::Read;

use hearth_protocol::history::Patched;

use super::plan::Plan;
use crate::remove::Wanted;
use crate::root::Root;

pub use error::PatchError;

/// How a patch is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How many names are taken off the front of each path.
    pub strip: u32,
    /// Undoes it instead.
    pub reverse: bool,
    /// Only finds out whether it applies.
    pub check: bool,
}

/// Applies the patch that `input` holds to what is beneath a directory.
///
/// # Errors
/// [`PatchError`], and nothing was changed, but for [`HistoryError::Unsettled`](super::HistoryError::Unsettled).
pub fn patch(
    root: &Root,
    directory: &[u8],
    input: impl Read,
    options: Options,
    wanted: Wanted<'_>,
) -> Result<Patched, PatchError> {
    let base = names::base(root, directory)?;
    let mut plan = Plan::new(root).map_err(PatchError::History)?;
    let mut files = parse::parse(input, &mut plan, options.strip, &base)?;
    if options.reverse {
        files.reverse();
        files.iter_mut().try_for_each(parse::FilePatch::reverse)?;
    }
    let mut applying = apply::Applying::new(plan, wanted);
    for file in files {
        applying.file(file)?;
    }
    let (plan, patched) = applying.finish(root)?;
    if !options.check {
        plan.carry_out().map(drop).map_err(PatchError::History)?;
    }
    Ok(patched)
}
