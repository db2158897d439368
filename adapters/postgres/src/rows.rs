//! Between columns and the domain's types: each shape once, for all verbs.

use std::{borrow::Cow, str::FromStr, time::Duration};

use application::ports::Waiting;
use domain::{
    Counters, ErrorClass, Failure, FairnessKey, Json, Limits, OwnTerms, Priority, QueueName, Rank,
    RetryPolicy, RetryTerms, Status, Suspicion, Task, TaskId, Timestamp, UniqueKey, progress::Progress,
    task::ProgressReport,
};
use serde::{Deserialize, Serialize};
use sqlx::{Decode, Postgres, Row, Type, postgres::PgRow, postgres::types::PgInterval};

use crate::{error::Fault, follow::needs};

/// The columns of [`task`] for the rows of `task` that are called `t`, followed by the rest of the statement.
macro_rules! select_tasks {
    ($from:expr, $rest:expr) => {
        concat!(
            "SELECT t.id, t.tenant, t.task_type, t.queue, t.priority, t.input, t.metadata, t.max_attempts,
                t.soft_time_limit, t.time_limit, t.retry, t.keep_for, t.unique_key, t.created_at, t.expires_at,
                coalesce(o.status, CASE WHEN l.worker IS NOT NULL THEN 'PROCESSING'
                                        WHEN l.ready THEN 'PENDING' WHEN NOT l.ready THEN 'SCHEDULED' END) AS status,
                coalesce(l.cancel_requested, false) AS cancel_requested,
                coalesce(o.attempt, l.attempt) AS attempt,
                o.result, o.details,
                -- A running attempt has no error yet; the row still holds the one before.
                coalesce(o.error, CASE WHEN l.worker IS NULL THEN l.error END) AS error,
                coalesce(o.ended_at, l.changed_at) AS updated_at,
                CASE WHEN l.waits_for IS NULL THEN l.due_at END AS run_at,
                l.waits_for, t.needs, t.batch, t.fairness_key,
                coalesce(o.started_at, l.started_at) AS started_at,
                o.ended_at AS completed_at,
                p.current, p.total, p.message, p.updated_at AS progress_at ",
            $from,
            " LEFT JOIN live l ON l.id = t.id
              LEFT JOIN outcome o ON o.task = t.id
              LEFT JOIN progress p ON p.task = t.id ",
            $rest
        )
    };
}
pub(crate) use select_tasks;

/// A column's value.
pub(crate) fn field<'r, T>(row: &'r PgRow, name: &str) -> Result<T, Fault>
where
    T: Decode<'r, Postgres> + Type<Postgres>,
{
    Ok(row.try_get(name)?)
}

/// A name that was valid when it was stored.
pub(crate) fn name<T: FromStr<Err = domain::InvalidName>>(row: &PgRow, column: &str) -> Result<T, Fault> {
    let text: &str = field(row, column)?;
    text.parse().map_err(|error| Fault::Unreadable(format!("{column}: {error}")))
}

/// As [`name`]; where it equals another, that one is shared.
pub(crate) fn name_like<T>(row: &PgRow, column: &str, like: Option<&T>) -> Result<T, Fault>
where
    T: FromStr<Err = domain::InvalidName> + Clone + AsRef<str>,
{
    let text: &str = field(row, column)?;
    match like.filter(|like| like.as_ref() == text) {
        Some(like) => Ok(like.clone()),
        None => name(row, column),
    }
}

pub(crate) fn count(row: &PgRow, column: &str) -> Result<u32, Fault> {
    not_below_zero(column, field(row, column)?)
}

fn count_or_zero(row: &PgRow, column: &str) -> Result<u32, Fault> {
    not_below_zero(column, field::<Option<i32>>(row, column)?.unwrap_or(0))
}

fn not_below_zero(column: &str, value: i32) -> Result<u32, Fault> {
    u32::try_from(value).map_err(|_| Fault::Unreadable(format!("{column} is {value}, which is below zero")))
}

/// The columns `attempt`, `failures`, `crashes`, `forgiven_failures` and `forgiven_crashes`.
pub(crate) fn counters(row: &PgRow) -> Result<Counters, Fault> {
    Ok(Counters {
        attempt: count(row, "attempt")?,
        failures: count(row, "failures")?,
        crashes: count(row, "crashes")?,
        forgiven_failures: count_or_zero(row, "forgiven_failures")?,
        forgiven_crashes: count_or_zero(row, "forgiven_crashes")?,
    })
}

pub(crate) fn priority(row: &PgRow) -> Result<Priority, Fault> {
    let value: i16 = field(row, "priority")?;
    Priority::new(value.into())
        .ok_or_else(|| Fault::Unreadable(format!("priority {value} is not between 0 and 9")))
}

