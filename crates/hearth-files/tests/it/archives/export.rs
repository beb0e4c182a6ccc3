//! What goes out is read by the programs that people have, and comes back as it was.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use hearth_files::archive::export;
use hearth_protocol::ErrorCode;
use hearth_protocol::archive::{Compression, Exported};
use hearth_protocol::files::FileKind;

use super::{Room, python, run};
use crate::tree::{self, Tree, in_seconds};

#[test]
fn b35_a_project_goes_out_and_comes_back_as_it_was() {
    let (source, destination) = (Room::new(), Room::new());
    tree::project(source.path());
    let expected = tree::read(source.path());
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let mut archive = Vec::new();
        let exported = export(&source.root, b"", &mut archive, compression).unwrap();
        assert_eq!((exported.members as usize, exported.skipped, exported.changed), (expected.len(), 0, 0));
        let imported = destination.import_to(&format!("{compression:?}"), &archive).unwrap();
        assert_eq!((imported.members, imported.bytes), (exported.members, exported.bytes));
        tree::assert_same(
            &tree::read(&destination.path().join(format!("{compression:?}"))),
            &expected,
            "{compression:?}",
        );
    }
    assert_eq!(source.export(""), source.export("/workspace/"), "in one order");
}

const UNPACK: &str = "import sys, tarfile\n\
                      trusting = {'filter': 'fully_trusted'} if hasattr(tarfile, 'fully_trusted_filter') else {}\n\
                      with tarfile.open(fileobj=sys.stdin.buffer, mode='r|') as t: t.extractall(**trusting)";

/// Has a program unpack a project, and compares what it and this crate see of it.
fn check(program: &str, see: fn(Tree) -> Tree, extract: fn(&Path, &[u8]) -> Option<Vec<u8>>) {
    let (source, destination) = (Room::new(), Room::new());
    tree::project(source.path());
    if extract(destination.path(), &source.export("")).is_some() {
        tree::assert_same(&see(tree::read(destination.path())), &see(tree::read(source.path())), program);
    }
}

#[test]
fn gnu_tar_reads_what_is_exported() {
    check("GNU tar", |tree| tree, |path, archive| run("tar", &["--extract", "--preserve-permissions"], path, archive));
}

#[test]
fn bsdtar_reads_what_is_exported() {
    // It takes the fraction of a time before 1970 for one that counts forward.
    let see = |mut tree: Tree| {
        tree.get_mut("old").unwrap().modified = (0, 0);
        tree
    };
    check("bsdtar", see, |path, archive| run("bsdtar", &["-xpf", "-"], path, archive));
}

#[test]
fn python_reads_what_is_exported() {
    // It rounds times, as its numbers for them are floating, and sets none for links.
    let see = |tree| {
        let mut tree = in_seconds(tree);
        tree.values_mut().filter(|item| item.kind == "symlink").for_each(|link| link.modified = (0, 0));
        tree
    };
    check("Python", see, |path, archive| python(UNPACK, path, archive));
}

#[test]
fn compressed_exports_are_read_by_the_compressors_own_programs() {
    let source = Room::new();
    tree::project(source.path());
    let plain = source.export("");
    for (compression, program) in [(Compression::Gzip, "gzip"), (Compression::Zstd, "zstd")] {
        let mut archive = Vec::new();
        export(&source.root, b"", &mut archive, compression).unwrap();
        assert!(archive.len() < plain.len());
        if let Some(unpacked) = run(program, &["-dc"], source.path(), &archive) {
            assert!(unpacked == plain, "{program}");
        }
    }
}

#[test]
fn one_file_or_link_is_one_member_under_its_name() {
    let source = Room::new();
    tree::file(source.path().join("d/file"), "content", 0o640);
    symlink("/etc/passwd", source.path().join("d/link")).unwrap();
    symlink(source.outside(), source.path().join("out")).unwrap();
    for (path, name, kind) in
        [("d/file", "file", FileKind::File), ("d/link", "link", FileKind::Symlink), ("out", "out", FileKind::Symlink)]
    {
        let mut archive = Vec::new();
        let exported = export(&source.root, path.as_bytes(), &mut archive, Compression::None).unwrap();
        assert_eq!((exported.kind, exported.members), (kind, 1));
        let destination = Room::new();
        destination.import(&archive).unwrap();
        let there = tree::read(destination.path());
        assert_eq!(there.keys().collect::<Vec<_>>(), [name]);
        assert_eq!(there[name].content, tree::read(source.path())[path].content);
    }
}

#[test]
fn b27_nothing_outside_is_exported() {
    let source = Room::new();
    symlink(source.outside(), source.path().join("t")).unwrap();
    let code = |path: &str| export(&source.root, path.as_bytes(), io::sink(), Compression::None).unwrap_err().code();
    for path in ["../outside", "/workspace/../outside", "t/outside", "t/", "/etc/hostname"] {
        assert_eq!(code(path), ErrorCode::OutsideRoot, "{path}");
    }
    assert_eq!(code("missing"), ErrorCode::NotFound);
    let _socket = UnixListener::bind(source.path().join("socket")).unwrap();
    assert_eq!(code("socket"), ErrorCode::NotARegularFile);
}

