//! The warm pool, told.

use axum::Json;
use axum::extract::State;
use hearth_api::{PoolInfo, PoolKindInfo};
use hearth_engine::{DiskMib, PoolShelf};

use crate::App;

pub(crate) async fn pool(State(app): State<App>) -> Json<PoolInfo> {
    Json(info(&app))
}

/// What there is; all zeros where there is no pool.
pub(crate) fn info(app: &App) -> PoolInfo {
    let Some(status) = app.fleet().pool() else { return PoolInfo::default() };
    let (limits, counts) = (status.limits, status.counts);
    PoolInfo {
        ready_limit: limits.ready,
        standby_limit: limits.standby,
        kinds_limit: limits.kinds,
        idle_seconds: limits.idle.as_secs(),
        floor_mib: limits.floor_mib,
        is_pressed: status.is_pressed,
        kinds: status.kinds.into_iter().map(kind).collect(),
        claimed: counts.claimed,
        standby: counts.standby,
        missed: counts.missed,
        made: counts.made,
        failed: counts.failed,
        lost: counts.lost,
        drained: counts.drained,
    }
}

fn kind(shelf: PoolShelf) -> PoolKindInfo {
    PoolKindInfo {
        image: shelf.kind.image,
        cpus: shelf.kind.cpus.get(),
        memory_mib: shelf.kind.memory.mib(),
        disk_mib: shelf.kind.disk.map(DiskMib::mib),
        ready: shelf.ready,
        standby: shelf.standby,
        making: shelf.making,
    }
}
