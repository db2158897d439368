//! Fair queues: the lanes' part of the transactions in which tasks begin to wait and in which they end. The rule is
//! [`domain::fair`].
//!
//! Lanes are locked behind everything else that a transaction locks, in one order for all, so that nobody waits in a circle.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    num::NonZeroU32,
    time::Duration,
};

use application::{
    combine::{Combiner, Together},
    ports::{ClaimedTask, Settlement, StoreError, Waiting},
};
use domain::{Lane, QueueName, Rank, TaskId, Timestamp, ai::Spending};
use sqlx::{Connection, PgConnection, postgres::PgRow};

use crate::{
    PostgresStore,
    clock::Clock,
    connections::{Connections, Operation},
    error::Fault,
    rows::{field, in_lock_order, interval, limit},
};

/// The column `rank` of a task whose lane has not given it one.
pub(crate) const UNRANKED: Rank = Rank(-1);

pub(crate) const WISHES: &str = "
SELECT l.id, l.queue, l.tenant, coalesce(t.fairness_key, '') AS key, t.cost
FROM unnest($1::bigint[]) AS asked (id)
CROSS JOIN LATERAL (SELECT id, queue, tenant FROM live WHERE live.id = asked.id AND live.rank = -1 LIMIT 1) l
CROSS JOIN LATERAL (SELECT fairness_key, cost FROM task WHERE task.id = asked.id AND task.cost IS NOT NULL LIMIT 1) t
ORDER BY l.id";
pub(crate) const CLOCKS: &str = "SELECT queue, clock FROM fair_queue WHERE queue = ANY($1)";
/// A queue that becomes a fair one begins behind all that wait there by their number.
pub(crate) const MAKE_CLOCKS: &str = "
INSERT INTO fair_queue (queue, clock) SELECT queue, (SELECT last_value FROM task_id) FROM unnest($1::text[]) AS q (queue)
ORDER BY queue COLLATE \"C\" ON CONFLICT DO NOTHING";
pub(crate) const LOCK_LANES: &str = "
INSERT INTO fair_lane AS known (queue, tenant, key, next, changed_at)
SELECT queue, tenant, key, 0, coalesce($4, now()) FROM unnest($1::text[], $2::text[], $3::text[]) AS l (queue, tenant, key)
ORDER BY queue COLLATE \"C\", tenant COLLATE \"C\", key COLLATE \"C\"
ON CONFLICT (queue, tenant, key) DO UPDATE SET changed_at = excluded.changed_at
RETURNING queue, tenant, key, next, used";
pub(crate) const KEEP_LANES: &str = "
UPDATE fair_lane SET next = kept.next, used = kept.used
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::integer[]) AS kept (queue, tenant, key, next, used)
WHERE (fair_lane.queue, fair_lane.tenant, fair_lane.key) = (kept.queue, kept.tenant, kept.key)";
pub(crate) const KEEP_RANKS: &str = "
UPDATE live SET rank = ($2::bigint[])[width_bucket(id, $1::bigint[])] WHERE id = ANY($1)";
pub(crate) const SHARES: &str = "
SELECT t.id, t.queue, t.tenant, coalesce(t.fairness_key, '') AS key, t.cost
FROM unnest($1::bigint[]) AS asked (id)
CROSS JOIN LATERAL (
    SELECT id, queue, tenant, fairness_key, cost FROM task WHERE task.id = asked.id AND task.cost IS NOT NULL LIMIT 1
) t
ORDER BY t.id";

/// Queue, tenant and key, in the order of locks.
type LaneKey = (String, String, String);

/// A task with its part of a fair queue.
struct Wish {
    task: i64,
    lane: LaneKey,
    cost: NonZeroU32,
}

fn wish(row: &PgRow) -> Result<Wish, Fault> {
    let cost: i32 = field(row, "cost")?;
    let cost = u32::try_from(cost).ok().and_then(NonZeroU32::new);
    Ok(Wish {
        task: field(row, "id")?,
        lane: (field(row, "queue")?, field(row, "tenant")?, field(row, "key")?),
        cost: cost.ok_or_else(|| Fault::Unreadable("cost: it is not above 0".into()))?,
    })
}

