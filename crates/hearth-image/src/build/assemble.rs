//! Turns fetched packages into a root filesystem: `mmdebstrap` unpacks and configures them, `customize.sh` adds what
//! is Hearth's and packs the result, all in one namespace, where owners and capabilities are what they should be.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::{
    Context,
    apt::{self, KEYRING},
    run::{Cancel, Finished, Runner, Tool, failure},
    spec::BuildSpec,
};
use crate::{ImageError, Package, Stage, error::At, files};

/// The rules by which the packages' directory becomes an image.
pub(super) const CUSTOMIZE: &str = include_str!("customize.sh");

/// The ordinary user of every image.
pub(super) const USER: &str = "user";

/// The time that every file gets, so that the same packages give the same image: 2023-01-01.
const FILE_TIME: &str = "1672531200";
/// The filesystem's id, fixed for the same reason.
const FILESYSTEM_ID: &str = "68656172-7468-4000-8000-000000000001";

/// The names of what is made, within the directory that is given.
pub(super) const ROOTFS: &str = "rootfs.erofs";
const PACKAGES: &str = "packages";

/// dpkg's settings, for the build and in the image: no syncing of each file, because neither outlives a power cut, and
/// no documentation and translations, which nobody reads in a sandbox; licences stay.
const DPKG_OPTIONS: [&str; 8] = [
    "force-unsafe-io",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/linda/*",
];

/// Makes `rootfs.erofs` and the list of packages in `to`, from the package files in `debs`.
pub(super) fn assemble(
    context: &Context<'_>,
    spec: &BuildSpec,
    debs: &Path,
    count: usize,
    to: &Path,
) -> Result<(), ImageError> {
    files::make_directory(to)?;
    let scratch = Scratch::create(context)?;
    let tool = tool(spec, debs, to, &scratch);
    let mut steps = Steps { context, done: 0, total: count as u64 * 2 };
    let finished = context.runner.run(&tool, &mut |line| steps.line(line));
    scratch.remove(context)?;
    let finished = finished?;
    if !finished.status.success() {
        return Err(explain(&tool, finished, spec));
    }
    if to.join(ROOTFS).is_file() {
        Ok(())
    } else {
        Err(ImageError::Incomplete { doing: tool.doing, missing: ROOTFS.to_owned() })
    }
}

/// Reads the list of installed packages that `customize.sh` left.
pub(super) fn read_packages(from: &Path) -> Result<Vec<Package>, ImageError> {
    let path = from.join(PACKAGES);
    let list = fs::read_to_string(&path).reading(&path)?;
    let mut packages: Vec<Package> = list.lines().filter_map(parse_package).collect();
    packages.sort();
    Ok(packages)
}

fn parse_package(line: &str) -> Option<Package> {
    let mut words = line.split('\t').map(str::to_owned);
    Some(Package { name: words.next()?, version: words.next()?, architecture: words.next()? })
}

fn tool(spec: &BuildSpec, debs: &Path, to: &Path, scratch: &Scratch) -> Tool {
    let mode = if rustix::process::geteuid().is_root() { "root" } else { "unshare" };
    Tool::new("mmdebstrap", "installing the packages")
        .isolated()
        .env("TMPDIR", &scratch.directory)
        .env("SOURCE_DATE_EPOCH", FILE_TIME)
        .env("HEARTH_USER", USER)
        .env("HEARTH_UUID", FILESYSTEM_ID)
        // mmdebstrap splits its hooks' arguments into words, so paths are given by a directory instead.
        .directory(to)
        .args(["--verbose", "--variant=apt", "--format=null"])
        .arg(format!("--mode={mode}"))
        .arg(format!("--include={}", spec.all_packages().join(",")))
        .args(DPKG_OPTIONS.map(|option| format!("--dpkgopt={option}")))
        // customize.sh tidies up before it packs; what mmdebstrap would tidy afterwards is thrown away.
        .arg("--skip=cleanup/apt,cleanup/mmdebstrap,cleanup/reproducible,cleanup/run,cleanup/tmp")
        .arg("--setup-hook=mkdir -p \"$1/var/cache/apt/archives\"")
        .arg(format!("--setup-hook=sync-in {} /var/cache/apt/archives", relative(debs, to).display()))
        // By the environment, because mmdebstrap repeats its hooks word by word whenever one fails.
        .env("HEARTH_CUSTOMIZE", CUSTOMIZE)
        .arg("--customize-hook=sh -c \"$HEARTH_CUSTOMIZE\" customize \"$1\"")
        .arg(format!("--customize-hook=download /.hearth/{ROOTFS} {ROOTFS}"))
        .arg(format!("--customize-hook=download /.hearth/{PACKAGES} {PACKAGES}"))
        .args([spec.suite.as_str(), "-"])
        .args(spec.mirror.sources(&spec.suite, KEYRING))
}

/// Names a sibling directory from within another.
fn relative(sibling: &Path, from: &Path) -> PathBuf {
    debug_assert_eq!(sibling.parent(), from.parent());
    Path::new("..").join(sibling.file_name().unwrap_or_default())
}

fn explain(tool: &Tool, finished: Finished, spec: &BuildSpec) -> ImageError {
    let output = &finished.tail;
    let refused = ["unshare() failed", "newuidmap", "cannot unshare"].iter().any(|text| output.contains(text));
    if refused && !rustix::process::geteuid().is_root() {
        return ImageError::NamespacesRefused { detail: finished.tail };
    }
    apt::explain(output, spec).unwrap_or_else(|| failure(tool, finished))
}

/// Follows what `mmdebstrap` says. Each package is unpacked once and set up once.
struct Steps<'a> {
    context: &'a Context<'a>,
    done: u64,
    total: u64,
}

impl Steps<'_> {
    fn line(&mut self, line: &str) {
        let unpacked = line.strip_prefix("Unpacking ").or_else(|| line.strip_prefix("Setting up "));
        if let Some(rest) = unpacked {
            self.done = (self.done + 1).min(self.total);
            let package = rest.split([' ', ':']).next().unwrap_or_default();
            self.context.report(Stage::Install, self.done, self.total, package);
        } else if let Some(phase) = line.strip_prefix("I: ").filter(|text| text.ends_with("...")) {
            self.context.report(Stage::Install, self.done, self.total, phase.trim_end_matches('.'));
        } else if let Some(step) = line.strip_prefix("hearth-step: ") {
            let at = ["users", "settings", "packages", "tidy", "compile", "pack", "packed"];
            let done = at.iter().position(|name| *name == step).unwrap_or_default() as u64;
            self.context.report(Stage::Pack, done, at.len() as u64 - 1, step);
        }
    }
}

/// The directory in which `mmdebstrap` unpacks packages.
///
/// In a namespace of an ordinary user its files belong to that user's subordinate ids, for whom the way there must
/// be open; a store below a closed home is not. It then lies in `/var/tmp`, and the staging directory remembers where.
struct Scratch {
    directory: PathBuf,
    record: PathBuf,
}

impl Scratch {
    fn create(context: &Context<'_>) -> Result<Self, ImageError> {
        let record = context.staging.join("scratch.path");
        let name = format!("hearth-image-{}-{}", context.key.short(), std::process::id());
        let directory = scratch_parent(context.staging).join(name);
        files::write_record(&record, &directory)?;
        let scratch = Scratch { directory, record };
        fs::create_dir(&scratch.directory).writing(&scratch.directory)?;
        fs::set_permissions(&scratch.directory, fs::Permissions::from_mode(0o711)).writing(&scratch.directory)?;
        Ok(scratch)
    }

    fn remove(&self, context: &Context<'_>) -> Result<(), ImageError> {
        remove_tree(context, &self.directory)?;
        files::remove(&self.record)
    }
}

/// Removes what a killed build left in its scratch directory.
pub(super) fn sweep_scratch(context: &Context<'_>) -> Result<(), ImageError> {
    let record = context.staging.join("scratch.path");
    if !record.exists() {
        return Ok(());
    }
    Scratch { directory: files::read_record(&record)?, record }.remove(context)
}

/// Removes a tree, parts of which may belong to the user's subordinate ids.
fn remove_tree(context: &Context<'_>, tree: &Path) -> Result<(), ImageError> {
    let owner = fs::symlink_metadata(tree).map(|found| found.uid());
    if owner.is_ok_and(|uid| uid != rustix::process::geteuid().as_raw()) {
        return Err(io::ErrorKind::PermissionDenied.into()).writing(tree);
    }
    let Err(error) = files::remove(tree) else { return Ok(()) };
    if rustix::process::geteuid().is_root() {
        return Err(error);
    }
    let runner = Runner { cancel: &Cancel::default(), lock: context.runner.lock.clone() };
    // Inside the namespace the tree's upper two levels cannot be removed, and outside it nothing else can. What the
    // first leaves for any other reason, the second reports.
    let tool = Tool::new("mmdebstrap", "cleaning up").args(["--unshare-helper", "find"]);
    let tool = tool.arg(tree).args(["-mindepth", "2", "-delete"]);
    runner.run(&tool, &mut |_| {})?;
    files::remove(tree)
}

/// Returns the directory that a scratch directory goes into.
pub(super) fn scratch_parent(staging: &Path) -> PathBuf {
    let here = rustix::process::geteuid().is_root() || is_open(staging);
    if here { staging.to_owned() } else { PathBuf::from("/var/tmp") }
}

/// Tells whether everybody may pass through a directory and all those above it.
fn is_open(directory: &Path) -> bool {
    directory.ancestors().all(|above| fs::metadata(above).is_ok_and(|found| found.mode() & 0o001 != 0))
}
