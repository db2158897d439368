//! Schedules: rows like everything else, so that any number of replicas may fire them and each tick is fired once.

use async_trait::async_trait;
use domain::{
    NewTask, TaskId, Tenant, Timestamp,
    schedule::{NewSchedule, Schedule, ScheduleId, ScheduleName, Skipped},
};

use super::{Receipt, StoreError};

/// The store's side that schedules need.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait ScheduleStore: Send + Sync {
    /// Keeps a schedule under its name: a new one, or in place of the one of that name, whose firings stay. Its revision
    /// rises; `next_tick` is what it waits for from now on.
    async fn put_schedule(
        &self,
        schedule: &NewSchedule,
        next_tick: Option<Timestamp>,
    ) -> Result<Put, StoreError>;

    /// The tenant's schedule of this name.
    async fn schedule(&self, tenant: &Tenant, name: &ScheduleName) -> Result<Option<Schedule>, StoreError>;

    /// The tenant's schedules by name, after `after`, at most `limit`.
    async fn schedules(
        &self,
        tenant: &Tenant,
        after: Option<ScheduleName>,
        limit: usize,
    ) -> Result<Vec<Schedule>, StoreError>;

    /// Removes a schedule with its firings; the tasks that it submitted stay. `false` when there is none.
    async fn remove_schedule(&self, tenant: &Tenant, name: &ScheduleName) -> Result<bool, StoreError>;

    /// Schedules of every tenant whose `next_tick` has come by the store's clock, the longest due first, at most `limit`.
    async fn due_schedules(&self, limit: usize) -> Result<Vec<DueSchedule>, StoreError>;

    /// Writes one plan whole or not at all: the ticks with their tasks, those that are skipped, and what comes next.
    /// [`Fired::Stale`], and nothing changes, where the schedule has moved on from `revision`, whoever moved it. The
    /// tasks are stored as [`super::TaskStore::submit`] does, without keys.
    async fn fire(&self, firing: &Firing) -> Result<Fired, StoreError>;

    /// What became of a schedule's ticks, the latest first, of ticks before `before`, at most `limit`; `None` for an
    /// unknown one.
    async fn firings(
        &self,
        tenant: &Tenant,
        name: &ScheduleName,
        before: Option<Timestamp>,
        limit: usize,
    ) -> Result<Option<Vec<FiringRecord>>, StoreError>;
}

/// What a put did.
#[derive(Debug, Clone, PartialEq)]
pub enum Put {
    /// There was none of this name.
    Created(Schedule),
    /// It took the place of another.
    Replaced(Schedule),
}

/// A schedule whose tick has come.
#[derive(Debug, Clone, PartialEq)]
pub struct DueSchedule {
    /// The schedule.
    pub schedule: Schedule,
    /// Whether its last task has not ended.
    pub running: bool,
    /// The store's clock.
    pub now: Timestamp,
}

/// A plan to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Firing {
    /// Of which schedule.
    pub schedule: ScheduleId,
    /// As it was read.
    pub revision: i64,
    /// Ticks, each with the task that it submits.
    pub tasks: Vec<(Timestamp, NewTask)>,
    /// Ticks that are not fired.
    pub skipped: Vec<Skipped>,
    /// What the schedule waits for after this.
    pub next_tick: Option<Timestamp>,
}

/// What became of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fired {
    /// It is written: a receipt per task, in order.
    Yes(Vec<Receipt>),
    /// The schedule has moved on.
    Stale,
}

/// What became of a tick, or of a run of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FiringRecord {
    /// It submitted this task.
    Fired {
        /// The tick.
        tick: Timestamp,
        /// The task.
        task: TaskId,
        /// When that happened, by the store's clock.
        at: Timestamp,
    },
    /// They were declared skipped.
    Skipped {
        /// Which, and why.
        run: Skipped,
        /// When that was declared.
        at: Timestamp,
    },
}

impl FiringRecord {
    /// The tick, or the first of the run.
    pub fn tick(&self) -> Timestamp {
        match self {
            Self::Fired { tick, .. } => *tick,
            Self::Skipped { run, .. } => run.first,
        }
    }
}
