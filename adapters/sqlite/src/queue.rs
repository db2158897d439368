//! Queues as their operators see them: standing still, emptied, growing impatient, served.

use std::time::Duration;

use application::ports::{Purged, QueueStore, RecentRuns, RunRecord, StoreError, Waiting};
use async_trait::async_trait;
use domain::{
    Change as Decision, QueueName, Rank, Service, Suspicion, TaskId, Tenant, Timestamp, queue::purge,
};
use sqlx::SqliteConnection;

use crate::{
    ending::{Ending, end, fenced},
    error::store_error,
    rows::{CounterColumns, moment, pages, parse_priority, parse_queue, parse_status, state, unreadable},
    runs::{NoteRuns, ReadRuns},
    store::{Query, SqliteStore},
    writer::{Change, Write},
};

/// Queues that stand still.
struct PausedQueues;

#[async_trait]
impl Query for PausedQueues {
    type Answer = Vec<QueueName>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "SELECT queue FROM queue_state WHERE paused = 1 ORDER BY queue";
        let queues: Vec<String> = sqlx::query_scalar(SQL).fetch_all(snapshot).await.map_err(store_error)?;
        queues.iter().map(|queue| parse_queue(queue)).collect()
    }
}

/// Lets a queue stand still or go on.
struct PauseQueue {
    queue: QueueName,
    paused: bool,
}

#[async_trait]
impl Change for PauseQueue {
    type Answer = bool;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "
            INSERT INTO queue_state (queue, paused) SELECT ?1, ?2
            WHERE ?2 OR EXISTS (SELECT 1 FROM queue_state WHERE queue = ?1)
            ON CONFLICT (queue) DO UPDATE SET paused = excluded.paused WHERE paused <> excluded.paused";
        let query = sqlx::query(SQL).bind(self.queue.as_str()).bind(self.paused);
        Ok(query.execute(&mut *write.conn).await.map_err(store_error)?.rows_affected() > 0)
    }
}

/// The longest wait among the first of each priority.
struct WaitingSince {
    queues: Vec<QueueName>,
}

#[async_trait]
impl Query for WaitingSince {
    type Answer = Vec<(QueueName, Timestamp)>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "
            SELECT q.value AS queue, min(coalesce(l.updated_at, t.created_at)) AS since
            FROM json_each(?1) AS q
            CROSS JOIN json_each('[0,1,2,3,4,5,6,7,8,9]') AS level
            CROSS JOIN live AS l ON l.task IN (
                SELECT w.task FROM live AS w
                WHERE w.queue = q.value AND w.lane = '' AND w.state = 'PENDING' AND w.priority = level.value
                ORDER BY coalesce(w.rank, w.task) LIMIT 100)
            CROSS JOIN task AS t ON t.id = l.task
            GROUP BY q.value ORDER BY q.value";
        let mut since = Vec::new();
        for page in pages(self.queues.iter().map(QueueName::as_str)) {
            let rows: Vec<(String, i64)> =
                sqlx::query_as(SQL).bind(page).fetch_all(&mut *snapshot).await.map_err(store_error)?;
            for (queue, at) in rows {
                since.push((parse_queue(&queue)?, moment(at)?));
            }
        }
        Ok(since)
    }
}

/// One step of a purge.
struct Purge {
    tenant: Tenant,
    queue: QueueName,
    after: TaskId,
    limit: usize,
}

#[derive(sqlx::FromRow)]
struct Unfinished {
    task: i64,
    tenant: String,
    queue: String,
    state: String,
    #[sqlx(flatten)]
    counters: CounterColumns,
}

#[async_trait]
impl Change for Purge {
    type Answer = Purged;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "
            SELECT task, tenant, queue, state, attempt, failures, crashes, forgiven_failures, forgiven_crashes
            FROM live WHERE task > ?1 ORDER BY task LIMIT ?2";
        let page: Vec<Unfinished> = sqlx::query_as(SQL)
            .bind(self.after.0)
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *write.conn)
            .await
            .map_err(store_error)?;
        let next = page.last().filter(|_| page.len() == self.limit).map(|row| TaskId(row.task));
        let mut purged = Purged { ended: Vec::new(), next };
        let mut endings = Vec::new();
        for row in
            page.iter().filter(|row| row.tenant == self.tenant.as_str() && row.queue == self.queue.as_str())
        {
            let status = parse_status(&row.state)?;
            if let Some(Decision::Finish { end, counters, error }) =
                purge(state(status, false), row.counters.read()?)
            {
                write.tally.shift(&row.tenant, &row.queue, status, end.into());
                endings.push(Ending::waiting(TaskId(row.task), end, counters, error));
                purged.ended.push(TaskId(row.task));
            }
        }
        end(write, endings).await?;
        Ok(purged)
    }
}

