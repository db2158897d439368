//! The clients' side.

use std::collections::BTreeMap;

use async_trait::async_trait;
use domain::{
    Attempt, Change, Counters, Day, Event, NewTask, Priority, Rank, Refusal, Start, State as TaskState,
    Status, Task, TaskId, TaskType, Tenant, Timestamp, Unique,
    ai::{Spending, UsageGroup, UsageGrouping},
    decide,
    flow::BatchCounts,
    queue::may_change_priority,
};

use super::{
    MemoryStore, flows,
    state::{Entry, State, UsedKey, later, whole},
};
use crate::ports::{
    CancelOutcome, ChunkRecord, DeleteOutcome, DiscardOutcome, FailureGroup, FlowStored, Health, ListPage,
    NewNode, QueueCounts, Receipt, Reprioritised, Retry, RetryOutcome, StoreError, Submitted, TaskFilter,
    TaskStore,
};

#[async_trait]
impl TaskStore for MemoryStore {
    async fn submit(&self, tasks: &[NewTask]) -> Result<Vec<Submitted>, StoreError> {
        let (mut state, now) = self.enter();
        Ok(tasks.iter().map(|task| submit(&mut state, task, now)).collect())
    }

    async fn submit_flow(&self, nodes: &[NewNode]) -> Result<FlowStored, StoreError> {
        let (mut state, now) = self.enter();
        let stored = flows::submit_flow(&mut state, nodes, now);
        self.tell_of_ends(&state);
        Ok(stored)
    }

    async fn batch_counts(
        &self,
        tenant: &Tenant,
        batches: &[TaskId],
    ) -> Result<Vec<(TaskId, BatchCounts)>, StoreError> {
        let (state, _) = self.enter();
        let counted = batches.iter().map(|id| (*id, flows::counts(&state, Some(tenant), *id)));
        Ok(counted.filter(|(_, counts)| counts.total() > 0).collect())
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
                && filter.batch.is_none_or(|batch| entry.batch == Some(batch))
                && filter.queue.as_ref().is_none_or(|wanted| *wanted == entry.submitted.queue)
                && filter.error_code.as_ref().is_none_or(|wanted| entry.ended_with(wanted))
                && filter.ended_before.is_none_or(|before| entry.completed_at.is_some_and(|at| at < before))
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
        self.tell_of_ends(&state);
        Ok(outcomes)
    }

