//! What sandboxes cost the host.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use futures_util::future::join_all;
use hearth_api::usage::{HostUsage, MachineUsage, SandboxUsage, UsageList};
use hearth_engine::fleet::{Filter, View};
use hearth_engine::vmm::Load;
use rustix::time::{ClockId, clock_gettime};

use crate::App;
use crate::sandboxes::{microseconds, state, unix_ms};

/// Measures all machines. One that ends meanwhile, or is not to be looked at, is told without.
pub(crate) async fn usage(State(app): State<App>) -> Json<UsageList> {
    let views = app.fleet().list(&Filter::default());
    let measured = views.into_iter().map(async |view| {
        let load = match app.fleet().find(view.id.as_str()) {
            Ok(member) => member.load().await,
            Err(_) => None,
        };
        told(view, load)
    });
    let sandboxes = join_all(measured).await;
    let (memory_bytes, available_bytes) = hearth_engine::host_memory();
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let host = HostUsage { cpus, memory_bytes, available_bytes };
    Json(UsageList { at_us: now_us(), host, sandboxes })
}

fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0));
    microseconds(now)
}

fn told(view: View, load: Option<Load>) -> SandboxUsage {
    SandboxUsage {
        id: view.id.to_string(),
        name: view.name.map(|name| name.to_string()),
        state: state(view.state),
        created_unix_ms: unix_ms(view.created),
        cpus: view.spec.cpus.get(),
        memory_mib: view.spec.memory.mib(),
        machine: load.map(|load| MachineUsage {
            cpu_us: microseconds(load.cpu),
            memory_bytes: load.memory.pss_kib * 1024,
            own_bytes: load.memory.anonymous_kib * 1024,
        }),
    }
}
