//! The store's side of the upkeep: what is done so that nothing waits for a process that died, and nothing stays for ever.

use std::time::Duration;

use async_trait::async_trait;
use domain::{
    Counters, End, Limits, QueueName, RetentionRules, RetryPolicy, Suspicion, TaskId, TaskType, Timestamp,
    WorkerId, WorkerName,
};

use super::{FollowedUp, StoreError, Waiting};

/// What every process does now and then, so that nothing waits for one that died. All of it may run in any number of
/// processes at once.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait UpkeepStore: Send + Sync {
    /// Turns due SCHEDULED tasks into PENDING ones, at most `limit`, and answers them for the order.
    async fn promote(&self, limit: usize) -> Result<Vec<Waiting>, StoreError>;

    /// How long until the next SCHEDULED task is due, zero when one is; `None` when none waits.
    async fn next_due(&self) -> Result<Option<Duration>, StoreError>;

    /// Ends waiting tasks whose `expires_at` has passed, at most `limit`; answers their ids.
    async fn expire(&self, limit: usize) -> Result<Vec<TaskId>, StoreError>;

    /// Workers whose lease has run out by the store's clock and who are not yet declared dead. A last heartbeat that
    /// lies more than a lease in the future says nothing, because the clock was set back: such a worker counts as
    /// overdue too, until its next heartbeat.
    async fn overdue(&self) -> Result<Vec<Overdue>, StoreError>;

    /// Declares a worker dead if it has not sent a heartbeat since `seen`; `false` if it has, or was dead before. Keeps
    /// with it the heaviest suspicion among the tasks that it holds, for [`Orphan::heaviest`].
    async fn bury(&self, seen: &Overdue) -> Result<bool, StoreError>;

    /// Tasks still held by dead or retired workers, at most `limit`. Settle them as their worker would.
    async fn orphans(&self, limit: usize) -> Result<Vec<Orphan>, StoreError>;

    /// The first `limit` PENDING tasks of a queue in order (priority, then id), for rebuilding the order. No suspects:
    /// they are not part of it.
    async fn waiting(&self, queue: &QueueName, limit: usize) -> Result<Vec<Waiting>, StoreError>;

    /// The same, for a caller who cannot wait for long: where it would take long to see that nobody came in before those
    /// that were read the last time, they are left to [`UpkeepStore::waiting`].
    async fn waiting_on(&self, queue: &QueueName, limit: usize) -> Result<Vec<Waiting>, StoreError> {
        self.waiting(queue, limit).await
    }

    /// Queues other than these in which something waits as PENDING, suspects included. What waits in these costs nothing.
    async fn waiting_queues(&self, except: &[QueueName]) -> Result<Vec<QueueName>, StoreError>;

    /// Running tasks that started longer ago than their time limit and `grace` together, by the store's clock, at most
    /// `limit`: their worker lives, and does not stop them. Settle them as their worker would.
    async fn overrunning(&self, grace: Duration, limit: usize) -> Result<Vec<Overrunning>, StoreError>;

    /// Forgets lanes of fair queues ([`domain::fair`]) that nobody has used for `age` and whose turn has passed, at most
    /// `limit`; answers how many.
    async fn forget_lanes(&self, age: Duration, limit: usize) -> Result<usize, StoreError>;

    /// Forgets idempotency keys that were first used longer ago than [`domain::Idempotency::KEPT`], at most `limit`;
    /// answers how many.
    async fn forget_keys(&self, limit: usize) -> Result<usize, StoreError>;

    /// Follows up the ends of tasks that others wait for, at most `limit`: [`domain::flow::judge`] says what becomes of
    /// those, and a batch whose items have all ended is concluded as [`BatchCounts::conclude`] says. Whatever way a
    /// needed task ended, and whoever ended it, it is followed up, once.
    async fn follow_up(&self, limit: usize) -> Result<FollowedUp, StoreError>;

    /// Returns when a needed task has ended by a call on this store since the last time, so that it can be followed up at
    /// once. It is only a hint: those that ended elsewhere are found by [`UpkeepStore::follow_up`] alone.
    async fn need_ended(&self);

    /// Looks at tasks of every tenant, at most `limit`, and removes those of which [`domain::RetentionRules::judge`] says so,
    /// with all that is kept of them. [`Walk::Due`] costs what there is to look at, however long the history: each task is
    /// looked at when it can first be due, and again when the verdict said. Where the rules differ from those by which other
    /// processes did so within some minutes, it does nothing; where they have changed, it begins anew. [`Walk::After`] goes
    /// through everything. Tasks without a retention of their own stay for at least some minutes.
    async fn remove_old(
        &self,
        rules: &RetentionRules,
        walk: Walk,
        limit: usize,
    ) -> Result<Removal, StoreError>;

    /// Removes FAILED tasks that ended longer than `age` ago, with all that is kept of them, at most `limit`, of every
    /// tenant; answers how many.
    async fn discard_failed(&self, age: Duration, limit: usize) -> Result<usize, StoreError>;
}

/// Which records a step of the retention looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// Those that can have become due since they were last looked at.
    Due,
    /// All with a higher id than this, in order.
    After(TaskId),
}

/// What a step of the retention came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removal {
    /// How many are gone, by how they had ended; no zeros.
    pub removed: Vec<(End, usize)>,
    /// Where [`Walk::After`] is to go on; `None` when it is through, and for [`Walk::Due`].
    pub reached: Option<TaskId>,
    /// Whether another step would find more to look at.
    pub more: bool,
}

impl Removal {
    /// Counts ends.
    pub fn by_end(ends: impl IntoIterator<Item = End>) -> Vec<(End, usize)> {
        let mut counts: Vec<(End, usize)> = Vec::new();
        for end in ends {
            match counts.iter_mut().find(|(known, _)| *known == end) {
                Some((_, count)) => *count += 1,
                None => counts.push((end, 1)),
            }
        }
        counts
    }

    /// How many are gone.
    pub fn count(&self) -> usize {
        self.removed.iter().map(|(_, count)| count).sum()
    }
}

/// A task that its worker should have stopped by now.
#[derive(Debug, Clone, PartialEq)]
pub struct Overrunning {
    /// Which task.
    pub id: TaskId,
    /// Who holds it; settle in its name.
    pub worker: WorkerId,
    /// Its handler.
    pub task_type: TaskType,
    /// The counters; `attempt` is the fence.
    pub counters: Counters,
    /// Its budgets and time limits.
    pub limits: Limits,
    /// Its own retry policy, where it has one.
    pub retry: Option<Box<RetryPolicy>>,
    /// Whether somebody asked to stop it.
    pub cancel_requested: bool,
}

/// A worker that has been silent for too long.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Overdue {
    /// Which.
    pub worker: WorkerId,
    /// What people call it.
    pub name: WorkerName,
    /// Its last heartbeat: whoever buries it must have seen just this one.
    pub last_heartbeat: Timestamp,
}

/// A task whose worker is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Which task.
    pub id: TaskId,
    /// Who held it; settle in its name.
    pub worker: WorkerId,
    /// Whether the worker retired in good order (its tasks are released) or died (they have crashed).
    pub worker_retired: bool,
    /// The counters; `attempt` is the fence.
    pub counters: Counters,
    /// The heaviest suspicion among all that its worker held when it died. Who is lighter is not charged.
    pub heaviest: Suspicion,
    /// Whether somebody asked to stop it.
    pub cancel_requested: bool,
    /// Its place in the order, for putting it back.
    pub waiting: Waiting,
}
