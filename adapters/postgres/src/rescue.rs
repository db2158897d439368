//! Workers that are gone, and what they held.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use application::ports::{Orphan, Overdue, StoreError};
use domain::{TaskId, WorkerId};
use sqlx::{PgConnection, postgres::PgRow};
use tokio::time::Instant;

use crate::{
    PostgresStore,
    clock::Clock,
    connections::Operation,
    error::Fault,
    rows::{self, counters, field, limit},
};

struct FindOverdue {
    clock: Clock,
}

impl Operation for FindOverdue {
    type Output = Vec<Overdue>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<Overdue>, Fault> {
        let rows = sqlx::query(
            "SELECT id, name, heartbeat_at FROM worker
             WHERE dead_at IS NULL AND retired_at IS NULL
                AND (heartbeat_at + lease <= coalesce($1, now()) OR heartbeat_at - lease > coalesce($1, now()))
             ORDER BY id",
        )
        .bind(self.clock.bind())
        .fetch_all(connection)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Overdue {
                    worker: WorkerId(field(row, "id")?),
                    name: rows::name(row, "name")?,
                    last_heartbeat: field(row, "heartbeat_at")?,
                })
            })
            .collect()
    }
}

struct Bury {
    seen: Overdue,
    clock: Clock,
}

impl Operation for Bury {
    type Output = bool;

    /// The lock waits for claims that are on their way (they hold the row FOR KEY SHARE, which a plain update would
    /// not wait for), so everything that this worker holds is to be seen afterwards.
    async fn run(&self, connection: &mut PgConnection) -> Result<bool, Fault> {
        let buried = sqlx::query(
            "WITH silent AS MATERIALIZED (
                SELECT id FROM worker
                WHERE id = $1 AND heartbeat_at = $2 AND dead_at IS NULL AND retired_at IS NULL FOR UPDATE
             )
             UPDATE worker SET dead_at = coalesce($3, now()) WHERE id = (SELECT id FROM silent)",
        )
        .bind(self.seen.worker.0)
        .bind(self.seen.last_heartbeat)
        .bind(self.clock.bind())
        .execute(connection)
        .await?;
        Ok(buried.rows_affected() > 0)
    }
}

/// What workers that are gone hold by their batches.
struct ByBatches {
    limit: usize,
    clock: Clock,
}

impl Operation for ByBatches {
    type Output = Vec<Orphan>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<Orphan>, Fault> {
        let gone: Vec<i64> = sqlx::query_scalar(
            "SELECT id FROM worker
             WHERE (dead_at IS NOT NULL OR retired_at IS NOT NULL) AND released_at IS NULL ORDER BY id LIMIT 1000",
        )
        .fetch_all(&mut *connection)
        .await?;
        if gone.is_empty() {
            return Ok(Vec::new());
        }
        let rows = sqlx::query(
            "SELECT l.*, w.retired_at IS NOT NULL AS worker_retired
             FROM unnest($1::bigint[]) AS gone (worker)
             JOIN worker w ON w.id = gone.worker
             JOIN claim_batch b ON b.worker = gone.worker
             CROSS JOIN LATERAL unnest(b.ids) AS taken (id)
             CROSS JOIN LATERAL (
                SELECT id, worker, attempt, failures, crashes, cancel_requested, queue, priority
                FROM live WHERE live.id = taken.id AND live.worker = gone.worker LIMIT 1
             ) l
             LIMIT $2",
        )
        .bind(&gone)
        .bind(limit(self.limit))
        .fetch_all(&mut *connection)
        .await?;
        if rows.len() < self.limit {
            // Nothing more comes into these hands: a worker without a task in its batches has left nothing behind.
            sqlx::query(
                "WITH released AS (
                    UPDATE worker SET released_at = coalesce($2, now())
                    WHERE id = ANY($1) AND released_at IS NULL AND NOT EXISTS (
                        SELECT FROM claim_batch b CROSS JOIN LATERAL unnest(b.ids) AS taken (id)
                        CROSS JOIN LATERAL (
                            SELECT FROM live WHERE live.id = taken.id AND live.worker = worker.id LIMIT 1
                        ) l WHERE b.worker = worker.id
                    ) RETURNING id
                 )
                 DELETE FROM claim_batch WHERE worker = ANY(ARRAY(SELECT id FROM released))",
            )
            .bind(&gone)
            .bind(self.clock.bind())
            .execute(connection)
            .await?;
        }
        // A task that was claimed, put back and claimed again stands in two batches.
        let mut seen = HashSet::new();
        let mut orphans = rows.iter().map(orphan).collect::<Result<Vec<_>, _>>()?;
        orphans.retain(|orphan| seen.insert(orphan.id));
        Ok(orphans)
    }
}

