//! Running ended tasks again, because a person asks for it.

use std::collections::HashMap;

use application::ports::{Retry, RetryOutcome, StoreError, Waiting};
use async_trait::async_trait;
use domain::{Change as Decision, Counters, Event, Rank, Refusal, Status, Suspicion, TaskId, Tenant, decide};
use serde::Serialize;

use crate::{
    ending::fenced,
    error::store_error,
    fair,
    flow::wait_again,
    rows::{CounterColumns, id_list, pages, parse_priority, parse_queue, parse_status, state},
    writer::{Change, Write},
};

/// Brings ended tasks back among the waiting.
pub(crate) struct RetryTasks {
    pub(crate) tenant: Tenant,
    pub(crate) tasks: Vec<Retry>,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    queue: String,
    priority: i64,
    rank: i64,
    status: String,
    cancel_requested: bool,
    #[sqlx(flatten)]
    counters: CounterColumns,
}

struct Standing {
    place: Waiting,
    status: Status,
    cancel_requested: bool,
    counters: Counters,
}

/// A task on its way back.
#[derive(Serialize)]
struct Reopened<'r> {
    task: i64,
    input: Option<&'r str>,
    forgiven_failures: u32,
    forgiven_crashes: u32,
}

#[async_trait]
impl Change for RetryTasks {
    type Answer = Vec<RetryOutcome>;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        let mut standing = self.standing(write).await?;
        let mut outcomes = Vec::with_capacity(self.tasks.len());
        let mut reopened = Vec::new();
        for Retry { id, input } in &self.tasks {
            let Some(task) = standing.get_mut(id) else {
                outcomes.push(RetryOutcome::Unknown);
                continue;
            };
            let decision = decide(state(task.status, task.cancel_requested), task.counters, Event::Retry);
            outcomes.push(match decision {
                Ok(Decision::Reopen { counters }) => {
                    write.tally.shift(
                        self.tenant.as_str(),
                        task.place.queue.as_str(),
                        task.status,
                        Status::Pending,
                    );
                    reopened.push(Reopened {
                        task: id.0,
                        input: input.as_ref().map(|input| input.as_str()),
                        forgiven_failures: counters.forgiven_failures,
                        forgiven_crashes: counters.forgiven_crashes,
                    });
                    (task.status, task.counters) = (Status::Pending, counters);
                    RetryOutcome::Waiting(task.place.clone(), counters.attempt)
                }
                Err(Refusal::Completed) => RetryOutcome::Completed,
                Ok(_) | Err(_) => RetryOutcome::NotEnded(task.status),
            });
        }
        reopen(write, &reopened).await?;
        let back: Vec<i64> = reopened.iter().map(|task| task.task).collect();
        let edited = reopened.iter().filter(|task| task.input.is_some()).map(|task| task.task).collect();
        let waiting = wait_again(write, &back, &edited).await?;
        for (Retry { id, .. }, outcome) in self.tasks.iter().zip(&mut outcomes) {
            if waiting.contains(id) {
                outcome.wait_for_others();
            }
        }
        let places = outcomes.iter_mut().filter_map(|outcome| match outcome {
            RetryOutcome::Waiting(place, _) => Some(place),
            _ => None,
        });
        fair::rank(write, places).await?;
        Ok(outcomes)
    }
}

