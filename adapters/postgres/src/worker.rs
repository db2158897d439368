//! Workers: their registration is their lease.

use application::ports::{StoreError, WorkerProfile};
use domain::{Json, QueueName, TaskId, WorkerId};
use sqlx::PgConnection;

use crate::{
    PostgresStore,
    clock::Clock,
    connections::Operation,
    error::Fault,
    rows::{count, field, interval, limit},
};

struct Register {
    profile: WorkerProfile,
    clock: Clock,
}

impl Operation for Register {
    type Output = WorkerId;

    async fn run(&self, connection: &mut PgConnection) -> Result<WorkerId, Fault> {
        let names = |queues: &[QueueName]| queues.iter().map(|queue| queue.to_string()).collect::<Vec<_>>();
        let except = Some(&self.profile.except).filter(|except| !except.is_empty());
        let id = sqlx::query_scalar(
            "INSERT INTO worker (name, queues, concurrency, lease, started_at, heartbeat_at, except_queues, about)
             VALUES ($1, $2, $3, $4, coalesce($5, now()), coalesce($5, now()), $6, $7) RETURNING id",
        )
        .bind(self.profile.name.as_str())
        .bind(names(&self.profile.queues))
        .bind(limit(self.profile.concurrency))
        .bind(interval(self.profile.lease))
        .bind(self.clock.bind())
        .bind(except.map(|except| names(except)))
        .bind(self.profile.about.as_ref().map(Json::as_str))
        .fetch_one(connection)
        .await?;
        Ok(WorkerId(id))
    }
}

struct Heartbeat {
    worker: WorkerId,
    done: Vec<i64>,
    clock: Clock,
}

impl Operation for Heartbeat {
    type Output = bool;

    async fn run(&self, connection: &mut PgConnection) -> Result<bool, Fault> {
        let done = sqlx::query(
            "WITH done AS (DELETE FROM claim_batch WHERE id = ANY($2))
             UPDATE worker SET heartbeat_at = coalesce($3, now())
             WHERE id = $1 AND dead_at IS NULL AND retired_at IS NULL",
        )
        .bind(self.worker.0)
        .bind(&self.done)
        .bind(self.clock.bind())
        .execute(connection)
        .await?;
        Ok(done.rows_affected() > 0)
    }
}

struct Retire {
    worker: WorkerId,
    done: Vec<i64>,
    clock: Clock,
}

impl Operation for Retire {
    type Output = ();

    /// Locks the row as a burial does: a claim that is on its way comes first, a later one finds nobody.
    async fn run(&self, connection: &mut PgConnection) -> Result<(), Fault> {
        sqlx::query(
            "WITH leaving AS MATERIALIZED (
                SELECT id FROM worker WHERE id = $1 AND dead_at IS NULL AND retired_at IS NULL FOR UPDATE
             ), done AS (DELETE FROM claim_batch WHERE id = ANY($2))
             UPDATE worker SET retired_at = coalesce($3, now()) WHERE id = (SELECT id FROM leaving)",
        )
        .bind(self.worker.0)
        .bind(&self.done)
        .bind(self.clock.bind())
        .execute(connection)
        .await?;
        Ok(())
    }
}

struct CancelRequests {
    worker: WorkerId,
}

impl Operation for CancelRequests {
    type Output = Vec<(TaskId, u32)>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Output, Fault> {
        let rows =
            sqlx::query("SELECT id, attempt FROM live WHERE cancel_requested AND worker = $1 ORDER BY id")
                .bind(self.worker.0)
                .fetch_all(connection)
                .await?;
        rows.iter().map(|row| Ok((TaskId(field(row, "id")?), count(row, "attempt")?))).collect()
    }
}

impl PostgresStore {
    pub(crate) async fn register_worker(&self, profile: &WorkerProfile) -> Result<WorkerId, StoreError> {
        self.connections.run(Register { profile: profile.clone(), clock: self.clock.clone() }).await
    }

    pub(crate) async fn beat(&self, worker: WorkerId) -> Result<bool, StoreError> {
        let ledger = self.ledgers.get(worker);
        let done = ledger.as_ref().map(|ledger| ledger.take_done()).unwrap_or_default();
        let operation = Heartbeat { worker, done: done.clone(), clock: self.clock.clone() };
        let alive = self.connections.run(operation).await;
        if let Some(ledger) = ledger {
            match alive {
                Ok(true) if ledger.in_doubt() => {
                    // The heartbeat has been heard whatever comes of this; the next one looks again.
                    if let Err(error) = self.release_lost_claims(worker, &ledger).await {
                        tracing::debug!(%worker, %error, "could not look for claims whose answer was lost");
                    }
                }
                Ok(true) => {}
                Ok(false) => self.ledgers.close(worker),
                Err(_) => ledger.put_back_done(done),
            }
        }
        alive
    }

    pub(crate) async fn retire_worker(&self, worker: WorkerId) -> Result<(), StoreError> {
        let done = self.ledgers.get(worker).map(|ledger| ledger.take_done()).unwrap_or_default();
        self.connections.run(Retire { worker, done, clock: self.clock.clone() }).await?;
        self.ledgers.close(worker);
        Ok(())
    }

    pub(crate) async fn cancel_requests_of(
        &self,
        worker: WorkerId,
    ) -> Result<Vec<(TaskId, u32)>, StoreError> {
        self.connections.run(CancelRequests { worker }).await
    }
}
