//! P7: whether the drain keeps its rate, however much waits or has been there before.
//!
//! The rate is that of the first tasks that a fresh worker process ends: from its first claim until the last of them is
//! settled, by the server's clock. `waiting` is what still waits behind them, so 1,000 waiting are measured over as many
//! tasks as 5,000,000. Beside an old snapshot the worker is one that has been draining; it is frozen while its next tasks are
//! submitted. What a fresh one does there, which has to find the first waiting task behind all that
//! cannot be cleaned up, is told besides.

use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e_tests::program::Program;
use sqlx::{Connection as _, PgConnection};
use tokio::time::Instant;

use super::Bench;
use crate::{
    report::{Goal, Line, counted},
    rig::{self, Database, NOOP, Order},
    stats,
};

/// What stands in the way.
#[derive(Debug, Clone, Copy)]
enum Hindrance {
    /// Nothing.
    None,
    /// A transaction with a snapshot this old; tasks have been submitted and drained all the time since.
    Snapshot(Duration),
    /// So many tasks that have ended.
    History(usize),
}

/// What stands in the way of how many.
#[derive(Debug, Clone, Copy)]
struct Case {
    waiting: usize,
    hindrance: Hindrance,
}

/// Each case is measured with both, on one database.
const ORDERS: [Order; 2] = [Order::Redis, Order::PostgresAlone];
/// How long a worker drains beside a snapshot that is old already, before it is measured.
const SETTLE_IN: Duration = Duration::from_secs(20);

impl Case {
    fn text(&self, order: Order) -> String {
        let hindrance = match self.hindrance {
            Hindrance::None => String::new(),
            Hindrance::Snapshot(age) => format!(", beside a snapshot of {age:?}"),
            Hindrance::History(count) => format!(", after {} ended", counted(count)),
        };
        format!("{} waiting{hindrance}, {}", counted(self.waiting), order.text())
    }

    /// Of the rate with 1,000 waiting and nothing in the way. Half is enough without Redis beside an old transaction.
    fn goal(&self, order: Order) -> Goal {
        let half = order == Order::PostgresAlone && matches!(self.hindrance, Hindrance::Snapshot(_));
        Goal::TimesAtLeast(if half { 0.5 } else { 0.9 })
    }
}

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Line>> {
    let slice = bench.scale.of(2_000, 50_000);
    let few = bench.scale.of(100, 1_000);
    let mut depths = vec![bench.scale.of(5_000, 100_000), bench.scale.of(10_000, 1_000_000)];
    let (mut age, mut history) =
        (Duration::from_secs(bench.scale.of(2, 20)), bench.scale.of(10_000, 500_000));
    if bench.scale.full {
        depths.push(5_000_000);
        (age, history) = (Duration::from_secs(600), 10_000_000);
    }
    let case = |waiting, hindrance| Case { waiting, hindrance };
    let mut cases: Vec<Case> = depths.into_iter().map(|depth| case(depth, Hindrance::None)).collect();
    cases.push(case(few, Hindrance::Snapshot(age)));
    cases.push(case(few, Hindrance::History(history)));

    let base = case(few, Hindrance::None);
    let bases = repetitions(bench, base, slice).await?.map(|rates| rates.fresh);
    let [with_redis, alone] = &bases;
    let line = |order, rates: &[f64]| Line::new("P7", base.text(order), "tasks/s", rates.to_vec());
    let mut lines = [
        vec![line(Order::Redis, with_redis)],
        vec![
            line(Order::PostgresAlone, alone).against("with Redis", with_redis).goal(Goal::TimesAtLeast(0.9)),
        ],
    ];
    for case in cases {
        let measured = repetitions(bench, case, slice).await?;
        for (place, (order, rates)) in ORDERS.into_iter().zip(measured).enumerate() {
            let line = |text, rates| {
                Line::new("P7", text, "tasks/s", rates)
                    .against(format!("{} waiting", counted(few)), &bases[place])
            };
            match rates.before {
                None => lines[place].push(line(case.text(order), rates.fresh).goal(case.goal(order))),
                Some(before) => {
                    lines[place].push(line(case.text(order), before).goal(case.goal(order)));
                    lines[place].push(line(format!("{}, a fresh worker", case.text(order)), rates.fresh));
                }
            }
        }
    }
    Ok(lines.into_iter().flatten().collect())
}

/// The rates of one case with one order.
struct Rates {
    /// Of a worker that was there before, where there was one.
    before: Option<Vec<f64>>,
    fresh: Vec<f64>,
}

