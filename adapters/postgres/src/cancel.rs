//! Cancelling, and every other end of a task that no worker holds.

use std::collections::HashMap;

use application::ports::{CancelOutcome, StoreError};
use domain::{Change, End, Event, State, Status, TaskId, Tenant, Timestamp, decide};
use sqlx::{Connection, PgConnection};

use crate::{
    PostgresStore,
    clock::Clock,
    connections::Operation,
    error::Fault,
    rows::{self, counters, failure_text, field, in_lock_order},
};

struct Cancel {
    tenant: Tenant,
    ids: Vec<TaskId>,
    clock: Clock,
}

impl Operation for Cancel {
    type Output = Vec<CancelOutcome>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<CancelOutcome>, Fault> {
        let mut transaction = connection.begin().await?;
        let ids = in_lock_order(self.ids.iter().copied());
        let held = sqlx::query(
            "SELECT l.id, l.ready, l.worker IS NOT NULL AS running, l.cancel_requested, l.attempt, l.failures,
                l.crashes, l.forgiven_failures, l.forgiven_crashes
             FROM unnest($2::bigint[]) AS asked (id)
             CROSS JOIN LATERAL (SELECT * FROM live WHERE live.id = asked.id AND live.tenant = $1 FOR UPDATE) l",
        )
        .bind(self.tenant.as_str())
        .bind(&ids)
        .fetch_all(&mut *transaction)
        .await?;

        let mut outcomes = HashMap::new();
        let (mut ends, mut requests) = (Vec::new(), Vec::new());
        for row in &held {
            let id: i64 = field(row, "id")?;
            let state = match (field(row, "running")?, field(row, "ready")?) {
                (true, _) => State::Processing { cancel_requested: field(row, "cancel_requested")? },
                (false, true) => State::Pending,
                (false, false) => State::Scheduled,
            };
            match decide(state, counters(row)?, Event::Cancel) {
                Ok(Change::Finish { end: End::Cancelled, .. }) => {
                    ends.push(id);
                    outcomes.insert(id, CancelOutcome::Cancelled);
                }
                Ok(Change::RequestCancel) => {
                    requests.push(id);
                    outcomes.insert(id, CancelOutcome::Requested);
                }
                other => {
                    return Err(Fault::Unreadable(format!("task {id}: cancelling it would mean {other:?}")));
                }
            }
        }
        if !ends.is_empty() {
            end_waiting(&mut transaction, &ends, End::Cancelled, None, self.clock.bind()).await?;
        }
        if !requests.is_empty() {
            sqlx::query(
                "UPDATE live SET cancel_requested = true WHERE id = ANY($1) AND NOT cancel_requested",
            )
            .bind(&requests)
            .execute(&mut *transaction)
            .await?;
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
                outcomes.insert(field(row, "id")?, CancelOutcome::AlreadyEnded(rows::status(row, "status")?));
            }
        }
        transaction.commit().await?;
        // A task that is named twice has ended when its turn comes again.
        let again = |outcome: &mut CancelOutcome| match *outcome {
            CancelOutcome::Cancelled => {
                std::mem::replace(outcome, CancelOutcome::AlreadyEnded(Status::Cancelled))
            }
            other => other,
        };
        let answers = self.ids.iter().map(|id| outcomes.get_mut(&id.0).map(again));
        Ok(answers.map(|answer| answer.unwrap_or(CancelOutcome::Unknown)).collect())
    }
}

/// Ends those of these tasks that wait, as `end`, and answers which. Running ones are left alone.
pub(crate) async fn end_waiting(
    connection: &mut PgConnection,
    ids: &[i64],
    end: End,
    error: Option<&domain::Failure>,
    now: Option<Timestamp>,
) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "WITH gone AS (
            DELETE FROM live WHERE id = ANY($1) AND worker IS NULL
            RETURNING id, tenant, queue, ready, attempt, failures, crashes, forgiven_failures, forgiven_crashes, started_at, awaited, waits_for
        ), told AS (
            INSERT INTO ended_need (task) SELECT id FROM gone WHERE awaited
        ), untied AS (
            DELETE FROM dependency WHERE task = ANY(ARRAY(SELECT id FROM gone WHERE waits_for IS NOT NULL))
        ), ended AS (
            INSERT INTO outcome (task, started_at, ended_at, attempt, failures, crashes, forgiven_failures,
                forgiven_crashes, status, error)
            SELECT id, started_at, coalesce($4, now()), attempt, failures, crashes, forgiven_failures,
                forgiven_crashes, $2, $3
            FROM gone
        ), tallied AS (
            INSERT INTO tally_delta (tenant, queue, scheduled, pending, cancelled, expired)
            SELECT tenant, queue, -count(*) FILTER (WHERE NOT ready), -count(*) FILTER (WHERE ready),
                count(*) FILTER (WHERE $2 = 'CANCELLED'), count(*) FILTER (WHERE $2 = 'EXPIRED')
            FROM gone GROUP BY tenant, queue
        )
        SELECT id FROM gone ORDER BY id",
    )
    .bind(ids)
    .bind(Status::from(end).as_str())
    .bind(error.map(failure_text))
    .bind(now)
    .fetch_all(connection)
    .await
}

impl PostgresStore {
    pub(crate) async fn cancel_tasks(
        &self,
        tenant: &Tenant,
        ids: &[TaskId],
    ) -> Result<Vec<CancelOutcome>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.tallied();
        let (tenant, ids, clock) = (tenant.clone(), ids.to_vec(), self.clock.clone());
        let outcomes = self.connections.run(Cancel { tenant, ids, clock }).await?;
        self.need_ended.notify_one();
        Ok(outcomes)
    }
}
