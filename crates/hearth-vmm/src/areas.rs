//! What a process has mapped where, as the kernel tells it.

use std::io;

/// A stretch of addresses, as `/proc/PID/maps` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    pub(crate) begin: u64,
    pub(crate) end: u64,
    /// `PROT_*` bits.
    pub(crate) protection: i32,
    pub(crate) is_shared: bool,
    pub(crate) offset: u64,
    /// Device and inode of the file, if there is one.
    pub(crate) file: Option<(u64, u64)>,
    /// The file's path, or the kernel's name for the stretch.
    pub(crate) name: String,
}

impl Area {
    fn parse(line: &str) -> Option<Self> {
        // The name is the rest of the line, and may have spaces in it.
        let mut fields = line.splitn(6, ' ');
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        let (begin, end) = fields.next()?.split_once('-')?;
        let flags = fields.next()?.as_bytes();
        let bits = [(b'r', libc::PROT_READ), (b'w', libc::PROT_WRITE), (b'x', libc::PROT_EXEC)];
        let protection = bits.into_iter().filter(|(flag, _)| flags.contains(flag)).map(|(_, bit)| bit).sum();
        let offset = number(fields.next()?)?;
        let (major, minor) = fields.next()?.split_once(':')?;
        let device = rustix::fs::makedev(u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
        let inode: u64 = fields.next()?.parse().ok()?;
        let name = fields.next().unwrap_or_default().trim_start().to_owned();
        let file = (inode != 0).then_some((device, inode));
        let is_shared = flags.contains(&b's');
        Some(Self { begin: number(begin)?, end: number(end)?, protection, is_shared, offset, file, name })
    }

    pub(crate) fn length(&self) -> u64 {
        self.end - self.begin
    }

    /// Whether the kernel has put it there for every program.
    pub(crate) fn is_the_kernels(&self) -> bool {
        self.name.starts_with("[v")
    }
}

/// All that a process has mapped, in order.
pub(crate) fn areas(pid: u32) -> io::Result<Vec<Area>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let parse = |line| Area::parse(line).ok_or_else(|| io::Error::other(format!("cannot read {line:?}")));
    let areas: Vec<Area> = maps.lines().map(parse).collect::<io::Result<_>>()?;
    // Above what a program may map.
    Ok(areas.into_iter().filter(|area| area.name != "[vsyscall]").collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_is_read_whole() {
        let area =
            Area::parse("7f00-8f00 rw-p 00001000 fe:01 42                         /usr/lib/a b.so (deleted)").unwrap();
        assert_eq!((area.begin, area.length(), area.offset), (0x7f00, 0x1000, 0x1000));
        assert_eq!(area.protection, libc::PROT_READ | libc::PROT_WRITE);
        assert_eq!(area.file, Some((rustix::fs::makedev(0xfe, 1), 42)));
        assert_eq!((area.name.as_str(), area.is_shared), ("/usr/lib/a b.so (deleted)", false));
        let blank = Area::parse("1000-2000 ---s 00000000 00:00 0 ").unwrap();
        assert_eq!((blank.protection, blank.file, blank.name.as_str(), blank.is_shared), (0, None, "", true));
        assert!(Area::parse("1000-2000 r-xp 00000000 00:00 0 [vdso]").unwrap().is_the_kernels());
        assert!(!Area::parse("1000-2000 r-xp 00000000 00:00 0 [heap]").unwrap().is_the_kernels());
        for senseless in ["", "1000", "1000-x r", "1000-2000 r-xp 0 0 0"] {
            assert_eq!(Area::parse(senseless), None, "{senseless:?}");
        }
    }
}
