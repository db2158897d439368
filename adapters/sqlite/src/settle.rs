//! Applying decisions about running attempts.

use std::collections::HashMap;

use application::ports::{Applied, Settlement, StoreError};
use async_trait::async_trait;
use domain::{AttemptOutcome, Change as Decision, Status, WorkerId};
use serde::Serialize;

use crate::{
    clock::later,
    ending::{Ending, end, fenced},
    error::store_error,
    rows::{id_list, lane, number, pages, parse_outcome},
    usage::{Told, keep},
    writer::{Change, Write},
};

/// Settles attempts that a worker holds.
pub(crate) struct Settle {
    pub(crate) worker: WorkerId,
    pub(crate) settlements: Vec<Settlement>,
}

/// A task in the worker's hand.
struct Held {
    tenant: String,
    queue: String,
    cancel_requested: bool,
}

/// A task that goes back among the waiting.
#[derive(Serialize)]
struct Return {
    task: i64,
    attempt: u32,
    outcome: &'static str,
    due_at: Option<i64>,
    failures: u32,
    crashes: u32,
    lane: &'static str,
    error_code: Option<String>,
    error_message: Option<String>,
}

/// How attempts of this worker ended: by task and attempt.
type Ended = HashMap<(i64, u32), AttemptOutcome>;

#[async_trait]
impl Change for Settle {
    type Answer = Vec<Applied>;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        let mut held = self.held(write).await?;
        let strangers = self.settlements.iter().filter(|s| !held.contains_key(&(s.task.0, s.attempt)));
        let mut ended = self.ended(write, strangers.map(|s| s.task.0).collect()).await?;
        let (mut endings, mut returns, mut told) = (Vec::new(), Vec::new(), Vec::new());
        let mut answers = Vec::with_capacity(self.settlements.len());
        for settlement in &self.settlements {
            let place = (settlement.task.0, settlement.attempt);
            // Only what ends an attempt can be settled.
            let Some(outcome) = settlement.change.attempt_outcome() else {
                answers.push(Applied::Stale);
                continue;
            };
            let Some(task) = held.get(&place) else {
                // Sent before and applied: the record says so, if it says the same.
                let same = ended.get(&place) == Some(&outcome);
                answers.push(if same { Applied::Yes } else { Applied::Stale });
                continue;
            };
            let status = match &settlement.change {
                Decision::Wait { .. } if task.cancel_requested && !settlement.knew_of_cancel => {
                    answers.push(Applied::CancelRequested);
                    continue;
                }
                Decision::Wait { after, counters, outcome, error } => {
                    let due_at = (!after.is_zero()).then(|| later(write.now, *after));
                    let (error_code, error_message) =
                        error.clone().map(|error| (error.code, error.message)).unzip();
                    returns.push(Return {
                        task: place.0,
                        attempt: place.1,
                        outcome: outcome.as_str(),
                        due_at,
                        failures: counters.failures,
                        crashes: counters.crashes,
                        lane: lane(counters.suspicion()),
                        error_code,
                        error_message,
                    });
                    if due_at.is_some() { Status::Scheduled } else { Status::Pending }
                }
                Decision::Finish { end, counters, error } => {
                    // The attempt that is settled is the fence, whatever the decision counts.
                    let counters = domain::Counters { attempt: place.1, ..*counters };
                    let text =
                        |json: &Option<domain::Json>| json.as_ref().map(|json| json.as_str().to_owned());
                    let ending = Ending::waiting(settlement.task, *end, counters, error.clone());
                    let (result, details) = (text(&settlement.result), text(&settlement.details));
                    endings.push(ending.held(self.worker.0, outcome, result, details));
                    Status::from(*end)
                }
                Decision::BecomePending
                | Decision::Start
                | Decision::RequestCancel
                | Decision::Reopen { .. } => {
                    answers.push(Applied::Stale);
                    continue;
                }
            };
            write.tally.shift(&task.tenant, &task.queue, Status::Processing, status);
            if !settlement.calls.is_empty() {
                let (tenant, calls) = (task.tenant.clone(), settlement.calls.clone());
                told.push(Told { task: place.0, attempt: place.1, tenant, calls });
            }
            held.remove(&place);
            ended.insert(place, outcome);
            answers.push(Applied::Yes);
        }
        end(write, endings).await?;
        put_back(write, self.worker, &returns).await?;
        keep(write, &told).await?;
        Ok(answers)
    }
}

