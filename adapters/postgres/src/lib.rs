//! The task store on PostgreSQL.
//!
//! **Architecture invariant:** each verb of the store is one file with its SQL beside it; a call is one statement where
//! the work allows it, and at most one transaction. Rows of `live` are always locked in the order of their ids, so that
//! no two statements wait for each other in a circle.
//!
//! The tables are described in `migrations/postgres`; the measurements behind them in `docs/adr`.

mod cancel;
mod claim;
mod clock;
mod connections;
mod delete;
mod due;
mod error;
mod failed;
mod fair;
mod fire;
mod fleet;
mod flow;
mod flow_retry;
mod follow;
mod history;
mod inbox;
mod keys;
mod lane;
mod ledger;
mod limits;
mod marks;
mod migrate;
mod once;
mod options;
mod overrun;
mod plans;
mod queue;
mod quotas;
mod read;
mod record;
mod reprioritise;
mod rescue;
mod retention;
mod retry;
mod rows;
mod runs;
mod schedule;
mod settle;
mod submit;
mod tally;
mod usage;
mod waiting;
mod worker;

use std::{fmt, sync::Arc, time::Duration};

use application::ports::{
    Applied, BatchItems, CancelOutcome, ChunkRecord, Claim, ClaimedTask, DeleteOutcome, DiscardOutcome,
    FailureGroup, FlowStored, FollowedUp, Health, LimitedClaim, LimitedTasks, ListPage, NewNode, Orphan,
    Overdue, Overrunning, Patience, ProgressRecord, QueueCounts, Removal, Reprioritised, Retry, RetryOutcome,
    Settlement, StoreError, Submitted, TaskFilter, TaskStore, UpkeepStore, Waiting, Walk, WorkStore,
    WorkerProfile,
};
use async_trait::async_trait;
use domain::{
    Attempt, Day, NewTask, Priority, QueueName, RetentionRules, Task, TaskId, Tenant, WorkerId,
    ai::{Spending, UsageGroup, UsageGrouping},
    flow::BatchCounts,
};
use tokio::sync::Notify;

pub use clock::TestClock;
pub use error::PostgresError;
pub use options::{PostgresOptions, normalise_url};

use clock::Clock;
use connections::Connections;

/// The store. Use one per process: it keeps its connections, and an account of its workers' claims.
pub struct PostgresStore {
    connections: Connections,
    clock: Clock,
    submissions: submit::Submissions,
    ledgers: ledger::Ledgers,
    turns: claim::Turns,
    clocks: fair::Clocks,
    claim_marks: marks::Marks,
    refill_marks: marks::Marks,
    tallies: tally::Tallies,
    audit: rescue::Audit,
    edge_audit: rescue::Audit,
    need_ended: Arc<Notify>,
    ear: inbox::Ear,
}

impl PostgresStore {
    /// Opens the store on a database that [`PostgresStore::migrate`] has prepared. Refuses one without a schema or
    /// with an older one; a newer one is fine.
    pub async fn connect(url: &str, options: &PostgresOptions) -> Result<Self, PostgresError> {
        Self::open(url, options, Clock::default()).await
    }

    /// For tests: the store goes by this clock instead of the database's.
    pub async fn connect_with_clock(
        url: &str,
        options: &PostgresOptions,
        clock: TestClock,
    ) -> Result<Self, PostgresError> {
        Self::open(url, options, Clock::of(clock)).await
    }

    /// Brings a database to this program's schema and answers how many steps that took; zero when it was there
    /// already. Any number of processes may do so at once.
    pub async fn migrate(url: &str) -> Result<usize, PostgresError> {
        migrate::migrate(url).await
    }