pub(crate) fn status(row: &PgRow, column: &str) -> Result<Status, Fault> {
    let text: Option<&str> = field(row, column)?;
    let unreadable = || Fault::Unreadable(format!("{column} {text:?} is not the name of a task's state"));
    text.and_then(Status::parse).ok_or_else(unreadable)
}

pub(crate) fn limits(row: &PgRow) -> Result<Limits, Fault> {
    let duration = |micros: i64| Duration::from_micros(micros.unsigned_abs());
    Ok(Limits {
        max_attempts: count(row, "max_attempts")?,
        soft_time_limit: field::<Option<i64>>(row, "soft_time_limit")?.map(duration),
        time_limit: duration(field(row, "time_limit")?),
    })
}

/// The columns `retry` and `keep_for`.
pub(crate) fn own_terms(row: &PgRow) -> Result<OwnTerms, Fault> {
    let keep_for = field::<Option<i64>>(row, "keep_for")?;
    Ok(OwnTerms {
        retry: retry(row)?,
        keep_for: keep_for.map(|kept| Duration::from_micros(kept.unsigned_abs())),
    })
}

/// The column `retry`.
pub(crate) fn retry(row: &PgRow) -> Result<Option<RetryPolicy>, Fault> {
    let Some(text) = field::<Option<&str>>(row, "retry")? else { return Ok(None) };
    RetryTerms::from_text(text)
        .map(Some)
        .map_err(|error| Fault::Unreadable(format!("retry {text:?}: {error}")))
}

/// The text of a policy for a column `retry`.
pub(crate) fn retry_text(own: &OwnTerms) -> Option<String> {
    own.retry.as_ref().map(|policy| RetryTerms::from(policy).to_text())
}

/// The lane in which tasks of this suspicion wait: claims of the ordinary ones never pass over a suspect.
pub(crate) fn lane(suspicion: Suspicion) -> i32 {
    -i32::from(suspicion.level())
}

fn suspicion(lane: i32) -> Suspicion {
    match lane {
        0.. => Suspicion::None,
        below => Suspicion::from_level(u8::try_from(below.unsigned_abs()).unwrap_or(u8::MAX)),
    }
}

/// A task's place in the order. Its suspicion is the one of the lane where it waits, which a claim goes by.
pub(crate) fn waiting(row: &PgRow) -> Result<Waiting, Fault> {
    Ok(Waiting {
        id: TaskId(field(row, "id")?),
        queue: name::<QueueName>(row, "queue")?,
        priority: priority(row)?,
        rank: Rank(field(row, "rank")?),
        suspicion: suspicion(field(row, "lane")?),
    })
}

/// A row of [`select_tasks`].
pub(crate) fn task(row: &PgRow) -> Result<Task, Fault> {
    let id: i64 = field(row, "id")?;
    read_task(row, TaskId(id)).map_err(|fault| match fault {
        Fault::Unreadable(what) => Fault::Unreadable(format!("task {id}: {what}")),
        driver @ Fault::Driver(_) => driver,
    })
}

fn read_task(row: &PgRow, id: TaskId) -> Result<Task, Fault> {
    Ok(Task {
        id,
        tenant: name(row, "tenant")?,
        task_type: name(row, "task_type")?,
        queue: name(row, "queue")?,
        priority: priority(row)?,
        input: Json::from_stored(field(row, "input")?),
        metadata: json(row, "metadata")?,
        limits: limits(row)?,
        own: own_terms(row)?,
        unique_key: match field::<Option<&str>>(row, "unique_key")? {
            Some(_) => Some(name::<UniqueKey>(row, "unique_key")?),
            None => None,
        },
        status: status(row, "status")?,
        cancel_requested: field(row, "cancel_requested")?,
        attempt: count(row, "attempt")?,
        result: json(row, "result")?,
        details: json(row, "details")?,
        error: failure(row)?,
        progress: progress(row)?,
        created_at: field(row, "created_at")?,
        updated_at: field(row, "updated_at")?,
        run_at: field(row, "run_at")?,
        expires_at: field(row, "expires_at")?,
        started_at: field(row, "started_at")?,
        completed_at: field(row, "completed_at")?,
        needs: match field::<Option<&str>>(row, "needs")? {
            Some(_) => Some(needs(row)?),
            None => None,
        },
        waits_for: field::<Option<i32>>(row, "waits_for")?.map(|open| open.max(0).unsigned_abs()),
        batch: field::<Option<i64>>(row, "batch")?.map(TaskId),
        fairness_key: fairness_key(row)?,
    })
}

pub(crate) fn fairness_key(row: &PgRow) -> Result<Option<FairnessKey>, Fault> {
    let key: Option<&str> = field(row, "fairness_key")?;
    key.map(|_| name(row, "fairness_key")).transpose()
}

fn json(row: &PgRow, column: &str) -> Result<Option<Json>, Fault> {
    Ok(field::<Option<String>>(row, column)?.map(Json::from_stored))
}

