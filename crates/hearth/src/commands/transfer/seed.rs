//! What a new sandbox's workspace is filled with: a directory, an archive, or the files of a Git working tree that Git knows.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use futures_util::Stream;
use hearth_client::Client;
use hearth_client::api::files::ImportTree;
use hearth_client::api::protocol::archive::Compression;
use hearth_client::api::protocol::files::FileRoot;
use hearth_client::api::protocol::history::Named;
use hearth_files::archive::{export_only, export_pieces};

use super::local::{Local, failed};
use super::stream::{Progress, outgoing, send};
use crate::failure::Failure;
use crate::{output, pipes};

/// Something to seed with, which was looked at already: what can be refused is, before there is a sandbox.
pub(crate) enum Seed {
    Directory(Local),
    /// Of a directory, these.
    Files(Local, Vec<Vec<u8>>),
    Archive(File),
    /// An archive on standard input.
    Stream,
}

impl Seed {
    /// Finds out what is at a path; with `tracked`, what Git knows of it.
    pub(crate) fn find(path: &Path, tracked: bool) -> Result<Self, Failure> {
        let is_directory = path.is_dir();
        match (is_directory, tracked) {
            (true, false) => Local::directory(path).map(Self::Directory),
            (true, true) => Ok(Self::Files(Local::directory(path)?, tracked_files(path)?)),
            (false, true) => Err(Failure::invalid(format!("--tracked: {} is no directory", path.display()))),
            (false, false) if path == Path::new("-") => Ok(Self::Stream),
            (false, false) => File::open(path).map(Self::Archive).map_err(|error| failed("read", path, &error)),
        }
    }

    /// Fills the workspace, and takes the baseline.
    pub(crate) async fn plant(self, client: &Client, sandbox: &str) -> Result<(), Failure> {
        let progress = Progress::new("seeding", None);
        let made = match self {
            Self::Directory(local) => {
                outgoing(move |output| export_pieces(&local.root, b"", output, Compression::None))
            }
            Self::Files(local, names) => {
                outgoing(move |output| export_only(&local.root, b"", names, output, Compression::None))
            }
            Self::Archive(file) => return unpack(client, sandbox, pipes::file(file)).await,
            Self::Stream => return unpack(client, sandbox, pipes::stdin()).await,
        };
        let tree = workspace();
        let (_, exported) = send(made, progress, |pieces| client.import(sandbox, &tree, pieces)).await?;
        if exported.skipped > 0 {
            output::say(&format!("hearth: {} sockets, devices and the like were left out", exported.skipped));
        }
        baseline(client, sandbox).await
    }
}

fn workspace() -> ImportTree {
    ImportTree::at(FileRoot::Workspace, &".".into())
}

async fn unpack(
    client: &Client,
    sandbox: &str,
    archive: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Result<(), Failure> {
    client.import(sandbox, &workspace(), archive).await?;
    baseline(client, sandbox).await
}

async fn baseline(client: &Client, sandbox: &str) -> Result<(), Failure> {
    client.checkpoint(sandbox, &Named::default()).await?;
    Ok(())
}

/// The files that Git knows of a working tree, those of its submodules as well.
fn tracked_files(path: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let mut git = Command::new("git");
    // A monitor is a program that the tree names.
    git.arg("-C").arg(path).args(["-c", "core.fsmonitor=false", "ls-files", "-z", "--recurse-submodules"]);
    let listed = git.output().map_err(|error| Failure::host(format!("cannot run git: {error}")))?;
    if !listed.status.success() {
        let message = format!("--tracked: git cannot list what it knows of {}", path.display());
        return Err(Failure::invalid(message).with_detail(String::from_utf8_lossy(&listed.stderr).into_owned()));
    }
    let names = listed.stdout.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(<[u8]>::to_vec).collect())
}
