//! Takes a kernel and its modules into an image: checked, decompressed and indexed.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use super::{
    KernelError, check_needed, elf,
    modules::{Entry, Index, Modules, normal},
    release_of,
};

/// What the kernel's own build says about what is built in. Kept, so that an image's modules can be imported again.
const BUILTIN_LISTS: [&str; 2] = ["modules.builtin", "modules.builtin.modinfo"];

/// A decompressed module may have this many bytes; more is taken for a decompression bomb.
const MODULE_BYTES_MAX: u64 = 256 << 20;

/// Copies a kernel to `kernel_to` and its modules, decompressed, to `modules_to`.
///
/// # Errors
/// Anything that would keep a guest from booting with them, as far as the files show it.
pub(crate) fn import(
    kernel: &Path,
    modules: Option<&Path>,
    kernel_to: &Path,
    modules_to: &Path,
) -> Result<(), KernelError> {
    let release = release_of(kernel)?;
    make_directory(modules_to)?;
    let index = match modules {
        Some(directory) => import_modules(&directory_for(directory, &release), &release, modules_to)?,
        None => Index { release: release.clone(), all_builtin: true, ..Index::default() },
    };
    let modules = Modules::new(modules_to.to_owned(), index);
    check_needed(&modules)?;
    modules.write()?;
    fs::copy(kernel, kernel_to).map_err(|source| KernelError::Write { path: kernel_to.to_owned(), source })?;
    Ok(())
}

/// Lets the caller name `lib/modules` as well as `lib/modules/RELEASE`.
fn directory_for(directory: &Path, release: &str) -> PathBuf {
    let within = directory.join(release);
    if within.is_dir() { within } else { directory.to_owned() }
}

fn import_modules(from: &Path, release: &str, to: &Path) -> Result<Index, KernelError> {
    let mut index = Index { release: release.to_owned(), builtin: read_builtin(from)?, ..Index::default() };
    for path in crate::files::files_below(from).map_err(|_| unreadable(from))? {
        let Some(plain) = uncompressed_name(&path) else { continue };
        let relative = plain.strip_prefix(from).unwrap_or(&plain).to_owned();
        let bytes = read_module(&path)?;
        let (name, entry) = describe(&bytes, &path, release, relative)?;
        let target = to.join(&entry.path);
        make_directory(target.parent().unwrap_or(to))?;
        fs::write(&target, bytes).map_err(|source| KernelError::Write { path: target, source })?;
        index.modules.insert(name, entry);
    }
    for list in BUILTIN_LISTS {
        if let Some(bytes) = read_optional(&from.join(list))? {
            fs::write(to.join(list), bytes).map_err(|source| KernelError::Write { path: to.join(list), source })?;
        }
    }
    if index.modules.is_empty() { Err(KernelError::NoModules { path: from.to_owned() }) } else { Ok(index) }
}

fn unreadable(directory: &Path) -> KernelError {
    KernelError::NoModules { path: directory.to_owned() }
}

/// Returns the module's path without the ending of its compression; `None` for what is no module.
fn uncompressed_name(path: &Path) -> Option<PathBuf> {
    let plain = match path.extension()?.to_str()? {
        "gz" | "xz" | "zst" => path.with_extension(""),
        _ => path.to_owned(),
    };
    (plain.extension()? == "ko").then_some(plain)
}

fn read_module(path: &Path) -> Result<Vec<u8>, KernelError> {
    let file = File::open(path).map_err(|source| KernelError::Read { path: path.to_owned(), source })?;
    let not_a_module = || KernelError::NotAModule { path: path.to_owned() };
    let bytes = decompress(path, BufReader::new(file)).map_err(|_| not_a_module())?;
    if bytes.len() as u64 > MODULE_BYTES_MAX { Err(not_a_module()) } else { Ok(bytes) }
}

fn decompress(path: &Path, file: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut read = |reader: &mut dyn Read| reader.take(MODULE_BYTES_MAX + 1).read_to_end(&mut bytes);
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("gz") => read(&mut flate2::read::MultiGzDecoder::new(file))?,
        Some("xz") => read(&mut lzma_rust2::XzReader::new(file, true))?,
        Some("zst") => read(&mut ruzstd::decoding::StreamingDecoder::new(file).map_err(io::Error::other)?)?,
        _ => read(&mut { file })?,
    };
    Ok(bytes)
}

