//! `hearth diff`, `patch`, `reset`, `checkpoint`.

use std::io;
use std::path::Path;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::Either;
use hearth_client::api::Code;
use hearth_client::api::history::{ApplyPatch, ChangeList, Since, checkpoint_name};
use hearth_client::api::protocol::history::{BASELINE, Change, ChangeKind, Checkpoint, Diffed, Named};
use hearth_client::api::protocol::{ErrorCode, RawString};
use hearth_client::{ClientError, Download};
use serde_json::json;

use super::guest::to_stdout;
use super::sandbox::existing;
use crate::arguments::{CheckpointCommand, DiffOptions, PatchOptions, ResetOptions};
use crate::failure::{BROKEN_PIPE, Failure};
use crate::{output, pipes, terminal, times};

/// What is read of a patch at a time, in bytes.
const PIECE: usize = 64 * 1024;

/// Shows what has changed: as a patch, byte for byte unless a terminal is to show it, or as a list.
pub(crate) async fn diff(options: DiffOptions) -> Result<i32, Failure> {
    let since = Since { since: Some(checkpoint_name(&options.since, "since")?) };
    let client = existing(&options.sandbox).await?;
    let changed = client.changes(&options.sandbox, &since).await.map_err(|error| unknown(error, &options.sandbox))?;
    if options.json {
        output::print_json(&changed)?;
        return Ok(0);
    }
    if options.stat {
        return stat(&changed).map(|()| 0);
    }
    tell_of_the_rest(&changed.totals);
    if changed.changes.is_empty() {
        return Ok(0);
    }
    let patch = client.diff(&options.sandbox, &since).await?;
    if terminal::shows_output() { to_terminal(patch).await } else { to_stdout(patch).await }
}

/// A hint for whoever asks for a checkpoint that nobody has taken.
fn unknown(error: ClientError, sandbox: &str) -> Failure {
    match error {
        ClientError::Refused { body } if body.code == Code::Guest(ErrorCode::UnknownName) && body.hint.is_none() => {
            let hint = format!("hearth checkpoint create {sandbox} takes one, called {BASELINE} unless it is named");
            body.with_hint(Some(hint)).into()
        }
        error => error.into(),
    }
}

/// Says what a patch does not have in it.
fn tell_of_the_rest(totals: &Diffed) {
    if totals.left_out > 0 {
        output::say(&format!("hearth: {} of the changes fit in no patch", totals.left_out));
    }
    if totals.skipped > 0 {
        output::say(&format!("hearth: {} files or directories could not be looked at", totals.skipped));
    }
}

fn stat(changed: &ChangeList) -> Result<(), Failure> {
    changed.changes.iter().try_for_each(|change| output::print(&line(change)))?;
    let Diffed { created, modified, deleted, .. } = changed.totals;
    output::print(&format!("{created} created, {modified} modified, {deleted} deleted"))?;
    tell_of_the_rest(&changed.totals);
    Ok(())
}

fn line(change: &Change) -> String {
    let what = match change.change {
        ChangeKind::Created => "created",
        ChangeKind::Modified => "modified",
        ChangeKind::Mode => "mode",
        ChangeKind::Replaced => "replaced",
        ChangeKind::Deleted => "deleted",
        ChangeKind::Unknown => "changed",
    };
    let size = match (change.bytes_before, change.bytes) {
        (Some(before), Some(now)) if before != now => format!("  {} -> {}", output::bytes(before), output::bytes(now)),
        (_, Some(bytes)) | (Some(bytes), None) => format!("  {}", output::bytes(bytes)),
        (None, None) => String::new(),
    };
    format!("{what:<8}  {}{size}", text(&change.path))
}

fn text(raw: &RawString) -> String {
    output::plain(&String::from_utf8_lossy(raw.as_bytes()))
}

