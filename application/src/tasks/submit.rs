//! Submission: check, route, store durably, then announce.

use std::time::Duration;

use domain::{
    FairnessKey, Idempotency, Json, LimitOverrides, Limits, NewTask, OwnTerms, Priority, QueueName,
    Retention, Start, Status, Task, TaskId, TaskType, Tenant, Timestamp, Unique,
};

use super::Tasks;
use crate::{
    ports::{Receipt, Signal, StoreError, Submitted, Waiting},
    registry::share,
};

/// What a client asks for. Names and numbers are valid already; what depends on the task type is checked here.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// Which handler.
    pub task_type: TaskType,
    /// Its input.
    pub input: Json,
    /// Where it waits, instead of where its type is routed.
    pub queue: Option<QueueName>,
    /// 5 unless said otherwise.
    pub priority: Option<Priority>,
    /// When it may start.
    pub start: Start,
    /// The end of its patience.
    pub expires_at: Option<Timestamp>,
    /// Instead of the type's default: 1–100.
    pub max_attempts: Option<u32>,
    /// Instead of the type's default.
    pub soft_time_limit: Option<Duration>,
    /// Instead of the type's default.
    pub time_limit: Option<Duration>,
    /// Instead of what holds for its type: when it is tried again, and how long it is kept after its end.
    pub own: OwnTerms,
    /// The caller's own notes: a JSON object.
    pub metadata: Option<Json>,
    /// Makes asking again safe.
    pub idempotency: Option<Idempotency>,
    /// Makes a second one impossible.
    pub unique: Option<Unique>,
    /// Whose share of a fair queue it takes.
    pub fairness_key: Option<FairnessKey>,
}

impl Submission {
    /// A submission that says nothing but what to run.
    pub fn new(task_type: TaskType, input: Json) -> Self {
        Self {
            task_type,
            input,
            queue: None,
            priority: None,
            start: Start::Now,
            expires_at: None,
            max_attempts: None,
            soft_time_limit: None,
            time_limit: None,
            own: OwnTerms::default(),
            metadata: None,
            idempotency: None,
            unique: None,
            fairness_key: None,
        }
    }
}

/// What a submission came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Admission {
    /// It is stored, and stands like this.
    Created(Task),
    /// It was stored before, under the same idempotency key: the answer that was given then.
    Replayed(Task),
    /// This task stands in the way of a unique one. Nothing was stored.
    Existing(Task),
    /// Its idempotency key was used for another request, which made this task. Nothing was stored.
    KeyReused(TaskId),
}

impl Admission {
    /// The task that the caller is to look at, unless the submission was refused.
    pub fn task(&self) -> Option<&Task> {
        match self {
            Self::Created(task) | Self::Replayed(task) | Self::Existing(task) => Some(task),
            Self::KeyReused(_) => None,
        }
    }
}

/// A field that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidField {
    /// Its name in the request.
    pub field: &'static str,
    /// What is wrong, with which value, and what would be right.
    pub message: String,
}

