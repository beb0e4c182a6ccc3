//! Fetches the packages of an image, before anything is unpacked.
//!
//! apt does this with a configuration, lists and a cache of its own in the store, so it needs no privileges and takes
//! nothing from the host's configuration but its proxies; and what was fetched before a kill or a lost network is not
//! fetched again. `mmdebstrap` then finds every package in its cache.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    Context,
    run::{Finished, Tool, failure},
    spec::{BuildSpec, KernelSource},
};
use crate::{ImageError, Stage, error::At, files, lock};

/// Where Debian and Ubuntu install Debian's keys, on hosts and in images.
pub(super) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The package whose dependency is the suite's kernel for virtual machines.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

/// What was fetched: file names in the directory of packages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fetched {
    /// The root filesystem's packages.
    pub(super) packages: Vec<String>,
    /// The kernel's package, unless the caller brings a kernel.
    pub(super) kernel: Option<String>,
}

/// A file that apt would fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    file: String,
    bytes: u64,
}

/// Fetches everything into `to`, as hard links into the store's cache.
pub(super) fn fetch(context: &Context<'_>, spec: &BuildSpec, to: &Path) -> Result<Fetched, ImageError> {
    let cache = Cache::new(context, spec)?;
    let waiting = || context.report(Stage::Wait, 0, 0, "another build is fetching packages");
    let (_locked, _) = lock::exclusive(&files::beside(&cache.directory, "lock"), &context.runner, waiting)?;
    cache.configure()?;
    cache.update()?;
    let kernel = match spec.kernel {
        KernelSource::Debian => Some(cache.kernel_package()?),
        KernelSource::File { .. } => None,
    };
    let mut wanted = cache.wanted_packages()?;
    let packages = wanted.iter().map(|file| file.file.clone()).collect();
    let kernel_file = kernel.as_ref().map(|package| cache.wanted_kernel(package)).transpose()?;
    wanted.extend(kernel_file.clone());
    cache.download(&wanted, kernel.as_deref())?;
    cache.link(&wanted, to)?;
    cache.prune(&wanted)?;
    Ok(Fetched { packages, kernel: kernel_file.map(|file| file.file) })
}

/// apt's directories for one set of sources.
struct Cache<'a> {
    context: &'a Context<'a>,
    spec: &'a BuildSpec,
    directory: PathBuf,
}

impl<'a> Cache<'a> {
    fn new(context: &'a Context<'a>, spec: &'a BuildSpec) -> Result<Self, ImageError> {
        let sources = spec.mirror.sources(&spec.suite, KEYRING);
        let name = format!("{}-{}", spec.suite, files::digest_of_record(&sources).short());
        files::make_directory(context.cache)?;
        Ok(Cache { context, spec, directory: context.cache.join(name) })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn configure(&self) -> Result<(), ImageError> {
        let directories = ["lists/partial", "archives/partial", "etc/apt.conf.d", "etc/preferences.d", "none/partial"];
        for directory in directories {
            files::make_directory(&self.path(directory))?;
        }
        let sources = self.spec.mirror.sources(&self.spec.suite, KEYRING).join("\n") + "\n";
        files::write_whole(&self.path("etc/sources.list"), sources.as_bytes())?;
        files::write_whole(&self.path("status"), b"")?;
        let config = format!("{}{}", self.configuration(), self.host_proxies()?);
        files::write_whole(&self.path("apt.conf"), config.as_bytes())
    }

    fn configuration(&self) -> String {
        let root = self.directory.display();
        format!(
            "Dir::State \"{root}\";\nDir::State::status \"{root}/status\";\nDir::Cache \"{root}\";\n\
             Dir::Cache::archives \"{root}/archives\";\nDir::Etc \"{root}/etc\";\nDir::Log \"{root}/log\";\n\
             APT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\nAPT::Sandbox::User \"root\";\n\
             APT::Install-Recommends \"false\";\nAcquire::Languages \"none\";\nAcquire::Retries \"2\";\n\
             Acquire::http::Timeout \"30\";\nAcquire::https::Timeout \"30\";\n"
        )
    }

    /// Copies the proxies that the host's apt is configured with, without which it may reach nothing.
    fn host_proxies(&self) -> Result<String, ImageError> {
        let tool = Tool::new("apt-config", "reading apt's proxies").arg("dump");
        let (_, settings) = self.context.runner.capture(&tool)?;
        let is_proxy = |line: &&str| line.starts_with("Acquire::http") && line.contains("::Proxy");
        Ok(settings.lines().filter(is_proxy).map(|line| format!("{line}\n")).collect())
    }

    fn apt(&self, name: &'static str, doing: &'static str) -> Tool {
        Tool::new(name, doing).env("APT_CONFIG", self.path("apt.conf"))
    }

    fn update(&self) -> Result<(), ImageError> {
        let tool = self.apt("apt-get", "fetching the package lists").args(["update", "--error-on=any", STATUS]);
        self.run(&tool, &mut |line| {
            if let Some(percent) = fetched_percent(line) {
                self.context.report(Stage::Resolve, percent, 100, "package lists");
            }
        })
    }

    /// Asks which kernel package the suite's metapackage depends on.
    fn kernel_package(&self) -> Result<String, ImageError> {
        let tool = self.apt("apt-cache", "looking up the kernel").args(["show", "--no-all-versions", KERNEL_PACKAGE]);
        let (finished, record) = self.context.runner.capture(&tool)?;
        let missing = || ImageError::UnknownPackage { package: KERNEL_PACKAGE.to_owned(), suite: self.suite() };
        if !finished.status.success() {
            return Err(missing());
        }
        first_dependency(&record).ok_or_else(missing)
    }

    fn wanted_packages(&self) -> Result<Vec<Wanted>, ImageError> {
        let tool = self.apt("apt-get", "looking up the packages");
        let none = format!("-oDir::Cache::archives={}", self.path("none").display());
        let tool = tool.args(["install", "--yes", "--print-uris"]).arg(none).args(self.arguments());
        let mut wanted = Vec::new();
        self.run(&tool, &mut |line| wanted.extend(parse_wanted(line)))?;
        Ok(wanted)
    }

    fn wanted_kernel(&self, package: &str) -> Result<Wanted, ImageError> {
        let tool = self.apt("apt-get", "looking up the kernel").args(["download", "--print-uris", package]);
        let mut wanted = Vec::new();
        self.run(&tool, &mut |line| wanted.extend(parse_wanted(line)))?;
        wanted.pop().ok_or_else(|| ImageError::UnknownPackage { package: package.to_owned(), suite: self.suite() })
    }

    /// `?essential` is what `mmdebstrap` starts from; the rest it installs on top.
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["?essential".to_owned(), "apt".to_owned()];
        arguments.extend(self.spec.all_packages());
        arguments
    }

