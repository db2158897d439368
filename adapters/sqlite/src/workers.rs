//! Leases: who is alive, and what those hold who are not.

use std::time::Duration;

use application::ports::{Orphan, Overdue, Overrunning, StoreError, Waiting, WorkerProfile};
use async_trait::async_trait;
use domain::{Json, Rank, Suspicion, TaskId, WorkerId};
use sqlx::SqliteConnection;

use crate::{
    clock::micros,
    error::store_error,
    fleet::queue_list,
    read::{limits, retry_policy},
    rows::{CounterColumns, moment, number, parse_lane, parse_name, parse_priority, parse_queue},
    store::Query,
    writer::{Change, Write},
};

/// One start of a worker process.
pub(crate) struct Register {
    pub(crate) profile: WorkerProfile,
}

#[async_trait]
impl Change for Register {
    type Answer = WorkerId;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "
            INSERT INTO worker (name, queues, concurrency, lease, state, registered_at, last_heartbeat, except_queues, about)
            VALUES (?1, ?2, ?3, ?4, 'alive', ?5, ?5, ?6, ?7) RETURNING id";
        let id = sqlx::query_scalar(SQL)
            .bind(self.profile.name.as_str())
            .bind(queue_list(&self.profile.queues))
            .bind(i64::try_from(self.profile.concurrency).unwrap_or(i64::MAX))
            .bind(micros(self.profile.lease))
            .bind(write.now)
            .bind(queue_list(&self.profile.except))
            .bind(self.profile.about.as_ref().map(Json::as_str))
            .fetch_one(&mut *write.conn)
            .await
            .map_err(store_error)?;
        Ok(WorkerId(id))
    }
}

/// A sign of life; `false` from one that is not counted as alive.
pub(crate) struct Heartbeat {
    pub(crate) worker: WorkerId,
}

#[async_trait]
impl Change for Heartbeat {
    type Answer = bool;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "UPDATE worker SET last_heartbeat = ?2 WHERE id = ?1 AND state = 'alive'";
        let query = sqlx::query(SQL).bind(self.worker.0).bind(write.now);
        Ok(query.execute(&mut *write.conn).await.map_err(store_error)?.rows_affected() > 0)
    }
}

/// The end of a registration in good order.
pub(crate) struct Retire {
    pub(crate) worker: WorkerId,
}

#[async_trait]
impl Change for Retire {
    type Answer = ();

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "UPDATE worker SET state = 'retired' WHERE id = ?1 AND state = 'alive'";
        sqlx::query(SQL).bind(self.worker.0).execute(&mut *write.conn).await.map_err(store_error)?;
        Ok(())
    }
}

/// Declares a worker dead whose last heartbeat is the one that was seen.
pub(crate) struct Bury {
    pub(crate) seen: Overdue,
}

#[async_trait]
impl Change for Bury {
    type Answer = bool;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "
            UPDATE worker SET state = 'dead', heaviest = min(2, coalesce((
                SELECT max(l.crashes - l.forgiven_crashes) FROM live AS l WHERE l.worker = worker.id), 0))
            WHERE id = ?1 AND state = 'alive' AND last_heartbeat = ?2";
        let query =
            sqlx::query(SQL).bind(self.seen.worker.0).bind(self.seen.last_heartbeat.timestamp_micros());
        Ok(query.execute(&mut *write.conn).await.map_err(store_error)?.rows_affected() > 0)
    }
}

/// Workers whose lease has run out.
pub(crate) struct OverdueAt {
    pub(crate) now: i64,
}

#[async_trait]
impl Query for OverdueAt {
    type Answer = Vec<Overdue>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "
            SELECT id, name, last_heartbeat FROM worker
            WHERE state = 'alive' AND (last_heartbeat <= ?1 - lease OR last_heartbeat > ?1 + lease) ORDER BY id";
        let rows: Vec<(i64, String, i64)> =
            sqlx::query_as(SQL).bind(self.now).fetch_all(snapshot).await.map_err(store_error)?;
        rows.into_iter()
            .map(|(id, name, last_heartbeat)| {
                let (name, last_heartbeat) = (parse_name(&name)?, moment(last_heartbeat)?);
                Ok(Overdue { worker: WorkerId(id), name, last_heartbeat })
            })
            .collect()
    }
}

/// Tasks that dead and retired workers still hold.
pub(crate) struct Orphans {
    pub(crate) limit: usize,
}

