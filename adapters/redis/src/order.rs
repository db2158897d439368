//! Who goes next: a bounded window per queue, in Redis.
//!
//! Each queue has a sorted set of at most [`RedisOrder::window`] waiting ids, scored so that priority and then rank give
//! the order. One promise keeps priorities true beyond the window: **every waiting task that sorts before the window's
//! last entry is in the window**. So a push into a window that is not known to hold all that waits adds only what sorts
//! before the last entry, and the rest is counted as skipped: it stays in the store until the window is refilled.
//!
//! A push between the reading of the store and the refill must not be lost. [`Order::mark`] starts the keeping of what
//! is skipped ("late" ids, bounded like the window) until [`Order::refill`], which merges them. Where that record did
//! not suffice, the window is refilled as far as it goes, but is marked as torn, and the next pop asks for a refill.
//!
//! **Memory** of a queue: at most one window, some 1.1 MB for 10,000 ids, and as much again while it is refilled; a few
//! hundred bytes when it is empty. Each of its scripts is atomic and takes about 1 µs per id (a refill of 10,000 ids 10
//! to 20 ms, the longest of them).

use std::{
    collections::BTreeMap,
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use application::ports::{Order, Popped, Signal, StoreError, Waiting};
use async_trait::async_trait;
use domain::{QueueName, TaskId};
use redis::{Script, ScriptInvocation};

use crate::{
    Redis,
    connection::Ask,
    signals::{Origin, encode},
};

static PUSH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("order/push.lua")));
static POP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("order/pop.lua")));
static MARK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("order/mark.lua")));
static REFILL: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("order/refill.lua")));
static WITHDRAW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("order/withdraw.lua")));

/// Scores are `priority * PRIORITY_STEP + rank`: ranks up to 562,949,953,421,311 and all sums below 2^53, up to which a
/// floating-point score is exact. `pop.lua` knows this number too.
const PRIORITY_STEP: i64 = 1 << 49;

/// The most tasks that one call of the push script takes; a longer call would keep everybody else waiting.
const PUSH_AT_ONCE: usize = 2_000;

/// So few tasks are named to the workers, so that one with nothing else to do need not come here for them.
const NAMED_AT_MOST: usize = 16;

/// The order of waiting tasks on Redis.
#[derive(Debug)]
pub struct RedisOrder {
    redis: Redis,
    window: usize,
    /// Who is first in the next pop's round.
    turn: AtomicUsize,
    /// How many processes heard of the last push. Only where it is one are tasks named: of several, all but one would
    /// ask the store for nothing.
    listeners: AtomicUsize,
    /// Nobody's own: also the worker of this process hears of a push through Redis.
    origin: Origin,
}

impl RedisOrder {
    /// The window of [`RedisOrder::new`].
    pub const DEFAULT_WINDOW: usize = 10_000;

    /// Keeps at most [`RedisOrder::DEFAULT_WINDOW`] ids per queue.
    pub fn new(redis: &Redis) -> Self {
        Self {
            redis: redis.clone(),
            window: Self::DEFAULT_WINDOW,
            turn: AtomicUsize::new(0),
            listeners: AtomicUsize::new(0),
            origin: Origin::new(rand::random()),
        }
    }

    /// Keeps at most so many ids per queue; 0 counts as 1. All processes of an installation should agree.
    pub fn with_window(mut self, window: usize) -> Self {
        self.window = window.max(1);
        self
    }

    /// The news of these for the workers: channel and message.
    fn news(&self, by_queue: &BTreeMap<&QueueName, Vec<(i64, i64)>>) -> Option<(String, String)> {
        let count: usize = by_queue.values().map(Vec::len).sum();
        let named = count <= NAMED_AT_MOST && self.listeners.load(Ordering::Relaxed) == 1;
        let ids = by_queue.values().flatten().filter(|_| named).map(|(_, id)| TaskId(*id));
        let queues = by_queue.keys().map(|queue| (*queue).clone()).collect();
        let news = vec![Signal::Work { queues, tasks: ids.collect() }];
        encode(self.redis.keys(), &self.origin, news).pop()
    }

    async fn run<T: redis::FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        self.redis.query(Ask::Script(script)).await
    }
}

