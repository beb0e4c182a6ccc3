//! Archives, made and read by this crate and by the programs that people have.

mod choice;
mod damage;
mod export;
mod import;
mod merging;
mod sparse;

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::tree;
use hearth_files::Root;
use hearth_files::archive::{ArchiveError, ImportOptions, Rule, export, import};
use hearth_protocol::archive::{Compression, Imported};

/// A directory that is the root of everything, in one that must not be touched.
pub(super) struct Room {
    outside: tempfile::TempDir,
    pub(super) root: Root,
}

impl Room {
    pub(super) fn new() -> Self {
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir(outside.path().join("root")).unwrap();
        std::fs::write(outside.path().join("outside"), "untouched").unwrap();
        let root = Root::open(&outside.path().join("root"), "/workspace", None).unwrap();
        Self { outside, root }
    }

    pub(super) fn path(&self) -> &Path {
        self.root.path()
    }

    pub(super) fn outside(&self) -> &Path {
        self.outside.path()
    }

    pub(super) fn import(&self, archive: &[u8]) -> Result<Imported, ArchiveError> {
        import(&self.root, b"", archive, &ImportOptions::default())
    }

    pub(super) fn import_to(&self, destination: &str, archive: &[u8]) -> Result<Imported, ArchiveError> {
        import(&self.root, destination.as_bytes(), archive, &ImportOptions::default())
    }

    pub(super) fn export(&self, path: &str) -> Vec<u8> {
        let mut archive = Vec::new();
        export(&self.root, path.as_bytes(), &mut archive, Compression::None).unwrap();
        archive
    }

    /// What is here and outside.
    pub(super) fn everything(&self) -> tree::Tree {
        tree::read(self.outside())
    }

    /// The rule by which an archive is refused; and that nothing was changed by it, here or outside.
    pub(super) fn refusal(&self, archive: &[u8]) -> Rule {
        let before = self.everything();
        let error = self.import(archive).unwrap_err();
        tree::assert_same(&self.everything(), &before, &error.to_string());
        match error {
            ArchiveError::Member { rule, .. } => rule,
            other => panic!("not a member's fault: {other}"),
        }
    }
}

/// An archive, made header by header, as no honest program would.
#[derive(Default)]
pub(super) struct Tar(Vec<u8>);

impl Tar {
    /// Adds a member: its letter, its path, its target, its data.
    pub(super) fn member(self, kind: u8, path: &[u8], link: &[u8], data: &[u8]) -> Self {
        self.header(kind, path, link, data.len() as u64).data(data)
    }

    pub(super) fn file(self, path: &str, data: &str) -> Self {
        self.member(b'0', path.as_bytes(), b"", data.as_bytes())
    }

    pub(super) fn directory(self, path: &str) -> Self {
        self.member(b'5', path.as_bytes(), b"", b"")
    }

    pub(super) fn symlink(self, path: &str, target: &str) -> Self {
        self.member(b'2', path.as_bytes(), target.as_bytes(), b"")
    }

    pub(super) fn hard_link(self, path: &str, target: &str) -> Self {
        self.member(b'1', path.as_bytes(), target.as_bytes(), b"")
    }

    /// Adds an extended header of one record.
    pub(super) fn record(self, kind: u8, key: &str, value: &[u8]) -> Self {
        let rest = key.len() + value.len() + 3;
        let length = (1..9).map(|digits| rest + digits).find(|all| all.to_string().len() + rest == *all).unwrap();
        let record = [format!("{length} {key}=").as_bytes(), value, b"\n"].concat();
        self.member(kind, b"pax", b"", &record)
    }

    pub(super) fn header(mut self, kind: u8, path: &[u8], link: &[u8], size: u64) -> Self {
        let mut block = [0; 512];
        block[..path.len().min(100)].copy_from_slice(&path[..path.len().min(100)]);
        block[100..108].copy_from_slice(if kind == b'5' { b"0000755\0" } else { b"0000644\0" });
        block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        block[136..148].copy_from_slice(b"14000000000\0");
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self
    }

    pub(super) fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    pub(super) fn unfinished(self) -> Vec<u8> {
        self.0
    }
}

/// Runs a program on bytes, and returns what it writes; `None` where it is not installed, which is said.
pub(super) fn run(program: &str, arguments: &[&str], directory: &Path, input: &[u8]) -> Option<Vec<u8>> {
    let command = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = command else {
        eprintln!("skipped: {program} is not installed");
        return None;
    };
    let mut stdin = child.stdin.take().unwrap();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (output, complaint) = std::thread::scope(|scope| {
        // A program that does not read to the end of its input is none of the test's business.
        scope.spawn(move || drop(stdin.write_all(input)));
        let complaint = scope.spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        let mut output = Vec::new();
        stdout.read_to_end(&mut output).unwrap();
        (output, complaint.join().unwrap())
    });
    assert!(child.wait().unwrap().success(), "{program} {arguments:?}: {complaint}");
    Some(output)
}

/// A Python script, on bytes.
pub(super) fn python(script: &str, directory: &Path, input: &[u8]) -> Option<Vec<u8>> {
    run("python3", &["-c", script], directory, input)
}
