//! Who waits, for rebuilding the order.

use application::ports::{StoreError, Waiting};
use domain::QueueName;
use sqlx::PgConnection;

use crate::{
    PostgresStore,
    connections::Operation,
    error::Fault,
    rows::{self, limit},
};

pub(crate) const WAITING: &str = "
SELECT id, queue, priority, lane FROM live WHERE queue = $1 AND lane = 0 AND ready AND worker IS NULL
ORDER BY priority, id LIMIT $2";

/// Leaps from queue to queue through the index, instead of reading every task. Any lane counts: suspects wait too.
pub(crate) const WAITING_QUEUES: &str = "
WITH RECURSIVE known AS (
    (SELECT queue FROM live WHERE ready ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT live.queue FROM live WHERE live.ready AND live.queue > known.queue ORDER BY live.queue LIMIT 1)
    FROM known WHERE known.queue IS NOT NULL
)
SELECT queue FROM known WHERE queue IS NOT NULL AND (
    SELECT true FROM live WHERE live.queue = known.queue AND live.ready AND live.worker IS NULL
    ORDER BY live.lane, live.priority, live.id LIMIT 1
)";

struct FirstWaiting {
    queue: QueueName,
    limit: usize,
}

impl Operation for FirstWaiting {
    type Output = Vec<Waiting>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<Waiting>, Fault> {
        let query = sqlx::query(WAITING).bind(self.queue.as_str()).bind(limit(self.limit));
        query.fetch_all(connection).await?.iter().map(rows::waiting).collect()
    }
}

struct QueuesThatWait;

impl Operation for QueuesThatWait {
    type Output = Vec<QueueName>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<QueueName>, Fault> {
        let rows = sqlx::query(WAITING_QUEUES).fetch_all(connection).await?;
        rows.iter().map(|row| rows::name(row, "queue")).collect()
    }
}

impl PostgresStore {
    pub(crate) async fn first_waiting(
        &self,
        queue: &QueueName,
        limit: usize,
    ) -> Result<Vec<Waiting>, StoreError> {
        self.connections.run(FirstWaiting { queue: queue.clone(), limit }).await
    }

    pub(crate) async fn queues_that_wait(&self) -> Result<Vec<QueueName>, StoreError> {
        self.connections.run(QueuesThatWait).await
    }
}
