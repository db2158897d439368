//! A store in memory that keeps the same contract as PostgreSQL and SQLite: for tests and for trying things out.
//! Nothing outlives it.

mod clients;
mod fleet;
mod flows;
mod lane;
mod queues;
mod quotas;
mod schedules;
mod state;
mod upkeep;
mod work;

use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use domain::Timestamp;
use tokio::sync::Notify;

use self::state::{State, later, whole};

/// The store. Share it in an `Arc`.
pub struct MemoryStore {
    state: Mutex<State>,
    clock: Clock,
    /// Told when a needed task has ended.
    need_ended: Notify,
}

enum Clock {
    /// Stands still until it is told to move.
    Set(Mutex<Timestamp>),
    /// Somebody else's.
    Given(Box<dyn Fn() -> Timestamp + Send + Sync>),
}

impl MemoryStore {
    /// An empty store whose clock stands at `start`, in whole microseconds, until [`MemoryStore::advance`] moves it.
    pub fn new(start: Timestamp) -> Self {
        Self {
            state: Mutex::default(),
            clock: Clock::Set(Mutex::new(whole(start))),
            need_ended: Notify::new(),
        }
    }

    /// An empty store that asks `now` for the time.
    pub fn with_clock(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self { state: Mutex::default(), clock: Clock::Given(Box::new(now)), need_ended: Notify::new() }
    }

    /// Moves the clock of a store made by [`MemoryStore::new`]; that of another one is not ours to move.
    pub fn advance(&self, by: Duration) {
        if let Clock::Set(now) = &self.clock {
            let mut now = lock(now);
            *now = later(*now, by);
        }
    }

    /// Sets the same clock back.
    pub fn turn_back(&self, by: Duration) {
        if let Clock::Set(now) = &self.clock {
            let mut now = lock(now);
            *now -= by;
        }
    }

    /// Wakes whoever follows up, where there is something.
    fn tell_of_ends(&self, state: &State) {
        if !state.ended_needs.is_empty() {
            self.need_ended.notify_one();
        }
    }

    fn now(&self) -> Timestamp {
        match &self.clock {
            Clock::Set(now) => *lock(now),
            Clock::Given(now) => whole(now()),
        }
    }

    /// The state with the time. No call panics half way, so a poisoned lock guards a whole state.
    fn enter(&self) -> (MutexGuard<'_, State>, Timestamp) {
        let state = lock(&self.state);
        let now = self.now();
        (state, now)
    }
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
