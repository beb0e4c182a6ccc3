//! Sandboxes: made, listed, inspected, changed, removed.

use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::response::NoContent;
use hearth_api::{
    Accelerator, ChangeSandbox, CreateSandbox, ErrorBody, ForkSandbox, ForkedSandboxes, Idle, IdleAction, Lifespan,
    ListSandboxes, OwnCode, PausedSandbox, Phase, SandboxInfo, SandboxList, SandboxState, SaveSandbox, SavedSandbox,
};
use hearth_engine::fleet::{
    self, Changes, Filter, FleetError, IdlePolicy, Labels, Leash, Lifetime, NewCopies, NewSandbox, Removal,
    SandboxName, View,
};
use hearth_engine::vmm::{self, CpuCount, MemoryMib};
use hearth_engine::{AcceleratorChoice, DiskMib, EngineError, Given, SandboxSpec};

use crate::App;
use crate::answer::{Content, Created, Refusal, Text, error_body};
use crate::audit::Entry;
use crate::connection::Bound;
use crate::home::snapshot_name;
use crate::input::{Asked, Body, Nothing};
use crate::services::publish_port;

/// Makes a sandbox. When the connection ends before the answer, this future is dropped, and what it made is removed.
pub(crate) async fn create(
    State(app): State<App>,
    Extension(bound): Extension<Bound>,
    Extension(entry): Extension<Entry>,
    Body(request): Body<CreateSandbox>,
) -> Result<Created<SandboxInfo>, Refusal> {
    let (lifespan, ports) = (request.lifespan, request.ports.clone());
    let member = app.fleet().create(new_sandbox(&app, request)?).await?;
    entry.made(member.id().as_str());
    let leash = Leash::new(member.clone());
    for (number, port) in ports.into_iter().enumerate() {
        publish_port(&member, port).await.map_err(|error| Refusal::from(error).within(&format!("ports[{number}]")))?;
    }
    leash.release();
    match lifespan {
        Lifespan::Kept => {}
        Lifespan::Connection => bound.add(member.clone()),
        Lifespan::Provisional => bound.add_provisional(member.clone()),
    }
    Ok(Created(info(member.view())))
}

pub(crate) async fn list(
    State(app): State<App>,
    Asked(query): Asked<ListSandboxes>,
) -> Result<Json<SandboxList>, Refusal> {
    let views = app.fleet().list(&filter(query)?);
    Ok(Json(SandboxList { sandboxes: views.into_iter().map(info).collect() }))
}

pub(crate) async fn inspect(
    State(app): State<App>,
    Path(reference): Path<String>,
) -> Result<Json<SandboxInfo>, Refusal> {
    Ok(Json(info(app.member(&reference)?.view())))
}

pub(crate) async fn change(
    State(app): State<App>,
    Extension(bound): Extension<Bound>,
    Path(reference): Path<String>,
    Body(request): Body<ChangeSandbox>,
) -> Result<Json<SandboxInfo>, Refusal> {
    if request.lifespan.is_some_and(|lifespan| lifespan != Lifespan::Kept) {
        let message = "what a sandbox's life hangs on is said when it is made, and can only be changed to kept";
        return Err(ErrorBody::new(OwnCode::InvalidValue, message).with_field("lifespan").into());
    }
    let member = app.member(&reference)?;
    let changes = Changes {
        name: request.name.map(|name| name.map(SandboxName::new).transpose()).transpose()?,
        labels: request.labels.map(Labels::new).transpose()?,
        lifetime: request.ttl_seconds.map(|time| time.map(Lifetime::from_seconds).transpose()).transpose()?,
        idle: request.idle.map(|idle| idle.map(policy).transpose()).transpose()?,
    };
    if request.lifespan.is_some() && !bound.is_provisional(&member) {
        let message = "the sandbox was not made as provisional over this connection";
        return Err(ErrorBody::new(OwnCode::WrongState, message).with_field("lifespan").into());
    }
    member.change(changes)?;
    if request.lifespan.is_some() {
        member.keep().await?;
        bound.keep(&member);
    }
    Ok(Json(info(member.view())))
}

pub(crate) async fn remove(State(app): State<App>, Path(reference): Path<String>) -> Result<NoContent, Refusal> {
    app.member(&reference)?.remove(Removal::Asked).await;
    Ok(NoContent)
}