/// Shows a patch line by line. What it carries comes from the guest, which is not to drive the terminal.
async fn to_terminal(mut patch: Download) -> Result<i32, Failure> {
    let mut rest = Vec::new();
    loop {
        let piece = patch.next().await?;
        let is_over = piece.is_none();
        rest.extend_from_slice(&piece.unwrap_or_default());
        // A line without an end is shown as far as it came.
        let end = match rest.iter().rposition(|&byte| byte == b'\n') {
            Some(last) if !is_over => last + 1,
            None if rest.len() < PIECE && !is_over => 0,
            _ => rest.len(),
        };
        let shown: Vec<u8> = rest.drain(..end).collect();
        match pipes::write(false, output::plain_lines(&String::from_utf8_lossy(&shown))).await {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(BROKEN_PIPE),
            Err(error) => return Err(Failure::host(format!("cannot write standard output: {error}"))),
        }
        if is_over {
            return Ok(0);
        }
    }
}

/// Applies a patch.
pub(crate) async fn patch(options: PatchOptions) -> Result<i32, Failure> {
    let apply = ApplyPatch {
        path: options.directory,
        strip: Some(options.strip),
        reverse: Some(options.reverse),
        check: Some(options.check),
    };
    apply.clone().patch()?;
    let text = source(&options.file)?;
    let patched = existing(&options.sandbox).await?.patch(&options.sandbox, &apply, text).await?;
    if options.json {
        output::print_json(&patched)?;
        return Ok(0);
    }
    let moved = match patched.moved {
        0 => String::new(),
        moved => format!(", {moved} of them elsewhere than it says"),
    };
    let verb = if options.check { "applies" } else { "applied" };
    output::print(&format!("{verb}: {} files, {} hunks{moved}", patched.files, patched.hunks))?;
    Ok(0)
}

/// A file's bytes, or standard input's, as they come.
fn source(file: &Path) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + use<>, Failure> {
    if file == Path::new("-") {
        return Ok(Either::Left(pipes::stdin()));
    }
    let opened = std::fs::File::open(file);
    let opened = opened.map_err(|error| Failure::host(format!("cannot read {}: {error}", file.display())))?;
    Ok(Either::Right(pipes::file(opened)))
}

/// Brings the workspace back.
pub(crate) async fn reset(options: ResetOptions) -> Result<i32, Failure> {
    let to = Named { name: checkpoint_name(&options.checkpoint, "name")? };
    let client = existing(&options.sandbox).await?;
    let done = client.reset(&options.sandbox, &to).await.map_err(|error| unknown(error, &options.sandbox))?;
    if options.json {
        output::print_json(&done)?;
        return Ok(0);
    }
    output::print(&format!("{} restored, {} removed, {} adjusted", done.restored, done.removed, done.adjusted))?;
    if done.left_out > 0 {
        output::say(&format!("hearth: {} could not be made what they were", done.left_out));
    }
    Ok(0)
}

/// Takes, lists and removes checkpoints.
pub(crate) async fn checkpoint(command: CheckpointCommand) -> Result<i32, Failure> {
    match command {
        CheckpointCommand::Create { json, sandbox, name } => {
            let named = Named { name: checkpoint_name(&name, "name")? };
            let taken = existing(&sandbox).await?.checkpoint(&sandbox, &named).await?;
            if json { output::print_json(&taken)? } else { output::print(&taken.name)? }
        }
        CheckpointCommand::Ls(options) => {
            let there = existing(&options.sandbox).await?.checkpoints(&options.sandbox).await?.checkpoints;
            if options.json {
                output::print_json(&there)?;
            } else {
                let rows: Vec<Vec<String>> = there.iter().map(row).collect();
                output::print_table(&["NAME", "TAKEN", "FILES", "SIZE"], &rows)?;
            }
        }
        CheckpointCommand::Rm { json, sandbox, name } => {
            let name = checkpoint_name(&name, "name")?;
            existing(&sandbox).await?.remove_checkpoint(&sandbox, name.as_str()).await?;
            if json {
                output::print_json(&json!({ "removed": [name] }))?;
            }
        }
    }
    Ok(0)
}

fn row(checkpoint: &Checkpoint) -> Vec<String> {
    let Checkpoint { name, taken_ms, files, bytes, .. } = checkpoint;
    vec![output::plain(name), times::utc(*taken_ms), files.to_string(), output::bytes(*bytes)]
}
