//! Calls about what is in a guest: files, archives, packages, services; ports that lead into it, and secrets.

use std::io;

use bytes::Bytes;
use futures_util::Stream;
use hearth_api::files::{Count, EditFile, Edited, ExportTree, FileList, Found, ImportTree, ReadFile, WriteFile};
use hearth_api::packages::{InstallPackages, InstallResult};
use hearth_api::protocol::archive::Imported;
use hearth_api::protocol::files::{FileEntry, List, Place, Remove, Search};
use hearth_api::protocol::secrets::SecretList;
use hearth_api::protocol::service::ServiceInfo;
use hearth_api::services::{PortList, PublishPort, ReadServiceLog, ServiceList, SetSecrets, StartService, StopService};
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Client, ClientError, Connection, escaped, path, with_query};

/// Bytes that come. Dropping it gives them up.
#[derive(Debug)]
pub struct Download {
    body: Incoming,
    _connection: Connection,
}

impl Download {
    /// The next bytes; `None` once they are all there. Cancel-safe.
    ///
    /// # Errors
    /// [`ClientError::Lost`] when they broke off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

/// Each call fails with any [`ClientError`].
impl Client {
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        sandbox: &str,
        below: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.connect().await?.json(Method::POST, &path(sandbox, below), Some(body)).await
    }

    pub(crate) async fn download(&self, path: &str) -> Result<Download, ClientError> {
        self.download_by(Method::GET, path, None).await
    }

    pub(crate) async fn download_by(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Download, ClientError> {
        let mut connection = self.connect().await?;
        let body = connection.send(method, path, body).await?.into_body();
        Ok(Download { body, _connection: connection })
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.connect().await?.bytes(Method::DELETE, path).await.map(drop)
    }

    /// Describes a file, directory or link.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn stat(&self, sandbox: &str, place: &Place) -> Result<FileEntry, ClientError> {
        self.ask(sandbox, "/files/stat", place).await
    }

