//! The audit log, written: a line an operation, once it is over, however it ended.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hearth_api::audit::{FILE, FOR_KEY, Record, VIA, Who};
use hearth_api::{Code, ErrorBody};
use tracing::{Instrument, Span};

use crate::answer::{Failed, Refusal, invalid};
use crate::remote::Caller;
use crate::sandboxes::{microseconds, unix_ms};
use crate::{App, traces};

/// The size at which a log is put aside, in bytes: with the one before it, the log is at most twice as large.
const LARGEST: u64 = 16 * 1024 * 1024;
/// The longest text of a client's that a line has, in characters.
const LONGEST: usize = 128;

/// The log, for all who write to it.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    largest: u64,
    open: Mutex<Option<Open>>,
    lost: AtomicU64,
}

#[derive(Debug)]
struct Open {
    file: File,
    size: u64,
}

impl Audit {
    /// Writes to the log in a directory of logs, which is made where it is missing, once there is something to write.
    pub fn in_directory(logs: &Path) -> Self {
        Self { path: logs.join(FILE), largest: LARGEST, open: Mutex::default(), lost: AtomicU64::new(0) }
    }

    /// How many operations could not be written down: a full disk, most likely.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn write(&self, record: &Record) {
        let mut line = serde_json::to_vec(record).expect("plain data always becomes JSON");
        line.push(b'\n');
        let mut open = lock(&self.open);
        if self.append(&mut open, &line).is_err() {
            // The next one tries anew.
            *open = None;
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn append(&self, open: &mut Option<Open>, line: &[u8]) -> io::Result<()> {
        if open.as_ref().is_some_and(|open| open.size >= self.largest) {
            // What cannot be put aside is written on.
            if fs::rename(&self.path, self.path.with_added_extension("1")).is_ok() {
                *open = None;
            }
        }
        let open = match open {
            Some(open) => open,
            None => open.insert(self.begin()?),
        };
        // One write, so that no reader finds half a line of a daemon that was killed.
        open.file.write_all(line)?;
        open.size += line.len() as u64;
        Ok(())
    }

    fn begin(&self) -> io::Result<Open> {
        if let Some(directory) = self.path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let mut file = File::options().read(true).create(true).append(true).mode(0o600).open(&self.path)?;
        let size = file.metadata()?.len();
        let mut last = [b'\n'];
        file.read_exact_at(&mut last, size.saturating_sub(1))
            .or_else(|error| if size == 0 { Ok(()) } else { Err(error) })?;
        if last != [b'\n'] {
            // Half a line, which a full disk has left, is not to spoil the next.
            file.write_all(b"\n")?;
        }
        Ok(Open { file, size })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An operation that goes on. It is written down, and its span ends, when the last one lets go of it.
#[derive(Debug, Clone)]
pub(crate) struct Entry(Arc<Going>);

#[derive(Debug)]
struct Going {
    audit: Arc<Audit>,
    begun: Instant,
    span: Span,
    record: Mutex<Record>,
}

impl Entry {
    /// Notes that it has made a sandbox.
    pub(crate) fn made(&self, sandbox: &str) {
        lock(&self.0.record).made.push(sandbox.to_owned());
    }

    /// Notes why it failed.
    pub(crate) fn failed(&self, code: Code) {
        lock(&self.0.record).code = Some(code.name());
    }

    /// What stands for it in traces.
    pub(crate) fn span(&self) -> Span {
        self.0.span.clone()
    }

    fn answered(&self, status: StatusCode) {
        lock(&self.0.record).status = Some(status.as_u16());
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let record = self.record.get_mut().unwrap_or_else(PoisonError::into_inner);
        record.duration_us = microseconds(self.begun.elapsed());
        traces::tell(&self.span, record);
        self.audit.write(record);
    }
}

/// Stands before each operation, and notes it.
pub(crate) async fn note(
    State((app, operation)): State<(App, Arc<str>)>,
    parameters: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    let mut record = Record {
        at_unix_ms: unix_ms(SystemTime::now()),
        who: who(request.extensions().get(), request.headers()),
        via: text(request.headers(), VIA),
        operation: operation.to_string(),
        sandbox: None,
        target: None,
        made: Vec::new(),
        status: None,
        code: None,
        duration_us: 0,
    };
    for (name, value) in parameters.as_ref().into_iter().flatten() {
        match name {
            "sandbox" => record.sandbox = Some(sandbox(&app, value)),
            _ => record.target = Some(short(value)),
        }
    }
    let (span, begun) = (traces::operation(&operation, &request), Instant::now());
    let entry = Entry(Arc::new(Going { audit: app.audit(), begun, span: span.clone(), record: Mutex::new(record) }));
    request.extensions_mut().insert(entry.clone());
    let response = match parameters {
        Ok(_) => next.run(request).instrument(span).await,
        Err(_) => Refusal::from(ErrorBody { field: Some("path".to_owned()), ..invalid("the path is no UTF-8") })
            .into_response(),
    };
    entry.answered(response.status());
    if let Some(Failed(code)) = response.extensions().get() {
        entry.failed(*code);
    }
    response
}

fn who(caller: Option<&Caller>, headers: &HeaderMap) -> Who {
    match caller {
        Some(Caller::Key { name }) => Who::Key { key: name.clone() },
        // This process itself, for whoever came to it by MCP.
        Some(Caller::Owner { pid })
            if *pid == Some(std::process::id().cast_signed()) && headers.contains_key(FOR_KEY) =>
        {
            Who::Key { key: text(headers, FOR_KEY).unwrap_or_default() }
        }
        Some(Caller::Owner { pid }) => Who::User { uid: own_uid(), pid: *pid },
        None => Who::User { uid: own_uid(), pid: None },
    }
}

/// Nobody else gets past the socket.
fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(short)
}

fn sandbox(app: &App, reference: &str) -> String {
    app.member(reference).map_or_else(|_| short(reference), |member| member.id().to_string())
}

fn short(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn record(target: &str) -> Record {
        Record {
            at_unix_ms: 5,
            who: Who::Key { key: "ci".to_owned() },
            via: None,
            operation: "files_read".to_owned(),
            sandbox: Some("sb-1".to_owned()),
            target: Some(target.to_owned()),
            made: Vec::new(),
            status: Some(200),
            code: None,
            duration_us: 7,
        }
    }

    #[test]
    fn a_log_is_its_owners_alone_and_is_put_aside_at_a_size() {
        let home = tempfile::tempdir().unwrap();
        let audit = Audit { largest: 400, ..Audit::in_directory(&home.path().join("logs")) };
        for number in 0..10 {
            audit.write(&record(&number.to_string()));
        }
        let read = |name: &str| fs::read_to_string(home.path().join("logs").join(name)).unwrap();
        let (older, newer) = (read("audit.jsonl.1"), read("audit.jsonl"));
        assert!(older.len() < 600 && newer.len() < 600, "{older}{newer}");
        let last: Record = serde_json::from_str(newer.lines().last().unwrap_or(older.lines().last().unwrap())).unwrap();
        assert_eq!(last, record("9"));
        let mode = fs::metadata(home.path().join("logs/audit.jsonl")).unwrap().permissions().mode();
        assert_eq!((mode & 0o777, audit.lost()), (0o600, 0));
        // The next daemon adds to it.
        let next = Audit::in_directory(&home.path().join("logs"));
        next.write(&record("next"));
        assert!(read("audit.jsonl").starts_with(&newer) && read("audit.jsonl").contains("next"));
    }

    #[test]
    fn what_cannot_be_written_down_is_counted() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("logs"), "no directory").unwrap();
        let audit = Audit::in_directory(&home.path().join("logs"));
        audit.write(&record("x"));
        assert_eq!(audit.lost(), 1);
        fs::remove_file(home.path().join("logs")).unwrap();
        audit.write(&record("y"));
        assert_eq!(audit.lost(), 1);
    }
}
