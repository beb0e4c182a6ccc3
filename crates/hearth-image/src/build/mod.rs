//! Builds images.
//!
//! A build is a row of stages. Each leaves its result in the build's staging directory under its final name, by a
//! rename, so that a build that was killed goes on after the last stage that ended:
//!
//! ```text
//! fetch     debs/, fetched.json    apt, into the store's cache; files are links
//! assemble  assembled/             mmdebstrap and customize.sh: rootfs.erofs, packages
//! kernel    kernel/                the kernel and its modules, unpacked and indexed
//! publish   images/DIGEST          hashed, synced, renamed; then the name is moved
//! ```
//!
//! One build of a kind runs at a time: a lock per [`BuildSpec`] (without its name) makes a second one wait, and then
//! take what the first one made. The work is done by a thread of its own, because hashing and unpacking block; dropping
//! the future stops it.

mod apt;
mod assemble;
mod preflight;
pub(crate) mod run;
mod spec;

use std::{
    cell::RefCell,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use tokio::sync::oneshot;

pub use spec::{BuildSpec, KernelSource, Mirror};

use crate::{
    Digest, Image, ImageError, KernelManifest, Manifest, Progress, Stage,
    error::At,
    files, image, kernel, lock,
    store::{ImageStore, Layout},
};
use run::{Cancel, Runner, Tool};

/// Finished stages older than this are made anew, because the archive has moved on.
const STAGE_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// What the stages of one build share.
struct Context<'a> {
    runner: Runner<'a>,
    key: Digest,
    staging: &'a Path,
    cache: &'a Path,
    progress: RefCell<Reports>,
}

struct Reports {
    send: Box<dyn FnMut(Progress) + Send>,
    last: Option<Progress>,
}

impl Context<'_> {
    /// Reports progress, unless nothing has changed or a tool's figures went backwards.
    fn report(&self, stage: Stage, done: u64, total: u64, text: &str) {
        let mut reports = self.progress.borrow_mut();
        let mut next = Progress { stage, done, total, text: text.to_owned() };
        if let Some(last) = reports.last.as_ref().filter(|last| last.stage == stage && last.total == total) {
            next.done = next.done.max(last.done);
        }
        if reports.last.as_ref() != Some(&next) {
            reports.last = Some(next.clone());
            (reports.send)(next);
        }
    }
}

impl ImageStore {
    /// Builds an image and gives it its name.
    ///
    /// Always builds from the packages that the archive has now, except that a build which had to wait for one of the
    /// same kind returns what that made, and that a build which was killed within the last day is taken up where it
    /// was. `progress` is called from another thread, up to some hundred times a second.
    ///
    /// Dropping the future cancels the build: it kills the tools, waits for them to be gone, and removes what was half
    /// made (up to about a second). Downloads stay in the cache.
    ///
    /// # Errors
    /// See [`ImageError`]; whatever happens, images and names are as before.
    pub async fn build(
        &self,
        spec: BuildSpec,
        progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Image, ImageError> {
        let cancel = Arc::new(Cancel::default());
        let (send, result) = oneshot::channel();
        let layout = self.layout().clone();
        let (stop, progress) = (Arc::clone(&cancel), Box::new(progress));
        let thread = thread::Builder::new().name("hearth-image-build".to_owned()).spawn(move || {
            // Nobody listens any more when the build was cancelled.
            let _ = send.send(build(&layout, &spec, &stop, progress));
        });
        let thread = thread.map_err(|source| ImageError::Thread { source })?;
        let _job = Job { cancel, thread: Some(thread) };
        result.await.unwrap_or_else(|_| Err(ImageError::Thread { source: std::io::Error::other("it panicked") }))
    }
}

/// A running build; dropping it stops the build and waits for its end.
struct Job {
    cancel: Arc<Cancel>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Job {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic has been reported as the build's error.
            let _ = thread.join();
        }
    }
}

