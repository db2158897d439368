//! The inbox: what SQL's `submit_task` has left, and what becomes of it.

use std::time::Duration;

use application::ports::{Accepted, InboxStore, Letter, StoreError, TakenIn};
use async_trait::async_trait;
use domain::{Json, Rank, Start, TaskId, TaskType};
use sqlx::{
    Connection, PgConnection,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::sync::Mutex;

use crate::{
    PostgresStore,
    clock::Clock,
    connections::Operation,
    error::Fault,
    fair,
    rows::{self, failure_text, field, integer, interval, limit, micros, moment, retry_text},
};

const LETTERS: &str = "
SELECT id, tenant, task_type, input, options, submitted_at FROM inbox
WHERE task_type = ANY($2) OR submitted_at < coalesce($1, now()) - $3::interval
ORDER BY id LIMIT $4";

/// Who deletes a letter has it; the others wait for that, and find it gone.
const TAKE_IN: &str = "
WITH gone AS (
    DELETE FROM inbox WHERE id = ANY($2) RETURNING id
), taken AS MATERIALIZED (
    SELECT CASE WHEN s.start_at > coalesce($1, now()) THEN s.start_at
                WHEN s.delay > interval '0' THEN coalesce($1, now()) + s.delay END AS run_at, s.*
    FROM unnest($2::bigint[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::smallint[], $8::text[],
        $9::text[], $10::timestamptz[], $11::interval[], $12::timestamptz[], $13::integer[], $14::bigint[],
        $15::bigint[], $16::text[], $17::text[], $18::bigint[], $19::text[], $20::integer[])
        AS s (id, created_at, tenant, task_type, queue, priority, input, metadata, start_at, delay, expires_at,
            max_attempts, soft_time_limit, time_limit, error, retry, keep_for, fairness_key, cost)
    WHERE (s.id IN (SELECT id FROM gone)) IS TRUE
), kept AS (
    INSERT INTO task (id, created_at, expires_at, soft_time_limit, time_limit, max_attempts, priority, tenant,
        task_type, queue, input, metadata, retry, keep_for, fairness_key, cost)
    SELECT id, created_at, expires_at, soft_time_limit, time_limit, max_attempts, priority, tenant, task_type,
        queue, input, metadata, retry, keep_for, fairness_key, cost FROM taken
), kept_for AS (
    -- Its number may be older than what a walk through the records has passed.
    INSERT INTO retention_look (task, look_at)
    SELECT id, coalesce($1, now()) + coalesce(keep_for * interval '1 microsecond', '1 hour') FROM taken
), begun AS (
    INSERT INTO live (id, tenant, queue, priority, rank, ready, due_at, expires_at)
    SELECT id, tenant, queue, priority, CASE WHEN cost IS NOT NULL THEN -1 END, run_at IS NULL, run_at, expires_at
    FROM taken WHERE error IS NULL
), refused AS (
    INSERT INTO outcome (task, ended_at, attempt, failures, crashes, status, error)
    SELECT id, coalesce($1, now()), 0, 0, 0, 'FAILED', error FROM taken WHERE error IS NOT NULL
), tallied AS (
    INSERT INTO tally_delta (tenant, queue, scheduled, pending, failed)
    SELECT tenant, queue, count(*) FILTER (WHERE error IS NULL AND run_at IS NOT NULL),
        count(*) FILTER (WHERE error IS NULL AND run_at IS NULL), count(error)
    FROM taken GROUP BY tenant, queue
)
SELECT id, CASE WHEN error IS NULL THEN run_at END AS run_at,
    cost IS NOT NULL AND run_at IS NULL AND error IS NULL AS lines_up FROM taken";

/// What `submit_task` notifies.
const CHANNEL: &str = "task_runner_inbox";
/// How long nobody listens after the server did not answer. The inbox is looked at all the same.
const DEAF: Duration = Duration::from_secs(5);

struct Letters {
    known: Vec<TaskType>,
    patience: Duration,
    limit: usize,
    clock: Clock,
}

impl Operation for Letters {
    type Output = Vec<Letter>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<Letter>, Fault> {
        let known: Vec<_> = self.known.iter().map(TaskType::as_str).collect();
        let query = sqlx::query(LETTERS).bind(self.clock.bind()).bind(known);
        let query = query.bind(interval(self.patience)).bind(limit(self.limit));
        let found = query.fetch_all(connection).await?;
        let letter = |row| {
            Ok(Letter {
                id: TaskId(field(row, "id")?),
                tenant: rows::name(row, "tenant")?,
                task_type: rows::name(row, "task_type")?,
                input: Json::from_stored(field(row, "input")?),
                options: field(row, "options")?,
                submitted_at: field(row, "submitted_at")?,
            })
        };
        found.iter().map(letter).collect()
    }
}

struct TakeIn {
    letters: Vec<Accepted>,
    clock: Clock,
}

impl Operation for TakeIn {
    type Output = Vec<TakenIn>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<TakenIn>, Fault> {
        macro_rules! column {
            (|$letter:ident| $value:expr) => {
                self.letters.iter().map(|$letter| $value).collect::<Vec<_>>()
            };
        }
        let now = self.clock.bind();
        let mut transaction = connection.begin().await?;
        let taken = sqlx::query(TAKE_IN)
            .bind(now)
            .bind(column!(|letter| letter.id.0))
            .bind(column!(|letter| moment(letter.submitted_at)))
            .bind(column!(|letter| letter.task.tenant.as_str()))
            .bind(column!(|letter| letter.task.task_type.as_str()))
            .bind(column!(|letter| letter.task.queue.as_str()))
            .bind(column!(|letter| i16::from(letter.task.priority.get())))
            .bind(column!(|letter| letter.task.input.as_str()))
            .bind(column!(|letter| letter.task.metadata.as_ref().map(|metadata| metadata.as_str())))
            .bind(column!(|letter| match letter.task.start {
                Start::At(at) => Some(moment(at)),
                Start::Now | Start::After(_) => None,
            }))
            .bind(column!(|letter| match letter.task.start {
                Start::After(wait) => Some(interval(wait)),
                Start::Now | Start::At(_) => None,
            }))
            .bind(column!(|letter| letter.task.expires_at.map(moment)))
            .bind(column!(|letter| integer(letter.task.limits.max_attempts)))
            .bind(column!(|letter| letter.task.limits.soft_time_limit.map(micros)))
            .bind(column!(|letter| micros(letter.task.limits.time_limit)))
            .bind(column!(|letter| letter.refusal.as_ref().map(failure_text)))
            .bind(column!(|letter| retry_text(&letter.task.own)))
            .bind(column!(|letter| letter.task.own.keep_for.map(micros)))
            .bind(column!(|letter| letter.task.share.as_ref().and_then(|share| share
                .key
                .as_ref()?
                .as_str()
                .into())))
            .bind(column!(|letter| letter.task.share.as_ref().map(|share| integer(share.cost.get()))))
            .fetch_all(&mut *transaction)
            .await?;
        let (mut answers, mut fair) = (Vec::with_capacity(taken.len()), Vec::new());
        for row in &taken {
            let id: i64 = field(row, "id")?;
            answers.push(TakenIn { id: TaskId(id), run_at: field(row, "run_at")?, rank: Rank(id) });
            if field(row, "lines_up")? {
                fair.push(TaskId(id));
            }
        }
        let ranks = fair::line_up(&mut transaction, fair, now).await?;
        transaction.commit().await?;
        for taken in &mut answers {
            taken.rank = ranks.get(&taken.id).copied().unwrap_or(taken.rank);
        }
        Ok(answers)
    }
}

/// Hears `submit_task` on a connection of its own, which is opened when somebody first listens.
pub(crate) struct Ear {
    target: PgConnectOptions,
    listener: Mutex<Option<PgListener>>,
}

impl Ear {
    pub(crate) fn new(target: PgConnectOptions) -> Self {
        Self { target, listener: Mutex::default() }
    }

    /// Returns at the next notification; at once when listening has just begun, since something may have come before.
    async fn hear(&self) -> Result<(), sqlx::Error> {
        let mut place = self.listener.lock().await;
        // Taken out while it is in use: one that fails, or whose caller leaves, is opened anew.
        if let Some(mut listener) = place.take() {
            listener.recv().await?;
            *place = Some(listener);
            return Ok(());
        }
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(self.target.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(CHANNEL).await?;
        *place = Some(listener);
        Ok(())
    }
}

#[async_trait]
impl InboxStore for PostgresStore {
    async fn letters(
        &self,
        known: &[TaskType],
        patience: Duration,
        limit: usize,
    ) -> Result<Vec<Letter>, StoreError> {
        let (known, clock) = (known.to_vec(), self.clock.clone());
        self.connections.run(Letters { known, patience, limit, clock }).await
    }

    async fn take_in(&self, letters: &[Accepted]) -> Result<Vec<TakenIn>, StoreError> {
        self.tallied();
        let (letters, clock) = (letters.to_vec(), self.clock.clone());
        self.connections.run(TakeIn { letters, clock }).await
    }

    async fn knock(&self) {
        if let Err(error) = self.ear.hear().await {
            tracing::debug!(%error, "nobody listens for tasks that are submitted in SQL; the inbox is looked at");
            tokio::time::sleep(DEAF).await;
        }
    }
}
