//! Stopping tasks.

use std::collections::HashMap;

use application::ports::{CancelOutcome, StoreError};
use async_trait::async_trait;
use domain::{Change as Decision, Counters, Event, Status, TaskId, Tenant, decide};

use crate::{
    ending::{Ending, end, fenced},
    error::store_error,
    rows::{CounterColumns, id_list, pages, parse_status, state},
    writer::{Change, Write},
};

/// Cancels what waits and marks what runs.
pub(crate) struct Cancel {
    pub(crate) tenant: Tenant,
    pub(crate) ids: Vec<TaskId>,
}

/// Where a task stands, and how to find it there again.
#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    queue: String,
    status: String,
    cancel_requested: bool,
    #[sqlx(flatten)]
    counters: CounterColumns,
}

struct Standing {
    queue: String,
    status: Status,
    cancel_requested: bool,
    counters: Counters,
}

#[async_trait]
impl Change for Cancel {
    type Answer = Vec<CancelOutcome>;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        let mut standing = self.standing(write).await?;
        let mut outcomes = Vec::with_capacity(self.ids.len());
        let mut endings = Vec::new();
        let mut marks = Vec::new();
        for id in &self.ids {
            let Some(task) = standing.get_mut(id) else {
                outcomes.push(CancelOutcome::Unknown);
                continue;
            };
            let decision = decide(state(task.status, task.cancel_requested), task.counters, Event::Cancel);
            outcomes.push(match decision {
                Ok(Decision::Finish { end, counters, error }) => {
                    let ended = Status::from(end);
                    write.tally.shift(self.tenant.as_str(), &task.queue, task.status, ended);
                    task.status = ended;
                    endings.push(Ending::waiting(*id, end, counters, error));
                    CancelOutcome::Cancelled
                }
                Ok(Decision::RequestCancel) => {
                    if !task.cancel_requested {
                        marks.push((id.0, task.counters.attempt));
                        task.cancel_requested = true;
                    }
                    CancelOutcome::Requested
                }
                Ok(
                    Decision::BecomePending
                    | Decision::Start
                    | Decision::Wait { .. }
                    | Decision::Reopen { .. },
                )
                | Err(_) => CancelOutcome::AlreadyEnded(task.status),
            });
        }
        end(write, endings).await?;
        mark(write, &marks).await?;
        Ok(outcomes)
    }
}

impl Cancel {
    async fn standing(&self, write: &mut Write<'_>) -> Result<HashMap<TaskId, Standing>, StoreError> {
        const SQL: &str = "
            SELECT t.id, t.queue, coalesce(l.state, o.status) AS status,
                   coalesce(l.cancel_requested, 0) AS cancel_requested, coalesce(l.attempt, o.attempt) AS attempt,
                   coalesce(l.failures, o.failures) AS failures, coalesce(l.crashes, o.crashes) AS crashes,
                   coalesce(l.forgiven_failures, o.forgiven_failures) AS forgiven_failures,
                   coalesce(l.forgiven_crashes, o.forgiven_crashes) AS forgiven_crashes
            FROM json_each(?1) AS wanted
            CROSS JOIN task AS t ON t.id = wanted.value AND t.tenant = ?2
            LEFT JOIN live AS l ON l.task = t.id
            LEFT JOIN outcome AS o ON o.task = t.id";
        let rows: Vec<Row> = sqlx::query_as(SQL)
            .bind(id_list(self.ids.iter().map(|id| id.0)))
            .bind(self.tenant.as_str())
            .fetch_all(&mut *write.conn)
            .await
            .map_err(store_error)?;
        rows.into_iter()
            .map(|row| {
                let counters = row.counters.read()?;
                let status = parse_status(&row.status)?;
                let standing =
                    Standing { queue: row.queue, status, cancel_requested: row.cancel_requested, counters };
                Ok((TaskId(row.id), standing))
            })
            .collect()
    }
}

async fn mark(write: &mut Write<'_>, marks: &[(i64, u32)]) -> Result<(), StoreError> {
    const SQL: &str = "
        UPDATE live SET cancel_requested = 1 WHERE task IN (
            SELECT l.task FROM json_each(?1) AS m
            CROSS JOIN live AS l ON l.task = m.value ->> 0 AND l.attempt = m.value ->> 1 AND l.worker IS NOT NULL)";
    let mut marked = 0;
    for page in pages(marks) {
        let update = sqlx::query(SQL).bind(page).execute(&mut *write.conn).await.map_err(store_error)?;
        marked += update.rows_affected();
    }
    fenced(marks.len() as u64, marked)
}
