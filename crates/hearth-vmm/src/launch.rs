//! Starts the jail launcher in new namespaces and reads what it reports, falling back to the lesser jail where
//! namespaces are refused.
//!
//! All children are created by one thread that lives as long as the process: `PR_SET_PDEATHSIG` means the *thread* that
//! created the child, and a pool's threads come and go.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{getegid, geteuid};
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, oneshot};

use crate::jail::{
    self, Becomes, CgroupLimits, FromLauncher, Groups, JailFailure as Failure, JailGap, JailLevel, MAX_MESSAGE, Plan,
    Prepared, Step,
};
use crate::machine::Note;
use crate::process::{Child, ProcessRecord};
use crate::spec::{Confinement, Launcher};
use crate::sys::{self, ChildPlan, ChildStep, IdentityMaps, RawChild};

/// How long the launcher may take; it needs a few milliseconds.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(30);
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u64;

/// A QEMU that runs in its jail.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) child: Child,
    pub(crate) level: JailLevel,
    pub(crate) gaps: Vec<JailGap>,
    pub(crate) groups: Groups,
}

/// What to launch. The descriptors are QEMU's, numbered from [`crate::jail::FIRST_QEMU_FD`].
pub(crate) struct Launch<'a> {
    pub(crate) launcher: &'a Launcher,
    pub(crate) confinement: Confinement,
    pub(crate) plan: Plan,
    pub(crate) output: OwnedFd,
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Where to note which process it is, if it may outlive this one.
    pub(crate) note_in: Option<PathBuf>,
    pub(crate) limits: CgroupLimits,
}

/// Launches in the strongest jail that is wanted and allowed. A refusal of namespaces is remembered for the process.
pub(crate) async fn launch(request: Launch<'_>) -> Result<Launched, LaunchError> {
    static REFUSED: OnceLock<String> = OnceLock::new();
    let Launch { launcher, confinement, mut plan, output, descriptors, note_in, limits } = request;
    let (output, descriptors, note_in) = (Arc::new(output), Arc::new(descriptors), note_in.as_deref());
    if confinement == Confinement::Strongest && REFUSED.get().is_none() {
        plan.level = JailLevel::Namespaces;
        match attempt(launcher, &plan, &output, &descriptors, note_in, &limits).await {
            Err(LaunchError::Launch { failure, source }) if failure.is_refusal() => {
                drop(REFUSED.set(format!("{failure}: {source}")));
            }
            outcome => return outcome,
        }
    }
    plan.level = JailLevel::Landlock;
    let mut launched = attempt(launcher, &plan, &output, &descriptors, note_in, &limits).await?;
    let reason = match confinement {
        Confinement::WithoutNamespaces => "not asked for".to_owned(),
        Confinement::Strongest => REFUSED.get().cloned().unwrap_or_default(),
    };
    launched.gaps.insert(0, JailGap::Namespaces { reason });
    Ok(launched)
}

async fn attempt(
    launcher: &Launcher,
    plan: &Plan,
    output: &Arc<OwnedFd>,
    descriptors: &Arc<Vec<OwnedFd>>,
    note_in: Option<&Path>,
    limits: &CgroupLimits,
) -> Result<Launched, LaunchError> {
    let prepare = |source| LaunchError::Prepare { source };
    let (mut report, report_end) = report_pipe().map_err(prepare)?;
    let mut order = Order::new(launcher, plan, output.clone(), descriptors.clone(), report_end)?;
    let go_ahead = note_in.map(|_| order.owned_apart()).transpose().map_err(prepare)?;
    let raw = spawner().spawn(order).await.map_err(|source| failed(Failure::at(Step::Namespaces)(source)))?;
    let (child, limits) = (Child::new(raw), limits.clone());
    let pid = child.pid();
    let confining = tokio::task::spawn_blocking(move || Confined::new(child, &limits));
    if let (Some(directory), Some(go_ahead)) = (note_in, go_ahead) {
        let process = ProcessRecord::of(pid).map_err(prepare)?;
        Note { process, held: None }.write(directory).map_err(prepare)?;
        // A launcher that has failed no longer reads, and says why.
        let _ = rustix::io::write(&go_ahead, b"g");
    }
    let mut text = Vec::new();
    let mut bounded = (&mut report).take(MAX_MESSAGE);
    // Its end means that the launcher has ended, or has become QEMU.
    let reported = tokio::time::timeout(LAUNCH_TIMEOUT, bounded.read_to_end(&mut text));
    let (reported, confined) = tokio::join!(reported, confining);
    let Confined { mut child, groups } = confined.map_err(|error| prepare(io::Error::other(error)))?;
    match reported {
        Ok(Ok(_)) => {}
        Ok(Err(source)) => return Err(prepare(source)),
        Err(_) => return Err(LaunchError::TimedOut),
    }
    match read_report(&text) {
        Some(FromLauncher::Ready(Prepared { mut gaps })) => {
            let groups = groups.unwrap_or_else(|reason| {
                gaps.push(JailGap::Cgroup { reason });
                Groups::default()
            });
            Ok(Launched { child, level: plan.level, gaps, groups })
        }
        // A process that was may be its guest's: its word is no reason to give up a part of the jail.
        Some(FromLauncher::Failed(failure)) => Err(failed(match plan.becomes {
            Becomes::Checkpoint(_) if was_ready(&text) => Failure { step: Step::Checkpoint, ..failure },
            _ => failure,
        })),
        None => {
            let status = child.wait().await.map_err(prepare)?.unwrap_or_default();
            Err(LaunchError::NotALauncher { program: launcher.program.display().to_string(), status })
        }
    }
}