#[test]
fn b30_fifos_are_members_and_sockets_are_left_out() {
    let source = Room::new();
    tree::fifo(&source.path().join("pipe"));
    tree::file(source.path().join("file"), "x", 0o644);
    let _socket = UnixListener::bind(source.path().join("socket")).unwrap();
    fs::create_dir(source.path().join(".hearth-import-1-2")).unwrap();
    let exported = export(&source.root, b"", io::sink(), Compression::None).unwrap();
    assert_eq!((exported.members, exported.skipped), (2, 2));
}

/// Takes an archive, and does something once its first bytes have come.
struct Meddling<F: FnMut()> {
    archive: Vec<u8>,
    meddle: Option<F>,
}

impl<F: FnMut()> Write for Meddling<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(mut meddle) = self.meddle.take() {
            meddle();
        }
        self.archive.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Exports while something happens after the first file, which is large.
fn export_while(source: &Room, meddle: impl FnMut()) -> (Exported, Tree) {
    let mut sink = Meddling { archive: Vec::new(), meddle: Some(meddle) };
    let exported = export(&source.root, b"", &mut sink, Compression::None).unwrap();
    let destination = Room::new();
    destination.import(&sink.archive).unwrap();
    (exported, tree::read(destination.path()))
}

#[test]
fn b30_files_that_change_or_vanish_meanwhile_never_fail_an_export() {
    let source = Room::new();
    let make = || {
        tree::file(source.path().join("a"), vec![b'a'; 1_000_000], 0o644);
        tree::file(source.path().join("b"), vec![b'b'; 1000], 0o644);
        tree::file(source.path().join("d/x"), "x", 0o644);
    };
    make();
    let set_length = |length| {
        let file = fs::File::options().write(true).open(source.path().join("a")).unwrap();
        file.set_len(length).unwrap();
    };
    let (exported, there) = export_while(&source, || set_length(600_000));
    assert_eq!((exported.changed, exported.members), (1, 4));
    let mut filled = vec![b'a'; 600_000];
    filled.resize(1_000_000, 0);
    assert!(there["a"].content == filled, "filled with zeros to its length");
    assert_eq!(there["b"].content, [b'b'; 1000]);
    make();
    let (exported, there) = export_while(&source, || set_length(2_000_000));
    assert_eq!((exported.changed, there["a"].content.len()), (1, 1_000_000), "cut to its length");
    make();
    let (exported, there) = export_while(&source, || fs::remove_dir_all(source.path().join("d")).unwrap());
    assert_eq!((exported.skipped, there.len()), (1, 2));
    make();
    let (exported, there) = export_while(&source, || {
        fs::remove_file(source.path().join("b")).unwrap();
        tree::fifo(&source.path().join("b"));
        fs::remove_dir_all(source.path().join("d")).unwrap();
        symlink(source.outside(), source.path().join("d")).unwrap();
    });
    assert_eq!((exported.skipped, there.len()), (2, 1), "what takes a name is not followed: {:?}", there.keys());
}

#[test]
fn growth_is_noticed_wherever_a_file_ends_in_the_buffer() {
    let source = Room::new();
    let path = source.path().join("a");
    // With one header before it, or with those of a time with a fraction, such a file ends where the exporter's buffer does.
    for length in [512, 1536].map(|headers| (4 << 18) - headers) {
        tree::file(path.clone(), vec![b'a'; length], 0o644);
        let (exported, there) = export_while(&source, || {
            fs::File::options().append(true).open(&path).unwrap().write_all(b"more").unwrap();
        });
        assert_eq!((exported.changed, there["a"].content.len()), (1, length), "{length}");
        let exported = export(&source.root, b"", io::sink(), Compression::None).unwrap();
        assert_eq!(exported.changed, 0, "{length}");
    }
}

#[test]
fn very_deep_trees_are_exported() {
    let source = Room::new();
    let mut directory = fs::File::open(source.path()).unwrap();
    let name = "d".repeat(200);
    // Deeper than any path that the kernel takes.
    for _ in 0..50 {
        rustix::fs::mkdirat(&directory, &*name, rustix::fs::Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY;
        directory = rustix::fs::openat(&directory, &*name, flags, rustix::fs::Mode::empty()).unwrap().into();
    }
    let exported = export(&source.root, b"", io::sink(), Compression::None).unwrap();
    assert_eq!(exported.members, 50);
}

#[test]
fn a_sink_that_fails_ends_the_export() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let source = Room::new();
    tree::project(source.path());
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let error = export(&source.root, b"", Broken, compression).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Cancelled);
    }
}
