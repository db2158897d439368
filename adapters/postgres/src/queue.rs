//! Queues as their operators see them: standing still, emptied, growing impatient, served.

use std::time::Duration;

use application::ports::{Purged, QueueStore, RecentRuns, RunRecord, StoreError, Waiting};
use async_trait::async_trait;
use domain::{Change, Counters, QueueName, Service, State, TaskId, Tenant, Timestamp, queue};
use sqlx::PgConnection;

use crate::{
    PostgresStore,
    cancel::end_waiting,
    clock::Clock,
    connections::Operation,
    error::Fault,
    rows::{self, field, limit},
};

struct PausedQueues;

impl Operation for PausedQueues {
    type Output = Vec<QueueName>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<QueueName>, Fault> {
        let rows = sqlx::query("SELECT queue FROM queue_state WHERE paused ORDER BY queue");
        rows.fetch_all(connection).await?.iter().map(|row| rows::name(row, "queue")).collect()
    }
}

struct PauseQueue {
    queue: QueueName,
    paused: bool,
    clock: Clock,
}

impl Operation for PauseQueue {
    type Output = bool;

    async fn run(&self, connection: &mut PgConnection) -> Result<bool, Fault> {
        let changed = sqlx::query(
            "INSERT INTO queue_state AS s (queue, paused, changed_at) SELECT $1, $2, coalesce($3, now())
             WHERE $2 OR EXISTS (SELECT FROM queue_state WHERE queue = $1)
             ON CONFLICT (queue) DO UPDATE SET paused = excluded.paused, changed_at = excluded.changed_at
             WHERE s.paused <> excluded.paused",
        )
        .bind(self.queue.as_str())
        .bind(self.paused)
        .bind(self.clock.bind())
        .execute(connection)
        .await?;
        Ok(changed.rows_affected() > 0)
    }
}

/// The oldest of the first of each priority, where the first are looked for as the index of waiting tasks has them (see
/// [`crate::claim`]): in a fair queue each lane that waits has its first task among the first of all.
const WAITING_SINCE: &str = "
SELECT q.queue, min(coalesce(first.changed_at, t.created_at)) AS since
FROM unnest($1::text[]) AS q (queue)
CROSS JOIN generate_series(0, 9) AS level
CROSS JOIN LATERAL (
    SELECT id, changed_at FROM live
    WHERE live.queue = q.queue AND live.lane = 0 AND live.ready AND live.worker IS NULL
        AND (live.priority, coalesce(live.rank, live.id)) > (level::smallint, -1::bigint) AND live.priority <= level::smallint
    ORDER BY live.priority, coalesce(live.rank, live.id) LIMIT 100
) first
CROSS JOIN LATERAL (SELECT created_at FROM task WHERE task.id = first.id LIMIT 1) t
GROUP BY q.queue ORDER BY q.queue COLLATE \"C\"";

struct WaitingSince {
    queues: Vec<QueueName>,
}

impl Operation for WaitingSince {
    type Output = Vec<(QueueName, Timestamp)>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Output, Fault> {
        let names: Vec<_> = self.queues.iter().map(QueueName::as_str).collect();
        let rows = sqlx::query(WAITING_SINCE).bind(names).fetch_all(connection).await?;
        rows.iter().map(|row| Ok((rows::name(row, "queue")?, field(row, "since")?))).collect()
    }
}

struct Purge {
    tenant: Tenant,
    queue: QueueName,
    after: TaskId,
    limit: usize,
    clock: Clock,
}

impl Operation for Purge {
    type Output = Purged;

    async fn run(&self, connection: &mut PgConnection) -> Result<Purged, Fault> {
        // A page of all that is unfinished: there is no index by queue over what is scheduled, and none is needed.
        let page = sqlx::query(
            "WITH page AS MATERIALIZED (SELECT id, tenant, queue, worker FROM live WHERE id > $3 ORDER BY id LIMIT $4)
             SELECT (SELECT CASE WHEN count(*) = $4 THEN max(id) END FROM page) AS next, ARRAY(
                SELECT id FROM page WHERE tenant = $1 AND queue = $2 AND worker IS NULL ORDER BY id) AS ids",
        )
        .bind(self.tenant.as_str())
        .bind(self.queue.as_str())
        .bind(self.after.0)
        .bind(limit(self.limit))
        .fetch_one(&mut *connection)
        .await?;
        let (next, ids): (Option<i64>, Vec<i64>) = (field(&page, "next")?, field(&page, "ids")?);
        let next = next.map(TaskId);
        if ids.is_empty() {
            return Ok(Purged { ended: Vec::new(), next });
        }
        // The same decision for all: it changes no counter.
        let Some(Change::Finish { end, error, .. }) = queue::purge(State::Pending, Counters::default())
        else {
            return Err(Fault::Unreadable("a purge would end no task".into()));
        };
        // Those that a worker took since then are left alone.
        let ended = end_waiting(connection, &ids, end, error.as_ref(), self.clock.bind()).await?;
        Ok(Purged { ended: ended.into_iter().map(TaskId).collect(), next })
    }
}

/// The first of each priority, with what decides about the next one.
const AGEING: &str = "
SELECT first.id, first.priority AS urgency, t.priority, coalesce(first.changed_at, t.created_at) AS since,
    coalesce($1, now()) AS now
