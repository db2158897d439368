//! What comes due, what expires, and who waits.

use std::time::Duration;

use application::ports::{StoreError, Waiting};
use async_trait::async_trait;
use domain::{Change as Decision, Event, QueueName, Rank, Status, Suspicion, TaskId, decide};
use sqlx::SqliteConnection;

use crate::{
    ending::{Ending, end},
    error::store_error,
    fair,
    flow::NEVER,
    rows::{CounterColumns, parse_lane, parse_priority, parse_queue, parse_status, state},
    store::Query,
    writer::{Change, Write},
};

/// Turns due tasks into pending ones.
pub(crate) struct Promote {
    pub(crate) limit: usize,
}

#[async_trait]
impl Change for Promote {
    type Answer = Vec<Waiting>;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "
            UPDATE live SET state = 'PENDING', due_at = NULL, updated_at = ?1
            WHERE task IN (
                SELECT task FROM live WHERE state = 'SCHEDULED' AND due_at <= ?1 ORDER BY due_at, task LIMIT ?2)
            RETURNING task, tenant, queue, lane, priority, coalesce(rank, task)";
        let rows: Vec<(i64, String, String, String, i64, i64)> = sqlx::query_as(SQL)
            .bind(write.now)
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *write.conn)
            .await
            .map_err(store_error)?;
        let mut promoted = Vec::with_capacity(rows.len());
        for (id, tenant, queue, lane, priority, rank) in rows {
            write.tally.shift(&tenant, &queue, Status::Scheduled, Status::Pending);
            promoted.push(Waiting {
                id: TaskId(id),
                queue: parse_queue(&queue)?,
                priority: parse_priority(priority)?,
                rank: Rank(rank),
                suspicion: parse_lane(&lane)?,
            });
        }
        fair::rank(write, &mut promoted).await?;
        Ok(promoted)
    }
}

/// How long until the next scheduled task is due.
pub(crate) struct NextDue {
    pub(crate) now: i64,
}

#[async_trait]
impl Query for NextDue {
    type Answer = Option<Duration>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const SQL: &str =
            "SELECT due_at FROM live WHERE state = 'SCHEDULED' AND due_at < ?1 ORDER BY due_at LIMIT 1";
        let due: Option<i64> =
            sqlx::query_scalar(SQL).bind(NEVER).fetch_optional(snapshot).await.map_err(store_error)?;
        Ok(due.map(|due| Duration::from_micros(u64::try_from(due.saturating_sub(self.now)).unwrap_or(0))))
    }
}

/// Ends waiting tasks whose time has passed.
pub(crate) struct Expire {
    pub(crate) limit: usize,
}

#[derive(sqlx::FromRow)]
struct Late {
    task: i64,
    tenant: String,
    queue: String,
    state: String,
    #[sqlx(flatten)]
    counters: CounterColumns,
}

#[async_trait]
impl Change for Expire {
    type Answer = Vec<TaskId>;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "
            SELECT task, tenant, queue, state, attempt, failures, crashes, forgiven_failures, forgiven_crashes
            FROM live
            WHERE expires_at IS NOT NULL AND expires_at <= ?1 AND worker IS NULL
            ORDER BY expires_at, task LIMIT ?2";
        let rows: Vec<Late> = sqlx::query_as(SQL)
            .bind(write.now)
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *write.conn)
            .await
            .map_err(store_error)?;
        let mut expired = Vec::with_capacity(rows.len());
        let mut endings = Vec::with_capacity(rows.len());
        for row in rows {
            let status = parse_status(&row.state)?;
            let counters = row.counters.read()?;
            let decision = decide(state(status, false), counters, Event::Expire);
            if let Ok(Decision::Finish { end, counters, error }) = decision {
                write.tally.shift(&row.tenant, &row.queue, status, end.into());
                endings.push(Ending::waiting(TaskId(row.task), end, counters, error));
                expired.push(TaskId(row.task));
            }
        }
        end(write, endings).await?;
        Ok(expired)
    }
}

/// The first pending tasks of a queue.
pub(crate) struct WaitingIn {
    pub(crate) queue: QueueName,
    pub(crate) limit: usize,
}

#[async_trait]
impl Query for WaitingIn {
    type Answer = Vec<Waiting>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "
            SELECT priority, coalesce(rank, task), task FROM live WHERE queue = ?1 AND lane = '' AND state = 'PENDING'
            ORDER BY priority, coalesce(rank, task) LIMIT ?2";
        let rows: Vec<(i64, i64, i64)> = sqlx::query_as(SQL)
            .bind(self.queue.as_str())
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .fetch_all(snapshot)
            .await
            .map_err(store_error)?;
        rows.into_iter()
            .map(|(priority, rank, id)| {
                let (priority, rank) = (parse_priority(priority)?, Rank(rank));
                let queue = self.queue.clone();
                Ok(Waiting { id: TaskId(id), queue, priority, rank, suspicion: Suspicion::None })
            })
            .collect()
    }
}

/// Queues other than these in which something is pending.
pub(crate) struct WaitingQueues {
    pub(crate) except: Vec<QueueName>,
}

#[async_trait]
impl Query for WaitingQueues {
    type Answer = Vec<QueueName>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        // From queue to queue through the index, past all the tasks between.
        const SQL: &str = "
            WITH RECURSIVE waiting (queue) AS (
                SELECT min(queue) FROM live WHERE state = 'PENDING'
                UNION ALL
                SELECT (SELECT min(queue) FROM live WHERE state = 'PENDING' AND queue > waiting.queue)
                FROM waiting WHERE waiting.queue IS NOT NULL)
            SELECT queue FROM waiting WHERE queue IS NOT NULL";
        let queues: Vec<String> = sqlx::query_scalar(SQL).fetch_all(snapshot).await.map_err(store_error)?;
        let mut queues: Vec<_> = queues.iter().map(|queue| parse_queue(queue)).collect::<Result<_, _>>()?;
        queues.retain(|queue| !self.except.contains(queue));
        Ok(queues)
    }
}
