//! What a mutant does to PostgreSQL past the product's own statements.

use std::time::Duration;

use application::ports::{Receipt, Settlement, StoreError, Submitted};
use domain::{Change, End, NewTask, Rank, TaskId, WorkerId};
use sqlx::{PgPool, postgres::PgPoolOptions};

/// How much later than its answer a submission is stored.
const LATER: Duration = Duration::from_millis(200);

/// A connection of the mutant's own.
pub(super) struct Breakage {
    pool: PgPool,
}

fn failed(error: sqlx::Error) -> StoreError {
    StoreError::Unavailable(format!("the mutant failed: {error}"))
}

impl Breakage {
    pub(super) fn open(url: &str) -> Option<Self> {
        let pool = PgPoolOptions::new().max_connections(2).connect_lazy(url).ok()?;
        Some(Self { pool })
    }

    /// Draws the ids, answers, and stores the tasks when nobody waits any more.
    pub(super) async fn answer_and_store_later(
        &self,
        tasks: &[NewTask],
    ) -> Result<Vec<Submitted>, StoreError> {
        let mut receipts = Vec::with_capacity(tasks.len());
        for task in tasks {
            let (id, created_at) = sqlx::query_as("SELECT nextval('task_id'), now()")
                .fetch_one(&self.pool)
                .await
                .map_err(failed)?;
            receipts.push(Submitted::New(Receipt {
                id: TaskId(id),
                created_at,
                run_at: None,
                rank: Rank(id),
            }));
            let (pool, task) = (self.pool.clone(), task.clone());
            tokio::spawn(async move {
                tokio::time::sleep(LATER).await;
                let insert = "WITH kept AS (
                        INSERT INTO task (id, created_at, time_limit, max_attempts, priority, tenant, task_type, queue,
                            input, metadata)
                        VALUES ($1, now(), $2, $3, $4, $5, $6, $7, $8, $9)
                    )
                    INSERT INTO live (id, priority, ready, tenant, queue) VALUES ($1, $4, true, $5, $7)";
                let stored = sqlx::query(insert)
                    .bind(id)
                    .bind(i64::try_from(task.limits.time_limit.as_micros()).unwrap_or(i64::MAX))
                    .bind(i32::try_from(task.limits.max_attempts).unwrap_or(i32::MAX))
                    .bind(i16::from(task.priority.get()))
                    .bind(task.tenant.as_str())
                    .bind(task.task_type.as_str())
                    .bind(task.queue.as_str())
                    .bind(task.input.as_str())
                    .bind(task.metadata.as_ref().map(|metadata| metadata.as_str()))
                    .execute(&pool)
                    .await;
                if let Err(error) = stored {
                    eprintln!("the mutant could not store task {id}: {error}");
                }
            });
        }
        Ok(receipts)
    }

    pub(super) async fn overwrite_end(&self, task: TaskId) -> Result<(), StoreError> {
        self.run("UPDATE outcome SET status = 'CANCELLED' WHERE task = $1", &[task.0]).await
    }

    pub(super) async fn set_back_attempt(&self, task: TaskId) -> Result<(), StoreError> {
        self.run("UPDATE live SET attempt = attempt - 1 WHERE id = $1", &[task.0]).await
    }

    /// Takes one task out of another's hands.
    pub(super) async fn steal(&self, worker: WorkerId) -> Result<(), StoreError> {
        let steal = "UPDATE live SET worker = $1, attempt = attempt + 1 WHERE id = (
                SELECT id FROM live WHERE worker <> $1 LIMIT 1 FOR UPDATE SKIP LOCKED)";
        self.run(steal, &[worker.0]).await
    }

    /// Drops a task that was to wait again.
    pub(super) async fn lose(&self, task: TaskId, worker: WorkerId) -> Result<(), StoreError> {
        self.run("DELETE FROM live WHERE id = $1 AND worker = $2", &[task.0, worker.0]).await
    }

    pub(super) async fn bury_who_pauses(&self) -> Result<(), StoreError> {
        let bury = "UPDATE worker SET dead_at = now()
            WHERE dead_at IS NULL AND retired_at IS NULL AND heartbeat_at < now() - lease / 8";
        self.run(bury, &[]).await
    }

    /// Completes a task, whoever holds it; answers whether it was there.
    pub(super) async fn complete(
        &self,
        worker: WorkerId,
        settlement: &Settlement,
    ) -> Result<bool, StoreError> {
        if !matches!(settlement.change, Change::Finish { end: End::Completed, .. }) {
            return Ok(false);
        }
        let complete = "WITH gone AS (DELETE FROM live WHERE id = $1 RETURNING id)
            INSERT INTO outcome (task, worker, started_at, ended_at, attempt, failures, crashes, status, attempt_outcome,
                result)
            SELECT id, $2, now(), now(), $3, 0, 0, 'COMPLETED', 'COMPLETED', $4 FROM gone";
        let done = sqlx::query(complete)
            .bind(settlement.task.0)
            .bind(worker.0)
            .bind(i32::try_from(settlement.attempt).unwrap_or(i32::MAX))
            .bind(settlement.result.as_ref().map(|result| result.as_str()))
            .execute(&self.pool)
            .await
            .map_err(failed)?;
        Ok(done.rows_affected() > 0)
    }

    async fn run(&self, sql: &'static str, numbers: &[i64]) -> Result<(), StoreError> {
        let query = numbers.iter().fold(sqlx::query(sql), |query, number| query.bind(*number));
        query.execute(&self.pool).await.map_err(failed)?;
        Ok(())
    }
}
