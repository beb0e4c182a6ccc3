//! Builds that are killed, cancelled, run at once, or asked for what does not exist.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use hearth_image::{BuildSpec, ImageError, ImageName, ImageStore, KernelSource, Mirror, PackageName, Stage, Suite};

use crate::support::{Mounted, block_on, build, default_image, has, skip};

fn spec(name: &str) -> BuildSpec {
    BuildSpec::new(ImageName::new(name).unwrap())
}

/// A package whose program carries a file capability, beside the tool that sets it when the package is configured.
fn spec_with_capability(name: &str) -> BuildSpec {
    let packages = ["iputils-ping", "libcap2-bin"].map(|package| PackageName::new(package).unwrap());
    BuildSpec { packages: packages.to_vec(), ..spec(name) }
}

/// Lets the builds of a test fetch from the cache that the default image's build has filled.
fn store_with_cache(root: &Path, image: &hearth_image::Image) -> ImageStore {
    let shared = image.rootfs().ancestors().nth(3).unwrap().join("cache");
    let copied = Command::new("cp").arg("-a").arg(shared).arg(root).status().unwrap();
    assert!(copied.success());
    ImageStore::open(root).unwrap()
}

#[test]
fn a_killed_build_leaves_no_process_and_is_taken_up_and_shared() {
    let Some(default) = default_image() else { return };
    let root = tempfile::tempdir().unwrap();
    let store = store_with_cache(root.path(), &default);
    for stage in ["Download", "Install", "Pack", "Kernel"] {
        let mut builder = Builder::start(root.path());
        builder.wait_for(stage);
        builder.kill();
        assert_eq!(store.list().unwrap().len(), 0, "half an image is visible after a kill in {stage}");
    }
    let stages = Arc::new(Mutex::new(Vec::new()));
    let seen = |who: usize| {
        let stages = Arc::clone(&stages);
        move |progress: hearth_image::Progress| stages.lock().unwrap().push((who, progress.stage))
    };
    let both = async {
        tokio::join!(
            store.build(spec_with_capability("one"), seen(1)),
            store.build(spec_with_capability("two"), seen(2)),
        )
    };
    let (one, two) = block_on(both);
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.digest, two.digest);
    let stages = stages.lock().unwrap();
    let did = |stage| stages.iter().any(|(_, seen)| *seen == stage);
    assert!(did(Stage::Wait), "the second build did not wait for the first");
    assert!(!did(Stage::Install) && did(Stage::Kernel), "finished stages were not taken up: {stages:?}");
    assert_eq!(store.list().unwrap().len(), 2);
    assert_eq!(fs::read_dir(root.path().join("staging")).unwrap().count(), 0);
    capabilities_are_kept(&one.rootfs());
}

fn capabilities_are_kept(rootfs: &Path) {
    if !has("getcap") {
        return skip("getcap is needed to look at file capabilities");
    }
    let Some(mounted) = Mounted::new(rootfs) else { return };
    let shown = Command::new("getcap").arg(mounted.path("bin/ping")).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("cap_net_raw"), "ping has {shown:?}");
}

/// A build in a process of its own, which can be killed.
struct Builder {
    child: Child,
    output: BufReader<std::process::ChildStderr>,
    root: PathBuf,
}

impl Builder {
    fn start(root: &Path) -> Self {
        let program = example("build_image");
        let mut child = Command::new(program)
            .arg(root)
            .args(["one", "iputils-ping", "libcap2-bin"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stderr.take().unwrap());
        Builder { child, output, root: root.to_owned() }
    }

    fn wait_for(&mut self, stage: &str) {
        let mut line = String::new();
        while !line.contains(stage) {
            line.clear();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the build ended before {stage}");
        }
    }

    /// Kills the builder, then waits until nobody holds its tools' lock: that is when the last of them is gone, but for one that had just been started
    /// and has yet to take it.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let locks = fs::read_dir(self.root.join("locks")).unwrap().map(|entry| entry.unwrap().path());
        for lock in locks.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("run-")) {
            let wait = Command::new("timeout").args(["20", "flock"]).arg(lock).arg("true").status().unwrap();
            assert!(wait.success(), "a tool lived on for 20 s after its builder was killed");
        }
        let begun = std::time::Instant::now();
        while !processes_below(&self.root).is_empty() && begun.elapsed() < std::time::Duration::from_secs(20) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(processes_below(&self.root), Vec::<String>::new());
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        assert!(!mounts.contains(self.root.to_str().unwrap()), "{mounts}");
    }
}

/// Lists the command lines that name a directory.
fn processes_below(root: &Path) -> Vec<String> {
    let root = root.to_str().unwrap();
    let lines = fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.unwrap().path().join("cmdline")).ok());
    let lines = lines.map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "));
    lines.filter(|line| line.contains(root)).collect()
}

