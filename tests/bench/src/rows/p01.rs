//! P1: tasks that do nothing are submitted over HTTP to one API process and run by one worker process; from the first
//! request sent until all of them have completed in the store.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use sqlx::PgConnection;

use super::{Bench, column, repeat};
use crate::{
    load::{self, Submitted},
    process,
    report::{self, Line, counted},
    rig::{self, Database, NOOP_BODY, Order},
    stats,
};

/// Tasks before the clock starts: connections are open and plans are made.
pub(super) const WARM_UP: usize = 500;

/// A worker that is so far behind the API has not merely been busy: see [`tell_the_pace`].
const STALL: Duration = Duration::from_secs(1);

/// One repetition.
#[derive(Debug)]
pub(super) struct EndToEnd {
    /// Tasks per second until all have completed.
    pub(super) rate: f64,
    /// Submissions per second until all are accepted.
    pub(super) accepted: f64,
    /// From the last answer until all have completed, in s.
    pub(super) lag: f64,
    /// Of a submission, in ms.
    pub(super) p50: f64,
    /// Of a submission, in ms.
    pub(super) p99: f64,
    /// Processor time of each process, in µs per task.
    pub(super) costs: Vec<(&'static str, f64)>,
}

impl EndToEnd {
    pub(super) fn new(
        mut submitted: Submitted,
        took: Duration,
        spent: Vec<(&'static str, f64)>,
    ) -> Result<Self> {
        let count = submitted.latencies.len();
        let mut at = |share| stats::percentile(&mut submitted.latencies, share).context("nothing was sent");
        Ok(Self {
            p50: stats::ms(at(0.5)?),
            p99: stats::ms(at(0.99)?),
            rate: stats::rate(count, took),
            lag: (took - submitted.took).as_secs_f64(),
            accepted: stats::rate(count, submitted.took),
            costs: spent.into_iter().map(|(who, seconds)| (who, seconds * 1e6 / count as f64)).collect(),
        })
    }
}

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Line>> {
    let count = bench.scale.of(2_000, 30_000);
    let mut lines = Vec::new();
    for (connections, ids) in [(32, ["p1_32", "p1_32_p99"]), (256, ["p1_256", "p1_256_p99"])] {
        let all = repeat(bench, async || once(bench, count, connections).await).await?;
        lines.extend(lines_of(
            "P1",
            &format!("{} tasks over {}", counted(count), report::connections(connections)),
            ids,
            &all,
        ));
    }
    Ok(lines)
}

/// What is told of each number of connections.
pub(super) fn lines_of(row: &'static str, what: &str, ids: [&'static str; 2], all: &[EndToEnd]) -> Vec<Line> {
    let line = |name: &str, unit, value: &dyn Fn(&EndToEnd) -> f64| {
        Line::new(row, format!("{what}, {name}"), unit, column(all, value))
    };
    let mut lines = vec![
        line("end to end", "tasks/s", &|one| one.rate).id(ids[0]),
        line("accepted", "tasks/s", &|one| one.accepted),
        line("last answer → all completed", "s", &|one| one.lag),
        line("submit p50", "ms", &|one| one.p50),
        line("submit p99", "ms", &|one| one.p99).id(ids[1]),
    ];
    let processes = all.first().map_or(0, |one| one.costs.len());
    lines.extend((0..processes).map(|place| {
        let name = format!("processor time of {}", all[0].costs[place].0);
        line(&name, "µs/task", &|one| one.costs[place].1)
    }));
    lines
}

async fn once(bench: &Bench, count: usize, connections: usize) -> Result<EndToEnd> {
    let database = bench.rig.database().await?;
    let api = bench.rig.api(&database, Order::Redis).await?;
    let worker = bench.rig.worker(&database, Order::Redis, &[]).await?;
    let mut connection = database.connect().await?;
    flood(&database, &mut connection, api.server, WARM_UP, connections).await?;
    let processors = || -> Result<[f64; 2]> {
        Ok([process::processor(api.program.id())?, process::processor(worker.program.id())?])
    };
    let (before, servers) = (processors()?, bench.rig.spent(&mut connection).await?);
    let mut measured = flood(&database, &mut connection, api.server, count, connections).await?;
    let (after, servers_after) = (processors()?, bench.rig.spent(&mut connection).await?);
    let seconds = [
        ("the API", after[0] - before[0]),
        ("the worker", after[1] - before[1]),
        ("PostgreSQL", servers_after.postgres - servers.postgres),
        ("Redis", servers_after.redis - servers.redis),
    ];
    measured.costs.extend(seconds.map(|(who, seconds)| (who, seconds * 1e6 / count as f64)));
    database.all_completed(count + WARM_UP).await?;
    rig::stop(worker.program).await;
    rig::stop(api.program).await;
    Ok(measured)
}

/// Submits tasks and waits until all of them have ended; tasks that were there before do not matter.
pub(super) async fn flood(
    database: &Database,
    connection: &mut PgConnection,
    server: SocketAddr,
    count: usize,
    connections: usize,
) -> Result<EndToEnd> {
    let before = rig::number(connection, "SELECT coalesce(max(id), 0) FROM task").await?;
    let spent = process::processor(std::process::id())?;
    let submitted = load::submit(server, &load::submission(NOOP_BODY), count, connections).await?;
    let generator = process::processor(std::process::id())? - spent;
    database.drained_after(connection, before, submitted.last).await?;
    let took = submitted.began.elapsed();
    if took > submitted.took + STALL {
        tell_the_pace(connection, before, took - submitted.took).await?;
    }
    EndToEnd::new(submitted, took, vec![("the generator", generator)])
}

/// Shows how many tasks ended in each half second: where it stood still, and where it was only slow.
async fn tell_the_pace(connection: &mut PgConnection, first: i64, lag: Duration) -> Result<()> {
    let ended: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT (extract(epoch FROM ended_at - (SELECT min(ended_at) FROM outcome WHERE task > $1)) * 2)::bigint AS half,
            count(*) FROM outcome WHERE task > $1 GROUP BY half ORDER BY half",
    )
    .bind(first)
    .fetch_all(connection)
    .await?;
    let pace: Vec<_> =
        ended.iter().map(|(half, count)| format!("{:.1} s: {count}", *half as f64 / 2.0)).collect();
    println!("  the worker was {:.1} s behind; tasks ended by time: {}", lag.as_secs_f64(), pace.join(", "));
    Ok(())
}
