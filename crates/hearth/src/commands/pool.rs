//! `hearth pool`: the machines that are ready before anybody asks for them.

use hearth_client::api::{PoolInfo, PoolKindInfo};

use crate::arguments::PoolOptions;
use crate::failure::Failure;
use crate::{daemon, home, output};

/// Shows the pool. Where no daemon runs there is none.
pub(crate) async fn run(options: &PoolOptions) -> Result<i32, Failure> {
    let pool = match daemon::running_client().await? {
        Some(client) => client.pool().await?,
        None => PoolInfo::default(),
    };
    if options.json {
        output::print_json(&pool)?;
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = pool.kinds.iter().map(row).collect();
    output::print_table(&["IMAGE", "CPUS", "MEMORY", "DISK", "READY", "STANDBY", "IN WORK"], &rows)?;
    output::say(&summary(&pool));
    Ok(0)
}

fn row(kind: &PoolKindInfo) -> Vec<String> {
    let digits = kind.image.rsplit(':').next().unwrap_or_default();
    vec![
        output::plain(digits.get(..12).unwrap_or(digits)),
        kind.cpus.to_string(),
        output::mebibytes(kind.memory_mib),
        kind.disk_mib.map_or_else(|| "-".to_owned(), output::mebibytes),
        kind.ready.to_string(),
        kind.standby.to_string(),
        kind.making.to_string(),
    ]
}

/// The pool in a line, for people.
pub(crate) fn summary(pool: &PoolInfo) -> String {
    if pool.ready_limit == 0 {
        return "no pool: a daemon that runs with --pool 0 keeps none, and none runs where none was needed".to_owned();
    }
    let ready: usize = pool.kinds.iter().map(|kind| kind.ready).sum();
    let standby: usize = pool.kinds.iter().map(|kind| kind.standby).sum();
    let why = if pool.is_pressed { "; this machine's memory is short, so it holds none" } else { "" };
    format!(
        "{ready} ready and {standby} on standby, {} and {} of each of the last {} kinds; handed out {} and {}, {} missed, {} lost{why}",
        pool.ready_limit, pool.standby_limit, pool.kinds_limit, pool.claimed, pool.standby, pool.missed, pool.lost
    )
}

/// The pool for `hearth doctor`.
pub(crate) async fn look() -> Result<String, Failure> {
    Ok(match daemon::running_client().await? {
        Some(client) => summary(&client.pool().await?),
        None => {
            let ready = home::pool()?.unwrap_or(hearth_engine::PoolLimits::of_host().ready);
            format!("no daemon runs; one would keep {ready} ready of each kind that was asked for last (HEARTH_POOL)")
        }
    })
}