/// Cargo builds the examples of a package with its tests, next to them.
fn example(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let program = own.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(program.exists(), "{} is missing: run the tests with their examples", program.display());
    program
}

#[test]
fn a_dropped_build_leaves_nothing_but_its_downloads() {
    let Some(default) = default_image() else { return };
    let root = tempfile::tempdir().unwrap();
    let store = store_with_cache(root.path(), &default);
    let (send, reached) = tokio::sync::oneshot::channel();
    let mut send = Some(send);
    let building = store.build(spec("dropped"), move |progress| {
        if progress.stage == Stage::Install
            && progress.done > 0
            && let Some(send) = send.take()
        {
            send.send(()).unwrap();
        }
    });
    block_on(async {
        tokio::select! {
            _ = building => panic!("the build ended before it could be dropped"),
            reached = reached => reached.unwrap(),
        }
    });
    assert_eq!(processes_below(root.path()), Vec::<String>::new());
    assert_eq!(fs::read_dir(root.path().join("staging")).unwrap().count(), 0);
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn what_the_archive_does_not_have_is_named() {
    if default_image().is_none() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let store = ImageStore::open(root.path()).unwrap();
    let fails = |spec| block_on(store.build(spec, |_| {})).unwrap_err();
    let package = PackageName::new("no-such-package-anywhere").unwrap();
    let error = fails(BuildSpec { packages: vec![package], ..spec("x") });
    assert!(
        matches!(&error, ImageError::UnknownPackage { package, .. } if package == "no-such-package-anywhere"),
        "{error:?}"
    );
    let error = fails(BuildSpec { suite: Suite::new("nosuchsuite").unwrap(), ..spec("x") });
    assert!(matches!(error, ImageError::UnknownSuite { .. }), "{error:?}");
    let nowhere = Mirror::new("http://127.0.0.1:1/debian").unwrap();
    let error = fails(BuildSpec { mirror: nowhere, ..spec("x") });
    assert!(matches!(error, ImageError::Mirror { .. }) && error.fix().is_some(), "{error:?}");
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn a_kernel_of_ones_own_is_checked_before_anything_is_fetched() {
    if default_image().is_none() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let store = ImageStore::open(root.path()).unwrap();
    let script = root.path().join("script");
    fs::write(&script, "#!/bin/sh\n").unwrap();
    let kernel = KernelSource::File { kernel: script, modules: None };
    let error = block_on(store.build(BuildSpec { kernel, ..spec("x") }, |_| {})).unwrap_err();
    assert!(matches!(error, ImageError::Kernel(hearth_image::KernelError::NotAKernel { .. })), "{error:?}");
    assert_eq!(fs::read_dir(root.path().join("cache")).unwrap().count(), 0);
}

/// Runs a build in a process whose view of the machine has been changed by some shell commands.
fn build_after(commands: &str, root: &Path) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        skip("only root may change what a process sees of the machine");
        return None;
    }
    let script = format!("set -e; {commands}; exec \"$1\" \"$2\"");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh"]).arg(example("build_image")).arg(root);
    let output = command.output().unwrap();
    assert!(!output.status.success());
    Some(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_missing_tool_or_key_is_named_before_anything_is_made() {
    if default_image().is_none() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let hidden = [
        ("mount --bind /dev/null /usr/bin/mmdebstrap", "ToolMissing { tool: \"mmdebstrap\", package: \"mmdebstrap\" }"),
        (
            "mount --bind /dev/null /usr/bin/mkfs.erofs",
            "ToolMissing { tool: \"mkfs.erofs\", package: \"erofs-utils\" }",
        ),
        ("mount -t tmpfs none /usr/share/keyrings", "KeyringMissing"),
    ];
    for (commands, expected) in hidden {
        let Some(said) = build_after(commands, root.path()) else { return };
        assert!(said.contains(expected), "{said}");
    }
    for made in ["cache", "staging", "images", "names"] {
        assert_eq!(fs::read_dir(root.path().join(made)).unwrap().count(), 0, "{made}");
    }
}

#[test]
fn a_disk_with_too_little_room_is_refused_before_anything_is_made() {
    let root = tempfile::tempdir().unwrap();
    let small = format!("mount -t tmpfs -o size=64m none {}", root.path().display());
    let Some(said) = build_after(&small, root.path()) else { return };
    assert!(said.contains("TooLittleSpace") && said.contains("free_mib: 6"), "{said}");
}

#[test]
fn an_ordinary_user_builds_the_same_image() {
    let Some(default) = default_image() else { return };
    if rustix::process::geteuid().is_root() {
        return skip("this is for an ordinary user; root is tested by all the others");
    }
    let root = tempfile::tempdir().unwrap();
    let store = store_with_cache(root.path(), &default);
    match build(&store, spec("debian")) {
        Ok(image) => assert_eq!(image.manifest.rootfs, default.manifest.rootfs),
        Err(why) => skip(&why),
    }
}
