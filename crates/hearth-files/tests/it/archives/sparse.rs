//! Files with holes.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::{Room, run};

const GIB: u64 = 1 << 30;

fn sparse_file(path: &Path, length: u64, pieces: &[u64]) {
    let file = File::create(path).unwrap();
    file.set_len(length).unwrap();
    for &at in pieces {
        file.write_all_at(format!("data at {at}").as_bytes(), at).unwrap();
    }
}

/// Whether there is a file of this length with these pieces, and little else.
fn check(path: &Path, length: u64, pieces: &[u64]) {
    let file = File::open(path).unwrap();
    let stat = file.metadata().unwrap();
    assert_eq!(stat.len(), length);
    assert!(stat.blocks() * 512 <= 65_536 * (1 + pieces.len() as u64), "{} blocks", stat.blocks());
    for &at in pieces {
        let expected = format!("data at {at}");
        let mut read = vec![0; expected.len()];
        file.read_exact_at(&mut read, at).unwrap();
        assert_eq!(read, expected.as_bytes());
    }
    let mut hole = [1; 64];
    file.read_exact_at(&mut hole, length / 2 + 3 * 1_000_000).unwrap();
    assert_eq!(hole, [0; 64]);
}

#[test]
fn b32_a_sparse_file_of_100_gb_is_a_few_kib_of_archive() {
    let source = Room::new();
    let length = 100 * GIB;
    let pieces: Vec<u64> = (0..60).map(|at| at * GIB + 12_345).chain([length - 20]).collect();
    sparse_file(&source.path().join("disk"), length, &pieces);
    sparse_file(&source.path().join("hole"), length + 1, &[]);
    let archive = source.export("");
    assert!(archive.len() < 400_000, "{} bytes", archive.len());
    let mine = Room::new();
    mine.import(&archive).unwrap();
    check(&mine.path().join("disk"), length, &pieces);
    check(&mine.path().join("hole"), length + 1, &[]);
    let theirs = Room::new();
    run("tar", &["--extract"], theirs.path(), &archive).unwrap();
    check(&theirs.path().join("disk"), length, &pieces);
    check(&theirs.path().join("hole"), length + 1, &[]);
    if run("bsdtar", &["-xf", "-"], theirs.path(), &archive).is_some() {
        check(&theirs.path().join("disk"), length, &pieces);
    }
    let script = "import sys, tarfile\n\
                  with tarfile.open(fileobj=sys.stdin.buffer, mode='r|') as t:\n \
                  for m in t:\n  print(m.name, m.size, len(m.sparse), m.sparse[0] if m.sparse else '')";
    if let Some(listed) = super::python(script, theirs.path(), &archive) {
        let listed = String::from_utf8(listed).unwrap();
        assert!(listed.contains(&format!("disk {length} 61")), "{listed}");
    }
}

#[test]
fn sparse_files_of_every_form_are_read() {
    let source = Room::new();
    let length = 3 * GIB;
    let pieces: Vec<u64> = (0..40).map(|at| at * 50_000_000).collect();
    sparse_file(&source.path().join("disk"), length, &pieces);
    fs::write(source.path().join("behind"), "it").unwrap();
    for form in [
        ["--format=gnu", "--sparse"],
        ["--format=posix", "--sparse-version=0.0"],
        ["--format=posix", "--sparse-version=0.1"],
        ["--format=posix", "--sparse-version=1.0"],
    ] {
        let arguments = [&["--create", "--sparse"], &form[..], &["disk", "behind"]].concat();
        let archive = run("tar", &arguments, source.path(), b"").unwrap();
        assert!(archive.len() < 1_000_000, "{form:?}: {}", archive.len());
        let destination = Room::new();
        destination.import(&archive).unwrap();
        check(&destination.path().join("disk"), length, &pieces);
        assert_eq!(fs::read(destination.path().join("behind")).unwrap(), b"it");
    }
}
