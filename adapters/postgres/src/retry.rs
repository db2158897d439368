//! Running ended tasks again, because a person asks for it.

use std::collections::HashMap;

use application::ports::{Retry, RetryOutcome, StoreError, Waiting};
use domain::{
    Change, Counters, End, Event, QueueName, Rank, Refusal, State, Status, Suspicion, TaskId, TaskType,
    Tenant, decide, flow::is_batch,
};
use sqlx::{Connection, PgConnection};

use crate::{
    PostgresStore,
    clock::Clock,
    connections::Operation,
    error::Fault,
    fair,
    flow_retry::Back,
    follow::needs,
    rows::{self, counters, field, in_lock_order, integer},
};

struct RetryTasks {
    tenant: Tenant,
    tasks: Vec<Retry>,
    clock: Clock,
}

/// The last attempt goes from the outcome to the other attempts, and the task among the waiting, in the ordinary lane.
pub(crate) const REOPEN: &str = "
WITH again AS MATERIALIZED (
    SELECT r.*, o.*, t.tenant, t.queue, t.priority, t.unique_key, CASE WHEN t.cost IS NOT NULL THEN -1 END AS rank,
        CASE WHEN t.expires_at > coalesce($1, now()) THEN t.expires_at END AS patience,
        t.expires_at <= coalesce($1, now()) AS impatient
    FROM unnest($2::bigint[], $3::text[], $4::integer[], $5::integer[]) AS r (id, input, forgiven_failures, forgiven_crashes)
    CROSS JOIN LATERAL (
        SELECT worker, started_at, ended_at, attempt, failures, crashes, status, attempt_outcome, error
        FROM outcome WHERE outcome.task = r.id LIMIT 1
    ) o
    CROSS JOIN LATERAL (
        SELECT tenant, queue, priority, unique_key, expires_at, cost FROM task WHERE task.id = r.id LIMIT 1
    ) t
), kept AS (
    INSERT INTO attempt (task, worker, started_at, ended_at, attempt, outcome, error)
    SELECT id, worker, started_at, ended_at, attempt, attempt_outcome, error FROM again WHERE worker IS NOT NULL
), gone AS (
    DELETE FROM outcome WHERE task = ANY(ARRAY(SELECT id FROM again))
), begun AS (
    INSERT INTO live (id, expires_at, started_at, changed_at, attempt, failures, crashes, forgiven_failures,
        forgiven_crashes, priority, rank, ready, tenant, queue, unique_key, error)
    SELECT id, patience, started_at, coalesce($1, now()), attempt, failures, crashes, forgiven_failures,
        forgiven_crashes, priority, rank, true, tenant, queue, unique_key, error
    FROM again
), edited AS (
    UPDATE task SET input = coalesce(again.input, task.input), expires_at = again.patience
    FROM again WHERE task.id = again.id AND (again.input IS NOT NULL OR again.impatient)
), looked_at_again AS (
    -- The walk through old records may have passed it.
    INSERT INTO retention_look (task, look_at) SELECT id, coalesce($1, now()) + interval '1 hour' FROM again
    ON CONFLICT (task) DO NOTHING
), tallied AS (
    INSERT INTO tally_delta (tenant, queue, pending, failed, cancelled, expired)
    SELECT tenant, queue, count(*), -count(*) FILTER (WHERE status = 'FAILED'),
        -count(*) FILTER (WHERE status = 'CANCELLED'), -count(*) FILTER (WHERE status = 'EXPIRED')
    FROM again GROUP BY tenant, queue
)
SELECT id FROM again";