fn orphan(row: &PgRow) -> Result<Orphan, Fault> {
    Ok(Orphan {
        id: TaskId(field(row, "id")?),
        worker: WorkerId(field(row, "worker")?),
        worker_retired: field(row, "worker_retired")?,
        counters: counters(row)?,
        cancel_requested: field(row, "cancel_requested")?,
        waiting: rows::waiting(row)?,
    })
}

/// How often a page of `live` is audited, and how large a page is: 100,000 unfinished tasks within two minutes.
const AUDIT_EVERY: Duration = Duration::from_secs(2);
const AUDIT_PAGE: i64 = 2_000;

/// Where the audit stands.
#[derive(Debug, Default)]
pub(crate) struct Audit(Mutex<AuditState>);

#[derive(Debug, Default)]
struct AuditState {
    after: i64,
    last: Option<Instant>,
}

/// Tasks in the hands of workers that are gone, found in `live` itself: the repair for lost batches. Reads one page.
struct AuditPage {
    after: i64,
}

impl Operation for AuditPage {
    /// The end of the page, if it was not the last one.
    type Output = (Option<i64>, Vec<Orphan>);

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Output, Fault> {
        let rows = sqlx::query(
            "WITH page AS MATERIALIZED (
                SELECT id, worker, attempt, failures, crashes, cancel_requested, queue, priority
                FROM live WHERE id > $1 ORDER BY id LIMIT $2
             )
             SELECT (SELECT CASE WHEN count(*) = $2 THEN max(id) END FROM page) AS last, o.*
             FROM (SELECT) AS once LEFT JOIN LATERAL (
                SELECT page.*, coalesce(w.retired_at IS NOT NULL, false) AS worker_retired
                FROM page LEFT JOIN worker w ON w.id = page.worker
                WHERE page.worker IS NOT NULL
                    AND (w.id IS NULL OR w.dead_at IS NOT NULL OR w.retired_at IS NOT NULL)
             ) o ON true",
        )
        .bind(self.after)
        .bind(AUDIT_PAGE)
        .fetch_all(connection)
        .await?;
        let last = rows.first().map(|row| field(row, "last")).transpose()?.flatten();
        let mut orphans = Vec::new();
        for row in &rows {
            if field::<Option<i64>>(row, "id")?.is_some() {
                orphans.push(orphan(row)?);
            }
        }
        Ok((last, orphans))
    }
}

impl PostgresStore {
    pub(crate) async fn overdue_workers(&self) -> Result<Vec<Overdue>, StoreError> {
        self.connections.run(FindOverdue { clock: self.clock.clone() }).await
    }

    pub(crate) async fn bury_worker(&self, seen: &Overdue) -> Result<bool, StoreError> {
        self.connections.run(Bury { seen: seen.clone(), clock: self.clock.clone() }).await
    }

    pub(crate) async fn find_orphans(&self, limit: usize) -> Result<Vec<Orphan>, StoreError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let orphans = self.connections.run(ByBatches { limit, clock: self.clock.clone() }).await?;
        if !orphans.is_empty() {
            return Ok(orphans);
        }
        let Some(after) = self.audit.turn() else { return Ok(Vec::new()) };
        let (last, mut lost) = self.connections.run(AuditPage { after }).await?;
        if lost.len() > limit {
            // The rest of this page is found by the next audit.
            lost.truncate(limit);
        } else {
            self.audit.go_on_after(last.unwrap_or(i64::MIN));
        }
        if !lost.is_empty() {
            tracing::warn!(
                tasks = lost.len(),
                "found tasks of workers that are gone by reading all that is unfinished"
            );
        }
        Ok(lost)
    }
}

impl Audit {
    /// Where to go on, when it is time to.
    fn turn(&self) -> Option<i64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| last.elapsed() < AUDIT_EVERY) {
            return None;
        }
        state.last = Some(Instant::now());
        Some(state.after)
    }

    fn go_on_after(&self, id: i64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).after = id;
    }
}