/// Gives those of these tasks their ranks that begin to wait and have none, in the order of their numbers.
pub(crate) async fn line_up(
    connection: &mut PgConnection,
    ids: impl IntoIterator<Item = TaskId>,
    now: Option<Timestamp>,
) -> Result<HashMap<TaskId, Rank>, Fault> {
    let ids = in_lock_order(ids);
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query(WISHES).bind(ids).fetch_all(&mut *connection).await?;
    let wishes = rows.iter().map(wish).collect::<Result<Vec<_>, _>>()?;
    let clocks = clocks(connection, wishes.iter().map(|wish| wish.lane.0.as_str()).collect()).await?;
    let mut lanes = lock(connection, &wishes, now).await?;
    let mut ranks = Vec::with_capacity(wishes.len());
    for Wish { task, lane, cost } in &wishes {
        let clock = clocks.get(&lane.0).copied().unwrap_or_default();
        ranks.push((*task, lanes.entry(lane.clone()).or_insert(Lane::NEW).line_up(clock, *cost)));
    }
    keep(connection, &lanes).await?;
    sqlx::query(KEEP_RANKS)
        .bind(ranks.iter().map(|(task, _)| *task).collect::<Vec<_>>())
        .bind(ranks.iter().map(|(_, rank)| rank.0).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(ranks.into_iter().map(|(task, rank)| (TaskId(task), rank)).collect())
}

/// Gives those of these places their ranks that have none.
pub(crate) async fn rank<'p>(
    connection: &mut PgConnection,
    places: impl IntoIterator<Item = &'p mut Waiting>,
    now: Option<Timestamp>,
) -> Result<(), Fault> {
    let unranked: Vec<_> = places.into_iter().filter(|place| place.rank == UNRANKED).collect();
    let ranks = line_up(connection, unranked.iter().map(|place| place.id), now).await?;
    for place in unranked {
        place.rank = ranks.get(&place.id).copied().unwrap_or(place.rank);
    }
    Ok(())
}

/// Tells the lanes of tasks that have ended what these have used.
pub(crate) async fn learn(
    connection: &mut PgConnection,
    told: &[&Settlement],
    now: Option<Timestamp>,
) -> Result<(), Fault> {
    let used: HashMap<i64, u64> =
        told.iter().map(|settlement| (settlement.task.0, Spending::of(&settlement.calls).tokens())).collect();
    let ids = in_lock_order(told.iter().map(|settlement| settlement.task));
    let rows = sqlx::query(SHARES).bind(ids).fetch_all(&mut *connection).await?;
    let shares = rows.iter().map(wish).collect::<Result<Vec<_>, _>>()?;
    if shares.is_empty() {
        return Ok(());
    }
    let mut lanes = lock(connection, &shares, now).await?;
    for Wish { task, lane, cost } in &shares {
        if let (Some(lane), Some(used)) = (lanes.get_mut(lane), used.get(task)) {
            lane.learn(*cost, *used);
        }
    }
    keep(connection, &lanes).await
}

async fn clocks(
    connection: &mut PgConnection,
    queues: BTreeSet<&str>,
) -> Result<HashMap<String, Rank>, Fault> {
    let queues: Vec<&str> = queues.into_iter().collect();
    let mut made = false;
    loop {
        let rows = sqlx::query(CLOCKS).bind(&queues).fetch_all(&mut *connection).await?;
        if rows.len() == queues.len() || made {
            return rows.iter().map(|row| Ok((field(row, "queue")?, Rank(field(row, "clock")?)))).collect();
        }
        // Where somebody else makes it at the same time, that is waited for, and seen by the next look.
        sqlx::query(MAKE_CLOCKS).bind(&queues).execute(&mut *connection).await?;
        made = true;
    }
}

async fn lock(
    connection: &mut PgConnection,
    wishes: &[Wish],
    now: Option<Timestamp>,
) -> Result<BTreeMap<LaneKey, Lane>, Fault> {
    let keys: BTreeSet<&LaneKey> = wishes.iter().map(|wish| &wish.lane).collect();
    let rows = sqlx::query(LOCK_LANES)
        .bind(keys.iter().map(|(queue, ..)| queue.as_str()).collect::<Vec<_>>())
        .bind(keys.iter().map(|(_, tenant, _)| tenant.as_str()).collect::<Vec<_>>())
        .bind(keys.iter().map(|(.., key)| key.as_str()).collect::<Vec<_>>())
        .bind(now)
        .fetch_all(connection)
        .await?;
    let lane = |row: &PgRow| {
        let key = (field(row, "queue")?, field(row, "tenant")?, field(row, "key")?);
        Ok((key, Lane { next: Rank(field(row, "next")?), used: field(row, "used")? }))
    };
    rows.iter().map(lane).collect()
}