/// Puts a sandbox on disk.
pub(crate) async fn pause(
    State(app): State<App>,
    Path(reference): Path<String>,
    Body(Nothing {}): Body<Nothing>,
) -> Result<Json<PausedSandbox>, Refusal> {
    let member = app.member(&reference)?;
    let report = member.pause().await?;
    Ok(Json(PausedSandbox { sandbox: info(member.view()), took_us: microseconds(report.took) }))
}

/// Lets a paused sandbox go on.
pub(crate) async fn resume(
    State(app): State<App>,
    Path(reference): Path<String>,
    Body(Nothing {}): Body<Nothing>,
) -> Result<Json<SandboxInfo>, Refusal> {
    let member = app.member(&reference)?;
    member.resume().await?;
    Ok(Json(info(member.view())))
}

/// Saves a sandbox under a name.
pub(crate) async fn snapshot(
    State(app): State<App>,
    Path(reference): Path<String>,
    Body(request): Body<SaveSandbox>,
) -> Result<Created<SavedSandbox>, Refusal> {
    let name = SandboxName::new(request.name)?;
    let taken = app.member(&reference)?.snapshot(name).await?;
    let answer =
        SavedSandbox { bytes: taken.record.bytes(), name: taken.record.name, stopped_us: microseconds(taken.stopped) };
    Ok(Created(answer))
}

/// Copies a running sandbox. When the connection ends before the answer, the copies are removed.
pub(crate) async fn fork(
    State(app): State<App>,
    Path(reference): Path<String>,
    Extension(entry): Extension<Entry>,
    Body(request): Body<ForkSandbox>,
) -> Result<Created<ForkedSandboxes>, Refusal> {
    let new = NewCopies {
        copies: request.copies.unwrap_or(1),
        name: request.name.map(SandboxName::new).transpose()?,
        labels: request.labels.map(Labels::new).transpose()?,
        lifetime: request.ttl_seconds.map(Lifetime::from_seconds).transpose()?,
        idle: request.idle.map(policy).transpose()?,
        secrets: request.secrets,
    };
    let forked = app.member(&reference)?.fork(new).await?;
    forked.copies.iter().for_each(|copy| entry.made(copy.id().as_str()));
    let answer = ForkedSandboxes {
        sandboxes: forked.copies.iter().map(|copy| info(copy.view())).collect(),
        stopped_us: microseconds(forked.report.stopped),
        changed_bytes: forked.report.changed_bytes,
    };
    Ok(Created(answer))
}

pub(crate) fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

pub(crate) async fn logs(State(app): State<App>, Path(reference): Path<String>) -> Result<Content<Text>, Refusal> {
    let text = app.member(&reference)?.console_tail().await;
    Ok(Content::new(text))
}

pub(crate) fn new_sandbox(app: &App, request: CreateSandbox) -> Result<NewSandbox, Refusal> {
    let given = Given { env: request.env.clone(), secrets: request.secrets.clone() };
    let spec = match &request.snapshot {
        Some(snapshot) => spec_of_snapshot(app, snapshot, &request)?,
        None => machine(&request)?,
    };
    Ok(NewSandbox {
        spec: SandboxSpec { given, ..spec },
        name: request.name.map(SandboxName::new).transpose()?,
        labels: Labels::new(request.labels)?,
        lifetime: request.ttl_seconds.map(Lifetime::from_seconds).transpose()?,
        idle: request.idle.map(policy).transpose()?,
        bound: request.lifespan != Lifespan::Kept,
    })
}

/// What was saved has its image and sizes, so they cannot be given.
fn spec_of_snapshot(app: &App, name: &str, request: &CreateSandbox) -> Result<SandboxSpec, Refusal> {
    let fields = [
        ("image", request.image.is_some()),
        ("cpus", request.cpus.is_some()),
        ("memory_mib", request.memory_mib.is_some()),
        ("disk_mib", request.disk_mib.is_some()),
        ("accelerator", request.accelerator != Accelerator::default()),
        ("start", request.start != hearth_api::StartFrom::default()),
    ];
    if let Some((field, _)) = fields.into_iter().find(|(_, is_given)| *is_given) {
        let message = format!("{field} is that of the snapshot and cannot be given with it");
        return Err(ErrorBody::new(OwnCode::InvalidValue, message).with_field(field).into());
    }
    let named = |error: ErrorBody| error.with_field("snapshot");
    let name = snapshot_name(name).map_err(named)?;
    Ok(app.fleet().engine().spec_of_snapshot(&name).map_err(|error| named(error_body(&error)))?)
}

