//! From a request to a running child: who, where, with what, on which descriptors.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::OnceLock;

use hearth_protocol::{Command, ErrorCode, Fault, PtySize, RawString, Start};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use tokio::io::unix::AsyncFd;

use super::input::Target;
use super::ring::FILL;
use super::sys::{self, Identity, Place, Program, SpawnError, Step};
use super::users::User;
use crate::secrets::Secrets;
use crate::sys::watch;

/// The variable that tells a process where its secrets are files.
const SECRETS_VARIABLE: &[u8] = b"HEARTH_SECRETS";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a process gets that its request does not say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Defaults {
    /// The user; `None` where the agent itself is not root: every process then runs as the agent does.
    pub(crate) user: Option<String>,
    /// The working directory where it exists.
    pub(crate) workspace: Option<PathBuf>,
    /// Overrides the user's home.
    pub(crate) home: Option<PathBuf>,
}

/// What the agent knows when it starts a process.
pub(super) struct Surroundings<'a> {
    pub(super) defaults: &'a Defaults,
    pub(super) secrets: &'a Secrets,
    /// The variables of every process.
    pub(super) variables: &'a BTreeMap<String, RawString>,
}

/// The variables of a process, by name.
pub(super) type Environment = BTreeMap<Vec<u8>, Vec<u8>>;

/// Who a child is, where it starts, and with which variables.
#[derive(Debug)]
pub(crate) struct Circumstances {
    /// `None` stays who the agent is.
    pub(crate) user: Option<User>,
    pub(crate) cwd: Vec<u8>,
    pub(crate) environment: Environment,
}

impl Circumstances {
    pub(super) fn of(start: &Start, surroundings: &Surroundings<'_>) -> Result<Self, Fault> {
        let defaults = surroundings.defaults;
        let user = effective_user(start.user.as_deref(), defaults)?;
        let cwd = working_directory(start, defaults, &home_of(user.as_ref(), defaults));
        Self::there(start, surroundings, user, cwd)
    }

    /// Those of a process whose user and directory are known.
    pub(super) fn there(
        start: &Start,
        surroundings: &Surroundings<'_>,
        user: Option<User>,
        cwd: Vec<u8>,
    ) -> Result<Self, Fault> {
        let Surroundings { defaults, secrets, variables } = *surroundings;
        let mut environment = environment(start, variables, user.as_ref(), &home_of(user.as_ref(), defaults));
        add_secrets(&mut environment, start, secrets)?;
        Ok(Self { user, cwd, environment })
    }
}

/// A child that runs, and the agent's ends of its descriptors.
pub(super) struct Spawned {
    pub(super) pid: u32,
    pub(super) stdin: Option<Target>,
    pub(super) stdout: Rc<AsyncFd<OwnedFd>>,
    pub(super) stderr: Option<Rc<AsyncFd<OwnedFd>>>,
    pub(super) terminal: Option<Rc<AsyncFd<OwnedFd>>>,
}

/// A descriptor that a child is born with beside the usual three.
#[derive(Debug)]
pub(crate) struct Extra {
    /// What it is. It becomes its user's, who may open it anew by its name in `/proc`.
    pub(crate) fd: OwnedFd,
    /// Its number in the child.
    pub(crate) number: RawFd,
}

/// The agent's ends and the child's.
pub(super) struct Descriptors {
    pub(super) child: [OwnedFd; 3],
    pub(super) stdin: Option<Target>,
    pub(super) stdout: Rc<AsyncFd<OwnedFd>>,
    pub(super) stderr: Option<Rc<AsyncFd<OwnedFd>>>,
    terminal: Option<Rc<AsyncFd<OwnedFd>>>,
}

