//! The batch lane: requests that wait for a provider's Batch API, and these batches.

use std::time::Duration;

use application::ports::{Gather, LaneEntry, LaneStore, Parked, ProviderBatch, StoreError};
use async_trait::async_trait;
use domain::{TaskId, Timestamp, ai::ProviderName};
use sqlx::{Connection, PgConnection, postgres::PgRow};

use crate::{
    PostgresStore,
    clock::Clock,
    connections::Operation,
    error::Fault,
    rows::{self, field, in_lock_order, interval, limit},
};

pub(crate) const PARK: &str = "
INSERT INTO lane_request (task, parked_at, provider, model, body) VALUES ($1, coalesce($2, now()), $3, $4, $5)
ON CONFLICT (task) DO UPDATE SET parked_at = excluded.parked_at, provider = excluded.provider, model = excluded.model,
    body = excluded.body, batch = NULL, answer = NULL";

struct Park {
    request: Parked,
    clock: Clock,
}

impl Operation for Park {
    type Output = ();

    async fn run(&self, connection: &mut PgConnection) -> Result<(), Fault> {
        let Parked { task, provider, model, body } = &self.request;
        let query = sqlx::query(PARK).bind(task.0).bind(self.clock.bind());
        query.bind(provider.as_str()).bind(model).bind(body).execute(connection).await?;
        Ok(())
    }
}

pub(crate) const ENTRY: &str = "
SELECT coalesce($2, now()) AS now, r.provider, r.model, r.body, r.answer
FROM (SELECT) AS once LEFT JOIN lane_request r ON r.task = $1";

struct Entry {
    task: TaskId,
    clock: Clock,
}

impl Operation for Entry {
    type Output = (Option<LaneEntry>, Timestamp);

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Output, Fault> {
        let row = sqlx::query(ENTRY).bind(self.task.0).bind(self.clock.bind()).fetch_one(connection).await?;
        let entry = match field::<Option<&str>>(&row, "provider")? {
            None => None,
            Some(_) => {
                let provider = rows::name(&row, "provider")?;
                let (model, body) = (field(&row, "model")?, field(&row, "body")?);
                let request = Parked { task: self.task, provider, model, body };
                Some(LaneEntry { request, answer: field(&row, "answer")? })
            }
        };
        Ok((entry, field(&row, "now")?))
    }
}

struct Withdraw {
    task: TaskId,
}

impl Operation for Withdraw {
    type Output = ();

    async fn run(&self, connection: &mut PgConnection) -> Result<(), Fault> {
        sqlx::query("DELETE FROM lane_request WHERE task = $1").bind(self.task.0).execute(connection).await?;
        Ok(())
    }
}

/// Only of tasks that wait for the moment at which they would be asked live: who is still in a worker's hand would not be
/// told of an answer.
pub(crate) const WAITING: &str = "
SELECT r.task, r.parked_at <= coalesce($2, now()) - $3 AS patient, octet_length(r.body) AS bytes
FROM lane_request r
CROSS JOIN LATERAL (SELECT id FROM live WHERE live.id = r.task AND NOT live.ready LIMIT 1) l
WHERE r.provider = $1 AND r.batch IS NULL AND r.answer IS NULL
ORDER BY r.parked_at, r.task LIMIT $4 FOR UPDATE OF r SKIP LOCKED";
pub(crate) const MAKE: &str = "
WITH made AS (
    INSERT INTO provider_batch (provider, made_at) VALUES ($1, coalesce($2, now())) RETURNING id
)
UPDATE lane_request SET batch = made.id FROM made WHERE task = ANY($3)";

struct GatherBatch {
    provider: ProviderName,
    gather: Gather,
    clock: Clock,
}

impl Operation for GatherBatch {
    type Output = bool;

    async fn run(&self, connection: &mut PgConnection) -> Result<bool, Fault> {
        let Gather { patience, most_requests, most_bytes } = self.gather;
        let now = self.clock.bind();
        let mut transaction = connection.begin().await?;
        let query = sqlx::query(WAITING).bind(self.provider.as_str()).bind(now).bind(interval(patience));
        let waiting = query.bind(limit(most_requests)).fetch_all(&mut *transaction).await?;
        let patient = waiting.first().map(|row| field::<bool>(row, "patient")).transpose()?.unwrap_or(false);
        if waiting.is_empty() || !(patient || waiting.len() >= most_requests) {
            transaction.rollback().await?;
            return Ok(false);
        }
        let (mut taken, mut bytes) = (Vec::with_capacity(waiting.len()), 0);
        for row in &waiting {
            bytes += usize::try_from(field::<i32>(row, "bytes")?).unwrap_or(usize::MAX);
            if bytes > most_bytes && !taken.is_empty() {
                break;
            }
            taken.push(field::<i64>(row, "task")?);
        }
        let make = sqlx::query(MAKE).bind(self.provider.as_str()).bind(now).bind(taken);
        make.execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(true)
    }
}

