//! The little of ELF that is needed: to find a kernel module's `.modinfo` section.
//!
//! Layout: System V ABI, "Object Files", ELF-64. Everything read is checked against the file's length, because a
//! module directory may be anybody's.

use std::ops::Range;

const X86_64: u16 = 62;

/// Tells whether the bytes begin a 64-bit, little-endian ELF for x86_64.
pub(super) fn is_x86_64(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF\x02\x01") && u16_at(file, 18) == Some(X86_64)
}

/// Returns the `.modinfo` section: NUL-ended strings of the form `key=value`.
pub(super) fn modinfo(file: &[u8]) -> Option<&[u8]> {
    if !is_x86_64(file) {
        return None;
    }
    let count = u16_at(file, 0x3c)?;
    let names = section(file, u16_at(file, 0x3e)?)?;
    (0..count).find_map(|index| {
        let found = section(file, index)?;
        let name = file.get(names.bytes.clone())?.get(found.name..)?;
        if name.starts_with(b".modinfo\0") { file.get(found.bytes) } else { None }
    })
}

/// Splits a `.modinfo` section, or a `modules.builtin.modinfo` file, into its keys and values.
pub(super) fn fields(section: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    section.split(|&byte| byte == 0).filter_map(|field| std::str::from_utf8(field).ok()?.split_once('='))
}

struct Section {
    /// Where its name begins in the section of names.
    name: usize,
    bytes: Range<usize>,
}

fn section(file: &[u8], index: u16) -> Option<Section> {
    let table = u64_at(file, 0x28)?;
    let size = usize::from(u16_at(file, 0x3a)?);
    let at = table.checked_add(size.checked_mul(usize::from(index))?)?;
    let start = u64_at(file, at.checked_add(0x18)?)?;
    let length = u64_at(file, at.checked_add(0x20)?)?;
    Some(Section { name: u32_at(file, at)?, bytes: start..start.checked_add(length)? })
}

fn u16_at(file: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*file.get(at..)?.first_chunk()?))
}

fn u32_at(file: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(*file.get(at..)?.first_chunk()?)).ok()
}

fn u64_at(file: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(*file.get(at..)?.first_chunk()?)).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Makes an ELF object with a `.modinfo` section, as a compiler would leave it.
    pub(in crate::kernel) fn module(fields: &[&str]) -> Vec<u8> {
        let info = fields.iter().flat_map(|field| [field.as_bytes(), b"\0"]).flatten().copied().collect::<Vec<_>>();
        let names = b"\0.modinfo\0.names\0";
        let (info_at, names_at) = (64, 64 + info.len());
        let table_at = names_at + names.len();
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18..20].copy_from_slice(&X86_64.to_le_bytes());
        file[0x28..0x30].copy_from_slice(&(table_at as u64).to_le_bytes());
        file[0x3a..0x40].copy_from_slice(&[64, 0, 3, 0, 2, 0]);
        file.extend_from_slice(&info);
        file.extend_from_slice(names);
        for (name, at, length) in [(0_u32, 0, 0), (1, info_at, info.len()), (10, names_at, names.len())] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(at as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(length as u64).to_le_bytes());
            file.extend_from_slice(&header);
        }
        file
    }

    #[test]
    fn the_fields_of_a_module_are_found() {
        let file = module(&["name=erofs", "depends=libcrc32c"]);
        let found: Vec<_> = fields(modinfo(&file).unwrap()).collect();
        assert_eq!(found, [("name", "erofs"), ("depends", "libcrc32c")]);
    }

    #[test]
    fn a_cut_module_has_no_fields() {
        let file = module(&["name=erofs"]);
        // The last 24 bytes of a section's header are not read.
        assert!((0..file.len() - 24).all(|end| modinfo(&file[..end]).is_none()));
    }

    proptest! {
        #[test]
        fn damage_never_panics(at in 0_usize..300, byte: u8) {
            let mut file = module(&["name=erofs", "depends=libcrc32c"]);
            let at = at % file.len();
            file[at] = byte;
            let _ = modinfo(&file).map(|section| fields(section).count());
        }
    }
}
