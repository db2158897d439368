//! The attempts of a task, and its stored output.

use application::ports::{ChunkRecord, StoreError};
use domain::{Attempt, AttemptOutcome, TaskId, Tenant, WorkerName};
use sqlx::{PgConnection, postgres::PgRow};

use crate::{
    PostgresStore,
    connections::Operation,
    error::Fault,
    rows::{self, count, field, integer, limit},
    usage,
};

struct Attempts {
    tenant: Tenant,
    id: i64,
}

impl Operation for Attempts {
    type Output = Option<Vec<Attempt>>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Option<Vec<Attempt>>, Fault> {
        // One row with no attempt stands for a task that has had none; no row at all for an unknown task.
        let rows = sqlx::query(
            "SELECT a.attempt, w.name, a.started_at, a.ended_at, a.outcome, a.error, c.calls
             FROM task t
             LEFT JOIN LATERAL (
                SELECT attempt, worker, started_at, ended_at, outcome, error FROM attempt WHERE attempt.task = t.id
                UNION ALL
                SELECT attempt, worker, started_at, ended_at, attempt_outcome, error
                FROM outcome WHERE outcome.task = t.id AND worker IS NOT NULL
                UNION ALL
                SELECT attempt, worker, started_at, NULL, NULL, NULL
                FROM live WHERE live.id = t.id AND worker IS NOT NULL
             ) a ON true
             LEFT JOIN worker w ON w.id = a.worker
             LEFT JOIN model_call c ON c.task = t.id AND c.attempt = a.attempt
             WHERE t.id = $1 AND t.tenant = $2
             ORDER BY a.attempt",
        )
        .bind(self.id)
        .bind(self.tenant.as_str())
        .fetch_all(connection)
        .await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let attempts = rows.iter().filter_map(|row| attempt(row).transpose());
        Ok(Some(attempts.collect::<Result<_, Fault>>()?))
    }
}

fn attempt(row: &PgRow) -> Result<Option<Attempt>, Fault> {
    if field::<Option<i32>>(row, "attempt")?.is_none() {
        return Ok(None);
    }
    let worker = match field::<Option<&str>>(row, "name")? {
        Some(_) => Some(rows::name::<WorkerName>(row, "name")?),
        None => None,
    };
    let outcome = match field::<Option<&str>>(row, "outcome")? {
        None => None,
        Some(text) => Some(
            AttemptOutcome::ALL
                .into_iter()
                .find(|outcome| outcome.as_str() == text)
                .ok_or_else(|| Fault::Unreadable(format!("{text:?} is not how an attempt can end")))?,
        ),
    };
    Ok(Some(Attempt {
        attempt: count(row, "attempt")?,
        worker,
        started_at: field(row, "started_at")?,
        ended_at: field(row, "ended_at")?,
        outcome,
        error: rows::failure(row)?,
        calls: usage::calls(field(row, "calls")?)?,
    }))
}

struct ChunksAfter {
    id: TaskId,
    after: (u32, u64),
    limit: usize,
}

impl Operation for ChunksAfter {
    type Output = Vec<ChunkRecord>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<ChunkRecord>, Fault> {
        let (attempt, seq) = self.after;
        let rows = sqlx::query(
            "SELECT attempt, seq, text FROM chunk WHERE task = $1 AND (attempt, seq) > ($2, $3)
             ORDER BY attempt, seq LIMIT $4",
        )
        .bind(self.id.0)
        .bind(integer(attempt))
        .bind(i64::try_from(seq).unwrap_or(i64::MAX))
        .bind(limit(self.limit))
        .fetch_all(connection)
        .await?;
        rows.iter()
            .map(|row| {
                let seq: i64 = field(row, "seq")?;
                Ok(ChunkRecord {
                    task: self.id,
                    attempt: count(row, "attempt")?,
                    seq: seq.unsigned_abs(),
                    text: field(row, "text")?,
                })
            })
            .collect()
    }
}

impl PostgresStore {
    pub(crate) async fn attempts_of(
        &self,
        tenant: &Tenant,
        id: TaskId,
    ) -> Result<Option<Vec<Attempt>>, StoreError> {
        self.connections.run(Attempts { tenant: tenant.clone(), id: id.0 }).await
    }

    pub(crate) async fn stored_chunks(
        &self,
        id: TaskId,
        after: (u32, u64),
        limit: usize,
    ) -> Result<Vec<ChunkRecord>, StoreError> {
        self.connections.run(ChunksAfter { id, after, limit }).await
    }
}
