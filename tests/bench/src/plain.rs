//! What PostgreSQL does without a task runner: the limits that rows are held against.

mod wire;

use std::{cell::Cell, time::Duration};

use anyhow::{Context as _, Result, bail};
use futures_util::future::try_join_all;
use sqlx::{Connection as _, PgConnection};
use tokio::time::Instant;

use wire::Wire;

/// Single-row INSERTs into a table with the columns of `task`, each committed by itself, by as many connections as there
/// are clients.
#[derive(Debug)]
pub struct Inserts {
    /// From the first statement to the last answer.
    pub took: Duration,
    /// From each statement to its answer.
    pub latencies: Vec<Duration>,
}

const INSERT: &str = "INSERT INTO bare
    (created_at, time_limit, max_attempts, priority, tenant, task_type, queue, input)
    VALUES (now(), $1, $2, $3, $4, $5, $6, $7) RETURNING id";
const VALUES: [&str; 7] = ["3600000000", "3", "5", "default", "demo.noop", "demo_tasks", "null"];

/// Inserts `count` rows over so many connections, over the wire itself: no driver's cost is in it.
pub async fn inserts(url: &str, count: usize, connections: usize) -> Result<Inserts> {
    let mut control = PgConnection::connect(url).await?;
    sqlx::raw_sql(
        "DROP TABLE IF EXISTS bare;
         CREATE TABLE bare (LIKE task);
         ALTER TABLE bare ALTER id ADD GENERATED ALWAYS AS IDENTITY, ADD PRIMARY KEY (id)",
    )
    .execute(&mut control)
    .await?;
    let mut open = try_join_all((0..connections).map(async |_| {
        let mut wire = Wire::open(url).await?;
        wire.prepare(INSERT).await?;
        anyhow::Ok(wire)
    }))
    .await?;
    let request = wire::execution(&VALUES);
    let left = Cell::new(count);
    let latencies = std::cell::RefCell::new(Vec::with_capacity(count));
    let began = Instant::now();
    let all = open.iter_mut().map(async |wire| {
        while left.get() > 0 {
            left.set(left.get() - 1);
            let sent = Instant::now();
            wire.ask(&request).await?;
            latencies.borrow_mut().push(sent.elapsed());
        }
        anyhow::Ok(())
    });
    try_join_all(all).await?;
    let took = began.elapsed();
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM bare").fetch_one(&mut control).await?;
    if rows != i64::try_from(count)? {
        bail!("{rows} of {count} rows were inserted");
    }
    Ok(Inserts { took, latencies: latencies.into_inner() })
}

/// A claim as the store does it, without a worker's row, a batch to find it by, and counts.
const CLAIM: &str =
    "UPDATE live SET worker = 1, attempt = attempt + 1, started_at = now(), changed_at = now()
    WHERE id = ANY($1) AND ready AND worker IS NULL";
/// A settlement as the store does it, without the fence's arguments and counts.
const SETTLE: &str = "WITH gone AS (DELETE FROM live WHERE id = ANY($1) AND worker = 1 RETURNING id, attempt, started_at)
    INSERT INTO outcome (task, worker, started_at, ended_at, attempt, failures, crashes, status, attempt_outcome, result)
    SELECT id, 1, started_at, now(), attempt, 0, 0, 'COMPLETED', 'COMPLETED', 'null' FROM gone";

/// How many rows a statement of [`drain`] takes.
pub const BATCH: usize = 500;

/// Claims and settles all that waits: two statements for each [`BATCH`] rows, over so many connections that each have
/// their own part of the ids. Answers how long it took.
pub async fn drain(url: &str, connections: usize) -> Result<Duration> {
    let mut control = PgConnection::connect(url).await?;
    let ids: Vec<i64> = sqlx::query_scalar("SELECT id FROM live ORDER BY id").fetch_all(&mut control).await?;
    let batches: Vec<Vec<i64>> = ids.chunks(BATCH).map(<[i64]>::to_vec).collect();
    let mut open = try_join_all((0..connections).map(async |_| {
        let mut connection = PgConnection::connect(url).await?;
        // A fresh table has no statistics: the same help that the store gives the planner.
        sqlx::raw_sql("SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off")
            .execute(&mut connection)
            .await?;
        anyhow::Ok(connection)
    }))
    .await?;
    let began = Instant::now();
    let parts = open.iter_mut().enumerate().map(async |(number, connection)| {
        for batch in batches.iter().skip(number).step_by(connections) {
            for sql in [CLAIM, SETTLE] {
                let done = sqlx::query(sql).bind(batch).execute(&mut *connection).await?.rows_affected();
                if done != batch.len() as u64 {
                    bail!("{done} of {} rows were there for `{sql}`", batch.len());
                }
            }
        }
        Ok(())
    });
    try_join_all(parts).await?;
    let took = began.elapsed();
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM live").fetch_one(&mut control).await?;
    if left > 0 {
        bail!("{left} rows were left");
    }
    control.close().await.context("the server is gone")?;
    Ok(took)
}