/// Reads what a module says of itself, and checks that it is for this kernel.
fn describe(bytes: &[u8], path: &Path, release: &str, relative: PathBuf) -> Result<(String, Entry), KernelError> {
    let not_a_module = || KernelError::NotAModule { path: path.to_owned() };
    let info = elf::modinfo(bytes).ok_or_else(not_a_module)?;
    let mut entry = Entry { path: relative, ..Entry::default() };
    let mut name = None;
    for (key, value) in elf::fields(info) {
        match key {
            "name" => name = Some(normal(value)),
            "depends" => entry.depends = names(value.split(',')),
            "softdep" => entry.after.extend(softly_before(value)),
            "alias" if is_plain(value) => entry.aliases.push(normal(value)),
            "vermagic" => check_release(value, release, path)?,
            _ => {}
        }
    }
    entry.aliases.sort();
    entry.aliases.dedup();
    let stem = || entry.path.file_stem().map(|stem| normal(&stem.to_string_lossy()));
    Ok((name.or_else(stem).ok_or_else(not_a_module)?, entry))
}

fn check_release(vermagic: &str, release: &str, path: &Path) -> Result<(), KernelError> {
    let modules = vermagic.split(' ').next().unwrap_or_default();
    if modules == release {
        return Ok(());
    }
    Err(KernelError::ReleaseMismatch {
        kernel: release.to_owned(),
        modules: modules.chars().take(80).collect(),
        path: path.to_owned(),
    })
}

/// Takes the names between `pre:` and `post:` (modprobe.d, `softdep`).
fn softly_before(value: &str) -> Vec<String> {
    let after_pre = value.split_once("pre:").map_or("", |(_, rest)| rest);
    names(after_pre.split("post:").next().unwrap_or_default().split_whitespace())
}

fn names<'a>(words: impl Iterator<Item = &'a str>) -> Vec<String> {
    words.filter(|word| !word.is_empty()).map(normal).collect()
}

/// Tells a name from a pattern that matches devices.
fn is_plain(alias: &str) -> bool {
    !alias.contains(['*', ':', '?', '['])
}

/// Reads the names of what is built in, and the plain aliases that it answers to.
fn read_builtin(directory: &Path) -> Result<BTreeSet<String>, KernelError> {
    let [list, details] = BUILTIN_LISTS.map(|name| read_optional(&directory.join(name)));
    let (list, details) = (list?.unwrap_or_default(), details?.unwrap_or_default());
    let stem = |line: &str| Path::new(line).file_stem().map(|stem| normal(&stem.to_string_lossy()));
    let mut builtin: BTreeSet<String> = String::from_utf8_lossy(&list).lines().filter_map(stem).collect();
    // These fields have the module's name before them: `crc32c_generic.alias=crc32c`.
    let aliases = elf::fields(&details).filter(|(key, value)| key.ends_with(".alias") && is_plain(value));
    builtin.extend(aliases.map(|(_, value)| normal(value)));
    Ok(builtin)
}

fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, KernelError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KernelError::Read { path: path.to_owned(), source }),
    }
}