async fn keep(connection: &mut PgConnection, lanes: &BTreeMap<LaneKey, Lane>) -> Result<(), Fault> {
    sqlx::query(KEEP_LANES)
        .bind(lanes.keys().map(|(queue, ..)| queue.as_str()).collect::<Vec<_>>())
        .bind(lanes.keys().map(|(_, tenant, _)| tenant.as_str()).collect::<Vec<_>>())
        .bind(lanes.keys().map(|(.., key)| key.as_str()).collect::<Vec<_>>())
        .bind(lanes.values().map(|lane| lane.next.0).collect::<Vec<_>>())
        .bind(lanes.values().map(|lane| lane.used).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

/// Moves the clocks of fair queues on, beside the claims: a moment later is soon enough, for who comes meanwhile goes first
/// once.
pub(crate) struct Clocks(Combiner<(QueueName, Rank), ()>);

/// One at a time: what comes meanwhile is put together.
const TOGETHER: Together = Together { most: 1_000, calls: 1 };

impl Clocks {
    pub(crate) fn new(connections: &Connections) -> Self {
        let connections = connections.clone();
        Self(Combiner::new(TOGETHER, move |started: Vec<(QueueName, Rank)>| {
            let connections = connections.clone();
            async move { connections.run(MoveClocks { started }).await }
        }))
    }

    /// These have been started.
    pub(crate) fn note(&self, tasks: &[ClaimedTask]) {
        let mut highest: BTreeMap<&QueueName, Rank> = BTreeMap::new();
        for task in tasks.iter().filter(|task| task.rank.0 != task.id.0) {
            let clock = highest.entry(&task.queue).or_default();
            *clock = task.rank.max(*clock);
        }
        if !highest.is_empty() {
            self.0.leave(highest.into_iter().map(|(queue, rank)| (queue.clone(), rank)).collect());
        }
    }
}

pub(crate) const MOVE_CLOCKS: &str = "
UPDATE fair_queue SET clock = moved.clock FROM unnest($1::text[], $2::bigint[]) AS moved (queue, clock)
WHERE fair_queue.queue = moved.queue AND fair_queue.clock < moved.clock";

struct MoveClocks {
    started: Vec<(QueueName, Rank)>,
}

impl Operation for MoveClocks {
    type Output = Vec<()>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<()>, Fault> {
        let mut highest: BTreeMap<&str, i64> = BTreeMap::new();
        for (queue, rank) in &self.started {
            let clock = highest.entry(queue.as_str()).or_default();
            *clock = rank.0.max(*clock);
        }
        // A clock that a crash of the server sets back by a moment lets one lane go first once.
        let mut transaction = connection.begin().await?;
        sqlx::raw_sql("SET LOCAL synchronous_commit = off").execute(&mut *transaction).await?;
        sqlx::query(MOVE_CLOCKS)
            .bind(highest.keys().copied().collect::<Vec<_>>())
            .bind(highest.values().copied().collect::<Vec<_>>())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(vec![(); self.started.len()])
    }
}

pub(crate) const FORGET: &str = "
DELETE FROM fair_lane WHERE (queue, tenant, key) IN (
    SELECT l.queue, l.tenant, l.key FROM fair_lane l JOIN fair_queue q ON q.queue = l.queue
    WHERE l.next <= q.clock AND l.changed_at < coalesce($1, now()) - $2
    ORDER BY l.queue, l.tenant, l.key LIMIT $3 FOR UPDATE OF l SKIP LOCKED)";

struct ForgetLanes {
    age: Duration,
    limit: usize,
    clock: Clock,
}

impl Operation for ForgetLanes {
    type Output = usize;

    async fn run(&self, connection: &mut PgConnection) -> Result<usize, Fault> {
        let query = sqlx::query(FORGET).bind(self.clock.bind()).bind(interval(self.age));
        let done = query.bind(limit(self.limit)).execute(connection).await?;
        Ok(usize::try_from(done.rows_affected()).unwrap_or(usize::MAX))
    }
}

impl PostgresStore {
    pub(crate) async fn forget_idle_lanes(&self, age: Duration, limit: usize) -> Result<usize, StoreError> {
        self.connections.run(ForgetLanes { age, limit, clock: self.clock.clone() }).await
    }
}
