//! Workers that are gone, and what they held.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use application::ports::{Orphan, Overdue, StoreError};
use domain::{Suspicion, TaskId, WorkerId};
use sqlx::{Connection, PgConnection, postgres::PgRow};
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
    /// not wait for), so everything that this worker holds is to be seen by the statements after it.
    async fn run(&self, connection: &mut PgConnection) -> Result<bool, Fault> {
        let mut transaction = connection.begin().await?;
        let silent: Option<i64> = sqlx::query_scalar(
            "SELECT id FROM worker
             WHERE id = $1 AND heartbeat_at = $2 AND dead_at IS NULL AND retired_at IS NULL FOR UPDATE",
        )
        .bind(self.seen.worker.0)
        .bind(self.seen.last_heartbeat)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(worker) = silent else {
            // Now, not when the connection is next used: the row may be locked although it is not the one that was meant.
            transaction.rollback().await?;
            return Ok(false);
        };
        let heaviest = heaviest(&mut transaction, worker).await?;
        sqlx::query("UPDATE worker SET dead_at = coalesce($2, now()), heaviest = $3 WHERE id = $1")
            .bind(worker)
            .bind(self.clock.bind())
            .bind(i16::from(heaviest.level()))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(true)
    }
}

/// The heaviest suspicion among all that this worker holds: worked out once, when it is dead, since its tasks are
/// taken over page by page.
async fn heaviest(connection: &mut PgConnection, worker: i64) -> Result<Suspicion, Fault> {
    let crashes: Option<i32> = sqlx::query_scalar(
        "SELECT max(l.crashes - coalesce(l.forgiven_crashes, 0))
         FROM claim_batch b CROSS JOIN LATERAL unnest(b.ids) AS taken (id)
         CROSS JOIN LATERAL (
            SELECT crashes, forgiven_crashes FROM live WHERE live.id = taken.id AND live.worker = $1 LIMIT 1
         ) l
         WHERE b.worker = $1",
    )
    .bind(worker)
    .fetch_one(connection)
    .await?;
    Ok(Suspicion::after(crashes.and_then(|crashes| u32::try_from(crashes).ok()).unwrap_or(0)))
}

/// Where a program of the schema before this one buried a worker, nobody has looked at what it held.
async fn weigh(connection: &mut PgConnection, workers: &[i64]) -> Result<(), Fault> {
    for worker in workers {
        let heaviest = heaviest(connection, *worker).await?;
        sqlx::query("UPDATE worker SET heaviest = $2 WHERE id = $1 AND heaviest IS NULL")
            .bind(worker)
            .bind(i16::from(heaviest.level()))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// What workers that are gone hold by their batches.
struct ByBatches {
    limit: usize,
    clock: Clock,
}

impl Operation for ByBatches {
    type Output = Vec<Orphan>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<Orphan>, Fault> {
        let rows = sqlx::query(
            "SELECT id, dead_at IS NOT NULL AND heaviest IS NULL AS unweighed FROM worker
             WHERE (dead_at IS NOT NULL OR retired_at IS NOT NULL) AND released_at IS NULL ORDER BY id LIMIT 1000",
        )
        .fetch_all(&mut *connection)
        .await?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let (mut gone, mut unweighed) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in &rows {
            let worker: i64 = field(row, "id")?;
            gone.push(worker);
            if field(row, "unweighed")? {
                unweighed.push(worker);
            }
        }
        weigh(connection, &unweighed).await?;
        let rows = sqlx::query(
            "SELECT l.*, w.retired_at IS NOT NULL AS worker_retired, w.heaviest
             FROM unnest($1::bigint[]) AS gone (worker)
             JOIN worker w ON w.id = gone.worker
             JOIN claim_batch b ON b.worker = gone.worker
             CROSS JOIN LATERAL unnest(b.ids) AS taken (id)
             CROSS JOIN LATERAL (
                SELECT id, worker, attempt, failures, crashes, forgiven_failures, forgiven_crashes, cancel_requested,
                    queue, priority, coalesce(rank, id) AS rank, lane
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
    let counters = counters(row)?;
    let worker_retired = field(row, "worker_retired")?;
    let level = field::<Option<i16>>(row, "heaviest")?.and_then(|level| u8::try_from(level).ok());
    // What the audit finds was not seen at the burial: it may weigh more than all that was.
    let least = if worker_retired { Suspicion::None } else { counters.suspicion() };
    Ok(Orphan {
        id: TaskId(field(row, "id")?),
        worker: WorkerId(field(row, "worker")?),
        worker_retired,
        counters,
        heaviest: Suspicion::from_level(level.unwrap_or(0)).max(least),
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
                SELECT id, worker, attempt, failures, crashes, forgiven_failures, forgiven_crashes, cancel_requested,
                    queue, priority, coalesce(rank, id) AS rank, lane
                FROM live WHERE id > $1 ORDER BY id LIMIT $2
             )
             SELECT (SELECT CASE WHEN count(*) = $2 THEN max(id) END FROM page) AS last, o.*
             FROM (SELECT) AS once LEFT JOIN LATERAL (
                SELECT page.*, coalesce(w.retired_at IS NOT NULL, false) AS worker_retired, w.heaviest
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
    pub(crate) fn turn(&self) -> Option<i64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| last.elapsed() < AUDIT_EVERY) {
            return None;
        }
        state.last = Some(Instant::now());
        Some(state.after)
    }

    pub(crate) fn go_on_after(&self, id: i64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).after = id;
    }
}
