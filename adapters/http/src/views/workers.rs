//! Workers over the wire.

use application::fleet::{Active, NOBODY, Obeyed, WorkerInfo};
use chrono::{DateTime, Utc};
use domain::WorkerState;
use poem_openapi::{Enum, Object};
use serde::Serialize;

use super::{int, long, moment, moment_or_null};

/// How a worker fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, Serialize)]
#[oai(rename = "WorkerState", rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub(crate) enum WorkerStateView {
    /// It takes tasks.
    Alive,
    /// It was told to take none.
    Paused,
    /// It takes none any more, and ends when what runs has ended.
    Draining,
    /// It has not been heard of for half of its lease.
    Silent,
    /// It was declared dead: others have its tasks.
    Dead,
    /// It has signed off.
    Left,
}

impl From<WorkerState> for WorkerStateView {
    fn from(state: WorkerState) -> Self {
        match state {
            WorkerState::Alive => Self::Alive,
            WorkerState::Paused => Self::Paused,
            WorkerState::Draining => Self::Draining,
            WorkerState::Silent => Self::Silent,
            WorkerState::Dead => Self::Dead,
            WorkerState::Left => Self::Left,
        }
    }
}

/// One start of a worker process.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "Worker")]
pub(crate) struct WorkerView {
    /// Its number: a new one at each start.
    id: i64,
    /// What people call it; several may share a name.
    name: String,
    /// How it fares.
    state: WorkerStateView,
    /// The program's version.
    version: Option<String>,
    /// The machine.
    host: Option<String>,
    /// The process there.
    pid: Option<i64>,
    /// The queues that it serves; none stands for every queue, also later ones.
    queues: Vec<String>,
    /// What it leaves out of every queue.
    except_queues: Vec<String>,
    /// Its slots.
    concurrency: i64,
    /// The task types that it can run.
    types: Vec<String>,
    /// Tasks that run.
    active_count: i64,
    /// Those of them that have run for longest, at most 100.
    active: Vec<ActiveTaskView>,
    /// Tasks that it completed since its process started.
    completed: i64,
    /// Tasks that failed for good there.
    failed: i64,
    /// Tasks that were stopped there on request.
    cancelled: i64,
    /// Attempts that failed there, and after which the task waits for another.
    retried: i64,
    /// The rates that it holds task types to.
    rate_limits: Vec<WorkerRateLimitView>,
    /// What it was started with.
    settings: Vec<WorkerSettingView>,
    /// What its process holds in memory, in bytes.
    memory_bytes: Option<i64>,
    /// Seconds since it registered.
    uptime_seconds: f64,
    /// When it registered.
    #[serde(serialize_with = "moment")]
    registered_at: DateTime<Utc>,
    /// Its last heartbeat.
    #[serde(serialize_with = "moment")]
    last_heartbeat_at: DateTime<Utc>,
    /// When it last told of its tasks and counts.
    #[serde(serialize_with = "moment_or_null")]
    reported_at: Option<DateTime<Utc>>,
}

/// A task that a worker runs.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "ActiveTask")]
pub(crate) struct ActiveTaskView {
    /// The task's number.
    task_id: i64,
    /// The attempt.
    attempt: i32,
    /// What kind of work it is.
    #[serde(rename = "type")]
    #[oai(rename = "type")]
    task_type: String,
    /// Its queue.
    queue: String,
    /// Since when it runs.
    #[serde(serialize_with = "moment")]
    started_at: DateTime<Utc>,
}

/// A rate that a worker holds a task type to.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "WorkerRateLimit")]
pub(crate) struct WorkerRateLimitView {
    /// The task type.
    #[serde(rename = "type")]
    #[oai(rename = "type")]
    task_type: String,
    /// Such as `10/s`.
    rate: String,
}

/// A setting of a worker.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "WorkerSetting")]
pub(crate) struct WorkerSettingView {
    /// Its name in the configuration.
    name: String,
    /// Its value.
    value: String,
}

impl From<Active> for ActiveTaskView {
    fn from(active: Active) -> Self {
        let Active { task, attempt, task_type, queue, started_at } = active;
        Self { task_id: task, attempt: int(attempt), task_type, queue, started_at }
    }
}

