//! Rows: what lasts of a sandbox, as values and as text.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_protocol::RawString;
use hearth_vmm::{CpuCount, MemoryMib};
use rusqlite::{Connection, Params, Row, Transaction, named_params, params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Changed;
use crate::accelerator::{Way, name};
use crate::fleet::{IdleAction, IdlePolicy, Labels, PublishedPort, SandboxName};
use crate::{DiskMib, FileRecord, Given, SandboxId, SandboxSpec, StartFrom, TemplateId};

/// What lasts of a sandbox.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lasting {
    pub(crate) id: SandboxId,
    pub(crate) name: Option<SandboxName>,
    pub(crate) labels: Labels,
    pub(crate) created: SystemTime,
    pub(crate) expires: Option<SystemTime>,
    pub(crate) idle: Option<IdlePolicy>,
    /// As it was asked for, without secrets.
    pub(crate) spec: SandboxSpec,
    /// The digest of its image.
    pub(crate) digest: String,
    /// What its memory lies on; not known of one that an earlier version has booted.
    pub(crate) template: Option<TemplateId>,
    pub(crate) way: Way,
    /// The overlays of its disk that its own QEMU cannot write to.
    pub(crate) disk_below: usize,
    pub(crate) state: Kept,
    pub(crate) ports: Vec<PublishedPort>,
}

/// How a sandbox stands when no work on it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kept {
    Running,
    Paused(PauseRecord),
    Stopped,
    /// Why.
    Failed(String),
}

/// What a pause has written into the sandbox's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PauseRecord {
    pub(crate) devices: FileRecord,
    pub(crate) memory: FileRecord,
    /// The overlays of its disk.
    pub(crate) overlays: usize,
    /// Whether nothing was under way in the session that it was saved in.
    #[serde(default)]
    pub(crate) quiet: bool,
    /// Its QEMU, where that was saved as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checkpoint: Option<FileRecord>,
}

impl PauseRecord {
    /// What of the memory, and of QEMU's, lies on disk, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.devices.bytes + self.memory.bytes + self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.bytes)
    }
}

impl Kept {
    fn columns(&self) -> (&'static str, Option<&str>, Option<String>) {
        match self {
            Self::Running => ("running", None, None),
            Self::Paused(record) => ("paused", None, Some(json(record))),
            Self::Stopped => ("stopped", None, None),
            Self::Failed(reason) => ("failed", Some(reason), None),
        }
    }

    fn read(state: &str, reason: Option<String>, paused: Option<String>) -> Option<Self> {
        Some(match state {
            "running" => Self::Running,
            "paused" => Self::Paused(parse(&paused?)?),
            "stopped" => Self::Stopped,
            "failed" => Self::Failed(reason.unwrap_or_default()),
            _ => return None,
        })
    }
}

pub(super) fn insert(step: &Transaction<'_>, sandbox: &Lasting) -> rusqlite::Result<()> {
    let Lasting { id, spec, .. } = sandbox;
    // Whoever has a name now has it in earnest; an older row with it is of one whose removal could not be noted.
    let (state, reason, paused) = sandbox.state.columns();
    run(
        step,
        "INSERT OR REPLACE INTO sandbox VALUES (:id, :name, :labels, :created, :expires, :idle_action, :idle_seconds, :image, :digest,
            :cpus, :memory, :disk, :env, :template, :accelerator, :board, :disk_below, :state, :reason, :paused)",
        named_params! {
            ":id": id.as_str(),
            ":name": sandbox.name.as_ref().map(SandboxName::as_str),
            ":labels": json(sandbox.labels.get()),
            ":created": milliseconds(sandbox.created),
            ":expires": sandbox.expires.map(milliseconds),
            ":idle_action": sandbox.idle.map(|policy| action(policy.action)),
            ":idle_seconds": sandbox.idle.map(|policy| policy.after().as_secs() as i64),
            ":image": spec.image,
            ":digest": sandbox.digest,
            ":cpus": spec.cpus.get(),
            ":memory": spec.memory.mib(),
            ":disk": spec.disk.map(DiskMib::mib),
            ":env": json(&spec.given.env),
            ":template": sandbox.template.as_ref().map(TemplateId::as_str),
            ":accelerator": name(sandbox.way.accelerator),
            ":board": sandbox.way.board(),
            ":disk_below": sandbox.disk_below as i64,
            ":state": state,
            ":reason": reason,
            ":paused": paused,
        },
    )?;
    sandbox.ports.iter().try_for_each(|port| insert_port(step, id, port))
}

pub(super) fn insert_port(step: &Transaction<'_>, id: &SandboxId, port: &PublishedPort) -> rusqlite::Result<()> {
    // Whoever listens there now does so in earnest; an older row is of one that has been closed.
    run(
        step,
        "INSERT OR REPLACE INTO port VALUES (?, ?, ?, ?, ?)",
        params![port.listen.to_string(), id.as_str(), port.guest_port, port.guest_host, port.service],
    )
}

pub(super) fn change(step: &Transaction<'_>, id: &SandboxId, changed: &Changed) -> rusqlite::Result<()> {
    run(
        step,
        "UPDATE OR REPLACE sandbox SET name = ?, labels = ?, expires_ms = ?, idle_action = ?, idle_seconds = ? WHERE id = ?",
        params![
            changed.name.as_ref().map(SandboxName::as_str),
            json(changed.labels.get()),
            changed.expires.map(milliseconds),
            changed.idle.map(|policy| action(policy.action)),
            changed.idle.map(|policy| policy.after().as_secs() as i64),
            id.as_str(),
        ],
    )
}

