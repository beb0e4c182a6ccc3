//! What the daemon adds: its API, events, a command of one's own, many of them at once, and its memory.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hearth_client::api::process::AttachProcess;
use hearth_client::api::{ChangeSandbox, FollowEvents};
use hearth_client::{Followed, Item};
use hearth_engine::Sandbox;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::process::Command;
use tokio::task::JoinSet;

use super::daemon::{Daemon, program};
use super::figure::{Figure, Goal, Row, Samples};
use super::host::Host;
use super::restore::run_true;
use super::{Group, Measure, WARM_UP, milliseconds};

/// How many sandboxes execs and attachments are spread over.
const SPREAD: usize = 10;
const EXECS_AT_ONCE: usize = 200;
const ATTACHMENTS: usize = 1000;
const IDLE_SANDBOXES: usize = 20;
/// How many processes `hearth exec` is measured beside: itself, and what it may cost more than the API.
const PROCESSES: u32 = 3;

const TRUE: Figure = Figure {
    name: "api.true",
    unit: "ms",
    baseline: Some(
        "`true` over the channel of a sandbox like it; ours is one request of the API, with a connection of its own",
    ),
    goal: Some(Goal::RatioAtMost(1.2)),
};
const EVENT: Figure = Figure {
    name: "api.event",
    unit: "ms",
    baseline: Some(
        "the API's round trip, a sandbox inspected; ours is from a request that changes a label to the event at another client",
    ),
    goal: Some(Goal::RatioAtMost(2.0)),
};
const PROCESS: Figure = Figure {
    name: "exec.process",
    unit: "ms",
    baseline: Some("api.true plus three times `/bin/true` as a process; ours is `hearth exec NAME true` as a process"),
    goal: Some(Goal::RatioAtMost(1.0)),
};
const BURST: Figure = Figure {
    name: "api.burst",
    unit: "ms",
    baseline: Some("one at a time; ours are 200 execs of `true` at once on 10 sandboxes, from the first request on"),
    goal: Some(Goal::TailAtMost(3.0)),
};
const ATTACHED: Figure = Figure {
    name: "api.attached",
    unit: "ms",
    baseline: Some("api.true without them; ours is beside 1,000 idle attachments to programs of 10 sandboxes"),
    goal: None,
};
const MEMORY: Figure = Figure {
    name: "memory.daemon",
    unit: "MiB",
    baseline: Some("the same daemon without a sandbox; ours is its resident memory with 20"),
    goal: Some(Goal::AtMost(40.0)),
};
const MEMORY_ATTACHED: Figure = Figure {
    name: "memory.daemon.attached",
    unit: "MiB",
    baseline: Some("the same daemon without attachments; ours is its resident memory with 1,000"),
    goal: None,
};

pub(super) const GROUP: Group = Group {
    figures: &[TRUE, EVENT, PROCESS, MEMORY, BURST, ATTACHED, MEMORY_ATTACHED],
    measure: Measure::Guest(|host| Box::pin(measure(host))),
};

async fn measure(host: &Host) -> Result<Vec<Row>> {
    raise_open_files()?;
    let daemon = Daemon::start(host).await?;
    let bare = host.create(host.spec()).await?;
    let empty = daemon.resident_mib()?;
    let mut sandboxes = vec![daemon.create().await?];
    let mut rows = single(host, &daemon, &bare, &sandboxes[0]).await?;
    bare.remove().await;
    while sandboxes.len() < IDLE_SANDBOXES {
        sandboxes.push(daemon.create().await?);
    }
    let mut memory = Samples::default();
    memory.push(daemon.resident_mib()?, empty);
    rows.push(MEMORY.row(&memory));
    sandboxes.truncate(SPREAD);
    rows.push(burst(host, &daemon, &sandboxes).await?);
    rows.extend(attached(host, &daemon, &sandboxes).await?);
    daemon.stop().await?;
    Ok(rows)
}

