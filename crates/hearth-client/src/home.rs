//! Calls about what a daemon's home keeps beside its sandboxes: snapshots, templates, images.

use std::io;

use bytes::Bytes;
use futures_util::Stream;
use hearth_api::home::{
    BuildTemplate, ImageInfo, ImageList, RemovedTemplate, SnapshotInfo, SnapshotList, TemplateInfo, TemplateList,
};
use hyper::Method;

use crate::{Client, ClientError, Download, escaped};

/// Each call fails with any [`ClientError`].
impl Client {
    /// Lists snapshots.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn snapshots(&self) -> Result<SnapshotList, ClientError> {
        self.get("/v1/snapshots").await
    }

    /// Describes a snapshot.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn inspect_snapshot(&self, name: &str) -> Result<SnapshotInfo, ClientError> {
        self.get(&of("snapshots", name, "")).await
    }

    /// Removes a snapshot. Sandboxes that were started from it go on.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn remove_snapshot(&self, name: &str) -> Result<(), ClientError> {
        self.delete(&of("snapshots", name, "")).await
    }

    /// Fetches a snapshot, with all it needs but the image.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn export_snapshot(&self, name: &str) -> Result<Download, ClientError> {
        self.download(&of("snapshots", name, "/archive")).await
    }

    /// Sends a snapshot that was fetched, to be kept under a name. It is taken whole or not at all: bytes that end in an error add nothing.
    ///
    /// # Errors
    /// Any [`ClientError`]; one that is damaged, or does not fit the daemon's host, is refused with the reason.
    pub async fn import_snapshot(
        &self,
        name: &str,
        bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<SnapshotInfo, ClientError> {
        let path = of("snapshots", name, "/archive");
        self.connect().await?.upload(Method::PUT, &path, bytes).await
    }

    /// Lists templates.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn templates(&self) -> Result<TemplateList, ClientError> {
        self.get("/v1/templates").await
    }

    /// Makes the template for a kind of sandbox, unless it is there.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn build_template(&self, request: &BuildTemplate) -> Result<TemplateInfo, ClientError> {
        self.connect().await?.json(Method::POST, "/v1/templates", Some(request)).await
    }

    /// Removes the template that is meant by its name or the beginning of it, and that nothing needs.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn remove_template(&self, reference: &str) -> Result<RemovedTemplate, ClientError> {
        self.connect().await?.json(Method::DELETE, &of("templates", reference, ""), None::<&()>).await
    }

    /// Lists images.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn images(&self) -> Result<ImageList, ClientError> {
        self.get("/v1/images").await
    }

    /// Describes the image that is meant by its name, or by at least six digits of its digest.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn inspect_image(&self, reference: &str) -> Result<ImageInfo, ClientError> {
        self.get(&of("images", reference, "")).await
    }

    /// Removes an image's name, or all names of one given by its digest; the image goes with its last name.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn remove_image(&self, reference: &str) -> Result<(), ClientError> {
        self.delete(&of("images", reference, "")).await
    }
}

/// The path of one of a kind, and of what is below it.
fn of(kind: &str, name: &str, below: &str) -> String {
    format!("/v1/{kind}/{}{below}", escaped(name))
}
