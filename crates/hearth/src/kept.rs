//! What a home keeps beside its sandboxes: snapshots, templates, images.
//!
//! It is all files, made and removed in one step and locked against each other, so this machine's are worked on right here: no daemon is
//! started to look at a list, and none has to carry the bytes of a snapshot. Another machine's are its daemon's to work on.

use std::fs::File;
use std::path::Path;

use hearth_client::Client;
use hearth_client::api::home::{BuildTemplate, ImageInfo, SnapshotInfo, TemplateInfo};
use hearth_engine::Engine;
use hearth_server::home as here;

use crate::commands::transfer;
use crate::failure::Failure;
use crate::{home, pipes};

/// Where it is.
pub(crate) enum Kept {
    Here(Box<Engine>),
    There(Client),
}

impl Kept {
    /// What the host that is named keeps, or else this one.
    pub(crate) fn open() -> Result<Self, Failure> {
        Ok(match home::remote()? {
            Some(client) => Self::There(client),
            None => Self::Here(Box::new(home::open()?)),
        })
    }

    pub(crate) async fn snapshots(&self) -> Result<Vec<SnapshotInfo>, Failure> {
        Ok(match self {
            Self::Here(engine) => here::snapshots(engine).snapshots,
            Self::There(client) => client.snapshots().await?.snapshots,
        })
    }

    pub(crate) async fn snapshot(&self, name: &str) -> Result<SnapshotInfo, Failure> {
        Ok(match self {
            Self::Here(engine) => here::snapshot(engine, name)?,
            Self::There(client) => client.inspect_snapshot(name).await?,
        })
    }

    pub(crate) async fn remove_snapshot(&self, name: &str) -> Result<(), Failure> {
        match self {
            Self::Here(engine) => here::remove_snapshot(engine, name)?,
            Self::There(client) => client.remove_snapshot(name).await?,
        }
        Ok(())
    }

    /// Writes a snapshot to a file, whole or not at all; returns the exit code.
    pub(crate) async fn export_snapshot(&self, name: &str, to: &Path) -> Result<i32, Failure> {
        match self {
            Self::Here(engine) => {
                engine.export_snapshot(&here::snapshot_name(name)?, to).await?;
                Ok(0)
            }
            Self::There(client) => {
                // It holds all that was in the guest's memory.
                transfer::save(client.export_snapshot(name).await?, to, 0o600).await
            }
        }
    }

    /// Takes a snapshot in from a file.
    pub(crate) async fn import_snapshot(&self, from: &Path, name: &str) -> Result<SnapshotInfo, Failure> {
        let failed = |error| Failure::host(format!("cannot read {}: {error}", from.display()));
        let file = File::open(from).map_err(failed)?;
        Ok(match self {
            Self::Here(engine) => here::snapshot_info(engine.import_snapshot(file, &here::snapshot_name(name)?).await?),
            Self::There(client) => client.import_snapshot(name, pipes::file(file)).await?,
        })
    }

    pub(crate) async fn templates(&self) -> Result<Vec<TemplateInfo>, Failure> {
        Ok(match self {
            Self::Here(engine) => here::templates(engine).templates,
            Self::There(client) => client.templates().await?.templates,
        })
    }

    pub(crate) async fn build_template(&self, request: BuildTemplate) -> Result<TemplateInfo, Failure> {
        Ok(match self {
            Self::Here(engine) => {
                let made = engine.build_template(&here::template_spec(request)?).await?;
                here::template(engine, &made.id)?
            }
            Self::There(client) => client.build_template(&request).await?,
        })
    }

    /// Removes a template, and returns its whole name.
    pub(crate) async fn remove_template(&self, reference: &str) -> Result<String, Failure> {
        let removed = match self {
            Self::Here(engine) => here::remove_template(engine, reference)?,
            Self::There(client) => client.remove_template(reference).await?,
        };
        Ok(removed.id)
    }

    pub(crate) async fn images(&self) -> Result<Vec<ImageInfo>, Failure> {
        Ok(match self {
            Self::Here(engine) => here::images(engine)?.images,
            Self::There(client) => client.images().await?.images,
        })
    }

    pub(crate) async fn image(&self, reference: &str) -> Result<ImageInfo, Failure> {
        Ok(match self {
            Self::Here(engine) => here::image(engine, reference)?,
            Self::There(client) => client.inspect_image(reference).await?,
        })
    }

    pub(crate) async fn remove_image(&self, reference: &str) -> Result<(), Failure> {
        match self {
            Self::Here(engine) => here::remove_image(engine, reference)?,
            Self::There(client) => client.remove_image(reference).await?,
        }
        Ok(())
    }
}
