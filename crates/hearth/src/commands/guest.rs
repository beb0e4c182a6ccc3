//! `hearth ps`, `attach`, `kill`, `file`, `export`, `install`, `ports`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use hearth_client::api::files::{ExportTree, ReadFile, WriteFile};
use hearth_client::api::packages::InstallPackages;
use hearth_client::api::process::{AttachProcess, SignalProcess};
use hearth_client::api::protocol::archive::Compression;
use hearth_client::api::protocol::files::{FileEntry, FileKind, FileRoot, List, Remove};
use hearth_client::api::protocol::{Command, ProcessInfo, ProcessState, RawString, SignalScope};
use hearth_client::api::services::PublishPort;
use hearth_client::{Client, Download};
use serde_json::json;

use super::conversation::{End, Manner, converse};
use super::sandbox::existing;
use crate::arguments::{
    AttachOptions, ExportOptions, FileCommand, InstallOptions, KillOptions, PortOptions, SandboxOptions,
};
use crate::failure::{BROKEN_PIPE, Failure, exit_code_of};
use crate::signals::Signals;
use crate::values::EnvVar;
use crate::{output, pipes};

/// Lists the programs of a sandbox.
pub(crate) async fn processes(options: SandboxOptions) -> Result<i32, Failure> {
    let list = existing(&options.sandbox).await?.processes(&options.sandbox).await?;
    if options.json {
        output::print_json(&list.processes)?;
    } else {
        let rows: Vec<Vec<String>> = list.processes.iter().map(row).collect();
        output::print_table(&["PROCESS", "PID", "TAG", "STATE", "COMMAND"], &rows)?;
    }
    Ok(0)
}

fn row(process: &ProcessInfo) -> Vec<String> {
    let state = match &process.state {
        ProcessState::Running if process.waiting => "waiting".to_owned(),
        ProcessState::Running => "running".to_owned(),
        ProcessState::Exited(status) if process.left_running > 0 => {
            format!("exited {}, left {} running", status.shell_code(), process.left_running)
        }
        ProcessState::Exited(status) => format!("exited {}", status.shell_code()),
    };
    vec![
        process.process.0.to_string(),
        process.pid.to_string(),
        process.tag.as_ref().map_or_else(|| "-".to_owned(), |tag| output::plain(tag.as_str())),
        state,
        command(&process.command),
    ]
}

/// What runs, on one line.
pub(super) fn command(command: &Command) -> String {
    let text = |raw: &RawString| output::plain(&String::from_utf8_lossy(raw.as_bytes()));
    match command {
        Command::Argv(argv) => argv.iter().map(text).collect::<Vec<_>>().join(" "),
        Command::Shell(script) => text(script),
    }
}

/// Follows a program from its first byte that is kept on, and returns its exit code.
pub(crate) async fn attach(options: AttachOptions) -> Result<i32, Failure> {
    let client = existing(&options.sandbox).await?;
    let mut signals = Signals::new().map_err(Failure::runtime)?;
    let mut held = client.attach(&options.sandbox, &options.process, &AttachProcess::default()).await?;
    let manner = Manner { interactive: options.interactive, timeout: None };
    match converse(&mut held, manner, &mut signals, &mut None).await? {
        End::Cut(code) => Ok(code),
        End::Exited(status) => Ok(exit_code_of(&status)),
    }
}

/// Sends a program a signal.
pub(crate) async fn kill(options: KillOptions) -> Result<i32, Failure> {
    let scope = if options.alone { SignalScope::Process } else { SignalScope::Tree };
    let request = SignalProcess { signal: options.signal, scope };
    existing(&options.sandbox).await?.signal(&options.sandbox, &options.process, &request).await?;
    Ok(0)
}

/// Does something with a file of a sandbox.
pub(crate) async fn file(command: FileCommand) -> Result<i32, Failure> {
    match command {
        FileCommand::Ls { recursive, json, sandbox, path } => {
            let client = existing(&sandbox).await?;
            list(&client, &sandbox, place(path), recursive, json).await
        }
        FileCommand::Read { sandbox, path, .. } => {
            let (root, path) = place(path);
            let download = existing(&sandbox).await?.read_file(&sandbox, &ReadFile::at(root, &path)).await?;
            to_stdout(download).await
        }
        FileCommand::Write { mode, append, sandbox, path, .. } => {
            let (root, path) = place(path);
            let write = WriteFile { mode, append: append.then_some(true), ..WriteFile::at(root, &path) };
            existing(&sandbox).await?.write_file(&sandbox, &write, pipes::stdin()).await?;
            Ok(0)
        }
        FileCommand::Rm { recursive, sandbox, path, .. } => {
            let (root, path) = place(path);
            existing(&sandbox)
                .await?
                .remove_file(&sandbox, &Remove { root, path, recursive, missing_ok: false })
                .await?;
            Ok(0)
        }
    }
}