pub(crate) const TO_LOOK_AT: &str = "
UPDATE provider_batch SET looked_at = coalesce($2, now()) WHERE id = ANY(ARRAY(
    SELECT id FROM provider_batch WHERE provider = $1 AND (looked_at IS NULL OR looked_at <= coalesce($2, now()) - $3)
    ORDER BY id LIMIT $4 FOR UPDATE SKIP LOCKED))
RETURNING id, made_at, file, remote";

struct ToLookAt {
    provider: ProviderName,
    pause: Duration,
    limit: usize,
    clock: Clock,
}

impl Operation for ToLookAt {
    type Output = Vec<ProviderBatch>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Output, Fault> {
        let query = sqlx::query(TO_LOOK_AT).bind(self.provider.as_str()).bind(self.clock.bind());
        let rows = query.bind(interval(self.pause)).bind(limit(self.limit)).fetch_all(connection).await?;
        let batch = |row: &PgRow| {
            let (id, made_at) = (field(row, "id")?, field(row, "made_at")?);
            Ok(ProviderBatch { id, made_at, file: field(row, "file")?, remote: field(row, "remote")? })
        };
        let mut batches = rows.iter().map(batch).collect::<Result<Vec<_>, Fault>>()?;
        batches.sort_by_key(|batch| batch.id);
        Ok(batches)
    }
}

struct RequestsOf {
    batch: i64,
}

impl Operation for RequestsOf {
    type Output = Vec<(TaskId, String)>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Output, Fault> {
        let query = sqlx::query("SELECT task, body FROM lane_request WHERE batch = $1 ORDER BY task");
        let rows = query.bind(self.batch).fetch_all(connection).await?;
        rows.iter().map(|row| Ok((TaskId(field(row, "task")?), field(row, "body")?))).collect()
    }
}

pub(crate) const NOTE: &str = "
UPDATE provider_batch SET file = $2, remote = $3
WHERE id = $1 AND (file IS NULL OR file = $2) AND (remote IS NULL OR remote = $3)";

struct NoteBatch {
    batch: ProviderBatch,
}

impl Operation for NoteBatch {
    type Output = bool;

    async fn run(&self, connection: &mut PgConnection) -> Result<bool, Fault> {
        let ProviderBatch { id, file, remote, .. } = &self.batch;
        let query = sqlx::query(NOTE).bind(id).bind(file).bind(remote);
        Ok(query.execute(connection).await?.rows_affected() > 0)
    }
}

pub(crate) const ANSWER: &str = "
UPDATE lane_request SET answer = answers.answer
FROM unnest($2::bigint[], $3::text[]) AS answers (task, answer)
WHERE lane_request.task = answers.task AND lane_request.task = ANY($2) AND lane_request.batch = $1
RETURNING lane_request.task";
pub(crate) const COME_DUE: &str = "
WITH waiting AS MATERIALIZED (
    SELECT l.id FROM unnest($1::bigint[]) AS asked (id)
    CROSS JOIN LATERAL (
        SELECT id FROM live WHERE live.id = asked.id AND NOT live.ready AND live.waits_for IS NULL FOR UPDATE
    ) l
)
UPDATE live SET due_at = coalesce($2, now()) WHERE id = ANY(ARRAY(SELECT id FROM waiting))";

struct Deliver {
    batch: i64,
    answers: Vec<(TaskId, String)>,
    clock: Clock,
}

impl Operation for Deliver {
    type Output = usize;

    async fn run(&self, connection: &mut PgConnection) -> Result<usize, Fault> {
        let mut transaction = connection.begin().await?;
        let tasks: Vec<i64> = self.answers.iter().map(|(task, _)| task.0).collect();
        let texts: Vec<&str> = self.answers.iter().map(|(_, answer)| answer.as_str()).collect();
        let kept: Vec<i64> = sqlx::query_scalar(ANSWER)
            .bind(self.batch)
            .bind(tasks)
            .bind(texts)
            .fetch_all(&mut *transaction)
            .await?;
        let count = kept.len();
        come_due(&mut transaction, kept, &self.clock).await?;
        transaction.commit().await?;
        Ok(count)
    }
}

