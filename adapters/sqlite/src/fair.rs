//! Fair queues: the lanes' part of changes in which tasks begin to wait and in which they end. The rule is [`domain::fair`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    num::NonZeroU32,
    time::Duration,
};

use application::ports::{StoreError, Waiting};
use async_trait::async_trait;
use domain::{Lane, Rank, ai::Spending};

use crate::{
    clock::micros,
    error::store_error,
    rows::{id_list, pages, unreadable},
    usage::Told,
    writer::{Change, Write},
};

/// The column `rank` of a task whose lane has not given it one.
pub(crate) const UNRANKED: Rank = Rank(-1);

/// Queue, tenant and key.
type LaneKey = (String, String, String);

/// A task with its part of a fair queue.
#[derive(sqlx::FromRow)]
struct Wish {
    task: i64,
    queue: String,
    tenant: String,
    key: String,
    cost: i64,
}

impl Wish {
    fn lane(&self) -> LaneKey {
        (self.queue.clone(), self.tenant.clone(), self.key.clone())
    }

    fn cost(&self) -> Result<NonZeroU32, StoreError> {
        let cost = u32::try_from(self.cost).ok().and_then(NonZeroU32::new);
        cost.ok_or_else(|| unreadable("cost", &self.cost))
    }
}

/// Gives those of these tasks their ranks that begin to wait and have none, in the order of their numbers.
pub(crate) async fn line_up(
    write: &mut Write<'_>,
    ids: impl IntoIterator<Item = i64>,
) -> Result<HashMap<i64, Rank>, StoreError> {
    const WISHES: &str = "
        SELECT l.task, t.queue, t.tenant, coalesce(t.fairness_key, '') AS key, t.cost
        FROM json_each(?1) AS wanted
        CROSS JOIN live AS l ON l.task = wanted.value AND l.rank = -1
        CROSS JOIN task AS t ON t.id = l.task AND t.cost IS NOT NULL";
    const RANKS: &str = "
        UPDATE live SET rank = ranked.rank
        FROM (SELECT value ->> 0 AS task, value ->> 1 AS rank FROM json_each(?1)) AS ranked
        WHERE live.task = ranked.task";
    let ids: BTreeSet<i64> = ids.into_iter().collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let wishes = wishes(write, WISHES, ids).await?;
    let clocks = clocks(write, &wishes).await?;
    let mut lanes = lanes(write, &wishes).await?;
    let mut ranks = HashMap::with_capacity(wishes.len());
    for wish in &wishes {
        let clock = clocks.get(&wish.queue).copied().unwrap_or_default();
        let lane = lanes.entry(wish.lane()).or_insert(Lane::NEW);
        ranks.insert(wish.task, lane.line_up(clock, wish.cost()?));
    }
    keep(write, &lanes).await?;
    for page in pages(ranks.iter().map(|(task, rank)| (task, rank.0))) {
        sqlx::query(RANKS).bind(page).execute(&mut *write.conn).await.map_err(store_error)?;
    }
    Ok(ranks)
}

/// Gives those of these places their ranks that have none.
pub(crate) async fn rank<'p>(
    write: &mut Write<'_>,
    places: impl IntoIterator<Item = &'p mut Waiting>,
) -> Result<(), StoreError> {
    let unranked: Vec<_> = places.into_iter().filter(|place| place.rank == UNRANKED).collect();
    let ranks = line_up(write, unranked.iter().map(|place| place.id.0)).await?;
    for place in unranked {
        place.rank = ranks.get(&place.id.0).copied().unwrap_or(place.rank);
    }
    Ok(())
}

/// Tells the lanes of tasks that have ended what these have used.
pub(crate) async fn learn(write: &mut Write<'_>, told: &[Told]) -> Result<(), StoreError> {
    const SHARES: &str = "
        SELECT t.id AS task, t.queue, t.tenant, coalesce(t.fairness_key, '') AS key, t.cost
        FROM json_each(?1) AS wanted CROSS JOIN task AS t ON t.id = wanted.value AND t.cost IS NOT NULL";
    let shares = wishes(write, SHARES, told.iter().map(|told| told.task)).await?;
    if shares.is_empty() {
        return Ok(());
    }
    let used: HashMap<i64, u64> =
        told.iter().map(|told| (told.task, Spending::of(&told.calls).tokens())).collect();
    let mut lanes = lanes(write, &shares).await?;
    for share in &shares {
        if let (Some(lane), Some(used)) = (lanes.get_mut(&share.lane()), used.get(&share.task)) {
            lane.learn(share.cost()?, *used);
        }
    }
    keep(write, &lanes).await
}

