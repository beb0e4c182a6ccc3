//! A child that waits for its program: what a restored guest's first one finds done.
//!
//! Made before the guest is saved as a template ([`Processes::park`](super::Processes::park)): in a control group, with pipes, as the default user,
//! in the default directory. Under emulation what a restored guest does first is translated first, and this is a tenth of what
//! it translates until its first program has ended. It serves the first start that asks for just that, and no other, nor any once code runs that was not started so (the
//! first of an interpreter that waited): that is its user's, and could stop it, and the agent with it.

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use hearth_protocol::{Command, Fault, ResourceLimits, Signal, Start};

use super::spawn::{self, Circumstances, Descriptors, Surroundings};
use super::tree::{Group, Tree, signal_process};
use super::users::{GROUPS, USERS, User};
use super::{Begun, Extra, KILL_PATIENCE, Processes, sys};

/// How long one that nobody will use is left alone: whoever made it useless is to have its answer first.
const LEISURE: Duration = Duration::from_secs(1);

/// One, and what it has.
pub(super) struct Parked {
    child: sys::Parked,
    tree: Tree,
    user: Option<User>,
    cwd: Vec<u8>,
    descriptors: Descriptors,
    /// Descriptor 0 of a program without input.
    no_input: OwnedFd,
    /// What its user and directory were found by, as it was then.
    found_by: Option<Vec<Stamp>>,
    /// Whether it is never to be used.
    disowned: Cell<bool>,
}

/// What tells a file from another, and from what it was before.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    /// Not of a directory, in which things come and go.
    changed: Option<(i64, i64)>,
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        let changed = (!found.is_dir()).then(|| (found.ctime(), found.ctime_nsec()));
        Ok(Self { device: found.dev(), inode: found.ino(), changed })
    }
}

/// `None` where one of them is not there.
fn stamps(cwd: &[u8]) -> Option<Vec<Stamp>> {
    let paths = [Path::new(USERS), Path::new(GROUPS), Path::new(std::ffi::OsStr::from_bytes(cwd))];
    paths.into_iter().map(Stamp::of).collect::<io::Result<_>>().ok()
}

impl Processes {
    /// Does for the first start what can be done before it, if that asks for nothing special.
    pub(crate) fn park(&self) {
        if self.parked.borrow().is_none()
            && let Ok(tree) = self.trees.prepare(&ResourceLimits::default())
        {
            match self.surrounded(|surroundings| Parked::new(&tree, surroundings)) {
                Some(parked) => drop(self.parked.replace(Some(parked(tree)))),
                None => _ = tree.release(),
            }
            self.trees.refill();
        }
    }

    /// Has the child begin that waits, if there is one and it fits. It serves the first that begins, or none.
    pub(super) fn begin_parked(self: &Rc<Self>, start: &Start, extra: &[Extra]) -> Result<Option<Begun>, Fault> {
        let Some(parked) = self.parked.take() else { return Ok(None) };
        let left = if extra.is_empty() && parked.fits(start) {
            let circumstances = match self.surrounded(|surroundings| parked.circumstances(start, surroundings)) {
                Ok(circumstances) => circumstances,
                Err(fault) => {
                    self.parked.replace(Some(parked));
                    return Err(fault);
                }
            };
            match parked.start(start, circumstances) {
                Ok(begun) => return Ok(Some(begun)),
                Err(tree) => tree,
            }
        } else {
            parked.let_go()
        };
        let processes = Rc::clone(self);
        tokio::task::spawn_local(async move { processes.leave(left).await });
        Ok(None)
    }

    /// Has nobody use the child that waits any more, and lets go of it when there is time.
    pub(crate) fn disown_parked(self: &Rc<Self>) {
        let is_news = self.parked.borrow().as_ref().is_some_and(|parked| !parked.disowned.replace(true));
        if is_news {
            let processes = Rc::clone(self);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(LEISURE).await;
                processes.unpark().await;
            });
        }
    }

    /// Takes note of the end of a child that may be the one that waits.
    pub(super) fn parked_has_ended(&self, pid: u32) {
        if let Some(parked) = self.parked.borrow_mut().take_if(|parked| parked.child.pid() == pid) {
            parked.tree.release();
        }
    }

    /// Lets go of the child that waits, if there is one, and returns when it is gone.
    pub(super) async fn unpark(&self) {
        if let Some(parked) = self.parked.take() {
            self.leave(parked.let_go()).await;
        }
    }

    /// Gives a tree back in which nothing is to be left.
    async fn leave(&self, tree: Tree) {
        self.wait_until_empty(&tree, KILL_PATIENCE).await;
        tree.release();
    }
}

impl Parked {
    /// Makes one, which is then given the tree that it was born in; `None` where it cannot be made.
    fn new(tree: &Tree, surroundings: &Surroundings<'_>) -> Option<impl FnOnce(Tree) -> Self + use<>> {
        let start = Start::new(Command::Argv(Vec::new()));
        let Circumstances { user, cwd, .. } = Circumstances::of(&start, surroundings).ok()?;
        let (descriptors, no_input) = (spawn::open_pipes(true).ok()?, spawn::no_input().ok()?);
        let group = tree.group();
        let child = {
            let place = spawn::place(&descriptors, user.as_ref(), &cwd, group.as_deref().map(Group::directory));
            sys::Parked::new(&place, no_input.as_fd()).ok()?
        };
        tree.set_leader(child.pid());
        let found_by = stamps(&cwd);
        let disowned = Cell::default();
        Some(move |tree| Self { child, tree, user, cwd, descriptors, no_input, found_by, disowned })
    }

    /// Whether it is what `start` asks for.
    pub(super) fn fits(&self, start: &Start) -> bool {
        let is_default = start.user.is_none() && start.cwd.is_none() && start.pty.is_none() && start.limits.is_empty();
        is_default && !self.disowned.get() && self.found_by.is_some() && self.found_by == stamps(&self.cwd)
    }

    /// Has it become the program that `start` asks for, in these circumstances, which are its own. Where it is not there any more, its tree
    /// comes back.
    pub(super) fn start(self, start: &Start, circumstances: Circumstances) -> Result<Begun, Tree> {
        let Self { child, tree, mut descriptors, no_input, .. } = self;
        let Circumstances { user, cwd, environment } = circumstances;
        let program = spawn::program(&start.command, environment);
        let stdin = (!start.stdin).then(|| no_input.as_raw_fd());
        let Some(begun) = child.become_program(&program, stdin) else { return Err(tree) };
        if !start.stdin {
            descriptors.stdin = None;
        }
        let spawned = begun.map(|pid| descriptors.of_child(pid));
        let spawned = spawned.map_err(|error| spawn::explain(&error, &start.command, &cwd, user.as_ref()));
        Ok(Begun { tree, spawned })
    }

    /// The circumstances of a program that it becomes.
    pub(super) fn circumstances(&self, start: &Start, surroundings: &Surroundings<'_>) -> Result<Circumstances, Fault> {
        Circumstances::there(start, surroundings, self.user.clone(), self.cwd.clone())
    }

    /// Ends it, even one that was stopped, and returns its tree, which is empty soon.
    fn let_go(self) -> Tree {
        // It was not reaped, so its number is nobody else's.
        signal_process(self.child.pid(), Signal::Kill);
        self.tree
    }
}
