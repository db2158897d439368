//! The batch lane: requests that wait for a provider's Batch API, and these batches.

use std::time::Duration;

use application::ports::{Gather as Terms, LaneEntry, LaneStore, Parked, ProviderBatch, StoreError};
use async_trait::async_trait;
use domain::{TaskId, Timestamp, ai::ProviderName};
use sqlx::SqliteConnection;

use crate::{
    clock::micros,
    error::store_error,
    rows::{id_list, moment, parse_name},
    store::{Query, SqliteStore},
    writer::{Change, Write},
};

struct Park {
    request: Parked,
}

#[async_trait]
impl Change for Park {
    type Answer = ();

    async fn apply(&self, write: &mut Write<'_>) -> Result<(), StoreError> {
        const PARK: &str = "
            INSERT INTO lane_request (task, parked_at, provider, model, body) VALUES (?1, ?2, ?3, ?4, ?5)
            ON CONFLICT (task) DO UPDATE SET parked_at = excluded.parked_at, provider = excluded.provider,
                model = excluded.model, body = excluded.body, batch = NULL, answer = NULL";
        let Parked { task, provider, model, body } = &self.request;
        let park =
            sqlx::query(PARK).bind(task.0).bind(write.now).bind(provider.as_str()).bind(model).bind(body);
        park.execute(&mut *write.conn).await.map(drop).map_err(store_error)
    }
}

struct Entry {
    task: TaskId,
}

#[async_trait]
impl Query for Entry {
    type Answer = Option<LaneEntry>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "SELECT provider, model, body, answer FROM lane_request WHERE task = ?1";
        let row: Option<(String, String, String, Option<String>)> =
            sqlx::query_as(SQL).bind(self.task.0).fetch_optional(snapshot).await.map_err(store_error)?;
        let Some((provider, model, body, answer)) = row else { return Ok(None) };
        let request = Parked { task: self.task, provider: parse_name(&provider)?, model, body };
        Ok(Some(LaneEntry { request, answer }))
    }
}

struct Withdraw {
    task: TaskId,
}

#[async_trait]
impl Change for Withdraw {
    type Answer = ();

    async fn apply(&self, write: &mut Write<'_>) -> Result<(), StoreError> {
        const SQL: &str = "DELETE FROM lane_request WHERE task = ?1";
        sqlx::query(SQL).bind(self.task.0).execute(&mut *write.conn).await.map(drop).map_err(store_error)
    }
}

struct Gather {
    provider: ProviderName,
    terms: Terms,
}

#[async_trait]
impl Change for Gather {
    type Answer = bool;

    async fn apply(&self, write: &mut Write<'_>) -> Result<bool, StoreError> {
        // Only of tasks that wait for the moment at which they would be asked live: who is still in a worker's hand would
        // not be told of an answer.
        const WAITING: &str = "
            SELECT r.task, r.parked_at, length(CAST(r.body AS BLOB))
            FROM lane_request AS r INDEXED BY lane_request_waiting
            CROSS JOIN live AS l ON l.task = r.task AND l.state = 'SCHEDULED'
            WHERE r.provider = ?1 AND r.batch IS NULL ORDER BY r.parked_at, r.task LIMIT ?2";
        const MAKE: &str = "INSERT INTO provider_batch (provider, made_at) VALUES (?1, ?2) RETURNING id";
        const TAKE: &str =
            "UPDATE lane_request SET batch = ?2 WHERE task IN (SELECT value FROM json_each(?1))";
        let Terms { patience, most_requests, most_bytes } = self.terms;
        let waiting: Vec<(i64, i64, i64)> = sqlx::query_as(WAITING)
            .bind(self.provider.as_str())
            .bind(i64::try_from(most_requests).unwrap_or(i64::MAX))
            .fetch_all(&mut *write.conn)
            .await
            .map_err(store_error)?;
        let latest = write.now.saturating_sub(micros(patience));
        let patient = waiting.first().is_some_and(|(_, parked_at, _)| *parked_at <= latest);
        if waiting.is_empty() || !(patient || waiting.len() >= most_requests) {
            return Ok(false);
        }
        let (mut taken, mut bytes) = (Vec::with_capacity(waiting.len()), 0);
        for (task, _, size) in waiting {
            bytes += usize::try_from(size).unwrap_or(usize::MAX);
            if bytes > most_bytes && !taken.is_empty() {
                break;
            }
            taken.push(task);
        }
        let batch: i64 = sqlx::query_scalar(MAKE)
            .bind(self.provider.as_str())
            .bind(write.now)
            .fetch_one(&mut *write.conn)
            .await
            .map_err(store_error)?;
        let take = sqlx::query(TAKE).bind(id_list(taken)).bind(batch).execute(&mut *write.conn).await;
        take.map(|_| true).map_err(store_error)
    }
}

