//! Between columns and the domain: what is written with one is read with the other. What cannot be read is named.

use std::{fmt::Debug, str::FromStr, time::Duration};

use application::ports::StoreError;
use domain::{
    AttemptOutcome, Counters, End, Failure, Priority, QueueName, State, Status, Suspicion, Timestamp,
};
use serde::Serialize;

/// Rows for `json_each`, as JSON arrays of a few megabytes at most each, however big the rows are.
pub(crate) fn pages<T: Serialize>(rows: impl IntoIterator<Item = T>) -> Vec<String> {
    const PAGE: usize = 4 << 20;
    let mut pages = Vec::new();
    let mut page = String::new();
    for row in rows {
        let row =
            serde_json::to_string(&row).expect("plain rows of texts and numbers can be written as JSON");
        if !page.is_empty() && page.len() + row.len() > PAGE {
            pages.push(std::mem::take(&mut page) + "]");
        }
        page.push(if page.is_empty() { '[' } else { ',' });
        page.push_str(&row);
    }
    if !page.is_empty() {
        pages.push(page + "]");
    }
    pages
}

/// Ids for `json_each`, ascending: the order in which they lie on the disk.
pub(crate) fn id_list(ids: impl IntoIterator<Item = i64>) -> String {
    let mut ids: Vec<i64> = ids.into_iter().collect();
    ids.sort_unstable();
    ids.dedup();
    serde_json::to_string(&ids).expect("numbers can be written as JSON")
}

/// The error for what this version would not have written.
pub(crate) fn unreadable(what: &str, value: &dyn Debug) -> StoreError {
    StoreError::Corrupt(format!("{what} is {value:?}, which this version does not know"))
}

/// A name of any kind.
pub(crate) fn parse_name<N: FromStr<Err = domain::InvalidName>>(text: &str) -> Result<N, StoreError> {
    text.parse().map_err(|error: domain::InvalidName| StoreError::Corrupt(error.to_string()))
}

pub(crate) fn parse_queue(text: &str) -> Result<QueueName, StoreError> {
    parse_name(text)
}

pub(crate) fn parse_priority(value: i64) -> Result<Priority, StoreError> {
    Priority::new(value).ok_or_else(|| unreadable("a priority", &value))
}

pub(crate) fn parse_status(text: &str) -> Result<Status, StoreError> {
    Status::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| unreadable("a status", &text))
}

pub(crate) fn parse_outcome(text: &str) -> Result<AttemptOutcome, StoreError> {
    AttemptOutcome::ALL
        .into_iter()
        .find(|outcome| outcome.as_str() == text)
        .ok_or_else(|| unreadable("an attempt's outcome", &text))
}

/// A status with the request to stop is a state of the domain's.
pub(crate) fn state(status: Status, cancel_requested: bool) -> State {
    match status {
        Status::Scheduled => State::Scheduled,
        Status::Pending => State::Pending,
        Status::Processing => State::Processing { cancel_requested },
        Status::Completed => State::Ended(End::Completed),
        Status::Failed => State::Ended(End::Failed),
        Status::Cancelled => State::Ended(End::Cancelled),
        Status::Expired => State::Ended(End::Expired),
    }
}

pub(crate) fn moment(micros: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_timestamp_micros(micros).ok_or_else(|| unreadable("a time", &micros))
}

pub(crate) fn moment_if(micros: Option<i64>) -> Result<Option<Timestamp>, StoreError> {
    micros.map(moment).transpose()
}

pub(crate) fn duration(micros: i64) -> Result<Duration, StoreError> {
    u64::try_from(micros).map(Duration::from_micros).map_err(|_| unreadable("a duration", &micros))
}

/// Counters and numbers of attempts.
pub(crate) fn number(value: i64) -> Result<u32, StoreError> {
    u32::try_from(value).map_err(|_| unreadable("a counter", &value))
}

/// The columns that count attempts.
#[derive(sqlx::FromRow)]
pub(crate) struct CounterColumns {
    attempt: i64,
    failures: i64,
    crashes: i64,
    forgiven_failures: i64,
    forgiven_crashes: i64,
}

impl CounterColumns {
    pub(crate) fn read(&self) -> Result<Counters, StoreError> {
        Ok(Counters {
            attempt: number(self.attempt)?,
            failures: number(self.failures)?,
            crashes: number(self.crashes)?,
            forgiven_failures: number(self.forgiven_failures)?,
            forgiven_crashes: number(self.forgiven_crashes)?,
        })
    }
}

/// The lane in which tasks of this suspicion wait: claims of the ordinary ones never pass over a suspect.
pub(crate) fn lane(suspicion: Suspicion) -> &'static str {
    match suspicion {
        Suspicion::None => "",
        Suspicion::Shared => "shared",
        Suspicion::Alone => "alone",
    }
}

pub(crate) fn parse_lane(text: &str) -> Result<Suspicion, StoreError> {
    Suspicion::ALL
        .into_iter()
        .find(|suspicion| lane(*suspicion) == text)
        .ok_or_else(|| unreadable("a lane", &text))
}

/// Code and message are kept; the class has done its work when the attempt was settled.
pub(crate) fn failure(code: Option<String>, message: Option<String>) -> Option<Failure> {
    code.map(|code| Failure::permanent(code, message.unwrap_or_default()))
}

/// Unsigned numbers are kept bit for bit.
pub(crate) fn bits(value: u64) -> i64 {
    value.cast_signed()
}

/// Undoes [`bits`].
pub(crate) fn unsigned(value: i64) -> u64 {
    value.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_whole_arrays_of_bounded_size() {
        assert!(pages(Vec::<i64>::new()).is_empty());
        assert_eq!(pages([1, 2]), ["[1,2]"]);
        let big = "x".repeat(3 << 20);
        let pages = pages([&big, &big, &big]);
        assert_eq!(pages.len(), 3);
        assert!(
            pages
                .iter()
                .all(|page| serde_json::from_str::<Vec<String>>(page).is_ok_and(|rows| rows.len() == 1))
        );
    }

    #[test]
    fn unsigned_numbers_keep_every_bit() {
        for value in [0, 1, u64::MAX, u64::MAX - 1, 1 << 63] {
            assert_eq!(unsigned(bits(value)), value);
        }
    }

    #[test]
    fn what_is_not_known_is_named() {
        let told = parse_status("PAUSED").expect_err("no such status").to_string();
        assert!(told.contains("a status is \"PAUSED\""), "{told}");
    }
}
