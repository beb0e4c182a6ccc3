//! Packages, by the installers that are here. No test uses a network: what is installed is made here.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hearth_channel::{Channel, ChannelError, Sent};
use hearth_protocol::kernel::{KernelLanguage, KernelStart};
use hearth_protocol::packages::{Install, PackageLanguage, PackageResult};
use hearth_protocol::{ErrorCode, ExitStatus, Finished, Outcome as Retry, RawString, StreamName};

use crate::kernels::{is_here, run};
use crate::support::{Agent, HANG, is_alive};
use PackageLanguage::{Javascript, Python};

/// Installs to the end; returns how the installer ended and all it said.
async fn install(channel: &Channel, install: Install) -> Result<(ExitStatus, String), ChannelError> {
    let operation = channel.install_packages(install).await?;
    let mut said = Vec::new();
    let collect = async {
        loop {
            match operation.next().await?.expect("a result comes before the end") {
                Sent::Piece(_, bytes) => said.extend_from_slice(&bytes),
                Sent::End(_) => {}
                Sent::Finished(finished) => match *finished {
                    Finished::Packages(PackageResult::Installed(status)) => return Ok::<_, ChannelError>(status),
                    other => panic!("not of an install: {other:?}"),
                },
            }
        }
    };
    let status = tokio::time::timeout(HANG, collect).await.expect("the installer ends")?;
    Ok((status, String::from_utf8_lossy(&said).into_owned()))
}

fn fault(error: ChannelError) -> (ErrorCode, Retry) {
    match error {
        ChannelError::Fault { source } => (source.code, source.outcome),
        other => panic!("not a fault of the agent's: {other}"),
    }
}

/// A directory for programs that stand in for others, first in the `PATH` of what is installed with.
fn path_with(directory: &Path) -> (String, RawString) {
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", directory.display());
    ("PATH".to_owned(), path.into())
}

/// Where an installer keeps what it likes to keep.
fn home_in(agent: &Agent) -> (String, RawString) {
    ("HOME".to_owned(), agent.workspace().to_str().unwrap().into())
}

