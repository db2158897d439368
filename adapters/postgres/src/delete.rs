//! Removing tasks with all that belongs to them.

use std::{collections::HashMap, time::Duration};

use application::ports::{DeleteOutcome, DiscardOutcome, StoreError};
use domain::{End, QueueName, Status, TaskId, Tenant, Timestamp};
use sqlx::{Connection, PgConnection};

use crate::{
    PostgresStore,
    clock::Clock,
    connections::Operation,
    error::Fault,
    rows::{self, field, in_lock_order, interval, limit},
    tally::Changes,
};

/// Which of the tasks that were asked for may go.
#[derive(Clone, Copy)]
pub(crate) enum Doomed<'a> {
    /// All that nobody runs.
    NotRunning,
    /// All that sit in manual handling.
    Failed,
    /// Those of them that ended before this moment.
    FailedBefore(Timestamp),
    /// All that still stand as they were when they were judged.
    EndedAt(&'a HashMap<i64, (End, Timestamp)>),
}

impl Doomed<'_> {
    fn includes(self, id: i64, status: Status, ended_at: Option<Timestamp>) -> bool {
        match self {
            Self::NotRunning => status != Status::Processing,
            Self::Failed => status == Status::Failed,
            Self::FailedBefore(moment) => status == Status::Failed && ended_at.is_some_and(|at| at < moment),
            Self::EndedAt(judged) => {
                judged.get(&id).is_some_and(|(end, at)| status == Status::from(*end) && ended_at == Some(*at))
            }
        }
    }
}

/// Removes tasks of one tenant, or of all. Answers where each stood that there is, and whether it is gone.
pub(crate) async fn remove(
    connection: &mut PgConnection,
    tenant: Option<&Tenant>,
    ids: Vec<i64>,
    doomed: Doomed<'_>,
) -> Result<HashMap<i64, (Status, bool)>, Fault> {
    // First the submissions, which makes one of two deletions wait; then where they stand, so that it stays so.
    let known = sqlx::query(
        "SELECT t.id, t.tenant, t.queue FROM unnest($2::bigint[]) AS asked (id)
         CROSS JOIN LATERAL (
            SELECT id, tenant, queue FROM task WHERE task.id = asked.id AND ($1::text IS NULL OR task.tenant = $1) FOR UPDATE
         ) t",
    )
    .bind(tenant.map(Tenant::as_str))
    .bind(ids)
    .fetch_all(&mut *connection)
    .await?;
    let mut owners: HashMap<i64, (Tenant, QueueName)> = HashMap::with_capacity(known.len());
    for row in &known {
        owners.insert(field(row, "id")?, (rows::name(row, "tenant")?, rows::name(row, "queue")?));
    }
    let ids = in_lock_order(owners.keys().copied().map(TaskId));
    let live = sqlx::query(
        "SELECT l.id, CASE WHEN l.worker IS NOT NULL THEN 'PROCESSING' WHEN l.ready THEN 'PENDING' ELSE 'SCHEDULED' END AS status,
            NULL::timestamptz AS ended_at
         FROM unnest($1::bigint[]) AS asked (id)
         CROSS JOIN LATERAL (SELECT id, worker, ready FROM live WHERE live.id = asked.id FOR UPDATE) l",
    )
    .bind(&ids)
    .fetch_all(&mut *connection)
    .await?;
    let ended = sqlx::query("SELECT task AS id, status, ended_at FROM outcome WHERE task = ANY($1)")
        .bind(&ids)
        .fetch_all(&mut *connection)
        .await?;

    let mut stood = HashMap::with_capacity(owners.len());
    let mut changes = Changes::default();
    let mut gone = Vec::new();
    for row in live.iter().chain(&ended) {
        let (id, status): (i64, Status) = (field(row, "id")?, rows::status(row, "status")?);
        let goes = doomed.includes(id, status, field(row, "ended_at")?);
        stood.insert(id, (status, goes));
        if let (true, Some((tenant, queue))) = (goes, owners.get(&id)) {
            changes.add(tenant, queue, status, -1);
            gone.push(id);
        }
    }
    if !gone.is_empty() {
        gone.sort_unstable();
        sqlx::query(
            "WITH live_gone AS (DELETE FROM live WHERE id = ANY($1) RETURNING id, awaited),
             told AS (INSERT INTO ended_need (task) SELECT id FROM live_gone WHERE awaited),
             untied AS (DELETE FROM dependency WHERE task = ANY($1)),
             outcome_gone AS (DELETE FROM outcome WHERE task = ANY($1)),
             attempt_gone AS (DELETE FROM attempt WHERE task = ANY($1)),
             progress_gone AS (DELETE FROM progress WHERE task = ANY($1)),
             chunk_gone AS (DELETE FROM chunk WHERE task = ANY($1)),
             call_gone AS (DELETE FROM model_call WHERE task = ANY($1))
             DELETE FROM task WHERE id = ANY($1)",
        )
        .bind(&gone)
        .execute(&mut *connection)
        .await?;
        changes.apply(connection).await?;
    }
    Ok(stood)
}

