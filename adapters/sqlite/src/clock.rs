//! The store's clock: this process's, since no other one uses the database.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use domain::Timestamp;

/// Answers the time in microseconds since 1970.
#[derive(Clone)]
pub(crate) struct Clock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl Clock {
    pub(crate) fn system() -> Self {
        Self(Arc::new(system_now))
    }

    pub(crate) fn given(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(move || now().timestamp_micros()))
    }

    pub(crate) fn now(&self) -> i64 {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

// This is the one place that makes the store's clock out of the machine's; the rest asks the store.
#[allow(clippy::disallowed_methods)]
fn system_now() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => micros(since),
        Err(before) => -micros(before.duration()),
    }
}

/// A duration in whole microseconds.
pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// The moment so long after another; the end of the calendar where there is none.
pub(crate) fn later(now: i64, after: Duration) -> i64 {
    now.saturating_add(micros(after)).min(Timestamp::MAX_UTC.timestamp_micros())
}