/// A child, and the control groups that it was put into or the reason why not. They are dropped in this order, and the child is held as long
/// as its number is used.
struct Confined {
    child: Child,
    groups: Result<Groups, String>,
}

impl Confined {
    fn new(child: Child, limits: &CgroupLimits) -> Self {
        let groups = jail::confine(child.pid(), limits);
        Self { child, groups }
    }
}

fn failed(failure: Failure) -> LaunchError {
    let source = failure.source();
    LaunchError::Launch { failure: Box::new(failure), source }
}

fn report_pipe() -> io::Result<(tokio::net::unix::pipe::Receiver, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((tokio::net::unix::pipe::Receiver::from_owned_fd(read)?, write))
}

/// Whether the launcher has said that the jail stands.
fn was_ready(text: &[u8]) -> bool {
    let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    matches!(serde_json::from_slice(first), Ok(FromLauncher::Ready(_)))
}

/// The last line counts: a launcher that was ready may still fail to exec.
fn read_report(text: &[u8]) -> Option<FromLauncher> {
    let (lines, raw) = match text.iter().position(|byte| *byte == 0) {
        Some(position) => text.split_at(position),
        None => (text, &[][..]),
    };
    if let [0, step, low, high, ..] = raw {
        let errno = i32::from(u16::from_le_bytes([*low, *high]));
        return Some(FromLauncher::Failed(Failure { step: step_before_launcher(*step), path: None, errno }));
    }
    let last = lines.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty())?;
    serde_json::from_slice(last).ok()
}

fn step_before_launcher(byte: u8) -> Step {
    match ChildStep::from_byte(byte) {
        Some(ChildStep::IdentityMaps) => Step::IdentityMaps,
        Some(ChildStep::Exec) => Step::Launcher,
        Some(ChildStep::Checkpoint) => Step::Checkpoint,
        Some(ChildStep::Descriptors) | None => Step::Descriptors,
    }
}

/// One child to create; owns all that the child is given, so that nothing is held once it has it.
struct Order {
    program: CString,
    arguments: Vec<CString>,
    environment: CString,
    namespaces: u64,
    maps: Option<IdentityMaps>,
    stdin: File,
    output: Arc<OwnedFd>,
    plan: File,
    report: OwnedFd,
    /// What it follows in place of all that its owner has started.
    apart: Option<OwnedFd>,
    descriptors: Arc<Vec<OwnedFd>>,
}

impl Order {
    fn new(
        launcher: &Launcher,
        plan: &Plan,
        output: Arc<OwnedFd>,
        descriptors: Arc<Vec<OwnedFd>>,
        report: OwnedFd,
    ) -> Result<Self, LaunchError> {
        let prepare = |source| LaunchError::Prepare { source };
        let arguments = launcher.arguments.iter().map(|argument| c_string(argument));
        let arguments = [c_string(launcher.program.as_os_str())].into_iter().chain(arguments);
        let (variable, value) = jail::WITHOUT_RESTARTABLE_SEQUENCES;
        let in_namespaces = plan.level == JailLevel::Namespaces;
        // Root makes the namespaces as itself and gives up being root last; others need a user namespace to make any.
        let mapped = in_namespaces && !geteuid().is_root();
        let user_namespace = if mapped { libc::CLONE_NEWUSER as u64 } else { 0 };
        Ok(Self {
            program: c_string(launcher.program.as_os_str()).map_err(prepare)?,
            arguments: arguments.collect::<io::Result<_>>().map_err(prepare)?,
            environment: c_string(format!("{variable}={value}").as_ref()).map_err(prepare)?,
            namespaces: if in_namespaces { NAMESPACES | user_namespace } else { 0 },
            maps: mapped.then(own_identity).transpose().map_err(prepare)?,
            stdin: File::open("/dev/null").map_err(prepare)?,
            output,
            plan: plan_file(plan).map_err(prepare)?,
            report,
            apart: None,
            descriptors,
        })
    }

