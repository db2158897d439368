//! Schedules: what their owners do with them. The upkeep of every process fires them ([`crate::upkeep`]).

use std::{sync::Arc, time::Duration};

use domain::{
    Tenant, Timestamp,
    schedule::{Cadence, CatchUp, NewSchedule, Overlap, Schedule, ScheduleName, Template},
};

use crate::{
    ports::{FiringRecord, Put, Store, StoreError},
    tasks::{Admission, Submission, SubmitError, Tasks},
};

/// The most schedules, or firings, on one page.
pub const LARGEST_SCHEDULE_PAGE: usize = 500;
/// The most coming ticks that are told.
pub const MOST_COMING_TICKS: usize = 100;

/// The use cases.
#[derive(Clone)]
pub struct Schedules {
    store: Arc<dyn Store>,
    tasks: Tasks,
}

/// What became of the configuration's schedules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// How many are new, or other than before.
    pub changed: usize,
    /// How many are gone.
    pub removed: usize,
    /// Whose names somebody has used over the API.
    pub left_alone: Vec<ScheduleName>,
}

/// A schedule as its owner asks for it.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleRequest {
    /// When it is due.
    pub cadence: Cadence,
    /// What becomes of missed ticks.
    pub catch_up: CatchUp,
    /// What becomes of a tick while the last task runs.
    pub overlap: Overlap,
    /// How far the starts of its tasks are spread.
    pub jitter: Duration,
    /// Whether it stands still.
    pub paused: bool,
    /// What it submits at each tick.
    pub submission: Submission,
}

impl Schedules {
    /// Wires the use cases; `tasks` checks what a schedule submits.
    pub fn new(store: Arc<dyn Store>, tasks: Tasks) -> Self {
        Self { store, tasks }
    }

    /// Keeps a schedule: a new one, or in place of the one of that name. Ticks before now are not looked at.
    pub async fn put(
        &self,
        tenant: &Tenant,
        name: ScheduleName,
        request: ScheduleRequest,
    ) -> Result<Put, SubmitError> {
        let spec = self.spec(tenant, name, request, false)?;
        Ok(self.keep(spec).await?)
    }

    /// What is kept of a request.
    fn spec(
        &self,
        tenant: &Tenant,
        name: ScheduleName,
        request: ScheduleRequest,
        configured: bool,
    ) -> Result<NewSchedule, SubmitError> {
        let ScheduleRequest { cadence, catch_up, overlap, jitter, paused, submission } = request;
        let task = self.tasks.check(tenant, submission)?;
        let template = Template {
            task_type: task.task_type,
            queue: task.queue,
            priority: task.priority,
            input: task.input,
            metadata: task.metadata,
            limits: task.limits,
            own: task.own,
        };
        let tenant = tenant.clone();
        Ok(NewSchedule { tenant, name, cadence, catch_up, overlap, jitter, template, paused, configured })
    }

    /// Brings the schedules that come from the configuration to what it says now; any number of processes may do so. What
    /// somebody wrote over the API stays as it is, also under a name that the configuration uses, and so does a pause. With
    /// `whole`, those that it does not name any more are removed.
    pub async fn reconcile(
        &self,
        tenant: &Tenant,
        wanted: &[(ScheduleName, ScheduleRequest)],
        whole: bool,
    ) -> Result<Reconciled, SubmitError> {
        let mut done = Reconciled::default();
        for (name, request) in wanted {
            let spec = self.spec(tenant, name.clone(), request.clone(), true)?;
            match self.store.schedule(tenant, name).await? {
                Some(there) if !there.spec.configured => done.left_alone.push(name.clone()),
                Some(there) => {
                    let spec = NewSchedule { paused: there.spec.paused, ..spec };
                    if spec != there.spec {
                        self.keep(spec).await?;
                        done.changed += 1;
                    }
                }
                None => {
                    self.keep(spec).await?;
                    done.changed += 1;
                }
            }
        }
        if whole {
            done.removed = self.remove_unnamed(tenant, wanted).await?;
        }
        Ok(done)
    }

