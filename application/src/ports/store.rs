//! The truth about tasks: PostgreSQL, SQLite or memory behind the same promises.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use domain::{
    Attempt, Change, Counters, Day, FairnessKey, Json, Limits, NewTask, Priority, Progress, QueueLimits,
    QueueName, Rank, RetryPolicy, Status, Suspicion, Task, TaskId, TaskType, Tenant, Timestamp, WorkerId,
    WorkerName,
    ai::{ModelCall, Spending, UsageGroup, UsageGrouping},
    flow::BatchCounts,
};

use super::{
    BatchItems, FleetStore, FlowStored, LaneStore, NewNode, QueueStore, QuotaStore, ScheduleStore,
    UpkeepStore, Waiting,
};

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached or does not answer in time; try again. Whether a write was applied is not known.
    #[error("the task store is unavailable: {0}")]
    Unavailable(String),
    /// It holds something that this version cannot read; trying again does not help.
    #[error("the task store holds data that cannot be read: {0}")]
    Corrupt(String),
}

/// Every side of one store.
pub trait Store:
    TaskStore + WorkStore + UpkeepStore + ScheduleStore + QueueStore + QuotaStore + LaneStore + FleetStore
{
}
impl<T> Store for T where
    T: TaskStore + WorkStore + UpkeepStore + ScheduleStore + QueueStore + QuotaStore + LaneStore + FleetStore
{
}

