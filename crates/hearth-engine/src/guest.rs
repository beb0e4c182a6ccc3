//! What a guest or its QEMU said, for people: never raw.

use hearth_vmm::Exit;

/// How a QEMU ended, in a word.
pub(crate) fn describe(exit: &Exit) -> String {
    exit.status.map_or_else(|| "its end was not seen".to_owned(), |status| status.to_string())
}

/// What a guest or a QEMU said, safe for a terminal: control characters but line ends are escaped.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let keep = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n");
    text.chars()
        .flat_map(|c| if keep(c) { c.to_string() } else { c.escape_default().to_string() }.chars().collect::<Vec<_>>())
        .collect()
}
