//! Bodies that say which tasks are to be run again or discarded, and what comes of it.

use application::{
    ports::{DiscardOutcome, RetryOutcome, TaskFilter},
    tasks::{LARGEST_PAGE, LARGEST_SWEEP, Swept, Tasks},
};
use domain::{Json, QueueName, Status, TaskId, TaskType, Tenant};
use poem_openapi::Object;

use crate::{
    body::AnyJson,
    fields::{Fields, read_body, shorten},
    problem::ApiError,
    views::{
        StatusView,
        manual::{RefusedView, SweepView},
    },
};

/// How a task is to run again. A field that is null counts as absent; so does the whole body.
#[derive(Debug, Object)]
#[oai(rename = "Retry")]
pub(crate) struct RetryBody {
    /// What it gets instead of its input: any JSON that its type accepts.
    input: Option<AnyJson>,
}

/// Which tasks: `ids`, or a `filter`. A field that is null counts as absent.
#[derive(Debug, Object)]
#[oai(rename = "Sweep", example)]
pub(crate) struct SweepBody {
    /// These, at most 500.
    #[oai(validator(max_items = 500))]
    ids: Option<Vec<i64>>,
    /// All that pass this.
    filter: Option<SweepFilterBody>,
    /// How many of those that pass the filter at most; 10000 unless said otherwise.
    #[oai(validator(minimum(value = "1"), maximum(value = "10000")))]
    limit: Option<i32>,
}

/// Which tasks pass: each field that is given has to hold. Without one, all FAILED tasks pass.
#[derive(Debug, Object)]
#[oai(rename = "SweepFilter")]
pub(crate) struct SweepFilterBody {
    /// They stand in one of these.
    status: Option<Vec<StatusView>>,
    /// They are of this type.
    #[oai(rename = "type", validator(pattern = "^[A-Za-z0-9_.-]{1,128}$"))]
    task_type: Option<String>,
    /// They are of this queue.
    #[oai(validator(pattern = "^[A-Za-z0-9_.-]{1,64}$"))]
    queue: Option<String>,
    /// They ended with an error of this code.
    #[oai(validator(max_length = 200))]
    error_code: Option<String>,
    /// They ended before this moment.
    ended_before: Option<chrono::DateTime<chrono::Utc>>,
}

impl poem_openapi::types::Example for SweepBody {
    fn example() -> Self {
        let filter = SweepFilterBody {
            status: None,
            task_type: None,
            queue: None,
            error_code: Some("division_by_zero".to_owned()),
            ended_before: None,
        };
        Self { ids: None, filter: Some(filter), limit: Some(100) }
    }
}

/// Which tasks are meant.
pub(crate) enum Sweep {
    These(Vec<TaskId>),
    Matching(TaskFilter, usize),
}

impl Sweep {
    /// Only FAILED tasks pass a filter.
    pub(crate) fn of_failed(self) -> Self {
        match self {
            Self::These(ids) => Self::These(ids),
            Self::Matching(filter, limit) => {
                Self::Matching(TaskFilter { statuses: vec![Status::Failed], ..filter }, limit)
            }
        }
    }
}

/// Reads the body of a retry: the new input, if there is one.
pub(crate) fn read_retry(text: &str) -> Result<Option<Json>, ApiError> {
    if text.trim().is_empty() || text.trim() == "null" {
        return Ok(None);
    }
    read_body(text, |fields| Some(fields.json("input")))
}

/// Reads which tasks are meant.
pub(crate) fn read(text: &str) -> Result<Sweep, ApiError> {
    read_body(text, |fields| {
        let ids = fields.take::<Vec<i64>>("ids", "a list of task numbers");
        let has_filter = fields.has("filter");
        let filter = fields.object("filter", "filter.", read_filter);
        let most = i64::try_from(LARGEST_SWEEP).unwrap_or(i64::MAX);
        let limit = fields.whole("limit", 1, most).and_then(|limit| usize::try_from(limit).ok());
        match (ids, filter) {
            (Some(_), Some(_)) => {
                fields.refuse("filter", "it cannot be given together with ids");
                None
            }
            (Some(ids), None) if ids.len() > LARGEST_PAGE => {
                fields.refuse(
                    "ids",
                    format!("it has {} numbers, and at most {LARGEST_PAGE} may be given", ids.len()),
                );
                None
            }
            (Some(ids), None) => Some(Sweep::These(ids.into_iter().map(TaskId).collect())),
            (None, Some(filter)) => Some(Sweep::Matching(filter, limit.unwrap_or(LARGEST_SWEEP))),
            (None, None) => {
                if fields.errors.is_empty() {
                    let field = if has_filter { "filter" } else { "ids" };
                    fields.refuse(field, "it is missing: give ids, or a filter ({} for all)");
                }
                None
            }
        }
    })
}

