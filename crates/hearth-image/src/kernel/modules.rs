//! Which modules a kernel has, and in which order they load.
//!
//! What `depmod` would write into `modules.dep`, `modules.softdep` and `modules.alias` is kept in one record,
//! `index.json`, read from the modules themselves: a kernel package has no `modules.dep` before it is installed, and a
//! directory of somebody's own may have a stale one.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

const INDEX: &str = "index.json";

/// Says why modules cannot be ordered.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// The kernel has no such module, loadable or built in.
    #[error("kernel {release} has no module {name}")]
    Unknown {
        /// The module's name.
        name: String,
        /// The kernel's release.
        release: String,
    },
    /// The index could not be read or written.
    #[error("could not access the index of modules {}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The modules of one kernel.
#[derive(Debug, Clone)]
pub struct Modules {
    directory: PathBuf,
    index: Index,
}

/// One module to load: its name, with `_` and never `-`, and its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleFile {
    /// The name, as `/proc/modules` shows it.
    pub name: String,
    /// The file: an uncompressed ELF object.
    pub path: PathBuf,
    /// Whether a guest can do without it when the kernel refuses it, as a CPU-specific variant may be refused.
    pub optional: bool,
}

/// What is known of a kernel's modules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Index {
    pub(crate) release: String,
    pub(crate) modules: BTreeMap<String, Entry>,
    /// Names, and plain aliases, of what is built in.
    pub(crate) builtin: BTreeSet<String>,
    /// Set when the kernel came without a directory of modules: all that it has is then built in.
    pub(crate) all_builtin: bool,
}

/// What is known of one module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Its file, relative to the directory.
    pub(crate) path: PathBuf,
    pub(crate) depends: Vec<String>,
    /// Modules or aliases that should be there first, but need not (`softdep=pre:`).
    pub(crate) after: Vec<String>,
    /// Other names it answers to; patterns for devices are left out.
    pub(crate) aliases: Vec<String>,
}

impl Modules {
    pub(crate) fn new(directory: PathBuf, index: Index) -> Self {
        Modules { directory, index }
    }

    /// Reads the index in a directory of modules.
    pub(crate) fn read(directory: &Path) -> Result<Self, ModulesError> {
        let path = directory.join(INDEX);
        let index = std::fs::read(&path).and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from));
        match index {
            Ok(index) => Ok(Modules { directory: directory.to_owned(), index }),
            Err(source) => Err(ModulesError::Index { path, source }),
        }
    }

    /// Writes the index into the directory of modules.
    pub(crate) fn write(&self) -> Result<(), ModulesError> {
        let path = self.directory.join(INDEX);
        let written = serde_json::to_vec(&self.index).map_err(io::Error::from);
        written.and_then(|bytes| std::fs::write(&path, bytes)).map_err(|source| ModulesError::Index { path, source })
    }

    /// Returns the release of the kernel that the modules are for.
    pub fn release(&self) -> &str {
        &self.index.release
    }

    /// Returns the number of loadable modules.
    pub fn len(&self) -> usize {
        self.index.modules.len()
    }

    /// Tells whether there is no loadable module.
    pub fn is_empty(&self) -> bool {
        self.index.modules.is_empty()
    }

    /// Gives the files to load, in this order, so that every wanted module is there: what a module depends on comes
    /// before it, nothing comes twice, and what is built in is left out. `-` and `_` in names are the same.
    ///
    /// # Errors
    /// [`ModulesError::Unknown`] for a name that is neither a module nor built in.
    pub fn load_order(&self, wanted: &[&str]) -> Result<Vec<ModuleFile>, ModulesError> {
        let mut order = Order { modules: self, seen: BTreeSet::new(), files: Vec::new() };
        for name in wanted {
            order.need(&normal(name), false)?;
        }
        Ok(order.files)
    }

    fn is_builtin(&self, name: &str) -> bool {
        self.index.all_builtin || self.index.builtin.contains(name)
    }
}

struct Order<'a> {
    modules: &'a Modules,
    seen: BTreeSet<String>,
    files: Vec<ModuleFile>,
}

impl Order<'_> {
    /// Appends a module after all that it depends on. A module that is needed makes its dependencies needed, even if
    /// something before wanted them only softly.
    fn need(&mut self, name: &str, optional: bool) -> Result<(), ModulesError> {
        if self.modules.is_builtin(name) {
            return Ok(());
        }
        let Some(entry) = self.modules.index.modules.get(name) else {
            return Err(ModulesError::Unknown { name: name.to_owned(), release: self.modules.release().to_owned() });
        };
        if !self.seen.insert(name.to_owned()) {
            return self.confirm(name, entry, optional);
        }
        for soft in &entry.after {
            self.prefer(soft);
        }
        for dependency in &entry.depends {
            self.need(dependency, optional)?;
        }
        let path = self.modules.directory.join(&entry.path);
        self.files.push(ModuleFile { name: name.to_owned(), path, optional });
        Ok(())
    }

    fn confirm(&mut self, name: &str, entry: &Entry, optional: bool) -> Result<(), ModulesError> {
        let listed = self.files.iter_mut().find(|file| file.name == name && file.optional);
        let Some(file) = listed.filter(|_| !optional) else { return Ok(()) };
        file.optional = false;
        entry.depends.iter().try_for_each(|dependency| self.need(dependency, false))
    }

    /// Appends whatever answers to a name, unless the kernel has it built in; nothing may.
    fn prefer(&mut self, name: &str) {
        if self.modules.is_builtin(name) {
            return;
        }
        let index = &self.modules.index.modules;
        let answers = |(module, entry): &(&String, &Entry)| *module == name || entry.aliases.iter().any(|a| a == name);
        for (module, _) in index.iter().filter(answers) {
            let before = (self.seen.clone(), self.files.len());
            if self.need(module, true).is_err() {
                self.seen = before.0;
                self.files.truncate(before.1);
            }
        }
    }
}