/// All repetitions with either order on one database: filling it takes far longer than measuring.
async fn repetitions(bench: &Bench, case: Case, slice: usize) -> Result<[Rates; ORDERS.len()]> {
    let database = bench.rig.database().await?;
    let mut connection = database.connect().await?;
    let mut snapshot = None;
    match case.hindrance {
        Hindrance::None => {}
        Hindrance::History(count) => grow_history(&mut connection, count).await?,
        Hindrance::Snapshot(_) => snapshot = Some(hold_snapshot(&database).await?),
    }
    let held = Instant::now();
    let mut all = ORDERS.map(|_| Rates { before: None, fresh: Vec::with_capacity(bench.scale.reps) });
    for (order, rates) in ORDERS.into_iter().zip(&mut all) {
        if let Hindrance::Snapshot(age) = case.hindrance {
            let length = age.saturating_sub(held.elapsed()).max(SETTLE_IN.min(age));
            let worker = drain_meanwhile(bench, &database, &mut connection, order, length, slice).await?;
            let before = rates.before.insert(Vec::with_capacity(bench.scale.reps));
            for _ in 0..bench.scale.reps {
                worker.freeze();
                refill(&database, &mut connection, case.waiting + slice).await?;
                before.push(rate(bench, &database, &mut connection, order, Some(&worker), slice).await?);
            }
            rig::stop(worker).await;
        }
        for _ in 0..bench.scale.reps {
            refill(&database, &mut connection, case.waiting + slice).await?;
            rates.fresh.push(rate(bench, &database, &mut connection, order, None, slice).await?);
        }
    }
    if let Some(snapshot) = snapshot {
        snapshot.close().await.context("the server ended the old transaction")?;
    }
    Ok(all)
}

/// Has so many tasks wait, those included that wait already.
async fn refill(database: &Database, connection: &mut PgConnection, waiting: usize) -> Result<()> {
    let there = rig::number(connection, "SELECT count(*) FROM live").await?;
    let missing = waiting.saturating_sub(usize::try_from(there)?);
    database.fill(&rig::task(NOOP, "null")?, missing).await.map(|_| ())
}

/// Of the first `slice` tasks that a frozen worker ends when it goes on, or a fresh one.
async fn rate(
    bench: &Bench,
    database: &Database,
    connection: &mut PgConnection,
    order: Order,
    frozen: Option<&Program>,
    slice: usize,
) -> Result<f64> {
    bench.rig.forget_order().await?;
    // Every case begins alike: what filled the tables is on the disk, and no checkpoint comes in between.
    sqlx::raw_sql("CHECKPOINT").execute(&mut *connection).await?;
    let began: i64 =
        rig::number(connection, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").await?;
    let skipped = i64::try_from(slice)? - 1;
    let last: i64 = sqlx::query_scalar("SELECT id FROM live ORDER BY id OFFSET $1 LIMIT 1")
        .bind(skipped)
        .fetch_one(&mut *connection)
        .await?;
    match frozen {
        Some(worker) => {
            worker.thaw();
            database.gone(connection, last).await?;
        }
        None => {
            let worker = bench.rig.worker(database, order, &[]).await?;
            database.gone(connection, last).await?;
            rig::stop(worker.program).await;
        }
    }
    let (first, end): (i64, i64) = sqlx::query_as(
        "SELECT (extract(epoch FROM min(started_at)) * 1000000)::bigint,
            (extract(epoch FROM max(ended_at)) * 1000000)::bigint
         FROM (SELECT started_at, ended_at FROM outcome
               WHERE started_at >= to_timestamp($1 / 1000000.0) ORDER BY ended_at LIMIT $2) AS first",
    )
    .bind(began)
    .bind(i64::try_from(slice)?)
    .fetch_one(&mut *connection)
    .await?;
    Ok(stats::rate(slice, Duration::from_micros(u64::try_from(end - first)?)))
}

/// Tasks that ended in earlier times: written by SQL, since only their rows matter.
async fn grow_history(connection: &mut PgConnection, count: usize) -> Result<()> {
    const STEP: usize = 100_000;
    for done in (0..count).step_by(STEP) {
        sqlx::query(
            "WITH ended AS MATERIALIZED (SELECT nextval('task_id') AS id FROM generate_series(1, $1)),
             kept AS (
                INSERT INTO task (id, created_at, time_limit, max_attempts, priority, tenant, task_type, queue, input)
                SELECT id, now(), 3600000000, 3, 5, 'default', 'demo.noop', 'demo_tasks', 'null' FROM ended)
             INSERT INTO outcome (task, worker, started_at, ended_at, attempt, failures, crashes, status,
                attempt_outcome, result)
             SELECT id, 1, now(), now(), 1, 0, 0, 'COMPLETED', 'COMPLETED', 'null' FROM ended",
        )
        .bind(i64::try_from(STEP.min(count - done))?)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// A transaction that has read something and goes on; it ends with its connection.
async fn hold_snapshot(database: &Database) -> Result<PgConnection> {
    let mut connection = database.connect().await?;
    sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM live")
        .execute(&mut connection)
        .await?;
    Ok(connection)
}

/// Keeps a worker busy for so long: what it deletes cannot be cleaned up. It goes on afterwards.
async fn drain_meanwhile(
    bench: &Bench,
    database: &Database,
    connection: &mut PgConnection,
    order: Order,
    length: Duration,
    at_once: usize,
) -> Result<Program> {
    let worker = bench.rig.worker(database, order, &[]).await?;
    let began = Instant::now();
    while began.elapsed() < length {
        let last = database.fill(&rig::task(NOOP, "null")?, at_once).await?;
        database.gone(connection, last).await?;
    }
    Ok(worker.program)
}
