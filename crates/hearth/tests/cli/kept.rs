//! What a home keeps beside its sandboxes, from another machine; and what is put into one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use crate::held::Daemon;
use crate::remote::Listening;
use crate::support::{Home, Running, assert_code, said, text};

/// Asks from elsewhere, and returns what comes of it as JSON.
fn json(there: &Listening, key: &str, code: i32, arguments: &[&str]) -> Value {
    let output = Running::start(&mut there.elsewhere(key, arguments)).finish();
    assert_code(&output, code);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)))
}

#[test]
fn a_snapshot_is_fetched_and_brought_back_from_elsewhere_and_half_of_one_adds_nothing() {
    let Some(home) = Home::with_images() else { return };
    let there = Listening::start(home, &[]);
    let key = there.key("elsewhere");
    let ok = |arguments: &[&str]| {
        let output = Running::start(&mut there.elsewhere(&key, arguments)).finish();
        assert_code(&output, 0);
        text(&output.stdout).trim_end().to_owned()
    };
    ok(&["create", "--name", "a"]);
    ok(&["exec", "a", "sh", "-c", "echo saved > note"]);
    ok(&["snapshot", "create", "a", "base"]);
    let info = json(&there, &key, 0, &["snapshot", "inspect", "base"]);
    assert_eq!(json(&there, &key, 0, &["snapshot", "ls", "--json"]), Value::from(vec![info.clone()]));
    // The same as this machine says, which asks no daemon.
    assert_eq!(
        serde_json::from_slice::<Value>(&there.home.hearth(&["snapshot", "inspect", "base"]).stdout).unwrap(),
        info
    );

    let directory = tempfile::tempdir().unwrap();
    let (file, half) = (directory.path().join("base.hearth"), directory.path().join("half"));
    let (file, half) = (file.to_str().unwrap(), half.to_str().unwrap());
    ok(&["snapshot", "export", "base", file]);
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let whole = fs::read(file).unwrap();
    fs::write(half, &whole[..whole.len() / 2]).unwrap();
    let kept = || fs::read_dir(there.home.path().join("snapshots")).unwrap().count();
    let before = kept();
    let refusal = |arguments: &[&str]| {
        let output = Running::start(&mut there.elsewhere(&key, arguments)).finish();
        assert_code(&output, 125);
        text(&output.stderr)
    };
    assert!(refusal(&["snapshot", "import", half, "again"]).contains("no whole snapshot"));
    assert!(refusal(&["snapshot", "import", file, "base"]).contains("already"));
    assert_eq!(kept(), before);
    ok(&["snapshot", "import", file, "again"]);
    ok(&["snapshot", "rm", "base"]);
    ok(&["create", "--name", "b", "--snapshot", "again"]);
    assert_eq!(ok(&["exec", "b", "cat", "note"]), "saved");

    // The template is needed by what lies on it.
    let templates = json(&there, &key, 0, &["template", "list", "--json"]);
    let mine = templates.as_array().unwrap().iter().find(|template| template["id"] == info["template"]).unwrap();
    assert_eq!((&mine["snapshots"], &mine["machine"]["image"]), (&Value::from(vec!["again"]), &info["image"]));
    assert_eq!(ok(&["template", "build"]), mine["id"].as_str().unwrap());
    let needed = json(&there, &key, 125, &["template", "rm", "--json", mine["id"].as_str().unwrap()]);
    assert_eq!(needed["error"]["code"], "wrong_state", "{needed}");
    let image = json(&there, &key, 0, &["image", "inspect", "debian"]);
    assert!(image["digest"] == info["image"] && image["packages"].as_array().unwrap().len() > 10, "{image}");
    assert!(ok(&["image", "list"]).contains("debian"));
    assert!(refusal(&["image", "rm", "no-such-image"]).contains("no-such-image"));
    ok(&["snapshot", "rm", "again"]);

    let audit = there.home.hearth(&["audit", "--json"]);
    let noted: Vec<Value> =
        text(&audit.stdout).lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect();
    for (operation, target, status) in [
        ("snapshots_export", "base", 200),
        ("snapshots_import", "again", 400),
        ("snapshots_import", "again", 201),
        ("snapshots_remove", "base", 204),
        ("images_remove", "no-such-image", 404),
    ] {
        let is_it =
            |line: &&Value| line["operation"] == operation && line["target"] == target && line["status"] == status;
        let found = noted.iter().find(is_it).unwrap_or_else(|| panic!("no {operation} of {target}"));
        assert_eq!(found["who"]["key"], "elsewhere", "{found}");
    }
    ok(&["rm", "a", "b"]);
    there.home.assert_nothing_left();
}

