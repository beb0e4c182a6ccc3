//! `hearth sync`: one directory made like another, by what is other.

use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;
use hearth_client::Client;
use hearth_client::api::files::{ExportTree, ImportTree};
use hearth_client::api::protocol::archive::Compression;
use hearth_client::api::protocol::files::{FileEntry, FileKind, List, Remove};
use hearth_client::api::protocol::{RawString, limits};
use hearth_files::archive::{ImportOptions, export_only, import};
use hearth_files::{Exclude, Listed, Lister, Listing, Removal, Root, remove};
use serde_json::{Value, json};

use super::copy::{must_be_there, stat};
use super::local::{Found, Local, look, refuse_link};
use super::plan::{InTheWay, Plan, Tree, plan};
use super::stream::{Came, Incoming, Progress, outgoing, send, take};
use super::{Side, There};
use crate::arguments::SyncOptions;
use crate::commands::sandbox::existing;
use crate::failure::Failure;
use crate::output;

/// The entries that are asked of a guest at a time.
const PAGE: u64 = 20_000;
/// The most entries of a tree: a guest may name as many as it likes.
const MOST: usize = 4_000_000;

/// Makes a directory like another.
pub(crate) async fn sync(options: SyncOptions) -> Result<i32, Failure> {
    let patterns = options.exclude.iter().map(String::as_str);
    let exclude = Exclude::new(patterns).map_err(|error| Failure::invalid(format!("--exclude: {error}")))?;
    let how = How { delete: options.delete, dry_run: options.dry_run, exclude };
    let came = match (Side::parse(options.source)?, Side::parse(options.destination)?) {
        (Side::Here(source), Side::There(destination)) => {
            let local = Local::directory(&source)?;
            push(&existing(&destination.sandbox).await?, local.root, &destination, &how).await?
        }
        (Side::There(source), Side::Here(destination)) => {
            pull(&existing(&source.sandbox).await?, &source, &destination, &how).await?
        }
        _ => return Err(Failure::invalid("one side is SANDBOX:PATH, and the other a directory here".to_owned())),
    };
    match came {
        Came::Cut(code) => return Ok(code),
        Came::All(plan) if options.json => output::print_json(&report(&plan))?,
        Came::All(plan) if options.dry_run => {
            let removed = plan.clear.iter().chain(&plan.remove).map(|path| format!("remove  {}", shown(path)));
            let sent = plan.send.iter().map(|path| format!("send    {}", shown(path)));
            removed.chain(sent).try_for_each(|line| output::print(&line))?;
        }
        Came::All(plan) => {
            let (sent, removed) = (plan.send.len(), plan.clear.len() + plan.remove.len());
            let size = output::bytes(plan.bytes);
            output::print(&format!("{sent} sent ({size}), {removed} removed, {} unchanged", plan.unchanged))?;
        }
    }
    Ok(0)
}

struct How {
    delete: bool,
    dry_run: bool,
    exclude: Exclude,
}

fn report(plan: &Plan) -> Value {
    let raw = |path: &Vec<u8>| RawString::from(path.clone());
    json!({
        "sent": plan.send.iter().map(raw).collect::<Vec<_>>(),
        "removed": plan.clear.iter().chain(&plan.remove).map(raw).collect::<Vec<_>>(),
        "bytes": plan.bytes, "unchanged": plan.unchanged,
    })
}

fn shown(path: &[u8]) -> String {
    output::plain(&String::from_utf8_lossy(path))
}

fn decided(from: &Tree, to: &Tree, how: &How) -> Result<Plan, Failure> {
    plan(from, to, how.delete).map_err(|InTheWay(path)| {
        let message = format!("{} is in the way in the destination", shown(&path));
        Failure::invalid(message).with_hint("--delete removes it, unless something in it is excluded")
    })
}

/// To a sandbox.
async fn push(client: &Client, local: Root, there: &There, how: &How) -> Result<Came<Plan>, Failure> {
    let (here, guests) = (list_here(&local, &how.exclude)?, list_there(client, there, how).await?);
    let plan = decided(&here, &guests, how)?;
    if how.dry_run {
        return Ok(Came::All(plan));
    }
    remove_there(client, there, &plan.clear).await?;
    if !plan.send.is_empty() {
        let names = plan.send.clone();
        let made = outgoing(move |output| export_only(&local, b"", names, output, Compression::None));
        let tree = ImportTree::at(there.root, &RawString::from(there.path.clone()));
        let (sandbox, tree) = (&there.sandbox, &tree);
        let progress = Progress::new("sending", Some(plan.bytes));
        send(made, progress, |pieces| client.import(sandbox, tree, pieces)).await?;
    }
    remove_there(client, there, &plan.remove).await?;
    Ok(Came::All(plan))
}

