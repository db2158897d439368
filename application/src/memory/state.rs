//! What the store holds, and the one way in which a task's state changes.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use domain::{
    Attempt, AttemptOutcome, Change, Counters, Day, Failure, FairnessKey, Idempotency, IdempotencyKey, Json,
    Lane, NewTask, Priority, QueueName, Rank, Service, Share, State as TaskState, Status, Suspicion, Task,
    TaskId, Tenant, Timestamp, WorkerId, WorkerName,
    ai::{ModelCall, ProviderName, Spending},
    flow::Needs,
    schedule::ScheduleName,
    task::ProgressReport,
};

use super::{fleet::KeptCommand, lane, queues::QueueBook, quotas::Meters, schedules::KeptSchedule};
use crate::ports::{Receipt, Waiting};

#[derive(Default)]
pub(super) struct State {
    pub(super) last_task: i64,
    pub(super) last_worker: i64,
    pub(super) last_schedule: i64,
    pub(super) last_command: i64,
    pub(super) tasks: BTreeMap<TaskId, Entry>,
    /// PENDING tasks in order, suspects apart; no line without a task.
    pub(super) pending: BTreeMap<(QueueName, Suspicion), Line>,
    /// The lanes of fair queues.
    pub(super) lanes: BTreeMap<LaneKey, Lane>,
    /// The highest rank that has been started in a fair queue.
    pub(super) clocks: BTreeMap<QueueName, Rank>,
    /// SCHEDULED tasks by the moment they wait for.
    pub(super) scheduled: BTreeSet<(Timestamp, TaskId)>,
    /// Idempotency keys with what their first use came to, and when.
    pub(super) keys: BTreeMap<(Tenant, IdempotencyKey), UsedKey>,
    /// How many tasks stand where; no zeros.
    pub(super) counts: BTreeMap<(Tenant, QueueName, Status), u64>,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    pub(super) commands: Vec<KeptCommand>,
    pub(super) schedules: BTreeMap<(Tenant, ScheduleName), KeptSchedule>,
    pub(super) queues: QueueBook,
    pub(super) meters: Meters,
    pub(super) lane: lane::Lane,
    /// By task, who waits for its end.
    pub(super) dependents: BTreeMap<TaskId, BTreeSet<TaskId>>,
    /// Ends of needed tasks that are to be followed up.
    pub(super) ended_needs: VecDeque<TaskId>,
    /// What calls of models came to, by tenant, day, provider and model.
    pub(super) usage: BTreeMap<(Tenant, Day, ProviderName, String), Spending>,
    /// When each queue was last served, so that queues take turns from claim to claim.
    pub(super) served: HashMap<QueueName, u64>,
}

/// Those that wait, in order.
pub(super) type Line = BTreeSet<(Priority, Rank, TaskId)>;

/// What names a lane of a fair queue.
pub(super) type LaneKey = (QueueName, Tenant, Option<FairnessKey>);

/// The first use of an idempotency key.
pub(super) struct UsedKey {
    pub(super) fingerprint: [u8; 32],
    pub(super) receipt: Receipt,
}

/// A task with all that belongs to it.
pub(super) struct Entry {
    pub(super) submitted: NewTask,
    pub(super) state: TaskState,
    pub(super) counters: Counters,
    pub(super) holder: Option<WorkerId>,
    pub(super) result: Option<Json>,
    pub(super) details: Option<Json>,
    pub(super) error: Option<Failure>,
    pub(super) progress: Option<ProgressReport>,
    pub(super) created_at: Timestamp,
    pub(super) updated_at: Option<Timestamp>,
    pub(super) run_at: Option<Timestamp>,
    pub(super) started_at: Option<Timestamp>,
    pub(super) completed_at: Option<Timestamp>,
    pub(super) attempts: Vec<EndedAttempt>,
    /// Of the attempt that is being settled.
    pub(super) calls: Vec<ModelCall>,
    pub(super) chunks: BTreeMap<(u32, u64), String>,
    /// What waiting has made of its priority.
    pub(super) raised: Option<Priority>,
    /// What its lane has given it.
    pub(super) rank: Option<Rank>,
    pub(super) needs: Option<Needs>,
    /// How many others it still waits for.
    pub(super) waits_for: Option<usize>,
    pub(super) batch: Option<TaskId>,
}

