//! The store and the image that the tests share.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, OnceLock},
};

use hearth_image::{BuildSpec, Image, ImageError, ImageName, ImageStore};

/// Says that a test could not run, and why.
pub(crate) fn skip(why: &str) {
    eprintln!("skipped: {why}");
}

/// Returns the default image, or says why there is none and returns nothing.
pub(crate) fn default_image() -> Option<Image> {
    static IMAGE: OnceLock<Result<Image, String>> = OnceLock::new();
    match IMAGE.get_or_init(find_or_build) {
        Ok(image) => Some(image.clone()),
        Err(why) => {
            skip(why);
            None
        }
    }
}

/// One process per test is how nextest runs, so the store has to outlive them; a build there waits for another.
fn find_or_build() -> Result<Image, String> {
    let store = ImageStore::open(&shared_store()).unwrap();
    let spec = BuildSpec::new(ImageName::new("debian").unwrap());
    match store.inspect("debian") {
        Ok(image) if image.manifest.spec == spec.digest().unwrap() => Ok(image),
        _ => build(&store, spec),
    }
}

fn shared_store() -> PathBuf {
    let kept = std::env::var_os("HEARTH_TEST_STORE").map(PathBuf::from);
    kept.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("store"))
}

/// Builds an image; an error that the machine is to blame for is a reason to skip, any other fails the test.
pub(crate) fn build(store: &ImageStore, spec: BuildSpec) -> Result<Image, String> {
    block_on(store.build(spec, |_| {})).map_err(|error| {
        let excused = matches!(
            error,
            ImageError::ToolMissing { .. }
                | ImageError::KeyringMissing { .. }
                | ImageError::NoSubordinateIds { .. }
                | ImageError::NamespacesRefused { .. }
                | ImageError::Mirror { .. }
                | ImageError::TooLittleSpace { .. }
        );
        let detail = error.detail().unwrap_or_default();
        assert!(excused, "{error:?}\n{detail}");
        format!("no image can be built here: {error}")
    })
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Tells whether a program is there.
pub(crate) fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).output();
    found.is_ok_and(|output| output.status.success())
}

/// A filesystem image, mounted read-only for as long as this lives.
pub(crate) struct Mounted(tempfile::TempDir);

/// Loop devices are few and handed out without a lock.
static MOUNTING: Mutex<()> = Mutex::new(());

impl Mounted {
    /// Mounts an image, or says why it cannot.
    pub(crate) fn new(image: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("only root may mount the image");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let _one = MOUNTING.lock().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "erofs", "-o", "loop,ro"]).arg(image).arg(directory.path());
        let mount = mount.output().unwrap();
        if mount.status.success() {
            return Some(Mounted(directory));
        }
        skip(&format!("this machine cannot mount an erofs: {}", String::from_utf8_lossy(&mount.stderr)));
        None
    }

    pub(crate) fn path(&self, within: &str) -> PathBuf {
        self.0.path().join(within)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(self.0.path()).status().unwrap().success());
    }
}
