//! The store by itself, with images that nobody built.

use std::thread;

use super::*;
use crate::{KernelManifest, image::FORMAT};

struct Store {
    store: ImageStore,
    root: tempfile::TempDir,
}

impl Store {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        Store { store: ImageStore::open(root.path()).unwrap(), root }
    }

    /// Publishes an image whose root filesystem is the given text.
    fn publish(&self, name: &str, content: &str) -> Image {
        publish(&self.store, name, content)
    }

    fn names(&self) -> Vec<String> {
        let shown = |image: Image| image.name.map_or_else(|| "-".to_owned(), String::from);
        self.store.list().unwrap().into_iter().map(shown).collect()
    }

    fn images(&self) -> usize {
        fs::read_dir(self.root.path().join("images")).unwrap().count()
    }
}

fn publish(store: &ImageStore, name: &str, content: &str) -> Image {
    let whole = store.layout().staging().join(format!("{name}-{:?}", thread::current().id()));
    fs::create_dir_all(&whole).unwrap();
    fs::write(whole.join(image::files::ROOTFS), content).unwrap();
    fs::write(whole.join(image::files::LOCK), "").unwrap();
    let manifest = manifest(content);
    files::write_record(&whole.join(image::files::MANIFEST), &manifest).unwrap();
    store.layout().publish(&ImageName::new(name).unwrap(), &whole, manifest).unwrap()
}

fn manifest(content: &str) -> Manifest {
    let digest = files::digest_of_record(&content);
    Manifest {
        format: FORMAT,
        suite: crate::Suite::default(),
        user: "user".to_owned(),
        packages: Vec::new(),
        rootfs: digest.clone(),
        rootfs_bytes: content.len() as u64,
        kernel: KernelManifest {
            release: "6.1".to_owned(),
            package: None,
            digest: digest.clone(),
            bytes: 0,
            modules: digest.clone(),
            modules_bytes: 0,
        },
        spec: digest,
        created: 1_700_000_000,
    }
}

#[test]
fn an_image_is_found_by_name_and_by_the_beginning_of_its_digest() {
    let store = Store::new();
    let image = store.publish("debian", "a");
    for reference in ["debian", image.digest.as_str(), &image.digest.as_str()[..6]] {
        assert_eq!(store.store.inspect(reference).unwrap().digest, image.digest, "{reference}");
    }
    let refused = |reference: &str| store.store.inspect(reference).unwrap_err();
    assert!(matches!(refused(&image.digest.as_str()[..5]), ImageError::NotFound { .. }));
    assert!(matches!(refused("other"), ImageError::NotFound { .. }));
    assert!(matches!(refused("../names"), ImageError::BadReference(_)));
    assert!(matches!(refused(""), ImageError::BadReference(_)));
}

#[test]
fn a_beginning_that_fits_two_images_is_ambiguous() {
    let store = Store::new();
    let one = store.publish("one", "a");
    let two = format!("{}{}", &one.digest.as_str()[..8], "0".repeat(56));
    let images = store.root.path().join("images");
    assert!(
        std::process::Command::new("cp")
            .arg("-r")
            .arg(images.join(one.digest.as_str()))
            .arg(images.join(&two))
            .status()
            .unwrap()
            .success()
    );
    let refused = store.store.inspect(&one.digest.as_str()[..8]).unwrap_err();
    assert!(matches!(refused, ImageError::Ambiguous { matches, .. } if matches.len() == 2));
}

#[test]
fn a_name_moves_to_the_new_image_and_the_old_one_goes() {
    let store = Store::new();
    let old = store.publish("debian", "a");
    let new = store.publish("debian", "b");
    assert_eq!(store.store.inspect("debian").unwrap().digest, new.digest);
    assert_ne!(old.digest, new.digest);
    assert_eq!(store.images(), 1);
}

#[test]
fn an_old_image_stays_for_those_who_use_it() {
    let store = Store::new();
    let guard = store.publish("debian", "a").in_use().unwrap();
    store.publish("debian", "b");
    assert_eq!(store.names(), ["debian", "-"]);
    drop(guard);
    ImageStore::open(store.root.path()).unwrap();
    assert_eq!(store.names(), ["debian"]);
}

#[test]
fn the_same_content_is_kept_once_and_goes_with_its_last_name() {
    let store = Store::new();
    let one = store.publish("one", "a");
    let two = store.publish("two", "a");
    assert_eq!((one.digest, store.images()), (two.digest, 1));
    store.store.rm("one").unwrap();
    assert_eq!((store.names(), store.images()), (vec!["two".to_owned()], 1));
    store.store.rm("two").unwrap();
    assert_eq!((store.names().len(), store.images()), (0, 0));
    assert!(matches!(store.store.rm("two"), Err(ImageError::NotFound { .. })));
}

#[test]
fn an_image_in_use_is_not_removed_but_a_further_name_is() {
    let store = Store::new();
    let image = store.publish("one", "a");
    store.publish("two", "a");
    let guard = image.in_use().unwrap();
    store.store.rm("two").unwrap();
    assert!(matches!(store.store.rm("one"), Err(ImageError::InUse { reference }) if reference == "one"));
    assert!(matches!(store.store.rm(image.digest.as_str()), Err(ImageError::InUse { .. })));
    assert_eq!(store.names(), ["one"]);
    drop(guard);
    store.store.rm(image.digest.as_str()).unwrap();
    assert_eq!(store.images(), 0);
}

#[test]
fn a_removed_image_can_no_longer_be_taken() {
    let store = Store::new();
    let image = store.publish("one", "a");
    store.store.rm("one").unwrap();
    assert!(matches!(image.in_use(), Err(ImageError::NotFound { .. })));
}

#[test]
fn names_and_images_stay_whole_while_many_publish_and_remove() {
    let store = Store::new();
    thread::scope(|scope| {
        for worker in 0..4 {
            let store = &store.store;
            scope.spawn(move || {
                for round in 0..20 {
                    let image = publish(store, "shared", &format!("{}", (worker + round) % 3));
                    assert!(image.manifest.format == FORMAT);
                    for seen in store.list().unwrap_or_default() {
                        assert_eq!(seen.manifest.digest(), seen.digest);
                    }
                    let _ = store.rm("shared");
                }
            });
        }
    });
    assert!(store.images() <= 1);
}

#[test]
fn what_a_killed_removal_left_is_swept() {
    let store = Store::new();
    let image = store.publish("one", "a");
    let directory = store.root.path().join("images").join(image.digest.as_str());
    fs::rename(&directory, directory.with_extension("trash")).unwrap();
    assert!(store.names().is_empty());
    ImageStore::open(store.root.path()).unwrap();
    assert_eq!(store.images(), 0);
}

#[test]
fn a_damaged_record_is_named() {
    let store = Store::new();
    let image = store.publish("one", "a");
    let record = store.root.path().join("images").join(image.digest.as_str()).join(image::files::MANIFEST);
    fs::write(&record, "{").unwrap();
    assert!(matches!(store.store.inspect("one"), Err(ImageError::Damaged { path, .. }) if path == record));
}
