//! Schedules.

use async_trait::async_trait;
use domain::{
    Tenant, Timestamp,
    schedule::{NewSchedule, Schedule, ScheduleId, ScheduleName},
};

use super::{MemoryStore, clients::submit};
use crate::ports::{DueSchedule, Fired, Firing, FiringRecord, Put, ScheduleStore, StoreError, Submitted};

/// A schedule with what became of its ticks.
pub(super) struct KeptSchedule {
    pub(super) schedule: Schedule,
    pub(super) firings: Vec<FiringRecord>,
}

#[async_trait]
impl ScheduleStore for MemoryStore {
    async fn put_schedule(
        &self,
        spec: &NewSchedule,
        next_tick: Option<Timestamp>,
    ) -> Result<Put, StoreError> {
        let (mut state, now) = self.enter();
        let key = (spec.tenant.clone(), spec.name.clone());
        if let Some(kept) = state.schedules.get_mut(&key) {
            let schedule = &mut kept.schedule;
            (schedule.spec, schedule.next_tick, schedule.updated_at) = (spec.clone(), next_tick, now);
            schedule.revision += 1;
            return Ok(Put::Replaced(schedule.clone()));
        }
        state.last_schedule += 1;
        let schedule = Schedule {
            id: ScheduleId(state.last_schedule),
            spec: spec.clone(),
            revision: 1,
            next_tick,
            last_tick: None,
            last_task: None,
            created_at: now,
            updated_at: now,
        };
        state.schedules.insert(key, KeptSchedule { schedule: schedule.clone(), firings: Vec::new() });
        Ok(Put::Created(schedule))
    }

    async fn schedule(&self, tenant: &Tenant, name: &ScheduleName) -> Result<Option<Schedule>, StoreError> {
        let (state, _) = self.enter();
        Ok(state.schedules.get(&(tenant.clone(), name.clone())).map(|kept| kept.schedule.clone()))
    }

    async fn schedules(
        &self,
        tenant: &Tenant,
        after: Option<ScheduleName>,
        limit: usize,
    ) -> Result<Vec<Schedule>, StoreError> {
        let (state, _) = self.enter();
        let own = state
            .schedules
            .iter()
            .filter(|((owner, name), _)| owner == tenant && after.as_ref().is_none_or(|after| name > after));
        Ok(own.take(limit).map(|(_, kept)| kept.schedule.clone()).collect())
    }

    async fn remove_schedule(&self, tenant: &Tenant, name: &ScheduleName) -> Result<bool, StoreError> {
        let (mut state, _) = self.enter();
        Ok(state.schedules.remove(&(tenant.clone(), name.clone())).is_some())
    }

    async fn due_schedules(&self, limit: usize) -> Result<Vec<DueSchedule>, StoreError> {
        let (state, now) = self.enter();
        let mut due: Vec<DueSchedule> = state
            .schedules
            .values()
            .filter(|kept| kept.schedule.next_tick.is_some_and(|tick| tick <= now))
            .map(|kept| {
                let last = kept.schedule.last_task.and_then(|task| state.tasks.get(&task));
                let running = last.is_some_and(|entry| !entry.status().is_terminal());
                DueSchedule { schedule: kept.schedule.clone(), running, now }
            })
            .collect();
        due.sort_by_key(|due| (due.schedule.next_tick, due.schedule.id));
        due.truncate(limit);
        Ok(due)
    }

    async fn fire(&self, firing: &Firing) -> Result<Fired, StoreError> {
        let (mut state, now) = self.enter();
        let kept = state.schedules.values().find(|kept| kept.schedule.id == firing.schedule);
        if kept.is_none_or(|kept| kept.schedule.revision != firing.revision) {
            return Ok(Fired::Stale);
        }
        let mut receipts = Vec::with_capacity(firing.tasks.len());
        for (_, task) in &firing.tasks {
            if let Submitted::New(receipt) = submit(&mut state, task, now) {
                receipts.push(receipt);
            }
        }
        let kept = state.schedules.values_mut().find(|kept| kept.schedule.id == firing.schedule);
        if let Some(KeptSchedule { schedule, firings }) = kept {
            for ((tick, _), receipt) in firing.tasks.iter().zip(&receipts) {
                firings.push(FiringRecord::Fired { tick: *tick, task: receipt.id, at: now });
                (schedule.last_tick, schedule.last_task) = (Some(*tick), Some(receipt.id));
            }
            firings.extend(firing.skipped.iter().map(|run| FiringRecord::Skipped { run: *run, at: now }));
            schedule.next_tick = firing.next_tick;
            schedule.revision += 1;
        }
        Ok(Fired::Yes(receipts))
    }

    async fn firings(
        &self,
        tenant: &Tenant,
        name: &ScheduleName,
        before: Option<Timestamp>,
        limit: usize,
    ) -> Result<Option<Vec<FiringRecord>>, StoreError> {
        let (state, _) = self.enter();
        let Some(kept) = state.schedules.get(&(tenant.clone(), name.clone())) else { return Ok(None) };
        let earlier = |record: &&FiringRecord| before.is_none_or(|before| record.tick() < before);
        let mut found: Vec<FiringRecord> = kept.firings.iter().filter(earlier).copied().collect();
        found.sort_by_key(|record| std::cmp::Reverse(record.tick()));
        found.truncate(limit);
        Ok(Some(found))
    }
}
