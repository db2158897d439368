//! What waits for a person: failed tasks, grouped by reason.

use application::ports::{FailureGroup, StoreError};
use domain::{TaskId, Tenant};
use sqlx::PgConnection;

use crate::{
    PostgresStore,
    connections::Operation,
    error::Fault,
    rows::{self, field, limit},
};

/// Reads every failed task, of which there are as many as people have left lying.
pub(crate) const FAILURES: &str = "
SELECT g.*, o.error::json ->> 'message' AS message
FROM (
    SELECT (f.error::json ->> 'code') COLLATE \"C\" AS code, t.task_type, count(*) AS count,
        min(f.ended_at) AS first_at, max(f.ended_at) AS last_at, max(f.task) AS latest
    FROM outcome f CROSS JOIN LATERAL (
        SELECT task_type FROM task WHERE task.id = f.task AND task.tenant = $1 LIMIT 1
    ) t
    WHERE f.status = 'FAILED' AND f.error IS NOT NULL
    GROUP BY 1, 2 ORDER BY count DESC, code, task_type LIMIT $2
) g CROSS JOIN LATERAL (SELECT error FROM outcome WHERE outcome.task = g.latest LIMIT 1) o
ORDER BY g.count DESC, g.code, g.task_type";

struct Failures {
    tenant: Tenant,
    limit: usize,
}

impl Operation for Failures {
    type Output = Vec<FailureGroup>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<FailureGroup>, Fault> {
        let query = sqlx::query(FAILURES).bind(self.tenant.as_str()).bind(limit(self.limit));
        let rows = query.fetch_all(connection).await?;
        rows.iter()
            .map(|row| {
                let count: i64 = field(row, "count")?;
                Ok(FailureGroup {
                    code: field(row, "code")?,
                    task_type: rows::name(row, "task_type")?,
                    count: count.unsigned_abs(),
                    first_at: field(row, "first_at")?,
                    last_at: field(row, "last_at")?,
                    latest: TaskId(field(row, "latest")?),
                    message: field(row, "message")?,
                })
            })
            .collect()
    }
}

impl PostgresStore {
    pub(crate) async fn failure_groups(
        &self,
        tenant: &Tenant,
        limit: usize,
    ) -> Result<Vec<FailureGroup>, StoreError> {
        self.connections.run(Failures { tenant: tenant.clone(), limit }).await
    }
}