/// The clients' side.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait TaskStore: Send + Sync {
    /// Stores tasks, all or none, durably before it returns. Answers one outcome per task in the order given; ids of
    /// new tasks rise in that order. A task whose start has come waits as PENDING, any other as SCHEDULED.
    ///
    /// A task with a [`domain::Share`] gets its rank from its lane ([`domain::fair`]) when it first becomes PENDING, and keeps
    /// it; the rank of any other is its number.
    ///
    /// A task with an idempotency key that was used within [`domain::Idempotency::KEPT`] is not stored:
    /// [`Submitted::Replayed`] or [`Submitted::KeyReused`]. Else, a task whose [`domain::Unique`] is met by another task
    /// ([`domain::Unique::is_met_by`], by the store's clock) is not stored: [`Submitted::Existing`], the newest such
    /// task; its idempotency key stays unused. Both hold between concurrent calls and inside one.
    async fn submit(&self, tasks: &[NewTask]) -> Result<Vec<Submitted>, StoreError>;

    /// Stores a flow: tasks that wait for each other, and for stored tasks, all or none, durably before it returns. Ids
    /// rise in the order given. A node that waits for others is SCHEDULED until [`UpkeepStore::follow_up`] lets it start;
    /// one that is needed may have ended, or be gone: that is followed up at once. Items belong to the batch that is the first node, which waits for
    /// them.
    ///
    /// Only the first node may have an idempotency key or be unique: where that says that it is not to be stored, as in
    /// [`TaskStore::submit`], nothing of the flow is.
    async fn submit_flow(&self, nodes: &[NewNode]) -> Result<FlowStored, StoreError>;

    /// The same of a batch, the first of these nodes, whose items are read piece by piece; none of the nodes is one. The
    /// receipts of the items, whose ids are the highest, come last.
    async fn submit_batch(
        &self,
        nodes: &[NewNode],
        items: Arc<dyn BatchItems>,
    ) -> Result<FlowStored, StoreError> {
        let mut all = nodes.to_vec();
        for piece in items.pieces() {
            all.extend(piece?.into_iter().map(NewNode::item));
        }
        self.submit_flow(&all).await
    }

    /// How the items of these batches of the tenant stand, each batch that has any.
    async fn batch_counts(
        &self,
        tenant: &Tenant,
        batches: &[TaskId],
    ) -> Result<Vec<(TaskId, BatchCounts)>, StoreError>;

    /// The tenant's tasks with these ids, in the order given; unknown ids are left out.
    async fn read(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<Task>, StoreError>;

    /// The tenant's tasks that pass the filter, newest (highest id) first.
    async fn list(
        &self,
        tenant: &Tenant,
        filter: &TaskFilter,
        page: ListPage,
    ) -> Result<Vec<Task>, StoreError>;

    /// How many of the tenant's tasks stand where, by queue; only what is not zero, ordered by queue and status.
    async fn counts(&self, tenant: &Tenant) -> Result<Vec<QueueCounts>, StoreError>;

    /// The attempts of a task, oldest first, the running one included; `None` for an unknown id.
    async fn attempts(&self, tenant: &Tenant, id: TaskId) -> Result<Option<Vec<Attempt>>, StoreError>;

    /// Cancels tasks that wait (they end as CANCELLED) and marks running ones for their worker. Answers one outcome
    /// per id, in order. Decides by [`domain::decide`] with `Event::Cancel`.
    async fn cancel(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<CancelOutcome>, StoreError>;

    /// Gives tasks that wait another priority, which is theirs from then on, by [`domain::queue::may_change_priority`]. One
    /// outcome per id, in order.
    async fn reprioritise(
        &self,
        tenant: &Tenant,
        ids: &[TaskId],
        priority: Priority,
    ) -> Result<Vec<Reprioritised>, StoreError>;

    /// Removes tasks with their history, chunks and progress; running ones are left alone. One outcome per id.
    async fn delete(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<DeleteOutcome>, StoreError>;

    /// Brings ended tasks back among the waiting, by [`domain::decide`] with `Event::Retry`: PENDING, with whole budgets,
    /// the attempts so far in the history, the last error still shown, no result, and without an `expires_at` that has
    /// passed. One outcome per task, in order.
    ///
    /// A task that [`domain::flow::waits_again`] is SCHEDULED instead, and followed up: it waits for those that it needs
    /// and that have not ended once all tasks of this call are back. A task that is still waited for is waited for
    /// again.
    async fn retry(&self, tenant: &Tenant, tasks: &[Retry]) -> Result<Vec<RetryOutcome>, StoreError>;

    /// Removes tasks as [`TaskStore::delete`] does, but only those that are FAILED when it happens. One outcome per id.
    async fn discard(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<DiscardOutcome>, StoreError>;

    /// The tenant's FAILED tasks by the code of their error and their type, the most frequent first (then by code and
    /// type), at most `limit` groups.
    async fn failures(&self, tenant: &Tenant, limit: usize) -> Result<Vec<FailureGroup>, StoreError>;

    /// What the tenant's calls of models came to on these days (UTC, both included), by group: the dearest first, then
    /// those with the most tokens, then by key; at most `limit` groups. By day they come in the order of days.
    async fn usage(
        &self,
        tenant: &Tenant,
        days: (Day, Day),
        grouping: UsageGrouping,
        limit: usize,
    ) -> Result<Vec<UsageGroup>, StoreError>;

    /// What the calls of models came to that the items of a batch have made, failed attempts included.
    async fn batch_usage(&self, tenant: &Tenant, batch: TaskId) -> Result<Spending, StoreError>;

    /// The stored chunks of one task after `(attempt, seq)`, in order, at most `limit`. Every attempt's are kept.
    async fn chunks_after(
        &self,
        id: TaskId,
        after: (u32, u64),
        limit: usize,
    ) -> Result<Vec<ChunkRecord>, StoreError>;

    /// One round trip to the store, for health checks.
    async fn ping(&self) -> Result<Health, StoreError>;
}

/// A stored submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Its number.
    pub id: TaskId,
    /// When it was stored, by the store's clock.
    pub created_at: Timestamp,
    /// What it waits for as SCHEDULED; `None` when it is PENDING.
    pub run_at: Option<Timestamp>,
    /// Its place among those as urgent, when it is PENDING.
    pub rank: Rank,
}

impl Receipt {
    /// The place of a task that waits.
    pub fn place(&self, queue: QueueName, priority: Priority) -> Waiting {
        Waiting { id: self.id, queue, priority, rank: self.rank, suspicion: Suspicion::None }
    }
}

/// What became of one submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    /// It is stored.
    New(Receipt),
    /// It was stored before, under the same idempotency key and fingerprint, with this receipt.
    Replayed(Receipt),
    /// Its idempotency key was used for another request, which made this task.
    KeyReused(TaskId),
    /// A unique task stands in its way: this one.
    Existing(TaskId),
}

/// What a store says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Such as `postgresql` or `sqlite`.
    pub kind: &'static str,
    /// The store's clock.
    pub now: Timestamp,
}

/// What [`TaskStore::list`] lets through; `None` or empty means all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// Any of these.
    pub statuses: Vec<Status>,
    /// Exactly this type.
    pub task_type: Option<TaskType>,
    /// Exactly this queue.
    pub queue: Option<QueueName>,
    /// Exactly this code of the error it ended with.
    pub error_code: Option<String>,
    /// Items of this batch.
    pub batch: Option<TaskId>,
    /// Ended before this moment.
    pub ended_before: Option<Timestamp>,
}

/// One page of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListPage {
    /// Only ids below this one.
    pub before: Option<TaskId>,
    /// At most this many; at least 1.
    pub limit: usize,
}

/// A number of tasks in one queue and status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueCounts {
    /// Where.
    pub queue: QueueName,
    /// In which state.
    pub status: Status,
    /// How many; never 0.
    pub count: u64,
}

