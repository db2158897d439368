//! Why a task does not run, over the wire.

use application::{fleet::WorkerInfo, queues::Explained};
use chrono::{DateTime, Utc};
use domain::why::{Hold, Place};
use poem_openapi::Object;
use serde::Serialize;

use super::{StatusView, long, moment_or_null, workers::WorkerStateView};

/// What holds a task back.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "Why")]
pub(crate) struct WhyView {
    /// Its number.
    id: i64,
    /// Where it stands.
    status: StatusView,
    /// In a sentence.
    summary: String,
    /// All that holds it back, the most telling first; none where it runs, has ended, or is about to be taken.
    held_by: Vec<HoldView>,
    /// Which of its queue it is, where it is PENDING: 1 is the next; null beyond 1,000.
    position: Option<i64>,
    /// When it is likely to start, as fast as its queue has moved within the last minutes; null where that cannot be told.
    #[serde(serialize_with = "moment_or_null")]
    expected_start: Option<DateTime<Utc>>,
    /// The workers that serve its queue.
    workers: Vec<RunnerView>,
}

/// One thing that holds a task back.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "Hold")]
pub(crate) struct HoldView {
    /// For programs: `not_yet_due`, `back_off`, `rate_limited`, `waits_for_tasks`, `waits_for_items`, `queue_paused`,
    /// `nobody_serves_its_queue`, `nobody_knows_its_type`, `nobody_takes_tasks`, `queue_full`, `others_ahead`, `suspected` or
    /// `no_free_slot`.
    reason: String,
    /// For people, with what to do.
    message: String,
    /// Until when, where that is known.
    #[serde(serialize_with = "moment_or_null")]
    until: Option<DateTime<Utc>>,
}

/// A worker that serves a task's queue.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "Runner")]
pub(crate) struct RunnerView {
    /// Its number.
    id: i64,
    /// What people call it.
    name: String,
    /// How it fares.
    state: WorkerStateView,
    /// Whether it would run the task: it knows the type, and takes tasks.
    could_run: bool,
}

impl From<&Explained> for WhyView {
    fn from(explained: &Explained) -> Self {
        let Explained { task, why, ahead, runners } = explained;
        let summary = match (why.holds.first(), task.status) {
            (Some(hold), _) => hold.to_string(),
            (None, domain::Status::Pending) => "nothing: it is about to be taken".to_owned(),
            (None, domain::Status::Scheduled) => "nothing: its time has come".to_owned(),
            (None, domain::Status::Processing) => "nothing: it runs".to_owned(),
            (None, ended) => format!("nothing: it has ended as {}", ended.as_str()),
        };
        Self {
            id: task.id.0,
            status: task.status.into(),
            summary,
            held_by: why.holds.iter().map(HoldView::from).collect(),
            position: ahead.and_then(|place| match place {
                Place::Behind(ahead) => Some(long(ahead as u64 + 1)),
                Place::BehindMoreThan(_) | Place::Apart => None,
            }),
            expected_start: why.expected_start,
            workers: runners.iter().map(|(worker, could_run)| RunnerView::new(worker, *could_run)).collect(),
        }
    }
}

impl From<&Hold> for HoldView {
    fn from(hold: &Hold) -> Self {
        Self { reason: hold.reason().to_owned(), message: hold.to_string(), until: hold.until() }
    }
}

impl RunnerView {
    fn new(worker: &WorkerInfo, could_run: bool) -> Self {
        let record = &worker.record;
        Self { id: record.id.0, name: record.name.to_string(), state: worker.state.into(), could_run }
    }
}
