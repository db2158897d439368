//! Queues over the wire.

use application::queues::{PurgeReport, QueueReport, RECENT_MINUTES};
use domain::{QueueSettings, Status};
use poem_openapi::Object;
use serde::Serialize;

use super::{StatusCountsView, int, long, retry::RetryView};

/// A queue.
#[derive(Debug, Clone, PartialEq, Object, Serialize)]
#[oai(rename = "Queue")]
pub(crate) struct QueueView {
    /// What it is called.
    name: String,
    /// The patterns of task types that are routed here.
    patterns: Vec<String>,
    /// Whether what no pattern takes goes here.
    is_default: bool,
    /// What the configuration says of it.
    settings: QueueSettingsView,
    /// Whether it stands still.
    paused: bool,
    /// How many of its tasks stand where.
    tasks: StatusCountsView,
    /// For how many seconds the first in line has been waiting; null where nobody waits.
    oldest_waiting_seconds: Option<f64>,
    /// How its tasks ran lately, on all workers.
    recent: RecentRunsView,
    /// How many living workers serve it.
    workers: i64,
    /// What somebody has to see to: null, or a sentence such as that tasks wait and nobody serves the queue.
    warning: Option<String>,
}

/// What the configuration says of a queue; null where it says nothing.
#[derive(Debug, Clone, PartialEq, Object, Serialize)]
#[oai(rename = "QueueSettings")]
pub(crate) struct QueueSettingsView {
    /// So many of its tasks run at once at most, over all workers.
    max_running: Option<i64>,
    /// So many are started in a time at most, over all workers, such as `10/s`.
    rate_limit: Option<String>,
    /// So many of these at once after a pause.
    rate_burst: Option<i64>,
    /// How many attempts may fail, for tasks that do not say otherwise.
    max_attempts: Option<i32>,
    /// The soft time limit of tasks that do not say otherwise.
    soft_time_limit_seconds: Option<f64>,
    /// The time limit of tasks that do not say otherwise.
    time_limit_seconds: Option<f64>,
    /// After so many seconds of waiting a task becomes one priority more urgent.
    priority_ageing_seconds: Option<f64>,
    /// Whether tenants and `fairness_key`s take turns.
    fair: bool,
    /// The retry policy of tasks that have none of their own.
    retry: Option<RetryView>,
}

/// How tasks ran during the last minutes. An attempt counts when it ends by itself, with a result or with an error.
#[derive(Debug, Clone, PartialEq, Object, Serialize)]
#[oai(rename = "RecentRuns")]
pub(crate) struct RecentRunsView {
    /// How many minutes these are: the current one and those before.
    minutes: i32,
    /// Attempts that ended.
    ended: i64,
    /// Of these, with an error.
    failed: i64,
    /// Attempts that ended, per minute.
    per_minute: f64,
    /// 0 to 1; null where none ended.
    failure_rate: Option<f64>,
    /// How long they took in the mean; null where none ended.
    mean_seconds: Option<f64>,
    /// 95 in 100 took at most so long, rounded up by a fifth at most; null where none ended.
    p95_seconds: Option<f64>,
}

/// The queues.
#[derive(Debug, Clone, PartialEq, Object, Serialize)]
#[oai(rename = "QueueList")]
pub(crate) struct QueueListView {
    /// By name.
    pub(crate) items: Vec<QueueView>,
}

/// What a purge did.
#[derive(Debug, Clone, PartialEq, Object, Serialize)]
#[oai(rename = "Purged")]
pub(crate) struct PurgeView {
    /// How many tasks it ended.
    purged: i32,
    /// Whether it stopped at its limit: there may be more.
    more: bool,
}

impl From<&QueueReport> for QueueView {
    fn from(report: &QueueReport) -> Self {
        let mut tasks = StatusCountsView::default();
        report.counts.iter().for_each(|(status, count): &(Status, u64)| tasks.add(*status, *count));
        Self {
            name: report.name.to_string(),
            patterns: report.patterns.clone(),
            is_default: report.is_fallback,
            settings: QueueSettingsView::from(&report.settings),
            paused: report.paused,
            tasks,
            oldest_waiting_seconds: report.oldest_waiting.map(|waited| waited.as_secs_f64()),
            recent: RecentRunsView::from(report),
            workers: long(report.workers),
            warning: report.warning().map(str::to_owned),
        }
    }
}

impl From<&QueueSettings> for QueueSettingsView {
    fn from(settings: &QueueSettings) -> Self {
        let QueueSettings { limits, defaults, retry, ageing, fair } = settings;
        Self {
            max_running: limits.max_running.map(i64::from),
            rate_limit: limits.rate.map(|rate| rate.to_string()),
            rate_burst: limits.rate.map(|rate| i64::from(rate.burst())),
            max_attempts: defaults.max_attempts.map(int),
            soft_time_limit_seconds: defaults.soft_time_limit.map(|limit| limit.as_secs_f64()),
            time_limit_seconds: defaults.time_limit.map(|limit| limit.as_secs_f64()),
            priority_ageing_seconds: ageing.map(|every| every.as_secs_f64()),
            fair: *fair,
            retry: retry.as_ref().map(RetryView::from),
        }
    }
}

impl From<&QueueReport> for RecentRunsView {
    fn from(report: &QueueReport) -> Self {
        let (summary, minutes) = (report.recent, report.recent_time.as_secs_f64() / 60.0);
        let runs = summary.map(|summary| summary.runs).unwrap_or_default();
        Self {
            minutes: int(RECENT_MINUTES),
            ended: long(runs.ended),
            failed: long(runs.failed),
            per_minute: if minutes > 0.0 { runs.ended as f64 / minutes } else { 0.0 },
            failure_rate: summary.map(|_| runs.failed as f64 / runs.ended as f64),
            mean_seconds: summary.map(|summary| summary.mean.as_secs_f64()),
            p95_seconds: summary.map(|summary| summary.p95.as_secs_f64()),
        }
    }
}

impl From<PurgeReport> for PurgeView {
    fn from(report: PurgeReport) -> Self {
        Self { purged: i32::try_from(report.purged).unwrap_or(i32::MAX), more: report.more }
    }
}
