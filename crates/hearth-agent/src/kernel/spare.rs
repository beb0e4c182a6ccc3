//! A spare: a Python interpreter that was started before there was a kernel for it, and waits for the first that it fits.
//!
//! A template's guest is saved with one, so that the first kernel of each sandbox has its interpreter in memory already, and only has
//! to be told who it is:
//!
//! ```text
//! make ─> rehearses ─> waits ──fits──> is told directory and variables ──as good as a fresh one──> the kernel's
//!                        └─does not─> stays                            └─is not, or no answer────> killed
//! ```
//!
//! Whatever keeps it from being just what a fresh interpreter would be now, a fresh one is started. One thing can not be told apart: the
//! seed of its text hashes, and where it is in memory, are the same in all sandboxes of one template.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use hearth_protocol::kernel::{KernelLanguage, KernelStart};
use hearth_protocol::{Fault, RawString};
use tokio::sync::Mutex;

use super::driver::{Adoption, Job, start_of};
use super::{Live, START_PATIENCE};
use crate::process::{Circumstances, Processes};

/// How long a spare may take to become a kernel's. A guest that is emulated on a busy host takes hundredths of a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// Variables that an interpreter, or the C library below it, looks at when it starts, by the beginning of their names. Where they differ,
/// no setting them later makes up for it. `HOME` and `PATH` say where modules, and the interpreter itself, are looked for.
const READ_AT_START: [&str; 11] =
    ["PYTHON", "LD_", "LC_", "LANG", "LOCPATH", "GCONV_PATH", "MALLOC_", "GLIBC_", "TZ", "HOME", "PATH"];

/// The place of at most one interpreter. Locked while one is made.
#[derive(Default)]
pub(super) struct Spare(Mutex<Option<Waiting>>);

struct Waiting {
    live: Rc<Live>,
    /// As it was started.
    born: Circumstances,
}

impl Spare {
    /// Has an interpreter wait, unless one does.
    pub(super) async fn make(&self, processes: &Rc<Processes>) -> Result<(), Fault> {
        let mut place = self.0.lock().await;
        if place.as_ref().is_some_and(|waiting| !waiting.live.process.has_ended()) {
            return Ok(());
        }
        let plan = KernelStart::new(KernelLanguage::Python);
        let born = processes.circumstances(&start_of(&plan, Vec::new()))?;
        let live = Live::start(&plan, None, processes, true)?;
        for job in [Job::Prepare { imports: &[] }, Job::Rehearse] {
            if live.prepare(&job, START_PATIENCE).await.is_none_or(|prepared| prepared.code != 0) {
                return Err(live.give_up(processes).await);
            }
        }
        *place = Some(Waiting { live, born });
        Ok(())
    }

    /// Gives the interpreter that waits to a kernel; `None` when there is none, or none that fits. It has not imported anything.
    pub(super) async fn take(&self, plan: &KernelStart, processes: &Rc<Processes>) -> Option<Rc<Live>> {
        if plan.language != KernelLanguage::Python {
            return None;
        }
        let (live, adoption) = {
            // While one is made, a fresh one is there no later.
            let mut place = self.0.try_lock().ok()?;
            let wanted = processes.circumstances(&start_of(plan, Vec::new())).ok()?;
            let adoption = adoption(&place.as_ref()?.born, wanted)?;
            (place.take()?.live, adoption)
        };
        let adopted = live.prepare(&Job::Adopt(&adoption), PATIENCE).await;
        if adopted.is_some_and(|prepared| prepared.code == 0) {
            live.process.reveal();
            return Some(live);
        }
        live.give_up(processes).await;
        None
    }
}

/// What makes an interpreter that was started as `born` one that is started as `wanted`; `None` when nothing does.
fn adoption(born: &Circumstances, wanted: Circumstances) -> Option<Adoption> {
    if born.user != wanted.user || !wanted.cwd.starts_with(b"/") {
        return None;
    }
    let (before, now) = (&born.environment, wanted.environment);
    let removed = before.keys().filter(|name| !now.contains_key(*name)).map(|name| (name.clone(), None)).collect();
    let changed = now.into_iter().filter(|(name, value)| before.get(name) != Some(value));
    let mut differing: BTreeMap<Vec<u8>, Option<RawString>> = removed;
    differing.extend(changed.map(|(name, value)| (name, Some(RawString::from(value)))));
    let env = differing.into_iter().map(|(name, value)| String::from_utf8(name).ok().map(|name| (name, value)));
    let env: BTreeMap<_, _> = env.collect::<Option<_>>()?;
    let is_too_late = env.keys().any(|name| READ_AT_START.iter().any(|start| name.starts_with(start)));
    (!is_too_late).then(|| Adoption { cwd: RawString::from(wanted.cwd), env })
}