/// Starts the child that `start` asks for.
pub(super) fn spawn(
    start: &Start,
    circumstances: Circumstances,
    extra: Vec<Extra>,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Spawned, Fault> {
    let Circumstances { user, cwd, environment } = circumstances;
    let program = program(&start.command, environment);
    let descriptors = open_descriptors(start, user.as_ref()).map_err(|error| spawn_failed("make its pipes", &error))?;
    let extra = prepare_extra(extra, user.as_ref()).map_err(|error| spawn_failed("pass it descriptors", &error))?;
    let extra = extra.iter().map(|extra| (extra.fd.as_fd(), extra.number)).collect();
    let place = Place { extra, ..place(&descriptors, user.as_ref(), &cwd, cgroup) };
    let pid = sys::spawn(&place, &program);
    let pid = pid.map_err(|error| explain(&error, &start.command, &cwd, user.as_ref()))?;
    Ok(descriptors.of_child(pid))
}

impl Descriptors {
    /// The agent's ends, of a child that has its own.
    pub(super) fn of_child(self, pid: u32) -> Spawned {
        let Self { stdin, stdout, stderr, terminal, .. } = self;
        Spawned { pid, stdin, stdout, stderr, terminal }
    }
}

/// Where a child of these descriptors is to be.
pub(super) fn place<'a>(
    descriptors: &'a Descriptors,
    user: Option<&'a User>,
    cwd: &[u8],
    cgroup: Option<BorrowedFd<'a>>,
) -> Place<'a> {
    Place {
        cwd: c_string(cwd),
        stdio: [descriptors.child[0].as_fd(), descriptors.child[1].as_fd(), descriptors.child[2].as_fd()],
        extra: Vec::new(),
        terminal: descriptors.terminal.is_some(),
        identity: user.map(|user| Identity { uid: user.uid, gid: user.gid, groups: &user.groups }),
        cgroup,
    }
}

/// What a child is to become.
pub(super) fn program(command: &Command, environment: Environment) -> Program {
    let (program, argv) = command_line(command);
    let search = environment.get(b"PATH".as_slice()).cloned().unwrap_or_default();
    let variable = |(name, value): (Vec<u8>, Vec<u8>)| c_string(&[name.as_slice(), b"=", &value].concat());
    Program { paths: candidates(&program, &search), argv, env: environment.into_iter().map(variable).collect() }
}

/// The shell of the user that a process would run as.
pub(super) fn login_shell(user: Option<&str>, defaults: &Defaults) -> Result<String, Fault> {
    let own = rustix::process::geteuid().as_raw().to_string();
    let user = match effective_user(user, defaults)? {
        Some(user) => Some(user),
        None => User::find(&own).ok(),
    };
    let exists = |shell: &String| Path::new(shell).exists();
    Ok(user.map(|user| user.shell).filter(exists).unwrap_or_else(|| "/bin/sh".to_owned()))
}

fn effective_user(wanted: Option<&str>, defaults: &Defaults) -> Result<Option<User>, Fault> {
    let own = rustix::process::geteuid();
    match wanted.or(defaults.user.as_deref()) {
        None => Ok(None),
        Some(wanted) => {
            let user = User::find(wanted)?;
            if own.is_root() {
                return Ok(Some(user));
            }
            if user.uid == own.as_raw() {
                return Ok(None);
            }
            let message = format!("the agent runs as uid {} and cannot start a process as {wanted:?}", own.as_raw());
            Err(Fault::never_started(ErrorCode::InvalidField, message))
        }
    }
}

/// The working directory of a process.
pub(super) fn directory_of(start: &Start, defaults: &Defaults) -> Result<PathBuf, Fault> {
    let home = home_of(effective_user(start.user.as_deref(), defaults)?.as_ref(), defaults);
    Ok(OsString::from_vec(working_directory(start, defaults, &home)).into())
}

/// The home of `user`, or of whoever the agent runs as, unless the agent has one for everybody.
pub(crate) fn home_of(user: Option<&User>, defaults: &Defaults) -> PathBuf {
    let own = || user.map_or_else(own_home, |user| PathBuf::from(&user.home));
    defaults.home.clone().unwrap_or_else(own)
}

/// The agent's own home: as its environment has it, or the list of users.
fn own_home() -> PathBuf {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        let said = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        let listed = || User::find(&rustix::process::geteuid().as_raw().to_string()).map(|user| user.home.into());
        said.or_else(|| listed().ok()).unwrap_or_else(|| PathBuf::from("/"))
    };
    HOME.get_or_init(find).clone()
}