    fn download(&self, wanted: &[Wanted], kernel: Option<&str>) -> Result<(), ImageError> {
        let archives = self.path("archives");
        let missing = |file: &&Wanted| fs::metadata(archives.join(&file.file)).map_or(true, |m| m.len() != file.bytes);
        let total: u64 = wanted.iter().map(|file| file.bytes).sum();
        let to_fetch: u64 = wanted.iter().filter(missing).map(|file| file.bytes).sum();
        let kernel_bytes = kernel.and(wanted.last()).filter(missing).map_or(0, |file| file.bytes);
        let had = total - to_fetch;
        self.context.report(Stage::Download, had, total, "packages");
        let packages_bytes = to_fetch - kernel_bytes;
        let tool = self.apt("apt-get", "fetching the packages").args(["install", "--yes", "--download-only", STATUS]);
        self.download_part(&tool.args(self.arguments()), had, packages_bytes, total)?;
        if let Some(package) = kernel {
            let tool = self.apt("apt-get", "fetching the kernel").directory(archives);
            self.download_part(&tool.args(["download", STATUS, package]), had + packages_bytes, kernel_bytes, total)?;
        }
        self.context.report(Stage::Download, total, total, "packages");
        Ok(())
    }

    fn download_part(&self, tool: &Tool, before: u64, bytes: u64, total: u64) -> Result<(), ImageError> {
        let mut text = String::new();
        self.run(tool, &mut |line| {
            if let Some(package) = fetched_package(line) {
                text = package.to_owned();
            }
            if let Some(percent) = fetched_percent(line) {
                self.context.report(Stage::Download, before + bytes * percent / 100, total, &text);
            }
        })
    }

    /// Links the files, so that a later build cannot take them out of the cache under this one.
    fn link(&self, wanted: &[Wanted], to: &Path) -> Result<(), ImageError> {
        files::make_directory(to)?;
        for file in wanted {
            let target = to.join(&file.file);
            files::remove(&target)?;
            fs::hard_link(self.path("archives").join(&file.file), &target).writing(target)?;
        }
        Ok(())
    }

    /// Removes other versions of the packages that were just used, which no build will ask for again.
    fn prune(&self, wanted: &[Wanted]) -> Result<(), ImageError> {
        for path in files::entries(&self.path("archives"))? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let package = name.split('_').next().unwrap_or_default();
            let superseded = |file: &&Wanted| file.file.split('_').next() == Some(package) && file.file != name;
            if name.ends_with(".deb") && wanted.iter().any(|file| superseded(&file)) {
                files::remove(&path)?;
            }
        }
        Ok(())
    }

    fn run(&self, tool: &Tool, on_line: &mut dyn FnMut(&str)) -> Result<(), ImageError> {
        let finished = self.context.runner.run(tool, on_line)?;
        if finished.status.success() { Ok(()) } else { Err(self.explain(tool, finished)) }
    }

    fn suite(&self) -> String {
        self.spec.suite.to_string()
    }

    fn explain(&self, tool: &Tool, finished: Finished) -> ImageError {
        explain(&finished.tail, self.spec).unwrap_or_else(|| failure(tool, finished))
    }
}

/// Makes apt report how far it is, on a line of its own, among what it says.
const STATUS: &str = "-oAPT::Status-Fd=1";