pub(crate) fn machine(request: &CreateSandbox) -> Result<SandboxSpec, EngineError> {
    let usual = SandboxSpec::default();
    Ok(SandboxSpec {
        image: request.image.clone().unwrap_or(usual.image.clone()),
        cpus: request.cpus.map_or(Ok(usual.cpus), CpuCount::new)?,
        memory: request.memory_mib.map_or(Ok(usual.memory), MemoryMib::new)?,
        disk: request.disk_mib.map(DiskMib::new).transpose()?,
        accelerator: match request.accelerator {
            Accelerator::Auto => AcceleratorChoice::Auto,
            Accelerator::Kvm => AcceleratorChoice::Only(vmm::Accelerator::Kvm),
            Accelerator::Tcg => AcceleratorChoice::Only(vmm::Accelerator::Tcg),
        },
        start: match request.start {
            hearth_api::StartFrom::Template => hearth_engine::StartFrom::Template,
            hearth_api::StartFrom::Boot => hearth_engine::StartFrom::Boot,
        },
        ..usual
    })
}

fn policy(idle: Idle) -> Result<IdlePolicy, FleetError> {
    let action = match idle.action {
        IdleAction::Pause => fleet::IdleAction::Pause,
        IdleAction::Remove => fleet::IdleAction::Remove,
    };
    IdlePolicy::new(action, idle.after_seconds)
}

fn filter(query: ListSandboxes) -> Result<Filter, Refusal> {
    let parts = |text: Option<String>| -> Vec<String> {
        text.iter().flat_map(|text| text.split(',')).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    let label = |part: String| match part.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (part, None),
    };
    let states = parts(query.state).into_iter().map(|name| {
        let known = fleet::State::ALL.into_iter().find(|state| state.name() == name);
        known.ok_or_else(|| {
            ErrorBody::new(OwnCode::InvalidValue, format!("there is no state {name:?}")).with_field("state")
        })
    });
    Ok(Filter {
        name: query.name,
        labels: parts(query.label).into_iter().map(label).collect(),
        states: states.collect::<Result<_, _>>()?,
    })
}

pub(crate) fn state(state: fleet::State) -> SandboxState {
    match state {
        fleet::State::Creating => SandboxState::Creating,
        fleet::State::Adopting => SandboxState::Adopting,
        fleet::State::Running => SandboxState::Running,
        fleet::State::Capturing => SandboxState::Capturing,
        fleet::State::Pausing => SandboxState::Pausing,
        fleet::State::Paused => SandboxState::Paused,
        fleet::State::Resuming => SandboxState::Resuming,
        fleet::State::Failed => SandboxState::Failed,
        fleet::State::Removing => SandboxState::Removing,
        fleet::State::Removed => SandboxState::Removed,
    }
}

pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn info(view: View) -> SandboxInfo {
    let about = view.about.as_deref();
    let phases = about
        .iter()
        .flat_map(|about| &about.phases)
        .map(|(phase, reached)| Phase { name: phase.name().to_owned(), reached_us: microseconds(*reached) });
    SandboxInfo {
        id: view.id.to_string(),
        name: view.name.map(|name| name.to_string()),
        state: state(view.state),
        reason: view.reason,
        since_unix_ms: unix_ms(view.since),
        created_unix_ms: unix_ms(view.created),
        expires_unix_ms: view.expires.map(unix_ms),
        idle: view.idle.map(|policy| Idle {
            action: match policy.action {
                fleet::IdleAction::Pause => IdleAction::Pause,
                fleet::IdleAction::Remove => IdleAction::Remove,
            },
            after_seconds: policy.after().as_secs(),
        }),
        saved_bytes: view.saved_bytes,
        labels: view.labels.get().clone(),
        image: view.spec.image,
        cpus: view.spec.cpus.get(),
        memory_mib: view.spec.memory.mib(),
        disk_mib: view.spec.disk.map(DiskMib::mib),
        accelerator: about.map(|about| about.accelerator.to_owned()),
        board: about.map(|about| about.board.to_owned()),
        jail_warning: about.and_then(|about| about.jail_warning.clone()),
        failed_before: about.map(|about| about.failed_before.clone()).unwrap_or_default(),
        phases: phases.collect(),
    }
}
