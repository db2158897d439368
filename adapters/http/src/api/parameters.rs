//! Parameters in paths and queries, read with all that is wrong with them.

use std::time::Duration;

use application::tasks::{LARGEST_PAGE, LONGEST_WAIT};
use domain::{Status, TaskId};

use crate::problem::{ApiError, FieldError};

const DEFAULT_PAGE: usize = 50;

/// The size of a page: 1 to [`LARGEST_PAGE`], 50 unless said otherwise.
pub(super) fn read_limit(text: Option<&str>, errors: &mut Vec<FieldError>) -> usize {
    let limit = text.map_or(Some(DEFAULT_PAGE), |text| text.parse().ok());
    limit.filter(|limit| (1..=LARGEST_PAGE).contains(limit)).unwrap_or_else(|| {
        errors.push(FieldError::new("limit", format!("it is not a whole number from 1 to {LARGEST_PAGE}")));
        DEFAULT_PAGE
    })
}

/// Ids start at 1: no other number is the number of a task.
pub(super) fn known_id(id: i64) -> Result<TaskId, ApiError> {
    if id < 1 { Err(ApiError::unknown_task(id)) } else { Ok(TaskId(id)) }
}

pub(super) fn read_statuses(text: &str, errors: &mut Vec<FieldError>) -> Vec<Status> {
    let mut statuses = Vec::new();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match Status::parse(name) {
            Some(status) => statuses.push(status),
            None => {
                let known = Status::ALL.map(Status::as_str).join(", ");
                let name: String = name.chars().take(40).collect();
                errors.push(FieldError::new("status", format!("{name:?} is none of {known}")));
            }
        }
    }
    statuses
}

pub(super) fn read_name<T, E: std::fmt::Display>(
    field: &str,
    text: Option<String>,
    new: impl Fn(String) -> Result<T, E>,
    errors: &mut Vec<FieldError>,
) -> Option<T> {
    new(text?).map_err(|error| errors.push(FieldError::new(field, error.to_string()))).ok()
}

pub(super) fn read_wait(text: &str) -> Result<Duration, ApiError> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => Some(0.001),
        "s" | "" => Some(1.0),
        "m" => Some(60.0),
        _ => None,
    };
    let seconds = scale.and_then(|scale| number.parse::<f64>().ok().map(|number| number * scale));
    let wait = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    wait.filter(|wait| *wait <= LONGEST_WAIT).ok_or_else(|| {
        let most = LONGEST_WAIT.as_secs();
        let text: String = text.chars().take(40).collect();
        let message = format!("{text:?} is not a duration such as 10s or 500ms, at most {most}s");
        ApiError::invalid(vec![FieldError::new("wait", message)])
    })
}
