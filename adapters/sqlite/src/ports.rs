//! The ports, each call handed to its verb.

use std::{sync::Arc, time::Duration};

use application::ports::{
    Applied, BatchItems, CancelOutcome, ChunkRecord, Claim as Wish, ClaimedTask, DeleteOutcome,
    DiscardOutcome, FailureGroup, FlowStored, FollowedUp, Health, LimitedClaim, LimitedTasks, ListPage,
    NewNode, Orphan, Overdue, Overrunning, ProgressRecord, QueueCounts, Removal, Reprioritised, Retry,
    RetryOutcome, Settlement, StoreError, Submitted, TaskFilter, TaskStore, UpkeepStore, Waiting, Walk,
    WorkStore, WorkerProfile,
};
use async_trait::async_trait;
use domain::{
    Attempt, Day, NewTask, Priority, QueueName, RetentionRules, Task, TaskId, Tenant, WorkerId,
    ai::{Spending, UsageGroup, UsageGrouping},
    flow::BatchCounts,
};
use sqlx::SqliteConnection;

use crate::{
    attempts::Attempts,
    cancel::Cancel,
    claim::{Claim, ClaimLimited},
    delete::{Delete, Discard, DiscardFailed},
    error::store_error,
    failed::Failures,
    fair::ForgetLanes,
    flow::{CountItems, SubmitFlow},
    follow::{AnyEnds, FollowUp},
    list::List,
    once::ForgetKeys,
    read::{ChunksAfter, Read},
    record::Record,
    reprioritise::Reprioritise,
    retention::RemoveOld,
    retry::RetryTasks,
    rows::moment,
    settle::Settle,
    store::{Query, SqliteStore},
    tally::Counts,
    upkeep::{Expire, NextDue, Promote, WaitingIn, WaitingQueues},
    usage::{Usage, UsageOfBatch},
    workers::{Bury, CancelRequests, Heartbeat, Orphans, OverdueAt, OverrunningAt, Register, Retire},
};