struct ToLookAt {
    provider: ProviderName,
    pause: Duration,
    limit: usize,
}

#[async_trait]
impl Change for ToLookAt {
    type Answer = Vec<ProviderBatch>;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const LOOK: &str = "
            UPDATE provider_batch SET looked_at = ?2 WHERE id IN (
                SELECT found.id FROM provider_batch AS found
                WHERE found.provider = ?1 AND (found.looked_at IS NULL OR found.looked_at <= ?3)
                ORDER BY found.id LIMIT ?4)
            RETURNING id, made_at, file, remote";
        let rows: Vec<(i64, i64, Option<String>, Option<String>)> = sqlx::query_as(LOOK)
            .bind(self.provider.as_str())
            .bind(write.now)
            .bind(write.now.saturating_sub(micros(self.pause)))
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *write.conn)
            .await
            .map_err(store_error)?;
        let batch =
            |(id, made_at, file, remote)| Ok(ProviderBatch { id, made_at: moment(made_at)?, file, remote });
        let mut batches = rows.into_iter().map(batch).collect::<Result<Vec<_>, StoreError>>()?;
        batches.sort_by_key(|batch| batch.id);
        Ok(batches)
    }
}

struct RequestsOf {
    batch: i64,
}

#[async_trait]
impl Query for RequestsOf {
    type Answer = Vec<(TaskId, String)>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "SELECT task, body FROM lane_request WHERE batch = ?1 ORDER BY task";
        let rows: Vec<(i64, String)> =
            sqlx::query_as(SQL).bind(self.batch).fetch_all(snapshot).await.map_err(store_error)?;
        Ok(rows.into_iter().map(|(task, body)| (TaskId(task), body)).collect())
    }
}

struct NoteBatch {
    batch: ProviderBatch,
}

#[async_trait]
impl Change for NoteBatch {
    type Answer = bool;

    async fn apply(&self, write: &mut Write<'_>) -> Result<bool, StoreError> {
        const SQL: &str = "
            UPDATE provider_batch SET file = ?2, remote = ?3
            WHERE id = ?1 AND (file IS NULL OR file = ?2) AND (remote IS NULL OR remote = ?3)";
        let ProviderBatch { id, file, remote, .. } = &self.batch;
        let note = sqlx::query(SQL).bind(id).bind(file).bind(remote).execute(&mut *write.conn).await;
        Ok(note.map_err(store_error)?.rows_affected() > 0)
    }
}

struct Deliver {
    batch: i64,
    answers: Vec<(TaskId, String)>,
}

#[async_trait]
impl Change for Deliver {
    type Answer = usize;

    async fn apply(&self, write: &mut Write<'_>) -> Result<usize, StoreError> {
        const ANSWER: &str = "UPDATE lane_request SET answer = ?3 WHERE task = ?1 AND +batch = ?2";
        let mut kept: Vec<i64> = Vec::with_capacity(self.answers.len());
        for (task, answer) in &self.answers {
            let query = sqlx::query(ANSWER).bind(task.0).bind(self.batch).bind(answer);
            let done = query.execute(&mut *write.conn).await.map_err(store_error)?;
            kept.extend((done.rows_affected() > 0).then_some(task.0));
        }
        let count = kept.len();
        come_due(write, kept).await?;
        Ok(count)
    }
}

