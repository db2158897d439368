//! Handing tasks to workers.

use std::collections::HashMap;

use application::ports::{Claim as Wish, ClaimedTask, LimitedClaim, LimitedTasks, StoreError};
use async_trait::async_trait;
use domain::{Json, Priority, QueueName, Rank, Status, Suspicion, TaskId, WorkerId};

use crate::{
    ending::fenced,
    error::store_error,
    fair::move_clocks,
    read::{limits, retry_policy},
    rows::{CounterColumns, id_list, lane, moment, moment_if, parse_name, parse_priority, parse_queue},
    writer::{Change, Write},
};

/// Takes waiting tasks for a living worker.
pub(crate) struct Claim {
    pub(crate) worker: WorkerId,
    pub(crate) wish: Wish,
}

#[async_trait]
impl Change for Claim {
    type Answer = Vec<ClaimedTask>;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        if !is_alive(write, self.worker).await? {
            return Ok(Vec::new());
        }
        let wanted = match &self.wish {
            Wish::Ids(ids) => ids.clone(),
            Wish::Next { queues, limit, .. } => next(write, queues, *limit).await?,
            Wish::Suspects { queues, suspicion, limit } => {
                suspects(write, queues, *suspicion, *limit).await?
            }
        };
        let are_suspects = matches!(self.wish, Wish::Suspects { .. });
        take(write, self.worker, &wanted, are_suspects).await
    }
}

/// Takes what the limits of a queue let through.
pub(crate) struct ClaimLimited {
    pub(crate) worker: WorkerId,
    pub(crate) claim: LimitedClaim,
}

#[async_trait]
impl Change for ClaimLimited {
    type Answer = LimitedTasks;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        // What runs is in few hands; the tally is behind by what this transaction has done so far.
        const RUNNING: &str =
            "SELECT count(*) FROM live INDEXED BY live_held WHERE worker IS NOT NULL AND queue = ?1";
        const ARRIVAL: &str = "SELECT rate_arrival FROM queue_state WHERE queue = ?1";
        const ARRIVED: &str = "
            INSERT INTO queue_state (queue, rate_arrival) VALUES (?1, ?2)
            ON CONFLICT (queue) DO UPDATE SET rate_arrival = excluded.rate_arrival";
        const FIRST: &str = "
            SELECT task FROM live WHERE queue = ?1 AND lane = ?2 AND state = 'PENDING'
            ORDER BY priority, coalesce(rank, task) LIMIT ?3";
        let LimitedClaim { queue, limits, suspicion, limit } = &self.claim;
        if !is_alive(write, self.worker).await? {
            return Ok(LimitedTasks::default());
        }
        let running: i64 = sqlx::query_scalar(RUNNING)
            .bind(queue.as_str())
            .fetch_one(&mut *write.conn)
            .await
            .map_err(store_error)?;
        let arrival: Option<Option<i64>> = sqlx::query_scalar(ARRIVAL)
            .bind(queue.as_str())
            .fetch_optional(&mut *write.conn)
            .await
            .map_err(store_error)?;
        let (mut running, mut arrival) = (running.unsigned_abs(), moment_if(arrival.flatten())?);
        let now = moment(write.now)?;
        let room = limits.room(running, arrival, now).tasks.min(*limit);
        let ids: Vec<i64> = sqlx::query_scalar(FIRST)
            .bind(queue.as_str())
            .bind(lane(*suspicion))
            .bind(i64::try_from(room).unwrap_or(i64::MAX))
            .fetch_all(&mut *write.conn)
            .await
            .map_err(store_error)?;
        let ids: Vec<_> = ids.into_iter().map(TaskId).collect();
        let tasks = take(write, self.worker, &ids, *suspicion != Suspicion::None).await?;
        running += tasks.len() as u64;
        if let Some(rate) = limits.rate.filter(|_| !tasks.is_empty()) {
            let passed = u32::try_from(tasks.len()).unwrap_or(u32::MAX);
            let arrived = rate.arrival_after(arrival, now, passed);
            let keep = sqlx::query(ARRIVED).bind(queue.as_str()).bind(arrived.timestamp_micros());
            keep.execute(&mut *write.conn).await.map_err(store_error)?;
            arrival = Some(arrived);
        }
        Ok(LimitedTasks { tasks, wait: limits.room(running, arrival, now).wait })
    }
}

