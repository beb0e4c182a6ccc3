//! Overlays of disks, in QEMU's own format: empty ones are made here, which spares a process of `qemu-img` at each start.
//!
//! The format is qcow2, version 3 (QEMU's docs/interop/qcow2.txt), with clusters of 64 KiB. The first four clusters are the header, the
//! table of reference counts, its first block, and the first level of the mapping; everything else QEMU allocates as it goes.
//!
//! An overlay that a QEMU has written to is its guest's word for everything in it. It names no other file here, and is only ever opened by
//! another jailed QEMU that is told what lies below it: no tool of the host's may be let near it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// The bytes that an entry of the first level maps: a cluster of the second level, with 8 bytes for each cluster.
const BYTES_PER_ENTRY: u64 = CLUSTER / 8 * CLUSTER;
/// Where the tables are.
const COUNTS_TABLE: u64 = CLUSTER;
const COUNTS: u64 = 2 * CLUSTER;
const MAPPING: u64 = 3 * CLUSTER;
/// The clusters in use from the beginning.
const USED: u64 = 4;
/// The largest disk whose first level fits its cluster: 4 TiB.
const MAX_SIZE: u64 = CLUSTER / 8 * BYTES_PER_ENTRY;

/// Makes an empty overlay for a disk of `size` bytes, for this user alone.
///
/// # Errors
/// When the file is there already or cannot be written, and for disks of more than 4 TiB.
pub fn create_overlay(path: &Path, size: u64) -> io::Result<File> {
    if size > MAX_SIZE {
        return Err(io::Error::other("the disk is too large for an overlay"));
    }
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    file.set_len(USED * CLUSTER)?;
    file.write_all_at(&header(size), 0)?;
    file.write_all_at(&COUNTS.to_be_bytes(), COUNTS_TABLE)?;
    let counts: Vec<u8> = (0..USED).flat_map(|_| 1_u16.to_be_bytes()).collect();
    file.write_all_at(&counts, COUNTS)?;
    Ok(file)
}

fn header(size: u64) -> Vec<u8> {
    const LENGTH: u32 = 104;
    let mut header = Vec::with_capacity(LENGTH as usize + 8);
    let mut short = |number: u32| header.extend_from_slice(&number.to_be_bytes());
    let high = |number: u64| (number >> 32) as u32;
    let mut long = |number: u64| [high(number), number as u32].into_iter().for_each(&mut short);
    // Magic and version; no file below (place and length of its name).
    long(0x5146_49fb_0000_0003);
    long(0);
    long(u64::from(CLUSTER_BITS));
    long(size);
    // No encryption; entries and place of the first level.
    long(size.div_ceil(BYTES_PER_ENTRY));
    long(MAPPING);
    long(COUNTS_TABLE);
    // One cluster of counts, and no snapshots.
    long(1 << 32);
    // Snapshots' place, and the features: incompatible, compatible, to be cleared.
    (0..4).for_each(|_| long(0));
    // Counts have 2^4 bits.
    long(4 << 32 | u64::from(LENGTH));
    // The end of extensions.
    long(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_has_the_fields_where_the_format_wants_them() {
        let home = tempfile::tempdir().unwrap();
        let file = create_overlay(&home.path().join("o"), 3 << 30).unwrap();
        let number = |at: u64| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, at).unwrap();
            u64::from_be_bytes(bytes)
        };
        let low = |at| number(at) as u32;
        assert_eq!(number(0), 0x5146_49fb_0000_0003);
        // cluster_bits, size, crypt_method with l1_size, l1_table_offset, refcount_table_offset, its clusters
        assert_eq!((low(16), number(24), number(32), number(40)), (16, 3 << 30, 6, 3 << 16));
        assert_eq!((number(48), number(56) >> 32), (1 << 16, 1));
        // refcount_order, header_length
        assert_eq!(number(96), 4 << 32 | 104);
        assert_eq!((number(CLUSTER), number(2 * CLUSTER)), (2 << 16, 0x0001_0001_0001_0001));
        assert_eq!(file.metadata().unwrap().len(), 4 << 16);
        assert!(create_overlay(&home.path().join("o"), 1).is_err(), "it was there already");
        assert!(create_overlay(&home.path().join("large"), MAX_SIZE + 1).is_err());
    }
}
