//! Removing tasks.

use std::collections::HashMap;

use application::ports::{DeleteOutcome, StoreError};
use async_trait::async_trait;
use domain::{Status, TaskId, Tenant};

use crate::{
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

#[async_trait]
impl Change for Delete {
    type Answer = Vec<DeleteOutcome>;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const STANDING: &str = "
            SELECT t.id, t.queue, coalesce(l.state, o.status)
            FROM json_each(?1) AS wanted
            CROSS JOIN task AS t ON t.id = wanted.value AND t.tenant = ?2
            LEFT JOIN live AS l ON l.task = t.id
            LEFT JOIN outcome AS o ON o.task = t.id";
        // What belongs to it goes along: the other tables refer to this one.
        const SQL: &str = "DELETE FROM task WHERE id IN (SELECT value FROM json_each(?1))";
        let rows: Vec<(i64, String, String)> = sqlx::query_as(STANDING)
            .bind(id_list(self.ids.iter().map(|id| id.0)))
            .bind(self.tenant.as_str())
            .fetch_all(&mut *write.conn)
            .await
            .map_err(store_error)?;
        let mut standing = HashMap::new();
        for (id, queue, status) in rows {
            standing.insert(TaskId(id), (queue, parse_status(&status)?));
        }
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
        let expected = gone.len() as u64;
        let deleted =
            sqlx::query(SQL).bind(id_list(gone)).execute(&mut *write.conn).await.map_err(store_error)?;
        fenced(expected, deleted.rows_affected())?;
        Ok(outcomes)
    }
}