/// Lets those who wait grow more urgent.
struct Age {
    queue: QueueName,
    every: Duration,
    limit: usize,
}

#[async_trait]
impl Change for Age {
    type Answer = Vec<Waiting>;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const FIRST: &str = "
            SELECT l.task, t.priority, coalesce(l.rank, l.task) AS rank, coalesce(l.updated_at, t.created_at) AS since
            FROM live AS l CROSS JOIN task AS t ON t.id = l.task
            WHERE l.queue = ?1 AND l.lane = '' AND l.state = 'PENDING' AND l.priority = ?2
            ORDER BY coalesce(l.rank, l.task) LIMIT ?3";
        const RAISE: &str = "
            UPDATE live SET priority = raised.priority
            FROM (SELECT value ->> 0 AS task, value ->> 1 AS priority FROM json_each(?1)) AS raised
            WHERE live.task = raised.task";
        let mut raised = Vec::new();
        for urgency in 1_u8..=9 {
            let rows: Vec<(i64, i64, i64, i64)> = sqlx::query_as(FIRST)
                .bind(self.queue.as_str())
                .bind(i64::from(urgency))
                .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
                .fetch_all(&mut *write.conn)
                .await
                .map_err(store_error)?;
            for (task, priority, rank, since) in rows {
                let waited = u64::try_from(write.now.saturating_sub(since)).unwrap_or(0);
                let aged = parse_priority(priority)?.aged(Duration::from_micros(waited), self.every);
                if aged.get() < urgency {
                    let (queue, rank, suspicion) = (self.queue.clone(), Rank(rank), Suspicion::None);
                    raised.push(Waiting { id: TaskId(task), queue, priority: aged, rank, suspicion });
                }
            }
        }
        raised.sort_by_key(|place| place.id);
        let mut changed = 0;
        for page in pages(raised.iter().map(|place| (place.id.0, place.priority.get()))) {
            let update = sqlx::query(RAISE).bind(page).execute(&mut *write.conn).await;
            changed += update.map_err(store_error)?.rows_affected();
        }
        fenced(raised.len() as u64, changed)?;
        Ok(raised)
    }
}

/// What the workers serve.
struct Served {
    now: i64,
}

#[async_trait]
impl Query for Served {
    type Answer = Vec<(Service, u64)>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "
            SELECT queues, except_queues, count(*) FROM worker
            WHERE state = 'alive' AND last_heartbeat > ?1 - lease GROUP BY queues, except_queues";
        let rows: Vec<(String, String, i64)> =
            sqlx::query_as(SQL).bind(self.now).fetch_all(snapshot).await.map_err(store_error)?;
        let names = |text: &str| {
            let names: Vec<String> =
                serde_json::from_str(text).map_err(|_| unreadable("a worker's queues", &text))?;
            names.iter().map(|name| parse_queue(name)).collect::<Result<Vec<_>, _>>()
        };
        let mut served = Vec::with_capacity(rows.len());
        for (only, except, workers) in rows {
            let service = Service { only: names(&only)?, except: names(&except)? };
            served.push((service, workers.unsigned_abs()));
        }
        served.sort_unstable();
        Ok(served)
    }
}

#[async_trait]
impl QueueStore for SqliteStore {
    async fn paused_queues(&self) -> Result<Vec<QueueName>, StoreError> {
        self.query(PausedQueues).await
    }

    async fn pause_queue(&self, queue: &QueueName, paused: bool) -> Result<bool, StoreError> {
        self.write(PauseQueue { queue: queue.clone(), paused }).await
    }

    async fn waiting_since(&self, queues: &[QueueName]) -> Result<Vec<(QueueName, Timestamp)>, StoreError> {
        self.query(WaitingSince { queues: queues.to_vec() }).await
    }

    async fn purge(
        &self,
        tenant: &Tenant,
        queue: &QueueName,
        after: TaskId,
        limit: usize,
    ) -> Result<Purged, StoreError> {
        self.write(Purge { tenant: tenant.clone(), queue: queue.clone(), after, limit }).await
    }

    async fn age(
        &self,
        queue: &QueueName,
        every: Duration,
        limit: usize,
    ) -> Result<Vec<Waiting>, StoreError> {
        self.write(Age { queue: queue.clone(), every, limit }).await
    }

    async fn note_runs(&self, runs: &[RunRecord]) -> Result<(), StoreError> {
        if runs.is_empty() {
            return Ok(());
        }
        self.write(NoteRuns { runs: runs.to_vec() }).await
    }

    async fn recent_runs(&self, minutes: u32) -> Result<RecentRuns, StoreError> {
        self.query(ReadRuns { minutes, now: self.now() }).await
    }

    async fn served(&self) -> Result<Vec<(Service, u64)>, StoreError> {
        self.query(Served { now: self.now() }).await
    }
}
