//! The directories that requests about files are beneath.

use std::path::{Path, PathBuf};

use hearth_files::{FileError, Owner, Root};
use hearth_protocol::files::FileRoot;

use crate::process::{Defaults, User, home_of};

/// Where each root is, and whom new files belong to.
#[derive(Debug)]
pub(crate) struct Roots {
    workspace: PathBuf,
    home: PathBuf,
    owner: Option<Owner>,
}

impl Roots {
    /// Finds the roots of an agent with these defaults. Without a workspace the home serves as one.
    pub(crate) fn new(defaults: &Defaults) -> Self {
        let user = defaults.user.as_deref().and_then(|name| User::find(name).ok());
        let home = home_of(user.as_ref(), defaults);
        let workspace = defaults.workspace.as_deref().unwrap_or(&home);
        // One that is not there yet is opened, or refused, by its name.
        let workspace = workspace.canonicalize().unwrap_or_else(|_| workspace.to_owned());
        Self { workspace, home, owner: user.map(|user| Owner { uid: user.uid, gid: user.gid }) }
    }

    /// Whom new files belong to.
    pub(crate) fn owner(&self) -> Option<Owner> {
        self.owner
    }

    /// The workspace.
    pub(crate) fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// Removes what the imports of killed agents have left in the roots, in the background: it may be much.
    pub(crate) fn sweep(&self) {
        let roots = [FileRoot::Workspace, FileRoot::Home, FileRoot::System].map(|root| self.open(root));
        // One that is not there has nothing in it.
        tokio::task::spawn_blocking(move || roots.iter().flatten().for_each(hearth_files::archive::sweep));
    }

    /// Opens a root, as it is now.
    ///
    /// # Errors
    /// When it is not there.
    pub(crate) fn open(&self, root: FileRoot) -> Result<Root, FileError> {
        match root {
            FileRoot::Workspace => Root::open(&self.workspace, "/workspace", self.owner),
            FileRoot::Home => Root::open(&self.home, "~", self.owner),
            FileRoot::System => Root::open(Path::new("/"), "/", self.owner),
        }
    }
}
