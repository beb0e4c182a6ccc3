//! Archives that are not whole, and bytes that are none.

use std::io::{self, Read};

use hearth_files::archive::{ArchiveError, ImportOptions, import};
use hearth_protocol::ErrorCode;

use super::{Room, Tar, run};
use crate::tree;

fn whole() -> Vec<u8> {
    Tar::default()
        .directory("d")
        .file("d/a", &"text ".repeat(200))
        .symlink("l", "d/a")
        .record(b'x', "mtime", b"5.25")
        .file("b", "x")
        .finish()
}

#[test]
fn b34_an_archive_that_is_cut_off_anywhere_fails_with_nothing_written() {
    let room = Room::new();
    let whole = whole();
    // Behind the first block of the mark at the end nothing is missing.
    let end = whole.len() - 512;
    for length in (0..end).step_by(64).chain([1, 511, 513, end - 1]) {
        let error = room.import(&whole[..length]).unwrap_err();
        let is_cut = matches!(error, ArchiveError::CutOff { .. } | ArchiveError::Damaged { position: 0, .. });
        assert!(is_cut, "cut after {length}: {error}");
        assert_eq!(error.code(), ErrorCode::BadArchive);
        assert!(tree::read(room.path()).is_empty(), "cut after {length}");
    }
    room.import(&whole[..end]).unwrap();
}

#[test]
fn b34_a_compressed_archive_that_is_cut_off_or_damaged_fails_with_nothing_written() {
    let room = Room::new();
    let whole = whole();
    for (program, arguments) in [("gzip", ["-c"]), ("zstd", ["-qc"]), ("bzip2", ["-c"]), ("xz", ["-c"])] {
        let Some(archive) = run(program, &arguments, room.path(), &whole) else { continue };
        for length in 0..archive.len() {
            let error = room.import(&archive[..length]).expect_err(&format!("{program} cut after {length}"));
            assert_eq!(error.code(), ErrorCode::BadArchive, "{program} cut after {length}: {error}");
        }
        for at in 0..archive.len() {
            let mut damaged = archive.clone();
            damaged[at] ^= 0x10;
            // What a format has no sum for (a time in gzip's header) may change unseen; the content may not.
            if room.import(&damaged).is_ok() {
                let there = tree::read(room.path());
                assert_eq!(
                    (there.len(), &*there["d/a"].content),
                    (4, "text ".repeat(200).as_bytes()),
                    "{program} at {at}"
                );
                std::fs::remove_dir_all(room.path().join("d")).unwrap();
                ["b", "l"].iter().for_each(|name| std::fs::remove_file(room.path().join(name)).unwrap());
            }
            assert!(tree::read(room.path()).is_empty(), "{program} at {at}");
        }
        let trailing = [archive.as_slice(), b"garbage"].concat();
        assert!(room.import(&trailing).is_err(), "{program}");
    }
    let gzip = run("gzip", &["-c"], room.path(), &whole).unwrap();
    let error = room.import(&[gzip.as_slice(), b"x"].concat()).unwrap_err().to_string();
    assert!(error.contains("something follows the gzip stream"), "{error}");
    room.import(&[gzip, vec![0; 1000]].concat()).unwrap();
}

#[test]
fn b34_damage_anywhere_in_a_header_is_found() {
    let room = Room::new();
    let whole = whole();
    // The last byte of the sum itself is a blank that nobody reads.
    let headers = [512, 512 + 512 + 1024 + 512];
    for (start, at) in
        headers.into_iter().flat_map(|start| (0..512).map(move |at| (start, at))).filter(|(_, at)| *at != 155)
    {
        let mut damaged = whole.clone();
        damaged[start + at] ^= 0x02;
        let error = room.import(&damaged).expect_err(&format!("byte {at} of the header at {start}"));
        assert_eq!(error.code(), ErrorCode::BadArchive, "{error}");
        assert!(tree::read(room.path()).is_empty());
    }
}

