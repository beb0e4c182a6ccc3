//! The kernel's news of devices.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use tokio::io::unix::AsyncFd;

use super::BootError;
use crate::sys;

/// The multicast group of the kernel itself.
const KERNEL: u32 = 1;
/// More than the kernel's own bound on one event, in bytes.
const EVENT: usize = 8 * 1024;

/// Events from the moment this was made on, so that nothing is missed between a look and a wait.
pub(super) struct Uevents(OwnedFd);

impl Uevents {
    /// Starts to listen.
    pub(super) fn listen() -> Result<Self, BootError> {
        let failed = |error: Errno| BootError::new("listen for devices", error);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(KOBJECT_UEVENT))
            .map_err(failed)?;
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL)).map_err(failed)?;
        Ok(Self(socket))
    }

    /// Waits for the next event, whatever it is.
    pub(super) fn wait(&self) -> Result<(), BootError> {
        take(&self.0, RecvFlags::empty()).map_err(|error| BootError::new("wait for a device", error))
    }

    /// Goes on beside everything else that the agent does.
    pub(super) fn into_events(self) -> io::Result<Events> {
        Ok(Events(sys::watch(self.0)?))
    }
}

/// The same events, to a task.
pub(super) struct Events(AsyncFd<OwnedFd>);

impl Events {
    /// Waits for the next event, whatever it is. Cancel-safe.
    pub(super) async fn next(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            match take(self.0.get_ref(), RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN) => ready.clear_ready(),
                taken => return Ok(taken?),
            }
        }
    }
}

fn take(socket: &OwnedFd, flags: RecvFlags) -> Result<(), Errno> {
    let mut event = [0; EVENT];
    match recv(socket, &mut event[..], flags) {
        // Some were lost because there were many: reason enough to look again.
        Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => Ok(()),
        Err(error) => Err(error),
    }
}
