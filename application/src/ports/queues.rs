//! Queues as their operators see them: standing still, emptied, watched. What waits in them is the other ports' affair.

use std::time::Duration;

use async_trait::async_trait;
use domain::{QueueName, RunLength, Runs, Service, TaskId, Tenant, Timestamp};

use super::{StoreError, Waiting};

/// The store's side that queues need.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait QueueStore: Send + Sync {
    /// Queues that stand still, by name: workers take nothing out of them. One that nobody has paused is none of them.
    async fn paused_queues(&self) -> Result<Vec<QueueName>, StoreError>;

    /// Lets a queue stand still, or go on, until this is called again; the queue need not be known. Answers whether that
    /// changed anything.
    async fn pause_queue(&self, queue: &QueueName, paused: bool) -> Result<bool, StoreError>;

    /// Since when each of these queues has kept somebody waiting as PENDING: the longest among the first of each
    /// priority. Queues where nobody waits are left out; suspects do not count. By name.
    async fn waiting_since(&self, queues: &[QueueName]) -> Result<Vec<(QueueName, Timestamp)>, StoreError>;

    /// One step of a purge: looks at unfinished tasks with higher ids than `after`, at most `limit`, and ends those of the
    /// tenant's that wait in the queue, by [`domain::queue::purge`].
    async fn purge(
        &self,
        tenant: &Tenant,
        queue: &QueueName,
        after: TaskId,
        limit: usize,
    ) -> Result<Purged, StoreError>;

    /// Lets those who wait grow more urgent: of the first `limit` PENDING tasks of each priority, each that has waited long
    /// enough gets the priority of [`domain::Priority::aged`] over the one that it was submitted with. That decides who
    /// goes next; what is read back stays. Answers their new places. No suspects.
    async fn age(&self, queue: &QueueName, every: Duration, limit: usize)
    -> Result<Vec<Waiting>, StoreError>;

    /// Adds runs to those of the current minute. They are kept for about an hour.
    async fn note_runs(&self, runs: &[RunRecord]) -> Result<(), StoreError>;

    /// What ran in the current minute and the full ones before it, `minutes` in all, as a sum by queue and length.
    async fn recent_runs(&self, minutes: u32) -> Result<RecentRuns, StoreError>;

    /// What the workers serve whose lease holds, and how many serve just that.
    async fn served(&self) -> Result<Vec<(Service, u64)>, StoreError>;
}

/// What a step of a purge did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purged {
    /// The tasks that it ended, by id.
    pub ended: Vec<TaskId>,
    /// Go on after this one; `None` when all have been looked at.
    pub next: Option<TaskId>,
}

/// Runs of one queue that took about equally long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRecord {
    /// Of which queue.
    pub queue: QueueName,
    /// How long each took.
    pub length: RunLength,
    /// How many, and how they ended.
    pub runs: Runs,
}

/// What ran within a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecentRuns {
    /// From here, the beginning of a minute…
    pub since: Timestamp,
    /// … to now.
    pub until: Timestamp,
    /// By queue and length.
    pub records: Vec<RunRecord>,
}
