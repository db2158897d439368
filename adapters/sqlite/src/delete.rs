//! Removing tasks.

use std::{collections::HashMap, time::Duration};

use application::ports::{DeleteOutcome, DiscardOutcome, StoreError};
use async_trait::async_trait;
use domain::{Status, TaskId, Tenant};

use crate::{
    clock::micros,
    ending::fenced,
    error::store_error,
    rows::{id_list, parse_status},
    writer::{Change, Write},
};

/// Removes tasks that do not run, with all that belongs to them.
pub(crate) struct Delete {
    pub(crate) tenant: Tenant,
    pub(crate) ids: Vec<TaskId>,
}

/// Removes tasks that sit in manual handling, with all that belongs to them.
pub(crate) struct Discard {
    pub(crate) tenant: Tenant,
    pub(crate) ids: Vec<TaskId>,
}

/// Removes tasks of every tenant that failed before a moment.
pub(crate) struct DiscardFailed {
    pub(crate) age: Duration,
    pub(crate) limit: usize,
}

#[async_trait]
impl Change for Delete {
    type Answer = Vec<DeleteOutcome>;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        let mut standing = standing(write, &self.tenant, &self.ids).await?;
        let mut outcomes = Vec::with_capacity(self.ids.len());
        let mut gone = Vec::new();
        for id in &self.ids {
            outcomes.push(match standing.get(id) {
                None => DeleteOutcome::Unknown,
                Some((_, Status::Processing)) => DeleteOutcome::Processing,
                Some((queue, status)) => {
                    write.tally.leave(self.tenant.as_str(), queue, *status);
                    standing.remove(id);
                    gone.push(id.0);
                    DeleteOutcome::Deleted
                }
            });
        }
        remove(write, gone).await?;
        Ok(outcomes)
    }
}

#[async_trait]
impl Change for Discard {
    type Answer = Vec<DiscardOutcome>;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        let mut standing = standing(write, &self.tenant, &self.ids).await?;
        let mut outcomes = Vec::with_capacity(self.ids.len());
        let mut gone = Vec::new();
        for id in &self.ids {
            outcomes.push(match standing.get(id) {
                None => DiscardOutcome::Unknown,
                Some((queue, status @ Status::Failed)) => {
                    write.tally.leave(self.tenant.as_str(), queue, *status);
                    standing.remove(id);
                    gone.push(id.0);
                    DiscardOutcome::Discarded
                }
                Some((_, status)) => DiscardOutcome::NotFailed(*status),
            });
        }
        remove(write, gone).await?;
        Ok(outcomes)
    }
}

#[async_trait]
impl Change for DiscardFailed {
    type Answer = usize;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const OLD: &str = "
            SELECT o.task, t.tenant, t.queue
            FROM outcome AS o INDEXED BY outcome_failed CROSS JOIN task AS t ON t.id = o.task
            WHERE o.status = 'FAILED' AND o.ended_at < ?1 ORDER BY o.ended_at, o.task LIMIT ?2";
        let rows: Vec<(i64, String, String)> = sqlx::query_as(OLD)
            .bind(write.now.saturating_sub(micros(self.age)))
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *write.conn)
            .await
            .map_err(store_error)?;
        let mut gone = Vec::with_capacity(rows.len());
        for (id, tenant, queue) in rows {
            write.tally.leave(&tenant, &queue, Status::Failed);
            gone.push(id);
        }
        let removed = gone.len();
        remove(write, gone).await?;
        Ok(removed)
    }
}

/// Where the tenant's tasks stand: queue and status.
async fn standing(
    write: &mut Write<'_>,
    tenant: &Tenant,
    ids: &[TaskId],
) -> Result<HashMap<TaskId, (String, Status)>, StoreError> {
    const STANDING: &str = "
        SELECT t.id, t.queue, coalesce(l.state, o.status)
        FROM json_each(?1) AS wanted
        CROSS JOIN task AS t ON t.id = wanted.value AND t.tenant = ?2
        LEFT JOIN live AS l ON l.task = t.id
        LEFT JOIN outcome AS o ON o.task = t.id";
    let rows: Vec<(i64, String, String)> = sqlx::query_as(STANDING)
        .bind(id_list(ids.iter().map(|id| id.0)))
        .bind(tenant.as_str())
        .fetch_all(&mut *write.conn)
        .await
        .map_err(store_error)?;
    rows.into_iter().map(|(id, queue, status)| Ok((TaskId(id), (queue, parse_status(&status)?)))).collect()
}

/// Removes tasks that were found in this transaction. What belongs to them goes along: the other tables refer to them.
pub(crate) async fn remove(write: &mut Write<'_>, ids: Vec<i64>) -> Result<(), StoreError> {
    const SQL: &str = "DELETE FROM task WHERE id IN (SELECT value FROM json_each(?1))";
    let expected = ids.len() as u64;
    let removed = sqlx::query(SQL).bind(id_list(ids)).execute(&mut *write.conn).await.map_err(store_error)?;
    fenced(expected, removed.rows_affected())
}
