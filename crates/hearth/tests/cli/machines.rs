//! What the host finds out about machines.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Output;

use serde_json::Value;

use crate::support::{Home, Running, assert_code, said, text};

#[test]
fn b49_a_run_finds_an_accelerator_that_works_and_remembers_it() {
    let Some(home) = Home::fresh_with_images() else { return };
    let output = home.hearth(&["run", "--json", "--", "true"]);
    assert_code(&output, 0);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let used = report["sandbox"]["accelerator"].as_str().unwrap();
    let findings: Value =
        serde_json::from_str(&fs::read_to_string(home.path().join("findings.json")).unwrap()).unwrap();
    let findings = findings.as_object().unwrap();
    let result_of = |accelerator: &str| {
        findings.iter().find(|(key, _)| key.starts_with(accelerator)).map(|(_, value)| value["result"].clone())
    };
    assert_eq!(result_of(used), Some("works".into()), "{findings:?}");
    let doctor = text(&home.hearth(&["doctor"]).stdout);
    match result_of("kvm") {
        Some(result) if result == "fails" => assert!(used == "tcg" && doctor.contains("does not work"), "{doctor}"),
        Some(_) => assert!(used == "kvm" && doctor.contains("it has run the image's kernel"), "{doctor}"),
        None => assert!(used == "tcg" && doctor.contains("/dev/kvm"), "{doctor}"),
    }
}

#[test]
fn b49_a_kvm_that_fails_here_is_not_tried_again() {
    let Some(home) = Home::with_images() else { return };
    let first = home.hearth(&["run", "--", "true"]);
    assert_code(&first, 0);
    let before = fs::read_to_string(home.path().join("findings.json")).unwrap();
    if !before.contains("fails") {
        return eprintln!("skipped: everything that was tried works on this host");
    }
    let report: Value = serde_json::from_slice(&home.hearth(&["run", "--json", "--", "true"]).stdout).unwrap();
    assert_eq!(report["sandbox"]["accelerator"], "tcg");
    assert_eq!(fs::read_to_string(home.path().join("findings.json")).unwrap(), before);
    let forced = home.hearth(&["run", "--json", "--accel", "kvm", "--", "true"]);
    assert_code(&forced, 125);
    let error: Value = serde_json::from_slice(&forced.stdout).unwrap();
    assert_eq!(error["error"]["kind"], "machine", "{}", said(&forced));
    home.assert_nothing_left();
}

#[test]
fn a_boot_that_fails_shows_the_end_of_the_console() {
    let Some(home) = Home::with_images() else { return };
    let store = fs::read_link(home.path().join("store")).unwrap();
    fs::remove_file(home.path().join("store")).unwrap();
    copy_store(&store, &home.path().join("store"));
    let output = home.hearth(&["run", "--boot", "--accel", "tcg", "--json", "--", "true"]);
    assert_code(&output, 125);
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    let console = error["error"]["detail"].as_str().unwrap();
    assert!(console.contains("3/7 mount the root filesystem") && console.contains("boot failed"), "{console}");
    home.assert_nothing_left();
}

/// The store with the root filesystem of every image made of zeros.
fn copy_store(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to.join("images")).unwrap();
    symlink(from.join("names"), to.join("names")).unwrap();
    for image in fs::read_dir(from.join("images")).unwrap().flatten() {
        let copy = to.join("images").join(image.file_name());
        fs::create_dir(&copy).unwrap();
        for file in fs::read_dir(image.path()).unwrap().flatten() {
            symlink(file.path(), copy.join(file.file_name())).unwrap();
        }
        fs::remove_file(copy.join("rootfs.erofs")).unwrap();
        fs::write(copy.join("rootfs.erofs"), vec![0; 1 << 20]).unwrap();
    }
}

#[test]
fn an_image_in_use_is_not_removed() {
    let Some(home) = Home::with_images() else { return };
    let mut running = Running::start(
        home.command(&["run", "--", "sh", "-c", "echo ready; read x"]).stdin(std::process::Stdio::piped()),
    );
    running.read_until("ready\n");
    let image = text(&home.hearth(&["image", "inspect", "debian"]).stdout);
    let image: Value = serde_json::from_str(&image).unwrap();
    let refused = home.hearth(&["image", "rm", image["digest"].as_str().unwrap()]);
    assert_code(&refused, 125);
    assert!(text(&refused.stderr).contains("hint: end the sandboxes"), "{}", said(&refused));
    drop(running.child.stdin.take());
    running.finish();
}

#[test]
fn the_first_program_of_a_restored_sandbox_finds_its_process_made() {
    let Some(home) = Home::with_images() else { return };
    // In hundredths of a second. A template's guest is left alone for half a second between the making of that process and its saving.
    let age =
        "read up rest </proc/uptime; set -- $(cat /proc/$$/stat); echo $((${up%.*} * 100 + 1${up#*.} - 100 - ${22}))";
    let ran = home.run(&["sh", "-c", age]);
    assert!(ran.status.success(), "{}", said(&ran));
    let age: u64 = text(&ran.stdout).trim().parse().unwrap();
    assert!(age >= 50, "it was made {age} hundredths of a second ago");
    home.assert_nothing_left();
}

#[test]
fn two_sandboxes_at_once_know_nothing_of_each_other() {
    let Some(home) = Home::with_images() else { return };
    let script = "hostname; cat /etc/machine-id; echo $HEARTH_SANDBOX_ID; head -c 8 /dev/urandom | od -An -tx8; \
        cat /etc/hostname; getent hosts $(hostname) | tr -s ' '";
    let both = [0, 1].map(|_| Running::start(&mut home.command(&["run", "--", "sh", "-c", script])));
    let [first, second] = both.map(Running::finish);
    assert!(first.status.success() && second.status.success(), "{} {}", said(&first), said(&second));
    let lines = |output: &Output| text(&output.stdout).lines().map(str::to_owned).collect::<Vec<_>>();
    let [first, second] = [lines(&first), lines(&second)];
    assert_eq!((first.len(), first[1].len()), (6, 32), "{first:?}");
    assert!(first.iter().zip(&second).all(|(one, other)| one != other), "{first:?} {second:?}");
    assert!(first[0].starts_with("sb-") && first[0] == first[2] && first[0] == first[4], "{first:?}");
    assert!(first[5].ends_with(&first[0]), "{first:?}");
    home.assert_nothing_left();
}
