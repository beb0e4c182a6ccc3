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
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use hearth_protocol::kernel::{KernelLanguage, KernelStart};
use hearth_protocol::{Fault, RawString};
use tokio::sync::Mutex;

use super::driver::{Adoption, Job, start_of};
use super::{Live, START_PATIENCE};
use crate::process::{Circumstances, Processes};

/// How long a spare may take to become a kernel's: in a guest that is emulated, on a busy host, it takes tenths of a second.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most files and directories that are looked at again: an interpreter says five or six.
const MOST_LOOKED_AT: usize = 16;

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
    /// What it looked at then, and how that was.
    looked_at: Vec<(PathBuf, Option<Stamp>)>,
}

/// What tells a file, or a directory's entries, from what they were: number and time of the last change.
type Stamp = (u64, i64, i64);

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
}

impl Waiting {
    /// Whether an interpreter that starts now might find what this one has not.
    fn is_stale(&self) -> bool {
        self.live.process.has_ended() || self.looked_at.iter().any(|(path, before)| stamp(path) != *before)
    }
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
        let mut looked_at = Vec::new();
        for job in [Job::Prepare { imports: &[] }, Job::Rehearse] {
            match live.prepare(&job, START_PATIENCE).await.filter(|prepared| prepared.code == 0) {
                Some(prepared) => looked_at = prepared.looked_at,
                None => return Err(live.give_up(processes).await),
            }
        }
        live.note_threads(plan.language);
        let paths =
            looked_at.into_iter().take(MOST_LOOKED_AT).map(|path| PathBuf::from(OsStr::from_bytes(path.as_bytes())));
        let looked_at = paths.map(|path| (path.clone(), stamp(&path))).collect();
        *place = Some(Waiting { live, born, looked_at });
        Ok(())
    }

    /// Gives the interpreter that waits to a kernel; `None` when there is none, or none that fits. It has not imported anything.
    pub(super) async fn take(&self, plan: &KernelStart, processes: &Rc<Processes>) -> Option<Rc<Live>> {
        if plan.language != KernelLanguage::Python {
            return None;
        }
        let (waiting, adoption) = {
            // While one is made, a fresh one is there no later.
            let mut place = self.0.try_lock().ok()?;
            let wanted = processes.circumstances(&start_of(plan, Vec::new())).ok()?;
            let adoption = adoption(&place.as_ref()?.born, wanted)?;
            (place.take()?, adoption)
        };
        let is_as_new = !waiting.is_stale() && {
            let adopted = waiting.live.prepare(&Job::Adopt(&adoption), PATIENCE).await;
            adopted.is_some_and(|prepared| prepared.code == 0)
        };
        if is_as_new {
            waiting.live.process.reveal();
            processes.disown_parked();
            return Some(waiting.live);
        }
        processes.kill_tree(&waiting.live.process).await;
        None
    }
}

/// What makes an interpreter that was started as `born` one that is started as `wanted`; `None` when nothing does.
fn adoption(born: &Circumstances, wanted: Circumstances) -> Option<Adoption> {
    if born.user != wanted.user || !wanted.cwd.starts_with(b"/") {
        return None;
    }
    let (before, now) = (&born.environment, &wanted.environment);
    let mut env = BTreeMap::new();
    for name in before.keys().chain(now.keys()).filter(|name| before.get(*name) != now.get(*name)) {
        let text = std::str::from_utf8(name).ok()?;
        if READ_AT_START.iter().any(|start| text.starts_with(start)) {
            return None;
        }
        env.insert(text.to_owned(), now.get(name).map(|value| RawString::from(value.as_slice())));
    }
    Some(Adoption { cwd: RawString::from(wanted.cwd), env })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circumstances(cwd: &str, environment: &[(&str, &str)]) -> Circumstances {
        let bytes = |text: &str| text.as_bytes().to_vec();
        let environment = environment.iter().map(|(name, value)| (bytes(name), bytes(value))).collect();
        Circumstances { user: None, cwd: bytes(cwd), environment }
    }

    #[test]
    fn what_differs_is_taken_over_and_what_is_gone_is_removed() {
        let born = circumstances("/a", &[("HOME", "/h"), ("GONE", "1"), ("SAME", "2"), ("OTHER", "3")]);
        let wanted = circumstances("/b", &[("HOME", "/h"), ("SAME", "2"), ("OTHER", ""), ("NEW", "4")]);
        let env = [("GONE", None), ("NEW", Some("4".into())), ("OTHER", Some("".into()))];
        let env = env.map(|(name, value): (_, Option<RawString>)| (name.to_owned(), value)).into();
        assert_eq!(adoption(&born, wanted), Some(Adoption { cwd: "/b".into(), env }));
    }

    #[test]
    fn what_is_looked_at_only_at_a_start_can_not_be_taken_over() {
        for variable in ["PYTHONPATH", "LD_PRELOAD", "LANG", "LC_ALL", "TZ", "HOME", "PATH"] {
            let (with, without) = (|| circumstances("/", &[(variable, "x")]), || circumstances("/", &[]));
            assert_eq!(adoption(&without(), with()), None, "{variable}");
            assert_eq!(adoption(&with(), without()), None, "{variable}");
            assert!(adoption(&with(), with()).is_some());
        }
        assert_eq!(adoption(&circumstances("/", &[]), circumstances("relative", &[])), None);
    }
}
