//! A store that passes everything on but what its mutant spoils.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use application::ports::{
    Applied, CancelOutcome, ChunkRecord, Claim, ClaimedTask, DeleteOutcome, Health, ListPage, Orphan,
    Overdue, ProgressRecord, QueueCounts, Receipt, Settlement, Store, StoreError, TaskFilter, TaskStore,
    UpkeepStore, Waiting, WorkStore, WorkerProfile,
};
use async_trait::async_trait;
use domain::{Attempt, NewTask, QueueName, Task, TaskId, Tenant, WorkerId};

use super::Mutant;

/// After so many claims a deaf worker hears nothing more.
const HEARD: u64 = 10;

pub(super) struct BrokenStore {
    mutant: Mutant,
    inner: Arc<dyn Store>,
    calls: AtomicU64,
}

impl BrokenStore {
    pub(super) fn new(mutant: Mutant, inner: Arc<dyn Store>, _database: Option<&str>) -> Self {
        Self { mutant, inner, calls: AtomicU64::new(0) }
    }

    /// How often this was asked before.
    fn calls(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed)
    }
}

#[async_trait]
impl TaskStore for BrokenStore {
    async fn submit(&self, tasks: &[NewTask]) -> Result<Vec<Receipt>, StoreError> {
        self.inner.submit(tasks).await
    }

    async fn read(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<Task>, StoreError> {
        self.inner.read(tenant, ids).await
    }

    async fn list(
        &self,
        tenant: &Tenant,
        filter: &TaskFilter,
        page: ListPage,
    ) -> Result<Vec<Task>, StoreError> {
        self.inner.list(tenant, filter, page).await
    }

    async fn counts(&self, tenant: &Tenant) -> Result<Vec<QueueCounts>, StoreError> {
        self.inner.counts(tenant).await
    }

    async fn attempts(&self, tenant: &Tenant, id: TaskId) -> Result<Option<Vec<Attempt>>, StoreError> {
        self.inner.attempts(tenant, id).await
    }

    async fn cancel(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<CancelOutcome>, StoreError> {
        self.inner.cancel(tenant, ids).await
    }

    async fn delete(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<DeleteOutcome>, StoreError> {
        self.inner.delete(tenant, ids).await
    }

    async fn chunks_after(
        &self,
        id: TaskId,
        after: (u32, u64),
        limit: usize,
    ) -> Result<Vec<ChunkRecord>, StoreError> {
        self.inner.chunks_after(id, after, limit).await
    }

    async fn ping(&self) -> Result<Health, StoreError> {
        self.inner.ping().await
    }
}

#[async_trait]
impl WorkStore for BrokenStore {
    async fn register(&self, profile: &WorkerProfile) -> Result<WorkerId, StoreError> {
        self.inner.register(profile).await
    }

    async fn heartbeat(&self, worker: WorkerId) -> Result<bool, StoreError> {
        self.inner.heartbeat(worker).await
    }

    async fn retire(&self, worker: WorkerId) -> Result<(), StoreError> {
        self.inner.retire(worker).await
    }

    async fn claim(&self, worker: WorkerId, claim: &Claim) -> Result<Vec<ClaimedTask>, StoreError> {
        if self.mutant == Mutant::DeafWorker && self.calls() >= HEARD {
            return Ok(Vec::new());
        }
        self.inner.claim(worker, claim).await
    }

    async fn settle(&self, worker: WorkerId, settlements: &[Settlement]) -> Result<Vec<Applied>, StoreError> {
        if self.mutant == Mutant::LyingSettle && self.calls() % 20 == 19 {
            return Ok(vec![Applied::Yes; settlements.len()]);
        }
        self.inner.settle(worker, settlements).await
    }

    async fn record(
        &self,
        worker: WorkerId,
        progress: &[ProgressRecord],
        chunks: &[ChunkRecord],
    ) -> Result<(), StoreError> {
        self.inner.record(worker, progress, chunks).await
    }

    async fn cancel_requests(&self, worker: WorkerId) -> Result<Vec<(TaskId, u32)>, StoreError> {
        self.inner.cancel_requests(worker).await
    }
}

#[async_trait]
impl UpkeepStore for BrokenStore {
    async fn promote(&self, limit: usize) -> Result<Vec<Waiting>, StoreError> {
        self.inner.promote(limit).await
    }

    async fn next_due(&self) -> Result<Option<Duration>, StoreError> {
        self.inner.next_due().await
    }

    async fn expire(&self, limit: usize) -> Result<Vec<TaskId>, StoreError> {
        self.inner.expire(limit).await
    }

    async fn overdue(&self) -> Result<Vec<Overdue>, StoreError> {
        self.inner.overdue().await
    }

    async fn bury(&self, seen: &Overdue) -> Result<bool, StoreError> {
        self.inner.bury(seen).await
    }

    async fn orphans(&self, limit: usize) -> Result<Vec<Orphan>, StoreError> {
        if self.mutant == Mutant::NoTakeOver {
            return Ok(Vec::new());
        }
        self.inner.orphans(limit).await
    }

    async fn waiting(&self, queue: &QueueName, limit: usize) -> Result<Vec<Waiting>, StoreError> {
        self.inner.waiting(queue, limit).await
    }

    async fn waiting_queues(&self) -> Result<Vec<QueueName>, StoreError> {
        self.inner.waiting_queues().await
    }
}
