//! Reading tasks.

use std::collections::HashMap;

use application::ports::{ChunkRecord, StoreError};
use async_trait::async_trait;
use domain::{
    Json, Limits, OwnTerms, Progress, RetryPolicy, RetryTerms, Task, TaskId, Tenant, task::ProgressReport,
};
use sqlx::SqliteConnection;

use crate::{
    error::store_error,
    flow::read_needs,
    rows::{
        duration, failure, id_list, moment, moment_if, number, parse_name, parse_priority, parse_queue,
        parse_status, unreadable, unsigned,
    },
    store::Query,
};

/// The tenant's tasks with these ids, in the order given.
pub(crate) struct Read {
    pub(crate) tenant: Tenant,
    pub(crate) ids: Vec<TaskId>,
}

#[async_trait]
impl Query for Read {
    type Answer = Vec<Task>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        tasks(snapshot, &self.tenant, &self.ids).await
    }
}

/// A task with where it stands, or how it ended.
#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    task_type: String,
    queue: String,
    priority: i64,
    input: String,
    metadata: Option<String>,
    max_attempts: i64,
    soft_time_limit: Option<i64>,
    time_limit: i64,
    retry: Option<String>,
    keep_for: Option<i64>,
    expires_at: Option<i64>,
    created_at: i64,
    unique_key: Option<String>,
    fairness_key: Option<String>,
    status: Option<String>,
    cancel_requested: bool,
    attempt: Option<i64>,
    due_at: Option<i64>,
    started_at: Option<i64>,
    updated_at: Option<i64>,
    ended_at: Option<i64>,
    result: Option<String>,
    details: Option<String>,
    error_code: Option<String>,
    error_message: Option<String>,
    progress_current: Option<i64>,
    progress_total: Option<i64>,
    progress_message: Option<String>,
    progress_at: Option<i64>,
    needs: Option<String>,
    waits_for: Option<i64>,
    batch: Option<i64>,
}

/// The tenant's tasks with these ids, in the order given; unknown ids are left out.
pub(crate) async fn tasks(
    snapshot: &mut SqliteConnection,
    tenant: &Tenant,
    ids: &[TaskId],
) -> Result<Vec<Task>, StoreError> {
    // The record of the attempt that a waiting task counts is its last one; a running one's is not written yet.
    const SQL: &str = "
        SELECT t.id, t.type AS task_type, t.queue, t.priority, t.input, t.metadata, t.max_attempts,
               t.soft_time_limit, t.time_limit, t.retry, t.keep_for, t.expires_at, t.created_at, t.unique_key, t.fairness_key,
               coalesce(o.status, l.state) AS status, coalesce(l.cancel_requested, 0) AS cancel_requested,
               coalesce(o.attempt, l.attempt) AS attempt, iif(l.waits_for IS NULL, l.due_at, NULL) AS due_at,
               l.waits_for, t.needs, t.batch,
               coalesce(o.started_at, l.started_at) AS started_at, coalesce(o.ended_at, l.updated_at) AS updated_at,
               o.ended_at, o.result, o.details,
               coalesce(o.error_code, iif(l.reopened, l.error_code, a.error_code)) AS error_code,
               coalesce(o.error_message, iif(l.reopened, l.error_message, a.error_message)) AS error_message,
               p.current AS progress_current, p.total AS progress_total, p.message AS progress_message,
               p.updated_at AS progress_at
        FROM json_each(?1) AS wanted
        CROSS JOIN task AS t ON t.id = wanted.value AND t.tenant = ?2
        LEFT JOIN live AS l ON l.task = t.id
        LEFT JOIN outcome AS o ON o.task = t.id
        LEFT JOIN attempt AS a ON a.task = l.task AND a.attempt = l.attempt
        LEFT JOIN progress AS p ON p.task = t.id";
    let list = id_list(ids.iter().map(|id| id.0));
    let rows: Vec<Row> = sqlx::query_as(SQL)
        .bind(list)
        .bind(tenant.as_str())
        .fetch_all(snapshot)
        .await
        .map_err(store_error)?;
    let mut found = HashMap::with_capacity(rows.len());
    for row in rows {
        let id = row.id;
        let task =
            row.into_task(tenant).map_err(|error| StoreError::Corrupt(format!("task {id}: {error}")))?;
        found.insert(task.id, task);
    }
    Ok(ids.iter().filter_map(|id| found.get(id).cloned()).collect())
}

