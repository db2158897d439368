//! Schedules over the wire.

use application::{ports::FiringRecord, schedules::Schedules};
use chrono::{DateTime, Utc};
use domain::schedule::{Cadence, CatchUp, Overlap, Schedule, SkipReason};
use poem_openapi::{Enum, Object};
use serde::Serialize;

use super::{int, moment, moment_or_null, retry::RetryView};
use crate::body::AnyJson;

/// How many coming ticks are told.
const COMING: usize = 5;

/// What becomes of ticks that are over a minute late.
#[derive(Debug, Clone, Copy, Enum, Serialize)]
#[oai(rename = "CatchUp", rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub(crate) enum CatchUpView {
    /// They are declared skipped.
    Skip,
    /// The latest of them is fired, the others are declared skipped.
    Latest,
    /// Each is fired.
    All,
}

/// What becomes of a tick while the last task has not ended.
#[derive(Debug, Clone, Copy, Enum, Serialize)]
#[oai(rename = "Overlap", rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub(crate) enum OverlapView {
    /// It is fired all the same.
    Allow,
    /// It is declared skipped.
    Skip,
    /// The latest such tick is fired when that task has ended.
    Queue,
    /// That task is cancelled, and the tick fired.
    CancelRunning,
}

impl From<CatchUp> for CatchUpView {
    fn from(catch_up: CatchUp) -> Self {
        match catch_up {
            CatchUp::Skip => Self::Skip,
            CatchUp::Latest => Self::Latest,
            CatchUp::All => Self::All,
        }
    }
}

impl From<Overlap> for OverlapView {
    fn from(overlap: Overlap) -> Self {
        match overlap {
            Overlap::Allow => Self::Allow,
            Overlap::Skip => Self::Skip,
            Overlap::Queue => Self::Queue,
            Overlap::CancelRunning => Self::CancelRunning,
        }
    }
}

/// A schedule.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "Schedule")]
pub(crate) struct ScheduleView {
    /// What it is called.
    name: String,
    /// The cron expression, where it goes by one.
    cron: Option<String>,
    /// The time zone on whose clock it is read.
    time_zone: Option<String>,
    /// Seconds between two ticks, where it goes by an interval.
    every_seconds: Option<f64>,
    /// From when on they are counted.
    #[serde(serialize_with = "moment_or_null")]
    starting_at: Option<DateTime<Utc>>,
    /// What becomes of missed ticks.
    catch_up: CatchUpView,
    /// What becomes of a tick while the last task runs.
    overlap: OverlapView,
    /// Each task starts up to so many seconds after its tick.
    jitter_seconds: f64,
    /// Whether it stands still.
    paused: bool,
    /// Whether it comes from the configuration.
    configured: bool,
    /// What it submits.
    task: ScheduledTaskView,
    /// The next ticks; none while it stands still.
    next_ticks: Vec<String>,
    /// The last tick that was fired.
    #[serde(serialize_with = "moment_or_null")]
    last_tick: Option<DateTime<Utc>>,
    /// The task that it submitted last.
    last_task_id: Option<i64>,
    /// When it was created.
    #[serde(serialize_with = "moment")]
    created_at: DateTime<Utc>,
    /// When it was last changed.
    #[serde(serialize_with = "moment")]
    updated_at: DateTime<Utc>,
}

/// What a schedule submits.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "ScheduledTask")]
pub(crate) struct ScheduledTaskView {
    /// What kind of work it is.
    #[serde(rename = "type")]
    #[oai(rename = "type")]
    task_type: String,
    /// Where it waits.
    queue: String,
    /// 0 (first) to 9 (last).
    priority: i32,
    /// The input, as it was given.
    input: Option<AnyJson>,
    /// Your own notes.
    metadata: Option<AnyJson>,
    /// How many attempts may fail.
    max_attempts: i32,
    /// The soft time limit.
    soft_time_limit_seconds: Option<f64>,
    /// The time limit.
    time_limit_seconds: f64,
    /// Their own retry policy, where they are given one.
    retry: Option<RetryView>,
    /// Their own retention, where they are given one.
    retention_seconds: Option<f64>,
}

