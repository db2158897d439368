//! A store that passes everything on but what its mutant spoils.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use application::ports::{
    Applied, CancelOutcome, ChunkRecord, Claim, ClaimedTask, CommandAnswer, CommandId, DeleteOutcome,
    DiscardOutcome, DueSchedule, FailureGroup, Fired, Firing, FiringRecord, Fleet, FleetStore, FlowStored,
    FollowedUp, GivenCommand, Health, LimitedClaim, LimitedTasks, ListPage, Metered, NewNode, Orphan,
    Overdue, Overrunning, ProgressRecord, Purged, Put, QueueCounts, QueueStore, QuotaStore, RecentRuns,
    Removal, Reprioritised, Retry, RetryOutcome, RunRecord, ScheduleStore, Settlement, Store, StoreError,
    Submitted, TaskFilter, TaskStore, UpkeepStore, Waiting, Walk, Wanted, WorkStore, WorkerProfile,
    WorkerReport,
};
use async_trait::async_trait;
use domain::{
    Attempt, AttemptOutcome, Change, Day, NewTask, Priority, QueueName, RetentionRules, Service, Status,
    Task, TaskId, Tenant, Timestamp, WorkerId,
    ai::{Meter, Spending, UsageGroup, UsageGrouping, Verdict},
    flow::BatchCounts,
    schedule::{NewSchedule, Schedule, ScheduleName},
};

use super::{Mutant, breakage::Breakage};

/// After so many claims a deaf worker hears nothing more.
const HEARD: u64 = 10;

pub(super) struct BrokenStore {
    mutant: Mutant,
    inner: Arc<dyn Store>,
    /// For what no port can break; there is none on SQLite.
    breakage: Option<Breakage>,
    calls: AtomicU64,
}

impl BrokenStore {
    /// What everything is passed on to.
    pub(super) fn inner(&self) -> &dyn Store {
        self.inner.as_ref()
    }

    pub(super) fn new(mutant: Mutant, inner: Arc<dyn Store>, database: Option<&str>) -> Self {
        Self { mutant, inner, breakage: database.and_then(Breakage::open), calls: AtomicU64::new(0) }
    }

    /// The database itself, if this mutant is the product.
    fn breaks(&self, mutant: Mutant) -> Option<&Breakage> {
        self.breakage.as_ref().filter(|_| self.mutant == mutant)
    }

    /// Spoils a decision before it is stored.
    fn spoil(&self, mut settlement: Settlement) -> Settlement {
        match (self.mutant, &mut settlement.change) {
            (Mutant::ChargedDrain, Change::Wait { counters, outcome: AttemptOutcome::Released, .. }) => {
                counters.failures += 1;
            }
            (Mutant::EndlessCrashes, Change::Finish { counters, error: Some(error), .. })
                if error.code == "poison" =>
            {
                let (counters, error) = (*counters, Some(error.clone()));
                let (after, outcome) = (Duration::ZERO, AttemptOutcome::Crashed);
                settlement.change = Change::Wait { after, counters, outcome, error };
            }
            _ => {}
        }
        settlement
    }

    /// How often this was asked before.
    fn calls(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed)
    }
}

#[async_trait]
impl TaskStore for BrokenStore {
    async fn submit(&self, tasks: &[NewTask]) -> Result<Vec<Submitted>, StoreError> {
        if let Some(database) = self.breaks(Mutant::EarlyAnswer) {
            return database.answer_and_store_later(tasks).await;
        }
        if self.mutant == Mutant::ForgottenKeys {
            let without: Vec<_> =
                tasks.iter().map(|task| NewTask { idempotency: None, ..task.clone() }).collect();
            return self.inner.submit(&without).await;
        }
        self.inner.submit(tasks).await
    }

    async fn submit_flow(&self, nodes: &[NewNode]) -> Result<FlowStored, StoreError> {
        self.inner.submit_flow(nodes).await
    }

    async fn batch_counts(
        &self,
        tenant: &Tenant,
        batches: &[TaskId],
    ) -> Result<Vec<(TaskId, BatchCounts)>, StoreError> {
        self.inner.batch_counts(tenant, batches).await
    }