fn working_directory(start: &Start, defaults: &Defaults, home: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    let default = || defaults.workspace.as_deref().filter(|path| path.is_dir()).unwrap_or(home);
    match &start.cwd {
        Some(cwd) => cwd.as_bytes().to_vec(),
        None => default().as_os_str().as_bytes().to_vec(),
    }
}

/// Adds the secrets that are asked for, and where those are that are files.
fn add_secrets(environment: &mut Environment, start: &Start, secrets: &Secrets) -> Result<(), Fault> {
    use std::os::unix::ffi::OsStrExt;
    for (variable, secret) in &start.secrets {
        environment.insert(variable.as_bytes().to_vec(), secrets.variable(secret)?.as_bytes().to_vec());
    }
    if let Some(directory) = secrets.directory() {
        environment.entry(SECRETS_VARIABLE.to_vec()).or_insert_with(|| directory.as_os_str().as_bytes().to_vec());
    }
    Ok(())
}

fn environment(start: &Start, shared: &BTreeMap<String, RawString>, user: Option<&User>, home: &Path) -> Environment {
    use std::os::unix::ffi::OsStrExt;
    let mut variables = BTreeMap::new();
    let mut set = |name: &str, value: &[u8]| variables.insert(name.as_bytes().to_vec(), value.to_vec());
    set("PATH", PATH.as_bytes());
    set("LANG", b"C.UTF-8");
    set("HOME", home.as_os_str().as_bytes());
    if let Some(user) = user {
        set("USER", user.name.as_bytes());
        set("LOGNAME", user.name.as_bytes());
        set("SHELL", user.shell.as_bytes());
    }
    if start.pty.is_some() {
        set("TERM", b"xterm-256color");
    }
    shared.iter().chain(&start.env).for_each(|(name, value)| {
        set(name, value.as_bytes());
    });
    variables
}

fn command_line(command: &Command) -> (RawString, Vec<CString>) {
    match command {
        Command::Argv(argv) => {
            let program = argv.first().cloned().unwrap_or_default();
            (program, argv.iter().map(|argument| c_string(argument.as_bytes())).collect())
        }
        Command::Shell(text) => {
            let argv = [b"/bin/sh".as_slice(), b"-c", text.as_bytes()];
            (RawString::from(argv[0]), argv.iter().map(|argument| c_string(argument)).collect())
        }
    }
}

/// The paths to try for `program`, as `execvp` would.
fn candidates(program: &RawString, search: &[u8]) -> Vec<CString> {
    if program.as_bytes().contains(&b'/') {
        return vec![c_string(program.as_bytes())];
    }
    let join = |directory: &[u8]| match directory {
        b"" => c_string(program.as_bytes()),
        _ => c_string(&[directory, b"/", program.as_bytes()].concat()),
    };
    search.split(|&byte| byte == b':').map(join).collect()
}

/// Every string of a request was checked for NUL when it was read; a rest is cut there.
fn c_string(bytes: &[u8]) -> CString {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    CString::new(&bytes[..end]).expect("the bytes end before the first NUL")
}

fn open_descriptors(start: &Start, user: Option<&User>) -> io::Result<Descriptors> {
    match start.pty {
        Some(size) => open_terminal(size, user),
        None => open_pipes(start.stdin),
    }
}

pub(super) fn open_pipes(piped_input: bool) -> io::Result<Descriptors> {
    let (child_stdin, stdin) = match piped_input {
        true => {
            let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            (read, Some(Target::Pipe(watch(nonblocking(write)?)?)))
        }
        false => (no_input()?, None),
    };
    let (stdout, child_stdout) = output_pipe()?;
    let (stderr, child_stderr) = output_pipe()?;
    Ok(Descriptors {
        child: [child_stdin, child_stdout, child_stderr],
        stdin,
        stdout: Rc::new(watch(nonblocking(stdout)?)?),
        stderr: Some(Rc::new(watch(nonblocking(stderr)?)?)),
        terminal: None,
    })
}

