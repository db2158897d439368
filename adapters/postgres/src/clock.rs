//! The store's clock: PostgreSQL's own, or one in a test's hand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use domain::Timestamp;

/// What each statement is told about the time. SQL says `coalesce($n, now())`, and `$n` is NULL outside of tests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock(Option<TestClock>);

impl Clock {
    pub(crate) fn of(test_clock: TestClock) -> Self {
        Self(Some(test_clock))
    }

    pub(crate) fn bind(&self) -> Option<Timestamp> {
        self.0.as_ref().map(TestClock::now)
    }
}

/// A clock that stands still until it is moved. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct TestClock(Arc<AtomicI64>);

impl TestClock {
    /// A clock that shows this moment, in whole microseconds.
    pub fn new(now: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(now.timestamp_micros())))
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Sets it, forwards or backwards.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.timestamp_micros(), Ordering::SeqCst);
    }

    /// What it shows.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_timestamp_micros(self.0.load(Ordering::SeqCst)).unwrap_or(Timestamp::MAX_UTC)
    }
}