impl From<&Schedule> for ScheduleView {
    fn from(schedule: &Schedule) -> Self {
        let spec = &schedule.spec;
        let (cron, time_zone, every_seconds, starting_at) = match &spec.cadence {
            Cadence::Cron { expression, zone } => {
                (Some(expression.as_str().to_owned()), Some(zone.name().to_owned()), None, None)
            }
            Cadence::Every { interval, from } => (None, None, Some(interval.as_secs_f64()), Some(*from)),
        };
        let template = &spec.template;
        Self {
            name: spec.name.to_string(),
            cron,
            time_zone,
            every_seconds,
            starting_at,
            catch_up: spec.catch_up.into(),
            overlap: spec.overlap.into(),
            jitter_seconds: spec.jitter.as_secs_f64(),
            paused: spec.paused,
            configured: spec.configured,
            task: ScheduledTaskView {
                task_type: template.task_type.to_string(),
                queue: template.queue.to_string(),
                priority: i32::from(template.priority.get()),
                input: AnyJson::stored(&template.input),
                metadata: template.metadata.as_ref().and_then(AnyJson::stored),
                max_attempts: int(template.limits.max_attempts),
                soft_time_limit_seconds: template.limits.soft_time_limit.map(|limit| limit.as_secs_f64()),
                time_limit_seconds: template.limits.time_limit.as_secs_f64(),
                retry: template.own.retry.as_ref().map(RetryView::from),
                retention_seconds: template.own.keep_for.map(|kept| kept.as_secs_f64()),
            },
            next_ticks: Schedules::coming(schedule, COMING).into_iter().map(shown).collect(),
            last_tick: schedule.last_tick,
            last_task_id: schedule.last_task.map(|task| task.0),
            created_at: schedule.created_at,
            updated_at: schedule.updated_at,
        }
    }
}

fn shown(tick: DateTime<Utc>) -> String {
    tick.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

/// Coming ticks.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "TickList")]
pub(crate) struct TickListView {
    /// In words, where they go by a cron expression.
    pub(crate) description: Option<String>,
    /// The ticks, the next one first.
    pub(crate) items: Vec<String>,
}

impl TickListView {
    pub(crate) fn new(cadence: &Cadence, ticks: Vec<DateTime<Utc>>) -> Self {
        let description = match cadence {
            Cadence::Cron { expression, .. } => Some(expression.describe()),
            Cadence::Every { .. } => None,
        };
        Self { description, items: ticks.into_iter().map(shown).collect() }
    }
}

/// A page of schedules, by name.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "ScheduleList")]
pub(crate) struct ScheduleListView {
    /// The schedules.
    pub(crate) items: Vec<ScheduleView>,
    /// Give this as `cursor` for the next page; null on the last.
    pub(crate) next_cursor: Option<String>,
}

/// What became of a tick.
#[derive(Debug, Clone, Copy, Enum, Serialize)]
#[oai(rename = "FiringOutcome", rename_all = "SCREAMING_SNAKE_CASE")]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum FiringOutcomeView {
    /// It submitted a task.
    Fired,
    /// It was over a minute late.
    Missed,
    /// The last task had not ended.
    Overlapped,
}

/// What became of a tick, or of a run of ticks that were skipped.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "Firing")]
pub(crate) struct FiringView {
    /// The tick, or the first of the run.
    #[serde(serialize_with = "moment")]
    tick: DateTime<Utc>,
    /// What became of it.
    outcome: FiringOutcomeView,
    /// The task that it submitted.
    task_id: Option<i64>,
    /// The last tick of a run that was skipped.
    #[serde(serialize_with = "moment_or_null")]
    until: Option<DateTime<Utc>>,
    /// How many ticks; 1 where it was fired.
    ticks: i32,
    /// When that happened.
    #[serde(serialize_with = "moment")]
    at: DateTime<Utc>,
}

impl From<&FiringRecord> for FiringView {
    fn from(record: &FiringRecord) -> Self {
        match *record {
            FiringRecord::Fired { tick, task, at } => {
                let outcome = FiringOutcomeView::Fired;
                Self { tick, outcome, task_id: Some(task.0), until: None, ticks: 1, at }
            }
            FiringRecord::Skipped { run, at } => {
                let outcome = match run.reason {
                    SkipReason::Missed => FiringOutcomeView::Missed,
                    SkipReason::Overlap => FiringOutcomeView::Overlapped,
                };
                let (until, ticks) = (Some(run.last), int(run.count));
                Self { tick: run.first, outcome, task_id: None, until, ticks, at }
            }
        }
    }
}

/// What became of a schedule's ticks, the latest first.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "FiringList")]
pub(crate) struct FiringListView {
    /// The ticks.
    pub(crate) items: Vec<FiringView>,
    /// Give this as `cursor` for the next page; null on the last.
    pub(crate) next_cursor: Option<String>,
}
