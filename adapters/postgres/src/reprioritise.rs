//! Another priority for tasks that wait.

use std::collections::HashMap;

use application::ports::{Reprioritised, StoreError};
use domain::{Priority, State, TaskId, Tenant, queue::may_change_priority};
use sqlx::{Connection, PgConnection};

use crate::{
    PostgresStore,
    connections::Operation,
    error::Fault,
    rows::{self, field, in_lock_order},
};

struct Reprioritise {
    tenant: Tenant,
    ids: Vec<TaskId>,
    priority: Priority,
}

impl Operation for Reprioritise {
    type Output = Vec<Reprioritised>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Output, Fault> {
        let mut transaction = connection.begin().await?;
        let ids = in_lock_order(self.ids.iter().copied());
        let held = sqlx::query(
            "SELECT l.id, l.queue, l.priority, coalesce(l.rank, l.id) AS rank, l.lane, l.ready, l.worker IS NOT NULL AS running
             FROM unnest($2::bigint[]) AS asked (id)
             CROSS JOIN LATERAL (SELECT * FROM live WHERE live.id = asked.id AND live.tenant = $1 FOR UPDATE) l",
        )
        .bind(self.tenant.as_str())
        .bind(&ids)
        .fetch_all(&mut *transaction)
        .await?;
        let mut outcomes = HashMap::new();
        let mut moved = Vec::new();
        for row in &held {
            let id: i64 = field(row, "id")?;
            let state = match (field(row, "running")?, field(row, "ready")?) {
                (true, _) => State::Processing { cancel_requested: false },
                (false, true) => State::Pending,
                (false, false) => State::Scheduled,
            };
            let outcome = match (may_change_priority(state), state) {
                (Err(_), _) => Reprioritised::NotWaiting(state.into()),
                (Ok(()), State::Pending) => {
                    let mut place = rows::waiting(row)?;
                    place.priority = self.priority;
                    Reprioritised::Moved(place)
                }
                (Ok(()), _) => Reprioritised::Later,
            };
            if !matches!(outcome, Reprioritised::NotWaiting(_)) {
                moved.push(id);
            }
            outcomes.insert(id, outcome);
        }
        for sql in [
            "UPDATE live SET priority = $2 WHERE id = ANY($1)",
            "UPDATE task SET priority = $2 WHERE id = ANY($1)",
        ] {
            let change = sqlx::query(sql).bind(&moved).bind(i16::from(self.priority.get()));
            change.execute(&mut *transaction).await?;
        }
        // What was not live when it was looked for has ended by now, if it ever was.
        let others: Vec<_> = ids.into_iter().filter(|id| !outcomes.contains_key(id)).collect();
        if !others.is_empty() {
            let ended = sqlx::query(
                "SELECT t.id, o.status FROM unnest($2::bigint[]) AS asked (id)
                 JOIN task t ON t.id = asked.id AND t.tenant = $1 JOIN outcome o ON o.task = t.id",
            )
            .bind(self.tenant.as_str())
            .bind(&others)
            .fetch_all(&mut *transaction)
            .await?;
            for row in &ended {
                outcomes.insert(field(row, "id")?, Reprioritised::NotWaiting(rows::status(row, "status")?));
            }
        }
        transaction.commit().await?;
        let outcome = |id: &TaskId| outcomes.get(&id.0).cloned().unwrap_or(Reprioritised::Unknown);
        Ok(self.ids.iter().map(outcome).collect())
    }
}

impl PostgresStore {
    pub(crate) async fn change_priorities(
        &self,
        tenant: &Tenant,
        ids: &[TaskId],
        priority: Priority,
    ) -> Result<Vec<Reprioritised>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.connections.run(Reprioritise { tenant: tenant.clone(), ids: ids.to_vec(), priority }).await
    }
}