    async fn read(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<Task>, StoreError> {
        let mut tasks = self.inner.read(tenant, ids).await?;
        if self.mutant == Mutant::SilentEnd {
            for task in tasks.iter_mut().filter(|task| task.status.is_terminal()) {
                task.status = Status::Processing;
            }
        }
        Ok(tasks)
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
        let mut outcomes = self.inner.cancel(tenant, ids).await?;
        if let Some(database) = self.breaks(Mutant::CancelOverwrites) {
            for (id, outcome) in ids.iter().zip(&mut outcomes) {
                if matches!(outcome, CancelOutcome::AlreadyEnded(_)) {
                    database.overwrite_end(*id).await?;
                    *outcome = CancelOutcome::Cancelled;
                }
            }
        }
        Ok(outcomes)
    }

    async fn reprioritise(
        &self,
        tenant: &Tenant,
        ids: &[TaskId],
        priority: Priority,
    ) -> Result<Vec<Reprioritised>, StoreError> {
        self.inner.reprioritise(tenant, ids, priority).await
    }

    async fn delete(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<DeleteOutcome>, StoreError> {
        self.inner.delete(tenant, ids).await
    }

    async fn retry(&self, tenant: &Tenant, tasks: &[Retry]) -> Result<Vec<RetryOutcome>, StoreError> {
        self.inner.retry(tenant, tasks).await
    }

    async fn discard(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<DiscardOutcome>, StoreError> {
        self.inner.discard(tenant, ids).await
    }

    async fn failures(&self, tenant: &Tenant, limit: usize) -> Result<Vec<FailureGroup>, StoreError> {
        self.inner.failures(tenant, limit).await
    }

    async fn usage(
        &self,
        tenant: &Tenant,
        days: (Day, Day),
        grouping: UsageGrouping,
        limit: usize,
    ) -> Result<Vec<UsageGroup>, StoreError> {
        self.inner.usage(tenant, days, grouping, limit).await
    }

    async fn batch_usage(&self, tenant: &Tenant, batch: TaskId) -> Result<Spending, StoreError> {
        self.inner.batch_usage(tenant, batch).await
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
        let mut claimed = self.inner.claim(worker, claim).await?;
        if let Some(database) = self.breaks(Mutant::FlatAttempts) {
            for task in claimed.iter_mut().filter(|task| task.counters.attempt > 1) {
                task.counters.attempt -= 1;
                database.set_back_attempt(task.id).await?;
            }
        }
        if let Some(database) = self.breaks(Mutant::StolenTask)
            && self.calls() % 20 == 19
        {
            database.steal(worker).await?;
        }
        Ok(claimed)
    }

    async fn claim_limited(
        &self,
        worker: WorkerId,
        claim: &LimitedClaim,
    ) -> Result<LimitedTasks, StoreError> {
        self.inner.claim_limited(worker, claim).await
    }

    async fn settle(&self, worker: WorkerId, settlements: &[Settlement]) -> Result<Vec<Applied>, StoreError> {
        if self.mutant == Mutant::LyingSettle && self.calls() % 20 == 19 {
            return Ok(vec![Applied::Yes; settlements.len()]);
        }
        let changed: Vec<_> = settlements.iter().cloned().map(|one| self.spoil(one)).collect();
        if let Some(database) = self.breaks(Mutant::LostRetry) {
            let (lost, kept): (Vec<_>, Vec<_>) =
                changed.into_iter().partition(|one| matches!(one.change, Change::Wait { .. }));
            for one in &lost {
                database.lose(one.task, worker).await?;
            }
            // Answers are in the order of the settlements, and all of them are Yes or wrong anyway.
            self.inner.settle(worker, &kept).await?;
            return Ok(vec![Applied::Yes; settlements.len()]);
        }
        let mut answers = self.inner.settle(worker, &changed).await?;
        if let Some(database) = self.breaks(Mutant::ZombieSettle) {
            for (one, answer) in changed.iter().zip(&mut answers) {
                if *answer == Applied::Stale && database.complete(worker, one).await? {
                    *answer = Applied::Yes;
                }
            }
        }
        Ok(answers)
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
        if self.mutant == Mutant::NoPromotion {
            return Ok(Vec::new());
        }
        self.inner.promote(limit).await
    }

    async fn next_due(&self) -> Result<Option<Duration>, StoreError> {
        self.inner.next_due().await
    }

    async fn expire(&self, limit: usize) -> Result<Vec<TaskId>, StoreError> {
        self.inner.expire(limit).await
    }

    async fn overdue(&self) -> Result<Vec<Overdue>, StoreError> {
        if let Some(database) = self.breaks(Mutant::HastyBurial) {
            database.bury_who_pauses().await?;
        }
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

    async fn waiting_queues(&self, except: &[QueueName]) -> Result<Vec<QueueName>, StoreError> {
        self.inner.waiting_queues(except).await
    }

    async fn overrunning(&self, grace: Duration, limit: usize) -> Result<Vec<Overrunning>, StoreError> {
        self.inner.overrunning(grace, limit).await
    }

    async fn follow_up(&self, limit: usize) -> Result<FollowedUp, StoreError> {
        self.inner.follow_up(limit).await
    }

    async fn need_ended(&self) {
        self.inner.need_ended().await;
    }

    async fn forget_keys(&self, limit: usize) -> Result<usize, StoreError> {
        self.inner.forget_keys(limit).await
    }

    async fn forget_lanes(&self, age: Duration, limit: usize) -> Result<usize, StoreError> {
        self.inner.forget_lanes(age, limit).await
    }

    async fn remove_old(
        &self,
        rules: &RetentionRules,
        walk: Walk,
        limit: usize,
    ) -> Result<Removal, StoreError> {
        self.inner.remove_old(rules, walk, limit).await
    }

    async fn discard_failed(&self, age: Duration, limit: usize) -> Result<usize, StoreError> {
        self.inner.discard_failed(age, limit).await
    }
}

#[async_trait]
impl QueueStore for BrokenStore {
    async fn paused_queues(&self) -> Result<Vec<QueueName>, StoreError> {
        self.inner.paused_queues().await
    }

    async fn pause_queue(&self, queue: &QueueName, paused: bool) -> Result<bool, StoreError> {
        self.inner.pause_queue(queue, paused).await
    }

    async fn waiting_since(&self, queues: &[QueueName]) -> Result<Vec<(QueueName, Timestamp)>, StoreError> {
        self.inner.waiting_since(queues).await
    }

    async fn purge(
        &self,
        tenant: &Tenant,
        queue: &QueueName,
        after: TaskId,
        limit: usize,
    ) -> Result<Purged, StoreError> {
        self.inner.purge(tenant, queue, after, limit).await
    }

    async fn age(
        &self,
        queue: &QueueName,
        every: Duration,
        limit: usize,
    ) -> Result<Vec<Waiting>, StoreError> {
        self.inner.age(queue, every, limit).await
    }

    async fn note_runs(&self, runs: &[RunRecord]) -> Result<(), StoreError> {
        self.inner.note_runs(runs).await
    }

    async fn recent_runs(&self, minutes: u32) -> Result<RecentRuns, StoreError> {
        self.inner.recent_runs(minutes).await
    }

    async fn served(&self) -> Result<Vec<(Service, u64)>, StoreError> {
        self.inner.served().await
    }
}

#[async_trait]
impl ScheduleStore for BrokenStore {
    async fn put_schedule(
        &self,
        schedule: &NewSchedule,
        next_tick: Option<Timestamp>,
    ) -> Result<Put, StoreError> {
        self.inner.put_schedule(schedule, next_tick).await
    }

    async fn schedule(&self, tenant: &Tenant, name: &ScheduleName) -> Result<Option<Schedule>, StoreError> {
        self.inner.schedule(tenant, name).await
    }

    async fn schedules(
        &self,
        tenant: &Tenant,
        after: Option<ScheduleName>,
        limit: usize,
    ) -> Result<Vec<Schedule>, StoreError> {
        self.inner.schedules(tenant, after, limit).await
    }

    async fn remove_schedule(&self, tenant: &Tenant, name: &ScheduleName) -> Result<bool, StoreError> {
        self.inner.remove_schedule(tenant, name).await
    }

    async fn due_schedules(&self, limit: usize) -> Result<Vec<DueSchedule>, StoreError> {
        self.inner.due_schedules(limit).await
    }

    async fn fire(&self, firing: &Firing) -> Result<Fired, StoreError> {
        let fired = self.inner.fire(firing).await?;
        if self.mutant == Mutant::FiredTwice && fired == Fired::Stale {
            let tasks: Vec<_> = firing.tasks.iter().map(|(_, task)| task.clone()).collect();
            self.inner.submit(&tasks).await?;
        }
        Ok(fired)
    }

    async fn firings(
        &self,
        tenant: &Tenant,
        name: &ScheduleName,
        before: Option<Timestamp>,
        limit: usize,
    ) -> Result<Option<Vec<FiringRecord>>, StoreError> {
        self.inner.firings(tenant, name, before, limit).await
    }
}

#[async_trait]
impl QuotaStore for BrokenStore {
    async fn meter(&self, steps: &[Metered]) -> Result<Vec<Verdict>, StoreError> {
        self.inner.meter(steps).await
    }

    async fn read_meters(&self, names: &[String]) -> Result<Vec<(String, Meter)>, StoreError> {
        self.inner.read_meters(names).await
    }

    async fn forget_meters(&self, age: Duration, limit: usize) -> Result<usize, StoreError> {
        self.inner.forget_meters(age, limit).await
    }
}

#[async_trait]
impl FleetStore for BrokenStore {
    async fn workers(&self, wanted: Wanted) -> Result<Fleet, StoreError> {
        self.inner.workers(wanted).await
    }

    async fn command(&self, workers: &[WorkerId], command: &str) -> Result<Vec<CommandId>, StoreError> {
        self.inner.command(workers, command).await
    }

    async fn answers(&self, commands: &[CommandId]) -> Result<Vec<CommandAnswer>, StoreError> {
        self.inner.answers(commands).await
    }

    async fn report(
        &self,
        worker: WorkerId,
        report: Option<WorkerReport>,
        answers: &[CommandAnswer],
    ) -> Result<Vec<GivenCommand>, StoreError> {
        self.inner.report(worker, report, answers).await
    }

    async fn forget_reports(&self, age: Duration, limit: usize) -> Result<usize, StoreError> {
        self.inner.forget_reports(age, limit).await
    }
}
