//! Another priority for tasks that wait.

use std::collections::HashMap;

use application::ports::{Reprioritised, StoreError, Waiting};
use async_trait::async_trait;
use domain::{Priority, Rank, Status, TaskId, Tenant, queue::may_change_priority};

use crate::{
    error::store_error,
    rows::{id_list, parse_lane, parse_queue, parse_status, state},
    writer::{Change, Write},
};

/// Gives tasks that wait another priority.
pub(crate) struct Reprioritise {
    pub(crate) tenant: Tenant,
    pub(crate) ids: Vec<TaskId>,
    pub(crate) priority: Priority,
}

#[async_trait]
impl Change for Reprioritise {
    type Answer = Vec<Reprioritised>;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const STANDING: &str = "
            SELECT t.id, t.queue, coalesce(l.state, o.status) AS status, coalesce(l.lane, '') AS lane,
                   coalesce(l.rank, t.id) AS rank
            FROM json_each(?1) AS wanted
            CROSS JOIN task AS t ON t.id = wanted.value AND t.tenant = ?2
            LEFT JOIN live AS l ON l.task = t.id
            LEFT JOIN outcome AS o ON o.task = t.id";
        const MOVE: &str = "UPDATE live SET priority = ?2 WHERE task IN (SELECT value FROM json_each(?1))";
        const KEEP: &str = "UPDATE task SET priority = ?2 WHERE id IN (SELECT value FROM json_each(?1))";
        let rows: Vec<(i64, String, String, String, i64)> = sqlx::query_as(STANDING)
            .bind(id_list(self.ids.iter().map(|id| id.0)))
            .bind(self.tenant.as_str())
            .fetch_all(&mut *write.conn)
            .await
            .map_err(store_error)?;
        let (mut outcomes, mut moved) = (HashMap::new(), Vec::new());
        for (id, queue, status, lane, rank) in rows {
            let status = parse_status(&status)?;
            let outcome = if may_change_priority(state(status, false)).is_err() {
                Reprioritised::NotWaiting(status)
            } else {
                moved.push(id);
                let (queue, suspicion) = (parse_queue(&queue)?, parse_lane(&lane)?);
                match status {
                    Status::Pending => {
                        let (priority, rank) = (self.priority, Rank(rank));
                        Reprioritised::Moved(Waiting { id: TaskId(id), queue, priority, rank, suspicion })
                    }
                    _ => Reprioritised::Later,
                }
            };
            outcomes.insert(TaskId(id), outcome);
        }
        let moved = id_list(moved);
        for sql in [MOVE, KEEP] {
            let change = sqlx::query(sql).bind(&moved).bind(i64::from(self.priority.get()));
            change.execute(&mut *write.conn).await.map_err(store_error)?;
        }
        let outcome = |id: &TaskId| outcomes.get(id).cloned().unwrap_or(Reprioritised::Unknown);
        Ok(self.ids.iter().map(outcome).collect())
    }
}
