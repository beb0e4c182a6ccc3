//! What comes with the program.

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn systemd_takes_the_unit_and_stopping_it_ends_no_sandbox() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/hearth.service");
    let text = fs::read_to_string(unit).unwrap();
    let mut section = "";
    let mut settings = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(name) => section = name,
            None => {
                let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{line:?} is no setting"));
                settings.push((section, key, value));
            }
        }
    }
    for wanted in [("Service", "KillMode", "process"), ("Service", "Delegate", "yes")] {
        assert!(settings.contains(&wanted), "{wanted:?} is not in {settings:?}");
    }
    let (_, _, command) = settings.iter().find(|(_, key, _)| *key == "ExecStart").unwrap();
    // It looks whether the program is there.
    let here = tempfile::tempdir().unwrap();
    let copy = here.path().join("hearth.service");
    let program = command.split(' ').next().unwrap();
    fs::write(&copy, text.replace(program, env!("CARGO_BIN_EXE_hearth"))).unwrap();
    match Command::new("systemd-analyze").arg("verify").arg(&copy).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // What it says of other units of this host's is not about this one.
            let own: Vec<&str> = said.lines().filter(|line| line.contains("hearth.service")).collect();
            assert!(own.is_empty(), "{own:?}");
        }
        Err(error) => eprintln!("skipped in part: systemd-analyze is not there ({error})"),
    }
}
