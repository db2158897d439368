//! Why a task does not run: the facts, from wherever they are known. [`domain::why`] judges them.

use domain::{
    AttemptOutcome, Failure, Service, Status, Task, TaskId, Tenant,
    why::{Facts, Place, Runner, Why},
};

use super::{QueueReport, Queues};
use crate::{
    fleet::{WorkerInfo, Workers},
    ports::StoreError,
};

/// The farthest that a place in a queue is counted.
pub const FARTHEST_PLACE: usize = 1_000;

/// A task with what holds it back.
#[derive(Debug, Clone, PartialEq)]
pub struct Explained {
    /// The task.
    pub task: Task,
    /// The judgement.
    pub why: Why,
    /// How many of its queue go first, up to [`FARTHEST_PLACE`]; `None` unless it waits in the queue's order.
    pub ahead: Option<Place>,
    /// The workers that serve its queue and are not gone, with whether each would run it.
    pub runners: Vec<(WorkerInfo, bool)>,
}

impl Queues {
    /// What holds a task back; `None` for an unknown one. What is read changes meanwhile: the answer is one of a moment.
    pub async fn explain(&self, tenant: &Tenant, id: TaskId) -> Result<Option<Explained>, StoreError> {
        let Some(task) = self.tasks.read(tenant, id).await? else { return Ok(None) };
        let report = self.read(tenant, &task.queue).await?;
        let place = self.place(&task).await?;
        let serving: Vec<WorkerInfo> = Workers::new(self.store.clone(), self.signals.clone())
            .list()
            .await?
            .into_iter()
            .filter(|worker| !worker.state.is_gone() && serves(worker, &task))
            .collect();
        let runners: Vec<Runner> = serving.iter().map(|worker| runner(worker, &task)).collect();
        let error = self.last_error(tenant, &task).await?;
        let now = self.store.ping().await?.now;
        let facts = Facts { error, ..facts(&task, report.as_ref(), place, runners.clone(), now) };
        let runners = serving.into_iter().zip(runners.iter().map(Runner::could_run)).collect();
        Ok(Some(Explained { why: facts.explain(), task, ahead: place, runners }))
    }

    /// Of a task that waits for another try.
    async fn last_error(
        &self,
        tenant: &Tenant,
        task: &Task,
    ) -> Result<Option<(Failure, AttemptOutcome)>, StoreError> {
        let Some(error) = task.error.clone().filter(|_| task.status == Status::Scheduled) else {
            return Ok(None);
        };
        let attempts = self.tasks.attempts(tenant, task.id).await?.unwrap_or_default();
        let outcome = attempts.last().and_then(|attempt| attempt.outcome);
        Ok(Some((error, outcome.unwrap_or(AttemptOutcome::Failed))))
    }

    async fn place(&self, task: &Task) -> Result<Option<Place>, StoreError> {
        if task.status != Status::Pending {
            return Ok(None);
        }
        let waiting = self.store.waiting(&task.queue, FARTHEST_PLACE).await?;
        Ok(Some(match waiting.iter().position(|other| other.id == task.id) {
            Some(ahead) => Place::Behind(ahead),
            None if waiting.len() >= FARTHEST_PLACE => Place::BehindMoreThan(waiting.len()),
            None => Place::Apart,
        }))
    }
}

fn serves(worker: &WorkerInfo, task: &Task) -> bool {
    let (only, except) = (worker.record.queues.clone(), worker.record.except.clone());
    Service { only, except }.covers(&task.queue)
}

fn runner(worker: &WorkerInfo, task: &Task) -> Runner {
    let types = &worker.about.types;
    Runner {
        state: worker.state,
        // One that has not said what it knows counts as knowing it.
        knows_type: types.is_empty() || types.iter().any(|known| known == task.task_type.as_str()),
        free_slots: worker.record.concurrency.saturating_sub(worker.standing.active_count),
    }
}

fn facts(
    task: &Task,
    report: Option<&QueueReport>,
    place: Option<Place>,
    runners: Vec<Runner>,
    now: domain::Timestamp,
) -> Facts {
    let needs = task.needs.as_ref().map(|needs| needs.after.iter().map(|need| need.task).collect());
    Facts {
        status: task.status,
        queue: task.queue.clone(),
        run_at: task.run_at,
        error: None,
        waits_for: task.waits_for,
        needs: needs.unwrap_or_default(),
        queue_paused: report.is_some_and(|report| report.paused),
        limits: report.map(|report| report.settings.limits).unwrap_or_default(),
        running: report.map_or(0, |report| report.count(Status::Processing)),
        place,
        runners,
        recent: report.map_or((0, std::time::Duration::ZERO), |report| {
            (report.recent.map_or(0, |recent| recent.runs.ended), report.recent_time)
        }),
        now,
    }
}
