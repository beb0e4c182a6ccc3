//! The store: every image that there is, by content, and the names that point at them.
//!
//! ```text
//! images/DIGEST/   rootfs.erofs, kernel, modules/, manifest.json, lock (shared by those who use the image)
//! names/NAME       the digest, and a line end
//! staging/KEY/     a build's finished stages and its unfinished one
//! cache/           what apt fetched
//! locks/           store (short, for names and images), build-KEY, run-KEY
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    Digest, Image, ImageError, ImageName, Manifest, build, error::At, files, image, lock, names::is_hexadecimal,
};

/// Digests may be cut to this many digits.
const PREFIX_MIN: usize = 6;

/// The images under one directory. Cheap to clone; any number of processes may use one directory at once.
#[derive(Debug, Clone)]
pub struct ImageStore {
    layout: Layout,
}

impl ImageStore {
    /// Opens the store in a directory and removes what killed builds left there more than a day ago. A directory that is missing is
    /// an empty store; the first build makes it.
    ///
    /// # Errors
    /// [`ImageError::Write`] when the directory cannot be written.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        let root = std::path::absolute(root).writing(root)?;
        let layout = Layout { root };
        if layout.locks().is_dir() {
            layout.sweep()?;
        }
        Ok(ImageStore { layout })
    }

    /// Lists the images by name; those without a name, which are still in use, come last.
    ///
    /// # Errors
    /// [`ImageError::Read`] or [`ImageError::Damaged`] when a record cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let named = self.layout.all_names()?;
        let mut digests = self.layout.digests()?;
        digests.retain(|digest| named.iter().all(|(_, other)| other != digest));
        let named = named.into_iter().map(|(name, digest)| (Some(name), digest));
        let all = named.chain(digests.into_iter().map(|digest| (None, digest)));
        // An image may be removed while the list is made.
        let listed = all.map(|(name, digest)| self.layout.image(name, &digest));
        listed.filter(|image| !matches!(image, Err(ImageError::NotFound { .. }))).collect()
    }

    /// Finds an image by its name, or by at least six digits of its digest that no other image's begins with.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::Ambiguous`], [`ImageError::BadReference`], or a record that cannot be read.
    pub fn inspect(&self, reference: &str) -> Result<Image, ImageError> {
        self.layout.find(reference)
    }

    /// Removes a name, or all names of an image given by digest; the image goes with its last name.
    ///
    /// # Errors
    /// [`ImageError::InUse`] when the image would go and something runs on it: then nothing has changed. Otherwise as
    /// [`ImageStore::inspect`].
    pub fn rm(&self, reference: &str) -> Result<(), ImageError> {
        // In a store that nothing was built in yet there is nothing to lock.
        self.layout.find(reference)?;
        let _locked = self.layout.lock()?;
        let image = self.layout.find(reference)?;
        let names = self.layout.all_names()?;
        let by_name = names.iter().any(|(name, _)| name.as_str() == reference);
        let goes =
            |name: &ImageName, digest: &Digest| *digest == image.digest && (!by_name || name.as_str() == reference);
        let (gone, kept): (Vec<_>, Vec<_>) = names.iter().partition(|(name, digest)| goes(name, digest));
        let last = kept.iter().all(|(_, digest)| *digest != image.digest);
        let claim = if last { Some(self.layout.claim(&image.digest)?) } else { None };
        if let Some(None) = claim {
            return Err(ImageError::InUse { reference: reference.to_owned() });
        }
        for (name, _) in gone {
            files::remove(&self.layout.names().join(name.as_str()))?;
        }
        files::sync_directory(&self.layout.names())?;
        if last { self.layout.discard(&image.digest) } else { Ok(()) }
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }
}