fn program(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    fs::create_dir_all(directory).unwrap();
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

fn succeeds(program: &str, arguments: &[&OsStr]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

/// A Python of its own with pip, so that nothing of this machine's is changed; says why when there can be none.
fn venv(directory: &Path) -> Option<PathBuf> {
    let venv = directory.join("venv");
    if succeeds("/usr/bin/python3", &["-m", "venv", venv.to_str().unwrap()].map(OsStr::new)) {
        return Some(venv.join("bin"));
    }
    eprintln!("skipped: python3 makes no environment with pip here");
    None
}

/// Makes a wheel of one module, as a zip needs no tool beside Python itself.
fn wheel(directory: &Path, name: &str, version: &str, needs: &str) {
    let script = r#"
import sys, zipfile
directory, name, version, needs = sys.argv[1:]
info = f"{name}-{version}.dist-info"
files = {f"{name}.py": f"version = {version!r}\n", f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (f"Requires-Dist: {needs}\n" if needs else "")}
files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
with zipfile.ZipFile(f"{directory}/{name}-{version}-py3-none-any.whl", "w") as archive:
    for path, text in files.items(): archive.writestr(path, text)
"#;
    fs::create_dir_all(directory).unwrap();
    let arguments = ["-c", script, directory.to_str().unwrap(), name, version, needs].map(OsStr::new);
    assert!(succeeds("/usr/bin/python3", &arguments));
}

#[tokio::test]
async fn python_packages_come_from_files_with_what_they_need_and_a_running_kernel_sees_them() {
    if !is_here(KernelLanguage::Python) {
        return;
    }
    let agent = Agent::start();
    let Some(bin) = venv(&agent.workspace()) else { return };
    let channel = agent.connect().await;
    let wheels = agent.workspace().join("wheels");
    wheel(&wheels, "hearth_one", "1.5", "hearth_two>=2");
    wheel(&wheels, "hearth_two", "2.1", "");
    // What the workspace holds is no part of the installer.
    fs::write(agent.workspace().join("pip.py"), "raise SystemExit('not this one')").unwrap();
    let mut kernel = KernelStart::new(KernelLanguage::Python);
    kernel.env.extend([path_with(&bin)]);
    channel.start_kernel(kernel).await.unwrap();
    let wanted = |package: &str| Install {
        from: Some("wheels".into()),
        env: [path_with(&bin), home_in(&agent)].into(),
        ..Install::new(Python, [package])
    };
    let (status, said) = install(&channel, wanted("hearth_one==1.5")).await.unwrap();
    assert_eq!(status.code, Some(0), "{said}");
    assert!(said.contains("Successfully installed hearth_one-1.5 hearth_two-2.1"), "{said}");
    let seen =
        run(&channel, KernelLanguage::Python, "import hearth_one, hearth_two\nhearth_one.version, hearth_two.version")
            .await;
    assert_eq!(seen.value().unwrap(), "('1.5', '2.1')");
    // One that is not among the files is the installer's to report, and is looked for nowhere else.
    let (status, said) = install(&channel, wanted("hearth_three>=1")).await.unwrap();
    assert_eq!(status.code, Some(1), "{said}");
    assert!(said.contains("No matching distribution"), "{said}");
}

#[tokio::test]
async fn javascript_packages_come_from_files_into_the_workspace() {
    if !is_here(KernelLanguage::Javascript) {
        return;
    }
    if !succeeds("npm", &[OsStr::new("--version")]) {
        eprintln!("skipped: there is no npm here");
        return;
    }
    let agent = Agent::start();
    let channel = agent.connect().await;
    let files = agent.workspace().join("tarballs");
    fs::create_dir(&files).unwrap();
    for (name, version) in [("hearth-one", "1.2.0"), ("hearth-one", "1.10.0"), ("@hearth/two", "2.0.0")] {
        let source = agent.workspace().join("source");
        fs::create_dir_all(source.join("package")).unwrap();
        let manifest = format!(r#"{{"name":"{name}","version":"{version}","main":"index.js"}}"#);
        fs::write(source.join("package/package.json"), manifest).unwrap();
        fs::write(source.join("package/index.js"), format!("module.exports = '{version}'\n")).unwrap();
        let stem = name.trim_start_matches('@').replace('/', "-");
        let tarball = files.join(format!("{stem}-{version}.tgz"));
        let arguments =
            [OsStr::new("-czf"), tarball.as_os_str(), OsStr::new("-C"), source.as_os_str(), OsStr::new("package")];
        assert!(succeeds("tar", &arguments));
    }
    let env = || [home_in(&agent)].into();
    let from = |packages: &[&str]| Install {
        from: Some("tarballs".into()),
        env: env(),
        ..Install::new(Javascript, packages.iter().copied())
    };
    let (status, said) = install(&channel, from(&["hearth-one@^1.2", "@hearth/two@2.0.0"])).await.unwrap();
    assert_eq!(status.code, Some(0), "{said}");
    let code = "[require('hearth-one'), require('@hearth/two')]";
    assert_eq!(run(&channel, KernelLanguage::Javascript, code).await.value().unwrap(), "[ '1.10.0', '2.0.0' ]");
    let missing = install(&channel, from(&["hearth-one@^2"])).await.unwrap_err();
    assert_eq!(fault(missing), (ErrorCode::NotFound, Retry::NeverStarted));
    fs::create_dir(agent.workspace().join("app")).unwrap();
    let elsewhere = Install { directory: Some("app".into()), ..from(&["hearth-one@1.2.0"]) };
    assert_eq!(install(&channel, elsewhere).await.unwrap().0.code, Some(0));
    assert!(agent.workspace().join("app/node_modules/hearth-one/index.js").exists());
}

#[tokio::test]
async fn what_is_no_package_or_no_directory_is_refused_before_anything_runs() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let bin = agent.workspace().join("bin");
    program(&bin, "python3", "touch \"$HOME/ran\"");
    program(&bin, "npm", "touch \"$HOME/ran\"");
    fs::write(agent.workspace().join("file"), "").unwrap();
    let home = home_in(&agent);
    let with = |language, packages: Vec<String>, from: &str| Install {
        from: Some(from.into()),
        env: [path_with(&bin), home.clone()].into(),
        ..Install::new(language, packages)
    };
    let one = |package: &str| vec![package.to_owned()];
    for (refused, code) in [
        (with(Python, one("-r==1"), "."), ErrorCode::InvalidField),
        (with(Python, one("six"), "."), ErrorCode::InvalidField),
        (with(Python, one("six @ file:///x"), "."), ErrorCode::InvalidField),
        (with(Javascript, one("lodash"), "."), ErrorCode::InvalidField),
        (with(Javascript, one("--global@1"), "."), ErrorCode::InvalidField),
        (with(Python, vec![], "."), ErrorCode::InvalidField),
        (with(Python, vec!["six==1".to_owned(); 51], "."), ErrorCode::InvalidField),
        (with(Python, one("six==1"), "nowhere"), ErrorCode::NotFound),
        (with(Python, one("six==1"), "file"), ErrorCode::NotADirectory),
        (Install { directory: Some("app".into()), ..with(Python, one("six==1"), ".") }, ErrorCode::InvalidField),
        (Install { directory: Some("nowhere".into()), ..with(Javascript, one("a@1"), ".") }, ErrorCode::NotFound),
    ] {
        let described = format!("{refused:?}");
        assert_eq!(fault(install(&channel, refused).await.unwrap_err()), (code, Retry::NeverStarted), "{described}");
    }
    assert!(!agent.workspace().join("ran").exists());
}

#[tokio::test]
async fn an_installer_that_is_not_there_is_told_apart() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let empty = agent.workspace().join("empty");
    fs::create_dir(&empty).unwrap();
    let only = |directory: &Path| [("PATH".to_owned(), RawString::from(directory.to_str().unwrap()))].into();
    for (language, package) in [(Python, "six==1"), (Javascript, "a@latest")] {
        fs::write(empty.join("a-1.0.0.tgz"), "").unwrap();
        let missing = Install { from: Some("empty".into()), env: only(&empty), ..Install::new(language, [package]) };
        assert_eq!(fault(install(&channel, missing).await.unwrap_err()), (ErrorCode::Unavailable, Retry::NeverStarted));
    }
    // Python is there, and pip is not.
    let bin = agent.workspace().join("bin");
    program(&bin, "python3", "exit 1");
    let without = Install { from: Some("empty".into()), env: only(&bin), ..Install::new(Python, ["six==1"]) };
    assert_eq!(fault(install(&channel, without).await.unwrap_err()), (ErrorCode::Unavailable, Retry::NeverStarted));
}

#[tokio::test]
async fn an_install_that_is_given_up_or_past_its_deadline_leaves_no_installer() {
    let agent = Agent::start();
    let channel = agent.connect().await;
    let bin = agent.workspace().join("bin");
    program(&bin, "npm", "sleep 600 & echo $$ $!; wait");
    fs::write(agent.workspace().join("a-1.0.0.tgz"), "").unwrap();
    let slow =
        || Install { from: Some(".".into()), env: [path_with(&bin)].into(), ..Install::new(Javascript, ["a@1"]) };
    let operation = channel.install_packages(slow()).await.unwrap();
    let Some(Sent::Piece(StreamName::Stdout, said)) = operation.next().await.unwrap() else {
        panic!("it says its pids")
    };
    let pids: Vec<u32> = String::from_utf8_lossy(&said).split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.len() == 2 && pids.iter().all(|&pid| is_alive(pid)));
    drop(operation);
    while pids.iter().any(|&pid| is_alive(pid)) {
        channel.ping().await.unwrap();
    }
    let (status, _) = install(&channel, Install { timeout_ms: Some(200), ..slow() }).await.unwrap();
    assert!(status.timed_out);
}

