//! Batches.

use application::tasks::MOST_ARTICLES;
use chrono::{DateTime, Utc};
use domain::{Task, TaskId, flow::BatchCounts};
use poem_openapi::{Enum, Object};
use serde::{Deserialize, Serialize};

use super::{ErrorView, StatusCountsView, StatusView, long, moment, moment_or_null, percent};
use crate::body::AnyJson;

/// What becomes of a task when one that it needs does not complete.
#[derive(Debug, Clone, Copy, Enum, Serialize)]
#[oai(rename = "OnFailure", rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnFailureView {
    /// It ends as CANCELLED, and its error names the one that failed.
    Cancel,
    /// It starts all the same, once all that it needs have ended.
    Run,
}

/// Many tasks that are followed as one. A batch is a task itself: its number works wherever a task's does.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "Batch")]
pub(crate) struct BatchView {
    /// Its number.
    pub(crate) id: i64,
    /// For people.
    name: Option<String>,
    /// PROCESSING from the first item's start on; COMPLETED when all items completed, FAILED when all have ended and not all completed.
    status: StatusView,
    /// 0 to 100: how many items have ended.
    progress: i32,
    /// Items that have ended.
    current: i64,
    /// All items.
    total: i64,
    /// How many items stand where.
    counts: StatusCountsView,
    /// The sums, once it has ended.
    result: Option<AnyJson>,
    /// Why it did not complete.
    error: Option<ErrorView>,
    /// Your own notes.
    metadata: Option<AnyJson>,
    /// Its follow-ups.
    then: Vec<i64>,
    /// The items' numbers, in the order of the submission: only in the answer to it.
    item_ids: Option<Vec<i64>>,
    /// When it was submitted.
    #[serde(serialize_with = "moment")]
    created_at: DateTime<Utc>,
    /// When all its items had ended.
    #[serde(serialize_with = "moment_or_null")]
    completed_at: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
struct BatchInput {
    name: Option<String>,
}

impl BatchView {
    pub(crate) fn new(task: &Task, counts: BatchCounts) -> Self {
        let (ended, total) = (counts.ended(), counts.total());
        let progress = (ended * 100)
            .checked_div(total)
            .map_or_else(|| percent(task), |p| i32::try_from(p).unwrap_or(100));
        Self {
            id: task.id.0,
            name: task.input.to::<BatchInput>().ok().and_then(|input| input.name),
            status: task.status.into(),
            progress,
            current: long(ended),
            total: long(total),
            counts: counts.into(),
            result: task.result.as_ref().and_then(AnyJson::stored),
            error: task.error.as_ref().map(ErrorView::from),
            metadata: task.metadata.as_ref().and_then(AnyJson::stored),
            then: task.needs.iter().flat_map(|needs| &needs.then).map(|id| id.0).collect(),
            item_ids: None,
            created_at: task.created_at,
            completed_at: task.completed_at,
        }
    }

    pub(crate) fn with_items(self, ids: &[TaskId]) -> Self {
        Self { item_ids: (!ids.is_empty()).then(|| ids.iter().map(|id| id.0).collect()), ..self }
    }
}

/// A page of batches, newest first.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "BatchList")]
pub(crate) struct BatchListView {
    /// The batches.
    pub(crate) items: Vec<BatchView>,
    /// Give this as `cursor` for the next page; null on the last.
    pub(crate) next_cursor: Option<String>,
}

/// What a retry of a batch did.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "BatchRetried")]
pub(crate) struct BatchRetriedView {
    /// Items that run again.
    pub(crate) retried: i64,
    /// The batch.
    pub(crate) batch: BatchView,
}

/// Articles that are being written.
#[derive(Debug, Object, Serialize)]
#[oai(rename = "Articles")]
pub(crate) struct ArticlesView {
    /// The number of the batch: the routes of tasks take it, and those of batches.
    pub(crate) task_id: i64,
    /// The number of each article's task, in the order of the titles.
    pub(crate) item_ids: Vec<i64>,
    /// Where it stands.
    pub(crate) status: StatusView,
    /// How many articles.
    pub(crate) total: i64,
}

/// The most titles, for the document's sake.
const _: () = assert!(MOST_ARTICLES == 1_000);
