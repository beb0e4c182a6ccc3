//! Runs the tools of a build under a watcher, so that none outlives the builder.
//!
//! Each tool runs in a process group of its own behind `supervise.sh`, whose standard input is a pipe that this
//! process holds. Cancelling a build closes the pipe; so does the kernel when this process is killed. As root the
//! tool also gets a pid and a mount namespace, so that nothing it starts or mounts can survive it.

use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{ChildStdin, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::ImageError;

const SUPERVISE: &str = include_str!("supervise.sh");

/// Where tools are looked for. Fixed, because a user's own `PATH` often lacks the `sbin` directories that
/// `mmdebstrap` needs, and may hold wrappers that a build must not depend on.
const TOOL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Lines kept of what a tool said, for an error.
const KEPT_LINES: usize = 60;
/// Bytes kept of one such line; a tool that writes no line ends cannot fill memory.
const KEPT_LINE_BYTES: usize = 1000;

/// Finds a tool in the directories that builds use.
pub(crate) fn find_tool(name: &str) -> Option<PathBuf> {
    TOOL_PATH.split(':').map(|directory| Path::new(directory).join(name)).find(|path| path.is_file())
}

/// Stops a build, from any thread and at any time.
#[derive(Default)]
pub(crate) struct Cancel(Mutex<State>);

#[derive(Default)]
struct State {
    cancelled: bool,
    /// The lifeline of the tool that is running.
    lifeline: Option<ChildStdin>,
}

impl Cancel {
    /// Stops what runs now and refuses all that would follow.
    pub(crate) fn cancel(&self) {
        let mut state = self.state();
        state.cancelled = true;
        state.lifeline = None;
    }

    /// Fails when the build was cancelled; called between steps that no tool does.
    pub(crate) fn check(&self) -> Result<(), ImageError> {
        if self.state().cancelled { Err(ImageError::Cancelled) } else { Ok(()) }
    }

    /// Makes a started tool the one that a cancellation stops. A tool started too late is stopped at once.
    fn watch(&self, lifeline: Option<ChildStdin>) {
        let mut state = self.state();
        if !state.cancelled {
            state.lifeline = lifeline;
        }
    }

    fn unwatch(&self) {
        self.state().lifeline = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tool to run: its name in messages, and its command line.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) doing: &'static str,
    arguments: Vec<std::ffi::OsString>,
    environment: Vec<(&'static str, std::ffi::OsString)>,
    directory: Option<PathBuf>,
    isolated: bool,
}

impl Tool {
    pub(crate) fn new(name: &'static str, doing: &'static str) -> Self {
        Tool { name, doing, arguments: Vec::new(), environment: Vec::new(), directory: None, isolated: false }
    }

    pub(crate) fn arg(mut self, argument: impl Into<std::ffi::OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub(crate) fn args<A: Into<std::ffi::OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, name: &'static str, value: impl Into<std::ffi::OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    pub(crate) fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Gives the tool namespaces of its own when the caller is root (others get theirs from `mmdebstrap`).
    pub(crate) fn isolated(mut self) -> Self {
        self.isolated = true;
        self
    }

    fn command(&self, lock: &Path) -> Command {
        let namespaces = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--", "sh"];
        let as_root = self.isolated && rustix::process::geteuid().is_root();
        let mut command = Command::new(if as_root { "unshare" } else { "sh" });
        command.args(if as_root { &namespaces[..] } else { &[] });
        command.args(["-c", SUPERVISE, "supervise"]).arg(lock).arg(self.name).args(&self.arguments);
        command.env("PATH", TOOL_PATH).env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command.process_group(0).stdin(Stdio::piped());
        command
    }
}

/// What a tool left: how it ended and the last lines it said.
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) tail: String,
}

/// Runs the tools of one build, one at a time.
pub(crate) struct Runner<'a> {
    pub(crate) cancel: &'a Cancel,
    /// Locked by each tool while any part of it lives.
    pub(crate) lock: PathBuf,
}

impl Runner<'_> {
    /// Runs a tool to its end and hands each line it writes, on either output, to `on_line`.
    ///
    /// # Errors
    /// [`ImageError::Cancelled`], or that the tool could not be started. How the tool ended is for the caller to judge.
    pub(crate) fn run(&self, tool: &Tool, on_line: &mut dyn FnMut(&str)) -> Result<Finished, ImageError> {
        self.cancel.check()?;
        let start = |source| ImageError::StartTool { tool: tool.name.to_owned(), source };
        let (output, writer) = io::pipe().map_err(start)?;
        let mut command = tool.command(&self.lock);
        command.stdout(writer.try_clone().map_err(start)?).stderr(writer);
        let mut child = command.spawn().map_err(start)?;
        // The command holds the pipe's write end; without this the output would never end.
        drop(command);
        self.cancel.watch(child.stdin.take());
        let tail = read_lines(BufReader::new(output), on_line);
        let status = child.wait();
        self.cancel.unwatch();
        self.cancel.check()?;
        Ok(Finished { status: status.map_err(start)?, tail })
    }

    /// Runs a tool that is expected to succeed.
    pub(crate) fn run_well(&self, tool: &Tool, on_line: &mut dyn FnMut(&str)) -> Result<(), ImageError> {
        let finished = self.run(tool, on_line)?;
        if finished.status.success() { Ok(()) } else { Err(failure(tool, finished)) }
    }

    /// Runs a tool and returns all that it writes. Only for tools whose output is known to be small.
    pub(crate) fn capture(&self, tool: &Tool) -> Result<(Finished, String), ImageError> {
        let mut all = String::new();
        let finished = self.run(tool, &mut |line| {
            all.push_str(line);
            all.push('\n');
        })?;
        Ok((finished, all))
    }
}