pub(super) struct EndedAttempt {
    pub(super) worker: WorkerId,
    pub(super) outcome: AttemptOutcome,
    pub(super) shown: Attempt,
}

pub(super) struct Worker {
    pub(super) name: WorkerName,
    pub(super) service: Service,
    pub(super) concurrency: usize,
    pub(super) lease: std::time::Duration,
    pub(super) about: Option<Json>,
    pub(super) report: Option<(Timestamp, Json)>,
    pub(super) registered_at: Timestamp,
    pub(super) last_heartbeat: Timestamp,
    pub(super) life: Life,
    /// Of what it held when it died.
    pub(super) heaviest: Suspicion,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Alive,
    Retired,
    Dead,
}

impl UsedKey {
    /// Whether its time is over.
    pub(super) fn is_forgotten(&self, now: Timestamp) -> bool {
        later(self.receipt.created_at, Idempotency::KEPT) <= now
    }
}

impl Entry {
    /// Whether it has ended, with an error of this code.
    pub(super) fn ended_with(&self, code: &str) -> bool {
        self.completed_at.is_some() && self.error.as_ref().is_some_and(|error| error.code == code)
    }

    pub(super) fn status(&self) -> Status {
        self.state.into()
    }

    /// The fence of every write of a running attempt.
    pub(super) fn is_held(&self, worker: WorkerId, attempt: u32) -> bool {
        self.holder == Some(worker) && self.counters.attempt == attempt
    }

    pub(super) fn cancel_requested(&self) -> bool {
        self.state == TaskState::Processing { cancel_requested: true }
    }

    pub(super) fn show(&self, id: TaskId) -> Task {
        let NewTask {
            tenant,
            task_type,
            queue,
            priority,
            input,
            metadata,
            limits,
            own,
            expires_at,
            unique,
            share,
            start: _,
            idempotency: _,
        } = self.submitted.clone();
        Task {
            id,
            tenant,
            task_type,
            queue,
            priority,
            input,
            metadata,
            limits,
            own,
            unique_key: unique.map(|unique| unique.key),
            status: self.status(),
            cancel_requested: self.cancel_requested(),
            attempt: self.counters.attempt,
            result: self.result.clone(),
            details: self.details.clone(),
            error: self.error.clone(),
            progress: self.progress.clone(),
            created_at: self.created_at,
            updated_at: self.updated_at,
            run_at: self.run_at,
            expires_at,
            started_at: self.started_at,
            completed_at: self.completed_at,
            needs: self.needs.clone(),
            waits_for: self.waits_for.map(|open| u32::try_from(open).unwrap_or(u32::MAX)),
            batch: self.batch,
            fairness_key: share.and_then(|share| share.key),
        }
    }

    /// How soon it goes.
    pub(super) fn urgency(&self) -> Priority {
        self.raised.unwrap_or(self.submitted.priority)
    }

    /// Its place among those as urgent.
    pub(super) fn rank(&self, id: TaskId) -> Rank {
        self.rank.unwrap_or(Rank(id.0))
    }

    pub(super) fn waiting(&self, id: TaskId) -> Waiting {
        Waiting {
            id,
            queue: self.submitted.queue.clone(),
            priority: self.urgency(),
            rank: self.rank(id),
            suspicion: self.counters.suspicion(),
        }
    }
}

impl State {
    /// Whether a task is charged with a crash.
    pub(super) fn is_suspect(&self, id: TaskId) -> bool {
        self.tasks.get(&id).is_some_and(|entry| entry.counters.suspicion() != Suspicion::None)
    }