/// Why nothing was submitted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SubmitError {
    /// Something in the request is wrong; trying again does not help.
    #[error("{}", .0.iter().map(|f| format!("{}: {}", f.field, f.message)).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<InvalidField>),
    /// The tenant has as many tasks waiting as it may; later there is room again.
    #[error("{waiting} tasks wait already, and at most {limit} may; submit again when some have been taken")]
    TooManyWaiting {
        /// How many wait.
        waiting: u64,
        /// How many may.
        limit: u64,
    },
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Tasks {
    /// Stores tasks durably, all or none, and says of each what came of it. Their work is announced, not awaited.
    pub async fn submit(
        &self,
        tenant: &Tenant,
        submissions: Vec<Submission>,
    ) -> Result<Vec<Admission>, SubmitError> {
        let tasks = self.check_all(tenant, submissions)?;
        self.backlog.make_room(self.store.as_ref(), tenant, tasks.len()).await?;
        let outcomes = self.store.submit(&tasks).await?;
        let older = self.read_older(tenant, &outcomes).await?;
        let (mut admissions, mut waiting) = (Vec::with_capacity(tasks.len()), Vec::new());
        for (new, outcome) in tasks.into_iter().zip(outcomes) {
            let known = |id| older.iter().find(|task| task.id == id);
            admissions.push(match outcome {
                Submitted::New(receipt) => {
                    if receipt.run_at.is_none() {
                        waiting.push(receipt.place(new.queue.clone(), new.priority));
                    }
                    Admission::Created(as_submitted(new, receipt))
                }
                Submitted::Replayed(receipt) => {
                    Admission::Replayed(first_answer(new, receipt, known(receipt.id)))
                }
                Submitted::KeyReused(id) => Admission::KeyReused(id),
                Submitted::Existing(id) => match known(id) {
                    Some(task) => Admission::Existing(task.clone()),
                    None => {
                        let gone =
                            format!("task {id}, which was in the way, has just been deleted; submit again");
                        return Err(StoreError::Unavailable(gone).into());
                    }
                },
            });
        }
        // Into the order, and workers are woken, beside the answer.
        self.announcer.announce(waiting);
        Ok(admissions)
    }

    /// Whether a task of this type can be given this input. Of a type that is not known here, its worker will say.
    pub(crate) fn check_input(&self, task_type: &TaskType, input: &Json) -> Result<(), SubmitError> {
        let Some(spec) = self.registry.get(task_type) else { return Ok(()) };
        spec.check_input(input).map_err(|message| {
            let message = format!("{message}; an input that works: {}", spec.example_input());
            SubmitError::Invalid(vec![InvalidField { field: "input", message }])
        })
    }

    /// What this submission would store; nothing is.
    pub(crate) fn check(&self, tenant: &Tenant, submission: Submission) -> Result<NewTask, SubmitError> {
        let mut invalid = Vec::new();
        let task = self.admit(tenant, submission, false, &mut invalid);
        if invalid.is_empty() { Ok(task) } else { Err(SubmitError::Invalid(invalid)) }
    }

    /// What is kept of a submission that cannot be accepted, where it has to be kept: type and input, by defaults.
    pub(crate) fn unchecked(&self, tenant: &Tenant, submission: Submission) -> NewTask {
        self.admit(tenant, submission, false, &mut Vec::new())
    }

    /// Announces tasks that were stored in another way, and news of others.
    pub(crate) async fn tell(&self, waiting: Vec<Waiting>, news: &[Signal]) {
        self.announcer.announce(waiting);
        if !news.is_empty() {
            self.signals.publish(news).await;
        }
    }

    fn check_all(&self, tenant: &Tenant, submissions: Vec<Submission>) -> Result<Vec<NewTask>, SubmitError> {
        let mut invalid = Vec::new();
        let tasks = submissions
            .into_iter()
            .map(|submission| self.admit(tenant, submission, false, &mut invalid))
            .collect();
        if invalid.is_empty() { Ok(tasks) } else { Err(SubmitError::Invalid(invalid)) }
    }

    /// The tasks that stood in the way of new ones.
    async fn read_older(&self, tenant: &Tenant, outcomes: &[Submitted]) -> Result<Vec<Task>, StoreError> {
        let older: Vec<TaskId> = outcomes
            .iter()
            .filter_map(|outcome| match outcome {
                Submitted::Replayed(Receipt { id, .. }) | Submitted::Existing(id) => Some(*id),
                Submitted::New(_) | Submitted::KeyReused(_) => None,
            })
            .collect();
        if older.is_empty() { Ok(Vec::new()) } else { self.store.read(tenant, &older).await }
    }

    /// What is stored of a submission. An input that refers to results of others cannot be checked before it is put
    /// together.
    pub(super) fn admit(
        &self,
        tenant: &Tenant,
        submission: Submission,
        refers: bool,
        invalid: &mut Vec<InvalidField>,
    ) -> NewTask {
        let mut refuse = |field, message: String| invalid.push(InvalidField { field, message });
        let defaults = match self.registry.get(&submission.task_type).filter(|spec| !spec.is_internal()) {
            Some(spec) => {
                if !refers && let Err(message) = spec.check_input(&submission.input) {
                    refuse("input", format!("{message}; an input that works: {}", spec.example_input()));
                }
                spec.default_limits()
            }
            None => {
                let offered = self.registry.iter().filter(|spec| !spec.is_internal());
                let known: Vec<_> = offered.map(|spec| spec.name().as_str()).collect();
                let known = known.join(", ");
                refuse(
                    "type",
                    format!("no task type is called {:?}; known: {known}", submission.task_type.as_str()),
                );
                Limits::default()
            }
        };
        let queue =
            submission.queue.clone().unwrap_or_else(|| self.routes.queue_for(&submission.task_type).clone());
        let asked = LimitOverrides {
            max_attempts: submission.max_attempts,
            soft_time_limit: submission.soft_time_limit,
            time_limit: submission.time_limit,
        };
        let settings = self.routes.settings(&queue);
        let limits = defaults.changed_by(&settings.defaults).changed_by(&asked);
        for (field, message) in limits.faults() {
            refuse(field, message);
        }
        if let Some(asked) =
            submission.own.keep_for.filter(|asked| asked.is_zero() || *asked > Retention::LONGEST)
        {
            let (asked, longest) = (asked.as_secs_f64(), Retention::LONGEST.as_secs());
            refuse("retention_seconds", format!("{asked} is not above 0 and at most {longest}"));
        }
        let size = submission.input.as_str().len();
        if size > self.largest_input {
            let most = self.largest_input;
            refuse("input", format!("it is {size} bytes long, and at most {most} are accepted"));
        }
        if let Some(unique) = &submission.unique {
            if unique.among.is_empty() {
                refuse(
                    "unique_states",
                    "it names no state; leave it out for tasks that have not ended".into(),
                );
            }
            if unique.window.is_some_and(|window| window.is_zero() || window > Unique::LONGEST_WINDOW) {
                let longest = Unique::LONGEST_WINDOW.as_secs();
                let asked = unique.window.unwrap_or_default().as_secs_f64();
                refuse("unique_window_seconds", format!("{asked} is not above 0 and at most {longest}"));
            }
        }
        let spec = self.registry.get(&submission.task_type);
        let asked = spec.map(|spec| (spec, &submission.input));
        let share = share(settings, asked, submission.fairness_key.clone());
        if submission.fairness_key.is_some() && share.is_none() {
            refuse(
                "fairness_key",
                format!(
                    "the queue {queue} is not a fair one: leave it out, or set `fair = true` for the queue"
                ),
            );
        }
        let own = OwnTerms {
            retry: submission.own.retry.or_else(|| settings.retry.clone()),
            keep_for: submission.own.keep_for,
        };
        NewTask {
            tenant: tenant.clone(),
            queue,
            task_type: submission.task_type,
            priority: submission.priority.unwrap_or_default(),
            input: submission.input,
            metadata: submission.metadata,
            start: submission.start,
            expires_at: submission.expires_at,
            limits,
            own,
            idempotency: submission.idempotency,
            unique: submission.unique,
            share,
        }
    }
}