fn build(
    layout: &Layout,
    spec: &BuildSpec,
    cancel: &Cancel,
    progress: Box<dyn FnMut(Progress) + Send>,
) -> Result<Image, ImageError> {
    layout.make()?;
    preflight::check(layout, spec)?;
    let key = spec.digest()?;
    let staging = layout.staging().join(key.as_str());
    let lock_path = |kind| layout.locks().join(format!("{kind}-{key}"));
    let context = Context {
        runner: Runner { cancel, lock: lock_path("run") },
        key: key.clone(),
        staging: &staging,
        cache: &layout.cache(),
        progress: RefCell::new(Reports { send: progress, last: None }),
    };
    let waiting = || context.report(Stage::Wait, 0, 0, "another build of this image is running");
    let (_locked, waited) = lock::exclusive(&lock_path("build"), &context.runner, waiting)?;
    // Unless it has been removed again, what the other made is as new as anything this one could make.
    if waited
        && let Some(image) = layout.built_from(&key)?
        && let Ok(image) = layout.name(&spec.name, image)
    {
        return Ok(image);
    }
    prepare_staging(&context)?;
    let built = stages(layout, &context, spec);
    if matches!(built, Ok(_) | Err(ImageError::Cancelled)) {
        files::remove(&staging)?;
    }
    built
}

/// Removes what a killed build left half made, once none of its processes is left, and what is too old to use.
fn prepare_staging(context: &Context<'_>) -> Result<(), ImageError> {
    files::make_directory(context.staging)?;
    // Starts when the last process of an earlier build has let go of the lock.
    context.runner.run_well(&Tool::new("true", "waiting for an earlier build to end"), &mut |_| {})?;
    assemble::sweep_scratch(context)?;
    for entry in files::entries(context.staging)? {
        if entry.extension().is_some_and(|ending| ending == "partial") || is_old(&entry) {
            files::remove(&entry)?;
        }
    }
    Ok(())
}

/// Tells whether something was finished too long ago, or at a time that has not come yet.
pub(crate) fn is_old(path: &Path) -> bool {
    let changed = fs::metadata(path).and_then(|found| found.modified());
    changed.is_ok_and(|time| SystemTime::now().duration_since(time).map_or(true, |age| age > STAGE_LIFE))
}

fn stages(layout: &Layout, context: &Context<'_>, spec: &BuildSpec) -> Result<Image, ImageError> {
    let debs = context.staging.join("debs");
    let fetched = fetch_once(context, spec, &debs)?;
    let assembled =
        once(context, "assembled", |to| assemble::assemble(context, spec, &debs, fetched.packages.len(), to))?;
    let kernel = once(context, "kernel", |to| take_kernel(context, spec, &debs, fetched.kernel.as_deref(), to))?;
    publish(layout, context, spec, &Parts { assembled, kernel, kernel_deb: fetched.kernel })
}

/// Fetches the packages, unless an earlier build has.
fn fetch_once(context: &Context<'_>, spec: &BuildSpec, debs: &Path) -> Result<apt::Fetched, ImageError> {
    let record = context.staging.join("fetched.json");
    if record.exists() {
        return files::read_record(&record);
    }
    files::remove(debs)?;
    let fetched = apt::fetch(context, spec, debs)?;
    files::write_record(&record, &fetched)?;
    Ok(fetched)
}

/// Runs a stage that fills a directory, unless that directory is there already.
fn once(
    context: &Context<'_>,
    name: &str,
    stage: impl FnOnce(&Path) -> Result<(), ImageError>,
) -> Result<PathBuf, ImageError> {
    let done = context.staging.join(name);
    if !done.exists() {
        let partial = files::beside(&done, "partial");
        let result = files::make_directory(&partial).and_then(|()| stage(&partial));
        if let Err(error) = result {
            files::remove(&partial)?;
            return Err(error);
        }
        files::sync_tree(&partial)?;
        fs::rename(&partial, &done).writing(&done)?;
    }
    context.runner.cancel.check()?;
    Ok(done)
}

/// Takes the kernel out of its package, or from where the caller has it.
fn take_kernel(
    context: &Context<'_>,
    spec: &BuildSpec,
    debs: &Path,
    deb: Option<&str>,
    to: &Path,
) -> Result<(), ImageError> {
    context.report(Stage::Kernel, 0, 2, "unpacking");
    let unpacked = to.join("unpacked");
    let (kernel, modules) = match &spec.kernel {
        KernelSource::File { kernel, modules } => (kernel.clone(), modules.clone()),
        KernelSource::Debian => {
            let deb = debs.join(deb.unwrap_or_default());
            let tool = Tool::new("dpkg-deb", "unpacking the kernel").arg("-x").arg(deb).arg(&unpacked);
            context.runner.run_well(&tool, &mut |_| {})?;
            find_kernel(&unpacked)?
        }
    };
    context.report(Stage::Kernel, 1, 2, "modules");
    kernel::import(&kernel, modules.as_deref(), &to.join(image::files::KERNEL), &to.join(image::files::MODULES))?;
    files::remove(&unpacked)?;
    context.report(Stage::Kernel, 2, 2, "modules");
    Ok(())
}

