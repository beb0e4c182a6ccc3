//! What an idle machine costs the host, and its agent the guest, just after the boot.

use anyhow::{Context, Result};

use super::figure::{Figure, Goal, Row, Samples};
use super::host::Host;
use super::live::{Live, argv, finish};
use super::{Group, Measure};

const KIB: f64 = 1024.0;

const VM: Figure = Figure {
    name: "memory.vm",
    unit: "MiB",
    baseline: Some("what the guest itself counts as used; ours is QEMU's proportional set"),
    goal: None,
};
const QEMU: Figure = Figure { name: "memory.qemu", unit: "MiB", baseline: None, goal: None };
const AGENT: Figure = Figure { name: "memory.agent", unit: "MiB", baseline: None, goal: Some(Goal::AtMost(8.0)) };

pub(super) const GROUP: Group =
    Group { figures: &[VM, QEMU, AGENT], measure: Measure::Guest(|host| Box::pin(measure(host))) };

async fn measure(host: &Host) -> Result<Vec<Row>> {
    let (mut vm, mut qemu, mut agent) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..host.samples(5, 1) {
        let (live, _) = Live::boot(host).await?;
        let memory = live.machine.memory().context("read QEMU's memory")?;
        let info = live.channel.info().await?;
        vm.push(memory.pss_kib as f64 / KIB, used_kib(&live).await? / KIB);
        qemu.push_alone(memory.anonymous_kib as f64 / KIB);
        agent.push_alone(info.agent_resident_bytes as f64 / KIB / KIB);
        live.stop().await;
    }
    Ok(vec![VM.row(&vm), QEMU.row(&qemu), AGENT.row(&agent)])
}

/// What the guest counts as used: all it has less what it could still give out.
async fn used_kib(live: &Live) -> Result<f64> {
    let process = live.channel.start(argv(&["cat", "/proc/meminfo"])).await?;
    let mut output = Vec::new();
    finish(&process, |piece| output.extend_from_slice(piece)).await?;
    let text = String::from_utf8_lossy(&output);
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        number.with_context(|| format!("the guest's /proc/meminfo has no {name}"))
    };
    Ok(field("MemTotal")? - field("MemAvailable")?)
}