/// Says how a tool failed; a full disk is told apart whichever tool met it.
pub(crate) fn failure(tool: &Tool, finished: Finished) -> ImageError {
    if finished.tail.contains("No space left on device") || finished.tail.contains("enough free space") {
        return ImageError::DiskFull { doing: tool.doing };
    }
    let status = finished.status.to_string();
    ImageError::Tool { tool: tool.name, doing: tool.doing, status, output: finished.tail }
}

/// Reads lines until the last writer is gone, and returns the last ones.
fn read_lines(mut output: impl BufRead, on_line: &mut dyn FnMut(&str)) -> String {
    let mut tail = VecDeque::new();
    let mut line = Vec::new();
    // An error here means that the pipe is broken, which reads as its end.
    while output.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        on_line(text);
        if tail.len() == KEPT_LINES {
            tail.pop_front();
        }
        tail.push_back(text.chars().take(KEPT_LINE_BYTES).collect::<String>());
        line.clear();
    }
    Vec::from(tail).join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::mpsc, thread, time::Duration};

    fn shell(script: &str) -> Tool {
        Tool::new("sh", "testing").args(["-c", script])
    }

    fn run(tool: &Tool) -> Result<(Finished, Vec<String>), ImageError> {
        let directory = tempfile::tempdir().unwrap();
        let runner = Runner { cancel: &Cancel::default(), lock: directory.path().join("lock") };
        let mut lines = Vec::new();
        let finished = runner.run(tool, &mut |line| lines.push(line.to_owned()))?;
        Ok((finished, lines))
    }

    #[test]
    fn both_outputs_arrive_by_the_line_and_the_code_is_the_tools() {
        let (finished, lines) = run(&shell("echo out; echo err >&2; printf 'no end'; exit 3")).unwrap();
        assert_eq!((finished.status.code(), lines), (Some(3), vec!["out".into(), "err".into(), "no end".into()]));
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let (finished, lines) = run(&shell("seq 200")).unwrap();
        assert_eq!(lines.len(), 200);
        assert!(finished.tail.starts_with("141\n") && finished.tail.ends_with("\n200"));
    }

    #[test]
    fn a_cancelled_tool_is_gone_with_all_that_it_started() {
        for isolated in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let lock = directory.path().join("lock");
            let cancel = Cancel::default();
            let mut tool = shell("(sleep 1000 & sleep 1000 & wait) & echo ready; wait");
            tool.isolated = isolated;
            let (ready, is_ready) = mpsc::channel();
            let ended = thread::scope(|scope| {
                let runner = Runner { cancel: &cancel, lock: lock.clone() };
                let running = scope.spawn(move || runner.run(&tool, &mut |line| ready.send(line.to_owned()).unwrap()));
                assert_eq!(is_ready.recv_timeout(Duration::from_secs(60)).unwrap(), "ready");
                cancel.cancel();
                running.join().unwrap()
            });
            assert!(matches!(ended, Err(ImageError::Cancelled)));
            // Whatever was left of the tool would still hold its lock.
            let file = std::fs::File::open(&lock).unwrap();
            let holders = Command::new("timeout").args(["60", "flock", "0"]).stdin(file).status().unwrap();
            assert!(holders.success());
        }
    }

    #[test]
    fn a_cancelled_build_starts_nothing_more() {
        let directory = tempfile::tempdir().unwrap();
        let cancel = Cancel::default();
        cancel.cancel();
        let runner = Runner { cancel: &cancel, lock: directory.path().join("lock") };
        let touched = directory.path().join("touched");
        let refused = runner.run(&Tool::new("touch", "testing").arg(&touched), &mut |_| {});
        assert!(matches!(refused, Err(ImageError::Cancelled)) && !touched.exists());
    }

    #[test]
    fn a_full_disk_is_told_from_other_failures() {
        let full = run(&shell("echo 'tar: x: No space left on device' >&2; exit 2")).unwrap().0;
        assert!(matches!(failure(&shell(""), full), ImageError::DiskFull { doing: "testing" }));
        let other = run(&shell("echo broken; exit 2")).unwrap().0;
        assert!(matches!(failure(&shell(""), other), ImageError::Tool { output, .. } if output == "broken"));
    }
}