/// Finds out what apt's complaint means; `None` when it is none that is known.
pub(super) fn explain(output: &str, spec: &BuildSpec) -> Option<ImageError> {
    let suite = spec.suite.to_string();
    let mirror = spec.mirror.archive().to_owned();
    let has = |text: &str| output.contains(text);
    if has("No space left on device") || has("enough free space") {
        return None;
    }
    if let Some(package) =
        between(output, "Unable to locate package ", "\n").or(between(output, "Package '", "' has no"))
    {
        return Some(ImageError::UnknownPackage { package: package.trim().to_owned(), suite });
    }
    if has("does not have a Release file") && has("404") {
        return Some(ImageError::UnknownSuite { suite, mirror });
    }
    if has("unmet dependencies") || has("held broken packages") {
        return Some(ImageError::Unsatisfiable { detail: output.to_owned() });
    }
    let network = ["Failed to fetch", "Err:", "Could not connect", "does not have a Release file", "is not signed"];
    network.iter().any(|text| has(text)).then(|| ImageError::Mirror { mirror, detail: output.to_owned() })
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let rest = &text[text.find(before)? + before.len()..];
    Some(&rest[..rest.find(after).unwrap_or(rest.len())])
}

/// Reads a line of `--print-uris`: `'URL' FILE BYTES HASH`.
fn parse_wanted(line: &str) -> Option<Wanted> {
    let mut words = line.strip_prefix('\'')?.split_whitespace().skip(1);
    let file = words.next()?.to_owned();
    let bytes = words.next()?.parse().ok()?;
    (file.ends_with(".deb") && !file.contains('/')).then_some(Wanted { file, bytes })
}

/// Reads how far a download is from a line `dlstatus:FILE:PERCENT:TEXT`.
fn fetched_percent(line: &str) -> Option<u64> {
    let percent: f64 = line.strip_prefix("dlstatus:")?.split(':').nth(1)?.parse().ok()?;
    Some(percent.clamp(0.0, 100.0) as u64)
}

/// Reads the package's name from a line `Get:1 URL SUITE ARCHITECTURE PACKAGE ARCHITECTURE VERSION [SIZE]`.
fn fetched_package(line: &str) -> Option<&str> {
    line.strip_prefix("Get:")?.split_whitespace().nth(4)
}

/// Reads the first dependency from a package's record.
fn first_dependency(record: &str) -> Option<String> {
    let depends = record.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    depends.split([' ', ',']).next().filter(|name| !name.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageName;

    #[test]
    fn what_apt_would_fetch_is_read() {
        let line = "'http://d/pool/git_2%3a1_amd64.deb' git_1%3a2.39.5-0+deb12u3_amd64.deb 7264380 MD5Sum:b493";
        let wanted = Wanted { file: "git_1%3a2.39.5-0+deb12u3_amd64.deb".to_owned(), bytes: 7_264_380 };
        assert_eq!(parse_wanted(line), Some(wanted));
        assert_eq!(parse_wanted("Reading package lists..."), None);
        assert_eq!(parse_wanted("'http://d/x' ../../evil.deb 1 MD5Sum:0"), None);
    }

    #[test]
    fn progress_is_read_from_what_apt_says() {
        assert_eq!(fetched_percent("dlstatus:7:90.1212:Retrieving file 7 of 9"), Some(90));
        assert_eq!(fetched_percent("dlstatus:7:x:"), None);
        let line = "Get:127 http://deb.debian.org/debian bookworm/main amd64 git amd64 1:2.39.5 [7264 kB]";
        assert_eq!(fetched_package(line), Some("git"));
    }

    #[test]
    fn the_kernel_is_what_its_metapackage_depends_on() {
        let record = "Package: linux-image-cloud-amd64\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n";
        assert_eq!(first_dependency(record).unwrap(), "linux-image-6.1.0-56-cloud-amd64");
        assert_eq!(first_dependency("Package: x\n"), None);
    }

    #[test]
    fn complaints_of_apt_become_errors_with_a_name() {
        let spec = BuildSpec::new(ImageName::new("x").unwrap());
        let explain = |output: &str| explain(output, &spec);
        let unknown = explain("Reading package lists...\nE: Unable to locate package nosuch\nE: x");
        assert!(matches!(unknown, Some(ImageError::UnknownPackage { package, .. }) if package == "nosuch"));
        let unknown = explain("E: Package 'virtual' has no installation candidate");
        assert!(matches!(unknown, Some(ImageError::UnknownPackage { package, .. }) if package == "virtual"));
        let suite = explain(
            "Err:1 http://x nosuch Release\n  404  Not Found\nE: The repository 'http://x nosuch Release' does not have a Release file.",
        );
        assert!(matches!(suite, Some(ImageError::UnknownSuite { .. })));
        let network = explain("Err:1 http://x bookworm InRelease\n  Could not resolve 'x'");
        assert!(matches!(network, Some(ImageError::Mirror { .. })));
        let conflict = explain("The following packages have unmet dependencies:\n a : Conflicts: b");
        assert!(matches!(conflict, Some(ImageError::Unsatisfiable { .. })));
        assert!(explain("E: Write error - write (28: No space left on device)\nErr:1 x").is_none());
        assert!(explain("something else").is_none());
    }
}