/// What became of a cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelOutcome {
    /// It was waiting and has ended as CANCELLED.
    Cancelled,
    /// It runs; its worker will see the request.
    Requested,
    /// It had ended before, like this.
    AlreadyEnded(Status),
    /// There is no such task.
    Unknown,
}

/// What became of a change of priority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reprioritised {
    /// It has this priority now, and waits here as PENDING.
    Moved(Waiting),
    /// It has this priority now, and is SCHEDULED for later.
    Later,
    /// It does not wait: it stands here, and keeps its priority.
    NotWaiting(Status),
    /// There is no such task.
    Unknown,
}

/// What became of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteOutcome {
    /// It is gone.
    Deleted,
    /// It runs; cancel it first.
    Processing,
    /// There is no such task.
    Unknown,
}

/// A task that is to run again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Which.
    pub id: TaskId,
    /// What it gets instead of its input; `None` leaves that as it is.
    pub input: Option<Json>,
}

/// What became of a retry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryOutcome {
    /// It waits here, and has had so many attempts.
    Waiting(Waiting, u32),
    /// It waits for others first, and has had so many attempts.
    WaitingForOthers(u32),
    /// It has not ended: it stands here.
    NotEnded(Status),
    /// It completed: there is nothing to run again.
    Completed,
    /// There is no such task.
    Unknown,
}

impl RetryOutcome {
    /// For stores: a task that is back waits for others instead of a worker.
    pub fn wait_for_others(&mut self) {
        match self {
            Self::Waiting(_, attempt) => *self = Self::WaitingForOthers(*attempt),
            Self::NotEnded(Status::Pending) => *self = Self::NotEnded(Status::Scheduled),
            Self::WaitingForOthers(_) | Self::NotEnded(_) | Self::Completed | Self::Unknown => {}
        }
    }
}

/// What became of a discard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscardOutcome {
    /// It is gone.
    Discarded,
    /// It is not FAILED: it stands here, and stays.
    NotFailed(Status),
    /// There is no such task.
    Unknown,
}

/// FAILED tasks of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureGroup {
    /// The code of their errors.
    pub code: String,
    /// Their type.
    pub task_type: TaskType,
    /// How many; never 0.
    pub count: u64,
    /// When the first of them ended.
    pub first_at: Timestamp,
    /// When the last of them ended.
    pub last_at: Timestamp,
    /// The one with the highest id.
    pub latest: TaskId,
    /// Its error's message.
    pub message: String,
}

/// The workers' side. Every write of a running attempt is fenced by (task, attempt, worker): where the task is no
/// longer held so, nothing changes and the caller is told.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait WorkStore: Send + Sync {
    /// Registers one start of a worker process and gives it a fresh id. The registration counts as a heartbeat.
    async fn register(&self, profile: &WorkerProfile) -> Result<WorkerId, StoreError>;

    /// Renews the lease of all that the worker holds. `false` when the worker has been declared dead: it must stop
    /// its work and register anew.
    async fn heartbeat(&self, worker: WorkerId) -> Result<bool, StoreError>;

    /// Ends a registration after a drain. What the worker still holds is left to the upkeep.
    async fn retire(&self, worker: WorkerId) -> Result<(), StoreError>;

    /// Takes waiting tasks for a living worker, raising `attempt` of each; for a dead one, nothing. Suspects
    /// ([`Counters::suspicion`]) are taken by [`Claim::Suspects`] only, the others never by it.
    async fn claim(&self, worker: WorkerId, claim: &Claim) -> Result<Vec<ClaimedTask>, StoreError>;

    /// As [`WorkStore::claim`], from a queue with limits: takes the first in order, as far as [`QueueLimits::room`] lets
    /// them through. It counts what runs of the queue over all workers and tenants, and what all claims of this kind have
    /// started; so the limits hold for a queue of which nothing is claimed in another way.
    async fn claim_limited(&self, worker: WorkerId, claim: &LimitedClaim)
    -> Result<LimitedTasks, StoreError>;

    /// Applies decisions about attempts that this worker holds; one answer per settlement, in order. A change that
    /// ends the task keeps its outcome; any other puts it back among the waiting and keeps an attempt record. Sending
    /// the same settlement again is answered [`Applied::Yes`] when the task's outcome, or that attempt's record, bears
    /// this attempt and worker.
    async fn settle(&self, worker: WorkerId, settlements: &[Settlement]) -> Result<Vec<Applied>, StoreError>;

    /// Keeps the last progress and new chunks of running attempts. What is not held any more is silently dropped.
    async fn record(
        &self,
        worker: WorkerId,
        progress: &[ProgressRecord],
        chunks: &[ChunkRecord],
    ) -> Result<(), StoreError>;

    /// Those of the worker's tasks that somebody asked to stop.
    async fn cancel_requests(&self, worker: WorkerId) -> Result<Vec<(TaskId, u32)>, StoreError>;
}

