//! The clients' side.

use async_trait::async_trait;
use domain::{
    Attempt, Change, Counters, Event, NewTask, Start, State as TaskState, Task, TaskId, Tenant, decide,
};

use super::{
    MemoryStore,
    state::{Entry, later, whole},
};
use crate::ports::{
    CancelOutcome, ChunkRecord, DeleteOutcome, Health, ListPage, QueueCounts, Receipt, StoreError,
    TaskFilter, TaskStore,
};

#[async_trait]
impl TaskStore for MemoryStore {
    async fn submit(&self, tasks: &[NewTask]) -> Result<Vec<Receipt>, StoreError> {
        let (mut state, now) = self.enter();
        let mut receipts = Vec::with_capacity(tasks.len());
        for task in tasks {
            let start = match task.start {
                Start::Now => now,
                Start::At(at) => whole(at),
                Start::After(wait) => later(now, wait),
            };
            let run_at = (start > now).then_some(start);
            state.last_task += 1;
            let id = TaskId(state.last_task);
            let mut submitted = task.clone();
            submitted.expires_at = task.expires_at.map(whole);
            let entry = Entry {
                submitted,
                state: if run_at.is_some() { TaskState::Scheduled } else { TaskState::Pending },
                counters: Counters::default(),
                holder: None,
                result: None,
                details: None,
                error: None,
                progress: None,
                created_at: now,
                updated_at: None,
                run_at,
                started_at: None,
                completed_at: None,
                attempts: Vec::new(),
                chunks: Default::default(),
            };
            state.insert(id, entry);
            receipts.push(Receipt { id, created_at: now, run_at });
        }
        Ok(receipts)
    }

    async fn read(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<Task>, StoreError> {
        let (state, _) = self.enter();
        let found = ids.iter().filter_map(|id| state.tasks.get(id).map(|entry| (id, entry)));
        Ok(found
            .filter(|(_, entry)| entry.submitted.tenant == *tenant)
            .map(|(id, entry)| entry.show(*id))
            .collect())
    }

    async fn list(
        &self,
        tenant: &Tenant,
        filter: &TaskFilter,
        page: ListPage,
    ) -> Result<Vec<Task>, StoreError> {
        let (state, _) = self.enter();
        let below = page.before.unwrap_or(TaskId(i64::MAX));
        let passes = |entry: &Entry| {
            entry.submitted.tenant == *tenant
                && (filter.statuses.is_empty() || filter.statuses.contains(&entry.status()))
                && filter.task_type.as_ref().is_none_or(|wanted| *wanted == entry.submitted.task_type)
                && filter.queue.as_ref().is_none_or(|wanted| *wanted == entry.submitted.queue)
        };
        let newest_first = state.tasks.range(..below).rev().filter(|(_, entry)| passes(entry));
        Ok(newest_first.take(page.limit).map(|(id, entry)| entry.show(*id)).collect())
    }

    async fn counts(&self, tenant: &Tenant) -> Result<Vec<QueueCounts>, StoreError> {
        let (state, _) = self.enter();
        let own = state.counts.iter().filter(|((owner, ..), _)| owner == tenant);
        Ok(own
            .map(|((_, queue, status), count)| QueueCounts {
                queue: queue.clone(),
                status: *status,
                count: *count,
            })
            .collect())
    }

    async fn attempts(&self, tenant: &Tenant, id: TaskId) -> Result<Option<Vec<Attempt>>, StoreError> {
        let (state, _) = self.enter();
        let Some(entry) = state.tasks.get(&id).filter(|entry| entry.submitted.tenant == *tenant) else {
            return Ok(None);
        };
        let ended = entry.attempts.iter().map(|ended| ended.shown.clone());
        Ok(Some(ended.chain(entry.holder.map(|_| state.running(entry))).collect()))
    }

    async fn cancel(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<CancelOutcome>, StoreError> {
        let (mut state, now) = self.enter();
        let mut outcomes = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(entry) = state.tasks.get(id).filter(|entry| entry.submitted.tenant == *tenant) else {
                outcomes.push(CancelOutcome::Unknown);
                continue;
            };
            match decide(entry.state, entry.counters, Event::Cancel) {
                Ok(change) => {
                    let ends = matches!(change, Change::Finish { .. });
                    outcomes.push(if ends { CancelOutcome::Cancelled } else { CancelOutcome::Requested });
                    state.apply(*id, change, None, now);
                }
                Err(_) => outcomes.push(CancelOutcome::AlreadyEnded(entry.status())),
            }
        }
        Ok(outcomes)
    }

    async fn delete(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<DeleteOutcome>, StoreError> {
        let (mut state, _) = self.enter();
        let mut outcomes = Vec::with_capacity(ids.len());
        for id in ids {
            let own = state.tasks.get(id).filter(|entry| entry.submitted.tenant == *tenant);
            outcomes.push(match own.map(|entry| entry.state) {
                None => DeleteOutcome::Unknown,
                Some(TaskState::Processing { .. }) => DeleteOutcome::Processing,
                Some(TaskState::Scheduled | TaskState::Pending | TaskState::Ended(_)) => {
                    state.remove(*id);
                    DeleteOutcome::Deleted
                }
            });
        }
        Ok(outcomes)
    }

    async fn chunks_after(
        &self,
        id: TaskId,
        after: (u32, u64),
        limit: usize,
    ) -> Result<Vec<ChunkRecord>, StoreError> {
        use std::ops::Bound::{Excluded, Unbounded};
        let (state, _) = self.enter();
        let chunks = state
            .tasks
            .get(&id)
            .into_iter()
            .flat_map(|entry| entry.chunks.range((Excluded(after), Unbounded)));
        let record = |(&(attempt, seq), text): (&(u32, u64), &String)| ChunkRecord {
            task: id,
            attempt,
            seq,
            text: text.clone(),
        };
        Ok(chunks.take(limit).map(record).collect())
    }

    async fn ping(&self) -> Result<Health, StoreError> {
        Ok(Health { kind: "memory", now: self.now() })
    }
}
