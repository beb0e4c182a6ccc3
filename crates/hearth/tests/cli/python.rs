//! The Python client, `clients/python`: built, checked and tried as its users have it.
//!
//! `HEARTH_TEST_PYTHON` names a Python with all that tests use (`scripts/test-python` makes one); without it these tests say that they were
//! skipped. The client's wheel is put into it, and anew when it is made of something else.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::{Home, Running, assert_code, said};

/// The Python of the tests.
pub(crate) struct Python(PathBuf);

impl Python {
    /// The one that is named; `None`, and says so, where none is.
    pub(crate) fn found() -> Option<Self> {
        let found = std::env::var_os("HEARTH_TEST_PYTHON").filter(|path| !path.is_empty());
        if found.is_none() {
            eprintln!("skipped: HEARTH_TEST_PYTHON names no Python for tests; scripts/test-python makes one");
        }
        found.map(|path| Self(path.into()))
    }

    /// The same, with the client in it.
    pub(crate) fn with_client() -> Option<Self> {
        let python = Self::found()?;
        // A new environment has neither.
        let (stamp, dist) = (python.beside("hearth-client"), python.beside("hearth-client.dist"));
        let lock = File::create(python.beside("hearth-client.lock")).unwrap();
        lock.lock().unwrap();
        let mut sources = vec![client().join("pyproject.toml"), client().join("README.md")];
        collect(&client().join("src"), &mut sources);
        once(&stamp, &digest(&sources), || {
            let _ = fs::remove_dir_all(&dist);
            let building = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir"];
            succeed(python.pip(&building).arg(&dist).arg(client()));
            let wheels: Vec<PathBuf> = fs::read_dir(&dist).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert_eq!(wheels.len(), 1, "{wheels:?}");
            succeed(python.pip(&["install", "--no-deps", "--force-reinstall"]).arg(&wheels[0]));
        });
        Some(python)
    }

    /// A program that was installed with it, or a file of ours.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.0.with_file_name(name)
    }

    /// A command of it, with the sandboxes of a home.
    pub(crate) fn command(&self, home: &Home) -> Command {
        with_hearth(home, self.plain())
    }

    pub(crate) fn plain(&self) -> Command {
        let mut python = Command::new(&self.0);
        python.env("PYTHONDONTWRITEBYTECODE", "1").current_dir(client());
        python
    }

    fn pip(&self, arguments: &[&str]) -> Command {
        let mut pip = self.plain();
        pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check"]).args(arguments);
        pip
    }
}

/// Gives a command the sandboxes of a home, and `hearth` on its path.
pub(crate) fn with_hearth(home: &Home, mut command: Command) -> Command {
    for (name, value) in home.command(&[]).get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let mut path = vec![Path::new(env!("CARGO_BIN_EXE_hearth")).parent().unwrap().to_owned()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    command.env("PATH", std::env::join_paths(path).unwrap());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn client() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../clients/python").canonicalize().unwrap()
}

/// Does something unless it was done for the same digest before.
pub(crate) fn once(stamp: &Path, digest: &str, work: impl FnOnce()) {
    if fs::read_to_string(stamp).is_ok_and(|done| done == digest) {
        return;
    }
    work();
    fs::write(stamp, digest).unwrap();
}

pub(crate) fn digest(files: &[PathBuf]) -> String {
    let mut hasher = DefaultHasher::new();
    for file in files {
        (file, fs::read(file).unwrap()).hash(&mut hasher);
    }
    hasher.finish().to_string()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        match path.is_dir() {
            true if path.ends_with("__pycache__") => {}
            true => collect(&path, files),
            false => files.push(path),
        }
    }
}

pub(crate) fn succeed(command: &mut Command) -> Output {
    let output =
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; scripts/setup --test installs it"));
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    output
}

#[test]
fn the_python_client_is_typed_throughout() {
    let Some(python) = Python::with_client() else { return };
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mypy");
    // Those that use it see it as it was installed.
    for checked in [&["src", "tests", "tools"][..], &["examples", "../../docs/recipes"]] {
        let mut mypy = python.plain();
        mypy.args(["-m", "mypy", "--cache-dir"]).arg(&cache).args(checked);
        let checked = mypy.output().unwrap();
        assert_code(&checked, 0);
    }
}

#[test]
fn the_python_client_does_on_real_machines_what_it_says() {
    let (Some(home), Some(python)) = (Home::with_images(), Python::with_client()) else { return };
    // Templates of its own, for it removes some.
    fs::remove_file(home.path().join("templates")).unwrap();
    // One that stands still says where, and ends.
    let bounded = ["-o", "faulthandler_timeout=60", "-o", "faulthandler_exit_on_timeout=true"];
    let mut pytest = python.command(&home);
    let tested = Running::start(pytest.args(["-m", "pytest", "-q", "--durations", "9"]).args(bounded)).finish();
    if !tested.status.success() {
        // First what a report that is cut short should have.
        let said = [&tested.stderr[..], &tested.stdout[..]].concat();
        let is_short = |line: &&str| line.contains("/clients/python/") || line.starts_with("FAILED");
        String::from_utf8_lossy(&said).lines().filter(is_short).for_each(|line| println!("{line}"));
    }
    assert_code(&tested, 0);
    home.assert_nothing_left();
}
