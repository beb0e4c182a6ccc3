//! A disk that is full: what does not fit is refused by name, and all that was there goes on.

use std::process::{Command, Output, Stdio};

use crate::support::{Home, Running, assert_code, said, text};

/// Runs a script in a home on a small file system that nobody else sees. `h` is Hearth, its exit code after its output. The daemon has
/// ended afterwards.
fn in_small_home(home: &Home, size: &str, script: &str) -> Option<Output> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can mount a small file system");
        return None;
    }
    let link = |name: &str| {
        let to = std::fs::read_link(home.path().join(name)).unwrap();
        format!("ln -s {} $HEARTH_HOME/{name}", to.display())
    };
    let script = format!(
        "set -e; mount -t tmpfs -o size={size} small $HEARTH_HOME; {}; linked() {{ {}; }}
         h() {{ if \"$HEARTH\" \"$@\"; then echo code=0; else echo code=$?; fi; }}
         end() {{ daemon=$(cat $HEARTH_HOME/daemon.lock); kill $daemon; while kill -0 $daemon 2>&-; do sleep 0.1; done; }}
         {script}",
        link("store"),
        link("templates"),
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]).env("HEARTH_HOME", home.path()).env("HEARTH_POOL", "0");
    command.env("HEARTH", env!("CARGO_BIN_EXE_hearth")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = Running::start(&mut command).finish();
    assert_code(&output, 0);
    Some(output)
}

#[test]
fn b50_a_pause_or_a_snapshot_that_does_not_fit_is_refused_and_the_sandbox_goes_on() {
    let Some(home) = Home::with_images() else { return };
    let script = "linked
        h create --accel tcg --name a
        h exec a sh -c 'head -c 100M /dev/urandom > /dev/shm/f; sha256sum < /dev/shm/f > sum'
        h pause --json a; h snapshot create --json a all
        echo files: $(find $HEARTH_HOME/snapshots $HEARTH_HOME/run -type f -size +1M) :files
        h exec a sh -c 'sha256sum < /dev/shm/f | cmp - sum'; h snapshot ls; h rm a; end";
    let Some(output) = in_small_home(&home, "100m", script) else { return };
    let told = text(&output.stdout);
    let codes: Vec<_> = told.lines().filter_map(|line| line.strip_prefix("code=")).collect();
    assert_eq!(codes, ["0", "0", "125", "125", "0", "0", "0"], "{}", said(&output));
    assert_eq!(told.matches("\"code\": \"resources\"").count(), 2, "{told}");
    assert_eq!(told.matches("free some space").count(), 2, "{told}");
    assert!(told.contains("files: :files"), "what was written of them is gone: {told}");
}

#[test]
fn b50_a_template_that_does_not_fit_is_refused_and_a_guest_boots_without_one() {
    let Some(home) = Home::with_images() else { return };
    let script = "h template build --accel tcg --json
        echo files: $(find $HEARTH_HOME/templates -type f -size +64k) :files
        h run --no-daemon --boot --accel tcg -- echo it runs";
    let Some(output) = in_small_home(&home, "90m", script) else { return };
    let told = text(&output.stdout);
    let codes: Vec<_> = told.lines().filter_map(|line| line.strip_prefix("code=")).collect();
    assert_eq!(codes, ["125", "0"], "{}", said(&output));
    assert!(told.contains("\"kind\": \"resources\""), "{told}");
    assert!(told.contains("files: :files") && told.contains("it runs\n"), "{told}");
}
