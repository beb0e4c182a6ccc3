//! The invariants over arbitrary bytes, and over bytes that are nearly right.

use proptest::prelude::*;

use crate::{archives::Tar, invariants};

/// A member that may be anything, whose header is right.
fn member() -> impl Strategy<Value = Vec<u8>> {
    let paths = ["a", "d", "d/file", "d/x", "up/x", "in/x", "./", "../x", "/x", "a/b", "l", "l/x", ""];
    let kinds = prop::sample::select(b"0000555122267LKxgSVD\0".to_vec());
    let data = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..700),
        Just(b"11 path=up\n".to_vec()),
        Just(b"20 GNU.sparse.map=0\n9 size=5\n".to_vec()),
        Just(b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n28 GNU.sparse.realsize=100\n".to_vec()),
        Just(b"2\n0\n3\n50\n2\n".to_vec()),
    ];
    (kinds, prop::sample::select(paths.to_vec()), prop::sample::select(paths.to_vec()), data).prop_map(
        |(kind, path, link, data)| {
            let data = if matches!(kind, b'1' | b'2' | b'5' | b'6') { Vec::new() } else { data };
            Tar::default().member(kind, path.as_bytes(), link.as_bytes(), &data).unfinished()
        },
    )
}

fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let members = prop::collection::vec(member(), 0..8).prop_map(|members| members.concat());
    let ended = (members, prop::sample::select(vec![0_usize, 511, 512, 1024])).prop_map(|(mut bytes, zeros)| {
        bytes.resize(bytes.len() + zeros, 0);
        bytes
    });
    let damaged =
        (ended, prop::option::of((any::<prop::sample::Index>(), any::<u8>()))).prop_map(|(mut bytes, damage)| {
            if let (Some((at, byte)), false) = (damage, bytes.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        });
    let magics = [b"\x1f\x8b\x08".as_slice(), b"\x28\xb5\x2f\xfd", b"BZh9", b"\xfd7zXZ\0", b""];
    let noise = (prop::sample::select(magics.to_vec()), prop::collection::vec(any::<u8>(), 0..600))
        .prop_map(|(magic, rest)| [magic, &rest].concat());
    prop_oneof![8 => damaged, 1 => noise]
}

/// Pieces of patches, in any order.
fn patchwork() -> impl Strategy<Value = Vec<u8>> {
    let pieces = [
        "diff --git a/d/file b/d/file\n",
        "diff --git a/f b/f\n",
        "diff --git a/new b/new\n",
        "diff --git a/up/x b/up/x\n",
        "new file mode 100644\n",
        "new file mode 120000\n",
        "deleted file mode 100644\n",
        "old mode 100644\nnew mode 100755\n",
        "rename from f\nrename to g\n",
        "rename from d/file\nrename to f\n",
        "copy from f\ncopy to d/copy\n",
        "rename from f\nrename to ../g\n",
        "index 1..2 100644\n",
        "--- a/d/file\n+++ b/d/file\n",
        "--- a/f\n+++ b/f\n",
        "--- a/f\n+++ /dev/null\n",
        "--- /dev/null\n+++ b/new\n",
        "--- /dev/null\n+++ b/in/new\n",
        "--- a/../outside\n+++ b/../outside\n",
        "--- \"a/\\146\"\t2020\n+++ \"b/f\"\n",
        "@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n\\ No newline at end of file\n",
        "@@ -1,3 +0,0 @@\n-a\n-b\n-c\n\\ No newline at end of file\n",
        "@@ -2,3 +2,4 @@\n two\n three\n+new\n four\n",
        "@@ -9999999999999999999,3 +2,4 @@\n two\n three\n+new\n four\n",
        "@@ -1152921504606846976,3 +2,4 @@\n two\n three\n+new\n four\n",
        "@@ -5 +5,2 @@\n five\n+six\n",
        "@@ -0,0 +1 @@\n+x\n",
        "@@ -0,0 +0,0 @@\n",
        "@@ -1,99999999999 +1 @@\n",
        "GIT binary patch\nliteral 0\nHcmV?d00001\n\n",
        "literal 1\nIcmZPo000310RR91\n\n",
        "GIT binary patch\ndelta 3\nKcmZ?d\n\n",
        "-- \n2.47\n",
        "words\n",
        "\n",
    ];
    let nearly =
        prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..9).prop_map(|all| all.concat().into_bytes());
    prop_oneof![9 => nearly, 1 => prop::collection::vec(any::<u8>(), 0..300)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn b38_any_bytes_are_applied_whole_or_not_at_all_and_nowhere_else(bytes in patchwork()) {
        invariants::patch_text(&bytes);
    }

    #[test]
    fn any_bytes_are_unpacked_whole_or_not_at_all_and_nowhere_else(bytes in hostile()) {
        invariants::archive(&bytes);
    }
}