impl RetryTasks {
    async fn standing(&self, write: &mut Write<'_>) -> Result<HashMap<TaskId, Standing>, StoreError> {
        const SQL: &str = "
            SELECT t.id, t.queue, t.priority, iif(t.cost IS NULL, t.id, -1) AS rank, coalesce(l.state, o.status) AS status,
                   coalesce(l.cancel_requested, 0) AS cancel_requested, coalesce(l.attempt, o.attempt) AS attempt,
                   coalesce(l.failures, o.failures) AS failures, coalesce(l.crashes, o.crashes) AS crashes,
                   coalesce(l.forgiven_failures, o.forgiven_failures) AS forgiven_failures,
                   coalesce(l.forgiven_crashes, o.forgiven_crashes) AS forgiven_crashes
            FROM json_each(?1) AS wanted
            CROSS JOIN task AS t ON t.id = wanted.value AND t.tenant = ?2
            LEFT JOIN live AS l ON l.task = t.id
            LEFT JOIN outcome AS o ON o.task = t.id";
        let rows: Vec<Row> = sqlx::query_as(SQL)
            .bind(id_list(self.tasks.iter().map(|retry| retry.id.0)))
            .bind(self.tenant.as_str())
            .fetch_all(&mut *write.conn)
            .await
            .map_err(store_error)?;
        rows.into_iter()
            .map(|row| {
                let id = TaskId(row.id);
                let place = Waiting {
                    id,
                    queue: parse_queue(&row.queue)?,
                    priority: parse_priority(row.priority)?,
                    rank: Rank(row.rank),
                    suspicion: Suspicion::None,
                };
                let (status, counters) = (parse_status(&row.status)?, row.counters.read()?);
                Ok((id, Standing { place, status, cancel_requested: row.cancel_requested, counters }))
            })
            .collect()
    }
}

/// The last attempt goes from the outcome to the other attempts, and the task among the waiting, in the ordinary lane.
async fn reopen(write: &mut Write<'_>, tasks: &[Reopened<'_>]) -> Result<(), StoreError> {
    const ATTEMPT: &str = "
        INSERT INTO attempt (task, attempt, tenant, worker, outcome, started_at, ended_at, error_code, error_message)
        SELECT o.task, o.attempt, o.tenant, o.worker, o.attempt_outcome, o.started_at, o.ended_at,
               o.error_code, o.error_message
        FROM json_each(?1) AS r CROSS JOIN outcome AS o ON o.task = r.value ->> 'task'
        WHERE o.worker IS NOT NULL";
    const LIVE: &str = "
        INSERT INTO live (task, tenant, queue, priority, rank, state, expires_at, attempt, failures, crashes,
                          forgiven_failures, forgiven_crashes, started_at, updated_at, reopened, error_code, error_message)
        SELECT t.id, t.tenant, t.queue, t.priority, iif(t.cost IS NULL, NULL, -1), 'PENDING', iif(t.expires_at > ?2, t.expires_at, NULL), o.attempt,
               o.failures, o.crashes, r.value ->> 'forgiven_failures', r.value ->> 'forgiven_crashes',
               o.started_at, ?2, 1, o.error_code, o.error_message
        FROM json_each(?1) AS r
        CROSS JOIN outcome AS o ON o.task = r.value ->> 'task'
        CROSS JOIN task AS t ON t.id = o.task";
    const TASK: &str = "
        UPDATE task SET input = coalesce(edit.input, task.input),
            expires_at = iif(task.expires_at > ?2, task.expires_at, NULL)
        FROM (SELECT value ->> 'task' AS id, value ->> 'input' AS input FROM json_each(?1)) AS edit
        WHERE task.id = edit.id AND ?2 IS NOT NULL";
    // The walk through old records may have passed it.
    const LOOK: &str = "
        INSERT INTO retention_look (task, look_at)
        SELECT value ->> 'task', ?2 + 3600000000 FROM json_each(?1) WHERE true
        ON CONFLICT (task) DO NOTHING";
    const OUTCOME: &str = "
        DELETE FROM outcome WHERE task IN (SELECT value ->> 'task' FROM json_each(?1)) AND ?2 IS NOT NULL";
    let (expected, mut begun, mut removed) = (tasks.len() as u64, 0, 0);
    for page in pages(tasks) {
        for (sql, changed) in [
            (ATTEMPT, None),
            (LIVE, Some(&mut begun)),
            (TASK, None),
            (LOOK, None),
            (OUTCOME, Some(&mut removed)),
        ] {
            let done = sqlx::query(sql).bind(&page).bind(write.now).execute(&mut *write.conn).await;
            let rows = done.map_err(store_error)?.rows_affected();
            if let Some(changed) = changed {
                *changed += rows;
            }
        }
    }
    fenced(expected, begun)?;
    fenced(expected, removed)
}
