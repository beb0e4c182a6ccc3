//! `hearth daemon`: holds sandboxes until it is told to end, or has had nothing to do for long enough. They go on without it, until the next
//! daemon takes them over.

mod log;

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use hearth_engine::fleet::{Fleet, FleetLimits, Happening, QueueLimits};
use hearth_engine::{Directories, PoolLimits, chain};
use hearth_server::{App, Audit, Ended, Listeners, Privacy, Remote, RemoteError, RemoteOptions, Socket, Traces, serve};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::arguments::{DaemonOptions, ListenOptions};
use crate::failure::Failure;
use crate::signals::{Signals, Told};
use crate::{daemon, home};

use log::Log;

/// The threads that serve: what an engine does at once on one must not hold up the others.
const THREADS: usize = 4;

/// Runs the daemon, and returns its exit code.
pub(crate) fn run(options: &DaemonOptions) -> Result<i32, Failure> {
    let result = begin(options);
    if let (true, Err(failure)) = (options.started, &result) {
        // Whoever started it reads why. If nobody does, the log has it.
        let _ = writeln!(std::io::stdout(), "{}", failure.message());
    }
    result
}

fn begin(options: &DaemonOptions) -> Result<i32, Failure> {
    if options.started {
        // One that leads a session already is as detached as it can be.
        let _ = rustix::process::setsid();
    }
    let directories = home::local_directories()?;
    std::fs::create_dir_all(directories.home())
        .map_err(|error| Failure::host(format!("cannot make {}: {error}", directories.home().display())))?;
    let _lock = take_lock(&directories, options.started)?;
    raise_descriptors();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .map_err(Failure::runtime)?;
    let log = Log::open(options.started.then(|| daemon::log(&directories)));
    let traces = {
        let _within = runtime.enter();
        trace(options, &log)?
    };
    // A task like any other: what waits in `block_on` has a thread of its own, to which each new connection would be a switch.
    let held = runtime.spawn({
        let (options, directories, log) = (options.clone(), directories.clone(), log.clone());
        async move { hold(&options, &directories, &log).await }
    });
    let code = runtime.block_on(held).unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    if let Some(traces) = traces {
        traces.end();
    }
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

/// Takes the lock of the one daemon. One that was started by a command waits for an earlier one's end, since that no longer listens.
fn take_lock(directories: &Directories, wait: bool) -> Result<File, Failure> {
    let path = daemon::lock(directories);
    let failed = |error: std::io::Error| Failure::host(format!("cannot lock {}: {error}", path.display()));
    let options = File::options().create(true).truncate(false).read(true).write(true).mode(0o600).clone();
    let mut file = options.open(&path).map_err(failed)?;
    let how = if wait { FlockOperation::LockExclusive } else { FlockOperation::NonBlockingLockExclusive };
    if let Err(error) = flock(&file, how) {
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        return Err(match error {
            rustix::io::Errno::WOULDBLOCK => {
                Failure::invalid(format!("a daemon holds {} already, process {}", path.display(), holder.trim()))
            }
            error => failed(error.into()),
        });
    }
    let note = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    note.map_err(failed)?;
    Ok(file)
}

/// Each sandbox takes a dozen descriptors, and each client one.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // Where it is not allowed, there are as many as there were.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Sends traces, if that is asked for.
fn trace(options: &DaemonOptions, log: &Log) -> Result<Option<Traces>, Failure> {
    let log = log.clone();
    let begin = |options| Traces::begin(options, move |line| log.line(line));
    let begun = home::traces(options.otlp_endpoint.as_deref())?.map(begin).transpose();
    begun.map_err(|error| Failure::invalid(chain(&error)))
}

async fn hold(options: &DaemonOptions, directories: &Directories, log: &Log) -> Result<i32, Failure> {
    let mut signals = Signals::new().map_err(Failure::runtime)?;
    let mut limits = FleetLimits::of_host();
    limits.sandboxes = options.max_sandboxes.unwrap_or(limits.sandboxes);
    limits.memory_mib = options.max_memory.map_or(limits.memory_mib, |memory| u64::from(memory.0));
    limits.cpus = options.max_cpus.unwrap_or(limits.cpus);
    let queue = QueueLimits { places: options.queue, patience: options.queue_timeout.0 };
    let mut pool = PoolLimits::of_host();
    pool.ready = options.pool.or(home::pool()?).unwrap_or(pool.ready);
    pool.floor_mib = options.memory_floor.map_or(pool.floor_mib, |memory| u64::from(memory.0));
    // All that can fail comes before a sandbox is taken over, for one that is dropped is gone. Whoever connects meanwhile waits.
    let socket = Socket::bind(&daemon::socket(directories)).map_err(|error| Failure::host(chain(&error)))?;
    let remote = listen(&options.listen, directories).await?;
    let fleet = Fleet::open(home::open()?, limits, queue, pool).await?;
    let app = App::new(fleet, env!("CARGO_PKG_VERSION"), Audit::in_directory(&directories.logs()));
    log.line(&format!("hearth {} listens, process {}", env!("CARGO_PKG_VERSION"), std::process::id()));
    if let Some(remote) = &remote {
        let certificate = remote.fingerprint().map(|print| format!(", certificate {print}")).unwrap_or_default();
        log.line(&format!("hearth listens on {}{certificate}", remote.url()));
    }
    if options.started {
        tell_ready();
    }
    let writing = tokio::spawn(write_events(app.clone(), log.clone()));
    let listeners = Listeners { socket, remote };
    let ended = serve(listeners, app, options.idle_timeout.map(|time| time.0), told_to_end(&mut signals)).await;
    writing.abort();
    match ended {
        Ended::Told(code) => log.line(&format!("hearth was told to end, code {code}")),
        Ended::Idle => log.line("hearth ends: there was nothing to do"),
        Ended::Broken(error) => return Err(Failure::host(format!("no connection can be accepted: {error}"))),
    }
    Ok(0)
}

/// Listens on TCP, if that is asked for.
async fn listen(options: &ListenOptions, directories: &Directories) -> Result<Option<Remote>, Failure> {
    let Some(address) = options.listen else { return Ok(None) };
    let privacy = match (&options.tls_cert, &options.tls_key) {
        (Some(certificate), Some(key)) => Privacy::Certificate { certificate: certificate.clone(), key: key.clone() },
        _ if options.tls => Privacy::OwnCertificate,
        _ if options.no_tls => Privacy::None,
        _ => Privacy::Loopback,
    };
    let wanted = RemoteOptions { address, privacy, names: options.host_name.clone() };
    let remote = Remote::bind(directories.home(), wanted).await.map_err(|error| {
        let failure = match error {
            RemoteError::InTheClear { .. } => Failure::invalid(chain(&error)),
            _ => Failure::host(chain(&error)),
        };
        error.hint().into_iter().fold(failure, Failure::with_hint)
    })?;
    Ok(Some(remote))
}

async fn told_to_end(signals: &mut Signals) -> i32 {
    loop {
        match signals.told().await {
            Told::Interrupt => return 130,
            Told::End(code) => return code,
            Told::Resized => {}
        }
    }
}

/// Tells whoever started this that it listens, and lets go of the lock of starting. One that has been interrupted need not be told.
fn tell_ready() {
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(daemon::IS_READY.as_bytes()).and_then(|()| stdout.flush());
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}

async fn write_events(app: App, log: Log) {
    let mut position = 0;
    loop {
        let batch = app.fleet().events().after(position).await;
        for event in batch.events {
            position = event.position;
            let name = event.name.map(|name| format!(" ({name})")).unwrap_or_default();
            let what = match event.what {
                Happening::State { state, reason: None } => state.to_string(),
                Happening::State { state, reason: Some(reason) } => format!("{state}: {reason}"),
                Happening::Changed => "changed".to_owned(),
                Happening::Adopted { told: None } => "adopted".to_owned(),
                Happening::Adopted { told: Some(told) } => format!("adopted: {told}"),
            };
            log.line(&format!("{}{name} {what}", event.sandbox));
        }
    }
}
