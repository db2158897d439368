//! What workers say of themselves, as it is kept: a store does not read it, and a newer or older process may leave
//! fields out.

use std::time::Duration;

use domain::{Json, Timestamp};
use serde::{Deserialize, Serialize};

/// The most running tasks that a report lists.
pub const MOST_ACTIVE: usize = 100;

/// What does not change while a worker process lives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// The program's version.
    pub version: String,
    /// The machine.
    pub host: String,
    /// The process there.
    pub pid: u32,
    /// The task types that it can run.
    pub types: Vec<String>,
    /// Its settings, by name.
    pub settings: Vec<(String, String)>,
}

/// How a worker stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Standing {
    /// As [`domain::WorkerMode::as_str`] says it.
    pub mode: String,
    /// Tasks that run.
    pub active_count: usize,
    /// Those of them that have run for longest, at most [`MOST_ACTIVE`].
    pub active: Vec<Active>,
    /// What became of attempts since the process started.
    pub ended: Ends,
    /// The paces that types are held to.
    pub rate_limits: Vec<(String, String)>,
    /// How long the process has worked, in seconds.
    pub working_for: u64,
    /// What it holds in memory, in bytes.
    pub memory: Option<u64>,
}

/// A task that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Active {
    /// Its number.
    pub task: i64,
    /// The attempt.
    pub attempt: u32,
    /// Its type.
    pub task_type: String,
    /// Its queue.
    pub queue: String,
    /// Since when, by the store's clock.
    pub started_at: Timestamp,
}

/// How attempts ended, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ends {
    /// Tasks that completed.
    pub completed: u64,
    /// Tasks that failed for good.
    pub failed: u64,
    /// Tasks that were stopped on request.
    pub cancelled: u64,
    /// Attempts after which the task waits for another.
    pub retried: u64,
}

impl std::ops::AddAssign for Ends {
    fn add_assign(&mut self, other: Self) {
        self.completed += other.completed;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.retried += other.retried;
    }
}

impl Standing {
    /// Whether it says the same as another but for the numbers that change by themselves.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        let still = |standing: &Self| Self { memory: None, working_for: 0, ..standing.clone() };
        still(self) == still(other)
    }

    pub(crate) fn set_working_for(&mut self, time: Duration) {
        self.working_for = time.as_secs();
    }
}

/// As a store keeps it. Plain texts and numbers always have a JSON form.
pub(crate) fn written<T: Serialize>(value: &T) -> Option<Json> {
    Json::from_value(value).ok()
}

/// What a store has kept; nothing of what cannot be read.
pub(crate) fn read<T: serde::de::DeserializeOwned + Default>(json: Option<&Json>) -> T {
    json.and_then(|json| json.to().ok()).unwrap_or_default()
}
