//! Who waits, for rebuilding the order.

use application::ports::{StoreError, Waiting};
use domain::{QueueName, Suspicion, TaskId};
use sqlx::{PgConnection, postgres::PgRow};

use crate::{
    PostgresStore,
    connections::Operation,
    error::Fault,
    rows::{self, field, limit},
};

/// The first `$2` of queue `$1`, each priority from behind an id on (`$3`, see [`crate::marks`]).
pub(crate) const WAITING: &str = "
SELECT found.id, found.priority
FROM generate_series(0, 9) AS level
CROSS JOIN LATERAL (
    SELECT id, priority FROM live
    WHERE live.queue = $1 AND live.lane = 0 AND live.ready AND live.worker IS NULL
        AND (live.priority, live.id) > (level::smallint, ($3::bigint[])[level + 1]) AND live.priority <= level::smallint
    ORDER BY live.priority, live.id
) found
LIMIT $2";

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
    behind: Vec<i64>,
}

impl Operation for FirstWaiting {
    type Output = Vec<Waiting>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<Waiting>, Fault> {
        let query = sqlx::query(WAITING).bind(self.queue.as_str()).bind(limit(self.limit)).bind(&self.behind);
        let waiting = |row: &PgRow| {
            let (id, queue) = (TaskId(field(row, "id")?), self.queue.clone());
            Ok(Waiting { id, queue, priority: rows::priority(row)?, suspicion: Suspicion::None })
        };
        query.fetch_all(connection).await?.iter().map(waiting).collect()
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
        let (scan, behind) = self.refill_marks.begin([queue]);
        let waiting = self.connections.run(FirstWaiting { queue: queue.clone(), limit, behind }).await?;
        // Nobody waits before the first that was found; what was found still does, wherever the order keeps it.
        let firsts = waiting.chunk_by(|one, next| one.priority == next.priority).filter_map(<[_]>::first);
        self.refill_marks.end(
            &scan,
            waiting.len(),
            firsts.map(|first| (queue, first.priority, TaskId(first.id.0 - 1))),
        );
        Ok(waiting)
    }

    pub(crate) async fn queues_that_wait(&self) -> Result<Vec<QueueName>, StoreError> {
        self.connections.run(QueuesThatWait).await
    }
}
