//! What is submitted and what is read back.

use std::time::Duration;

use crate::{
    AttemptOutcome, End, Failure, FairnessKey, Idempotency, Json, Priority, Progress, QueueName, RetryPolicy,
    Share, State, TaskType, Tenant, Timestamp, Unique, UniqueKey, WorkerName, ai::ModelCall, flow::Needs,
};

/// A task's number: positive, rising with submission, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub i64);

impl std::fmt::Display for TaskId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One start of one worker process; a new one each time, so that no death hides behind a reused name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub i64);

impl std::fmt::Display for WorkerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A validated, routed submission, ready to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTask {
    /// Who owns it.
    pub tenant: Tenant,
    /// Which handler runs it.
    pub task_type: TaskType,
    /// Where it waits.
    pub queue: QueueName,
    /// How soon it goes among the others there.
    pub priority: Priority,
    /// What the handler gets.
    pub input: Json,
    /// Kept for the caller, not read by the runner: a JSON object.
    pub metadata: Option<Json>,
    /// When it may start.
    pub start: Start,
    /// If no worker has taken it by then, it ends as EXPIRED.
    pub expires_at: Option<Timestamp>,
    /// Budgets and time limits.
    pub limits: Limits,
    /// What it was given instead of what its type says.
    pub own: OwnTerms,
    /// Makes asking again safe.
    pub idempotency: Option<Idempotency>,
    /// Makes a second one impossible.
    pub unique: Option<Unique>,
    /// Its part of a fair queue; `None` in the others.
    pub share: Option<Share>,
}

/// What a submission may say and nearly none does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnTerms {
    /// When and whether failures are tried again.
    pub retry: Option<RetryPolicy>,
    /// How long the task is kept after its end.
    pub keep_for: Option<Duration>,
}

impl OwnTerms {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.retry.is_none() && self.keep_for.is_none()
    }
}

/// When a task may start. The store judges it by its own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// As soon as a worker is free.
    #[default]
    Now,
    /// Not before this moment.
    At(Timestamp),
    /// Not before this long after the submission.
    After(Duration),
}

/// What bounds a task's attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Attempts that may fail before the task does; at least 1.
    pub max_attempts: u32,
    /// The handler is asked to stop after this long and may still return what it has.
    pub soft_time_limit: Option<Duration>,
    /// The attempt is aborted after this long.
    pub time_limit: Duration,
}

impl Limits {
    /// The most attempts that can be asked for.
    pub const MOST_ATTEMPTS: u32 = 100;
    /// The longest time limit that can be asked for: a week.
    pub const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

    /// The same for attempts on a worker with caps: the shorter time counts.
    pub fn capped(self, caps: TimeCaps) -> Self {
        let time_limit = caps.hard.map_or(self.time_limit, |cap| cap.min(self.time_limit));
        let soft = match (self.soft_time_limit, caps.soft) {
            (Some(limit), Some(cap)) => Some(limit.min(cap)),
            (limit, cap) => limit.or(cap),
        };
        Self { soft_time_limit: soft.filter(|soft| *soft < time_limit), time_limit, ..self }
    }
}

/// The longest that a worker lets attempts take, whatever their tasks allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeCaps {
    /// Until the handler is asked to stop.
    pub soft: Option<Duration>,
    /// Until the attempt is aborted.
    pub hard: Option<Duration>,
}

impl Limits {
    /// These, as a layer of configuration or a submission changes them. The layers are a task type's own defaults, then
    /// what the configuration says of the type, then what it says of the queue, then the submission: what comes later wins.
    pub fn changed_by(self, layer: &LimitOverrides) -> Self {
        let time_limit = layer.time_limit.unwrap_or(self.time_limit);
        // An older soft limit that the newer hard limit makes unreachable is no limit.
        let soft_before =
            self.soft_time_limit.filter(|soft| layer.time_limit.is_none() || *soft < time_limit);
        Self {
            max_attempts: layer.max_attempts.unwrap_or(self.max_attempts),
            soft_time_limit: layer.soft_time_limit.or(soft_before),
            time_limit,
        }
    }
}

/// What one layer says of budgets and time limits; `None` where it says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitOverrides {
    /// See [`Limits::max_attempts`].
    pub max_attempts: Option<u32>,
    /// See [`Limits::soft_time_limit`].
    pub soft_time_limit: Option<Duration>,
    /// See [`Limits::time_limit`].
    pub time_limit: Option<Duration>,
}

impl Default for Limits {
    /// Four attempts; soft limit 25 min, hard limit 30 min.
    fn default() -> Self {
        Self {
            max_attempts: 4,
            soft_time_limit: Some(Duration::from_secs(25 * 60)),
            time_limit: Duration::from_secs(30 * 60),
        }
    }
}

/// The state as clients see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    /// Waits for a moment: its `run_at`, or a retry's back-off.
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

impl Status {
    /// Every status, in the order of a task's life.
    pub const ALL: [Self; 7] = [
        Self::Scheduled,
        Self::Pending,
        Self::Processing,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "SCHEDULED",
            Self::Pending => "PENDING",
            Self::Processing => "PROCESSING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
            Self::Expired => "EXPIRED",
        }
    }

    /// Reads a name in any case, and the words of older clients: `running` and `success`.
    pub fn parse(text: &str) -> Option<Self> {
        let upper = text.to_ascii_uppercase();
        match upper.as_str() {
            "RUNNING" => Some(Self::Processing),
            "SUCCESS" => Some(Self::Completed),
            name => Self::ALL.into_iter().find(|status| status.as_str() == name),
        }
    }

    /// Whether nothing more happens to the task by itself.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Scheduled | Self::Pending | Self::Processing => false,
            Self::Completed | Self::Failed | Self::Cancelled | Self::Expired => true,
        }
    }
}

