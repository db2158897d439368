//! What every process does now and then.

use std::time::Duration;

use async_trait::async_trait;
use domain::{
    Change, Event, Lane, QueueName, RetentionRules, State as TaskState, Status, Suspicion, TaskId, decide,
    retention::{Record, Verdict},
};

use super::{
    MemoryStore, flows,
    state::{LaneKey, Life, later},
};
use crate::ports::{
    FollowedUp, Orphan, Overdue, Overrunning, Removal, StoreError, UpkeepStore, Waiting, Walk,
};

#[async_trait]
impl UpkeepStore for MemoryStore {
    async fn promote(&self, limit: usize) -> Result<Vec<Waiting>, StoreError> {
        let (mut state, now) = self.enter();
        let due: Vec<TaskId> =
            state.scheduled.iter().take_while(|(at, _)| *at <= now).take(limit).map(|(_, id)| *id).collect();
        let mut promoted = Vec::with_capacity(due.len());
        for id in due {
            state.apply(id, Change::BecomePending, None, now);
            promoted.extend(state.tasks.get(&id).map(|entry| entry.waiting(id)));
        }
        Ok(promoted)
    }

    async fn next_due(&self) -> Result<Option<Duration>, StoreError> {
        let (state, now) = self.enter();
        Ok(state.scheduled.first().map(|(at, _)| (*at - now).to_std().unwrap_or(Duration::ZERO)))
    }

    async fn expire(&self, limit: usize) -> Result<Vec<TaskId>, StoreError> {
        let (mut state, now) = self.enter();
        let expired: Vec<(TaskId, Change)> = state
            .tasks
            .iter()
            .filter(|(_, entry)| entry.submitted.expires_at.is_some_and(|at| at <= now))
            .filter_map(|(id, entry)| Some((*id, decide(entry.state, entry.counters, Event::Expire).ok()?)))
            .take(limit)
            .collect();
        let ids = expired.iter().map(|(id, _)| *id).collect();
        for (id, change) in expired {
            state.apply(id, change, None, now);
        }
        self.tell_of_ends(&state);
        Ok(ids)
    }

    async fn overdue(&self) -> Result<Vec<Overdue>, StoreError> {
        let (state, now) = self.enter();
        let silent = state.workers.iter().filter(|(_, worker)| {
            worker.life == Life::Alive
                && (later(worker.last_heartbeat, worker.lease) <= now
                    || worker.last_heartbeat > later(now, worker.lease))
        });
        Ok(silent
            .map(|(id, worker)| Overdue {
                worker: *id,
                name: worker.name.clone(),
                last_heartbeat: worker.last_heartbeat,
            })
            .collect())
    }

    async fn bury(&self, seen: &Overdue) -> Result<bool, StoreError> {
        let (mut state, _) = self.enter();
        let held = state.tasks.values().filter(|entry| entry.holder == Some(seen.worker));
        let heaviest = held.map(|entry| entry.counters.suspicion()).max().unwrap_or_default();
        let Some(worker) = state.workers.get_mut(&seen.worker) else { return Ok(false) };
        let unchanged = worker.life == Life::Alive && worker.last_heartbeat == seen.last_heartbeat;
        if unchanged {
            (worker.life, worker.heaviest) = (Life::Dead, heaviest);
        }
        Ok(unchanged)
    }

    async fn orphans(&self, limit: usize) -> Result<Vec<Orphan>, StoreError> {
        let (state, _) = self.enter();
        let held = state.tasks.iter().filter_map(|(id, entry)| {
            let holder = entry.holder?;
            let worker = state.workers.get(&holder)?;
            let (life, heaviest) = (worker.life, worker.heaviest);
            (life != Life::Alive).then(|| Orphan {
                id: *id,
                worker: holder,
                worker_retired: life == Life::Retired,
                counters: entry.counters,
                heaviest,
                cancel_requested: entry.cancel_requested(),
                waiting: entry.waiting(*id),
            })
        });
        Ok(held.take(limit).collect())
    }

    async fn waiting(&self, queue: &QueueName, limit: usize) -> Result<Vec<Waiting>, StoreError> {
        let (state, _) = self.enter();
        let line = state.pending.get(&(queue.clone(), Suspicion::None)).into_iter().flatten().take(limit);
        Ok(line.filter_map(|(.., id)| state.tasks.get(id).map(|entry| entry.waiting(*id))).collect())
    }