    /// How many tasks of this queue run, whoever owns them.
    pub(super) fn running_in(&self, queue: &QueueName) -> u64 {
        let of_queue =
            |(_, of, status): &(Tenant, QueueName, Status)| of == queue && *status == Status::Processing;
        self.counts.iter().filter(|(place, _)| of_queue(place)).map(|(_, count)| count).sum()
    }

    /// Adds a task that has just been submitted.
    pub(super) fn insert(&mut self, id: TaskId, mut entry: Entry) {
        if entry.state == TaskState::Pending && entry.rank.is_none() {
            entry.rank = self.line_up(id, &entry.submitted);
        }
        self.enlist(id, &entry);
        self.tasks.insert(id, entry);
    }

    /// Its lane's next rank, where its queue is a fair one.
    fn line_up(&mut self, id: TaskId, task: &NewTask) -> Option<Rank> {
        let Share { key, cost } = task.share.as_ref()?;
        let clock = *self.clocks.entry(task.queue.clone()).or_insert(Rank(id.0));
        let lane = (task.queue.clone(), task.tenant.clone(), key.clone());
        Some(self.lanes.entry(lane).or_insert(Lane::NEW).line_up(clock, *cost))
    }

    /// Takes a task out with all that belongs to it.
    pub(super) fn remove(&mut self, id: TaskId) {
        if let Some(entry) = self.tasks.remove(&id) {
            self.strike(id, &entry);
            self.stop_waiting(id, &entry);
            self.note_end(id);
        }
    }

    /// Notes the end of a task that somebody needs.
    fn note_end(&mut self, id: TaskId) {
        if self.dependents.contains_key(&id) {
            self.ended_needs.push_back(id);
        }
    }

    /// Nobody has to tell a task any more that waited for others.
    fn stop_waiting(&mut self, id: TaskId, entry: &Entry) {
        if entry.waits_for.is_some() {
            self.dependents.retain(|_, waiting| {
                waiting.remove(&id);
                !waiting.is_empty()
            });
        }
    }

    /// Changes what was submitted of a task, which stays where it is.
    pub(super) fn change(&mut self, id: TaskId, change: impl FnOnce(&mut Entry)) {
        if let Some(mut entry) = self.tasks.remove(&id) {
            self.strike(id, &entry);
            change(&mut entry);
            self.insert(id, entry);
        }
    }

    /// Applies a decision of the domain to a task; `worker` is who takes it, for [`Change::Start`].
    pub(super) fn apply(&mut self, id: TaskId, change: Change, worker: Option<WorkerId>, now: Timestamp) {
        let Some(mut entry) = self.tasks.remove(&id) else { return };
        self.strike(id, &entry);
        let attempt_outcome = change.attempt_outcome();
        match change {
            Change::RequestCancel => entry.state = TaskState::Processing { cancel_requested: true },
            Change::BecomePending => {
                self.stop_waiting(id, &entry);
                entry.waits_for = None;
                (entry.state, entry.run_at) = (TaskState::Pending, None);
                entry.updated_at = Some(now);
            }
            Change::Reopen { counters } => {
                (entry.state, entry.counters) = (TaskState::Pending, counters);
                (entry.result, entry.details, entry.completed_at) = (None, None, None);
                entry.submitted.expires_at = entry.submitted.expires_at.filter(|at| *at > now);
                entry.rank = None;
                entry.updated_at = Some(now);
            }
            Change::Start => {
                entry.state = TaskState::Processing { cancel_requested: false };
                entry.counters.attempt += 1;
                (entry.holder, entry.error) = (worker, None);
                if let (Some(rank), Some(clock)) = (entry.rank, self.clocks.get_mut(&entry.submitted.queue)) {
                    *clock = rank.max(*clock);
                }
                (entry.started_at, entry.updated_at) = (Some(now), Some(now));
            }
            Change::Wait { after, counters, outcome: _, error } => {
                self.end_attempt(&mut entry, attempt_outcome, &error, now);
                let at_once = after.is_zero();
                entry.state = if at_once { TaskState::Pending } else { TaskState::Scheduled };
                entry.run_at = (!at_once).then(|| later(now, after));
                (entry.counters, entry.error) = (counters, error);
                entry.updated_at = Some(now);
            }
            Change::Finish { end, counters, error } => {
                self.end_attempt(&mut entry, attempt_outcome, &error, now);
                self.stop_waiting(id, &entry);
                self.note_end(id);
                entry.waits_for = None;
                entry.state = TaskState::Ended(end);
                (entry.run_at, entry.raised) = (None, None);
                (entry.counters, entry.error) = (counters, error);
                (entry.completed_at, entry.updated_at) = (Some(now), Some(now));
            }
        }
        self.insert(id, entry);
    }