/// Writes a module's name as the kernel does.
pub(crate) fn normal(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Makes modules from lines like `erofs: libcrc32c`, softly `libcrc32c: ~crc32c`, aliased `crc32c_intel=crc32c:`.
    fn modules(lines: &[&str], builtin: &[&str]) -> Modules {
        let entry = |line: &str| {
            let (names, needs) = line.split_once(':').unwrap();
            let mut names = names.split('=').map(str::to_owned);
            let name = names.next().unwrap();
            let (soft, hard): (Vec<_>, Vec<_>) = needs.split_whitespace().partition(|need| need.starts_with('~'));
            let entry = Entry {
                path: format!("kernel/{name}.ko").into(),
                depends: hard.into_iter().map(str::to_owned).collect(),
                after: soft.into_iter().map(|need| need[1..].to_owned()).collect(),
                aliases: names.collect(),
            };
            (name, entry)
        };
        let index = Index {
            release: "6.1".to_owned(),
            modules: lines.iter().map(|line| entry(line)).collect(),
            builtin: builtin.iter().map(|name| (*name).to_owned()).collect(),
            all_builtin: false,
        };
        Modules::new("/m".into(), index)
    }

    fn order(modules: &Modules, wanted: &[&str]) -> Vec<String> {
        let shown = |file: ModuleFile| if file.optional { format!("{}?", file.name) } else { file.name };
        modules.load_order(wanted).unwrap().into_iter().map(shown).collect()
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let modules = modules(
            &["virtio:", "virtio_ring: virtio", "virtio_blk: virtio virtio_ring", "virtio_mmio: virtio_ring virtio"],
            &[],
        );
        let expected = ["virtio", "virtio_ring", "virtio_mmio", "virtio_blk"];
        assert_eq!(order(&modules, &["virtio_mmio", "virtio_blk", "virtio_mmio"]), expected);
    }

    #[test]
    fn what_is_built_in_is_left_out() {
        let modules = modules(&["erofs: libcrc32c"], &["libcrc32c", "ext4"]);
        assert_eq!(order(&modules, &["ext4", "erofs"]), ["erofs"]);
    }

    #[test]
    fn soft_dependencies_come_first_by_any_of_their_names() {
        let lines = ["erofs: libcrc32c", "libcrc32c: ~crc32c", "crc32c_generic=crc32c:", "crc32c_intel=crc32c:"];
        let expected = ["crc32c_generic?", "crc32c_intel?", "libcrc32c", "erofs"];
        assert_eq!(order(&modules(&lines, &[]), &["erofs"]), expected);
        assert_eq!(order(&modules(&lines, &["crc32c"]), &["erofs"]), ["libcrc32c", "erofs"]);
    }

    #[test]
    fn a_soft_dependency_that_nothing_answers_to_is_no_error() {
        assert_eq!(order(&modules(&["a: ~nowhere"], &[]), &["a"]), ["a"]);
        assert_eq!(order(&modules(&["a: ~b", "b: missing"], &[]), &["a"]), ["a"]);
    }

    #[test]
    fn what_is_needed_later_is_not_optional() {
        let modules = modules(&["a: ~b", "b: c", "c:"], &[]);
        assert_eq!(order(&modules, &["a"]), ["c?", "b?", "a"]);
        assert_eq!(order(&modules, &["a", "b"]), ["c", "b", "a"]);
    }

    #[test]
    fn an_unknown_name_is_named() {
        let error = modules(&["a: b"], &[]).load_order(&["a"]).unwrap_err();
        assert_eq!(error.to_string(), "kernel 6.1 has no module b");
    }

    #[test]
    fn dashes_and_underscores_are_the_same() {
        assert_eq!(order(&modules(&["crc32c_intel:"], &[]), &["crc32c-intel"]), ["crc32c_intel"]);
    }

    #[test]
    fn a_circle_ends() {
        assert_eq!(order(&modules(&["a: b", "b: a"], &[]), &["a"]), ["b", "a"]);
    }

    proptest! {
        #[test]
        fn nothing_comes_before_what_it_depends_on(edges in proptest::collection::vec((0_usize..20, 0_usize..20), 0..60)) {
            let needs = |from: usize| edges.iter().filter(move |(a, b)| (*a).max(*b) == from && a != b).map(|(a, b)| (*a).min(*b));
            let lines: Vec<String> = (0..20)
                .map(|m| format!("m{m}: {}", needs(m).map(|n| format!("m{n} ")).collect::<String>()))
                .collect();
            let modules = modules(&lines.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
            let order = order(&modules, &["m19", "m10", "m3"]);
            let place = |name: String| order.iter().position(|listed| *listed == name);
            for (index, name) in order.iter().enumerate() {
                let number: usize = name[1..].parse().unwrap();
                let in_order = needs(number).all(|need| place(format!("m{need}")).unwrap() < index);
                prop_assert!(in_order);
            }
        }
    }
}