#[async_trait]
impl Order for RedisOrder {
    async fn push(&self, tasks: &[Waiting]) -> Result<(), StoreError> {
        let keys = self.redis.keys();
        for tasks in tasks.chunks(PUSH_AT_ONCE) {
            let mut by_queue: BTreeMap<&QueueName, Vec<(i64, i64)>> = BTreeMap::new();
            for task in tasks {
                by_queue.entry(&task.queue).or_default().push(scored(task)?);
            }
            let mut script = PUSH.prepare_invoke();
            let (channel, message) = self.news(&by_queue).unwrap_or_default();
            script.key(keys.queues()).arg(self.window).arg(channel).arg(message);
            for (queue, entries) in by_queue {
                script.key(keys.window(queue)).key(keys.meta(queue)).key(keys.late(queue));
                script.arg(queue.as_str()).arg(entries.len()).arg(entries);
            }
            let (_skipped, told): (u64, usize) = self.run(&script).await?;
            self.listeners.store(told, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn withdraw(&self, queue: &QueueName, tasks: &[TaskId]) -> Result<(), StoreError> {
        let keys = self.redis.keys();
        for tasks in tasks.chunks(PUSH_AT_ONCE) {
            let mut script = WITHDRAW.prepare_invoke();
            script.key(keys.window(queue)).key(keys.late(queue));
            script.arg(tasks.iter().map(|task| task.0).collect::<Vec<_>>());
            let _withdrawn: u64 = self.run(&script).await?;
        }
        Ok(())
    }

    async fn pop(&self, queues: &[(QueueName, usize)], limit: usize) -> Result<Popped, StoreError> {
        let mut distinct: Vec<(&QueueName, usize)> = Vec::with_capacity(queues.len());
        for (queue, allowance) in queues {
            match distinct.iter_mut().find(|(known, _)| *known == queue) {
                Some((_, most)) => *most = (*most).max(*allowance),
                None => distinct.push((queue, *allowance)),
            }
        }
        if distinct.is_empty() {
            return Ok(Popped::default());
        }
        let keys = self.redis.keys();
        let mut script = POP.prepare_invoke();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % distinct.len();
        script.arg(self.window).arg(limit).arg(turn);
        for (queue, allowance) in &distinct {
            script.key(keys.window(queue)).key(keys.meta(queue)).arg(*allowance);
        }
        let (ids, low): (Vec<i64>, Vec<usize>) = self.run(&script).await?;
        // Positions count from 1.
        let low = low
            .into_iter()
            .filter_map(|at| distinct.get(at.checked_sub(1)?))
            .map(|(queue, _)| (*queue).clone());
        Ok(Popped { ids: ids.into_iter().map(TaskId).collect(), low: low.collect() })
    }

    async fn mark(&self, queue: &QueueName) -> Result<u64, StoreError> {
        let mut script = MARK.prepare_invoke();
        script.key(self.redis.keys().meta(queue));
        self.run(&script).await
    }

    async fn refill(
        &self,
        queue: &QueueName,
        mark: u64,
        tasks: &[Waiting],
        complete: bool,
    ) -> Result<(), StoreError> {
        let mut entries = tasks.iter().map(scored).collect::<Result<Vec<_>, _>>()?;
        entries.sort_unstable();
        // More than a window would only be thrown out again.
        let complete = complete && entries.len() <= self.window;
        entries.truncate(self.window);
        let keys = self.redis.keys();
        let mut script = REFILL.prepare_invoke();
        script.key(keys.queues()).key(keys.window(queue)).key(keys.meta(queue)).key(keys.late(queue));
        script.arg(self.window).arg(mark).arg(u8::from(complete)).arg(queue.as_str()).arg(entries);
        let _complete: bool = self.run(&script).await?;
        Ok(())
    }

    async fn queues(&self) -> Result<Vec<QueueName>, StoreError> {
        let key = self.redis.keys().queues();
        let names: Vec<String> = self.redis.query(Ask::Command(redis::cmd("SMEMBERS").arg(&key))).await?;
        let mut queues = names
            .iter()
            .map(|name| {
                QueueName::new(name).map_err(|error| StoreError::Corrupt(format!("in Redis, {key}: {error}")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        queues.sort_unstable();
        Ok(queues)
    }

    fn window(&self) -> usize {
        self.window
    }

    async fn ping(&self) -> Result<Duration, StoreError> {
        self.redis.ping().await
    }
}

/// A task as an entry of a sorted set.
fn scored(task: &Waiting) -> Result<(i64, i64), StoreError> {
    let (id, rank) = (task.id.0, task.rank.0);
    if !(0..PRIORITY_STEP).contains(&rank) {
        return Err(StoreError::Corrupt(format!(
            "the rank {rank} of task {id} has no place in the order on Redis, which holds those from 0 to {}",
            PRIORITY_STEP - 1
        )));
    }
    Ok((i64::from(task.priority.get()) * PRIORITY_STEP + rank, id))
}

#[cfg(test)]
mod tests {
    use domain::{Priority, Rank};

    use super::*;

    fn waiting(id: i64, priority: Priority) -> Waiting {
        Waiting {
            id: TaskId(id),
            queue: QueueName::default_queue(),
            priority,
            rank: Rank(id),
            suspicion: domain::Suspicion::None,
        }
    }

    #[test]
    fn scores_sort_by_priority_and_then_id_and_stay_exact() {
        let score = |id, priority| scored(&waiting(id, priority)).expect("in range").0;
        let last_id = PRIORITY_STEP - 1;
        assert!(score(1, Priority::FIRST) < score(2, Priority::FIRST));
        assert!(score(last_id, Priority::FIRST) < score(0, Priority::default()));
        let last = score(last_id, Priority::LAST);
        assert_eq!(last as f64 as i64, last);
        assert_ne!((last - 1) as f64, last as f64);
    }

    #[test]
    fn a_rank_that_would_spoil_the_order_is_refused() {
        for id in [-1, PRIORITY_STEP, i64::MAX] {
            let refusal = scored(&waiting(id, Priority::FIRST)).expect_err("out of range").to_string();
            assert!(refusal.contains(&format!("the rank {id} ")), "{refusal}");
        }
    }
}
