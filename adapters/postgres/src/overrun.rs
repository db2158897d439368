//! Attempts that run on past their time limit although their worker lives.

use std::{collections::BTreeMap, time::Duration};

use application::ports::{Overrunning, StoreError};
use domain::{TaskId, WorkerId};
use sqlx::{PgConnection, postgres::PgRow};

use crate::{
    PostgresStore,
    clock::Clock,
    connections::Operation,
    error::Fault,
    rows::{self, counters, field, interval, limit},
};

/// Goes through what the living hold by their batches: the cost is that of what is in flight, and no index names a
/// column that a claim changes. Only attempts older than the grace are compared with their submission's limit.
pub(crate) const OVERRUNNING: &str = "
SELECT l.*, t.task_type, t.max_attempts, t.soft_time_limit, t.time_limit, t.retry
FROM worker w JOIN claim_batch b ON b.worker = w.id
CROSS JOIN LATERAL unnest(b.ids) AS taken (id)
CROSS JOIN LATERAL (
    SELECT id, worker, attempt, failures, crashes, forgiven_failures, forgiven_crashes, cancel_requested,
        extract(epoch FROM coalesce($1, now()) - started_at - $2) * 1000000 AS ran
    FROM live WHERE live.id = taken.id AND live.worker = w.id AND live.started_at + $2 < coalesce($1, now()) LIMIT 1
) l
CROSS JOIN LATERAL (
    SELECT task_type, max_attempts, soft_time_limit, time_limit, retry FROM task WHERE task.id = l.id LIMIT 1
) t
WHERE w.dead_at IS NULL AND w.retired_at IS NULL AND l.ran > t.time_limit
LIMIT $3";

struct FindOverrunning {
    grace: Duration,
    limit: usize,
    clock: Clock,
}

impl Operation for FindOverrunning {
    type Output = Vec<Overrunning>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<Overrunning>, Fault> {
        let query = sqlx::query(OVERRUNNING).bind(self.clock.bind()).bind(interval(self.grace));
        let rows = query.bind(limit(self.limit)).fetch_all(connection).await?;
        // By id, each once: a task that was claimed, put back and claimed again stands in two batches.
        let mut found = BTreeMap::new();
        for row in &rows {
            let late = overrunning(row)?;
            found.insert(late.id, late);
        }
        Ok(found.into_values().collect())
    }
}

fn overrunning(row: &PgRow) -> Result<Overrunning, Fault> {
    Ok(Overrunning {
        id: TaskId(field(row, "id")?),
        worker: WorkerId(field(row, "worker")?),
        task_type: rows::name(row, "task_type")?,
        counters: counters(row)?,
        limits: rows::limits(row)?,
        retry: rows::retry(row)?.map(Box::new),
        cancel_requested: field(row, "cancel_requested")?,
    })
}

impl PostgresStore {
    pub(crate) async fn find_overrunning(
        &self,
        grace: Duration,
        limit: usize,
    ) -> Result<Vec<Overrunning>, StoreError> {
        self.connections.run(FindOverrunning { grace, limit, clock: self.clock.clone() }).await
    }
}