    /// Lists a directory, or a page of it.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn list_files(&self, sandbox: &str, list: &List) -> Result<FileList, ClientError> {
        self.ask(sandbox, "/files/list", list).await
    }

    /// Replaces texts in a file, all or none.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn edit_file(&self, sandbox: &str, edit: &EditFile) -> Result<Edited, ClientError> {
        self.ask(sandbox, "/files/edit", edit).await
    }

    /// Searches files for a pattern.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn search_files(&self, sandbox: &str, search: &Search) -> Result<Found, ClientError> {
        self.ask(sandbox, "/files/search", search).await
    }

    /// Removes a file, or a tree.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn remove_file(&self, sandbox: &str, remove: &Remove) -> Result<Count, ClientError> {
        self.ask(sandbox, "/files/remove", remove).await
    }

    /// Fetches a file's bytes.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn read_file(&self, sandbox: &str, read: &ReadFile) -> Result<Download, ClientError> {
        self.download(&with_query(&path(sandbox, "/files/content"), read)).await
    }

    /// Writes a file, whole or not at all: bytes that end in an error change nothing.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn write_file(
        &self,
        sandbox: &str,
        write: &WriteFile,
        bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<FileEntry, ClientError> {
        self.connect().await?.upload(Method::PUT, &with_query(&path(sandbox, "/files/content"), write), bytes).await
    }

    /// Fetches a tree as a tar archive.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn export(&self, sandbox: &str, export: &ExportTree) -> Result<Download, ClientError> {
        self.download(&with_query(&path(sandbox, "/archive"), export)).await
    }

    /// Fetches a part of a tree as a tar archive: what `names` has, paths from there with a NUL behind each.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn export_only(&self, sandbox: &str, tree: &ExportTree, names: Bytes) -> Result<Download, ClientError> {
        let mut connection = self.connect().await?;
        let path = with_query(&path(sandbox, "/archive"), tree);
        let body = connection.send(Method::POST, &path, Some(names)).await?.into_body();
        Ok(Download { body, _connection: connection })
    }

    /// Unpacks a tar archive, plain or compressed, all of it or nothing.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn import(
        &self,
        sandbox: &str,
        import: &ImportTree,
        bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<Imported, ClientError> {
        self.connect().await?.upload(Method::PUT, &with_query(&path(sandbox, "/archive"), import), bytes).await
    }

    /// Installs packages of a language, and waits until the installer has ended. Dropping the call ends it.
    ///
    /// # Errors
    /// Any [`ClientError`]. An installer that fails is no error: its exit code says so.
    pub async fn install(&self, sandbox: &str, install: &InstallPackages) -> Result<InstallResult, ClientError> {
        self.ask(sandbox, "/packages", install).await
    }

    /// Starts a service, and waits until it is ready, has failed, or is to be tried again.
    ///
    /// # Errors
    /// Any [`ClientError`]. A service that has failed is no error: its state says so.
    pub async fn start_service(&self, sandbox: &str, start: &StartService) -> Result<ServiceInfo, ClientError> {
        self.ask(sandbox, "/services", start).await
    }

    /// Lists services by name.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn services(&self, sandbox: &str) -> Result<ServiceList, ClientError> {
        self.get(&path(sandbox, "/services")).await
    }

    /// Describes a service.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn service(&self, sandbox: &str, name: &str) -> Result<ServiceInfo, ClientError> {
        self.get(&path(sandbox, &of_service(name, ""))).await
    }

    /// Stops a service, and waits until nothing of it is left. Its published ports are closed.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn stop_service(
        &self,
        sandbox: &str,
        name: &str,
        stop: &StopService,
    ) -> Result<ServiceInfo, ClientError> {
        self.ask(sandbox, &of_service(name, "/stop"), stop).await
    }

    /// Stops a service if it runs, and starts it as it was started.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn restart_service(&self, sandbox: &str, name: &str) -> Result<ServiceInfo, ClientError> {
        self.connect().await?.json(Method::POST, &path(sandbox, &of_service(name, "/restart")), None::<&()>).await
    }

    /// Stops a service if it runs, and forgets it.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn remove_service(&self, sandbox: &str, name: &str) -> Result<(), ClientError> {
        self.delete(&path(sandbox, &of_service(name, ""))).await
    }

    /// Fetches a service's log.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn service_log(&self, sandbox: &str, name: &str, log: &ReadServiceLog) -> Result<Download, ClientError> {
        self.download(&with_query(&path(sandbox, &of_service(name, "/logs")), log)).await
    }

    /// Publishes a port, and returns it with the address that it listens on.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn publish(&self, sandbox: &str, port: &PublishPort) -> Result<PublishPort, ClientError> {
        self.ask(sandbox, "/ports", port).await
    }

    /// The ports that are published.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn ports(&self, sandbox: &str) -> Result<PortList, ClientError> {
        self.get(&path(sandbox, "/ports")).await
    }

    /// Closes a published port of this host's, with its connections.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn unpublish(&self, sandbox: &str, port: u16) -> Result<(), ClientError> {
        self.delete(&path(sandbox, &format!("/ports/{port}"))).await
    }

    /// Lists secrets, without their values.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn secrets(&self, sandbox: &str) -> Result<SecretList, ClientError> {
        self.get(&path(sandbox, "/secrets")).await
    }

    /// Adds secrets, or gives new values to those that are there. All or none.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn set_secrets(&self, sandbox: &str, secrets: &SetSecrets) -> Result<(), ClientError> {
        self.connect().await?.send_json(Method::PUT, &path(sandbox, "/secrets"), secrets).await
    }

    /// Removes a secret.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn remove_secret(&self, sandbox: &str, name: &str) -> Result<(), ClientError> {
        self.delete(&path(sandbox, &format!("/secrets/{}", escaped(name)))).await
    }
}

fn of_service(name: &str, below: &str) -> String {
    format!("/services/{}{below}", escaped(name))
}