/// What a child without input reads.
pub(super) fn no_input() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// A pipe that holds as much as is read at a time, where the kernel allows it. A process that fills it and is emptied takes two
/// switches of process, and under emulation these cost more than the copying.
fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let _ = rustix::pipe::fcntl_setpipe_size(&read, FILL);
    Ok((read, write))
}

fn open_terminal(size: PtySize, user: Option<&User>) -> io::Result<Descriptors> {
    let ours = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&ours)?;
    rustix::pty::unlockpt(&ours)?;
    set_size(&ours, size)?;
    let name = rustix::pty::ptsname(&ours, Vec::new())?;
    let child = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    if let Some(user) = user {
        rustix::fs::fchown(&child, Some(rustix::fs::Uid::from_raw(user.uid)), None)?;
    }
    let terminal = Rc::new(watch(nonblocking(ours)?)?);
    Ok(Descriptors {
        child: [child.try_clone()?, child.try_clone()?, child],
        stdin: Some(Target::Terminal(Rc::clone(&terminal))),
        stdout: Rc::clone(&terminal),
        stderr: None,
        terminal: Some(terminal),
    })
}

/// Gives the descriptors to the child's user, and moves those away that have a number which one of them is to get.
fn prepare_extra(extra: Vec<Extra>, user: Option<&User>) -> io::Result<Vec<Extra>> {
    let numbers: Vec<RawFd> = extra.iter().map(|extra| extra.number).collect();
    let above = numbers.iter().max().map_or(0, |number| number + 1);
    let prepare = |Extra { fd, number }: Extra| {
        if let Some(user) = user {
            rustix::fs::fchown(&fd, Some(rustix::fs::Uid::from_raw(user.uid)), None)?;
        }
        let taken = numbers.contains(&fd.as_raw_fd());
        let fd = if taken { rustix::io::fcntl_dupfd_cloexec(&fd, above)? } else { fd };
        Ok(Extra { fd, number })
    };
    extra.into_iter().map(prepare).collect()
}

fn nonblocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd)
}

/// Sets a terminal's size; its foreground job gets WINCH.
pub(super) fn set_size(terminal: &OwnedFd, size: PtySize) -> io::Result<()> {
    let size = Winsize { ws_col: size.columns, ws_row: size.rows, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// Whether a terminal's programs have read all that was typed at it.
pub(super) fn has_read_all(terminal: &OwnedFd) -> bool {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let unread = rustix::pty::ioctl_tiocgptpeer(terminal, flags).and_then(rustix::io::ioctl_fionread);
    unread == Ok(0)
}

fn spawn_failed(what: &str, error: &io::Error) -> Fault {
    Fault::never_started(ErrorCode::SpawnFailed, format!("the guest could not {what}: {error}"))
}

pub(super) fn explain(failure: &SpawnError, command: &Command, cwd: &[u8], user: Option<&User>) -> Fault {
    let error = &failure.error;
    let (program, _) = command_line(command);
    let refuse = Fault::never_started;
    match failure.step {
        Step::Exec if error.kind() == io::ErrorKind::NotFound => {
            refuse(ErrorCode::CommandNotFound, format!("there is no command {program:?} in the guest"))
        }
        Step::Exec => refuse(ErrorCode::CommandNotExecutable, format!("{program:?} cannot be executed: {error}")),
        Step::WorkingDirectory => {
            let cwd = String::from_utf8_lossy(cwd);
            refuse(ErrorCode::WorkingDirectory, format!("cannot enter the working directory {cwd:?}: {error}"))
        }
        Step::Identity => {
            let name = user.map_or("?", |user| &user.name);
            refuse(ErrorCode::SpawnFailed, format!("cannot become user {name:?}: {error}"))
        }
        Step::Clone => spawn_failed("start another process", error),
        Step::Session => spawn_failed("make a session for it", error),
        Step::Stdio => spawn_failed("connect its descriptors", error),
        Step::Terminal => spawn_failed("give it its terminal", error),
    }
}
