//! Ending tasks, whoever decided it: the row of what stands gives way to the outcome.

use application::ports::StoreError;
use domain::{AttemptOutcome, Counters, End, Failure, Status, TaskId};
use serde::Serialize;

use crate::{error::store_error, rows::pages, writer::Write};

/// An end that has been decided, with the state that the decision assumed.
#[derive(Serialize)]
pub(crate) struct Ending {
    task: i64,
    /// The fence: attempt and worker as they were when it was decided.
    attempt: u32,
    worker: Option<i64>,
    status: &'static str,
    attempt_outcome: Option<&'static str>,
    failures: u32,
    crashes: u32,
    result: Option<String>,
    details: Option<String>,
    error_code: Option<String>,
    error_message: Option<String>,
}

impl Ending {
    /// The end of a task that nobody holds.
    pub(crate) fn waiting(task: TaskId, end: End, counters: Counters, error: Option<Failure>) -> Self {
        let (error_code, error_message) = error.map(|error| (error.code, error.message)).unzip();
        Self {
            task: task.0,
            attempt: counters.attempt,
            worker: None,
            status: Status::from(end).as_str(),
            attempt_outcome: None,
            failures: counters.failures,
            crashes: counters.crashes,
            result: None,
            details: None,
            error_code,
            error_message,
        }
    }

    /// The end of a task in a worker's hand, with what the handler returned.
    pub(crate) fn held(
        self,
        worker: i64,
        attempt_outcome: AttemptOutcome,
        result: Option<String>,
        details: Option<String>,
    ) -> Self {
        let attempt_outcome = Some(attempt_outcome.as_str());
        Self { worker: Some(worker), attempt_outcome, result, details, ..self }
    }
}

/// Applies ends that were decided in this transaction. The caller keeps the tally.
pub(crate) async fn end(write: &mut Write<'_>, endings: Vec<Ending>) -> Result<(), StoreError> {
    const OUTCOME: &str = "
        INSERT INTO outcome (task, tenant, status, attempt, failures, crashes, forgiven_failures, forgiven_crashes,
                             worker, attempt_outcome, started_at, ended_at, result, details, error_code, error_message)
        SELECT l.task, l.tenant, e.value ->> 'status', l.attempt, e.value ->> 'failures', e.value ->> 'crashes',
               l.forgiven_failures, l.forgiven_crashes, l.worker, e.value ->> 'attempt_outcome', l.started_at, ?2, e.value ->> 'result',
               e.value ->> 'details', e.value ->> 'error_code', e.value ->> 'error_message'
        FROM json_each(?1) AS e
        CROSS JOIN live AS l ON l.task = e.value ->> 'task' AND l.attempt = e.value ->> 'attempt'
                            AND l.worker IS e.value ->> 'worker'";
    const LIVE: &str = "
        DELETE FROM live WHERE task IN (
            SELECT l.task FROM json_each(?1) AS e
            CROSS JOIN live AS l ON l.task = e.value ->> 0 AND l.attempt = e.value ->> 1
                                AND l.worker IS e.value ->> 2)";
    let expected = endings.len() as u64;
    let (mut ended, mut removed) = (0, 0);
    for page in pages(&endings) {
        let outcome = sqlx::query(OUTCOME).bind(page).bind(write.now).execute(&mut *write.conn).await;
        ended += outcome.map_err(store_error)?.rows_affected();
    }
    for page in pages(endings.iter().map(|ending| (ending.task, ending.attempt, ending.worker))) {
        let live = sqlx::query(LIVE).bind(page).execute(&mut *write.conn).await;
        removed += live.map_err(store_error)?.rows_affected();
    }
    fenced(expected, ended)?;
    fenced(expected, removed)
}

/// Nobody else writes, so what was read in this transaction still holds when it is changed; if it does not, the tables
/// contradict each other, and the change is taken back.
pub(crate) fn fenced(expected: u64, changed: u64) -> Result<(), StoreError> {
    if expected == changed {
        return Ok(());
    }
    Err(StoreError::Corrupt(format!(
        "a change of {expected} tasks found {changed} of them as they had been read"
    )))
}