/// A wheel of pip, which runs as it is, as this machine's Python has one for its environments.
fn pip() -> Option<String> {
    let script = "import ensurepip, glob, os
places = [os.path.dirname(ensurepip.__file__) + '/_bundled', '/usr/share/python-wheels']
print(next(wheel for place in places for wheel in glob.glob(place + '/pip-*.whl')))";
    let found = Command::new("python3").args(["-c", script]).output().ok().filter(|found| found.status.success());
    if found.is_none() {
        eprintln!("skipped: python3 has no wheel of pip here; scripts/setup --test installs it");
    }
    found.map(|found| text(&found.stdout).trim_end().to_owned())
}

/// Makes a wheel of one module.
const WHEEL: &str = "
import zipfile
name = 'hearth_one-1.5'
files = {'hearth_one.py': 'version = 1.5\\n', name + '.dist-info/RECORD': '',
    name + '.dist-info/WHEEL': 'Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n',
    name + '.dist-info/METADATA': 'Metadata-Version: 2.1\\nName: hearth_one\\nVersion: 1.5\\n'}
with zipfile.ZipFile(name + '-py3-none-any.whl', 'w') as archive:
    for path, text in files.items(): archive.writestr(path, text)
";

#[test]
fn packages_are_installed_from_files_in_the_sandbox_and_what_cannot_be_is_told_at_once() {
    let (Some(home), Some(pip)) = (Daemon::with_images(), pip()) else { return };
    home.ok(&["create", "--name", "a"]);
    let refused = |arguments: &[&str]| {
        let output = home.0.hearth(&[&["install", "--json", "a"], arguments].concat());
        assert_code(&output, 125);
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["error"].clone()
    };
    let error = refused(&["six"]);
    assert_eq!((&error["code"], &error["field"]), (&"invalid_field".into(), &"packages".into()), "{error}");
    assert_eq!(refused(&["six==1.16.0"])["code"], "unavailable", "there is no way out");
    assert_eq!(refused(&["six==1.16.0", "--from", "nowhere"])["code"], "not_found");
    home.ok(&["cp", &pip, "a:pip.whl"]);
    home.ok(&["exec", "a", "python3", "-c", WHEEL]);
    let install = ["install", "a", "--from", ".", "-e", "PYTHONPATH=/workspace/pip.whl"];
    let said = home.ok(&[&install[..], &["hearth_one==1.5"]].concat());
    assert!(said.contains("Successfully installed hearth_one-1.5") || said.contains("hearth-one-1.5"), "{said}");
    assert_eq!(home.ok(&["exec", "a", "python3", "-c", "import hearth_one; print(hearth_one.version)"]), "1.5");
    let late = home.0.hearth(&[&install[..], &["--json", "--timeout", "50ms", "hearth_one==1.5"]].concat());
    assert_code(&late, 124);
    assert_eq!(serde_json::from_slice::<Value>(&late.stdout).unwrap()["timed_out"], true);
}

#[test]
fn a_program_keeps_within_what_it_may_use() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a"]);
    let exec = |arguments: &[&str]| home.0.hearth(&[&["exec"], arguments].concat());
    let greedy = ["a", "python3", "-c", "bytearray(200 << 20)"];
    let killed = exec(&[&["--memory", "64M"], &greedy[..]].concat());
    assert_code(&killed, 137);
    assert!(text(&killed.stderr).contains("for want of memory"), "{}", said(&killed));
    assert_code(&exec(&greedy), 0);
    let many = exec(&["--pids-limit", "3", "a", "sh", "-c", "for i in 1 2 3 4 5; do sleep 5 & done; wait"]);
    assert!(!many.status.success() && text(&many.stderr).to_lowercase().contains("fork"), "{}", said(&many));
    let group = "cat /sys/fs/cgroup$(sed -n s/0:://p /proc/self/cgroup)/cpu.max";
    let quota = home.ok(&["exec", "--cpus", "0.5", "a", "sh", "-c", group]);
    let [used, of] = quota.split(' ').map(|number| number.parse::<u64>().unwrap()).collect::<Vec<_>>()[..] else {
        panic!("{quota}")
    };
    assert_eq!(used * 2, of, "{quota}");
    for (option, value) in [("--memory", "x"), ("--cpus", "0"), ("--pids-limit", "-1")] {
        let refused = exec(&[&format!("{option}={value}"), "a", "true"]);
        assert_code(&refused, 125);
        assert!(text(&refused.stderr).contains(option), "{}", said(&refused));
    }
    let none = exec(&["--json", "--pids-limit", "0", "a", "true"]);
    let error: Value = serde_json::from_slice(&none.stdout).unwrap();
    assert_eq!((&error["error"]["code"], &error["error"]["field"]), (&"invalid_field".into(), &"limits".into()));
}
