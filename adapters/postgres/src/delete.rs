//! Removing tasks with all that belongs to them.

use std::collections::HashMap;

use application::ports::{DeleteOutcome, StoreError};
use domain::{QueueName, Status, TaskId, Tenant};
use sqlx::{Connection, PgConnection};

use crate::{
    PostgresStore,
    connections::Operation,
    error::Fault,
    rows::{self, field, in_lock_order},
    tally::Changes,
};

struct Delete {
    tenant: Tenant,
    ids: Vec<TaskId>,
}

impl Operation for Delete {
    type Output = Vec<DeleteOutcome>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<DeleteOutcome>, Fault> {
        let mut transaction = connection.begin().await?;
        // First the submissions, which makes one of two deletions wait; then where they stand, so that it stays so.
        let known = sqlx::query(
            "SELECT t.id, t.queue FROM unnest($2::bigint[]) AS asked (id)
             CROSS JOIN LATERAL (SELECT id, queue FROM task WHERE task.id = asked.id AND task.tenant = $1 FOR UPDATE) t",
        )
        .bind(self.tenant.as_str())
        .bind(in_lock_order(self.ids.iter().copied()))
        .fetch_all(&mut *transaction)
        .await?;
        let mut queues: HashMap<i64, QueueName> = HashMap::new();
        for row in &known {
            queues.insert(field(row, "id")?, rows::name(row, "queue")?);
        }
        let ids = in_lock_order(queues.keys().copied().map(TaskId));
        let live = sqlx::query(
            "SELECT l.id, CASE WHEN l.worker IS NOT NULL THEN 'PROCESSING' WHEN l.ready THEN 'PENDING' ELSE 'SCHEDULED' END AS status
             FROM unnest($1::bigint[]) AS asked (id)
             CROSS JOIN LATERAL (SELECT id, worker, ready FROM live WHERE live.id = asked.id FOR UPDATE) l",
        )
        .bind(&ids)
        .fetch_all(&mut *transaction)
        .await?;
        let ended = sqlx::query("SELECT task AS id, status FROM outcome WHERE task = ANY($1)")
            .bind(&ids)
            .fetch_all(&mut *transaction)
            .await?;

        let mut outcomes = HashMap::new();
        let mut changes = Changes::default();
        for row in live.iter().chain(&ended) {
            let (id, status): (i64, Status) = (field(row, "id")?, rows::status(row, "status")?);
            if status == Status::Processing {
                outcomes.insert(id, DeleteOutcome::Processing);
            } else if let Some(queue) = queues.get(&id) {
                changes.add(queue, status, -1);
                outcomes.insert(id, DeleteOutcome::Deleted);
            }
        }
        let doomed: Vec<_> =
            ids.into_iter().filter(|id| outcomes.get(id) == Some(&DeleteOutcome::Deleted)).collect();
        if !doomed.is_empty() {
            sqlx::query(
                "WITH live_gone AS (DELETE FROM live WHERE id = ANY($1)),
                 outcome_gone AS (DELETE FROM outcome WHERE task = ANY($1)),
                 attempt_gone AS (DELETE FROM attempt WHERE task = ANY($1)),
                 progress_gone AS (DELETE FROM progress WHERE task = ANY($1)),
                 chunk_gone AS (DELETE FROM chunk WHERE task = ANY($1))
                 DELETE FROM task WHERE id = ANY($1)",
            )
            .bind(&doomed)
            .execute(&mut *transaction)
            .await?;
            changes.apply(&mut transaction, &self.tenant).await?;
        }
        transaction.commit().await?;
        Ok(self.ids.iter().map(|id| outcomes.get(&id.0).copied().unwrap_or(DeleteOutcome::Unknown)).collect())
    }
}

impl PostgresStore {
    pub(crate) async fn delete_tasks(
        &self,
        tenant: &Tenant,
        ids: &[TaskId],
    ) -> Result<Vec<DeleteOutcome>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.tallied();
        self.connections.run(Delete { tenant: tenant.clone(), ids: ids.to_vec() }).await
    }
}