    /// Removes the schedules of the configuration that it does not name any more; answers how many.
    async fn remove_unnamed(
        &self,
        tenant: &Tenant,
        wanted: &[(ScheduleName, ScheduleRequest)],
    ) -> Result<usize, StoreError> {
        let (mut removed, mut after) = (0, None);
        loop {
            let page = self.store.schedules(tenant, after, LARGEST_SCHEDULE_PAGE).await?;
            let full = page.len() == LARGEST_SCHEDULE_PAGE;
            after = page.last().map(|schedule| schedule.spec.name.clone());
            for Schedule { spec: NewSchedule { name, configured, .. }, .. } in page {
                let named = wanted.iter().any(|(wanted, _)| *wanted == name);
                if configured && !named && self.store.remove_schedule(tenant, &name).await? {
                    removed += 1;
                }
            }
            if !full {
                return Ok(removed);
            }
        }
    }

    /// Lets a schedule stand still, or go on from now; `None` for an unknown one.
    pub async fn pause(
        &self,
        tenant: &Tenant,
        name: &ScheduleName,
        paused: bool,
    ) -> Result<Option<Schedule>, StoreError> {
        let Some(schedule) = self.store.schedule(tenant, name).await? else { return Ok(None) };
        if schedule.spec.paused == paused {
            return Ok(Some(schedule));
        }
        match self.keep(NewSchedule { paused, ..schedule.spec }).await? {
            Put::Created(schedule) | Put::Replaced(schedule) => Ok(Some(schedule)),
        }
    }

    /// The store's clock, by which ticks are judged.
    pub async fn now(&self) -> Result<Timestamp, StoreError> {
        Ok(self.store.ping().await?.now)
    }

    async fn keep(&self, spec: NewSchedule) -> Result<Put, StoreError> {
        let now = self.now().await?;
        let next_tick = if spec.paused { None } else { spec.cadence.next_after(now) };
        self.store.put_schedule(&spec, next_tick).await
    }

    /// One schedule.
    pub async fn read(&self, tenant: &Tenant, name: &ScheduleName) -> Result<Option<Schedule>, StoreError> {
        self.store.schedule(tenant, name).await
    }

    /// A page of schedules by name, at most [`LARGEST_SCHEDULE_PAGE`].
    pub async fn list(
        &self,
        tenant: &Tenant,
        after: Option<ScheduleName>,
        limit: usize,
    ) -> Result<Vec<Schedule>, StoreError> {
        self.store.schedules(tenant, after, limit.clamp(1, LARGEST_SCHEDULE_PAGE)).await
    }

    /// Removes a schedule; its tasks stay. `false` for an unknown one.
    pub async fn remove(&self, tenant: &Tenant, name: &ScheduleName) -> Result<bool, StoreError> {
        self.store.remove_schedule(tenant, name).await
    }

    /// Submits a schedule's task now, beside its ticks; `None` for an unknown one.
    pub async fn trigger(
        &self,
        tenant: &Tenant,
        name: &ScheduleName,
    ) -> Result<Option<Admission>, SubmitError> {
        let Some(schedule) = self.store.schedule(tenant, name).await? else { return Ok(None) };
        let Template { task_type, queue, priority, input, metadata, limits, own } = schedule.spec.template;
        let submission = Submission {
            queue: Some(queue),
            priority: Some(priority),
            max_attempts: Some(limits.max_attempts),
            soft_time_limit: limits.soft_time_limit,
            time_limit: Some(limits.time_limit),
            own,
            metadata,
            ..Submission::new(task_type, input)
        };
        Ok(self.tasks.submit(tenant, vec![submission]).await?.pop())
    }

    /// What became of a schedule's ticks, the latest first; `None` for an unknown one.
    pub async fn firings(
        &self,
        tenant: &Tenant,
        name: &ScheduleName,
        before: Option<Timestamp>,
        limit: usize,
    ) -> Result<Option<Vec<FiringRecord>>, StoreError> {
        self.store.firings(tenant, name, before, limit.clamp(1, LARGEST_SCHEDULE_PAGE)).await
    }

    /// The ticks of a cadence after a moment, at most [`MOST_COMING_TICKS`].
    pub fn ticks(cadence: &Cadence, after: Timestamp, count: usize) -> Vec<Timestamp> {
        std::iter::successors(cadence.next_after(after), |tick| cadence.next_after(*tick))
            .take(count.min(MOST_COMING_TICKS))
            .collect()
    }

    /// The next ticks of a schedule, at most [`MOST_COMING_TICKS`]; none while it is paused.
    pub fn coming(schedule: &Schedule, count: usize) -> Vec<Timestamp> {
        let cadence = &schedule.spec.cadence;
        std::iter::successors(schedule.next_tick, |tick| cadence.next_after(*tick))
            .take(count.min(MOST_COMING_TICKS))
            .collect()
    }
}

#[cfg(test)]
mod tests;