    async fn open(url: &str, options: &PostgresOptions, clock: Clock) -> Result<Self, PostgresError> {
        let target = options.session(url)?;
        migrate::check(&target).await?;
        let ear = inbox::Ear::new(target.clone());
        let connections = Connections::new(target, *options);
        Ok(Self {
            submissions: submit::Submissions::new(&connections, &clock),
            clocks: fair::Clocks::new(&connections),
            connections,
            clock,
            ledgers: ledger::Ledgers::default(),
            turns: claim::Turns::default(),
            claim_marks: marks::Marks::new(options.slow_scan, marks::Share::Quarter),
            refill_marks: marks::Marks::new(options.slow_scan, marks::Share::Twentieth),
            tallies: tally::Tallies::default(),
            audit: rescue::Audit::default(),
            edge_audit: rescue::Audit::default(),
            need_ended: Arc::default(),
            ear,
        })
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").finish_non_exhaustive()
    }
}

#[async_trait]
impl TaskStore for PostgresStore {
    async fn submit(&self, tasks: &[NewTask]) -> Result<Vec<Submitted>, StoreError> {
        self.submit_tasks(tasks).await
    }

    async fn submit_flow(&self, nodes: &[NewNode]) -> Result<FlowStored, StoreError> {
        self.store_flow(nodes, None).await
    }

    async fn submit_batch(
        &self,
        nodes: &[NewNode],
        items: Arc<dyn BatchItems>,
    ) -> Result<FlowStored, StoreError> {
        self.store_flow(nodes, Some(items)).await
    }

    async fn batch_counts(
        &self,
        tenant: &Tenant,
        batches: &[TaskId],
    ) -> Result<Vec<(TaskId, BatchCounts)>, StoreError> {
        self.counts_of_batches(tenant, batches).await
    }