/// From a sandbox. What it sends beyond what was asked for refuses it all.
async fn pull(client: &Client, there: &There, destination: &Path, how: &How) -> Result<Came<Plan>, Failure> {
    must_be_there(client, there).await?;
    let guests = list_there(client, there, how).await?;
    let (place, here) = match look(destination)? {
        Found::Nothing => (Local::named(destination)?, Tree::default()),
        Found::Directory => {
            let place = Local::directory(destination)?;
            let here = list_here(&place.root, &how.exclude)?;
            (place, here)
        }
        Found::Link => return Err(refuse_link(destination)),
        Found::Other => return Err(Failure::invalid(format!("{} is no directory", destination.display()))),
    };
    let plan = decided(&guests, &here, how)?;
    if how.dry_run {
        return Ok(Came::All(plan));
    }
    remove_here(&place.root, &plan.clear)?;
    let place = match plan.send.is_empty() {
        true => place,
        false => match fetch(client, there, place, &plan).await? {
            Came::All(place) => place,
            Came::Cut(code) => return Ok(Came::Cut(code)),
        },
    };
    remove_here(&place.root, &plan.remove)?;
    Ok(Came::All(plan))
}

async fn fetch(client: &Client, there: &There, place: Local, plan: &Plan) -> Result<Came<Local>, Failure> {
    let names: Vec<u8> = plan.send.iter().flat_map(|path| [path.as_slice(), b"\0"]).flatten().copied().collect();
    if names.len() > limits::SELECTION {
        let message = format!("{} files have names too long to be asked for together", plan.send.len());
        return Err(Failure::invalid(message).with_hint("hearth cp fetches the whole directory"));
    }
    let tree = ExportTree::at(there.root, &RawString::from(there.path.clone()));
    let download = client.export_only(&there.sandbox, &tree, Bytes::from(names)).await?;
    let asked: BTreeSet<Vec<u8>> = plan.send.clone();
    let unpack = move |incoming: Incoming| {
        let options = ImportOptions { distrusted: true, only: Some(&asked), ..ImportOptions::default() };
        import(&place.root, &place.name, incoming, &options).map(|_| place)
    };
    take(download, Progress::new("fetching", Some(plan.bytes)), unpack).await
}

/// Lists a directory of this host's.
fn list_here(root: &Root, exclude: &Exclude) -> Result<Tree, Failure> {
    let mut lister = Lister::open(root, b"", Listing { depth: usize::MAX, after: None })?;
    let mut tree = Tree::default();
    loop {
        match lister.advance()? {
            Listed::Entry(entry) => take_in(&mut tree, entry.path.as_bytes().to_vec(), entry, exclude)?,
            Listed::Nothing => {}
            Listed::End => return Ok(tree),
        }
    }
}

/// Lists a directory of a guest's, which may not be there yet.
async fn list_there(client: &Client, there: &There, how: &How) -> Result<Tree, Failure> {
    let mut tree = Tree::default();
    if stat(client, there).await?.is_none() {
        return Ok(tree);
    }
    let (root, path) = (there.root, RawString::from(there.path.clone()));
    let mut list = List { root, path, recursive: true, depth: None, limit: Some(PAGE), after: None };
    let base = base(&there.path);
    loop {
        let page = client.list_files(&there.sandbox, &list).await?;
        for entry in page.entries {
            let path = entry.path.as_bytes().strip_prefix(base.as_slice()).filter(|path| is_clean(path));
            let path = path.ok_or_else(|| Failure::machine("the guest lists what it was not asked for".to_owned()))?;
            take_in(&mut tree, path.to_vec(), entry, &how.exclude)?;
        }
        match page.next {
            Some(next) => list.after = Some(next),
            None => return Ok(tree),
        }
    }
}

/// What stands before the paths of a list.
fn base(path: &[u8]) -> Vec<u8> {
    let parts = path.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    parts.flat_map(|part| [part, b"/"]).flatten().copied().collect()
}

/// Whether a path has names alone, with one slash between them.
fn is_clean(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/').all(|name| !matches!(name, b"" | b"." | b"..") && !name.contains(&0))
}

fn take_in(tree: &mut Tree, path: Vec<u8>, entry: FileEntry, exclude: &Exclude) -> Result<(), Failure> {
    if exclude.excludes(&path, entry.kind == FileKind::Directory) {
        tree.protect(&path);
        return Ok(());
    }
    if let Some(code) = entry.unreadable {
        let message = format!("{} cannot be read: {}", shown(&path), json!(code));
        return Err(Failure::invalid(message).with_hint("--exclude leaves it alone"));
    }
    if tree.entries.len() >= MOST {
        return Err(Failure::invalid(format!("there are more than {MOST} files and directories")));
    }
    tree.add(path, entry);
    Ok(())
}

async fn remove_there(client: &Client, there: &There, paths: &[Vec<u8>]) -> Result<(), Failure> {
    for path in paths {
        let (root, path) = (there.root, there.join(path).path.into());
        client.remove_file(&there.sandbox, &Remove { root, path, recursive: true, missing_ok: true }).await?;
    }
    Ok(())
}

fn remove_here(root: &Root, paths: &[Vec<u8>]) -> Result<(), Failure> {
    let removal = Removal { recursive: true, missing_ok: true };
    for path in paths {
        remove(root, path, removal, &|| true)?;
    }
    Ok(())
}
