//! What an idle restored sandbox costs the host, and what one that has run a command does: memory, and processor time.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use hearth_engine::Sandbox;
use hearth_engine::vmm::Load;

use super::figure::{Figure, Goal, Row, Samples};
use super::floor::Floor;
use super::host::Host;
use super::report;
use super::restore::run_true;
use super::{Group, Measure, milliseconds};

const SANDBOXES: usize = 20;
const KIB: f64 = 1024.0;

const IDLE: Figure = Figure {
    name: "memory.restored",
    unit: "MiB",
    baseline: Some("each QEMU's own pages (Anonymous); ours is what MemAvailable loses, by sandbox, for 20 idle ones"),
    goal: Some(Goal::AtMost(40.0)),
};
const RAN: Figure = Figure {
    name: "memory.restored.ran",
    unit: "MiB",
    baseline: Some("the same, after one command each"),
    goal: Some(Goal::AtMost(50.0)),
};

const CPU: Figure = Figure {
    name: "cpu.restored",
    unit: "ms/s",
    baseline: Some(
        "a bare QEMU whose guest of one static program has run a command and is idle; ours is each of 20 such sandboxes",
    ),
    goal: None,
};
/// How long they are left alone before they count as idle, and how long they are then looked at.
const CALM: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_secs(10);

pub(super) const GROUP: Group =
    Group { figures: &[IDLE, RAN, CPU], measure: Measure::Guest(|host| Box::pin(measure(host))) };

async fn measure(host: &Host) -> Result<Vec<Row>> {
    let (mut idle, mut ran, mut cpu) = (Samples::default(), Samples::default(), Samples::default());
    let floor = Floor::boot(host).await?;
    // The first loads the template, which all share.
    host.create(host.spec()).await?.remove().await;
    for round in 0..host.samples(5, 1) {
        let before = available_mib()?;
        let mut sandboxes = Vec::new();
        for _ in 0..SANDBOXES {
            sandboxes.push(host.create(host.spec()).await?);
        }
        idle.push(lost(before)?, own_mib(&sandboxes)?);
        if round == 0 {
            say_parts("idle", &sandboxes)?;
        }
        for sandbox in &sandboxes {
            run_true(sandbox).await?;
        }
        ran.push(lost(before)?, own_mib(&sandboxes)?);
        if round == 0 {
            say_parts("after one command", &sandboxes)?;
        }
        let mut bare = floor.restore()?;
        bare.run_true().await?;
        tokio::time::sleep(CALM).await;
        let pids: Vec<u32> = sandboxes.iter().map(|sandbox| sandbox.machine().pid()).collect();
        let (before, bare_before) = (used(&pids)?, used(&[bare.pid()?])?);
        tokio::time::sleep(LOOK).await;
        let (own, own_bare) = (used(&pids)? - before, used(&[bare.pid()?])? - bare_before);
        bare.stop().await?;
        let a_second = |time: Duration| milliseconds(time) / LOOK.as_secs_f64();
        cpu.push(a_second(own) / SANDBOXES as f64, a_second(own_bare));
        for sandbox in sandboxes {
            sandbox.remove().await;
        }
    }
    Ok(vec![IDLE.row(&idle), RAN.row(&ran), CPU.row(&cpu)])
}

/// The processor time that these have used together.
fn used(pids: &[u32]) -> Result<Duration> {
    pids.iter().map(|pid| Ok(Load::of(*pid).context("read QEMU's processor time")?.cpu)).sum()
}

fn available_mib() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("the kernel tells it")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / KIB)
}

fn lost(before: f64) -> Result<f64> {
    Ok((before - available_mib()?) / SANDBOXES as f64)
}

fn own_mib(sandboxes: &[Sandbox]) -> Result<f64> {
    let mut sum = 0.0;
    for sandbox in sandboxes {
        sum += sandbox.machine().memory().context("read QEMU's memory")?.anonymous_kib as f64 / KIB;
    }
    Ok(sum / sandboxes.len() as f64)
}

/// Where the first one's own pages are.
fn say_parts(when: &str, sandboxes: &[Sandbox]) -> Result<()> {
    let Some(sandbox) = sandboxes.first() else { return Ok(()) };
    let pid = sandbox.machine().pid();
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let mut parts = parts(&maps);
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let tables = status.lines().find_map(|line| line.strip_prefix("VmPTE:"));
    let tables = tables.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    parts.insert("page tables", tables.unwrap_or(0.0));
    let said: Vec<String> = parts.iter().map(|(part, kib)| format!("{part} {:.1}", kib / KIB)).collect();
    report::say(&format!("one restored, {when}: MiB of its own: {}", said.join(", ")));
    Ok(())
}

/// The pages that belong to no file, in KiB, by what they are for.
fn parts(maps: &str) -> BTreeMap<&'static str, f64> {
    let mut parts = BTreeMap::new();
    let mut part = "other";
    for line in maps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [range, permissions, _, _, _, name @ ..] if range.contains('-') => part = part_of(permissions, name),
            ["Anonymous:", kib, _] => *parts.entry(part).or_insert(0.0) += kib.parse().unwrap_or(0.0),
            _ => {}
        }
    }
    parts
}

fn part_of(permissions: &str, name: &[&str]) -> &'static str {
    match name.first().copied() {
        Some(name) if name.contains("hearth-ram") => "guest pages",
        Some("[heap]") => "heap",
        Some("[stack]") => "stack",
        Some(name) if name.contains("qemu-system") => "QEMU's data",
        Some(name) if name.starts_with('/') => "libraries' data",
        _ if permissions.contains('x') => "translated code",
        _ => "other anonymous",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_counted_by_what_they_are_for() {
        let maps = "7f00-7f10 rwxp 00000000 00:00 0 \nRss: 9 kB\nAnonymous:  8 kB\n\
            55d0-55e0 rw-p 00000000 00:00 0                          [heap]\nAnonymous:  4 kB\n\
            7e00-7e10 rw-p 00000000 00:01 12 /memfd:hearth-ram (deleted)\nAnonymous:  16 kB\n\
            7d00-7d10 rw-p 00000000 00:01 12 /usr/bin/qemu-system-x86_64\nAnonymous:  2 kB\n";
        let expected = [("QEMU's data", 2.0), ("guest pages", 16.0), ("heap", 4.0), ("translated code", 8.0)];
        assert_eq!(parts(maps), BTreeMap::from(expected));
    }
}