fn make_directory(path: &Path) -> Result<(), KernelError> {
    fs::create_dir_all(path).map_err(|source| KernelError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{ModulesError, elf::tests::module, tests::bzimage};
    use std::io::Write;

    const RELEASE: &str = "6.1.0-test";

    struct Tree(tempfile::TempDir);

    impl Tree {
        /// Makes a kernel and a directory of modules with everything that a guest needs, the bus excepted.
        fn new() -> Self {
            let tree = Tree(tempfile::tempdir().unwrap());
            fs::write(tree.path("vmlinuz"), bzimage(&format!("{RELEASE} #1"))).unwrap();
            for name in ["virtio_console", "virtio_blk", "overlay"] {
                tree.module(&format!("{name}.ko"), &[&format!("name={name}"), "depends="]);
            }
            tree.module("erofs.ko", &["name=erofs", "depends=libcrc32c"]);
            tree.module("libcrc32c.ko", &["name=libcrc32c", "softdep=pre: crc32c", "depends="]);
            tree
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn module(&self, name: &str, fields: &[&str]) {
            let magic = format!("vermagic={RELEASE} SMP");
            let fields: Vec<&str> = fields.iter().copied().chain([magic.as_str()]).collect();
            self.file(&format!("modules/kernel/{name}"), &module(&fields));
        }

        fn file(&self, name: &str, content: &[u8]) {
            let path = self.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        fn import(&self) -> Result<Modules, KernelError> {
            let (kernel, modules) = (self.path("to/kernel"), self.path("to/modules"));
            import(&self.path("vmlinuz"), Some(&self.path("modules")), &kernel, &modules)?;
            Ok(Modules::read(&modules)?)
        }
    }

    #[test]
    fn what_modules_say_of_themselves_gives_their_order() {
        let tree = Tree::new();
        tree.file("modules/modules.builtin", b"kernel/drivers/virtio/virtio_mmio.ko\n");
        tree.file("modules/modules.builtin.modinfo", b"crc32c_generic.alias=crc32c\0crc32c_generic.license=GPL\0");
        tree.module("crc32c-intel.ko", &["name=crc32c_intel", "alias=crc32c", "depends="]);
        let order = tree.import().unwrap().load_order(&["virtio_mmio", "erofs"]).unwrap();
        assert_eq!(order.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), ["libcrc32c", "erofs"]);
        assert!(order.iter().all(|file| file.path.is_file()));
    }

    #[test]
    fn compressed_modules_are_kept_plain() {
        let tree = Tree::new();
        let plain = |name: &str| module(&[&format!("name={name}"), "depends=", "vermagic=6.1.0-test SMP"]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain("virtio_mmio")).unwrap();
        tree.file("modules/kernel/virtio_mmio.ko.gz", &gzip.finish().unwrap());
        let zstd = ruzstd::encoding::compress_to_vec(&plain("ext4")[..], ruzstd::encoding::CompressionLevel::Fastest);
        tree.file("modules/kernel/ext4.ko.zst", &zstd);
        // This one was packed by Python's lzma with the checksum that the kernel's build asks for.
        tree.file("modules/kernel/virtio_pci.ko.xz", include_bytes!("fixtures/virtio_pci.ko.xz"));
        let names = ["virtio_mmio", "ext4", "virtio_pci"];
        for (file, name) in tree.import().unwrap().load_order(&names).unwrap().iter().zip(names) {
            assert_eq!(file.path.file_name().unwrap(), format!("{name}.ko").as_str());
            assert_eq!(fs::read(&file.path).unwrap(), plain(name));
        }
    }

    #[test]
    fn modules_of_another_kernel_are_refused() {
        let tree = Tree::new();
        tree.file("modules/kernel/other.ko", &module(&["name=other", "vermagic=6.2.0-other SMP"]));
        assert!(matches!(tree.import(), Err(KernelError::ReleaseMismatch { modules, .. }) if modules == "6.2.0-other"));
    }

    #[test]
    fn a_kernel_without_a_bus_is_refused_before_it_is_copied() {
        let tree = Tree::new();
        let refused = tree.import();
        assert!(
            matches!(refused, Err(KernelError::Modules(ModulesError::Unknown { name, .. })) if name == "virtio_mmio")
        );
        assert!(!tree.path("to/kernel").exists());
    }

    #[test]
    fn a_directory_without_modules_is_refused() {
        let tree = Tree(tempfile::tempdir().unwrap());
        fs::write(tree.path("vmlinuz"), bzimage("6.1.0-test #1")).unwrap();
        tree.file("modules/readme", b"nothing");
        assert!(matches!(tree.import(), Err(KernelError::NoModules { .. })));
    }

    #[test]
    fn a_damaged_module_is_refused() {
        for (name, bytes) in
            [("a.ko", &b"no elf"[..]), ("a.ko.xz", b"no xz"), ("a.ko.zst", b"no zstd"), ("a.ko.gz", b"")]
        {
            let tree = Tree::new();
            tree.file(&format!("modules/kernel/{name}"), bytes);
            assert!(matches!(tree.import(), Err(KernelError::NotAModule { .. })), "{name}");
        }
    }

    #[test]
    fn a_kernel_without_modules_has_everything_built_in() {
        let tree = Tree::new();
        import(&tree.path("vmlinuz"), None, &tree.path("kernel"), &tree.path("none")).unwrap();
        let modules = Modules::read(&tree.path("none")).unwrap();
        assert!(modules.is_empty() && modules.load_order(&["erofs", "virtio_mmio"]).unwrap().is_empty());
    }
}
