//! The content of one file into another, holes left out.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::remove::Wanted;

/// What is copied before it is asked again whether it is wanted, in bytes.
const PIECE: u64 = 16 * 1024 * 1024;
/// What is copied through memory at a time, in bytes.
const BUFFER: usize = 256 * 1024;

/// Copies all of `from`, which had `size` bytes, into the empty file `to`. Tells how many bytes were data; `None` when it was given up.
///
/// # Errors
/// What the system says.
pub(crate) fn copy(from: &File, to: &File, size: u64, wanted: Wanted<'_>) -> io::Result<Option<u64>> {
    if size == 0 {
        // Files that the kernel makes up have no size and content all the same.
        return through_memory(from, to, 0..u64::MAX, wanted);
    }
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(Some(size));
    }
    let (mut at, mut copied) = (0, 0);
    while let Some(data) = next_data(from, at, size)? {
        at = data.end;
        match extent(from, to, data, wanted)? {
            Some(count) => copied += count,
            None => return Ok(None),
        }
    }
    to.set_len(from.metadata()?.len().max(at))?;
    Ok(Some(copied))
}

/// Where data is next, from `at` on. A file system that knows no holes is all data.
fn next_data(file: &File, at: u64, size: u64) -> Result<Option<std::ops::Range<u64>>, Errno> {
    if at >= size {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(at..size)),
        Err(error) => return Err(error),
    };
    let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
    Ok(Some(start..end))
}

fn extent(from: &File, to: &File, data: std::ops::Range<u64>, wanted: Wanted<'_>) -> io::Result<Option<u64>> {
    let (mut source, mut target) = (data.start, data.start);
    while source < data.end {
        if !wanted() {
            return Ok(None);
        }
        let length = (data.end - source).min(PIECE) as usize;
        match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), length) {
            // It became shorter meanwhile.
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            // Not between these two, or not at all.
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::BADF | Errno::PERM) => {
                let before = source - data.start;
                return Ok(through_memory(from, to, source..data.end, wanted)?.map(|count| before + count));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(source - data.start))
}

fn through_memory(from: &File, to: &File, range: std::ops::Range<u64>, wanted: Wanted<'_>) -> io::Result<Option<u64>> {
    let mut buffer = vec![0; BUFFER];
    let mut at = range.start;
    while at < range.end {
        if !wanted() {
            return Ok(None);
        }
        let length = (range.end - at).min(BUFFER as u64) as usize;
        match from.read_at(&mut buffer[..length], at) {
            Ok(0) => break,
            Ok(count) => {
                to.write_all_at(&buffer[..count], at)?;
                at += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(at - range.start))
}