impl Row {
    fn into_task(self, tenant: &Tenant) -> Result<Task, StoreError> {
        let status = self.status.ok_or_else(|| unreadable("a status", &"missing"))?;
        let progress = match (self.progress_current, self.progress_total, self.progress_at) {
            (Some(current), Some(total), Some(at)) => Some(ProgressReport {
                progress: Progress {
                    current: unsigned(current),
                    total: unsigned(total),
                    message: self.progress_message,
                },
                updated_at: moment(at)?,
            }),
            _ => None,
        };
        Ok(Task {
            id: TaskId(self.id),
            tenant: tenant.clone(),
            task_type: parse_name(&self.task_type)?,
            queue: parse_queue(&self.queue)?,
            priority: parse_priority(self.priority)?,
            input: Json::from_stored(self.input),
            metadata: self.metadata.map(Json::from_stored),
            limits: limits(self.max_attempts, self.soft_time_limit, self.time_limit)?,
            own: own_terms(self.retry.as_deref(), self.keep_for)?,
            unique_key: self.unique_key.map(|key| parse_name(&key)).transpose()?,
            fairness_key: self.fairness_key.map(|key| parse_name(&key)).transpose()?,
            status: parse_status(&status)?,
            cancel_requested: self.cancel_requested,
            attempt: number(self.attempt.unwrap_or(0))?,
            result: self.result.map(Json::from_stored),
            details: self.details.map(Json::from_stored),
            error: failure(self.error_code, self.error_message),
            progress,
            created_at: moment(self.created_at)?,
            updated_at: moment_if(self.updated_at)?,
            run_at: moment_if(self.due_at)?,
            expires_at: moment_if(self.expires_at)?,
            started_at: moment_if(self.started_at)?,
            completed_at: moment_if(self.ended_at)?,
            needs: self.needs.as_deref().map(read_needs).transpose()?,
            waits_for: self.waits_for.map(|open| u32::try_from(open).unwrap_or(0)),
            batch: self.batch.map(TaskId),
        })
    }
}

/// A task's budgets and time limits from their columns.
pub(crate) fn limits(max_attempts: i64, soft: Option<i64>, hard: i64) -> Result<Limits, StoreError> {
    Ok(Limits {
        max_attempts: number(max_attempts)?,
        soft_time_limit: soft.map(duration).transpose()?,
        time_limit: duration(hard)?,
    })
}

/// What a task was given instead of what its type says, from its columns.
pub(crate) fn own_terms(retry: Option<&str>, keep_for: Option<i64>) -> Result<OwnTerms, StoreError> {
    Ok(OwnTerms { retry: retry_policy(retry)?, keep_for: keep_for.map(duration).transpose()? })
}

pub(crate) fn retry_policy(text: Option<&str>) -> Result<Option<RetryPolicy>, StoreError> {
    let read =
        |text| RetryTerms::from_text(text).map_err(|error| StoreError::Corrupt(format!("retry: {error}")));
    text.map(read).transpose()
}

/// The chunks of one task after a place, in order.
pub(crate) struct ChunksAfter {
    pub(crate) id: TaskId,
    pub(crate) after: (u32, u64),
    pub(crate) limit: usize,
}

#[async_trait]
impl Query for ChunksAfter {
    type Answer = Vec<ChunkRecord>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "
            SELECT attempt, seq, text FROM chunk WHERE task = ?1 AND (attempt, seq) > (?2, ?3)
            ORDER BY attempt, seq LIMIT ?4";
        let (attempt, seq) = self.after;
        let rows: Vec<(i64, i64, String)> = sqlx::query_as(SQL)
            .bind(self.id.0)
            .bind(attempt)
            .bind(i64::try_from(seq).unwrap_or(i64::MAX))
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .fetch_all(snapshot)
            .await
            .map_err(store_error)?;
        rows.into_iter()
            .map(|(attempt, seq, text)| {
                Ok(ChunkRecord { task: self.id, attempt: number(attempt)?, seq: unsigned(seq), text })
            })
            .collect()
    }
}
