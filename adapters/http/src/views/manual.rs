//! Manual handling over the wire.

use application::ports::FailureGroup;
use chrono::{DateTime, Utc};
use domain::Task;
use poem_openapi::Object;
use serde::Serialize;

use super::{AttemptView, TaskView, long, moment};

/// What waits for a person.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "Failures")]
pub(crate) struct FailuresView {
    /// How many tasks, in the groups that are shown.
    total: i64,
    /// By reason, the most frequent first.
    groups: Vec<FailureGroupView>,
}

/// Failed tasks of one kind.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "FailureGroup")]
pub(crate) struct FailureGroupView {
    /// The code of their errors.
    reason: String,
    /// Their type.
    task_type: String,
    /// How many.
    count: i64,
    /// When the first of them failed.
    #[serde(serialize_with = "moment")]
    first_failed_at: DateTime<Utc>,
    /// When the last of them failed.
    #[serde(serialize_with = "moment")]
    last_failed_at: DateTime<Utc>,
    /// The latest of them.
    latest_task_id: i64,
    /// Its error, for people.
    message: String,
}

impl From<Vec<FailureGroup>> for FailuresView {
    fn from(groups: Vec<FailureGroup>) -> Self {
        let total = groups.iter().map(|group| group.count).sum();
        let view = |group: FailureGroup| FailureGroupView {
            reason: group.code,
            task_type: group.task_type.to_string(),
            count: long(group.count),
            first_failed_at: group.first_at,
            last_failed_at: group.last_at,
            latest_task_id: group.latest.0,
            message: group.message,
        };
        Self { total: long(total), groups: groups.into_iter().map(view).collect() }
    }
}

/// A failed task with all its attempts.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "ManualTask")]
pub(crate) struct ManualTaskView {
    /// The task.
    task: TaskView,
    /// Its attempts, oldest first.
    attempts: Vec<AttemptView>,
}

impl ManualTaskView {
    pub(crate) fn new(task: &Task, attempts: Vec<domain::Attempt>) -> Self {
        Self { task: TaskView::from(task), attempts: attempts.into_iter().map(Into::into).collect() }
    }
}

/// What came of a change of many tasks.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "Swept")]
pub(crate) struct SweepView {
    /// How many tasks were changed.
    pub(crate) changed: i32,
    /// Whether `limit` was reached: more tasks pass the filter.
    pub(crate) more: bool,
    /// Those of `ids` that stay as they are.
    pub(crate) refused: Vec<RefusedView>,
}

/// A task that stays as it is.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "Refused")]
pub(crate) struct RefusedView {
    /// Its number.
    pub(crate) id: i64,
    /// Why.
    pub(crate) reason: String,
}