async fn is_alive(write: &mut Write<'_>, worker: WorkerId) -> Result<bool, StoreError> {
    const ALIVE: &str = "SELECT 1 FROM worker WHERE id = ?1 AND state = 'alive'";
    let alive: Option<i64> = sqlx::query_scalar(ALIVE)
        .bind(worker.0)
        .fetch_optional(&mut *write.conn)
        .await
        .map_err(store_error)?;
    Ok(alive.is_some())
}

/// The first in order, over several queues.
async fn next(
    write: &mut Write<'_>,
    queues: &[(QueueName, usize)],
    limit: usize,
) -> Result<Vec<TaskId>, StoreError> {
    const SQL: &str = "
        SELECT priority, task FROM live WHERE queue = ?1 AND lane = '' AND state = 'PENDING'
        ORDER BY priority, coalesce(rank, task) LIMIT ?2";
    let mut lines = Vec::with_capacity(queues.len());
    for (queue, most) in queues {
        let most = i64::try_from(limit.min(*most)).unwrap_or(i64::MAX);
        let rows: Vec<(i64, i64)> = sqlx::query_as(SQL)
            .bind(queue.as_str())
            .bind(most)
            .fetch_all(&mut *write.conn)
            .await
            .map_err(store_error)?;
        let line: Result<Vec<_>, StoreError> =
            rows.into_iter().map(|(priority, id)| Ok((parse_priority(priority)?, TaskId(id)))).collect();
        lines.push((queue.clone(), line?));
    }
    Ok(write.memory.turns.merge(lines, limit))
}

/// The first suspects of one degree, over all these queues.
async fn suspects(
    write: &mut Write<'_>,
    queues: &[QueueName],
    suspicion: Suspicion,
    limit: usize,
) -> Result<Vec<TaskId>, StoreError> {
    const SQL: &str = "
        SELECT priority, coalesce(rank, task), task FROM live WHERE queue = ?1 AND lane = ?2 AND state = 'PENDING'
        ORDER BY priority, coalesce(rank, task) LIMIT ?3";
    if suspicion == Suspicion::None {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for queue in queues {
        let rows: Vec<(i64, i64, i64)> = sqlx::query_as(SQL)
            .bind(queue.as_str())
            .bind(lane(suspicion))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *write.conn)
            .await
            .map_err(store_error)?;
        found.extend(rows);
    }
    found.sort_unstable();
    found.truncate(limit);
    Ok(found.into_iter().map(|(.., id)| TaskId(id)).collect())
}

/// Which queue was served when, so that equally urgent ones take turns, inside a claim and from claim to claim.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    served: HashMap<QueueName, u64>,
    clock: u64,
}

impl Turns {
    /// Merges the heads of several queues: the most urgent first, and among equals the queue that was served longest
    /// ago; at most `limit`.
    fn merge(&mut self, lines: Vec<(QueueName, Vec<(Priority, TaskId)>)>, limit: usize) -> Vec<TaskId> {
        let mut lines: Vec<_> =
            lines.into_iter().map(|(queue, line)| (queue, line.into_iter().peekable())).collect();
        let mut merged = Vec::new();
        while merged.len() < limit {
            let served = &self.served;
            let heads = lines.iter_mut().filter_map(|(queue, line)| {
                let (priority, _) = *line.peek()?;
                let last = served.get(queue).copied().unwrap_or(0);
                Some(((priority, last), &*queue, line))
            });
            let Some((_, queue, line)) = heads.min_by_key(|(rank, ..)| *rank) else { break };
            merged.extend(line.next().map(|(_, id)| id));
            self.clock += 1;
            self.served.insert(queue.clone(), self.clock);
        }
        merged
    }
}

