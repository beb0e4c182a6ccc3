//! An initial RAM file system whose init only restarts the machine, which ends its QEMU: the least that a boot can be.

use anyhow::Result;
use hearth_engine::image::Initramfs;

/// Where the program is loaded.
const BASE: u64 = 0x40_0000;
/// The lengths of the ELF header and its one program header, in bytes.
const HEADERS: (u16, u16) = (64, 56);

/// `reboot(LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_RESTART)`, as the agent ends a machine, too.
const CODE: &[u8] = &[
    0xbf, 0xad, 0xde, 0xe1, 0xfe, // mov edi, 0xfee1dead
    0xbe, 0x69, 0x19, 0x12, 0x28, // mov esi, 0x28121969
    0xba, 0x67, 0x45, 0x23, 0x01, // mov edx, 0x01234567
    0xb8, 0xa9, 0x00, 0x00, 0x00, // mov eax, 169
    0x0f, 0x05, // syscall
    0xeb, 0xfe, // jmp to itself, for a kernel that refuses
];

/// Makes the archive.
pub(crate) fn initramfs() -> Result<Vec<u8>> {
    let archive = Initramfs::new().directory("dev", 0o755)?.character_device("dev/console", 0o600, (5, 1))?;
    Ok(archive.file("init", 0o755, &program())?.finish())
}

/// The smallest static program there can be: no compiler takes part, so that it is the same everywhere.
fn program() -> Vec<u8> {
    let (header, program_header) = HEADERS;
    let start = u64::from(header) + u64::from(program_header);
    let size = start + CODE.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend([2_u16, 62].map(u16::to_le_bytes).concat()); // an executable, for x86-64
    elf.extend(1_u32.to_le_bytes());
    // Entry, program headers, section headers.
    elf.extend([BASE + start, u64::from(header), 0].map(u64::to_le_bytes).concat());
    elf.extend(0_u32.to_le_bytes());
    elf.extend([header, program_header, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
    // One segment to load, readable and executable: offset, both addresses, both sizes, alignment.
    elf.extend([1_u32, 5].map(u32::to_le_bytes).concat());
    elf.extend([0, BASE, BASE, size, size, 0x1000].map(u64::to_le_bytes).concat());
    elf.extend(CODE);
    elf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_is_the_first_instruction() {
        let elf = program();
        let entry = u64::from_le_bytes(elf[24..32].try_into().unwrap());
        assert_eq!(&elf[(entry - BASE) as usize..], CODE);
        assert_eq!(elf.len() as u64, u64::from_le_bytes(elf[96..104].try_into().unwrap()));
    }
}