/// Where things are in a store, and the steps that change them.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    fn names(&self) -> PathBuf {
        self.root.join("names")
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    pub(crate) fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }

    /// Makes the directories that are missing.
    pub(crate) fn make(&self) -> Result<(), ImageError> {
        let directories = [self.images(), self.names(), self.staging(), self.cache(), self.locks()];
        directories.iter().try_for_each(|directory| files::make_directory(directory))
    }

    fn lock(&self) -> Result<lock::Locked, ImageError> {
        lock::brief(&self.locks().join("store"))
    }

    /// Puts a finished directory among the images and points a name at it.
    pub(crate) fn publish(&self, name: &ImageName, whole: &Path, manifest: Manifest) -> Result<Image, ImageError> {
        let digest = manifest.digest();
        self.make()?;
        let locked = self.lock()?;
        let directory = self.images().join(digest.as_str());
        // The same content, built before, stays: somebody may be using it.
        if !directory.exists() {
            fs::rename(whole, &directory).writing(&directory)?;
            files::sync_directory(&self.images())?;
        }
        self.point(name, &digest)?;
        let image = self.image(Some(name.clone()), &digest)?;
        drop(locked);
        self.sweep()?;
        Ok(image)
    }

    /// Points one more name at an image.
    pub(crate) fn name(&self, name: &ImageName, image: Image) -> Result<Image, ImageError> {
        let _locked = self.lock()?;
        self.point(name, &image.digest)?;
        self.image(Some(name.clone()), &image.digest)
    }

    fn point(&self, name: &ImageName, digest: &Digest) -> Result<(), ImageError> {
        files::write_whole(&self.names().join(name.as_str()), format!("{digest}\n").as_bytes())
    }

    /// Finds the newest image that was built from a specification.
    pub(crate) fn built_from(&self, spec: &Digest) -> Result<Option<Image>, ImageError> {
        let images = self.digests()?.into_iter().map(|digest| self.image(None, &digest));
        let mut images = images.filter_map(Result::ok).collect::<Vec<_>>();
        images.retain(|image| image.manifest.spec == *spec);
        Ok(images.into_iter().max_by_key(|image| image.manifest.created))
    }

    fn image(&self, name: Option<ImageName>, digest: &Digest) -> Result<Image, ImageError> {
        let directory = self.images().join(digest.as_str());
        if !directory.is_dir() {
            return Err(ImageError::NotFound { reference: digest.to_string() });
        }
        let manifest = match files::read_record(&directory.join(image::files::MANIFEST)) {
            Err(ImageError::Read { .. }) if !directory.is_dir() => {
                return Err(ImageError::NotFound { reference: digest.to_string() });
            }
            read => read?,
        };
        Ok(Image::new(name, digest.clone(), manifest, directory))
    }

    fn find(&self, reference: &str) -> Result<Image, ImageError> {
        let names = self.all_names()?;
        if let Some((name, digest)) = names.iter().find(|(name, _)| name.as_str() == reference) {
            return self.image(Some(name.clone()), digest);
        }
        let not_found = || ImageError::NotFound { reference: reference.chars().take(80).collect() };
        if reference.len() < PREFIX_MIN || !is_hexadecimal(reference) {
            ImageName::new(reference)?;
            return Err(not_found());
        }
        let mut matches = self.digests()?;
        matches.retain(|digest| digest.as_str().starts_with(reference));
        match matches.as_slice() {
            [] => Err(not_found()),
            [digest] => {
                let name = names.into_iter().find(|(_, named)| named == digest).map(|(name, _)| name);
                self.image(name, digest)
            }
            _ => Err(ImageError::Ambiguous { reference: reference.to_owned(), matches }),
        }
    }

    /// Lists names and the digests they point at, by name. Files that are no records are left alone.
    fn all_names(&self) -> Result<Vec<(ImageName, Digest)>, ImageError> {
        let mut names = Vec::new();
        for path in files::entries(&self.names())? {
            let Ok(name) = file_name(&path).parse::<ImageName>() else { continue };
            let digest = match fs::read_to_string(&path) {
                Ok(content) => Digest::new(content.trim_end()),
                // Removed since the directory was read, or the temporary file of a name that is being written.
                Err(_) => continue,
            };
            if let Ok(digest) = digest
                && self.images().join(digest.as_str()).is_dir()
            {
                names.push((name, digest));
            }
        }
        Ok(names)
    }

    fn digests(&self) -> Result<Vec<Digest>, ImageError> {
        let entries = files::entries(&self.images())?;
        Ok(entries.iter().filter_map(|path| Digest::new(file_name(path)).ok()).collect())
    }

    /// Takes an image for removal; `None` when somebody uses it.
    fn claim(&self, digest: &Digest) -> Result<Option<lock::Locked>, ImageError> {
        lock::try_exclusive(&self.images().join(digest.as_str()).join(image::files::LOCK))
    }

    /// Removes an image that was claimed: out of sight by one rename, then for good.
    fn discard(&self, digest: &Digest) -> Result<(), ImageError> {
        let directory = self.images().join(digest.as_str());
        let trash = self.images().join(format!("{digest}.trash"));
        files::remove(&trash)?;
        fs::rename(&directory, &trash).writing(&directory)?;
        files::remove(&trash)
    }

    /// Removes images that have no name and no user, and what builds left that nobody will take up.
    fn sweep(&self) -> Result<(), ImageError> {
        let _locked = self.lock()?;
        for path in files::entries(&self.images())? {
            if file_name(&path).ends_with(".trash") {
                files::remove(&path)?;
            }
        }
        let names = self.all_names()?;
        for digest in self.digests()? {
            if names.iter().all(|(_, named)| *named != digest)
                && let Some(_claim) = self.claim(&digest)?
            {
                self.discard(&digest)?;
            }
        }
        self.sweep_staging()
    }

    /// Leaves alone what a running build has locked, and what is young enough to be taken up again.
    fn sweep_staging(&self) -> Result<(), ImageError> {
        for path in files::entries(&self.staging())? {
            let lock = |kind| lock::try_exclusive(&self.locks().join(format!("{kind}-{}", file_name(&path))));
            if build::is_old(&path)
                && let (Some(_build), Some(_run)) = (lock("build")?, lock("run")?)
            {
                // Files of subordinate users stay until a build of that kind cleans up after itself.
                let _ = files::remove(&path);
            }
        }
        Ok(())
    }
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
