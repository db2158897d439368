//! P9: each process alone, with nothing to do: memory after three seconds, and the time from its start until it is ready
//! on a database that is there already. Ready is: health answers 200, or the worker's registration is in the store.

use std::time::Duration;

use anyhow::Result;
use e2e_tests::Program;
use tokio::time::sleep;

use super::{Bench, column, megabytes, repeat};
use crate::{
    process,
    report::{Goal, Line},
    rig::{self, Order},
    stats,
};

const IDLE: Duration = Duration::from_secs(3);

/// One repetition of one process.
#[derive(Debug)]
struct Idle {
    /// In MB.
    memory: f64,
    /// In ms.
    ready: f64,
}

impl Idle {
    async fn of(program: Program, ready: Duration) -> Result<Self> {
        sleep(IDLE).await;
        let memory = megabytes(process::memory(program.id())?.now);
        rig::stop(program).await;
        Ok(Self { memory, ready: stats::ms(ready) })
    }
}

/// One repetition.
#[derive(Debug)]
struct All {
    api: Idle,
    worker: Idle,
    standalone: Idle,
}

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Line>> {
    let all = repeat(bench, async || once(bench).await).await?;
    let mut lines = Vec::new();
    let mut add = |name: &str, id, pick: fn(&All) -> &Idle| {
        let memory = column(&all, |all| pick(all).memory);
        let ready = column(&all, |all| pick(all).ready);
        let line = Line::new("P9", format!("{name}, memory when idle"), "MB", memory);
        lines.push(line.goal(Goal::AtMost(20.0)).id(id));
        lines.push(Line::new("P9", format!("{name}, start → ready"), "ms", ready).goal(Goal::AtMost(100.0)));
    };
    add("api", "p9_api", |all| &all.api);
    add("worker", "p9_worker", |all| &all.worker);
    add("standalone, SQLite", "p9_standalone", |all| &all.standalone);
    Ok(lines)
}

async fn once(bench: &Bench) -> Result<All> {
    let database = bench.rig.database().await?;
    let api = bench.rig.api(&database, Order::Redis).await?;
    let api = Idle::of(api.program, api.ready_after).await?;
    let worker = bench.rig.worker(&database, Order::Redis, &[]).await?;
    let worker = Idle::of(worker.program, worker.ready_after).await?;

    let folder = tempfile::tempdir_in(bench.rig.folder())?;
    let file = folder.path().join("tasks.db");
    // The first start makes the tables.
    rig::stop(bench.rig.standalone(&file).await?.program).await;
    let standalone = bench.rig.standalone(&file).await?;
    let standalone = Idle::of(standalone.program, standalone.ready_after).await?;
    Ok(All { api, worker, standalone })
}