    /// Keeps the record of the attempt that ends, where one ran.
    fn end_attempt(
        &self,
        entry: &mut Entry,
        outcome: Option<AttemptOutcome>,
        error: &Option<Failure>,
        now: Timestamp,
    ) {
        if let (Some(worker), Some(outcome)) = (entry.holder, outcome) {
            let shown = Attempt {
                ended_at: Some(now),
                outcome: Some(outcome),
                error: error.clone(),
                calls: std::mem::take(&mut entry.calls),
                ..self.running(entry)
            };
            entry.attempts.push(EndedAttempt { worker, outcome, shown });
        }
        entry.holder = None;
    }

    /// The attempt that runs, as it is shown.
    pub(super) fn running(&self, entry: &Entry) -> Attempt {
        Attempt {
            attempt: entry.counters.attempt,
            worker: entry.holder.and_then(|id| self.workers.get(&id)).map(|worker| worker.name.clone()),
            started_at: entry.started_at.unwrap_or(entry.created_at),
            ended_at: None,
            outcome: None,
            error: None,
            calls: Vec::new(),
        }
    }

    /// Puts a task into the order and the counts.
    fn enlist(&mut self, id: TaskId, entry: &Entry) {
        let NewTask { tenant, queue, .. } = &entry.submitted;
        match entry.state {
            TaskState::Pending => {
                let line = (queue.clone(), entry.counters.suspicion());
                self.pending.entry(line).or_default().insert((entry.urgency(), entry.rank(id), id));
            }
            TaskState::Scheduled => {
                self.scheduled.extend(entry.run_at.map(|at| (at, id)));
            }
            TaskState::Processing { .. } | TaskState::Ended(_) => {}
        }
        *self.counts.entry((tenant.clone(), queue.clone(), entry.status())).or_default() += 1;
    }

    /// Undoes [`State::enlist`].
    fn strike(&mut self, id: TaskId, entry: &Entry) {
        let NewTask { tenant, queue, .. } = &entry.submitted;
        let line = (queue.clone(), entry.counters.suspicion());
        if let Some(order) = self.pending.get_mut(&line) {
            order.remove(&(entry.urgency(), entry.rank(id), id));
            if order.is_empty() {
                self.pending.remove(&line);
            }
        }
        if let Some(at) = entry.run_at {
            self.scheduled.remove(&(at, id));
        }
        let place = (tenant.clone(), queue.clone(), entry.status());
        if let Some(count) = self.counts.get_mut(&place) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&place);
            }
        }
    }
}

/// A moment after another, in whole microseconds; the end of time where there is none.
pub(super) fn later(now: Timestamp, after: std::time::Duration) -> Timestamp {
    let after = i64::try_from(after.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_timestamp_micros(now.timestamp_micros().saturating_add(after))
        .unwrap_or(Timestamp::MAX_UTC)
}

/// A moment in whole microseconds, as every store keeps it.
pub(super) fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_timestamp_micros(at.timestamp_micros()).unwrap_or(at)
}