/// One thing at a time. Events by themselves: a daemon that has just served an exec is slower at whatever is asked next, and quicker after that.
async fn single(host: &Host, daemon: &Daemon, bare: &Sandbox, sandbox: &str) -> Result<Vec<Row>> {
    let (mut api, mut event, mut process) = (Samples::default(), Samples::default(), Samples::default());
    for round in 0..WARM_UP + host.samples(300, 50) {
        let through = timed(daemon.run_true(sandbox)).await?;
        let over_channel = timed(run_true(bare)).await?;
        let whole = timed(exec_process(daemon, sandbox)).await?;
        let alone = timed(bin_true()).await?;
        if round >= WARM_UP {
            api.push(milliseconds(through), milliseconds(over_channel));
            process.push(milliseconds(whole), milliseconds(through + alone * PROCESSES));
        }
    }
    let mut events = daemon.client.events(&FollowEvents::default()).await?;
    for round in 0..WARM_UP + host.samples(300, 50) {
        let told = change(daemon, sandbox, round, &mut events).await?;
        let asked = timed(async { Ok(daemon.client.inspect(sandbox).await?) }).await?;
        if round >= WARM_UP {
            event.push(milliseconds(told), milliseconds(asked));
        }
    }
    Ok(vec![TRUE.row(&api), EVENT.row(&event), PROCESS.row(&process)])
}

/// Changes a label: how long it takes until another client is told.
async fn change(daemon: &Daemon, sandbox: &str, round: usize, events: &mut Followed) -> Result<Duration> {
    let labels = [("round".to_owned(), round.to_string())].into();
    let change = ChangeSandbox { labels: Some(labels), ..ChangeSandbox::default() };
    let begun = Instant::now();
    let changing = async { Ok::<_, anyhow::Error>(daemon.client.change(sandbox, &change).await?) };
    let told = async { Ok((events.next().await?.context("the events ended")?, begun.elapsed())) };
    let (_, (item, took)) = tokio::try_join!(changing, told)?;
    ensure!(matches!(&item, Item::Event(event) if event.sandbox == sandbox), "not its event: {item:?}");
    Ok(took)
}

async fn exec_process(daemon: &Daemon, sandbox: &str) -> Result<()> {
    let status = daemon.command(&["exec", sandbox, "true"])?.status().await?;
    ensure!(status.success(), "hearth exec: {status}");
    Ok(())
}

async fn bin_true() -> Result<()> {
    let status = Command::new("/bin/true").stdin(Stdio::null()).status().await?;
    ensure!(status.success(), "/bin/true: {status}");
    Ok(())
}

/// Many execs at once: each one's time from the first request to its answer.
async fn burst(host: &Host, daemon: &Daemon, sandboxes: &[String]) -> Result<Row> {
    let mut samples = Samples::default();
    for round in 0..1 + host.samples(5, 1) {
        let mut running = JoinSet::new();
        let begun = Instant::now();
        for sandbox in sandboxes.iter().cycle().take(EXECS_AT_ONCE) {
            let (client, sandbox) = (daemon.client.clone(), sandbox.clone());
            running.spawn(async move { (client.exec(&sandbox, &program(&["true"])).await, begun.elapsed()) });
        }
        while let Some(ended) = running.join_next().await {
            let (ended, took) = ended?;
            let status = ended?.status;
            ensure!(status.code == Some(0), "one of {EXECS_AT_ONCE}: {status:?}");
            if round > 0 {
                samples.push_alone(milliseconds(took));
            }
        }
        samples.push_baseline(milliseconds(timed(daemon.run_true(&sandboxes[0])).await?));
    }
    Ok(BURST.row(&samples))
}

/// What attachments cost that wait for output: a request beside them, and the daemon's memory.
async fn attached(host: &Host, daemon: &Daemon, sandboxes: &[String]) -> Result<[Row; 2]> {
    let (mut request, mut memory) = (Samples::default(), Samples::default());
    let rounds = host.samples(100, 10);
    for _ in 0..rounds {
        request.push_baseline(milliseconds(timed(daemon.run_true(&sandboxes[0])).await?));
    }
    let before = daemon.resident_mib()?;
    let mut sleeping = Vec::new();
    for sandbox in sandboxes {
        sleeping.push((sandbox, daemon.client.start(sandbox, &program(&["sleep", "1h"])).await?));
    }
    let mut held = Vec::new();
    for (sandbox, started) in sleeping.iter().cycle().take(ATTACHMENTS) {
        let from = AttachProcess::default();
        held.push(daemon.client.attach(sandbox, &started.process.0.to_string(), &from).await?);
    }
    for _ in 0..rounds {
        request.push_alone(milliseconds(timed(daemon.run_true(&sandboxes[0])).await?));
    }
    memory.push(daemon.resident_mib()?, before);
    Ok([ATTACHED.row(&request), MEMORY_ATTACHED.row(&memory)])
}

async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<Duration> {
    let begun = Instant::now();
    work.await?;
    Ok(begun.elapsed())
}

/// Each attachment is a socket of ours.
fn raise_open_files() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).context("raise the limit of open files")
}