/// A task as it stands when it has just been stored.
pub(super) fn as_submitted(new: NewTask, receipt: Receipt) -> Task {
    Task {
        id: receipt.id,
        tenant: new.tenant,
        task_type: new.task_type,
        queue: new.queue,
        priority: new.priority,
        input: new.input,
        metadata: new.metadata,
        limits: new.limits,
        own: new.own,
        unique_key: new.unique.map(|unique| unique.key),
        status: if receipt.run_at.is_some() { Status::Scheduled } else { Status::Pending },
        cancel_requested: false,
        attempt: 0,
        result: None,
        details: None,
        error: None,
        progress: None,
        created_at: receipt.created_at,
        updated_at: None,
        run_at: receipt.run_at,
        expires_at: new.expires_at,
        started_at: None,
        completed_at: None,
        needs: None,
        waits_for: None,
        batch: None,
        fairness_key: new.share.and_then(|share| share.key),
    }
}

/// The answer that this request got the first time. What routes and defaults decided then is kept with the task; they
/// may decide otherwise by now.
pub(super) fn first_answer(again: NewTask, receipt: Receipt, stored: Option<&Task>) -> Task {
    let mut answer = as_submitted(again, receipt);
    if let Some(stored) = stored {
        (answer.queue, answer.priority) = (stored.queue.clone(), stored.priority);
        (answer.limits, answer.own) = (stored.limits, stored.own.clone());
    }
    answer
}