#[test]
fn a_header_that_became_zeros_does_not_pass_for_the_end() {
    let room = Room::new();
    let mut archive = whole();
    archive[512 + 512 + 1024..][..512].fill(0);
    assert!(matches!(room.import(&archive).unwrap_err(), ArchiveError::Damaged { .. }));
    assert!(tree::read(room.path()).is_empty());
}

#[test]
fn what_is_no_archive_is_said_to_be_none() {
    let room = Room::new();
    let text = "x".repeat(2000);
    for bytes in [text.as_bytes(), b"PK\x03\x04 and so on", b"{}"] {
        let error = room.import(bytes).unwrap_err();
        assert_eq!(error.code(), ErrorCode::BadArchive, "{error}");
    }
    assert!(room.import(text.as_bytes()).unwrap_err().to_string().contains("no tar archive"));
    assert_eq!(room.import(&[0; 1024]).unwrap().members, 0, "an archive of nothing is one");
}

#[test]
fn headers_that_make_no_sense_are_refused() {
    let room = Room::new();
    let sparse = |map: &[u8]| {
        Tar::default()
            .record(b'x', "GNU.sparse.major", b"0")
            .record(b'x', "GNU.sparse.minor", b"1")
            .record(b'x', "GNU.sparse.realsize", b"100")
            .record(b'x', "GNU.sparse.map", map)
            .file("s", "12345")
            .finish()
    };
    room.import(&sparse(b"0,2,50,3")).unwrap();
    for (what, archive) in [
        ("a record without a member", Tar::default().record(b'x', "path", b"a").finish()),
        ("a record of the wrong length", Tar::default().member(b'x', b"p", b"", b"99 path=a\n").file("a", "").finish()),
        ("a path for all", Tar::default().record(b'g', "path", b"a").file("b", "").finish()),
        ("a size for all", Tar::default().record(b'g', "size", b"0").file("b", "").finish()),
        ("a time that is none", Tar::default().record(b'x', "mtime", b"soon").file("b", "").finish()),
        ("a size beyond all", Tar::default().record(b'x', "size", b"18446744073709551615").file("b", "").finish()),
        ("too long a record", Tar::default().header(b'x', b"p", b"", 2 << 20).finish()),
        ("pieces that overlap", sparse(b"0,3,2,2")),
        ("pieces outside", sparse(b"0,2,98,3")),
        ("pieces that are more than is stored", sparse(b"0,2,50,4")),
        ("half a piece", sparse(b"0,2,50")),
    ] {
        let error = room.import_to("d", &archive).expect_err(what);
        assert_eq!(error.code(), ErrorCode::BadArchive, "{what}: {error}");
    }
    room.import(&Tar::default().record(b'g', "mtime", b"7.5").record(b'g', "comment", b"c").file("g", "").finish())
        .unwrap();
    assert_eq!(tree::read(room.path())["g"].modified, (7, 500_000_000));
}

/// A transfer that breaks off after some bytes.
struct Breaking<'a>(&'a [u8]);

impl Read for Breaking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::Error::new(io::ErrorKind::InvalidData, "the line went dead")),
            count => Ok(count),
        }
    }
}

#[test]
fn a_transfer_that_breaks_off_is_no_fault_of_the_archive_s() {
    let room = Room::new();
    let whole = whole();
    let gzip = run("gzip", &["-c"], room.path(), &whole).unwrap();
    let zstd = run("zstd", &["-qc"], room.path(), &whole).unwrap();
    for bytes in [&whole[..], &whole[..600], &whole[..3], &gzip, &gzip[..30], &zstd, &zstd[..30]] {
        let error = import(&room.root, b"", Breaking(bytes), &ImportOptions::default()).unwrap_err();
        assert!(matches!(error, ArchiveError::Transfer(_)) && error.code() == ErrorCode::Cancelled, "{error}");
        assert!(tree::read(room.path()).is_empty());
    }
}