    /// Gives the child a pipe of its own from its owner, and returns the owner's end.
    fn owned_apart(&mut self) -> io::Result<OwnedFd> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        self.apart = Some(read);
        Ok(write)
    }

    fn carry_out(&self, owner: BorrowedFd<'_>) -> io::Result<RawChild> {
        let owner = self.apart.as_ref().map_or(owner, AsFd::as_fd);
        let own = [self.plan.as_fd(), self.report.as_fd(), owner];
        let passed: Vec<BorrowedFd<'_>> = own.into_iter().chain(self.descriptors.iter().map(AsFd::as_fd)).collect();
        sys::spawn(&ChildPlan {
            program: &self.program,
            arguments: &self.arguments,
            environment: std::slice::from_ref(&self.environment),
            namespaces: self.namespaces,
            maps: self.maps.as_ref(),
            stdin: self.stdin.as_fd(),
            output: self.output.as_fd(),
            passed: &passed,
            report: self.report.as_fd(),
        })
    }
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}

/// Makes this user root of the new namespaces, which it needs to be to build a root there.
fn own_identity() -> io::Result<IdentityMaps> {
    let map = |id: u32| CString::new(format!("0 {id} 1"));
    Ok(IdentityMaps { users: map(geteuid().as_raw())?, groups: map(getegid().as_raw())? })
}

fn plan_file(plan: &Plan) -> io::Result<File> {
    let mut file = File::from(memfd_create("hearth-jail-plan", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(plan)?)?;
    file.rewind()?;
    Ok(file)
}

/// The thread that creates children.
struct Spawner {
    orders: mpsc::Sender<(Order, oneshot::Sender<io::Result<RawChild>>)>,
}

fn spawner() -> &'static Spawner {
    static SPAWNER: OnceLock<Spawner> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (orders, queue) = mpsc::channel(16);
        // Should the thread not start, its queue is dropped with it and every order is answered with an error.
        drop(std::thread::Builder::new().name("hearth-spawner".into()).spawn(move || serve(queue)));
        Spawner { orders }
    })
}

impl Spawner {
    async fn spawn(&self, order: Order) -> io::Result<RawChild> {
        let gone = || io::Error::other("the spawner thread could not be started");
        let (reply, answer) = oneshot::channel();
        self.orders.send((order, reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// Never returns while the process lives, for the channel's other end is static.
fn serve(mut queue: mpsc::Receiver<(Order, oneshot::Sender<io::Result<RawChild>>)>) {
    // The writing end is held by this process alone, and by nothing longer than it lives.
    let owner = pipe_with(PipeFlags::CLOEXEC);
    while let Some((order, reply)) = queue.blocking_recv() {
        let outcome = match &owner {
            Ok((read, _write)) => order.carry_out(read.as_fd()),
            Err(error) => Err(io::Error::from(*error)),
        };
        // The report's end closes with the order, so before the reply: its reader waits for the child's copy alone.
        drop(order);
        if let Err(Ok(abandoned)) = reply.send(outcome) {
            drop(Child::new(abandoned));
        }
    }
}

/// Why QEMU does not run in its jail.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The owner could not prepare the launch.
    #[error("cannot prepare the jail")]
    Prepare {
        /// Why.
        source: io::Error,
    },
    /// A step of the jail's building failed.
    #[error("{failure}")]
    Launch {
        /// The step.
        failure: Box<Failure>,
        /// Why.
        source: io::Error,
    },
    /// The launcher ended without a word: it is not a program that calls [`crate::jail::main`].
    #[error("{program} did not act as the jail launcher ({status})")]
    NotALauncher {
        /// The program.
        program: String,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// The launcher did not come to an end.
    #[error("the jail was not ready within {} s", LAUNCH_TIMEOUT.as_secs())]
    TimedOut,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_line_of_a_report_counts() {
        let text = b"{\"ready\":{\"gaps\":[]}}\n{\"failed\":{\"step\":\"exec\",\"path\":null,\"errno\":2}}\n";
        let Some(FromLauncher::Failed(failure)) = read_report(text) else { panic!("not a failure") };
        assert_eq!((failure.step, failure.errno), (Step::Exec, 2));
    }

    #[test]
    fn child_that_fails_before_the_launcher_runs_is_understood() {
        let Some(FromLauncher::Failed(failure)) = read_report(&[0, 3, 2, 0]) else { panic!("not a failure") };
        assert_eq!((failure.step, failure.errno), (Step::Launcher, 2));
    }

    #[test]
    fn silence_and_nonsense_are_no_report() {
        assert!(read_report(b"").is_none());
        assert!(read_report(b"hello\n").is_none());
    }
}