    async fn read(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<Task>, StoreError> {
        self.read_tasks(tenant, ids).await
    }

    async fn list(
        &self,
        tenant: &Tenant,
        filter: &TaskFilter,
        page: ListPage,
    ) -> Result<Vec<Task>, StoreError> {
        self.list_tasks(tenant, filter, page).await
    }

    async fn counts(&self, tenant: &Tenant) -> Result<Vec<QueueCounts>, StoreError> {
        self.counts_of(tenant).await
    }

    async fn attempts(&self, tenant: &Tenant, id: TaskId) -> Result<Option<Vec<Attempt>>, StoreError> {
        self.attempts_of(tenant, id).await
    }

    async fn cancel(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<CancelOutcome>, StoreError> {
        self.cancel_tasks(tenant, ids).await
    }

    async fn reprioritise(
        &self,
        tenant: &Tenant,
        ids: &[TaskId],
        priority: Priority,
    ) -> Result<Vec<Reprioritised>, StoreError> {
        self.change_priorities(tenant, ids, priority).await
    }

    async fn delete(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<DeleteOutcome>, StoreError> {
        self.delete_tasks(tenant, ids).await
    }

    async fn retry(&self, tenant: &Tenant, tasks: &[Retry]) -> Result<Vec<RetryOutcome>, StoreError> {
        self.retry_tasks(tenant, tasks).await
    }

    async fn discard(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<DiscardOutcome>, StoreError> {
        self.discard_tasks(tenant, ids).await
    }

    async fn failures(&self, tenant: &Tenant, limit: usize) -> Result<Vec<FailureGroup>, StoreError> {
        self.failure_groups(tenant, limit).await
    }

    async fn usage(
        &self,
        tenant: &Tenant,
        days: (Day, Day),
        grouping: UsageGrouping,
        limit: usize,
    ) -> Result<Vec<UsageGroup>, StoreError> {
        self.usage_of(tenant, days, grouping, limit).await
    }

    async fn batch_usage(&self, tenant: &Tenant, batch: TaskId) -> Result<Spending, StoreError> {
        self.usage_of_batch(tenant, batch).await
    }

    async fn chunks_after(
        &self,
        id: TaskId,
        after: (u32, u64),
        limit: usize,
    ) -> Result<Vec<ChunkRecord>, StoreError> {
        self.stored_chunks(id, after, limit).await
    }

    async fn ping(&self) -> Result<Health, StoreError> {
        self.health().await
    }
}

#[async_trait]
impl WorkStore for PostgresStore {
    async fn register(&self, profile: &WorkerProfile) -> Result<WorkerId, StoreError> {
        self.register_worker(profile).await
    }

    async fn heartbeat(&self, worker: WorkerId) -> Result<bool, StoreError> {
        self.beat(worker).await
    }

    async fn retire(&self, worker: WorkerId) -> Result<(), StoreError> {
        self.retire_worker(worker).await
    }

    async fn claim(&self, worker: WorkerId, claim: &Claim) -> Result<Vec<ClaimedTask>, StoreError> {
        self.claim_tasks(worker, claim).await
    }

    async fn claim_limited(
        &self,
        worker: WorkerId,
        claim: &LimitedClaim,
    ) -> Result<LimitedTasks, StoreError> {
        self.claim_within_limits(worker, claim).await
    }

    async fn settle(&self, worker: WorkerId, settlements: &[Settlement]) -> Result<Vec<Applied>, StoreError> {
        self.settle_attempts(worker, settlements).await
    }

    async fn record(
        &self,
        worker: WorkerId,
        progress: &[ProgressRecord],
        chunks: &[ChunkRecord],
    ) -> Result<(), StoreError> {
        self.record_output(worker, progress, chunks).await
    }

    async fn cancel_requests(&self, worker: WorkerId) -> Result<Vec<(TaskId, u32)>, StoreError> {
        self.cancel_requests_of(worker).await
    }
}

#[async_trait]
impl UpkeepStore for PostgresStore {
    async fn promote(&self, limit: usize) -> Result<Vec<Waiting>, StoreError> {
        self.promote_due(limit).await
    }

    async fn next_due(&self) -> Result<Option<Duration>, StoreError> {
        self.time_to_next_due().await
    }

    async fn expire(&self, limit: usize) -> Result<Vec<TaskId>, StoreError> {
        self.expire_waiting(limit).await
    }

    async fn overdue(&self) -> Result<Vec<Overdue>, StoreError> {
        self.overdue_workers().await
    }

    async fn bury(&self, seen: &Overdue) -> Result<bool, StoreError> {
        self.bury_worker(seen).await
    }

    async fn orphans(&self, limit: usize) -> Result<Vec<Orphan>, StoreError> {
        self.find_orphans(limit).await
    }

    async fn waiting(&self, queue: &QueueName, limit: usize) -> Result<Vec<Waiting>, StoreError> {
        self.first_waiting(queue, limit, Patience::Any).await
    }

    async fn waiting_on(&self, queue: &QueueName, limit: usize) -> Result<Vec<Waiting>, StoreError> {
        self.first_waiting(queue, limit, Patience::Little).await
    }

    async fn waiting_queues(&self, except: &[QueueName]) -> Result<Vec<QueueName>, StoreError> {
        self.queues_that_wait(except).await
    }

    async fn overrunning(&self, grace: Duration, limit: usize) -> Result<Vec<Overrunning>, StoreError> {
        self.find_overrunning(grace, limit).await
    }

    async fn follow_up(&self, limit: usize) -> Result<FollowedUp, StoreError> {
        self.follow_up_ends(limit).await
    }

    async fn need_ended(&self) {
        self.need_ended.notified().await;
    }

    async fn forget_keys(&self, limit: usize) -> Result<usize, StoreError> {
        self.forget_old_keys(limit).await
    }

    async fn forget_lanes(&self, age: Duration, limit: usize) -> Result<usize, StoreError> {
        self.forget_idle_lanes(age, limit).await
    }

    async fn remove_old(
        &self,
        rules: &RetentionRules,
        walk: Walk,
        limit: usize,
    ) -> Result<Removal, StoreError> {
        self.remove_old_tasks(rules, walk, limit).await
    }

    async fn discard_failed(&self, age: Duration, limit: usize) -> Result<usize, StoreError> {
        self.discard_old_failures(age, limit).await
    }
}