impl From<WorkerInfo> for WorkerView {
    fn from(worker: WorkerInfo) -> Self {
        let WorkerInfo { record, state, registered_for, about, standing, reported_at } = worker;
        let size = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let known = |text: String| Some(text).filter(|text| !text.is_empty());
        let pairs = |all: Vec<(String, String)>| all.into_iter();
        Self {
            id: record.id.0,
            name: record.name.to_string(),
            state: state.into(),
            version: known(about.version),
            host: known(about.host),
            pid: Some(i64::from(about.pid)).filter(|pid| *pid > 0),
            queues: record.queues.iter().map(ToString::to_string).collect(),
            except_queues: record.except.iter().map(ToString::to_string).collect(),
            concurrency: size(record.concurrency),
            types: about.types,
            // Whoever is gone runs nothing.
            active_count: if state.is_gone() { 0 } else { size(standing.active_count) },
            active: if state.is_gone() {
                Vec::new()
            } else {
                standing.active.into_iter().map(Into::into).collect()
            },
            completed: long(standing.ended.completed),
            failed: long(standing.ended.failed),
            cancelled: long(standing.ended.cancelled),
            retried: long(standing.ended.retried),
            rate_limits: pairs(standing.rate_limits)
                .map(|(task_type, rate)| WorkerRateLimitView { task_type, rate })
                .collect(),
            settings: pairs(about.settings).map(|(name, value)| WorkerSettingView { name, value }).collect(),
            memory_bytes: standing.memory.map(long),
            uptime_seconds: registered_for.as_secs_f64(),
            registered_at: record.registered_at,
            last_heartbeat_at: record.last_heartbeat,
            reported_at,
        }
    }
}

/// The workers, the latest start first.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "WorkerList")]
pub(crate) struct WorkerListView {
    /// Those that are not gone, and those that went within the hour.
    items: Vec<WorkerView>,
    /// How many of them live: alive, paused or draining.
    living: i32,
    /// What is wrong, such as that no worker is alive.
    warning: Option<String>,
}

impl From<Vec<WorkerInfo>> for WorkerListView {
    fn from(workers: Vec<WorkerInfo>) -> Self {
        let living = workers.iter().filter(|worker| worker.state.lives()).count();
        let all_paused = living > 0
            && workers.iter().filter(|worker| worker.state.lives()).all(|w| w.state != WorkerState::Alive);
        let warning = match living {
            0 => Some(NOBODY.to_owned()),
            _ if all_paused => Some(
                "no worker takes tasks: each of them is paused or draining; resume one, or start another"
                    .to_owned(),
            ),
            _ => None,
        };
        Self {
            items: workers.into_iter().map(Into::into).collect(),
            living: i32::try_from(living).unwrap_or(i32::MAX),
            warning,
        }
    }
}

/// What became of a command at a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, Serialize)]
#[oai(rename = "CommandOutcome", rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub(crate) enum CommandOutcomeView {
    /// It did as it was told.
    Done,
    /// It did not; the message says why.
    Refused,
    /// It has not answered yet, and will obey as soon as it can.
    Pending,
}

/// What a worker answered.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "WorkerAnswer")]
pub(crate) struct WorkerAnswerView {
    /// The worker's number.
    worker_id: i64,
    /// What people call it.
    name: String,
    /// What became of the command.
    outcome: CommandOutcomeView,
    /// In words.
    message: Option<String>,
}

/// What workers answered to a command.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "CommandAnswers")]
pub(crate) struct CommandAnswersView {
    /// What they were told.
    command: String,
    /// One answer per worker that was told.
    workers: Vec<WorkerAnswerView>,
}

impl CommandAnswersView {
    pub(crate) fn new(command: &domain::Command, obeyed: Vec<Obeyed>) -> Self {
        let view = |obeyed: Obeyed| {
            let outcome = match &obeyed.answer {
                None => CommandOutcomeView::Pending,
                Some(answer) if answer.done => CommandOutcomeView::Done,
                Some(_) => CommandOutcomeView::Refused,
            };
            WorkerAnswerView {
                worker_id: obeyed.worker.0,
                name: obeyed.name.to_string(),
                outcome,
                message: obeyed.answer.map(|answer| answer.message),
            }
        };
        Self { command: command.to_string(), workers: obeyed.into_iter().map(view).collect() }
    }

    /// Whether every worker has answered.
    pub(crate) fn is_complete(&self) -> bool {
        self.workers.iter().all(|worker| worker.outcome != CommandOutcomeView::Pending)
    }
}