    async fn reprioritise(
        &self,
        tenant: &Tenant,
        ids: &[TaskId],
        priority: Priority,
    ) -> Result<Vec<Reprioritised>, StoreError> {
        let (mut state, _) = self.enter();
        let mut outcomes = Vec::with_capacity(ids.len());
        for id in ids {
            let own = state.tasks.get(id).filter(|entry| entry.submitted.tenant == *tenant);
            let Some(status) = own.map(Entry::status) else {
                outcomes.push(Reprioritised::Unknown);
                continue;
            };
            if own.is_some_and(|entry| may_change_priority(entry.state).is_err()) {
                outcomes.push(Reprioritised::NotWaiting(status));
                continue;
            }
            state.change(*id, |entry| (entry.submitted.priority, entry.raised) = (priority, None));
            let place = state.tasks.get(id).map(|entry| entry.waiting(*id));
            outcomes.push(match place.filter(|_| status == Status::Pending) {
                Some(place) => Reprioritised::Moved(place),
                None => Reprioritised::Later,
            });
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
        self.tell_of_ends(&state);
        Ok(outcomes)
    }

    async fn retry(&self, tenant: &Tenant, tasks: &[Retry]) -> Result<Vec<RetryOutcome>, StoreError> {
        let (mut state, now) = self.enter();
        let (mut outcomes, mut reopened) = (Vec::with_capacity(tasks.len()), Vec::new());
        for Retry { id, input } in tasks {
            let Some(entry) = state.tasks.get(id).filter(|entry| entry.submitted.tenant == *tenant) else {
                outcomes.push(RetryOutcome::Unknown);
                continue;
            };
            outcomes.push(match decide(entry.state, entry.counters, Event::Retry) {
                Ok(change) => {
                    state.apply(*id, change, None, now);
                    let Some(entry) = state.tasks.get_mut(id) else { continue };
                    if let Some(input) = input {
                        entry.submitted.input = input.clone();
                        if let Some(needs) = &mut entry.needs {
                            needs.resolved = false;
                        }
                    }
                    reopened.push(*id);
                    RetryOutcome::Waiting(entry.waiting(*id), entry.counters.attempt)
                }
                Err(Refusal::Completed) => RetryOutcome::Completed,
                Err(_) => RetryOutcome::NotEnded(entry.status()),
            });
        }
        let waiting = flows::wait_again(&mut state, &reopened, now);
        for (Retry { id, .. }, outcome) in tasks.iter().zip(&mut outcomes) {
            if waiting.contains(id) {
                outcome.wait_for_others();
            }
        }
        self.tell_of_ends(&state);
        Ok(outcomes)
    }

    async fn discard(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<DiscardOutcome>, StoreError> {
        let (mut state, _) = self.enter();
        let mut outcomes = Vec::with_capacity(ids.len());
        for id in ids {
            let own = state.tasks.get(id).filter(|entry| entry.submitted.tenant == *tenant);
            outcomes.push(match own.map(Entry::status) {
                None => DiscardOutcome::Unknown,
                Some(Status::Failed) => {
                    state.remove(*id);
                    DiscardOutcome::Discarded
                }
                Some(status) => DiscardOutcome::NotFailed(status),
            });
        }
        self.tell_of_ends(&state);
        Ok(outcomes)
    }

    async fn failures(&self, tenant: &Tenant, limit: usize) -> Result<Vec<FailureGroup>, StoreError> {
        let (state, _) = self.enter();
        let mut groups: BTreeMap<(String, TaskType), FailureGroup> = BTreeMap::new();
        let failed = state.tasks.iter().filter(|(_, entry)| entry.status() == Status::Failed);
        for (id, entry) in failed.filter(|(_, entry)| entry.submitted.tenant == *tenant) {
            let (Some(error), Some(at)) = (&entry.error, entry.completed_at) else { continue };
            let task_type = &entry.submitted.task_type;
            let group =
                groups.entry((error.code.clone(), task_type.clone())).or_insert_with(|| FailureGroup {
                    code: error.code.clone(),
                    task_type: task_type.clone(),
                    count: 0,
                    first_at: at,
                    last_at: at,
                    latest: *id,
                    message: String::new(),
                });
            group.count += 1;
            group.first_at = group.first_at.min(at);
            group.last_at = group.last_at.max(at);
            (group.latest, group.message) = (*id, error.message.clone());
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.count));
        groups.truncate(limit);
        Ok(groups)
    }

    async fn usage(
        &self,
        tenant: &Tenant,
        days: (Day, Day),
        grouping: UsageGrouping,
        limit: usize,
    ) -> Result<Vec<UsageGroup>, StoreError> {
        let (state, _) = self.enter();
        let mut groups: BTreeMap<String, Spending> = BTreeMap::new();
        for ((owner, day, provider, model), spending) in &state.usage {
            if owner != tenant || *day < days.0 || *day > days.1 {
                continue;
            }
            let key = match grouping {
                UsageGrouping::Model => model.clone(),
                UsageGrouping::Provider => provider.to_string(),
                UsageGrouping::Day => day.to_string(),
            };
            let sum = groups.entry(key).or_default();
            *sum = sum.plus(*spending);
        }
        let mut groups: Vec<_> =
            groups.into_iter().map(|(key, spending)| UsageGroup { key, spending }).collect();
        if grouping != UsageGrouping::Day {
            let weight = |sum: &Spending| (sum.cost_micros, sum.input_tokens + sum.output_tokens);
            groups.sort_by_key(|group| std::cmp::Reverse(weight(&group.spending)));
        }
        groups.truncate(limit);
        Ok(groups)
    }

    async fn batch_usage(&self, tenant: &Tenant, batch: TaskId) -> Result<Spending, StoreError> {
        let (state, _) = self.enter();
        let of_batch = |entry: &&Entry| entry.batch == Some(batch) && entry.submitted.tenant == *tenant;
        let attempts = state.tasks.values().filter(of_batch).flat_map(|entry| &entry.attempts);
        Ok(Spending::of(attempts.flat_map(|attempt| &attempt.shown.calls)))
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

pub(super) fn submit(state: &mut State, task: &NewTask, now: Timestamp) -> Submitted {
    let key =
        task.idempotency.as_ref().map(|used| ((task.tenant.clone(), used.key.clone()), used.fingerprint));
    if let Some((key, fingerprint)) = &key
        && let Some(used) = state.keys.get(key).filter(|used| !used.is_forgotten(now))
    {
        let same = used.fingerprint == *fingerprint;
        return if same { Submitted::Replayed(used.receipt) } else { Submitted::KeyReused(used.receipt.id) };
    }
    if let Some(existing) = task.unique.as_ref().and_then(|unique| met(state, task, unique, now)) {
        return Submitted::Existing(existing);
    }
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
        calls: Vec::new(),
        chunks: Default::default(),
        raised: None,
        rank: None,
        needs: None,
        waits_for: None,
        batch: None,
    };
    state.insert(id, entry);
    let rank = state.tasks.get(&id).map_or(Rank(id.0), |entry| entry.rank(id));
    let receipt = Receipt { id, created_at: now, run_at, rank };
    if let Some((key, fingerprint)) = key {
        state.keys.insert(key, UsedKey { fingerprint, receipt });
    }
    Submitted::New(receipt)
}

/// The newest task that stands in the way of this one.
fn met(state: &State, task: &NewTask, unique: &Unique, now: Timestamp) -> Option<TaskId> {
    let shares_key = |entry: &Entry| {
        entry.submitted.tenant == task.tenant
            && entry.submitted.unique.as_ref().is_some_and(|other| other.key == unique.key)
    };
    let meets = |entry: &Entry| unique.is_met_by(entry.status(), entry.created_at, now);
    state.tasks.iter().rev().find(|(_, entry)| shares_key(entry) && meets(entry)).map(|(id, _)| *id)
}