#[async_trait]
impl TaskStore for SqliteStore {
    async fn submit(&self, tasks: &[NewTask]) -> Result<Vec<Submitted>, StoreError> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        self.submissions.call(tasks.to_vec()).await
    }

    async fn submit_flow(&self, nodes: &[NewNode]) -> Result<FlowStored, StoreError> {
        self.write(SubmitFlow { nodes: nodes.to_vec(), items: None }).await
    }

    async fn submit_batch(
        &self,
        nodes: &[NewNode],
        items: Arc<dyn BatchItems>,
    ) -> Result<FlowStored, StoreError> {
        self.write(SubmitFlow { nodes: nodes.to_vec(), items: Some(items) }).await
    }

    async fn batch_counts(
        &self,
        tenant: &Tenant,
        batches: &[TaskId],
    ) -> Result<Vec<(TaskId, BatchCounts)>, StoreError> {
        self.query(CountItems { tenant: tenant.clone(), batches: batches.to_vec() }).await
    }

    async fn read(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<Task>, StoreError> {
        self.query(Read { tenant: tenant.clone(), ids: ids.to_vec() }).await
    }

    async fn list(
        &self,
        tenant: &Tenant,
        filter: &TaskFilter,
        page: ListPage,
    ) -> Result<Vec<Task>, StoreError> {
        self.query(List { tenant: tenant.clone(), filter: filter.clone(), page }).await
    }

    async fn counts(&self, tenant: &Tenant) -> Result<Vec<QueueCounts>, StoreError> {
        self.query(Counts { tenant: tenant.clone() }).await
    }

    async fn attempts(&self, tenant: &Tenant, id: TaskId) -> Result<Option<Vec<Attempt>>, StoreError> {
        self.query(Attempts { tenant: tenant.clone(), id }).await
    }

    async fn cancel(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<CancelOutcome>, StoreError> {
        self.write(Cancel { tenant: tenant.clone(), ids: ids.to_vec() }).await
    }

    async fn reprioritise(
        &self,
        tenant: &Tenant,
        ids: &[TaskId],
        priority: Priority,
    ) -> Result<Vec<Reprioritised>, StoreError> {
        self.write(Reprioritise { tenant: tenant.clone(), ids: ids.to_vec(), priority }).await
    }

    async fn delete(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<DeleteOutcome>, StoreError> {
        self.write(Delete { tenant: tenant.clone(), ids: ids.to_vec() }).await
    }

    async fn retry(&self, tenant: &Tenant, tasks: &[Retry]) -> Result<Vec<RetryOutcome>, StoreError> {
        self.write(RetryTasks { tenant: tenant.clone(), tasks: tasks.to_vec() }).await
    }

    async fn discard(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<DiscardOutcome>, StoreError> {
        self.write(Discard { tenant: tenant.clone(), ids: ids.to_vec() }).await
    }

    async fn failures(&self, tenant: &Tenant, limit: usize) -> Result<Vec<FailureGroup>, StoreError> {
        self.query(Failures { tenant: tenant.clone(), limit }).await
    }

    async fn usage(
        &self,
        tenant: &Tenant,
        days: (Day, Day),
        grouping: UsageGrouping,
        limit: usize,
    ) -> Result<Vec<UsageGroup>, StoreError> {
        self.query(Usage { tenant: tenant.clone(), days, grouping, limit }).await
    }

    async fn batch_usage(&self, tenant: &Tenant, batch: TaskId) -> Result<Spending, StoreError> {
        self.query(UsageOfBatch { tenant: tenant.clone(), batch }).await
    }

    async fn chunks_after(
        &self,
        id: TaskId,
        after: (u32, u64),
        limit: usize,
    ) -> Result<Vec<ChunkRecord>, StoreError> {
        self.query(ChunksAfter { id, after, limit }).await
    }

    async fn ping(&self) -> Result<Health, StoreError> {
        self.query(Ping).await?;
        Ok(Health { kind: "sqlite", now: moment(self.now())? })
    }
}

#[async_trait]
impl WorkStore for SqliteStore {
    async fn register(&self, profile: &WorkerProfile) -> Result<WorkerId, StoreError> {
        self.write(Register { profile: profile.clone() }).await
    }

    async fn heartbeat(&self, worker: WorkerId) -> Result<bool, StoreError> {
        self.write(Heartbeat { worker }).await
    }

    async fn retire(&self, worker: WorkerId) -> Result<(), StoreError> {
        self.write(Retire { worker }).await
    }

    async fn claim(&self, worker: WorkerId, claim: &Wish) -> Result<Vec<ClaimedTask>, StoreError> {
        self.write(Claim { worker, wish: claim.clone() }).await
    }

    async fn claim_limited(
        &self,
        worker: WorkerId,
        claim: &LimitedClaim,
    ) -> Result<LimitedTasks, StoreError> {
        self.write(ClaimLimited { worker, claim: claim.clone() }).await
    }

    async fn settle(&self, worker: WorkerId, settlements: &[Settlement]) -> Result<Vec<Applied>, StoreError> {
        self.write(Settle { worker, settlements: settlements.to_vec() }).await
    }

    async fn record(
        &self,
        worker: WorkerId,
        progress: &[ProgressRecord],
        chunks: &[ChunkRecord],
    ) -> Result<(), StoreError> {
        self.write(Record { worker, progress: progress.to_vec(), chunks: chunks.to_vec() }).await
    }

    async fn cancel_requests(&self, worker: WorkerId) -> Result<Vec<(TaskId, u32)>, StoreError> {
        self.query(CancelRequests { worker }).await
    }
}

#[async_trait]
impl UpkeepStore for SqliteStore {
    async fn promote(&self, limit: usize) -> Result<Vec<Waiting>, StoreError> {
        self.write(Promote { limit }).await
    }

    async fn next_due(&self) -> Result<Option<Duration>, StoreError> {
        self.query(NextDue { now: self.now() }).await
    }

    async fn expire(&self, limit: usize) -> Result<Vec<TaskId>, StoreError> {
        self.write(Expire { limit }).await
    }

    async fn overdue(&self) -> Result<Vec<Overdue>, StoreError> {
        self.query(OverdueAt { now: self.now() }).await
    }

    async fn bury(&self, seen: &Overdue) -> Result<bool, StoreError> {
        self.write(Bury { seen: seen.clone() }).await
    }

    async fn orphans(&self, limit: usize) -> Result<Vec<Orphan>, StoreError> {
        self.query(Orphans { limit }).await
    }

    async fn waiting(&self, queue: &QueueName, limit: usize) -> Result<Vec<Waiting>, StoreError> {
        self.query(WaitingIn { queue: queue.clone(), limit }).await
    }

    async fn waiting_queues(&self, except: &[QueueName]) -> Result<Vec<QueueName>, StoreError> {
        self.query(WaitingQueues { except: except.to_vec() }).await
    }

    async fn overrunning(&self, grace: Duration, limit: usize) -> Result<Vec<Overrunning>, StoreError> {
        self.query(OverrunningAt { now: self.now(), grace, limit }).await
    }

    async fn follow_up(&self, limit: usize) -> Result<FollowedUp, StoreError> {
        if limit == 0 || !self.query(AnyEnds).await? {
            return Ok(FollowedUp::default());
        }
        self.write(FollowUp { limit }).await
    }

    async fn need_ended(&self) {
        self.need_ended.notified().await;
    }

    async fn forget_keys(&self, limit: usize) -> Result<usize, StoreError> {
        self.write(ForgetKeys { limit }).await
    }

    async fn forget_lanes(&self, age: Duration, limit: usize) -> Result<usize, StoreError> {
        self.write(ForgetLanes { age, limit }).await
    }

    async fn remove_old(
        &self,
        rules: &RetentionRules,
        walk: Walk,
        limit: usize,
    ) -> Result<Removal, StoreError> {
        self.write(RemoveOld { rules: rules.clone(), walk, limit }).await
    }

    async fn discard_failed(&self, age: Duration, limit: usize) -> Result<usize, StoreError> {
        self.write(DiscardFailed { age, limit }).await
    }
}

/// A look at the file.
struct Ping;

#[async_trait]
impl Query for Ping {
    type Answer = ();

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "SELECT count(*) FROM sqlite_schema";
        let _: i64 = sqlx::query_scalar(SQL).fetch_one(snapshot).await.map_err(store_error)?;
        Ok(())
    }
}