/// A worker process as it introduces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerProfile {
    /// For people; need not be unique.
    pub name: WorkerName,
    /// What it serves; empty means every queue.
    pub queues: Vec<QueueName>,
    /// What it does not serve, whatever else.
    pub except: Vec<QueueName>,
    /// Its slots.
    pub concurrency: usize,
    /// How long it counts as alive after a heartbeat.
    pub lease: Duration,
    /// What it says of itself, which a store does not read: [`crate::fleet::About`].
    pub about: Option<Json>,
}

/// For how long to look for waiting tasks. Beside an old snapshot of the database it can take seconds to see that nobody
/// came in before those that were found the last time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// As long as it takes: nobody else finds them.
    Any,
    /// Not for long: whoever came in before may be left to others.
    Little,
}

/// Which tasks a worker would like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Those of these that are PENDING, as the order handed them out.
    Ids(Vec<TaskId>),
    /// The first in order, at most `limit` in all and at most so many of each queue. Inside a queue: priority, then
    /// id. Across queues: priority, then turn and turn about. Tasks that another claim has in hand are skipped.
    Next {
        /// Queues with the most that may be taken from each.
        queues: Vec<(QueueName, usize)>,
        /// The most in all.
        limit: usize,
        /// For how long to look for them.
        patience: Patience,
    },
    /// The first suspects of one degree in these queues, by priority and id. Tasks that another claim has in hand are
    /// skipped.
    Suspects {
        /// From these.
        queues: Vec<QueueName>,
        /// Of this degree; for [`Suspicion::None`], nothing.
        suspicion: Suspicion,
        /// The most in all.
        limit: usize,
    },
}

/// What a worker would like of a queue with limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitedClaim {
    /// From this queue.
    pub queue: QueueName,
    /// Its limits.
    pub limits: QueueLimits,
    /// Suspects of this degree; for [`Suspicion::None`], the others.
    pub suspicion: Suspicion,
    /// The most in all.
    pub limit: usize,
}

/// What the limits let through.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LimitedTasks {
    /// In order.
    pub tasks: Vec<ClaimedTask>,
    /// Where the limits are used up now: how long until the rate lets the next one through; `None` when a task has to end
    /// first. Zero where there is room.
    pub wait: Option<Duration>,
}

/// A task in a worker's hand.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimedTask {
    /// Its number.
    pub id: TaskId,
    /// Who owns it.
    pub tenant: Tenant,
    /// Which handler runs it.
    pub task_type: TaskType,
    /// Whose slot it takes.
    pub queue: QueueName,
    /// Its priority.
    pub priority: Priority,
    /// Its place among those as urgent.
    pub rank: Rank,
    /// Whose share of a fair queue it takes.
    pub fairness_key: Option<FairnessKey>,
    /// What the handler gets.
    pub input: Json,
    /// Its budgets and time limits.
    pub limits: Limits,
    /// Its own retry policy, where it has one.
    pub retry: Option<Box<RetryPolicy>>,
    /// The counters, this attempt included.
    pub counters: Counters,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When this attempt started, by the store's clock.
    pub started_at: Timestamp,
}

/// A decision about a running attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Settlement {
    /// Which task.
    pub task: TaskId,
    /// Which attempt: the fence.
    pub attempt: u32,
    /// What happens to it: [`Change::Finish`] or [`Change::Wait`]. The other changes end no attempt.
    pub change: Change,
    /// What the handler returned, or its partial output.
    pub result: Option<Json>,
    /// About the result; a JSON object.
    pub details: Option<Json>,
    /// Calls of models that the attempt made: kept with it, and added to the tenant's day, where this is applied.
    pub calls: Vec<ModelCall>,
    /// Whether the decision knew of a cancellation. A [`Change::Wait`] that did not is refused where one was requested
    /// meanwhile.
    pub knew_of_cancel: bool,
}

/// What became of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It holds.
    Yes,
    /// The attempt is no longer this worker's: nothing changed.
    Stale,
    /// A cancellation was requested meanwhile: decide again, knowing it.
    CancelRequested,
}

/// The last progress of a running attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct ProgressRecord {
    /// Which task.
    pub task: TaskId,
    /// Which attempt: the fence.
    pub attempt: u32,
    /// What it reported.
    pub progress: Progress,
}

/// A piece of live output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkRecord {
    /// Which task.
    pub task: TaskId,
    /// Which attempt: the fence. Text of two attempts is never spliced.
    pub attempt: u32,
    /// From 1, without gaps, inside an attempt.
    pub seq: u64,
    /// The text.
    pub text: String,
}