pub(super) fn stands(step: &Transaction<'_>, id: &SandboxId, state: &Kept) -> rusqlite::Result<()> {
    let (state, reason, paused) = state.columns();
    run(
        step,
        "UPDATE sandbox SET state = ?, reason = ?, paused = ? WHERE id = ?",
        params![state, reason, paused, id.as_str()],
    )
}

pub(super) fn remove(step: &Transaction<'_>, id: &SandboxId) -> rusqlite::Result<()> {
    run(step, "DELETE FROM sandbox WHERE id = ?", [id.as_str()])
}

pub(super) fn remove_ports(step: &Transaction<'_>, id: &SandboxId) -> rusqlite::Result<()> {
    run(step, "DELETE FROM port WHERE sandbox = ?", [id.as_str()])
}

/// Compiles a statement once a connection, not at each commit.
fn run(step: &Transaction<'_>, statement: &str, values: impl Params) -> rusqlite::Result<()> {
    step.prepare_cached(statement)?.execute(values).map(drop)
}

/// What the rows say.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) sandboxes: Vec<Lasting>,
    /// The ids of those that make no sense to this program: they are left alone.
    pub(crate) unreadable: Vec<String>,
}

pub(super) fn all(connection: &Connection) -> rusqlite::Result<Rows> {
    let mut ports: BTreeMap<String, Vec<PublishedPort>> = BTreeMap::new();
    let mut query = connection.prepare("SELECT * FROM port ORDER BY listen")?;
    let rows = query.query_map([], |row| Ok((row.get::<_, String>("sandbox")?, read_port(row)?)))?;
    for row in rows {
        let (sandbox, port) = row?;
        ports.entry(sandbox).or_default().extend(port);
    }
    let mut query = connection.prepare("SELECT * FROM sandbox ORDER BY id")?;
    let mut all = Rows::default();
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        match read(row, &mut ports)? {
            Some(sandbox) => all.sandboxes.push(sandbox),
            None => all.unreadable.push(row.get("id")?),
        }
    }
    Ok(all)
}

pub(super) fn templates(connection: &Connection) -> rusqlite::Result<Vec<TemplateId>> {
    let mut query = connection.prepare("SELECT DISTINCT template FROM sandbox WHERE template IS NOT NULL")?;
    let rows = query.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(rows.iter().filter_map(|template| TemplateId::parse(template)).collect())
}

/// `None` where the values are none that this program writes.
fn read(row: &Row<'_>, ports: &mut BTreeMap<String, Vec<PublishedPort>>) -> rusqlite::Result<Option<Lasting>> {
    let id: String = row.get("id")?;
    let (accelerator, board): (String, String) = (row.get("accelerator")?, row.get("board")?);
    let (labels, env): (String, String) = (row.get("labels")?, row.get("env")?);
    let state = Kept::read(&row.get::<_, String>("state")?, row.get("reason")?, row.get("paused")?);
    let name: Option<String> = row.get("name")?;
    let idle = (row.get::<_, Option<String>>("idle_action")?, row.get::<_, Option<u32>>("idle_seconds")?);
    let (cpus, memory, disk): (u32, u32, Option<u32>) =
        (row.get("cpus")?, row.get("memory_mib")?, row.get("disk_mib")?);
    let template: Option<String> = row.get("template")?;
    let (created, expires): (i64, Option<i64>) = (row.get("created_ms")?, row.get("expires_ms")?);
    let (image, digest): (String, String) = (row.get("image")?, row.get("digest")?);
    let disk_below: u32 = row.get("disk_below")?;
    let made = || {
        let template = template.map(|template| TemplateId::parse(&template).ok_or(())).transpose().ok()?;
        let start = if template.is_some() { StartFrom::Template } else { StartFrom::Boot };
        let spec = SandboxSpec {
            image,
            cpus: CpuCount::new(cpus).ok()?,
            memory: MemoryMib::new(memory).ok()?,
            disk: disk.map(DiskMib::new).transpose().ok()?,
            start,
            given: Given { env: parse::<BTreeMap<String, RawString>>(&env)?, secrets: Vec::new() },
            ..SandboxSpec::default()
        };
        let idle = match idle {
            (Some(action), Some(seconds)) => Some(IdlePolicy::new(parse_action(&action)?, seconds.into()).ok()?),
            _ => None,
        };
        Some(Lasting {
            ports: ports.remove(&id).unwrap_or_default(),
            id: SandboxId::parse(&id)?,
            name: name.map(SandboxName::new).transpose().ok()?,
            labels: Labels::new(parse(&labels)?).ok()?,
            created: time(created),
            expires: expires.map(time),
            idle,
            spec,
            digest,
            template,
            way: Way::named(&accelerator, &board)?,
            disk_below: disk_below as usize,
            state: state?,
        })
    };
    Ok(made())
}

fn read_port(row: &Row<'_>) -> rusqlite::Result<Option<PublishedPort>> {
    let listen: String = row.get("listen")?;
    let (guest_port, guest_host, service) = (row.get("guest_port")?, row.get("guest_host")?, row.get("service")?);
    Ok(listen.parse().ok().map(|listen| PublishedPort { listen, guest_port, guest_host, service }))
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data always becomes JSON")
}

fn parse<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

fn action(action: IdleAction) -> &'static str {
    match action {
        IdleAction::Pause => "pause",
        IdleAction::Remove => "remove",
    }
}

fn parse_action(text: &str) -> Option<IdleAction> {
    [IdleAction::Pause, IdleAction::Remove].into_iter().find(|known| action(*known) == text)
}

/// Since 1970; a time before that is that.
fn milliseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn time(milliseconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(milliseconds.max(0).unsigned_abs())
}
