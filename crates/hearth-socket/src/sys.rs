//! What needs `unsafe`.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, ReadBuf};

/// Has the runtime watch a descriptor.
///
/// # Errors
/// When the kernel has no memory left for one more that is watched.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by what watches it.
    unsafe { register(fd, interest) }
}

/// As [`watch`], for a descriptor that has several owners.
pub(crate) fn watch_shared(fd: Arc<OwnedFd>, interest: Interest) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the descriptor is owned by what watches it, among others.
    unsafe { register(fd, interest) }
}

/// # Safety
/// The descriptor must stay open and the same for as long as `fd` is there.
unsafe fn register<T: AsRawFd>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: as the caller promises.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(|error| error.into_parts().1)
}

/// Reads once into what is free of `buffer`, which need not be written before; returns how many bytes.
///
/// # Errors
/// What the kernel says.
pub fn read(fd: impl AsFd, buffer: &mut ReadBuf<'_>) -> Result<usize, Errno> {
    // SAFETY: the free part is only written to, by the kernel.
    let free = unsafe { buffer.unfilled_mut() };
    let count = rustix::io::read(fd, free)?.0.len();
    // SAFETY: the kernel has written as many bytes as it said.
    unsafe { buffer.assume_init(count) };
    buffer.advance(count);
    Ok(count)
}
