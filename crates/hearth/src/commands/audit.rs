//! `hearth audit`: who has asked the daemon for what. The log is read where it lies; no daemon is needed.

use std::fs::{DirBuilder, File};
use std::io::{self, BufRead, BufReader};
use std::mem::MaybeUninit;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_client::api::audit::{FILE, Record, Who};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::arguments::AuditOptions;
use crate::failure::Failure;
use crate::{home, output, times};

/// Prints what is kept of the log, the oldest first, and what comes to it if that is asked for.
pub(crate) fn run(options: &AuditOptions) -> Result<i32, Failure> {
    let path = home::local_directories()?.logs().join(FILE);
    // Before anything is read, so that nothing comes unseen in between.
    let changes = options.follow.then(|| Changes::of(&path)).transpose()?;
    // Opened before the older one is printed: it may be put aside meanwhile, and be the older one then.
    let mut log = Log::open(&path)?;
    let older = path.with_added_extension("1");
    if !log.as_ref().is_some_and(|log| log.is_at(&older))
        && let Some(mut older) = Log::open(&older)?
    {
        older.print(options.json)?;
    }
    loop {
        if let Some(log) = &mut log {
            log.print(options.json)?;
        }
        if !log.as_ref().is_some_and(|log| log.is_at(&path)) {
            // It was put aside, or none was there: all of that one was printed above, and this is the next.
            log = Log::open(&path)?;
            if let Some(log) = &mut log {
                log.print(options.json)?;
            }
        }
        match &changes {
            Some(changes) => changes.wait()?,
            None => return Ok(0),
        }
    }
}

/// A log that is being read.
struct Log {
    path: PathBuf,
    reader: BufReader<File>,
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
}

impl Log {
    fn open(path: &Path) -> Result<Option<Self>, Failure> {
        match File::open(path) {
            Ok(file) => Ok(Some(Self { path: path.to_owned(), reader: BufReader::new(file), begun: Vec::new() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unread(path)(error)),
        }
    }

    /// Whether this is the file at a path.
    fn is_at(&self, path: &Path) -> bool {
        let number = |meta: io::Result<std::fs::Metadata>| meta.ok().map(|meta| (meta.dev(), meta.ino()));
        number(self.reader.get_ref().metadata()) == number(std::fs::metadata(path))
    }

    /// Prints the lines that have come.
    fn print(&mut self, json: bool) -> Result<(), Failure> {
        while self.reader.read_until(b'\n', &mut self.begun).map_err(unread(&self.path))? > 0 {
            if self.begun.last() == Some(&b'\n') {
                let line = std::mem::take(&mut self.begun);
                match serde_json::from_slice::<Record>(&line) {
                    Ok(record) if json => output::print(&serde_json::json!(record).to_string())?,
                    Ok(record) => output::print(&told(&record))?,
                    // Half a line of a daemon that was killed, and what came behind it.
                    Err(_) => output::say("hearth: a line of the log cannot be read"),
                }
            }
        }
        Ok(())
    }
}

fn told(record: &Record) -> String {
    let who = match &record.who {
        Who::User { uid, pid: Some(pid) } => format!("user {uid} process {pid}"),
        Who::User { uid, pid: None } => format!("user {uid}"),
        Who::Key { key } => format!("key {key}"),
    };
    let via = record.via.as_ref().map(|via| format!(" via {via}")).unwrap_or_default();
    let about = record.sandbox.iter().chain(&record.target).map(|part| format!(" {part}")).collect::<String>();
    let made = if record.made.is_empty() { String::new() } else { format!(" made {}", record.made.join(" ")) };
    let status = record.status.map_or_else(|| "not waited for".to_owned(), |status| status.to_string());
    let code = record.code.as_ref().map(|code| format!(" {code}")).unwrap_or_default();
    let took = Duration::from_micros(record.duration_us);
    let (at, operation) = (times::utc(record.at_unix_ms), &record.operation);
    output::plain(&format!("{at} {who}{via}: {operation}{about}{made}: {status}{code}, {took:.1?}"))
}

/// What happens in the log's directory.
struct Changes(rustix::fd::OwnedFd, PathBuf);

impl Changes {
    fn of(path: &Path) -> Result<Self, Failure> {
        let directory = path.parent().unwrap_or(path);
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unread(directory))?;
        let failed = |error: rustix::io::Errno| unread(directory)(error.into());
        let watch = inotify::init(CreateFlags::CLOEXEC).map_err(failed)?;
        inotify::add_watch(&watch, directory, WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO)
            .map_err(failed)?;
        Ok(Self(watch, directory.to_owned()))
    }

    /// Waits until something has.
    fn wait(&self) -> Result<(), Failure> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        match inotify::Reader::new(&self.0, &mut buffer).next() {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(unread(&self.1)(error.into())),
        }
    }
}

fn unread(path: &Path) -> impl Fn(io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| Failure::host(format!("cannot read {path}: {error}"))
}
