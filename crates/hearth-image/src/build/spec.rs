//! What a caller asks for.

use std::path::PathBuf;

use serde::Serialize;

use crate::{Digest, ImageError, ImageName, PackageName, Suite, files, image};

/// The packages of every image, beside the essential ones and apt.
const BASE_PACKAGES: [&str; 7] = ["bash", "ca-certificates", "coreutils", "git", "passwd", "python3", "sudo"];

/// What an image is to be built from.
#[derive(Debug, Clone)]
pub struct BuildSpec {
    /// The name that the image gets; one that had it before loses it when the build is done.
    pub name: ImageName,
    /// The Debian suite.
    pub suite: Suite,
    /// Packages beside those that every image has: bash, coreutils, git, python3, ca-certificates and sudo.
    pub packages: Vec<PackageName>,
    /// The kernel.
    pub kernel: KernelSource,
    /// Where packages come from.
    pub mirror: Mirror,
}

impl BuildSpec {
    /// Asks for the default image under a name: bookworm with Debian's cloud kernel, from Debian's own mirrors.
    pub fn new(name: ImageName) -> Self {
        BuildSpec {
            name,
            suite: Suite::default(),
            packages: Vec::new(),
            kernel: KernelSource::Debian,
            mirror: Mirror::default(),
        }
    }

    /// Lists all packages to install, sorted, each once.
    pub(super) fn all_packages(&self) -> Vec<String> {
        let base = BASE_PACKAGES.iter().map(|name| (*name).to_owned());
        let mut all: Vec<String> = base.chain(self.packages.iter().map(PackageName::to_string)).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Computes the digest of all that decides what is built: the wishes but for the name, and this version's rules of
    /// building. An image whose [`Manifest::spec`](crate::Manifest::spec) is another was built from other wishes, or by
    /// another version.
    ///
    /// # Errors
    /// [`ImageError::Read`] when the kernel is a file that cannot be read.
    pub fn digest(&self) -> Result<Digest, ImageError> {
        #[derive(Serialize)]
        struct Key<'a> {
            format: u32,
            rules: &'a str,
            suite: &'a Suite,
            packages: Vec<String>,
            kernel: Option<(Digest, Option<PathBuf>)>,
            mirror: &'a Mirror,
        }
        let kernel = match &self.kernel {
            KernelSource::Debian => None,
            KernelSource::File { kernel, modules } => Some((files::digest_of(kernel, &mut |_| {})?, modules.clone())),
        };
        Ok(files::digest_of_record(&Key {
            format: image::FORMAT,
            rules: super::assemble::CUSTOMIZE,
            suite: &self.suite,
            packages: self.all_packages(),
            kernel,
            mirror: &self.mirror,
        }))
    }
}

/// Where an image's kernel comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum KernelSource {
    /// Debian's kernel for virtual machines: `linux-image-cloud-amd64` of the image's suite.
    #[default]
    Debian,
    /// A kernel of the caller's own.
    File {
        /// A bzImage (`vmlinuz`) or an ELF (`vmlinux`) for x86_64.
        kernel: PathBuf,
        /// Its `lib/modules/RELEASE`; without one, everything that a guest needs must be built in.
        modules: Option<PathBuf>,
    },
}

/// Where Debian packages come from: an archive, and the archive of security updates beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mirror {
    archive: String,
    security: String,
}

impl Default for Mirror {
    fn default() -> Self {
        Mirror {
            archive: "http://deb.debian.org/debian".to_owned(),
            security: "http://deb.debian.org/debian-security".to_owned(),
        }
    }
}

impl Mirror {
    /// Names an archive; security updates still come from Debian's own.
    ///
    /// # Errors
    /// [`ImageError::BadMirror`] unless it is an `http://`, `https://` or `file:///` address without spaces or brackets.
    pub fn new(archive: &str) -> Result<Self, ImageError> {
        Ok(Mirror { archive: checked_url(archive)?, ..Mirror::default() })
    }

    /// Names the archive of security updates.
    ///
    /// # Errors
    /// As [`Mirror::new`].
    pub fn with_security(self, security: &str) -> Result<Self, ImageError> {
        Ok(Mirror { security: checked_url(security)?, ..self })
    }

    /// Returns the archive's address.
    pub fn archive(&self) -> &str {
        &self.archive
    }

    /// Writes the lines of a `sources.list`, trusting the keys of the given keyring.
    pub(super) fn sources(&self, suite: &Suite, keyring: &str) -> Vec<String> {
        let line = |url: &str, suite: String| format!("deb [signed-by={keyring}] {url} {suite} main");
        let mut lines = vec![line(&self.archive, suite.to_string())];
        if suite.has_updates() {
            lines.push(line(&self.archive, format!("{suite}-updates")));
            lines.push(line(&self.security, format!("{suite}-security")));
        }
        lines
    }
}

fn checked_url(url: &str) -> Result<String, ImageError> {
    let rest = ["http://", "https://", "file://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    let good = |c: char| c.is_ascii_graphic() && !"[]\"'\\{};".contains(c);
    match rest {
        Some(rest) if !rest.is_empty() && rest.chars().all(good) => Ok(url.trim_end_matches('/').to_owned()),
        _ => Err(ImageError::BadMirror { url: url.chars().take(200).collect() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(packages: &[&str]) -> BuildSpec {
        let packages = packages.iter().map(|name| PackageName::new(*name).unwrap()).collect();
        BuildSpec { packages, ..BuildSpec::new(ImageName::new("x").unwrap()) }
    }

    #[test]
    fn the_same_wish_has_the_same_key_whatever_its_name_and_order() {
        let named = BuildSpec { name: ImageName::new("y").unwrap(), ..spec(&["jq", "curl"]) };
        assert_eq!(named.digest().unwrap(), spec(&["curl", "jq", "git"]).digest().unwrap());
        assert_ne!(named.digest().unwrap(), spec(&["curl"]).digest().unwrap());
    }

    #[test]
    fn a_mirror_cannot_smuggle_options_or_lines() {
        for url in ["", "http://", "ftp://x/", "http://a b", "http://a\nb", "[trusted=yes] http://a", "http://a\";x"] {
            assert!(matches!(Mirror::new(url), Err(ImageError::BadMirror { .. })), "{url:?}");
        }
        assert_eq!(Mirror::new("https://mirror.example/debian/").unwrap().archive(), "https://mirror.example/debian");
    }

    #[test]
    fn rolling_suites_have_no_updates() {
        let lines = |suite| Mirror::default().sources(&Suite::new(suite).unwrap(), "/k");
        assert_eq!(lines("sid"), ["deb [signed-by=/k] http://deb.debian.org/debian sid main"]);
        assert_eq!(lines("trixie").len(), 3);
        assert_eq!(lines("trixie")[2], "deb [signed-by=/k] http://deb.debian.org/debian-security trixie-security main");
    }
}
