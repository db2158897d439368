//! P8: where the bytes of a task are: in Redis and in each table and index of PostgreSQL, while it waits and once it has
//! ended. What updates and deletions leave behind is cleaned up before the second look, as autovacuum does within the
//! minute.

use std::collections::BTreeMap;

use anyhow::Result;
use sqlx::PgConnection;

use super::{Bench, column, p01::WARM_UP, repeat};
use crate::{
    load,
    report::{Goal, Line, counted},
    rig::{self, NOOP_BODY, Order},
};

/// Smaller shares of a task are left out.
const WORTH_TELLING: f64 = 0.5;
const CONNECTIONS: usize = 64;

/// Bytes of each table and index.
type Sizes = BTreeMap<String, i64>;

/// One repetition.
#[derive(Debug)]
struct Bytes {
    /// Of each table and index, per waiting task.
    waiting: BTreeMap<String, f64>,
    /// Of each table and index, per ended task.
    ended: BTreeMap<String, f64>,
    /// Of Redis, in MB.
    redis: f64,
}

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Line>> {
    let count = bench.scale.of(2_000, 50_000);
    let all = repeat(bench, async || once(bench, count).await).await?;
    let mut lines = vec![
        Line::new("P8", format!("Redis, {} waiting", counted(count)), "MB", column(&all, |one| one.redis))
            .goal(Goal::AtMost(1.5)),
    ];
    for (state, pick) in [
        ("waiting", (|one| &one.waiting) as fn(&Bytes) -> &BTreeMap<String, f64>),
        ("ended", |one| &one.ended),
    ] {
        let total = column(&all, |one| pick(one).values().sum());
        lines.push(Line::new("P8", format!("PostgreSQL, {state}, all"), "B/task", total));
        for name in all.iter().flat_map(|one| pick(one).keys()).collect::<std::collections::BTreeSet<_>>() {
            let bytes = column(&all, |one| pick(one).get(name).copied().unwrap_or_default());
            if bytes.iter().any(|bytes| *bytes > WORTH_TELLING) {
                lines.push(Line::new("P8", format!("PostgreSQL, {state}, {name}"), "B/task", bytes));
            }
        }
    }
    Ok(lines)
}

async fn once(bench: &Bench, count: usize) -> Result<Bytes> {
    let database = bench.rig.database().await?;
    let mut connection = database.connect().await?;
    let empty = sizes(&mut connection).await?;
    let api = bench.rig.api(&database, Order::Redis).await?;
    let request = load::submission(NOOP_BODY);
    // The connections to Redis have their buffers.
    let worker = bench.rig.worker(&database, Order::Redis, &[]).await?;
    let warm = load::submit(api.server, &request, WARM_UP, CONNECTIONS).await?;
    database.drained(&mut connection, warm.last).await?;
    rig::stop(worker.program).await;

    let redis = bench.rig.redis_memory().await?;
    let submitted = load::submit(api.server, &request, count, CONNECTIONS).await?;
    let redis = bench.rig.redis_memory().await? - redis;
    // The warm-up's tasks have ended, and what they left is small beside the others.
    let waiting = per_task(&empty, &sizes(&mut connection).await?, count + WARM_UP);

    let worker = bench.rig.worker(&database, Order::Redis, &[]).await?;
    database.drained(&mut connection, submitted.last).await?;
    rig::stop(worker.program).await;
    rig::stop(api.program).await;
    sqlx::raw_sql("VACUUM").execute(&mut connection).await?;
    let ended = per_task(&empty, &sizes(&mut connection).await?, count + WARM_UP);
    Ok(Bytes { waiting, ended, redis: redis as f64 / 1_048_576.0 })
}

/// Of each table (with what belongs to it) and each index.
async fn sizes(connection: &mut PgConnection) -> Result<Sizes> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT CASE relkind WHEN 'i' THEN 'index ' ELSE 'table ' END || relname,
            CASE relkind WHEN 'i' THEN pg_relation_size(oid) ELSE pg_table_size(oid) END
         FROM pg_class WHERE relkind IN ('r', 'i') AND relnamespace = 'public'::regnamespace",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().collect())
}

fn per_task(before: &Sizes, after: &Sizes, tasks: usize) -> BTreeMap<String, f64> {
    let grown = |name: &String, bytes: &i64| (bytes - before.get(name).copied().unwrap_or_default()) as f64;
    after.iter().map(|(name, bytes)| (name.clone(), grown(name, bytes) / tasks as f64)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_before_is_no_task_s() {
        let before = Sizes::from([("table task".to_owned(), 8_192)]);
        let after = Sizes::from([("table task".to_owned(), 18_192), ("index new".to_owned(), 500)]);
        let bytes = per_task(&before, &after, 100);
        assert_eq!(bytes.into_values().collect::<Vec<_>>(), [5.0, 100.0]);
    }
}