async fn come_due(write: &mut Write<'_>, tasks: Vec<i64>) -> Result<(), StoreError> {
    const SQL: &str = "
        UPDATE live SET due_at = ?2
        WHERE task IN (SELECT value FROM json_each(?1)) AND +state = 'SCHEDULED' AND waits_for IS NULL";
    let due = sqlx::query(SQL).bind(id_list(tasks)).bind(write.now).execute(&mut *write.conn).await;
    due.map(drop).map_err(store_error)
}

struct Close {
    batch: i64,
    unanswered: String,
}

#[async_trait]
impl Change for Close {
    type Answer = ();

    async fn apply(&self, write: &mut Write<'_>) -> Result<(), StoreError> {
        const BATCH: &str = "DELETE FROM provider_batch WHERE id = ?1";
        const LEFT: &str =
            "UPDATE lane_request SET answer = ?2 WHERE batch = ?1 AND answer IS NULL RETURNING task";
        sqlx::query(BATCH).bind(self.batch).execute(&mut *write.conn).await.map_err(store_error)?;
        let left = sqlx::query_scalar(LEFT)
            .bind(self.batch)
            .bind(&self.unanswered)
            .fetch_all(&mut *write.conn)
            .await;
        come_due(write, left.map_err(store_error)?).await
    }
}

struct Forget {
    limit: usize,
}

#[async_trait]
impl Change for Forget {
    type Answer = usize;

    async fn apply(&self, write: &mut Write<'_>) -> Result<usize, StoreError> {
        const FORGET: &str = "
            DELETE FROM lane_request WHERE task IN (
                SELECT found.task FROM lane_request AS found
                WHERE (found.batch IS NULL OR found.answer IS NOT NULL)
                    AND NOT EXISTS (SELECT 1 FROM live WHERE live.task = found.task) LIMIT ?1)";
        let limit = i64::try_from(self.limit).unwrap_or(i64::MAX);
        let done = sqlx::query(FORGET).bind(limit).execute(&mut *write.conn).await.map_err(store_error)?;
        Ok(usize::try_from(done.rows_affected()).unwrap_or(usize::MAX))
    }
}

#[async_trait]
impl LaneStore for SqliteStore {
    async fn park(&self, request: &Parked) -> Result<(), StoreError> {
        self.write(Park { request: request.clone() }).await
    }

    async fn lane_entry(&self, task: TaskId) -> Result<(Option<LaneEntry>, Timestamp), StoreError> {
        let now = moment(self.now())?;
        Ok((self.query(Entry { task }).await?, now))
    }

    async fn withdraw_request(&self, task: TaskId) -> Result<(), StoreError> {
        self.write(Withdraw { task }).await
    }

    async fn gather(&self, provider: &ProviderName, gather: Terms) -> Result<bool, StoreError> {
        self.write(Gather { provider: provider.clone(), terms: gather }).await
    }

    async fn batches_to_look_at(
        &self,
        provider: &ProviderName,
        pause: Duration,
        limit: usize,
    ) -> Result<Vec<ProviderBatch>, StoreError> {
        self.write(ToLookAt { provider: provider.clone(), pause, limit }).await
    }

    async fn requests_of(&self, batch: i64) -> Result<Vec<(TaskId, String)>, StoreError> {
        self.query(RequestsOf { batch }).await
    }

    async fn note_batch(&self, batch: &ProviderBatch) -> Result<bool, StoreError> {
        self.write(NoteBatch { batch: batch.clone() }).await
    }

    async fn deliver(&self, batch: i64, answers: &[(TaskId, String)]) -> Result<usize, StoreError> {
        self.write(Deliver { batch, answers: answers.to_vec() }).await
    }

    async fn close_batch(&self, batch: i64, unanswered: &str) -> Result<(), StoreError> {
        self.write(Close { batch, unanswered: unanswered.to_owned() }).await
    }

    async fn forget_requests(&self, limit: usize) -> Result<usize, StoreError> {
        self.write(Forget { limit }).await
    }
}
