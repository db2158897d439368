//! What goes over the wire, one view per resource.

use application::{
    ports::QueueCounts,
    registry::TaskTypeSpec,
    task_types::{DEFAULT_TYPE, TextGenerationInput},
};
use chrono::{DateTime, Utc};
use domain::{Progress, Status, Task, ai::Spending, flow::BatchCounts};
use poem_openapi::{Enum, Object};
use serde::{Serialize, Serializer};

use self::usage::{ModelCallView, UsageView};
use crate::body::AnyJson;

pub(crate) mod batches;
pub(crate) mod manual;
pub(crate) mod queues;
pub(crate) mod retry;
pub(crate) mod schedules;
pub(crate) mod usage;
pub(crate) mod why;
pub(crate) mod workers;

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, Serialize)]
#[oai(rename = "Status", rename_all = "SCREAMING_SNAKE_CASE")]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum StatusView {
    /// Waits for its `run_at`, or for the next try.
    Scheduled,
    /// Waits for a worker.
    Pending,
    /// A worker runs it.
    Processing,
    /// Ended with a result.
    Completed,
    /// Ended with an error.
    Failed,
    /// Stopped on request.
    Cancelled,
    /// Not started in time.
    Expired,
}

impl From<Status> for StatusView {
    fn from(status: Status) -> Self {
        match status {
            Status::Scheduled => Self::Scheduled,
            Status::Pending => Self::Pending,
            Status::Processing => Self::Processing,
            Status::Completed => Self::Completed,
            Status::Failed => Self::Failed,
            Status::Cancelled => Self::Cancelled,
            Status::Expired => Self::Expired,
        }
    }
}

/// A moment, RFC 3339 in UTC, ending in `Z`.
pub(crate) fn moment<S: Serializer>(moment: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{}", moment.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)))
}

pub(crate) fn moment_or_null<S: Serializer>(
    value: &Option<DateTime<Utc>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => moment(value, serializer),
        None => serializer.serialize_none(),
    }
}

/// Why an attempt did not succeed.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "TaskError")]
pub(crate) struct ErrorView {
    /// For programs, such as `division_by_zero`.
    code: String,
    /// For people.
    message: String,
}

impl From<&domain::Failure> for ErrorView {
    fn from(failure: &domain::Failure) -> Self {
        Self { code: failure.code.clone(), message: failure.message.clone() }
    }
}

/// A task.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "Task")]
pub(crate) struct TaskView {
    /// Its number.
    pub(crate) id: i64,
    /// What kind of work it is.
    #[serde(rename = "type")]
    #[oai(rename = "type")]
    task_type: String,
    /// Where it waits.
    queue: String,
    /// The prompt of a text task; null where it has messages.
    prompt: Option<String>,
    /// The model of a text task.
    model: Option<String>,
    /// The input, as it was given.
    input: Option<AnyJson>,
    /// 0 (first) to 9 (last).
    priority: i32,
    /// Where it stands.
    status: StatusView,
    /// What it came to: any JSON; a text for text tasks.
    result: Option<AnyJson>,
    /// What a task that was stopped or failed had written by then, where a single task is read; null otherwise.
    partial_result: Option<String>,
    /// About the result, such as model, finish reason and usage.
    details: Option<AnyJson>,
    /// The latest attempt's error.
    error: Option<ErrorView>,
    /// 0 to 100.
    progress: i32,
    /// How often a worker has taken it.
    attempt: i32,
    /// How many attempts may fail.
    max_attempts: i32,
    /// Its own retry policy, where it was given one.
    retry: Option<retry::RetryView>,
    /// Its own retention, where it was given one: how long it is kept after its end.
    retention_seconds: Option<f64>,
    /// Whether a running task was asked to stop.
    cancel_requested: bool,
    /// Your own notes.
    metadata: Option<AnyJson>,
    /// What no other task of its kind may share.
    unique_key: Option<String>,
    /// Whose share of a fair queue it takes.
    fairness_key: Option<String>,
    /// When it was submitted.
    #[serde(serialize_with = "moment")]
    created_at: DateTime<Utc>,
    /// When its state last changed; null until then.
    #[serde(serialize_with = "moment_or_null")]
    updated_at: Option<DateTime<Utc>>,
    /// What a scheduled task waits for.
    #[serde(serialize_with = "moment_or_null")]
    run_at: Option<DateTime<Utc>>,
    /// When it ends as EXPIRED if no worker has taken it.
    #[serde(serialize_with = "moment_or_null")]
    expires_at: Option<DateTime<Utc>>,
    /// When the latest attempt started.
    #[serde(serialize_with = "moment_or_null")]
    started_at: Option<DateTime<Utc>>,
    /// When it ended.
    #[serde(serialize_with = "moment_or_null")]
    completed_at: Option<DateTime<Utc>>,
    /// Seconds from `started_at` to `completed_at`.
    processing_time: Option<f64>,
    /// The tasks that it waits for, or has waited for.
    after: Vec<i64>,
    /// How many of those have not ended, or items of a batch; null unless it waits for them.
    waits_for: Option<i64>,
    /// Its follow-ups: tasks that were submitted with it and wait for it.
    then: Vec<i64>,
    /// The batch that it is an item of.
    batch: Option<i64>,
}

