//! Where the watched directories are.

use std::collections::HashMap;
use std::ffi::{CStr, CString};

/// The kernel's number of a watched directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Watched(pub(super) i32);

/// The longest path that is told, in bytes.
const LONGEST: usize = 64 * 1024;

/// The watched directories but the uppermost, each by its name in another: so that one that is moved takes along all that is in it.
#[derive(Debug, Default)]
pub(super) struct Nodes(HashMap<Watched, (Watched, CString)>);

impl Nodes {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn insert(&mut self, watched: Watched, above: Watched, name: &CStr) {
        self.0.insert(watched, (above, name.to_owned()));
    }

    pub(super) fn remove(&mut self, watched: Watched) {
        self.0.remove(&watched);
    }

    /// The path of a directory from the uppermost one, `top`; `None` for what is not below it.
    pub(super) fn path(&self, top: Watched, watched: Watched) -> Option<Vec<u8>> {
        let mut names: Vec<&[u8]> = Vec::new();
        let (mut at, mut length) = (watched, 0);
        while at != top {
            let (above, name) = self.0.get(&at)?;
            length += name.as_bytes().len() + 1;
            if length > LONGEST {
                return None;
            }
            names.push(name.as_bytes());
            at = *above;
        }
        names.reverse();
        Some(names.join(&b'/'))
    }

    /// The directory of this name in another.
    pub(super) fn find(&self, above: Watched, name: &CStr) -> Option<Watched> {
        let mut all = self.0.iter();
        all.find(|(_, place)| place.0 == above && place.1.as_c_str() == name).map(|(watched, _)| *watched)
    }

    /// A directory and all that are in it.
    pub(super) fn tree(&self, top: Watched) -> Vec<Watched> {
        let mut tree = vec![top];
        let mut below: HashMap<Watched, Vec<Watched>> = HashMap::new();
        for (watched, (above, _)) in &self.0 {
            below.entry(*above).or_default().push(*watched);
        }
        let mut index = 0;
        while let Some(at) = tree.get(index) {
            // Taken out, so that what is wrong about them cannot go round in circles.
            tree.extend(below.remove(at).unwrap_or_default());
            index += 1;
        }
        tree
    }
}