#[tokio::test]
async fn without_a_way_out_an_install_is_refused_at_once_and_one_from_files_is_not() {
    let namespace = ["--net", "--"].map(OsStr::new);
    if !succeeds("unshare", &[&namespace[..], &[OsStr::new("true")]].concat()) {
        eprintln!("skipped: no network namespace can be made here");
        return;
    }
    let agent = Agent::start_under("unshare", &["--net", "--"]);
    let channel = agent.connect().await;
    for (language, package) in [(Python, "six==1.16.0"), (Javascript, "lodash@4.17.21")] {
        let refused = install(&channel, Install::new(language, [package])).await.unwrap_err();
        assert_eq!(fault(refused), (ErrorCode::Unavailable, Retry::NeverStarted));
    }
    let bin = agent.workspace().join("bin");
    program(&bin, "npm", "echo \"$@\"");
    fs::write(agent.workspace().join("a-1.0.0.tgz"), "").unwrap();
    let env = || [path_with(&bin)].into();
    let from_files = Install { from: Some(".".into()), env: env(), ..Install::new(Javascript, ["a@1"]) };
    let (status, said) = install(&channel, from_files).await.unwrap();
    assert!(status.code == Some(0) && said.contains("--offline -- ") && said.ends_with("/a-1.0.0.tgz\n"), "{said}");
    // Who names a proxy has a way out that no route shows.
    let mut by_proxy = Install { env: env(), ..Install::new(Javascript, ["a@1"]) };
    by_proxy.env.insert("HTTPS_PROXY".into(), "http://127.0.0.1:1".into());
    let (status, said) = install(&channel, by_proxy).await.unwrap();
    assert!(status.code == Some(0) && said.ends_with("-- a@1\n"), "{said}");
}
