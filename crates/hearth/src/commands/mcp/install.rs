//! `hearth mcp install`: Hearth in another program's configuration.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{env, process};

use super::config::{self, Places, Server};
use crate::arguments::{McpInstallOptions, McpScope};
use crate::failure::Failure;
use crate::output;

/// The largest file that is taken for a configuration, in bytes.
const LARGEST: u64 = 64 * 1024 * 1024;

pub(super) fn run(options: &McpInstallOptions) -> Result<i32, Failure> {
    let path = config::file(options.client, options.scope, &places()?);
    let before = read(&path)?;
    let server = server(options)?;
    let after = config::with(options.client, before.as_deref().unwrap_or_default(), &server).map_err(|what| {
        Failure::invalid(format!("{} cannot be read: {what}", path.display()))
            .with_hint("nothing was changed; mend the file first")
    })?;
    // A project's file is for others, too.
    let mode = if options.scope == McpScope::Project { 0o644 } else { 0o600 };
    if options.print {
        output::say(&format!("hearth: this would be {}", path.display()));
        output::print(after.trim_end())?;
    } else if before.as_deref() == Some(after.as_str()) {
        output::say(&format!("hearth: {} has it already", path.display()));
    } else {
        write(&path, &after, mode)
            .map_err(|error| Failure::host(format!("cannot write {}: {error}", path.display())))?;
        output::say(&format!("hearth: wrote {}; the client reads it when it starts next", path.display()));
    }
    Ok(0)
}

fn places() -> Result<Places, Failure> {
    let named = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = named("HOME").ok_or_else(|| Failure::invalid("HOME names no directory".to_owned()))?;
    let project = env::current_dir().map_err(|error| Failure::host(format!("there is no directory here: {error}")))?;
    Ok(Places {
        config: named("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config")),
        codex: named("CODEX_HOME").unwrap_or_else(|| home.join(".codex")),
        home,
        project,
    })
}

fn server(options: &McpInstallOptions) -> Result<Server, Failure> {
    let own = |error: io::Error| Failure::host(format!("cannot tell where this program is: {error}"));
    let text = |path: PathBuf| {
        path.into_os_string().into_string().map_err(|path| Failure::invalid(format!("{path:?} is no text")))
    };
    let mut arguments = vec!["mcp".to_owned()];
    let profile = hearth_mcp::Profile::from(options.profile);
    if profile != hearth_mcp::Profile::default() {
        arguments.extend(["--profile".to_owned(), profile.name().to_owned()]);
    }
    // What a project says is shared with others, who have it elsewhere.
    let (command, env) = match options.scope {
        McpScope::Project => ("hearth".to_owned(), Vec::new()),
        McpScope::User => {
            let home = env::var_os(config::HOME).filter(|home| !home.is_empty()).map(PathBuf::from);
            let home = home.map(|home| text(home).map(|home| (config::HOME.to_owned(), home))).transpose()?;
            (text(env::current_exe().map_err(own)?)?, home.into_iter().collect())
        }
    };
    Ok(Server { command, arguments, env })
}

fn read(path: &Path) -> Result<Option<String>, Failure> {
    let failed = |error: io::Error| Failure::host(format!("cannot read {}: {error}", path.display()));
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.is_file() || found.len() > LARGEST => {
            return Err(Failure::invalid(format!("{} is no file of a configuration's size", path.display())));
        }
        Ok(_) => {}
    }
    fs::read_to_string(path).map(Some).map_err(failed)
}

/// Writes all or nothing, with the permissions of what was there, or else these.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let path = config::target(path);
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let mode = fs::metadata(&path).map_or(mode, |found| found.permissions().mode() & 0o777);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = directory.join(format!(".{name}.{}.new", process::id()));
    let written = (|| {
        let mut file = File::options().write(true).create_new(true).mode(mode).open(&fresh)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, &path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    written
}
