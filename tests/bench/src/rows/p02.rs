//! P2: tasks that do nothing wait in the store, and one worker process with 4,000 slots is started on them; from the first handler's
//! start (the first `started_at`, by the server's clock) until no unfinished row is in the database. All results and all
//! history are kept. No ANALYZE runs between: the statistics are those of a fresh database.

use anyhow::Result;

use super::{Bench, column, megabytes, repeat};
use crate::{
    process,
    report::{Line, counted},
    rig::{self, NOOP, Order},
};

/// One repetition.
#[derive(Debug)]
pub(super) struct Drain {
    /// Tasks per second.
    pub(super) rate: f64,
    /// The most memory of the worker, in MB.
    peak: f64,
    /// Bytes of the write-ahead log per task.
    wal: f64,
    /// Processor time of the worker, in µs per task.
    worker: f64,
    /// Processor time of PostgreSQL, in µs per task.
    postgres: f64,
    /// Processor time of Redis, in µs per task.
    redis: f64,
}

/// Slots of the worker. Handlers that end at once still take a slot until they have; the default of 1,000 bounds the rate.
const SLOTS: &str = "4000";

/// How many tasks wait.
pub(super) fn count(bench: &Bench) -> usize {
    bench.scale.of(10_000, 200_000)
}

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Line>> {
    let count = count(bench);
    let mut lines = Vec::new();
    for (order, id) in [(Order::Redis, "p2"), (Order::PostgresAlone, "p2_postgres_alone")] {
        let all = repeat(bench, async || once(bench, order, count).await).await?;
        let line = |name: &str, unit, value: fn(&Drain) -> f64| {
            let setting = format!("{} waiting, {}, {name}", counted(count), order.text());
            Line::new("P2", setting, unit, column(&all, value))
        };
        lines.extend([
            line("drain", "tasks/s", |one| one.rate).id(id),
            line("worker memory at most", "MB", |one| one.peak),
            line("write-ahead log", "B/task", |one| one.wal),
            line("processor time of the worker", "µs/task", |one| one.worker),
            line("processor time of PostgreSQL", "µs/task", |one| one.postgres),
            line("processor time of Redis", "µs/task", |one| one.redis),
        ]);
    }
    Ok(lines)
}

/// Fills a fresh database and drains it.
pub(super) async fn once(bench: &Bench, order: Order, count: usize) -> Result<Drain> {
    let database = bench.rig.database().await?;
    let last = database.fill(&rig::task(NOOP, "null")?, count).await?;
    let mut connection = database.connect().await?;
    let before = bench.rig.spent(&mut connection).await?;
    let worker = bench.rig.worker(&database, order, &[("WORKER_CONCURRENCY", SLOTS)]).await?;
    let end = database.drained(&mut connection, last).await?;
    let after = bench.rig.spent(&mut connection).await?;
    let memory = process::memory(worker.program.id())?;
    let processor = process::processor(worker.program.id())?;
    rig::stop(worker.program).await;

    database.all_completed(count).await?;
    let start = rig::number(
        &mut connection,
        "SELECT (extract(epoch FROM min(started_at)) * 1000000)::bigint FROM outcome",
    )
    .await?;
    let tasks = count as f64;
    Ok(Drain {
        rate: tasks * 1e6 / (end - start) as f64,
        peak: megabytes(memory.peak),
        wal: (after.wal - before.wal) as f64 / tasks,
        worker: processor * 1e6 / tasks,
        postgres: (after.postgres - before.postgres) * 1e6 / tasks,
        redis: (after.redis - before.redis) * 1e6 / tasks,
    })
}
