//! The workers' side.

use async_trait::async_trait;
use domain::{
    Change, Event, NewTask, QueueName, Service, Share, State as TaskState, Suspicion, TaskId, Timestamp,
    WorkerId, ai::Spending, decide, task::ProgressReport,
};

use super::{
    MemoryStore,
    state::{Life, State, Worker},
};
use crate::ports::{
    Applied, ChunkRecord, Claim, ClaimedTask, LimitedClaim, LimitedTasks, ProgressRecord, Settlement,
    StoreError, WorkStore, WorkerProfile,
};

#[async_trait]
impl WorkStore for MemoryStore {
    async fn register(&self, profile: &WorkerProfile) -> Result<WorkerId, StoreError> {
        let (mut state, now) = self.enter();
        state.last_worker += 1;
        let id = WorkerId(state.last_worker);
        let WorkerProfile { name, queues, except, concurrency, lease, about } = profile.clone();
        let worker = Worker {
            name,
            service: Service { only: queues, except },
            concurrency,
            lease,
            about,
            report: None,
            registered_at: now,
            last_heartbeat: now,
            life: Life::Alive,
            heaviest: Suspicion::None,
        };
        state.workers.insert(id, worker);
        Ok(id)
    }

    async fn heartbeat(&self, worker: WorkerId) -> Result<bool, StoreError> {
        let (mut state, now) = self.enter();
        let Some(worker) = state.workers.get_mut(&worker).filter(|worker| worker.life == Life::Alive) else {
            return Ok(false);
        };
        worker.last_heartbeat = now;
        Ok(true)
    }

    async fn retire(&self, worker: WorkerId) -> Result<(), StoreError> {
        let (mut state, _) = self.enter();
        if let Some(worker) = state.workers.get_mut(&worker).filter(|worker| worker.life == Life::Alive) {
            worker.life = Life::Retired;
        }
        Ok(())
    }

    async fn claim(&self, worker: WorkerId, claim: &Claim) -> Result<Vec<ClaimedTask>, StoreError> {
        let (mut state, now) = self.enter();
        if state.workers.get(&worker).is_none_or(|worker| worker.life != Life::Alive) {
            return Ok(Vec::new());
        }
        let ids = match claim {
            Claim::Ids(ids) => ids.iter().copied().filter(|id| !state.is_suspect(*id)).collect(),
            Claim::Next { queues, limit, .. } => next(&mut state, queues, *limit),
            Claim::Suspects { queues, suspicion, limit } => suspects(&state, queues, *suspicion, *limit),
        };
        Ok(ids.into_iter().filter_map(|id| take(&mut state, worker, id, now)).collect())
    }

    async fn claim_limited(
        &self,
        worker: WorkerId,
        claim: &LimitedClaim,
    ) -> Result<LimitedTasks, StoreError> {
        let LimitedClaim { queue, limits, suspicion, limit } = claim;
        let (mut state, now) = self.enter();
        if state.workers.get(&worker).is_none_or(|worker| worker.life != Life::Alive) {
            return Ok(LimitedTasks::default());
        }
        let running = state.running_in(queue);
        let arrival = state.queues.arrivals.get(queue).copied();
        let room = limits.room(running, arrival, now).tasks.min(*limit);
        let line = state.pending.get(&(queue.clone(), *suspicion)).into_iter().flatten();
        let ids: Vec<_> = line.take(room).map(|(.., id)| *id).collect();
        let tasks: Vec<_> = ids.into_iter().filter_map(|id| take(&mut state, worker, id, now)).collect();
        if let Some(rate) = limits.rate {
            let passed = u32::try_from(tasks.len()).unwrap_or(u32::MAX);
            state.queues.arrivals.insert(queue.clone(), rate.arrival_after(arrival, now, passed));
        }
        let arrival = state.queues.arrivals.get(queue).copied();
        let wait = limits.room(state.running_in(queue), arrival, now).wait;
        Ok(LimitedTasks { tasks, wait })
    }

    async fn settle(&self, worker: WorkerId, settlements: &[Settlement]) -> Result<Vec<Applied>, StoreError> {
        let (mut state, now) = self.enter();
        let settled =
            settlements.iter().map(|settlement| settle(&mut state, worker, settlement, now)).collect();
        self.tell_of_ends(&state);
        Ok(settled)
    }

    async fn record(
        &self,
        worker: WorkerId,
        progress: &[ProgressRecord],
        chunks: &[ChunkRecord],
    ) -> Result<(), StoreError> {
        let (mut state, now) = self.enter();
        for ProgressRecord { task, attempt, progress } in progress {
            if let Some(entry) = state.tasks.get_mut(task).filter(|entry| entry.is_held(worker, *attempt)) {
                entry.progress = Some(ProgressReport { progress: progress.clone(), updated_at: now });
            }
        }
        for ChunkRecord { task, attempt, seq, text } in chunks {
            if let Some(entry) = state.tasks.get_mut(task).filter(|entry| entry.is_held(worker, *attempt)) {
                entry.chunks.entry((*attempt, *seq)).or_insert_with(|| text.clone());
            }
        }
        Ok(())
    }

