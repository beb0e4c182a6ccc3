//! Files that appear whole or not at all, and the sums that name them.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::{Digest, ImageError, error::At};

/// Creates a directory and those above it; one that exists is fine.
pub(crate) fn make_directory(path: &Path) -> Result<(), ImageError> {
    fs::create_dir_all(path).writing(path)
}

/// Writes a small file so that a reader sees the old content or the new, also after a crash.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> Result<(), ImageError> {
    // Hidden, so that nobody takes it for what it will become.
    let temporary = parent(path).join(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()));
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().writing(path)?;
    sync_directory(parent(path))
}

/// Makes a directory's entries durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), ImageError> {
    File::open(path).and_then(|directory| directory.sync_all()).writing(path)
}

/// Makes everything under a directory durable.
pub(crate) fn sync_tree(path: &Path) -> Result<(), ImageError> {
    for entry in entries(path)? {
        if entry.is_dir() {
            sync_tree(&entry)?;
        } else {
            File::open(&entry).and_then(|file| file.sync_all()).writing(&entry)?;
        }
    }
    sync_directory(path)
}

/// Lists a directory's entries by path, sorted; a directory that does not exist has none.
pub(crate) fn entries(path: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let list = match fs::read_dir(path) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).reading(path),
    };
    let mut paths = list.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>().reading(path)?;
    paths.sort();
    Ok(paths)
}

/// Lists the files under a directory, sorted by their path.
pub(crate) fn files_below(path: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let mut found = Vec::new();
    let mut waiting = vec![path.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in entries(&directory)? {
            let kind = fs::symlink_metadata(&entry).reading(&entry)?.file_type();
            if kind.is_dir() {
                waiting.push(entry);
            } else if kind.is_file() {
                found.push(entry);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Removes a file or a tree; one that does not exist is fine.
pub(crate) fn remove(path: &Path) -> Result<(), ImageError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.writing(path),
    }
}

/// Computes a file's SHA-256 and tells `on_bytes` how many bytes each step took.
pub(crate) fn digest_of(path: &Path, on_bytes: &mut dyn FnMut(u64)) -> Result<Digest, ImageError> {
    let mut file = File::open(path).reading(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).reading(path)?;
        if count == 0 {
            return Ok(Digest::from_bytes(&hasher.finalize()));
        }
        hasher.update(&buffer[..count]);
        on_bytes(count as u64);
    }
}

/// Computes the SHA-256 of a record, by its JSON.
pub(crate) fn digest_of_record(record: &impl serde::Serialize) -> Digest {
    let json = serde_json::to_vec(record).expect("records here have string keys and no failing serializers");
    Digest::from_bytes(&Sha256::digest(json))
}

/// Reads a JSON record.
pub(crate) fn read_record<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, ImageError> {
    let bytes = fs::read(path).reading(path)?;
    serde_json::from_slice(&bytes).map_err(|source| ImageError::Damaged { path: path.to_owned(), source })
}

/// Writes a JSON record, whole.
pub(crate) fn write_record(path: &Path, record: &impl serde::Serialize) -> Result<(), ImageError> {
    let mut json =
        serde_json::to_vec_pretty(record).map_err(|source| ImageError::Damaged { path: path.to_owned(), source })?;
    json.push(b'\n');
    write_whole(path, &json)
}

/// Returns the path with a suffix after its file name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}