/// 0–100: completed tasks are done, whatever they reported.
pub(crate) fn percent(task: &Task) -> i32 {
    match task.status {
        Status::Completed => 100,
        _ => task.progress.as_ref().map_or(0, |report| i32::from(report.progress.percent())),
    }
}

fn int(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// A whole number that every client can hold exactly.
pub(crate) fn long(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl From<&Task> for TaskView {
    fn from(task: &Task) -> Self {
        let text: Option<TextGenerationInput> =
            (task.task_type.as_str() == DEFAULT_TYPE).then(|| task.input.to().ok()).flatten();
        let (prompt, model) = text.map_or((None, None), |text| (text.prompt, text.model));
        Self {
            id: task.id.0,
            task_type: task.task_type.to_string(),
            queue: task.queue.to_string(),
            prompt,
            model,
            input: AnyJson::stored(&task.input),
            priority: i32::from(task.priority.get()),
            status: task.status.into(),
            result: task.result.as_ref().and_then(AnyJson::stored),
            partial_result: None,
            details: task.details.as_ref().and_then(AnyJson::stored),
            error: task.error.as_ref().map(ErrorView::from),
            progress: percent(task),
            attempt: int(task.attempt),
            max_attempts: int(task.limits.max_attempts),
            retry: task.own.retry.as_ref().map(retry::RetryView::from),
            retention_seconds: task.own.keep_for.map(|kept| kept.as_secs_f64()),
            cancel_requested: task.cancel_requested,
            metadata: task.metadata.as_ref().and_then(AnyJson::stored),
            unique_key: task.unique_key.as_ref().map(|key| key.to_string()),
            fairness_key: task.fairness_key.as_ref().map(|key| key.to_string()),
            created_at: task.created_at,
            updated_at: task.updated_at,
            run_at: task.run_at,
            expires_at: task.expires_at,
            started_at: task.started_at,
            completed_at: task.completed_at,
            processing_time: task.processing_time().map(|time| time.as_secs_f64()),
            after: task.needs.iter().flat_map(|needs| &needs.after).map(|need| need.task.0).collect(),
            waits_for: task.waits_for.map(i64::from),
            then: task.needs.iter().flat_map(|needs| &needs.then).map(|id| id.0).collect(),
            batch: task.batch.map(|batch| batch.0),
        }
    }
}

impl TaskView {
    /// With the text that the task had written when it was stopped or failed.
    pub(crate) fn with_partial(self, text: Option<String>) -> Self {
        Self { partial_result: text, ..self }
    }
}

/// A page of tasks, newest first.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "TaskList")]
pub(crate) struct TaskListView {
    /// The tasks.
    pub(crate) items: Vec<TaskView>,
    /// Give this as `cursor` for the next page; null on the last.
    pub(crate) next_cursor: Option<String>,
}

/// Where a task stands.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "TaskStatus")]
pub(crate) struct TaskStatusView {
    /// Its number.
    id: i64,
    /// Where it stands.
    pub(crate) status: StatusView,
    /// How often a worker has taken it.
    attempt: i32,
    /// Whether a running task was asked to stop.
    cancel_requested: bool,
    /// The latest attempt's error.
    error: Option<ErrorView>,
    /// When its state last changed; null until then.
    #[serde(serialize_with = "moment_or_null")]
    updated_at: Option<DateTime<Utc>>,
}

impl From<&Task> for TaskStatusView {
    fn from(task: &Task) -> Self {
        Self {
            id: task.id.0,
            status: task.status.into(),
            attempt: int(task.attempt),
            cancel_requested: task.cancel_requested,
            error: task.error.as_ref().map(ErrorView::from),
            updated_at: task.updated_at,
        }
    }
}

/// How far a task has come.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "TaskProgress")]
pub(crate) struct TaskProgressView {
    /// 0 to 100.
    progress: i32,
    /// Steps done.
    current: i64,
    /// Steps in all; 0 when unknown.
    total: i64,
    /// A line for people.
    message: Option<String>,
    /// When it was last reported; null before the first report.
    #[serde(serialize_with = "moment_or_null")]
    updated_at: Option<DateTime<Utc>>,
}

impl From<&Task> for TaskProgressView {
    fn from(task: &Task) -> Self {
        let report = task.progress.as_ref();
        Self {
            progress: percent(task),
            current: report.map_or(0, |report| long(report.progress.current)),
            total: report.map_or(0, |report| long(report.progress.total)),
            message: report.and_then(|report| report.progress.message.clone()),
            updated_at: report.map(|report| report.updated_at),
        }
    }
}

/// The data of a `progress` event.
#[derive(Debug, Serialize)]
pub(crate) struct ProgressEvent {
    attempt: u32,
    progress: u8,
    current: i64,
    total: i64,
    message: Option<String>,
}

impl ProgressEvent {
    pub(crate) fn new(attempt: u32, progress: &Progress) -> Self {
        Self {
            attempt,
            progress: progress.percent(),
            current: long(progress.current),
            total: long(progress.total),
            message: progress.message.clone(),
        }
    }
}

/// How one attempt went.
#[derive(Debug, Clone, Copy, Enum, Serialize)]
#[oai(rename = "AttemptOutcome", rename_all = "SCREAMING_SNAKE_CASE")]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum OutcomeView {
    /// It returned a result.
    Completed,
    /// It returned an error or panicked.
    Failed,
    /// It was stopped on request.
    Cancelled,
    /// It ran into a time limit.
    TimedOut,
    /// Its worker died.
    Crashed,
    /// Its worker gave it back.
    Released,
}

impl From<domain::AttemptOutcome> for OutcomeView {
    fn from(outcome: domain::AttemptOutcome) -> Self {
        match outcome {
            domain::AttemptOutcome::Completed => Self::Completed,
            domain::AttemptOutcome::Failed => Self::Failed,
            domain::AttemptOutcome::Cancelled => Self::Cancelled,
            domain::AttemptOutcome::TimedOut => Self::TimedOut,
            domain::AttemptOutcome::Crashed => Self::Crashed,
            domain::AttemptOutcome::Released => Self::Released,
        }
    }
}

/// One attempt.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "Attempt")]
pub(crate) struct AttemptView {
    /// From 1.
    attempt: i32,
    /// Who ran it.
    worker: Option<String>,
    /// When it started.
    #[serde(serialize_with = "moment")]
    started_at: DateTime<Utc>,
    /// When it ended; null while it runs.
    #[serde(serialize_with = "moment_or_null")]
    ended_at: Option<DateTime<Utc>>,
    /// How it went; null while it runs.
    outcome: Option<OutcomeView>,
    /// What was wrong with it.
    error: Option<ErrorView>,
    /// Calls of models that it made, failed ones too.
    calls: Vec<ModelCallView>,
}

impl From<domain::Attempt> for AttemptView {
    fn from(attempt: domain::Attempt) -> Self {
        Self {
            attempt: int(attempt.attempt),
            worker: attempt.worker.map(|worker| worker.to_string()),
            started_at: attempt.started_at,
            ended_at: attempt.ended_at,
            outcome: attempt.outcome.map(OutcomeView::from),
            error: attempt.error.as_ref().map(ErrorView::from),
            calls: attempt.calls.iter().map(ModelCallView::from).collect(),
        }
    }
}

/// A task's attempts, oldest first.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "AttemptList")]
pub(crate) struct AttemptListView {
    /// The attempts.
    items: Vec<AttemptView>,
    /// What all calls of models came to that they made: the task's own.
    usage: UsageView,
}

impl From<Vec<domain::Attempt>> for AttemptListView {
    fn from(attempts: Vec<domain::Attempt>) -> Self {
        let usage = Spending::of(attempts.iter().flat_map(|attempt| &attempt.calls)).into();
        Self { items: attempts.into_iter().map(Into::into).collect(), usage }
    }
}

/// How many tasks stand where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Object, Serialize)]
#[oai(rename = "StatusCounts")]
pub(crate) struct StatusCountsView {
    scheduled: i64,
    pending: i64,
    processing: i64,
    completed: i64,
    failed: i64,
    cancelled: i64,
    expired: i64,
}

impl StatusCountsView {
    pub(crate) fn add(&mut self, status: Status, count: u64) {
        let field = match status {
            Status::Scheduled => &mut self.scheduled,
            Status::Pending => &mut self.pending,
            Status::Processing => &mut self.processing,
            Status::Completed => &mut self.completed,
            Status::Failed => &mut self.failed,
            Status::Cancelled => &mut self.cancelled,
            Status::Expired => &mut self.expired,
        };
        *field = field.saturating_add(long(count));
    }
}

impl From<BatchCounts> for StatusCountsView {
    fn from(counts: BatchCounts) -> Self {
        Self {
            scheduled: long(counts.scheduled),
            pending: long(counts.pending),
            processing: long(counts.processing),
            completed: long(counts.completed),
            failed: long(counts.failed),
            cancelled: long(counts.cancelled),
            expired: long(counts.expired),
        }
    }
}

/// One queue's counts.
#[derive(Debug, Clone, PartialEq, Eq, Object, Serialize)]
#[oai(rename = "QueueStats")]
pub(crate) struct QueueStatsView {
    /// The queue.
    queue: String,
    /// Its tasks.
    tasks: StatusCountsView,
}

/// How many tasks stand where, in all and by queue.
#[derive(Debug, Clone, PartialEq, Eq, Object, Serialize)]
#[oai(rename = "Stats")]
pub(crate) struct StatsView {
    /// In all.
    tasks: StatusCountsView,
    /// By queue, in alphabetical order.
    queues: Vec<QueueStatsView>,
}

impl From<Vec<QueueCounts>> for StatsView {
    fn from(counts: Vec<QueueCounts>) -> Self {
        let mut stats = Self { tasks: StatusCountsView::default(), queues: Vec::new() };
        for count in counts {
            stats.tasks.add(count.status, count.count);
            let name = count.queue.as_str();
            if stats.queues.last().is_none_or(|last| last.queue != name) {
                stats
                    .queues
                    .push(QueueStatsView { queue: name.to_owned(), tasks: StatusCountsView::default() });
            }
            if let Some(last) = stats.queues.last_mut() {
                last.tasks.add(count.status, count.count);
            }
        }
        stats
    }
}

/// A task type.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "TaskType")]
pub(crate) struct TaskTypeView {
    /// Its name.
    name: String,
    /// What it does.
    summary: String,
    /// An input that works.
    example: Option<AnyJson>,
    /// How many attempts may fail, unless the task says otherwise.
    max_attempts: i32,
    /// The soft time limit, unless the task says otherwise.
    soft_time_limit_seconds: Option<f64>,
    /// The time limit, unless the task says otherwise.
    time_limit_seconds: f64,
    /// When and whether failures are tried again, unless the task says otherwise.
    retry: retry::RetryView,
}

impl From<&TaskTypeSpec> for TaskTypeView {
    fn from(spec: &TaskTypeSpec) -> Self {
        let limits = spec.default_limits();
        Self {
            name: spec.name().to_string(),
            summary: spec.summary().to_owned(),
            example: domain::Json::parse(spec.example_input()).ok().as_ref().and_then(AnyJson::stored),
            max_attempts: int(limits.max_attempts),
            soft_time_limit_seconds: limits.soft_time_limit.map(|limit| limit.as_secs_f64()),
            time_limit_seconds: limits.time_limit.as_secs_f64(),
            retry: spec.retry_policy().into(),
        }
    }
}

/// The task types that can be submitted.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "TaskTypeList")]
pub(crate) struct TaskTypeListView {
    /// By name.
    pub(crate) items: Vec<TaskTypeView>,
}

/// How the product fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, Serialize)]
#[oai(rename = "HealthStatus", rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub(crate) enum HealthStatusView {
    /// All is well.
    Healthy,
    /// Something that tasks can do without is away.
    Degraded,
    /// The store is away.
    Unhealthy,
}

/// One dependency.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "Dependency")]
pub(crate) struct DependencyView {
    /// Such as `postgresql`, `sqlite`, `redis`.
    pub(crate) name: String,
    /// How it fares.
    pub(crate) status: HealthStatusView,
    /// What is wrong with it.
    pub(crate) error: Option<String>,
}

/// How the product and its dependencies fare.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "Health")]
pub(crate) struct HealthView {
    /// In one word.
    pub(crate) status: HealthStatusView,
    /// The product.
    pub(crate) app_name: String,
    /// Its version.
    pub(crate) version: String,
    /// Now, by this server's clock.
    #[serde(serialize_with = "moment")]
    pub(crate) timestamp: DateTime<Utc>,
    /// What it depends on.
    pub(crate) dependencies: Vec<DependencyView>,
}

/// The process is alive.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "Liveness")]
pub(crate) struct LivenessView {
    /// Always `alive`.
    pub(crate) status: String,
}