impl From<End> for Status {
    fn from(end: End) -> Self {
        match end {
            End::Completed => Self::Completed,
            End::Failed => Self::Failed,
            End::Cancelled => Self::Cancelled,
            End::Expired => Self::Expired,
        }
    }
}

impl From<State> for Status {
    fn from(state: State) -> Self {
        match state {
            State::Scheduled => Self::Scheduled,
            State::Pending => Self::Pending,
            State::Processing { .. } => Self::Processing,
            State::Ended(end) => end.into(),
        }
    }
}

/// A task as it is read back.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its number.
    pub id: TaskId,
    /// Who owns it.
    pub tenant: Tenant,
    /// Which handler runs it.
    pub task_type: TaskType,
    /// Where it waits.
    pub queue: QueueName,
    /// How soon it goes.
    pub priority: Priority,
    /// What the handler gets.
    pub input: Json,
    /// The caller's own notes.
    pub metadata: Option<Json>,
    /// Budgets and time limits.
    pub limits: Limits,
    /// What it was given instead of what its type says.
    pub own: OwnTerms,
    /// What no other task of its kind may share.
    pub unique_key: Option<UniqueKey>,
    /// Where it stands.
    pub status: Status,
    /// Whether a running task was asked to stop.
    pub cancel_requested: bool,
    /// Times it was taken.
    pub attempt: u32,
    /// What the handler returned.
    pub result: Option<Json>,
    /// About the result: finish reason, usage, whether it is incomplete. A JSON object.
    pub details: Option<Json>,
    /// The last attempt's error, also while a retry waits.
    pub error: Option<Failure>,
    /// The last reported progress.
    pub progress: Option<ProgressReport>,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When its state last changed; `None` until the first change.
    pub updated_at: Option<Timestamp>,
    /// What a scheduled task waits for.
    pub run_at: Option<Timestamp>,
    /// The end of its patience.
    pub expires_at: Option<Timestamp>,
    /// When the latest attempt started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// Others that it waits for, or has waited for, and that wait for it; `None` where there are none.
    pub needs: Option<Needs>,
    /// How many others it still waits for; `None` unless it does.
    pub waits_for: Option<u32>,
    /// The batch that it belongs to.
    pub batch: Option<TaskId>,
    /// Whose share of a fair queue it takes.
    pub fairness_key: Option<FairnessKey>,
}

impl Task {
    /// How long the last attempt took, once the task has ended.
    pub fn processing_time(&self) -> Option<Duration> {
        (self.completed_at? - self.started_at?).to_std().ok()
    }
}

/// Progress with the moment the store received it.
#[derive(Debug, Clone, PartialEq)]
pub struct ProgressReport {
    /// What was reported.
    pub progress: Progress,
    /// When.
    pub updated_at: Timestamp,
}

/// One attempt in a task's history.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// From 1.
    pub attempt: u32,
    /// Who ran it.
    pub worker: Option<WorkerName>,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended; `None` while it runs.
    pub ended_at: Option<Timestamp>,
    /// How it went; `None` while it runs.
    pub outcome: Option<AttemptOutcome>,
    /// What was wrong with it.
    pub error: Option<Failure>,
    /// Calls of models that it made.
    pub calls: Vec<ModelCall>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_layers_win_field_by_field() {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let of_the_type =
            Limits { max_attempts: 3, soft_time_limit: Some(minutes(8)), time_limit: minutes(10) };
        let queue =
            LimitOverrides { max_attempts: Some(5), time_limit: Some(minutes(20)), ..Default::default() };
        let submission = LimitOverrides { time_limit: Some(minutes(2)), ..Default::default() };
        let by_queue = of_the_type.changed_by(&queue);
        assert_eq!(
            by_queue,
            Limits { max_attempts: 5, soft_time_limit: Some(minutes(8)), time_limit: minutes(20) }
        );
        // The soft limit of 8 minutes is never reached any more.
        let by_submission = by_queue.changed_by(&submission);
        assert_eq!(by_submission, Limits { max_attempts: 5, soft_time_limit: None, time_limit: minutes(2) });
        assert_eq!(by_submission.changed_by(&LimitOverrides::default()), by_submission);
    }

    #[test]
    fn a_workers_caps_shorten_and_never_lengthen() {
        let seconds = Duration::from_secs;
        let limits = |soft: Option<u64>, hard| Limits {
            soft_time_limit: soft.map(seconds),
            time_limit: seconds(hard),
            ..Limits::default()
        };
        let caps = |soft: Option<u64>, hard: Option<u64>| TimeCaps {
            soft: soft.map(seconds),
            hard: hard.map(seconds),
        };
        for (task, worker, expected) in [
            (limits(Some(50), 100), caps(None, None), limits(Some(50), 100)),
            (limits(Some(50), 100), caps(Some(240), Some(300)), limits(Some(50), 100)),
            (limits(Some(50), 100), caps(Some(24), Some(30)), limits(Some(24), 30)),
            (limits(Some(50), 100), caps(None, Some(30)), limits(None, 30)),
            (limits(None, 100), caps(Some(24), None), limits(Some(24), 100)),
            (limits(None, 20), caps(Some(24), Some(30)), limits(None, 20)),
        ] {
            assert_eq!(task.capped(worker), expected, "{task:?} under {worker:?}");
        }
    }

    #[test]
    fn statuses_are_read_in_any_case_and_by_their_old_names() {
        for status in Status::ALL {
            assert_eq!(Status::parse(&status.as_str().to_lowercase()), Some(status));
        }
        assert_eq!(Status::parse("running"), Some(Status::Processing));
        assert_eq!(Status::parse("Success"), Some(Status::Completed));
        assert_eq!(Status::parse("done"), None);
    }
}
