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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_bytes_are_unpacked_whole_or_not_at_all_and_nowhere_else(bytes in hostile()) {
        invariants::archive(&bytes);
    }
}