/// What a path means: an absolute one begins at the guest's root, any other in its workspace.
pub(super) fn place(path: OsString) -> (FileRoot, RawString) {
    let bytes = path.into_vec();
    let root = if bytes.starts_with(b"/") { FileRoot::System } else { FileRoot::Workspace };
    (root, RawString::from(bytes))
}

async fn list(
    client: &Client,
    sandbox: &str,
    (root, path): (FileRoot, RawString),
    recursive: bool,
    json: bool,
) -> Result<i32, Failure> {
    let mut list = List { root, path, recursive, depth: None, limit: None, after: None };
    let mut all = Vec::new();
    loop {
        let page = client.list_files(sandbox, &list).await?;
        all.extend(page.entries);
        match page.next {
            Some(next) => list.after = Some(next),
            None => break,
        }
    }
    if json {
        output::print_json(&all)?;
    } else {
        all.iter().try_for_each(|entry| output::print(&line(entry)))?;
    }
    Ok(0)
}

fn line(entry: &FileEntry) -> String {
    let text = |raw: &RawString| output::plain(&String::from_utf8_lossy(raw.as_bytes()));
    let kind = match entry.kind {
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::File => '-',
        _ => '?',
    };
    let target = entry.target.as_ref().map(|target| format!(" -> {}", text(target))).unwrap_or_default();
    format!("{kind} {:04o} {:>12} {}{target}", entry.mode, entry.size, text(&entry.path))
}

/// Passes bytes on to standard output.
pub(super) async fn to_stdout(mut download: Download) -> Result<i32, Failure> {
    while let Some(bytes) = download.next().await? {
        match pipes::write(false, bytes).await {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(BROKEN_PIPE),
            Err(error) => return Err(Failure::host(format!("cannot write standard output: {error}"))),
        }
    }
    Ok(0)
}

/// Fetches a tree as a tar archive. A file that is named appears when it is whole.
pub(crate) async fn export(options: ExportOptions) -> Result<i32, Failure> {
    let (root, path) = place(options.path);
    let compression = if options.gzip { Compression::Gzip } else { Compression::None };
    let tree = ExportTree { compression: Some(compression), ..ExportTree::at(root, &path) };
    let download = existing(&options.sandbox).await?.export(&options.sandbox, &tree).await?;
    match options.output {
        Some(output) => super::transfer::save(download, &output, 0o644).await,
        None => to_stdout(download).await,
    }
}

/// Installs packages, and returns the installer's exit code.
pub(crate) async fn install(options: InstallOptions) -> Result<i32, Failure> {
    let request = InstallPackages {
        from: options.from.map(|directory| RawString::from(directory.into_vec())),
        directory: options.directory.map(|directory| RawString::from(directory.into_vec())),
        env: options.env.iter().filter_map(EnvVar::get).map(|(name, value)| (name, RawString::from(value))).collect(),
        timeout_ms: options.timeout.map(|time| u64::try_from(time.0.as_millis()).unwrap_or(u64::MAX)),
        ..InstallPackages::new(options.language.into(), options.packages)
    };
    let client = existing(&options.sandbox).await?;
    let mut signals = Signals::new().map_err(Failure::runtime)?;
    let installed = tokio::select! {
        installed = client.install(&options.sandbox, &request) => installed?,
        // The end of the connection ends the installer.
        code = signals.first() => return Ok(code),
    };
    let code = exit_code_of(&installed.status);
    if options.json {
        output::print_json(&installed)?;
        return Ok(code);
    }
    for (is_error, said) in [(false, installed.stdout), (true, installed.stderr)] {
        let written = pipes::write(is_error, said.bytes().unwrap_or_default()).await;
        written.map_err(|error| Failure::host(format!("cannot write the output: {error}")))?;
        if said.dropped_bytes > 0 {
            output::say(&format!("hearth: {} bytes of that are left out", said.dropped_bytes));
        }
    }
    Ok(code)
}

/// Publishes, closes and lists ports.
pub(crate) async fn ports(options: PortOptions) -> Result<i32, Failure> {
    let client = existing(&options.sandbox).await?;
    let mut published = Vec::new();
    for port in options.publish {
        let port = PublishPort { listen: port.listen, guest_port: port.guest_port, guest_host: None, service: None };
        published.push(client.publish(&options.sandbox, &port).await?);
    }
    for port in options.close {
        client.unpublish(&options.sandbox, port).await?;
    }
    // Whoever has published some wants to know where those are; anybody else, which there are.
    let ports = match published.is_empty() {
        true => client.ports(&options.sandbox).await?.ports,
        false => published,
    };
    if options.json {
        output::print_json(&json!(ports))?;
        return Ok(0);
    }
    for port in ports {
        let service = port.service.map(|service| format!(" ({})", output::plain(&service))).unwrap_or_default();
        output::print(&format!("{} -> {}{service}", port.listen, port.guest_port))?;
    }
    Ok(0)
}
