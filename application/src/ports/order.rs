//! Who goes next, kept where looking is cheap. The store stays the truth: all of this can be lost and rebuilt.

use std::time::Duration;

use async_trait::async_trait;
use domain::{Priority, QueueName, Rank, Suspicion, TaskId};

use super::StoreError;

/// A PENDING task's place: inside a queue, priority and then rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Which task.
    pub id: TaskId,
    /// Where it waits.
    pub queue: QueueName,
    /// How soon it goes.
    pub priority: Priority,
    /// Its place among those as urgent.
    pub rank: Rank,
    /// Suspects wait apart: workers take them from the store, and no [`Order`] holds them.
    pub suspicion: Suspicion,
}

/// The order of waiting tasks over all workers. It holds a bounded window of each queue; what is beyond is fetched
/// from the store when the window runs low.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait Order: Send + Sync {
    /// Adds tasks that wait, after the store has committed them, and sends workers the news ([`super::Signal::Work`]) in
    /// the same step. Idempotent.
    async fn push(&self, tasks: &[Waiting]) -> Result<(), StoreError>;

    /// Takes a queue's tasks out, wherever they stand, before they are pushed to another place.
    async fn withdraw(&self, queue: &QueueName, tasks: &[TaskId]) -> Result<(), StoreError>;

    /// Takes ids out: the same order and bounds as [`super::Claim::Next`]. Never blocks. What is popped and then not
    /// claimed comes back through [`Order::refill`].
    async fn pop(&self, queues: &[(QueueName, usize)], limit: usize) -> Result<Popped, StoreError>;

    /// A mark of what has been pushed to a queue so far; give it to [`Order::refill`] with what was read after it.
    async fn mark(&self, queue: &QueueName) -> Result<u64, StoreError>;

    /// Puts back the first tasks of a queue as the store has them, read after `mark` was taken. `complete` says that
    /// these are all that wait there.
    async fn refill(
        &self,
        queue: &QueueName,
        mark: u64,
        tasks: &[Waiting],
        complete: bool,
    ) -> Result<(), StoreError>;

    /// Queues that hold or held something.
    async fn queues(&self) -> Result<Vec<QueueName>, StoreError>;

    /// The most ids of one queue that are kept.
    fn window(&self) -> usize;

    /// One round trip, for health checks; answers how long it took.
    async fn ping(&self) -> Result<Duration, StoreError>;
}

/// What a pop found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Popped {
    /// In order; claim them.
    pub ids: Vec<TaskId>,
    /// Queues whose window runs low, or is not known to be whole, while the store may hold more.
    pub low: Vec<QueueName>,
}
