//! The history of a task.

use application::ports::StoreError;
use async_trait::async_trait;
use domain::{Attempt, TaskId, Tenant};
use sqlx::SqliteConnection;

use crate::{
    error::store_error,
    rows::{failure, moment, moment_if, number, parse_name, parse_outcome},
    store::Query,
    usage,
};

/// The attempts of a task, oldest first.
pub(crate) struct Attempts {
    pub(crate) tenant: Tenant,
    pub(crate) id: TaskId,
}

#[derive(sqlx::FromRow)]
struct Row {
    attempt: i64,
    worker: Option<String>,
    started_at: i64,
    ended_at: Option<i64>,
    outcome: Option<String>,
    error_code: Option<String>,
    error_message: Option<String>,
    calls: Option<String>,
}

#[async_trait]
impl Query for Attempts {
    type Answer = Option<Vec<Attempt>>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const KNOWN: &str = "SELECT 1 FROM task WHERE id = ?1 AND tenant = ?2";
        // Those that did not end the task, the one that did, and the one that runs.
        const SQL: &str = "
            SELECT a.attempt, w.name AS worker, a.started_at, a.ended_at, a.outcome, a.error_code, a.error_message,
                   c.calls
            FROM attempt AS a LEFT JOIN worker AS w ON w.id = a.worker
            LEFT JOIN model_call AS c ON c.task = a.task AND c.attempt = a.attempt WHERE a.task = ?1
            UNION ALL
            SELECT o.attempt, w.name, o.started_at, o.ended_at, o.attempt_outcome, o.error_code, o.error_message,
                   c.calls
            FROM outcome AS o LEFT JOIN worker AS w ON w.id = o.worker
            LEFT JOIN model_call AS c ON c.task = o.task AND c.attempt = o.attempt
            WHERE o.task = ?1 AND o.worker IS NOT NULL
            UNION ALL
            SELECT l.attempt, w.name, l.started_at, NULL, NULL, NULL, NULL, NULL
            FROM live AS l LEFT JOIN worker AS w ON w.id = l.worker WHERE l.task = ?1 AND l.worker IS NOT NULL
            ORDER BY 1";
        let known: Option<i64> = sqlx::query_scalar(KNOWN)
            .bind(self.id.0)
            .bind(self.tenant.as_str())
            .fetch_optional(&mut *snapshot)
            .await
            .map_err(store_error)?;
        if known.is_none() {
            return Ok(None);
        }
        let rows: Vec<Row> =
            sqlx::query_as(SQL).bind(self.id.0).fetch_all(snapshot).await.map_err(store_error)?;
        let attempts: Result<Vec<_>, StoreError> = rows.into_iter().map(Row::into_attempt).collect();
        attempts.map(Some).map_err(|error| StoreError::Corrupt(format!("task {}: {error}", self.id)))
    }
}

impl Row {
    fn into_attempt(self) -> Result<Attempt, StoreError> {
        Ok(Attempt {
            attempt: number(self.attempt)?,
            worker: self.worker.as_deref().map(parse_name).transpose()?,
            started_at: moment(self.started_at)?,
            ended_at: moment_if(self.ended_at)?,
            outcome: self.outcome.as_deref().map(parse_outcome).transpose()?,
            error: failure(self.error_code, self.error_message),
            calls: usage::calls(self.calls.as_deref())?,
        })
    }
}