    async fn waiting_queues(&self, except: &[QueueName]) -> Result<Vec<QueueName>, StoreError> {
        let (state, _) = self.enter();
        let others = state.pending.keys().map(|(queue, _)| queue).filter(|queue| !except.contains(queue));
        let mut queues: Vec<_> = others.cloned().collect();
        queues.dedup();
        Ok(queues)
    }

    async fn overrunning(&self, grace: Duration, limit: usize) -> Result<Vec<Overrunning>, StoreError> {
        let (state, now) = self.enter();
        let late = state.tasks.iter().filter_map(|(id, entry)| {
            let worker =
                entry.holder.filter(|id| state.workers.get(id).is_some_and(|w| w.life == Life::Alive))?;
            let limits = entry.submitted.limits;
            (later(later(entry.started_at?, limits.time_limit), grace) < now).then(|| Overrunning {
                id: *id,
                worker,
                task_type: entry.submitted.task_type.clone(),
                counters: entry.counters,
                limits,
                retry: entry.submitted.own.retry.clone().map(Box::new),
                cancel_requested: entry.cancel_requested(),
            })
        });
        Ok(late.take(limit).collect())
    }

    async fn follow_up(&self, limit: usize) -> Result<FollowedUp, StoreError> {
        let (mut state, now) = self.enter();
        let done = flows::follow_up(&mut state, limit, now);
        self.tell_of_ends(&state);
        Ok(done)
    }

    async fn need_ended(&self) {
        self.need_ended.notified().await;
    }

    async fn forget_lanes(&self, _age: Duration, limit: usize) -> Result<usize, StoreError> {
        let (mut state, _) = self.enter();
        let passed = |(queue, ..): &LaneKey, lane: &Lane| {
            state.clocks.get(queue).is_some_and(|clock| lane.is_forgettable(*clock))
        };
        let passed = state.lanes.iter().filter(|(key, lane)| passed(key, lane));
        let passed: Vec<_> = passed.take(limit).map(|(key, _)| key.clone()).collect();
        for key in &passed {
            state.lanes.remove(key);
        }
        Ok(passed.len())
    }

    async fn forget_keys(&self, limit: usize) -> Result<usize, StoreError> {
        let (mut state, now) = self.enter();
        let old = state.keys.iter().filter(|(_, used)| used.is_forgotten(now)).take(limit);
        let old: Vec<_> = old.map(|(key, _)| key.clone()).collect();
        for key in &old {
            state.keys.remove(key);
        }
        Ok(old.len())
    }

    async fn remove_old(
        &self,
        rules: &RetentionRules,
        walk: Walk,
        limit: usize,
    ) -> Result<Removal, StoreError> {
        let (mut state, now) = self.enter();
        let from = match walk {
            Walk::Due => TaskId(i64::MIN),
            Walk::After(id) => TaskId(id.0.saturating_add(1)),
        };
        let needed = flows::needed(&state);
        let due = state.tasks.range(from..).filter_map(|(id, entry)| {
            let TaskState::Ended(end) = entry.state else { return None };
            let (task_type, own) = (&entry.submitted.task_type, entry.submitted.own.keep_for);
            let ended = Some((end, entry.completed_at?));
            let record = Record { task_type, own, ended, needed: needed.contains(id) };
            (rules.judge(record, now) == Verdict::Remove).then_some((*id, end))
        });
        let due: Vec<_> = due.take(limit).collect();
        due.iter().for_each(|(id, _)| state.remove(*id));
        let more = due.len() == limit;
        let reached = due.last().map(|(id, _)| *id).filter(|_| more && walk != Walk::Due);
        Ok(Removal { removed: Removal::by_end(due.into_iter().map(|(_, end)| end)), reached, more })
    }

    async fn discard_failed(&self, age: Duration, limit: usize) -> Result<usize, StoreError> {
        let (mut state, now) = self.enter();
        let failed = state.tasks.iter().filter(|(_, entry)| entry.status() == Status::Failed);
        let old = failed.filter(|(_, entry)| entry.completed_at.is_some_and(|at| later(at, age) < now));
        let old: Vec<_> = old.take(limit).map(|(id, _)| *id).collect();
        old.iter().for_each(|id| state.remove(*id));
        self.tell_of_ends(&state);
        Ok(old.len())
    }
}
