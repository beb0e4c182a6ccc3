//! Guests of a few bytes: an ELF file with a PVH entry, which says a line on the serial port and then does one thing.

/// What the guest does after its line.
#[derive(Clone, Copy)]
pub(crate) enum Then {
    /// Runs on the spot for ever.
    Spin,
    /// Faults until the processor resets, as a kernel does that reboots or panics.
    Reset,
}

const LOAD_ADDRESS: u32 = 0x10_0000;
const HEADERS: usize = 64 + 2 * 56;
const NOTE: usize = 24;

/// Makes the file. An empty line is not said at all.
pub(crate) fn elf(line: &str, then: Then) -> Vec<u8> {
    let code_offset = HEADERS + NOTE;
    let entry = LOAD_ADDRESS + code_offset as u32;
    let mut code = vec![0xbe];
    let tail: &[u8] = match then {
        Then::Spin => &[0xeb, 0xfe],
        // lidt of six zero bytes at the message's end, then int3.
        Then::Reset => &[0x0f, 0x01, 0x1d, 0, 0, 0, 0, 0xcc],
    };
    let message = entry + 17 + tail.len() as u32;
    code.extend(message.to_le_bytes());
    // lodsb; test al, al; jz +7; mov dx, 0x3f8; out dx, al; jmp back
    code.extend([0xac, 0x84, 0xc0, 0x74, 0x07, 0x66, 0xba, 0xf8, 0x03, 0xee, 0xeb, 0xf4]);
    let mut tail = tail.to_vec();
    if matches!(then, Then::Reset) {
        tail[3..7].copy_from_slice(&(message + line.len() as u32).to_le_bytes());
    }
    code.extend(tail);
    code.extend(line.as_bytes());
    code.extend([0; 8]);

    let size = (code_offset + code.len()) as u64;
    let mut file = header(entry);
    file.extend(segment(1, 0, size));
    file.extend(segment(4, HEADERS as u64, NOTE as u64));
    // A Xen note of type 18 holds the 32-bit physical entry.
    for word in [4_u32, 8, 18] {
        file.extend(word.to_le_bytes());
    }
    file.extend(b"Xen\0");
    file.extend(u64::from(entry).to_le_bytes());
    file.extend(code);
    file
}

fn header(entry: u32) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    for half in [2_u16, 62] {
        header.extend(half.to_le_bytes());
    }
    header.extend(1_u32.to_le_bytes());
    for address in [u64::from(entry), 64, 0] {
        header.extend(address.to_le_bytes());
    }
    header.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 2, 0, 0, 0] {
        header.extend(half.to_le_bytes());
    }
    header
}

fn segment(kind: u32, offset: u64, size: u64) -> Vec<u8> {
    let address = u64::from(LOAD_ADDRESS) + offset;
    let mut segment = Vec::new();
    segment.extend(kind.to_le_bytes());
    segment.extend(7_u32.to_le_bytes());
    for field in [offset, address, address, size, size, 4] {
        segment.extend(field.to_le_bytes());
    }
    segment
}
