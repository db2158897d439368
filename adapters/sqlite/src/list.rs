//! Listing tasks.

use application::ports::{ListPage, StoreError, TaskFilter};
use async_trait::async_trait;
use domain::{Task, TaskId, Tenant};
use sqlx::SqliteConnection;

use crate::{error::store_error, read::tasks, store::Query};

/// The tenant's tasks that pass the filter, newest first.
pub(crate) struct List {
    pub(crate) tenant: Tenant,
    pub(crate) filter: TaskFilter,
    pub(crate) page: ListPage,
}

#[async_trait]
impl Query for List {
    type Answer = Vec<Task>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        let mut ids = Vec::new();
        if let Some(batch) = self.filter.batch {
            ids = self.items(batch, snapshot).await?;
        } else if self.filter.statuses.is_empty() {
            ids = self.ids(ANY, "", snapshot).await?;
        } else {
            // Each status is found through its own index, so that a rare one does not mean a walk through history.
            for status in &self.filter.statuses {
                let sql = if status.is_terminal() { ENDED } else { LIVE };
                ids.extend(self.ids(sql, status.as_str(), snapshot).await?);
            }
            ids.sort_unstable_by(|a, b| b.cmp(a));
            ids.dedup();
            ids.truncate(self.page.limit);
        }
        tasks(snapshot, &self.tenant, &ids).await
    }
}

const ANY: &str = "
    SELECT t.id FROM task AS t
    WHERE t.tenant = ?1 AND t.id < ?2 AND (?3 IS NULL OR t.type = ?3) AND (?4 IS NULL OR t.queue = ?4)
      AND ?6 = '' AND (?7 IS NULL AND ?8 IS NULL OR EXISTS (
        SELECT 1 FROM outcome AS o WHERE o.task = t.id AND (?7 IS NULL OR o.error_code = ?7) AND (?8 IS NULL OR o.ended_at < ?8)))
    ORDER BY t.id DESC LIMIT ?5";
const LIVE: &str = "
    SELECT t.id FROM live AS l CROSS JOIN task AS t ON t.id = l.task
    WHERE l.tenant = ?1 AND l.task < ?2 AND (?3 IS NULL OR t.type = ?3) AND (?4 IS NULL OR l.queue = ?4)
      AND l.state = ?6 AND ?7 IS NULL AND ?8 IS NULL
    ORDER BY l.task DESC LIMIT ?5";
const ENDED: &str = "
    SELECT t.id FROM outcome AS o CROSS JOIN task AS t ON t.id = o.task
    WHERE o.tenant = ?1 AND o.task < ?2 AND (?3 IS NULL OR t.type = ?3) AND (?4 IS NULL OR t.queue = ?4)
      AND o.status = ?6 AND (?7 IS NULL OR o.error_code = ?7) AND (?8 IS NULL OR o.ended_at < ?8)
    ORDER BY o.task DESC LIMIT ?5";

/// The items of one batch, by their own index.
const ITEMS: &str = "
    SELECT t.id FROM task AS t INDEXED BY task_batch
    LEFT JOIN live AS l ON l.task = t.id LEFT JOIN outcome AS o ON o.task = t.id
    WHERE t.batch = ?1 AND t.tenant = ?2 AND t.id < ?3 AND (?4 IS NULL OR t.type = ?4) AND (?5 IS NULL OR t.queue = ?5)
      AND (?6 = ',,' OR instr(?6, ',' || coalesce(l.state, o.status) || ','))
      AND (?7 IS NULL OR o.error_code = ?7) AND (?8 IS NULL OR o.ended_at < ?8)
    ORDER BY t.id DESC LIMIT ?9";

impl List {
    async fn items(&self, batch: TaskId, snapshot: &mut SqliteConnection) -> Result<Vec<TaskId>, StoreError> {
        let statuses: Vec<_> = self.filter.statuses.iter().map(|status| status.as_str()).collect();
        let ids: Vec<i64> = sqlx::query_scalar(ITEMS)
            .bind(batch.0)
            .bind(self.tenant.as_str())
            .bind(self.page.before.map_or(i64::MAX, |before| before.0))
            .bind(self.filter.task_type.as_ref().map(|task_type| task_type.as_str()))
            .bind(self.filter.queue.as_ref().map(|queue| queue.as_str()))
            .bind(format!(",{},", statuses.join(",")))
            .bind(self.filter.error_code.as_deref())
            .bind(self.filter.ended_before.map(|at| at.timestamp_micros()))
            .bind(i64::try_from(self.page.limit).unwrap_or(i64::MAX))
            .fetch_all(snapshot)
            .await
            .map_err(store_error)?;
        Ok(ids.into_iter().map(TaskId).collect())
    }

    async fn ids(
        &self,
        sql: &'static str,
        status: &str,
        snapshot: &mut SqliteConnection,
    ) -> Result<Vec<TaskId>, StoreError> {
        let ids: Vec<i64> = sqlx::query_scalar(sql)
            .bind(self.tenant.as_str())
            .bind(self.page.before.map_or(i64::MAX, |before| before.0))
            .bind(self.filter.task_type.as_ref().map(|task_type| task_type.as_str()))
            .bind(self.filter.queue.as_ref().map(|queue| queue.as_str()))
            .bind(i64::try_from(self.page.limit).unwrap_or(i64::MAX))
            .bind(status)
            .bind(self.filter.error_code.as_deref())
            .bind(self.filter.ended_before.map(|at| at.timestamp_micros()))
            .fetch_all(snapshot)
            .await
            .map_err(store_error)?;
        Ok(ids.into_iter().map(TaskId).collect())
    }
}
