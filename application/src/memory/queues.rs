//! Queues.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use domain::{
    Priority, QueueName, RunLength, Runs, Service, Suspicion, TaskId, Tenant, Timestamp, queue::purge,
};

use super::{
    MemoryStore,
    state::{Life, later},
};
use crate::ports::{Purged, QueueStore, RecentRuns, RunRecord, StoreError, Waiting};

/// A minute, in seconds.
const MINUTE: i64 = 60;
/// How long runs are kept, in minutes.
const KEPT: i64 = 60;

/// What is known of queues as such.
#[derive(Default)]
pub(super) struct QueueBook {
    paused: BTreeSet<QueueName>,
    /// How far ahead each rate limit is.
    pub(super) arrivals: BTreeMap<QueueName, Timestamp>,
    /// By minute since 1970.
    runs: BTreeMap<(i64, QueueName, RunLength), Runs>,
}

#[async_trait]
impl QueueStore for MemoryStore {
    async fn paused_queues(&self) -> Result<Vec<QueueName>, StoreError> {
        let (state, _) = self.enter();
        Ok(state.queues.paused.iter().cloned().collect())
    }

    async fn pause_queue(&self, queue: &QueueName, paused: bool) -> Result<bool, StoreError> {
        let (mut state, _) = self.enter();
        let all = &mut state.queues.paused;
        Ok(if paused { all.insert(queue.clone()) } else { all.remove(queue) })
    }

    async fn waiting_since(&self, queues: &[QueueName]) -> Result<Vec<(QueueName, Timestamp)>, StoreError> {
        let (state, _) = self.enter();
        let mut found = BTreeMap::new();
        for queue in queues {
            let Some(line) = state.pending.get(&(queue.clone(), Suspicion::None)) else { continue };
            let entries = line.iter().filter_map(|(.., id)| state.tasks.get(id));
            let since = entries.map(|entry| entry.updated_at.unwrap_or(entry.created_at)).min();
            found.extend(since.map(|since| (queue.clone(), since)));
        }
        Ok(found.into_iter().collect())
    }

    async fn purge(
        &self,
        tenant: &Tenant,
        queue: &QueueName,
        after: TaskId,
        limit: usize,
    ) -> Result<Purged, StoreError> {
        let (mut state, now) = self.enter();
        let unfinished = state.tasks.range(TaskId(after.0.saturating_add(1))..);
        let page: Vec<_> = unfinished
            .filter(|(_, entry)| !entry.status().is_terminal())
            .take(limit)
            .map(|(id, _)| *id)
            .collect();
        let mut purged =
            Purged { ended: Vec::new(), next: page.last().copied().filter(|_| page.len() == limit) };
        for id in page {
            let Some(entry) = state.tasks.get(&id) else { continue };
            if entry.submitted.tenant != *tenant || entry.submitted.queue != *queue {
                continue;
            }
            if let Some(change) = purge(entry.state, entry.counters) {
                state.apply(id, change, None, now);
                purged.ended.push(id);
            }
        }
        Ok(purged)
    }

    async fn age(
        &self,
        queue: &QueueName,
        every: Duration,
        limit: usize,
    ) -> Result<Vec<Waiting>, StoreError> {
        let (mut state, now) = self.enter();
        let mut looked_at = BTreeMap::<Priority, usize>::new();
        let line = state.pending.get(&(queue.clone(), Suspicion::None)).into_iter().flatten();
        let first: Vec<_> = line
            .filter(|(priority, ..)| {
                let seen = looked_at.entry(*priority).or_default();
                *seen += 1;
                *seen <= limit
            })
            .copied()
            .collect();
        let mut raised = Vec::new();
        for (urgency, _, id) in first {
            let Some(entry) = state.tasks.get(&id) else { continue };
            let waited = (now - entry.updated_at.unwrap_or(entry.created_at)).to_std().unwrap_or_default();
            let aged = entry.submitted.priority.aged(waited, every);
            if aged < urgency {
                state.change(id, |entry| entry.raised = Some(aged));
                raised.extend(state.tasks.get(&id).map(|entry| entry.waiting(id)));
            }
        }
        raised.sort_by_key(|place| place.id);
        Ok(raised)
    }

    async fn note_runs(&self, runs: &[RunRecord]) -> Result<(), StoreError> {
        let (mut state, now) = self.enter();
        let minute = now.timestamp().div_euclid(MINUTE);
        let book = &mut state.queues.runs;
        for RunRecord { queue, length, runs } in runs {
            let sum = book.entry((minute, queue.clone(), *length)).or_default();
            *sum = sum.and(*runs);
        }
        book.retain(|(then, ..), _| *then >= minute - KEPT);
        Ok(())
    }

    async fn recent_runs(&self, minutes: u32) -> Result<RecentRuns, StoreError> {
        let (state, now) = self.enter();
        let first = now.timestamp().div_euclid(MINUTE) - i64::from(minutes.max(1)) + 1;
        let mut sums: BTreeMap<(QueueName, RunLength), Runs> = BTreeMap::new();
        for ((minute, queue, length), runs) in &state.queues.runs {
            if *minute >= first {
                let sum = sums.entry((queue.clone(), *length)).or_default();
                *sum = sum.and(*runs);
            }
        }
        let records = sums.into_iter().map(|((queue, length), runs)| RunRecord { queue, length, runs });
        let since = Timestamp::from_timestamp(first * MINUTE, 0).unwrap_or(now);
        Ok(RecentRuns { since, until: now, records: records.collect() })
    }

    async fn served(&self) -> Result<Vec<(Service, u64)>, StoreError> {
        let (state, now) = self.enter();
        let mut served: BTreeMap<Service, u64> = BTreeMap::new();
        let alive = state
            .workers
            .values()
            .filter(|worker| worker.life == Life::Alive && later(worker.last_heartbeat, worker.lease) > now);
        for worker in alive {
            *served.entry(worker.service.clone()).or_default() += 1;
        }
        Ok(served.into_iter().collect())
    }
}