fn progress(row: &PgRow) -> Result<Option<ProgressReport>, Fault> {
    let Some(updated_at) = field::<Option<Timestamp>>(row, "progress_at")? else { return Ok(None) };
    let (current, total): (i64, i64) = (field(row, "current")?, field(row, "total")?);
    let message: Option<String> = field(row, "message")?;
    let progress = Progress { current: current.cast_unsigned(), total: total.cast_unsigned(), message };
    Ok(Some(ProgressReport { progress, updated_at }))
}

/// A failure as it is kept in a column `error`.
#[derive(Serialize, Deserialize)]
struct StoredFailure<'a> {
    code: Cow<'a, str>,
    message: Cow<'a, str>,
    class: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

/// The text of a failure for a column `error`.
pub(crate) fn failure_text(failure: &Failure) -> String {
    let clean = |text: &'_ str| text.replace('\0', "");
    let stored = StoredFailure {
        code: clean(&failure.code).into(),
        message: clean(&failure.message).into(),
        class: failure.class.as_str().into(),
        retry_after_ms: failure.retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
    };
    serde_json::to_string(&stored).unwrap_or_default()
}

/// The column `error`.
pub(crate) fn failure(row: &PgRow) -> Result<Option<Failure>, Fault> {
    let Some(text) = field::<Option<&str>>(row, "error")? else { return Ok(None) };
    let stored: StoredFailure<'_> =
        serde_json::from_str(text).map_err(|error| Fault::Unreadable(format!("error {text:?}: {error}")))?;
    // A class that only a newer version knows is shown, and never decides about a retry here.
    let class = ErrorClass::ALL.into_iter().find(|class| class.as_str() == stored.class);
    let failure = Failure::new(class.unwrap_or(ErrorClass::Permanent), stored.code, &*stored.message);
    Ok(Some(failure.retry_after(stored.retry_after_ms.map(Duration::from_millis))))
}

/// For columns that count in `integer`. What does not fit is larger than anything that was ever stored.
pub(crate) fn integer(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// For limits of rows.
pub(crate) fn limit(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn micros(value: Duration) -> i64 {
    i64::try_from(value.as_micros()).unwrap_or(i64::MAX)
}

/// A wait; at most a thousand years, so that no moment leaves the calendar.
pub(crate) fn interval(value: Duration) -> PgInterval {
    const THOUSAND_YEARS: Duration = Duration::from_secs(1000 * 366 * 24 * 3600);
    PgInterval { months: 0, days: 0, microseconds: micros(value.min(THOUSAND_YEARS)) }
}

/// A moment that PostgreSQL can keep: its calendar begins before ours ends, but later than chrono's.
pub(crate) fn moment(value: Timestamp) -> Timestamp {
    // 4713 BC, the first year of its calendar.
    const FIRST_SECOND: i64 = -210_000_000_000;
    value.max(Timestamp::from_timestamp(FIRST_SECOND, 0).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Ids in rising order, each once: the order in which every statement locks rows.
pub(crate) fn in_lock_order(ids: impl IntoIterator<Item = TaskId>) -> Vec<i64> {
    let mut ids: Vec<i64> = ids.into_iter().map(|id| id.0).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_kept_without_what_postgresql_refuses() {
        let failure = Failure {
            code: "odd\0code".into(),
            message: "said \"no\"".into(),
            class: ErrorClass::RateLimited,
            retry_after: Some(Duration::from_millis(1500)),
        };
        let text = failure_text(&failure);
        assert!(!text.contains("\\u0000") && !text.contains('\0'), "{text}");
        let stored: StoredFailure<'_> = serde_json::from_str(&text).expect("readable");
        assert_eq!(
            (&*stored.code, &*stored.message, &*stored.class),
            ("oddcode", "said \"no\"", "rate_limited")
        );
        assert_eq!(stored.retry_after_ms, Some(1500));
    }

    #[test]
    fn moments_and_waits_stay_inside_the_calendar() {
        assert!(moment(Timestamp::MIN_UTC) > Timestamp::MIN_UTC);
        assert_eq!(moment(Timestamp::UNIX_EPOCH), Timestamp::UNIX_EPOCH);
        assert!(interval(Duration::MAX).microseconds > 0);
        assert_eq!(interval(Duration::from_micros(7)).microseconds, 7);
    }

    #[test]
    fn each_suspicion_has_its_lane() {
        assert_eq!(Suspicion::ALL.map(lane), [0, -1, -2]);
        assert_eq!(Suspicion::ALL.map(|degree| suspicion(lane(degree))), Suspicion::ALL);
        assert_eq!((suspicion(7), suspicion(i32::MIN)), (Suspicion::None, Suspicion::Alone));
    }

    #[test]
    fn locks_are_taken_in_the_order_of_ids() {
        assert_eq!(in_lock_order([TaskId(3), TaskId(1), TaskId(3)]), [1, 3]);
    }
}
