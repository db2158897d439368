//! What time brings: scheduled tasks come due, waiting ones expire.

use std::time::Duration;

use application::ports::{StoreError, Waiting};
use domain::{Change, Counters, Event, State, TaskId, Timestamp, decide};
use sqlx::{Connection, PgConnection};

use crate::{
    PostgresStore,
    cancel::end_waiting,
    clock::Clock,
    connections::Operation,
    error::Fault,
    fair,
    flow::NEVER,
    rows::{self, field, limit},
};

pub(crate) const PROMOTE: &str = "
WITH due AS MATERIALIZED (
    SELECT id FROM live WHERE NOT ready AND due_at <= coalesce($1, now())
    ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED
), promoted AS (
    UPDATE live SET ready = true, due_at = NULL, changed_at = coalesce($1, now())
    WHERE id = ANY(ARRAY(SELECT id FROM due)) RETURNING id, tenant, queue, priority, rank, lane
), tallied AS (
    INSERT INTO tally_delta (tenant, queue, scheduled, pending)
    SELECT tenant, queue, -count(*), count(*) FROM promoted GROUP BY tenant, queue
)
SELECT id, queue, priority, coalesce(rank, id) AS rank, lane FROM promoted ORDER BY id";

struct Promote {
    limit: usize,
    clock: Clock,
}

impl Operation for Promote {
    type Output = Vec<Waiting>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<Waiting>, Fault> {
        let now = self.clock.bind();
        let mut transaction = connection.begin().await?;
        let query = sqlx::query(PROMOTE).bind(now).bind(limit(self.limit));
        let promoted = query.fetch_all(&mut *transaction).await?;
        let mut promoted = promoted.iter().map(rows::waiting).collect::<Result<Vec<_>, _>>()?;
        fair::rank(&mut transaction, &mut promoted, now).await?;
        transaction.commit().await?;
        Ok(promoted)
    }
}

struct NextDue {
    clock: Clock,
}

impl Operation for NextDue {
    type Output = Option<Duration>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Option<Duration>, Fault> {
        let row = sqlx::query(
            "SELECT coalesce($1, now()) AS now,
                (SELECT due_at FROM live WHERE NOT ready AND due_at < $2 ORDER BY due_at LIMIT 1) AS due_at",
        )
        .bind(self.clock.bind())
        .bind(*NEVER)
        .fetch_one(connection)
        .await?;
        let (now, due_at): (Timestamp, Option<Timestamp>) = (field(&row, "now")?, field(&row, "due_at")?);
        Ok(due_at.map(|due_at| (due_at - now).to_std().unwrap_or(Duration::ZERO)))
    }
}

pub(crate) const EXPIRING: &str = "
SELECT id FROM live WHERE expires_at IS NOT NULL AND expires_at <= coalesce($1, now()) AND worker IS NULL
ORDER BY expires_at LIMIT $2";

struct Expire {
    limit: usize,
    clock: Clock,
}

impl Operation for Expire {
    type Output = Vec<TaskId>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<TaskId>, Fault> {
        let query = sqlx::query_scalar(EXPIRING).bind(self.clock.bind()).bind(limit(self.limit));
        let mut ids: Vec<i64> = query.fetch_all(&mut *connection).await?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        ids.sort_unstable();
        // The same decision for all: it changes no counter.
        let (end, error) = match decide(State::Pending, Counters::default(), Event::Expire) {
            Ok(Change::Finish { end, error, .. }) => (end, error),
            other => return Err(Fault::Unreadable(format!("expiry would mean {other:?}"))),
        };
        // Those that a worker took since then are left alone: it came in time.
        let expired = end_waiting(connection, &ids, end, error.as_ref(), self.clock.bind()).await?;
        Ok(expired.into_iter().map(TaskId).collect())
    }
}

impl PostgresStore {
    pub(crate) async fn promote_due(&self, limit: usize) -> Result<Vec<Waiting>, StoreError> {
        self.tallied();
        self.connections.run(Promote { limit, clock: self.clock.clone() }).await
    }

    pub(crate) async fn time_to_next_due(&self) -> Result<Option<Duration>, StoreError> {
        self.connections.run(NextDue { clock: self.clock.clone() }).await
    }

    pub(crate) async fn expire_waiting(&self, limit: usize) -> Result<Vec<TaskId>, StoreError> {
        self.tallied();
        let expired = self.connections.run(Expire { limit, clock: self.clock.clone() }).await?;
        if !expired.is_empty() {
            self.need_ended.notify_one();
        }
        Ok(expired)
    }
}