#[derive(sqlx::FromRow)]
struct Row {
    task: i64,
    worker: i64,
    retired: bool,
    heaviest: i64,
    #[sqlx(flatten)]
    counters: CounterColumns,
    cancel_requested: bool,
    queue: String,
    lane: String,
    priority: i64,
    rank: i64,
}

#[async_trait]
impl Query for Orphans {
    type Answer = Vec<Orphan>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "
            SELECT l.task, l.worker, w.state = 'retired' AS retired, w.heaviest, l.attempt, l.failures, l.crashes,
                   l.forgiven_failures, l.forgiven_crashes, l.cancel_requested, l.queue, l.lane, l.priority,
                   coalesce(l.rank, l.task) AS rank
            FROM live AS l CROSS JOIN worker AS w ON w.id = l.worker
            WHERE l.worker IS NOT NULL AND w.state <> 'alive'
            ORDER BY l.worker, l.task LIMIT ?1";
        let limit = i64::try_from(self.limit).unwrap_or(i64::MAX);
        let rows: Vec<Row> =
            sqlx::query_as(SQL).bind(limit).fetch_all(snapshot).await.map_err(store_error)?;
        rows.into_iter().map(Row::into_orphan).collect()
    }
}

impl Row {
    fn into_orphan(self) -> Result<Orphan, StoreError> {
        let id = TaskId(self.task);
        Ok(Orphan {
            id,
            worker: WorkerId(self.worker),
            worker_retired: self.retired,
            counters: self.counters.read()?,
            heaviest: Suspicion::from_level(u8::try_from(self.heaviest).unwrap_or(u8::MAX)),
            cancel_requested: self.cancel_requested,
            waiting: Waiting {
                id,
                queue: parse_queue(&self.queue)?,
                priority: parse_priority(self.priority)?,
                rank: Rank(self.rank),
                suspicion: parse_lane(&self.lane)?,
            },
        })
    }
}

/// Those of a worker's tasks that somebody asked to stop.
pub(crate) struct CancelRequests {
    pub(crate) worker: WorkerId,
}

#[async_trait]
impl Query for CancelRequests {
    type Answer = Vec<(TaskId, u32)>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "
            SELECT task, attempt FROM live WHERE worker = ?1 AND cancel_requested = 1 ORDER BY task";
        let rows: Vec<(i64, i64)> =
            sqlx::query_as(SQL).bind(self.worker.0).fetch_all(snapshot).await.map_err(store_error)?;
        rows.into_iter().map(|(task, attempt)| Ok((TaskId(task), number(attempt)?))).collect()
    }
}

/// Running tasks that their living worker should have stopped by now.
pub(crate) struct OverrunningAt {
    pub(crate) now: i64,
    pub(crate) grace: Duration,
    pub(crate) limit: usize,
}

#[derive(sqlx::FromRow)]
struct Late {
    task: i64,
    worker: i64,
    task_type: String,
    max_attempts: i64,
    soft_time_limit: Option<i64>,
    time_limit: i64,
    retry: Option<String>,
    cancel_requested: bool,
    #[sqlx(flatten)]
    counters: CounterColumns,
}

#[async_trait]
impl Query for OverrunningAt {
    type Answer = Vec<Overrunning>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "
            SELECT l.task, l.worker, t.type AS task_type, t.max_attempts, t.soft_time_limit, t.time_limit, t.retry,
                   l.cancel_requested, l.attempt, l.failures, l.crashes, l.forgiven_failures, l.forgiven_crashes
            FROM worker AS w CROSS JOIN live AS l ON l.worker = w.id CROSS JOIN task AS t ON t.id = l.task
            WHERE w.state = 'alive' AND l.started_at + t.time_limit < ?1 LIMIT ?2";
        let rows: Vec<Late> = sqlx::query_as(SQL)
            .bind(self.now.saturating_sub(micros(self.grace)))
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .fetch_all(snapshot)
            .await
            .map_err(store_error)?;
        rows.into_iter()
            .map(|row| {
                Ok(Overrunning {
                    id: TaskId(row.task),
                    worker: WorkerId(row.worker),
                    task_type: parse_name(&row.task_type)?,
                    counters: row.counters.read()?,
                    limits: limits(row.max_attempts, row.soft_time_limit, row.time_limit)?,
                    retry: retry_policy(row.retry.as_deref())?.map(Box::new),
                    cancel_requested: row.cancel_requested,
                })
            })
            .collect()
    }
}