    async fn cancel_requests(&self, worker: WorkerId) -> Result<Vec<(TaskId, u32)>, StoreError> {
        let (state, _) = self.enter();
        let held = state.tasks.iter().filter(|(_, entry)| entry.holder == Some(worker));
        Ok(held
            .filter(|(_, entry)| entry.cancel_requested())
            .map(|(id, entry)| (*id, entry.counters.attempt))
            .collect())
    }
}

/// The first in order: the most urgent, and among equals the queue that was served longest ago.
fn next(state: &mut State, queues: &[(QueueName, usize)], limit: usize) -> Vec<TaskId> {
    let mut lines: Vec<_> = queues
        .iter()
        .filter_map(|(queue, most)| {
            let line = state
                .pending
                .get(&(queue.clone(), Suspicion::None))?
                .iter()
                .take(*most)
                .copied()
                .collect::<Vec<_>>();
            Some((queue.clone(), line.into_iter().peekable()))
        })
        .collect();
    let mut clock = state.served.values().max().copied().unwrap_or(0);
    let mut taken = Vec::new();
    while taken.len() < limit {
        let served = &state.served;
        let first = lines
            .iter_mut()
            .filter_map(|(queue, line)| {
                let (priority, ..) = *line.peek()?;
                Some(((priority, served.get(queue).copied().unwrap_or(0)), queue, line))
            })
            .min_by_key(|(rank, ..)| *rank);
        let Some((_, queue, line)) = first else { break };
        clock += 1;
        taken.extend(line.next().map(|(.., id)| id));
        let queue = queue.clone();
        state.served.insert(queue, clock);
    }
    taken
}

/// The first suspects of this degree over all these queues.
fn suspects(state: &State, queues: &[QueueName], suspicion: Suspicion, limit: usize) -> Vec<TaskId> {
    if suspicion == Suspicion::None {
        return Vec::new();
    }
    let lines = queues.iter().filter_map(|queue| state.pending.get(&(queue.clone(), suspicion)));
    let mut first: Vec<_> = lines.flat_map(|line| line.iter().take(limit)).copied().collect();
    first.sort_unstable();
    first.truncate(limit);
    first.into_iter().map(|(.., id)| id).collect()
}

fn take(state: &mut State, worker: WorkerId, id: TaskId, now: Timestamp) -> Option<ClaimedTask> {
    let entry = state.tasks.get(&id)?;
    let change = decide(entry.state, entry.counters, Event::Claim).ok()?;
    state.apply(id, change, Some(worker), now);
    let entry = state.tasks.get(&id)?;
    let NewTask { tenant, task_type, queue, input, limits, own, share, .. } = entry.submitted.clone();
    Some(ClaimedTask {
        id,
        tenant,
        task_type,
        queue,
        priority: entry.urgency(),
        rank: entry.rank(id),
        fairness_key: share.and_then(|share| share.key),
        input,
        limits,
        retry: own.retry.map(Box::new),
        counters: entry.counters,
        created_at: entry.created_at,
        started_at: now,
    })
}

fn settle(state: &mut State, worker: WorkerId, settlement: &Settlement, now: Timestamp) -> Applied {
    let Settlement { task, attempt, change, result, details, calls, knew_of_cancel } = settlement;
    let Some(entry) = state.tasks.get_mut(task) else { return Applied::Stale };
    if !entry.is_held(worker, *attempt) {
        // Sent before and applied: the record says so.
        let applied = entry.attempts.iter().any(|ended| {
            ended.worker == worker
                && ended.shown.attempt == *attempt
                && Some(ended.outcome) == change.attempt_outcome()
        });
        return if applied { Applied::Yes } else { Applied::Stale };
    }
    match change {
        Change::BecomePending | Change::Start | Change::RequestCancel | Change::Reopen { .. } => {
            return Applied::Stale;
        }
        Change::Wait { .. } => {
            if entry.state == (TaskState::Processing { cancel_requested: true }) && !knew_of_cancel {
                return Applied::CancelRequested;
            }
        }
        Change::Finish { .. } => (entry.result, entry.details) = (result.clone(), details.clone()),
    }
    entry.calls = calls.clone();
    let NewTask { tenant, queue, share, .. } = entry.submitted.clone();
    if let Some(Share { key, cost }) = share.filter(|_| !calls.is_empty())
        && let Some(lane) = state.lanes.get_mut(&(queue, tenant.clone(), key))
    {
        lane.learn(cost, Spending::of(calls).tokens());
    }
    for ((provider, model), spending) in Spending::by_model(calls) {
        let sum = state.usage.entry((tenant.clone(), now.date_naive(), provider, model)).or_default();
        *sum = sum.plus(spending);
    }
    state.apply(*task, change.clone(), None, now);
    Applied::Yes
}
