//! Workers' reports, and what workers are told to do.

use std::time::Duration;

use async_trait::async_trait;
use domain::{Departure, Service, Timestamp, WorkerId};

use super::{
    MemoryStore,
    state::{Life, Worker, later},
};
use crate::ports::{
    CommandAnswer, CommandId, Fleet, FleetStore, GivenCommand, MOST_WORKERS, StoreError, Wanted,
    WorkerRecord, WorkerReport,
};

/// A command, and what became of it.
pub(super) struct KeptCommand {
    id: CommandId,
    worker: WorkerId,
    command: String,
    created_at: Timestamp,
    answer: Option<CommandAnswer>,
}

#[async_trait]
impl FleetStore for MemoryStore {
    async fn workers(&self, wanted: Wanted) -> Result<Fleet, StoreError> {
        let (state, now) = self.enter();
        let all = state.workers.iter().rev();
        let found = all.filter(|(id, worker)| match wanted {
            Wanted::One(one) => **id == one,
            Wanted::Recent(within) => {
                worker.life == Life::Alive || later(worker.last_heartbeat, within) >= now
            }
        });
        let workers = found.take(MOST_WORKERS).map(|(id, worker)| worker.record(*id)).collect();
        Ok(Fleet { now, workers })
    }

    async fn command(&self, workers: &[WorkerId], command: &str) -> Result<Vec<CommandId>, StoreError> {
        let (mut state, now) = self.enter();
        let mut ids = Vec::with_capacity(workers.len());
        for worker in workers {
            state.last_command += 1;
            let id = CommandId(state.last_command);
            let (worker, command) = (*worker, command.to_owned());
            state.commands.push(KeptCommand { id, worker, command, created_at: now, answer: None });
            ids.push(id);
        }
        Ok(ids)
    }

    async fn answers(&self, commands: &[CommandId]) -> Result<Vec<CommandAnswer>, StoreError> {
        let (state, _) = self.enter();
        let asked = state.commands.iter().filter(|kept| commands.contains(&kept.id));
        Ok(asked.filter_map(|kept| kept.answer.clone()).collect())
    }

    async fn report(
        &self,
        worker: WorkerId,
        report: Option<WorkerReport>,
        answers: &[CommandAnswer],
    ) -> Result<Vec<GivenCommand>, StoreError> {
        let (mut state, now) = self.enter();
        let Some(known) = state.workers.get_mut(&worker).filter(|known| known.life == Life::Alive) else {
            return Ok(Vec::new());
        };
        if let Some(WorkerReport { queues, except, concurrency, standing }) = report {
            (known.service, known.concurrency) = (Service { only: queues, except }, concurrency);
            known.report = Some((now, standing));
        }
        let own = state.commands.iter_mut().filter(|kept| kept.worker == worker && kept.answer.is_none());
        let mut given = Vec::new();
        for kept in own {
            kept.answer = answers.iter().find(|answer| answer.id == kept.id).cloned();
            if kept.answer.is_none() {
                given.push(GivenCommand { id: kept.id, command: kept.command.clone() });
            }
        }
        Ok(given)
    }

    async fn forget_reports(&self, age: Duration, limit: usize) -> Result<usize, StoreError> {
        let (mut state, now) = self.enter();
        let is_old = |at: Timestamp| later(at, age) < now;
        let mut forgotten = 0;
        state.commands.retain(|kept| {
            let goes = forgotten < limit && is_old(kept.created_at);
            forgotten += usize::from(goes);
            !goes
        });
        let gone = state.workers.values_mut().filter(|worker| worker.life != Life::Alive);
        let old = gone.filter(|worker| worker.report.as_ref().is_some_and(|(at, _)| is_old(*at)));
        for worker in old.take(limit) {
            worker.report = None;
            forgotten += 1;
        }
        Ok(forgotten)
    }
}

impl Worker {
    fn record(&self, id: WorkerId) -> WorkerRecord {
        WorkerRecord {
            id,
            name: self.name.clone(),
            queues: self.service.only.clone(),
            except: self.service.except.clone(),
            concurrency: self.concurrency,
            lease: self.lease,
            registered_at: self.registered_at,
            last_heartbeat: self.last_heartbeat,
            departure: match self.life {
                Life::Alive => None,
                Life::Retired => Some(Departure::Left),
                Life::Dead => Some(Departure::Dead),
            },
            about: self.about.clone(),
            report: self.report.clone(),
        }
    }
}