impl Settle {
    /// Those of the tasks that this worker holds, by task and attempt.
    async fn held(&self, write: &mut Write<'_>) -> Result<HashMap<(i64, u32), Held>, StoreError> {
        const SQL: &str = "
            SELECT l.task, l.attempt, l.tenant, l.queue, l.cancel_requested
            FROM json_each(?1) AS wanted CROSS JOIN live AS l ON l.task = wanted.value AND l.worker = ?2";
        let rows: Vec<(i64, i64, String, String, bool)> = sqlx::query_as(SQL)
            .bind(id_list(self.settlements.iter().map(|settlement| settlement.task.0)))
            .bind(self.worker.0)
            .fetch_all(&mut *write.conn)
            .await
            .map_err(store_error)?;
        rows.into_iter()
            .map(|(task, attempt, tenant, queue, cancel_requested)| {
                Ok(((task, number(attempt)?), Held { tenant, queue, cancel_requested }))
            })
            .collect()
    }

    /// What this worker's ended attempts of these tasks came to.
    async fn ended(&self, write: &mut Write<'_>, tasks: Vec<i64>) -> Result<Ended, StoreError> {
        const SQL: &str = "
            SELECT o.task, o.attempt, o.attempt_outcome
            FROM json_each(?1) AS wanted CROSS JOIN outcome AS o ON o.task = wanted.value AND o.worker = ?2
            UNION ALL
            SELECT a.task, a.attempt, a.outcome
            FROM json_each(?1) AS wanted CROSS JOIN attempt AS a ON a.task = wanted.value AND a.worker = ?2";
        if tasks.is_empty() {
            return Ok(Ended::new());
        }
        let rows: Vec<(i64, i64, String)> = sqlx::query_as(SQL)
            .bind(id_list(tasks))
            .bind(self.worker.0)
            .fetch_all(&mut *write.conn)
            .await
            .map_err(store_error)?;
        rows.into_iter()
            .map(|(task, attempt, outcome)| Ok(((task, number(attempt)?), parse_outcome(&outcome)?)))
            .collect()
    }
}

/// Puts tasks back among the waiting and keeps a record of the attempt.
async fn put_back(write: &mut Write<'_>, worker: WorkerId, returns: &[Return]) -> Result<(), StoreError> {
    const ATTEMPT: &str = "
        INSERT INTO attempt (task, attempt, tenant, worker, outcome, started_at, ended_at, error_code, error_message)
        SELECT l.task, l.attempt, l.tenant, l.worker, r.value ->> 'outcome', l.started_at, ?3,
               r.value ->> 'error_code', r.value ->> 'error_message'
        FROM json_each(?1) AS r
        CROSS JOIN live AS l ON l.task = r.value ->> 'task' AND l.attempt = r.value ->> 'attempt' AND l.worker = ?2";
    // As an upsert, because the planner may turn UPDATE … FROM around and walk through the table for each task.
    const LIVE: &str = "
        INSERT INTO live (task, tenant, queue, priority, state, due_at, lane, failures, crashes, updated_at)
        SELECT l.task, l.tenant, l.queue, l.priority,
               iif(r.value ->> 'due_at' IS NULL, 'PENDING', 'SCHEDULED'), r.value ->> 'due_at',
               r.value ->> 'lane', r.value ->> 'failures', r.value ->> 'crashes', ?3
        FROM json_each(?1) AS r
        CROSS JOIN live AS l ON l.task = r.value ->> 'task' AND l.attempt = r.value ->> 'attempt' AND l.worker = ?2
        WHERE true
        ON CONFLICT (task) DO UPDATE SET state = excluded.state, due_at = excluded.due_at, worker = NULL,
            cancel_requested = 0, lane = excluded.lane, failures = excluded.failures,
            crashes = excluded.crashes, updated_at = excluded.updated_at";
    let expected = returns.len() as u64;
    let (mut recorded, mut returned) = (0, 0);
    for page in pages(returns) {
        for (sql, changed) in [(ATTEMPT, &mut recorded), (LIVE, &mut returned)] {
            let done =
                sqlx::query(sql).bind(&page).bind(worker.0).bind(write.now).execute(&mut *write.conn).await;
            *changed += done.map_err(store_error)?.rows_affected();
        }
    }
    fenced(expected, recorded)?;
    fenced(expected, returned)
}