/// Tasks that a client asked to remove.
struct Remove {
    tenant: Tenant,
    ids: Vec<TaskId>,
    doomed: Doomed<'static>,
}

impl Operation for Remove {
    type Output = HashMap<i64, (Status, bool)>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Output, Fault> {
        let mut transaction = connection.begin().await?;
        let ids = in_lock_order(self.ids.iter().copied());
        let stood = remove(&mut transaction, Some(&self.tenant), ids, self.doomed).await?;
        transaction.commit().await?;
        Ok(stood)
    }
}

pub(crate) const LONG_FAILED: &str = "
SELECT task FROM outcome WHERE status = 'FAILED' AND ended_at < $1 ORDER BY ended_at LIMIT $2";

/// What has waited for a person for too long.
struct RemoveOldFailures {
    age: Duration,
    limit: usize,
    clock: Clock,
}

impl Operation for RemoveOldFailures {
    type Output = usize;

    async fn run(&self, connection: &mut PgConnection) -> Result<usize, Fault> {
        let mut transaction = connection.begin().await?;
        let before: Timestamp = sqlx::query_scalar("SELECT coalesce($1, now()) - $2")
            .bind(self.clock.bind())
            .bind(interval(self.age))
            .fetch_one(&mut *transaction)
            .await?;
        let old: Vec<i64> = sqlx::query_scalar(LONG_FAILED)
            .bind(before)
            .bind(limit(self.limit))
            .fetch_all(&mut *transaction)
            .await?;
        let ids = in_lock_order(old.into_iter().map(TaskId));
        // Looked at again under lock: one may have been run again since, or be gone.
        let stood = remove(&mut transaction, None, ids, Doomed::FailedBefore(before)).await?;
        transaction.commit().await?;
        Ok(stood.values().filter(|(_, gone)| *gone).count())
    }
}

impl PostgresStore {
    pub(crate) async fn delete_tasks(
        &self,
        tenant: &Tenant,
        ids: &[TaskId],
    ) -> Result<Vec<DeleteOutcome>, StoreError> {
        let mut stood = self.remove_tasks(tenant, ids, Doomed::NotRunning).await?;
        let outcome = |id: &TaskId| match stood.get(&id.0) {
            None => DeleteOutcome::Unknown,
            Some((_, false)) => DeleteOutcome::Processing,
            Some((_, true)) => {
                stood.remove(&id.0);
                DeleteOutcome::Deleted
            }
        };
        Ok(ids.iter().map(outcome).collect())
    }

    pub(crate) async fn discard_tasks(
        &self,
        tenant: &Tenant,
        ids: &[TaskId],
    ) -> Result<Vec<DiscardOutcome>, StoreError> {
        let mut stood = self.remove_tasks(tenant, ids, Doomed::Failed).await?;
        let outcome = |id: &TaskId| match stood.get(&id.0) {
            None => DiscardOutcome::Unknown,
            Some((status, false)) => DiscardOutcome::NotFailed(*status),
            Some((_, true)) => {
                stood.remove(&id.0);
                DiscardOutcome::Discarded
            }
        };
        Ok(ids.iter().map(outcome).collect())
    }

    async fn remove_tasks(
        &self,
        tenant: &Tenant,
        ids: &[TaskId],
        doomed: Doomed<'static>,
    ) -> Result<HashMap<i64, (Status, bool)>, StoreError> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        self.tallied();
        let stood =
            self.connections.run(Remove { tenant: tenant.clone(), ids: ids.to_vec(), doomed }).await?;
        self.need_ended.notify_one();
        Ok(stood)
    }

    pub(crate) async fn discard_old_failures(
        &self,
        age: Duration,
        limit: usize,
    ) -> Result<usize, StoreError> {
        self.tallied();
        self.connections.run(RemoveOldFailures { age, limit, clock: self.clock.clone() }).await
    }
}