/// A task that has just been taken.
#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    tenant: String,
    task_type: String,
    queue: String,
    priority: i64,
    rank: Option<i64>,
    fairness_key: Option<String>,
    input: String,
    max_attempts: i64,
    soft_time_limit: Option<i64>,
    time_limit: i64,
    retry: Option<String>,
    created_at: i64,
    #[sqlx(flatten)]
    counters: CounterColumns,
}

/// Takes those of these that are PENDING, suspects or none; answers them in the order given.
async fn take(
    write: &mut Write<'_>,
    worker: WorkerId,
    ids: &[TaskId],
    suspects: bool,
) -> Result<Vec<ClaimedTask>, StoreError> {
    // The plus keeps the planner to the ids: under old statistics it would rather walk through the order.
    const TAKE: &str = "
        UPDATE live SET state = 'PROCESSING', worker = ?2, attempt = attempt + 1, started_at = ?3, updated_at = ?3,
            reopened = 0
        WHERE task IN (SELECT value FROM json_each(?1)) AND +state = 'PENDING' AND (lane <> '') = ?4
        RETURNING task";
    const READ: &str = "
        SELECT t.id, t.tenant, t.type AS task_type, t.queue, l.priority, l.rank, t.fairness_key, t.input, t.max_attempts,
               t.soft_time_limit, t.time_limit, t.retry, t.created_at, l.attempt, l.failures, l.crashes,
               l.forgiven_failures, l.forgiven_crashes
        FROM json_each(?1) AS taken
        CROSS JOIN live AS l ON l.task = taken.value
        CROSS JOIN task AS t ON t.id = l.task";
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let taken: Vec<i64> = sqlx::query_scalar(TAKE)
        .bind(id_list(ids.iter().map(|id| id.0)))
        .bind(worker.0)
        .bind(write.now)
        .bind(suspects)
        .fetch_all(&mut *write.conn)
        .await
        .map_err(store_error)?;
    if taken.is_empty() {
        return Ok(Vec::new());
    }
    let expected = taken.len() as u64;
    let rows: Vec<Row> =
        sqlx::query_as(READ).bind(id_list(taken)).fetch_all(&mut *write.conn).await.map_err(store_error)?;
    fenced(expected, rows.len() as u64)?;
    let ranked = rows.iter().filter_map(|row| Some((row.queue.clone(), Rank(row.rank?))));
    move_clocks(write, ranked.collect::<Vec<_>>()).await?;
    let mut claimed = HashMap::with_capacity(rows.len());
    for row in rows {
        write.tally.shift(&row.tenant, &row.queue, Status::Pending, Status::Processing);
        let id = TaskId(row.id);
        let task =
            row.into_task(write.now).map_err(|error| StoreError::Corrupt(format!("task {id}: {error}")))?;
        claimed.insert(id, task);
    }
    Ok(ids.iter().filter_map(|id| claimed.remove(id)).collect())
}

impl Row {
    fn into_task(self, now: i64) -> Result<ClaimedTask, StoreError> {
        Ok(ClaimedTask {
            id: TaskId(self.id),
            tenant: parse_name(&self.tenant)?,
            task_type: parse_name(&self.task_type)?,
            queue: parse_queue(&self.queue)?,
            priority: parse_priority(self.priority)?,
            rank: Rank(self.rank.unwrap_or(self.id)),
            fairness_key: self.fairness_key.map(|key| parse_name(&key)).transpose()?,
            input: Json::from_stored(self.input),
            limits: limits(self.max_attempts, self.soft_time_limit, self.time_limit)?,
            retry: retry_policy(self.retry.as_deref())?.map(Box::new),
            counters: self.counters.read()?,
            created_at: moment(self.created_at)?,
            started_at: moment(now)?,
        })
    }
}
