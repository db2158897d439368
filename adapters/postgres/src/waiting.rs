//! Who waits, for rebuilding the order.

use std::{collections::BTreeSet, iter};

use application::ports::{Patience, StoreError, Waiting};
use domain::{QueueName, Rank, Suspicion, TaskId};
use sqlx::{PgConnection, postgres::PgRow};

use crate::{
    PostgresStore,
    connections::Operation,
    error::Fault,
    rows::{self, field, limit},
};

/// The first `$2` of queue `$1`, each priority from behind a rank on (`$3`, see [`crate::marks`]).
pub(crate) const WAITING: &str = "
SELECT found.id, found.priority, found.rank
FROM generate_series(0, 9) AS level
CROSS JOIN LATERAL (
    SELECT id, priority, coalesce(live.rank, live.id) AS rank FROM live
    WHERE live.queue = $1 AND live.lane = 0 AND live.ready AND live.worker IS NULL
        AND (live.priority, coalesce(live.rank, live.id)) > (level::smallint, ($3::bigint[])[level + 1])
        AND live.priority <= level::smallint
    ORDER BY live.priority, coalesce(live.rank, live.id)
) found
LIMIT $2";

/// Leaps from queue to queue through the index, instead of reading every task, and only between names that are known
/// (behind `$1`, before `$2`): what an old snapshot keeps of a busy queue is not read. Any lane counts: suspects wait too.
pub(crate) const WAITING_QUEUES: &str = r#"
WITH RECURSIVE other AS (
    SELECT behind COLLATE "C" AS queue, before COLLATE "C" AS before
    FROM unnest($1::text[], $2::text[]) AS gap (behind, before)
    UNION ALL
    SELECT (
        SELECT live.queue FROM live WHERE live.ready AND live.queue > other.queue AND live.queue < other.before
        ORDER BY live.queue LIMIT 1
    ), other.before
    FROM other WHERE other.queue IS NOT NULL
)
SELECT queue FROM other WHERE queue IS NOT NULL AND NOT queue = ANY($1) AND (
    SELECT true FROM live WHERE live.queue = other.queue AND live.ready AND live.worker IS NULL
    ORDER BY live.lane, live.priority, coalesce(live.rank, live.id) LIMIT 1
)"#;

/// Before and after every name of a queue.
const BEFORE_ALL: &str = "";
const AFTER_ALL: &str = "~";

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
            let (priority, rank) = (rows::priority(row)?, Rank(field(row, "rank")?));
            Ok(Waiting { id, queue, priority, rank, suspicion: Suspicion::None })
        };
        query.fetch_all(connection).await?.iter().map(waiting).collect()
    }
}

struct QueuesThatWait {
    /// In their order, each once.
    except: BTreeSet<QueueName>,
}

impl Operation for QueuesThatWait {
    type Output = Vec<QueueName>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<QueueName>, Fault> {
        let names = || self.except.iter().map(QueueName::as_str);
        let behind: Vec<_> = iter::once(BEFORE_ALL).chain(names()).collect();
        let before: Vec<_> = names().chain(iter::once(AFTER_ALL)).collect();
        let rows = sqlx::query(WAITING_QUEUES).bind(behind).bind(before).fetch_all(connection).await?;
        rows.iter().map(|row| rows::name(row, "queue")).collect()
    }
}

impl PostgresStore {
    pub(crate) async fn first_waiting(
        &self,
        queue: &QueueName,
        limit: usize,
        patience: Patience,
    ) -> Result<Vec<Waiting>, StoreError> {
        let (scan, behind) = self.refill_marks.begin([queue], patience);
        let waiting = self.connections.run(FirstWaiting { queue: queue.clone(), limit, behind }).await?;
        // Nobody waits before the first that was found; what was found still does, wherever the order keeps it.
        let firsts = waiting.chunk_by(|one, next| one.priority == next.priority).filter_map(<[_]>::first);
        scan.end(waiting.len(), firsts.map(|first| (queue, first.priority, Rank(first.rank.0 - 1))));
        Ok(waiting)
    }

    pub(crate) async fn queues_that_wait(&self, except: &[QueueName]) -> Result<Vec<QueueName>, StoreError> {
        self.connections.run(QueuesThatWait { except: except.iter().cloned().collect() }).await
    }
}