async fn come_due(connection: &mut PgConnection, tasks: Vec<i64>, clock: &Clock) -> Result<(), Fault> {
    let tasks = in_lock_order(tasks.into_iter().map(TaskId));
    sqlx::query(COME_DUE).bind(tasks).bind(clock.bind()).execute(connection).await?;
    Ok(())
}

struct Close {
    batch: i64,
    unanswered: String,
    clock: Clock,
}

impl Operation for Close {
    type Output = ();

    async fn run(&self, connection: &mut PgConnection) -> Result<(), Fault> {
        let mut transaction = connection.begin().await?;
        sqlx::query("DELETE FROM provider_batch WHERE id = $1")
            .bind(self.batch)
            .execute(&mut *transaction)
            .await?;
        let left: Vec<i64> = sqlx::query_scalar(
            "UPDATE lane_request SET answer = $2 WHERE batch = $1 AND answer IS NULL RETURNING task",
        )
        .bind(self.batch)
        .bind(&self.unanswered)
        .fetch_all(&mut *transaction)
        .await?;
        come_due(&mut transaction, left, &self.clock).await?;
        transaction.commit().await?;
        Ok(())
    }
}

pub(crate) const FORGET: &str = "
DELETE FROM lane_request WHERE task = ANY(ARRAY(
    SELECT r.task FROM lane_request r
    WHERE (r.batch IS NULL OR r.answer IS NOT NULL) AND NOT EXISTS (SELECT FROM live WHERE live.id = r.task)
    ORDER BY r.task LIMIT $1 FOR UPDATE OF r SKIP LOCKED))";

struct Forget {
    limit: usize,
}

impl Operation for Forget {
    type Output = usize;

    async fn run(&self, connection: &mut PgConnection) -> Result<usize, Fault> {
        let done = sqlx::query(FORGET).bind(limit(self.limit)).execute(connection).await?;
        Ok(usize::try_from(done.rows_affected()).unwrap_or(usize::MAX))
    }
}

#[async_trait]
impl LaneStore for PostgresStore {
    async fn park(&self, request: &Parked) -> Result<(), StoreError> {
        self.connections.run(Park { request: request.clone(), clock: self.clock.clone() }).await
    }

    async fn lane_entry(&self, task: TaskId) -> Result<(Option<LaneEntry>, Timestamp), StoreError> {
        self.connections.run(Entry { task, clock: self.clock.clone() }).await
    }

    async fn withdraw_request(&self, task: TaskId) -> Result<(), StoreError> {
        self.connections.run(Withdraw { task }).await
    }

    async fn gather(&self, provider: &ProviderName, gather: Gather) -> Result<bool, StoreError> {
        let (provider, clock) = (provider.clone(), self.clock.clone());
        self.connections.run(GatherBatch { provider, gather, clock }).await
    }

    async fn batches_to_look_at(
        &self,
        provider: &ProviderName,
        pause: Duration,
        limit: usize,
    ) -> Result<Vec<ProviderBatch>, StoreError> {
        let (provider, clock) = (provider.clone(), self.clock.clone());
        self.connections.run(ToLookAt { provider, pause, limit, clock }).await
    }

    async fn requests_of(&self, batch: i64) -> Result<Vec<(TaskId, String)>, StoreError> {
        self.connections.run(RequestsOf { batch }).await
    }

    async fn note_batch(&self, batch: &ProviderBatch) -> Result<bool, StoreError> {
        self.connections.run(NoteBatch { batch: batch.clone() }).await
    }

    async fn deliver(&self, batch: i64, answers: &[(TaskId, String)]) -> Result<usize, StoreError> {
        let (answers, clock) = (answers.to_vec(), self.clock.clone());
        self.connections.run(Deliver { batch, answers, clock }).await
    }

    async fn close_batch(&self, batch: i64, unanswered: &str) -> Result<(), StoreError> {
        let (unanswered, clock) = (unanswered.to_owned(), self.clock.clone());
        self.connections.run(Close { batch, unanswered, clock }).await
    }

    async fn forget_requests(&self, limit: usize) -> Result<usize, StoreError> {
        self.connections.run(Forget { limit }).await
    }
}
