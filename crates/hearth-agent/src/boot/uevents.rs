//! The kernel's news of devices.

use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use std::os::fd::OwnedFd;

use super::BootError;

/// The multicast group of the kernel itself.
const KERNEL: u32 = 1;
/// More than the kernel's own bound on one event, in bytes.
const EVENT: usize = 8 * 1024;

/// Events from the moment this was made on, so that nothing is missed between a look and a wait.
pub(super) struct Uevents(OwnedFd);

impl Uevents {
    /// Starts to listen.
    pub(super) fn listen() -> Result<Self, BootError> {
        let failed = |error: rustix::io::Errno| BootError::new("listen for devices", error);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(KOBJECT_UEVENT))
            .map_err(failed)?;
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL)).map_err(failed)?;
        Ok(Self(socket))
    }

    /// Waits for the next event, whatever it is.
    pub(super) fn wait(&self) -> Result<(), BootError> {
        let mut event = [0; EVENT];
        match recv(&self.0, &mut event[..], RecvFlags::empty()) {
            // Some were lost because there were many: reason enough to look again.
            Ok(_) | Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(BootError::new("wait for a device", error)),
        }
    }
}