/// Finds the kernel and its modules in an unpacked package; since trixie the modules are below `usr`.
fn find_kernel(unpacked: &Path) -> Result<(PathBuf, Option<PathBuf>), ImageError> {
    let incomplete =
        |missing: &str| ImageError::Incomplete { doing: "unpacking the kernel", missing: missing.to_owned() };
    let is_kernel =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"));
    let kernel = files::entries(&unpacked.join("boot"))?.into_iter().find(is_kernel);
    let modules =
        ["lib/modules", "usr/lib/modules"].map(|path| unpacked.join(path)).into_iter().find(|path| path.is_dir());
    Ok((kernel.ok_or_else(|| incomplete("vmlinuz"))?, Some(modules.ok_or_else(|| incomplete("modules"))?)))
}

/// What the stages left.
struct Parts {
    assembled: PathBuf,
    kernel: PathBuf,
    kernel_deb: Option<String>,
}

/// Describes the parts, moves them together and hands them to the store.
fn publish(layout: &Layout, context: &Context<'_>, spec: &BuildSpec, parts: &Parts) -> Result<Image, ImageError> {
    let manifest = describe(context, spec, parts)?;
    let whole = context.staging.join("image.partial");
    files::remove(&whole)?;
    files::make_directory(&whole)?;
    // Links, so that a kill here leaves the stages as they were.
    let link = |from: PathBuf, name| {
        let to = whole.join(name);
        fs::hard_link(&from, &to).writing(to)
    };
    link(parts.assembled.join(assemble::ROOTFS), image::files::ROOTFS)?;
    link(parts.kernel.join(image::files::KERNEL), image::files::KERNEL)?;
    link_tree(&parts.kernel.join(image::files::MODULES), &whole.join(image::files::MODULES))?;
    files::write_record(&whole.join(image::files::MANIFEST), &manifest)?;
    files::write_whole(&whole.join(image::files::LOCK), b"")?;
    files::sync_tree(&whole)?;
    context.runner.cancel.check()?;
    layout.publish(&spec.name, &whole, manifest)
}

fn link_tree(from: &Path, to: &Path) -> Result<(), ImageError> {
    for file in files::files_below(from)? {
        let target = to.join(file.strip_prefix(from).unwrap_or(&file));
        files::make_directory(target.parent().unwrap_or(to))?;
        fs::hard_link(&file, &target).writing(target)?;
    }
    Ok(())
}

fn describe(context: &Context<'_>, spec: &BuildSpec, parts: &Parts) -> Result<Manifest, ImageError> {
    let rootfs = parts.assembled.join(assemble::ROOTFS);
    let kernel = parts.kernel.join(image::files::KERNEL);
    let modules = files::files_below(&parts.kernel.join(image::files::MODULES))?;
    let size = |path: &PathBuf| fs::metadata(path).map(|found| found.len()).reading(path);
    let modules_bytes = modules.iter().map(size).sum::<Result<u64, _>>()?;
    let (rootfs_bytes, kernel_bytes) = (size(&rootfs)?, size(&kernel)?);
    let total = rootfs_bytes + kernel_bytes + modules_bytes;
    let mut done = 0;
    let mut on_bytes = |bytes| {
        done += bytes;
        context.report(Stage::Publish, done, total, "checking");
    };
    let mut sums = Vec::new();
    for path in &modules {
        let relative = path.strip_prefix(&parts.kernel).unwrap_or(path).to_string_lossy().into_owned();
        sums.push((relative, files::digest_of(path, &mut on_bytes)?));
    }
    Ok(Manifest {
        format: image::FORMAT,
        suite: spec.suite.clone(),
        user: assemble::USER.to_owned(),
        packages: assemble::read_packages(&parts.assembled)?,
        rootfs: files::digest_of(&rootfs, &mut on_bytes)?,
        rootfs_bytes,
        kernel: KernelManifest {
            release: kernel::release_of(&kernel)?,
            package: parts.kernel_deb.as_deref().map(package_of),
            digest: files::digest_of(&kernel, &mut on_bytes)?,
            bytes: kernel_bytes,
            modules: files::digest_of_record(&sums),
            modules_bytes,
        },
        spec: context.key.clone(),
        created: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs()),
    })
}

/// Turns `NAME_VERSION_ARCHITECTURE.deb` into `NAME VERSION`.
fn package_of(file: &str) -> String {
    file.replace("%3a", ":").split('_').take(2).collect::<Vec<_>>().join(" ")
}
