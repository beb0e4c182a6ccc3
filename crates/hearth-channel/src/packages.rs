//! Packages for the guest's languages.

use hearth_protocol::RequestBody;
use hearth_protocol::packages::{Install, PackageRequest};

use crate::channel::Channel;
use crate::error::ChannelError;
use crate::operation::Operation;

impl Channel {
    /// Installs packages. The operation sends what the installer says as `stdout` and `stderr`, and ends with
    /// [`hearth_protocol::packages::PackageResult`]; dropping it stops the installer.
    ///
    /// # Errors
    /// As [`Self::operate`]. The operation itself: [`hearth_protocol::ErrorCode::Unavailable`] when the guest has no installer, or no way out
    /// and no directory was named; [`hearth_protocol::ErrorCode::NotFound`] for a directory, or a tarball, that is not there.
    pub async fn install_packages(&self, install: Install) -> Result<Operation, ChannelError> {
        self.operate(RequestBody::Packages(PackageRequest::Install(install))).await
    }
}