impl Operation for RetryTasks {
    type Output = Vec<RetryOutcome>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<RetryOutcome>, Fault> {
        let mut transaction = connection.begin().await?;
        // As a deletion does: first the submissions, then where they stand, so that it stays so.
        let ids = in_lock_order(self.tasks.iter().map(|retry| retry.id));
        let known = sqlx::query(
            "SELECT t.id, t.queue, t.priority, t.task_type, t.needs, t.cost IS NOT NULL AS is_fair
             FROM unnest($2::bigint[]) AS asked (id)
             CROSS JOIN LATERAL (
                SELECT id, queue, priority, task_type, needs, cost FROM task WHERE task.id = asked.id AND task.tenant = $1 FOR UPDATE
             ) t",
        )
        .bind(self.tenant.as_str())
        .bind(ids)
        .fetch_all(&mut *transaction)
        .await?;
        let mut places = HashMap::with_capacity(known.len());
        let mut flows = HashMap::new();
        for row in &known {
            let (queue, priority) = (rows::name::<QueueName>(row, "queue")?, rows::priority(row)?);
            let id = TaskId(field(row, "id")?);
            let rank = if field(row, "is_fair")? { fair::UNRANKED } else { Rank(id.0) };
            places.insert(id, Waiting { id, queue, priority, rank, suspicion: Suspicion::None });
            let task_type: TaskType = rows::name(row, "task_type")?;
            if is_batch(&task_type) || field::<Option<&str>>(row, "needs")?.is_some() {
                flows.insert(id, (task_type, needs(row)?));
            }
        }
        let ids = in_lock_order(places.keys().copied());
        let live = sqlx::query(
            "SELECT l.id, CASE WHEN l.worker IS NOT NULL THEN 'PROCESSING' WHEN l.ready THEN 'PENDING' ELSE 'SCHEDULED' END AS status
             FROM unnest($1::bigint[]) AS asked (id)
             CROSS JOIN LATERAL (SELECT id, worker, ready FROM live WHERE live.id = asked.id FOR UPDATE) l",
        )
        .bind(&ids)
        .fetch_all(&mut *transaction)
        .await?;
        let ended = sqlx::query(
            "SELECT task AS id, status, attempt, failures, crashes, forgiven_failures, forgiven_crashes
             FROM outcome WHERE task = ANY($1)",
        )
        .bind(&ids)
        .fetch_all(&mut *transaction)
        .await?;

        let mut outcomes = HashMap::with_capacity(ids.len());
        for row in &live {
            let unfinished = RetryOutcome::NotEnded(rows::status(row, "status")?);
            outcomes.insert(TaskId(field(row, "id")?), unfinished);
        }
        let mut reopened: HashMap<TaskId, Counters> = HashMap::new();
        for row in &ended {
            let (id, status) = (TaskId(field(row, "id")?), rows::status(row, "status")?);
            let outcome = match decide(ended_as(status)?, counters(row)?, Event::Retry) {
                Ok(Change::Reopen { counters }) => {
                    let Some(waiting) = places.remove(&id) else { continue };
                    reopened.insert(id, counters);
                    RetryOutcome::Waiting(waiting, counters.attempt)
                }
                Err(Refusal::Completed) => RetryOutcome::Completed,
                other => return Err(Fault::Unreadable(format!("task {id}: a retry would mean {other:?}"))),
            };
            outcomes.insert(id, outcome);
        }
        self.reopen(&mut transaction, &reopened).await?;
        let mut back = Back { now: self.clock.bind(), outcomes: &mut outcomes };
        back.wait_again(&mut transaction, &reopened, flows, |id| {
            self.tasks.iter().any(|retry| retry.id == id && retry.input.is_some())
        })
        .await?;
        let places = outcomes.values_mut().filter_map(|outcome| match outcome {
            RetryOutcome::Waiting(place, _) => Some(place),
            _ => None,
        });
        fair::rank(&mut transaction, places, self.clock.bind()).await?;
        transaction.commit().await?;
        // A task that is named twice waits already when its turn comes again.
        let again = |outcome: &mut RetryOutcome| match outcome {
            RetryOutcome::Waiting(..) => std::mem::replace(outcome, RetryOutcome::NotEnded(Status::Pending)),
            RetryOutcome::WaitingForOthers(_) => {
                std::mem::replace(outcome, RetryOutcome::NotEnded(Status::Scheduled))
            }
            other => other.clone(),
        };
        let answers = self.tasks.iter().map(|retry| outcomes.get_mut(&retry.id).map(again));
        Ok(answers.map(|answer| answer.unwrap_or(RetryOutcome::Unknown)).collect())
    }
}

impl RetryTasks {
    async fn reopen(
        &self,
        connection: &mut PgConnection,
        counters: &HashMap<TaskId, Counters>,
    ) -> Result<(), Fault> {
        if counters.is_empty() {
            return Ok(());
        }
        // Of a task that is named twice, the first input counts.
        let mut inputs = HashMap::with_capacity(self.tasks.len());
        for Retry { id, input } in &self.tasks {
            inputs.entry(*id).or_insert(input.as_ref());
        }
        let ids = in_lock_order(counters.keys().copied());
        let (mut edits, mut failures, mut crashes) = (Vec::new(), Vec::new(), Vec::new());
        for id in ids.iter().copied().map(TaskId) {
            let counters = counters.get(&id).copied().unwrap_or_default();
            edits.push(inputs.get(&id).copied().flatten().map(|input| input.as_str()));
            // None forgiven is the absence of a number: see the migration.
            failures.push(Some(integer(counters.forgiven_failures)).filter(|forgiven| *forgiven > 0));
            crashes.push(Some(integer(counters.forgiven_crashes)).filter(|forgiven| *forgiven > 0));
        }
        let query = sqlx::query(REOPEN).bind(self.clock.bind()).bind(ids);
        query.bind(edits).bind(failures).bind(crashes).execute(connection).await?;
        Ok(())
    }
}

/// A status as an end.
pub(crate) fn ended_as(status: Status) -> Result<State, Fault> {
    let end = match status {
        Status::Completed => End::Completed,
        Status::Failed => End::Failed,
        Status::Cancelled => End::Cancelled,
        Status::Expired => End::Expired,
        Status::Scheduled | Status::Pending | Status::Processing => {
            return Err(Fault::Unreadable(format!("{} is no end", status.as_str())));
        }
    };
    Ok(State::Ended(end))
}

impl PostgresStore {
    pub(crate) async fn retry_tasks(
        &self,
        tenant: &Tenant,
        tasks: &[Retry],
    ) -> Result<Vec<RetryOutcome>, StoreError> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        self.tallied();
        let (tenant, tasks, clock) = (tenant.clone(), tasks.to_vec(), self.clock.clone());
        let outcomes = self.connections.run(RetryTasks { tenant, tasks, clock }).await?;
        if outcomes.iter().any(|outcome| matches!(outcome, RetryOutcome::WaitingForOthers(_))) {
            self.need_ended.notify_one();
        }
        Ok(outcomes)
    }
}
