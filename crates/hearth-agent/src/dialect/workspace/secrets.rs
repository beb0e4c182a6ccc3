//! `install_secrets`: an archive of files becomes the agent's secrets.
//!
//! They are the secrets that every protocol of the agent's has: hidden in all output, and files in the agent's own directory for them.
//! Clients of this dialect look for them at [`NAMED`], which is made a link to that directory where the agent may.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use hearth_files::archive::{SmallContent, read_small};
use hearth_protocol::limits;
use hearth_protocol::secrets::Secret;

use super::archives::{archive_size, refusal};
use super::connection::Connection;
use super::path::WorkspacePath;
use super::reply::Object;
use super::request::Request;
use super::texts::Refusal;
use super::worker;
use crate::agent::Agent;

/// Where clients look for secrets.
const NAMED: &str = "/run/pyro-secrets";
/// The largest archive of secrets in bytes, without compression: the largest set of them, and room for what an archive is padded with.
const LARGEST: u64 = 1024 * 1024;

/// The link at [`NAMED`], if it is this agent's. Goes with it.
#[derive(Default)]
pub(super) struct Link {
    target: RefCell<Option<PathBuf>>,
}

impl Link {
    /// Makes the link, unless something that is in use has the name: returns where the secrets can be found by their clients.
    fn make<'a>(&self, target: &'a Path) -> &'a Path {
        let is_dangling =
            fs::symlink_metadata(NAMED).is_ok_and(|there| there.is_symlink()) && !Path::new(NAMED).exists();
        if is_dangling {
            let _ = fs::remove_file(NAMED);
        }
        if symlink(target, NAMED).is_ok() {
            self.target.replace(Some(target.to_owned()));
        }
        // On a host that several agents share it may be another one's.
        if fs::read_link(NAMED).is_ok_and(|there| there == target) { Path::new(NAMED) } else { target }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(target) = self.target.take()
            && fs::read_link(NAMED).is_ok_and(|there| there == target)
        {
            let _ = fs::remove_file(NAMED);
        }
    }
}

/// What an archive of secrets holds.
struct Set {
    files: BTreeMap<String, Vec<u8>>,
    members: usize,
    bytes: usize,
}

/// `install_secrets`. What was installed so before is gone then; what the agent has from elsewhere stays.
pub(super) async fn install(
    agent: &Agent,
    link: &Link,
    request: &Request,
    connection: &mut Connection,
) -> Result<(), Refusal> {
    connection.expect(archive_size(request)?);
    let Set { files, members, bytes } = worker::receive(connection, |upload| read(upload)).await?;
    let secrets = files.into_iter().map(|(name, value)| Secret { name, value: value.into(), file: true }).collect();
    agent.install_archived_secrets(secrets).map_err(|fault| Refusal::of(&fault))?;
    let destination = agent.processes.secrets.directory().map_or(Path::new(NAMED), |directory| link.make(directory));
    let destination = destination.to_string_lossy();
    let reply = Object::default()
        .field("destination", &*destination)
        .field("entry_count", members)
        .field("bytes_written", bytes);
    connection.reply(reply).await;
    Ok(())
}

fn read(upload: impl std::io::Read) -> Result<Set, Refusal> {
    let nowhere = WorkspacePath::parse(b".")?;
    let members = read_small(upload, LARGEST).map_err(|error| refusal(&error, &nowhere))?;
    let mut set = Set { files: BTreeMap::new(), members: members.len(), bytes: 0 };
    for member in members {
        let name = String::from_utf8(member.path).map_err(|_| "secret name is invalid")?;
        match member.content {
            SmallContent::Directory => {}
            SmallContent::Link => return Err(format!("secret archive may not contain links: {name}").into()),
            SmallContent::Fifo => return Err(format!("unsupported secret archive member type: {name}").into()),
            SmallContent::File(value) if value.len() > limits::SECRET_VALUE => {
                let limit = limits::SECRET_VALUE;
                return Err(format!("secret {name} has {} bytes, over the limit of {limit}", value.len()).into());
            }
            SmallContent::File(value) => {
                set.bytes += value.len();
                set.files.insert(name, value);
            }
        }
    }
    Ok(set)
}
