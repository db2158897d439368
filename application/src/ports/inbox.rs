//! Tasks that were submitted inside somebody's own transaction, and wait in the store to be checked.

use std::time::Duration;

use async_trait::async_trait;
use domain::{Failure, Json, NewTask, Rank, TaskId, TaskType, Tenant, Timestamp};

use super::StoreError;

/// A submission as it was left.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// The number that the sender was told, and that the task will have.
    pub id: TaskId,
    /// Whose it is.
    pub tenant: Tenant,
    /// What is to run.
    pub task_type: TaskType,
    /// What it gets.
    pub input: Json,
    /// What else the sender wrote: JSON.
    pub options: String,
    /// When it was left, by the store's clock.
    pub submitted_at: Timestamp,
}

/// What becomes of a letter.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// Which.
    pub id: TaskId,
    /// When it was left.
    pub submitted_at: Timestamp,
    /// The task that it becomes. Keys are not looked at: who submits in a transaction has that to submit once.
    pub task: NewTask,
    /// Why it ends as FAILED at once, if it does.
    pub refusal: Option<Failure>,
}

/// A task that came out of the inbox just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenIn {
    /// Which.
    pub id: TaskId,
    /// When it is to run, if that lies ahead.
    pub run_at: Option<Timestamp>,
    /// Its place among those as urgent, when it is PENDING.
    pub rank: Rank,
}

/// The inbox. Any number of processes may read and empty it at once.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait InboxStore: Send + Sync {
    /// The oldest letters, at most `limit`: those of the known types, and those of others that have lain for longer than
    /// `patience`.
    async fn letters(
        &self,
        known: &[TaskType],
        patience: Duration,
        limit: usize,
    ) -> Result<Vec<Letter>, StoreError>;

    /// Turns letters into tasks, all of them in one transaction, and answers those that this call has turned: what is
    /// missing was turned by somebody else. A refused one ends as FAILED.
    async fn take_in(&self, letters: &[Accepted]) -> Result<Vec<TakenIn>, StoreError>;

    /// Returns when letters may have come, or when nobody can tell for a while.
    async fn knock(&self);
}
