//! The batch lane.

use std::collections::BTreeMap;

use async_trait::async_trait;
use domain::{State as TaskState, TaskId, Timestamp, ai::ProviderName};

use super::{MemoryStore, state::State};
use crate::ports::{Gather, LaneEntry, LaneStore, Parked, ProviderBatch, StoreError};

/// Requests on their way into batches, and these.
#[derive(Default)]
pub(super) struct Lane {
    requests: BTreeMap<TaskId, Request>,
    batches: BTreeMap<i64, Batch>,
    last_batch: i64,
}

struct Request {
    parked: Parked,
    parked_at: Timestamp,
    batch: Option<i64>,
    answer: Option<String>,
}

struct Batch {
    provider: ProviderName,
    looked_at: Option<Timestamp>,
    shown: ProviderBatch,
}

#[async_trait]
impl LaneStore for MemoryStore {
    async fn park(&self, request: &Parked) -> Result<(), StoreError> {
        let (mut state, now) = self.enter();
        let request = Request { parked: request.clone(), parked_at: now, batch: None, answer: None };
        state.lane.requests.insert(request.parked.task, request);
        Ok(())
    }

    async fn lane_entry(&self, task: TaskId) -> Result<(Option<LaneEntry>, Timestamp), StoreError> {
        let (state, now) = self.enter();
        let entry = state.lane.requests.get(&task);
        Ok((entry.map(|it| LaneEntry { request: it.parked.clone(), answer: it.answer.clone() }), now))
    }

    async fn withdraw_request(&self, task: TaskId) -> Result<(), StoreError> {
        self.enter().0.lane.requests.remove(&task);
        Ok(())
    }

    async fn gather(&self, provider: &ProviderName, gather: Gather) -> Result<bool, StoreError> {
        let (mut state, now) = self.enter();
        let mut waiting: Vec<_> = state
            .lane
            .requests
            .values()
            .filter(|it| it.batch.is_none() && it.answer.is_none() && it.parked.provider == *provider)
            .filter(|it| {
                state.tasks.get(&it.parked.task).is_some_and(|task| task.state == TaskState::Scheduled)
            })
            .map(|it| (it.parked_at, it.parked.task, it.parked.body.len()))
            .collect();
        waiting.sort_unstable();
        let oldest = waiting.first().and_then(|(parked_at, ..)| (now - *parked_at).to_std().ok());
        if waiting.len() < gather.most_requests && oldest.is_none_or(|waited| waited < gather.patience) {
            return Ok(false);
        }
        let mut bytes = 0;
        let fits = |(place, (.., size)): &(usize, (Timestamp, TaskId, usize))| {
            bytes += size;
            *place == 0 || bytes <= gather.most_bytes
        };
        let taken: Vec<TaskId> = waiting
            .into_iter()
            .take(gather.most_requests)
            .enumerate()
            .take_while(fits)
            .map(|(_, (_, task, _))| task)
            .collect();
        state.lane.last_batch += 1;
        let id = state.lane.last_batch;
        let shown = ProviderBatch { id, made_at: now, file: None, remote: None };
        state.lane.batches.insert(id, Batch { provider: provider.clone(), looked_at: None, shown });
        for task in taken {
            if let Some(request) = state.lane.requests.get_mut(&task) {
                request.batch = Some(id);
            }
        }
        Ok(true)
    }

    async fn batches_to_look_at(
        &self,
        provider: &ProviderName,
        pause: std::time::Duration,
        limit: usize,
    ) -> Result<Vec<ProviderBatch>, StoreError> {
        let (mut state, now) = self.enter();
        let due = |batch: &&mut Batch| {
            let rested = |at: Timestamp| (now - at).to_std().is_ok_and(|rest| rest >= pause);
            batch.provider == *provider && batch.looked_at.is_none_or(rested)
        };
        let look = |batch: &mut Batch| {
            batch.looked_at = Some(now);
            batch.shown.clone()
        };
        Ok(state.lane.batches.values_mut().filter(due).take(limit).map(look).collect())
    }

    async fn requests_of(&self, batch: i64) -> Result<Vec<(TaskId, String)>, StoreError> {
        let (state, _) = self.enter();
        let of_batch = state.lane.requests.values().filter(|it| it.batch == Some(batch));
        Ok(of_batch.map(|it| (it.parked.task, it.parked.body.clone())).collect())
    }

    async fn note_batch(&self, batch: &ProviderBatch) -> Result<bool, StoreError> {
        let (mut state, _) = self.enter();
        let Some(Batch { shown, .. }) = state.lane.batches.get_mut(&batch.id) else { return Ok(false) };
        let agree = |known: &Option<String>, noted| known.is_none() || known == noted;
        if !(agree(&shown.file, &batch.file) && agree(&shown.remote, &batch.remote)) {
            return Ok(false);
        }
        *shown = batch.clone();
        Ok(true)
    }

    async fn deliver(&self, batch: i64, answers: &[(TaskId, String)]) -> Result<usize, StoreError> {
        let (mut state, now) = self.enter();
        let mut delivered = 0;
        for (task, answer) in answers {
            let Some(request) = state.lane.requests.get_mut(task).filter(|it| it.batch == Some(batch)) else {
                continue;
            };
            request.answer = Some(answer.clone());
            delivered += 1;
            come_due(&mut state, *task, now);
        }
        Ok(delivered)
    }

    async fn close_batch(&self, batch: i64, unanswered: &str) -> Result<(), StoreError> {
        let (mut state, now) = self.enter();
        state.lane.batches.remove(&batch);
        let requests = state.lane.requests.values_mut();
        let left = requests.filter(|it| it.batch == Some(batch) && it.answer.is_none());
        let left: Vec<TaskId> = left
            .map(|it| {
                it.answer = Some(unanswered.to_owned());
                it.parked.task
            })
            .collect();
        for task in left {
            come_due(&mut state, task, now);
        }
        Ok(())
    }

    async fn forget_requests(&self, limit: usize) -> Result<usize, StoreError> {
        let (mut state, _) = self.enter();
        let lives = |task: &TaskId| state.tasks.get(task).is_some_and(|entry| !entry.status().is_terminal());
        let over: Vec<TaskId> =
            state.lane.requests.keys().filter(|task| !lives(task)).take(limit).copied().collect();
        for task in &over {
            state.lane.requests.remove(task);
        }
        Ok(over.len())
    }
}

fn come_due(state: &mut State, task: TaskId, now: Timestamp) {
    let waits =
        |entry: &super::state::Entry| entry.state == TaskState::Scheduled && entry.waits_for.is_none();
    if state.tasks.get(&task).is_some_and(waits) {
        state.change(task, |entry| entry.run_at = Some(now));
    }
}
