//! What waits for a person, by what went wrong.

use application::ports::{FailureGroup, StoreError};
use async_trait::async_trait;
use domain::{TaskId, Tenant};
use sqlx::SqliteConnection;

use crate::{
    error::store_error,
    rows::{moment, parse_name},
    store::Query,
};

/// The tenant's failed tasks by code and type.
pub(crate) struct Failures {
    pub(crate) tenant: Tenant,
    pub(crate) limit: usize,
}

#[derive(sqlx::FromRow)]
struct Row {
    code: String,
    task_type: String,
    failed: i64,
    first_at: i64,
    last_at: i64,
    latest: i64,
    message: String,
}

#[async_trait]
impl Query for Failures {
    type Answer = Vec<FailureGroup>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "
            SELECT found.*, coalesce((SELECT error_message FROM outcome WHERE task = found.latest), '') AS message
            FROM (
                SELECT o.error_code AS code, t.type AS task_type, count(*) AS failed, min(o.ended_at) AS first_at,
                       max(o.ended_at) AS last_at, max(o.task) AS latest
                FROM outcome AS o CROSS JOIN task AS t ON t.id = o.task
                WHERE o.tenant = ?1 AND o.status = 'FAILED' AND o.error_code IS NOT NULL
                GROUP BY o.error_code, t.type
            ) AS found
            ORDER BY found.failed DESC, found.code, found.task_type LIMIT ?2";
        let rows: Vec<Row> = sqlx::query_as(SQL)
            .bind(self.tenant.as_str())
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .fetch_all(snapshot)
            .await
            .map_err(store_error)?;
        rows.into_iter()
            .map(|row| {
                Ok(FailureGroup {
                    code: row.code,
                    task_type: parse_name(&row.task_type)?,
                    count: row.failed.unsigned_abs(),
                    first_at: moment(row.first_at)?,
                    last_at: moment(row.last_at)?,
                    latest: TaskId(row.latest),
                    message: row.message,
                })
            })
            .collect()
    }
}