fn read_filter(fields: &mut Fields<'_>) -> Option<TaskFilter> {
    let names = fields.take::<Vec<String>>("status", "a list of states").unwrap_or_default();
    let mut statuses = Vec::new();
    for name in &names {
        match Status::parse(name) {
            Some(status) => statuses.push(status),
            None => {
                let known = Status::ALL.map(Status::as_str).join(", ");
                fields.refuse("status", format!("{:?} is none of {known}", shorten(name)));
            }
        }
    }
    Some(TaskFilter {
        statuses,
        task_type: fields.name("type", TaskType::new),
        queue: fields.name("queue", QueueName::new),
        error_code: fields.take("error_code", "a text"),
        ended_before: fields.moment("ended_before"),
        batch: None,
    })
}

/// Runs them again.
pub(crate) async fn retry(tasks: &Tasks, which: Sweep) -> Result<SweepView, ApiError> {
    let tenant = Tenant::default();
    match which {
        Sweep::Matching(filter, limit) => Ok(swept(tasks.retry_matching(&tenant, &filter, limit).await?)),
        Sweep::These(ids) => {
            let outcomes = tasks.retry_each(&tenant, &ids).await?;
            Ok(each(
                &ids,
                outcomes.iter().map(|outcome| match outcome {
                    RetryOutcome::Waiting(..) | RetryOutcome::WaitingForOthers(_) => None,
                    RetryOutcome::NotEnded(status) => {
                        Some(format!("it has not ended: it is {}", status.as_str()))
                    }
                    RetryOutcome::Completed => Some("it has completed".to_owned()),
                    RetryOutcome::Unknown => Some("there is no such task".to_owned()),
                }),
            ))
        }
    }
}

/// Discards them.
pub(crate) async fn discard(tasks: &Tasks, which: Sweep) -> Result<SweepView, ApiError> {
    let tenant = Tenant::default();
    match which {
        Sweep::Matching(filter, limit) => Ok(swept(tasks.discard_matching(&tenant, &filter, limit).await?)),
        Sweep::These(ids) => {
            let outcomes = tasks.discard_each(&tenant, &ids).await?;
            Ok(each(
                &ids,
                outcomes.iter().map(|outcome| match outcome {
                    DiscardOutcome::Discarded => None,
                    DiscardOutcome::NotFailed(status) => {
                        Some(format!("it is {}, not FAILED", status.as_str()))
                    }
                    DiscardOutcome::Unknown => Some("there is no such task".to_owned()),
                }),
            ))
        }
    }
}

fn swept(swept: Swept) -> SweepView {
    let changed = i32::try_from(swept.changed).unwrap_or(i32::MAX);
    SweepView { changed, more: swept.more, refused: Vec::new() }
}

/// What came of each: `None` for a change, else why there was none.
fn each(ids: &[TaskId], refusals: impl Iterator<Item = Option<String>>) -> SweepView {
    let mut view = SweepView { changed: 0, more: false, refused: Vec::new() };
    for (id, refusal) in ids.iter().zip(refusals) {
        match refusal {
            None => view.changed += 1,
            Some(reason) => view.refused.push(RefusedView { id: id.0, reason }),
        }
    }
    view
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_tasks_are_meant_is_said_in_one_way() {
        assert!(matches!(read(r#"{"ids":[1,2]}"#), Ok(Sweep::These(ids)) if ids.len() == 2));
        assert!(matches!(read(r#"{"filter":{}}"#), Ok(Sweep::Matching(_, LARGEST_SWEEP))));
        let filter = r#"{"filter":{"status":["failed"],"error_code":"busy"},"limit":3}"#;
        let Ok(Sweep::Matching(filter, 3)) = read(filter) else { panic!("a filter") };
        assert_eq!((filter.statuses, filter.error_code.as_deref()), (vec![Status::Failed], Some("busy")));
        for (bad, field) in [
            ("{}", "ids"),
            (r#"{"filter":null}"#, "filter"),
            (r#"{"ids":[1],"filter":{}}"#, "filter"),
            (r#"{"ids":["a"]}"#, "ids"),
            (r#"{"filter":{"staus":["FAILED"]}}"#, "filter.staus"),
            (r#"{"filter":{"status":["DONE"]}}"#, "filter.status"),
            (r#"{"filter":{},"limit":0}"#, "limit"),
        ] {
            let Err(ApiError::Invalid(problem)) = read(bad) else { panic!("{bad} was read") };
            assert_eq!(problem.0.errors[0].field, field, "{bad}");
        }
    }
}