/// These ranks have been started.
pub(crate) async fn move_clocks(
    write: &mut Write<'_>,
    started: impl IntoIterator<Item = (String, Rank)>,
) -> Result<(), StoreError> {
    const MOVE: &str = "UPDATE fair_queue SET clock = ?2 WHERE queue = ?1 AND clock < ?2";
    let mut highest: BTreeMap<String, Rank> = BTreeMap::new();
    for (queue, rank) in started {
        let clock = highest.entry(queue).or_default();
        *clock = rank.max(*clock);
    }
    for (queue, clock) in highest {
        let set = sqlx::query(MOVE).bind(queue).bind(clock.0).execute(&mut *write.conn).await;
        set.map_err(store_error)?;
    }
    Ok(())
}

/// In the order of their numbers.
async fn wishes(
    write: &mut Write<'_>,
    sql: &'static str,
    ids: impl IntoIterator<Item = i64>,
) -> Result<Vec<Wish>, StoreError> {
    let found = sqlx::query_as(sql).bind(id_list(ids)).fetch_all(&mut *write.conn).await;
    let mut found: Vec<Wish> = found.map_err(store_error)?;
    found.sort_by_key(|wish| wish.task);
    Ok(found)
}

async fn clocks(write: &mut Write<'_>, wishes: &[Wish]) -> Result<HashMap<String, Rank>, StoreError> {
    // A queue that becomes a fair one begins behind all that wait there by their number.
    const MAKE: &str = "
        INSERT INTO fair_queue (queue, clock) SELECT value, ?2 FROM json_each(?1) WHERE true ON CONFLICT DO NOTHING";
    const READ: &str = "SELECT queue, clock FROM fair_queue WHERE queue IN (SELECT value FROM json_each(?1))";
    let queues: BTreeSet<&str> = wishes.iter().map(|wish| wish.queue.as_str()).collect();
    let mut clocks = HashMap::new();
    for page in pages(queues) {
        let make = sqlx::query(MAKE).bind(&page).bind(write.memory.last_task);
        make.execute(&mut *write.conn).await.map_err(store_error)?;
        let read = sqlx::query_as::<_, (String, i64)>(READ).bind(page).fetch_all(&mut *write.conn).await;
        clocks.extend(read.map_err(store_error)?.into_iter().map(|(queue, clock)| (queue, Rank(clock))));
    }
    Ok(clocks)
}

async fn lanes(write: &mut Write<'_>, wishes: &[Wish]) -> Result<BTreeMap<LaneKey, Lane>, StoreError> {
    const READ: &str = "
        SELECT l.queue, l.tenant, l.key, l.next, l.used FROM json_each(?1) AS wanted
        CROSS JOIN fair_lane AS l ON l.queue = wanted.value ->> 0 AND l.tenant = wanted.value ->> 1
            AND l.key = wanted.value ->> 2";
    let keys: BTreeSet<LaneKey> = wishes.iter().map(Wish::lane).collect();
    let mut lanes = BTreeMap::new();
    for page in pages(keys) {
        let read = sqlx::query_as::<_, (String, String, String, i64, Option<i32>)>(READ).bind(page);
        for (queue, tenant, key, next, used) in read.fetch_all(&mut *write.conn).await.map_err(store_error)? {
            lanes.insert((queue, tenant, key), Lane { next: Rank(next), used });
        }
    }
    Ok(lanes)
}

async fn keep(write: &mut Write<'_>, lanes: &BTreeMap<LaneKey, Lane>) -> Result<(), StoreError> {
    const KEEP: &str = "
        INSERT INTO fair_lane (queue, tenant, key, next, used, changed_at)
        SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, ?2 FROM json_each(?1) WHERE true
        ON CONFLICT (queue, tenant, key) DO UPDATE SET next = excluded.next, used = excluded.used,
            changed_at = excluded.changed_at";
    let rows = lanes.iter().map(|((queue, tenant, key), lane)| (queue, tenant, key, lane.next.0, lane.used));
    for page in pages(rows) {
        let keep = sqlx::query(KEEP).bind(page).bind(write.now).execute(&mut *write.conn).await;
        keep.map_err(store_error)?;
    }
    Ok(())
}

/// Forgets lanes whose turn has passed.
pub(crate) struct ForgetLanes {
    pub(crate) age: Duration,
    pub(crate) limit: usize,
}

#[async_trait]
impl Change for ForgetLanes {
    type Answer = usize;

    async fn apply(&self, write: &mut Write<'_>) -> Result<usize, StoreError> {
        const FORGET: &str = "
            DELETE FROM fair_lane WHERE (queue, tenant, key) IN (
                SELECT found.queue, found.tenant, found.key FROM fair_lane AS found
                WHERE found.changed_at < ?1
                    AND found.next <= (SELECT q.clock FROM fair_queue AS q WHERE q.queue = found.queue) LIMIT ?2)";
        let done = sqlx::query(FORGET)
            .bind(write.now.saturating_sub(micros(self.age)))
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .execute(&mut *write.conn)
            .await
            .map_err(store_error)?;
        Ok(usize::try_from(done.rows_affected()).unwrap_or(usize::MAX))
    }
}