FROM generate_series(1, 9) AS level
CROSS JOIN LATERAL (
    SELECT id, priority, changed_at FROM live
    WHERE live.queue = $2 AND live.lane = 0 AND live.ready AND live.worker IS NULL
        AND (live.priority, coalesce(live.rank, live.id)) > (level::smallint, -1::bigint) AND live.priority <= level::smallint
    ORDER BY live.priority, coalesce(live.rank, live.id) LIMIT $3
) first
CROSS JOIN LATERAL (SELECT priority, created_at FROM task WHERE task.id = first.id LIMIT 1) t
ORDER BY first.id";

/// The new priority of each stands at the place of its id among the ids, which are in order. Only upwards, and only where
/// it waits: whoever comes second changes nothing.
const RAISE: &str = "
UPDATE live SET priority = ($2::smallint[])[width_bucket(id, $1::bigint[])]
WHERE id = ANY($1) AND (ready AND worker IS NULL AND lane = 0
    AND priority > ($2::smallint[])[width_bucket(id, $1::bigint[])]) IS TRUE
RETURNING id, queue, priority, coalesce(rank, id) AS rank, lane";

struct Age {
    queue: QueueName,
    every: Duration,
    limit: usize,
    clock: Clock,
}

impl Operation for Age {
    type Output = Vec<Waiting>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<Waiting>, Fault> {
        let rows = sqlx::query(AGEING)
            .bind(self.clock.bind())
            .bind(self.queue.as_str())
            .bind(limit(self.limit))
            .fetch_all(&mut *connection)
            .await?;
        let (mut ids, mut priorities) = (Vec::<i64>::new(), Vec::new());
        for row in &rows {
            let (since, now): (Timestamp, Timestamp) = (field(row, "since")?, field(row, "now")?);
            let urgency: i16 = field(row, "urgency")?;
            let aged = rows::priority(row)?.aged((now - since).to_std().unwrap_or_default(), self.every);
            if i16::from(aged.get()) < urgency {
                ids.push(field(row, "id")?);
                priorities.push(i16::from(aged.get()));
            }
        }
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let raised = sqlx::query(RAISE).bind(ids).bind(priorities).fetch_all(connection).await?;
        let mut raised = raised.iter().map(rows::waiting).collect::<Result<Vec<_>, _>>()?;
        raised.sort_by_key(|place| place.id);
        Ok(raised)
    }
}

struct Served {
    clock: Clock,
}

impl Operation for Served {
    type Output = Vec<(Service, u64)>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Output, Fault> {
        let rows = sqlx::query(
            "SELECT queues, coalesce(except_queues, '{}') AS except, count(*) AS workers FROM worker
             WHERE dead_at IS NULL AND retired_at IS NULL AND heartbeat_at > coalesce($1, now()) - lease
             GROUP BY 1, 2",
        )
        .bind(self.clock.bind())
        .fetch_all(connection)
        .await?;
        let names = |names: Vec<String>| {
            let name =
                |name: String| QueueName::new(name).map_err(|error| Fault::Unreadable(error.to_string()));
            names.into_iter().map(name).collect::<Result<Vec<_>, Fault>>()
        };
        let mut served = Vec::with_capacity(rows.len());
        for row in &rows {
            let service =
                Service { only: names(field(row, "queues")?)?, except: names(field(row, "except")?)? };
            served.push((service, field::<i64>(row, "workers")?.unsigned_abs()));
        }
        served.sort_unstable();
        Ok(served)
    }
}

#[async_trait]
impl QueueStore for PostgresStore {
    async fn paused_queues(&self) -> Result<Vec<QueueName>, StoreError> {
        self.connections.run(PausedQueues).await
    }

    async fn pause_queue(&self, queue: &QueueName, paused: bool) -> Result<bool, StoreError> {
        self.connections.run(PauseQueue { queue: queue.clone(), paused, clock: self.clock.clone() }).await
    }

    async fn waiting_since(&self, queues: &[QueueName]) -> Result<Vec<(QueueName, Timestamp)>, StoreError> {
        self.connections.run(WaitingSince { queues: queues.to_vec() }).await
    }

    async fn purge(
        &self,
        tenant: &Tenant,
        queue: &QueueName,
        after: TaskId,
        limit: usize,
    ) -> Result<Purged, StoreError> {
        self.tallied();
        let (tenant, queue, clock) = (tenant.clone(), queue.clone(), self.clock.clone());
        self.connections.run(Purge { tenant, queue, after, limit, clock }).await
    }

    async fn age(
        &self,
        queue: &QueueName,
        every: Duration,
        limit: usize,
    ) -> Result<Vec<Waiting>, StoreError> {
        self.connections.run(Age { queue: queue.clone(), every, limit, clock: self.clock.clone() }).await
    }

    async fn note_runs(&self, runs: &[RunRecord]) -> Result<(), StoreError> {
        self.add_runs(runs).await
    }

    async fn recent_runs(&self, minutes: u32) -> Result<RecentRuns, StoreError> {
        self.runs_of(minutes).await
    }

    async fn served(&self) -> Result<Vec<(Service, u64)>, StoreError> {
        self.connections.run(Served { clock: self.clock.clone() }).await
    }
}
