//! What a home keeps beside its sandboxes, in the API's words: over an engine alone, for the command as well, which needs no daemon for it.

use hearth_api::home::{
    BuildTemplate, ImageFiles, ImageInfo, ImageKernel, ImageList, ImagePackage, RemovedTemplate, SnapshotInfo,
    SnapshotList, TemplateInfo, TemplateList, TemplateMachine,
};
use hearth_api::{CreateSandbox, ErrorBody, OwnCode};
use hearth_engine::fleet::SandboxName;
use hearth_engine::image::{Image, ImageError};
use hearth_engine::{Engine, EngineError, SandboxSpec, SnapshotRecord, TemplateId, TemplateRecord};

use crate::answer::{Refusal, error_body};
use crate::sandboxes::{machine, unix_ms};

/// The snapshots there are.
pub fn snapshots(engine: &Engine) -> SnapshotList {
    SnapshotList { snapshots: engine.snapshots().into_iter().map(snapshot_info).collect() }
}

/// One of them.
///
/// # Errors
/// [`OwnCode::UnknownSnapshot`]; [`OwnCode::InvalidValue`] for what can be no name.
pub fn snapshot(engine: &Engine, name: &str) -> Result<SnapshotInfo, ErrorBody> {
    engine.inspect_snapshot(&snapshot_name(name)?).map(snapshot_info).map_err(body)
}

/// Removes one.
///
/// # Errors
/// As [`snapshot`], and what the host's files say.
pub fn remove_snapshot(engine: &Engine, name: &str) -> Result<(), ErrorBody> {
    engine.remove_snapshot(&snapshot_name(name)?).map_err(body)
}

/// Takes a name for a snapshot.
///
/// # Errors
/// [`OwnCode::InvalidValue`].
pub fn snapshot_name(name: &str) -> Result<SandboxName, ErrorBody> {
    SandboxName::new(name).map_err(|error| *Refusal::from(error).0)
}

/// Puts a snapshot's record into words.
pub fn snapshot_info(record: SnapshotRecord) -> SnapshotInfo {
    SnapshotInfo {
        bytes: record.bytes(),
        name: record.name,
        created_unix_ms: record.created * 1000,
        template: record.template.to_string(),
        image: record.image,
        cpus: record.cpus,
        memory_mib: record.memory_mib,
        disk_mib: record.disk_mib,
    }
}

/// The templates there are.
pub fn templates(engine: &Engine) -> TemplateList {
    TemplateList { templates: engine.templates().into_iter().map(template_info).collect() }
}

/// One of them, by its whole name.
///
/// # Errors
/// [`OwnCode::UnknownTemplate`].
pub fn template(engine: &Engine, id: &TemplateId) -> Result<TemplateInfo, ErrorBody> {
    let found = engine.templates().into_iter().find(|info| info.id == *id);
    found.map(template_info).ok_or_else(|| body(EngineError::NoTemplate { reference: id.to_string() }))
}

/// Removes the one that is meant by its name or the beginning of it.
///
/// # Errors
/// [`OwnCode::UnknownTemplate`]; [`OwnCode::WrongState`] where something needs it.
pub fn remove_template(engine: &Engine, reference: &str) -> Result<RemovedTemplate, ErrorBody> {
    engine.remove_template(reference).map(|id| RemovedTemplate { id: id.to_string() }).map_err(body)
}

/// The kind of sandbox that a template is to be made for.
///
/// # Errors
/// [`OwnCode::InvalidValue`], naming the field.
pub fn template_spec(request: BuildTemplate) -> Result<SandboxSpec, ErrorBody> {
    let BuildTemplate { image, cpus, memory_mib, disk_mib, accelerator } = request;
    let like = CreateSandbox { image, cpus, memory_mib, disk_mib, accelerator, ..CreateSandbox::default() };
    machine(&like).map_err(body)
}

fn template_info(info: hearth_engine::TemplateInfo) -> TemplateInfo {
    TemplateInfo {
        id: info.id.to_string(),
        bytes: info.bytes,
        used_unix_ms: unix_ms(info.used),
        in_use: info.is_in_use,
        snapshots: info.snapshots,
        machine: info.record.map(template_machine),
    }
}

fn template_machine(record: TemplateRecord) -> TemplateMachine {
    TemplateMachine {
        image: record.image,
        cpus: record.cpus,
        memory_mib: record.memory_mib,
        disk_mib: record.disk_mib,
        accelerator: record.accelerator,
        board: record.board,
        qemu: record.qemu,
        created_unix_ms: record.created * 1000,
    }
}

/// The images there are.
///
/// # Errors
/// What the host's files say.
pub fn images(engine: &Engine) -> Result<ImageList, ErrorBody> {
    let images = engine.images().list().map_err(of_image)?;
    Ok(ImageList { images: images.iter().map(image_info).collect() })
}

/// One of them.
///
/// # Errors
/// [`OwnCode::UnknownImage`], [`OwnCode::InvalidValue`] for what is neither a name nor a digest.
pub fn image(engine: &Engine, reference: &str) -> Result<ImageInfo, ErrorBody> {
    engine.images().inspect(reference).map(|image| image_info(&image)).map_err(of_image)
}

/// Removes a name, or all names of one given by its digest.
///
/// # Errors
/// As [`image`]; [`OwnCode::WrongState`] where something runs on it.
pub fn remove_image(engine: &Engine, reference: &str) -> Result<(), ErrorBody> {
    engine.images().rm(reference).map_err(of_image)
}

/// Puts an image into words.
pub fn image_info(image: &Image) -> ImageInfo {
    let manifest = &image.manifest;
    let path = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    let packages = manifest.packages.iter().map(|package| ImagePackage {
        name: package.name.clone(),
        version: package.version.clone(),
        architecture: package.architecture.clone(),
    });
    ImageInfo {
        name: image.name.as_ref().map(ToString::to_string),
        digest: image.digest.to_string(),
        bytes: manifest.total_bytes(),
        created_unix_ms: unix_ms(manifest.created_at()),
        suite: manifest.suite.to_string(),
        user: manifest.user.clone(),
        kernel: ImageKernel { release: manifest.kernel.release.clone(), package: manifest.kernel.package.clone() },
        files: ImageFiles {
            rootfs: path(image.rootfs()),
            kernel: path(image.kernel()),
            modules: path(image.modules_directory()),
        },
        packages: packages.collect(),
    }
}

fn of_image(error: ImageError) -> ErrorBody {
    let code = match error {
        ImageError::NotFound { .. } => Some(OwnCode::UnknownImage),
        ImageError::InUse { .. } => Some(OwnCode::WrongState),
        _ => None,
    };
    let mut body = body(error.into());
    body.code = code.map_or(body.code, Into::into);
    body
}

fn body(error: EngineError) -> ErrorBody {
    error_body(&error)
}
