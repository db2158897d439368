//! Queues, as their operators see and handle them.

mod watch;
mod why;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use domain::{QueueName, QueueSettings, Routes, RunSummary, Service, Status, TaskId, Tenant, Timestamp};

pub use self::{
    watch::QueueEvent,
    why::{Explained, FARTHEST_PLACE},
};

use crate::{
    board::Board,
    ports::{QueueCounts, RunRecord, Signal, Signals, Store, StoreError},
    tasks::Tasks,
};

/// How far back the numbers of runs reach, in minutes.
pub const RECENT_MINUTES: u32 = 5;
/// The most tasks that one call purges.
pub const LARGEST_PURGE: usize = 100_000;
/// How many unfinished tasks one step of a purge looks at.
const PURGE_STEP: usize = 2_000;

/// The use cases.
#[derive(Clone)]
pub struct Queues {
    store: Arc<dyn Store>,
    signals: Arc<dyn Signals>,
    routes: Arc<Routes>,
    tasks: Tasks,
    /// What each tenant's watchers are shown.
    board: Arc<Board<Tenant, Arc<[QueueReport]>>>,
}

/// One queue as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueReport {
    /// Which.
    pub name: QueueName,
    /// The patterns of task types that are routed here, in the order of all routes.
    pub patterns: Vec<String>,
    /// Whether what no pattern takes goes here.
    pub is_fallback: bool,
    /// What the configuration says of it.
    pub settings: QueueSettings,
    /// Whether it stands still.
    pub paused: bool,
    /// How many of the tenant's tasks stand where; only what is not zero.
    pub counts: Vec<(Status, u64)>,
    /// How long somebody has been waiting as PENDING.
    pub oldest_waiting: Option<Duration>,
    /// What ran lately, on all workers.
    pub recent: Option<RunSummary>,
    /// Over this time.
    pub recent_time: Duration,
    /// How many living workers serve it.
    pub workers: u64,
}

impl QueueReport {
    /// How many of its tasks stand here.
    pub fn count(&self, status: Status) -> u64 {
        self.counts.iter().filter(|(of, _)| *of == status).map(|(_, count)| count).sum()
    }

    /// What somebody has to see to.
    pub fn warning(&self) -> Option<&'static str> {
        let waits = self.count(Status::Pending) + self.count(Status::Scheduled) > 0;
        (waits && self.workers == 0).then_some("tasks wait here and no living worker serves this queue")
    }
}

/// What a purge did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PurgeReport {
    /// Tasks that it ended.
    pub purged: usize,
    /// Whether it stopped at its limit: there may be more.
    pub more: bool,
}

impl Queues {
    /// Wires the use cases.
    pub fn new(store: Arc<dyn Store>, signals: Arc<dyn Signals>, routes: Arc<Routes>, tasks: Tasks) -> Self {
        Self { store, signals, routes, tasks, board: Arc::default() }
    }

    /// Every queue that is routed to, configured or paused, or in which the tenant has tasks, by name.
    pub async fn list(&self, tenant: &Tenant) -> Result<Vec<QueueReport>, StoreError> {
        self.report(tenant, None).await
    }

    /// One queue; `None` where nothing is known of it.
    pub async fn read(&self, tenant: &Tenant, queue: &QueueName) -> Result<Option<QueueReport>, StoreError> {
        Ok(self.report(tenant, Some(queue)).await?.pop())
    }

    /// Lets a queue stand still on all workers within a second, or go on. What runs, runs on. Answers whether that changed
    /// anything.
    pub async fn pause(&self, queue: &QueueName, paused: bool) -> Result<bool, StoreError> {
        let changed = self.store.pause_queue(queue, paused).await?;
        if changed {
            tracing::info!(%queue, "{}", if paused { "the queue stands still" } else { "the queue goes on" });
        }
        Ok(changed)
    }

    /// Ends all of the tenant's tasks that wait in a queue, as CANCELLED, in steps, about [`LARGEST_PURGE`] at most.
    /// What a worker takes meanwhile is left alone.
    pub async fn purge(&self, tenant: &Tenant, queue: &QueueName) -> Result<PurgeReport, StoreError> {
        let (mut report, mut after) = (PurgeReport::default(), TaskId(0));
        loop {
            let step = self.store.purge(tenant, queue, after, PURGE_STEP).await?;
            report.purged += step.ended.len();
            let state = |task: &TaskId| Signal::State { task: *task, attempt: 0, status: Status::Cancelled };
            let news: Vec<_> = step.ended.iter().map(state).collect();
            if !news.is_empty() {
                self.signals.publish(&news).await;
            }
            match step.next {
                Some(next) if report.purged < LARGEST_PURGE => after = next,
                next => {
                    tracing::info!(%queue, purged = report.purged, "the queue was purged");
                    return Ok(PurgeReport { more: next.is_some(), ..report });
                }
            }
        }
    }

    /// Of all queues, or of one.
    async fn report(
        &self,
        tenant: &Tenant,
        only: Option<&QueueName>,
    ) -> Result<Vec<QueueReport>, StoreError> {
        let mut counts = self.tasks.counts(tenant).await?;
        let mut paused = self.store.paused_queues().await?;
        let mut names = self.routes.queues();
        names.extend(counts.iter().map(|counts| counts.queue.clone()).chain(paused.iter().cloned()));
        names.sort_unstable();
        names.dedup();
        if let Some(only) = only {
            names.retain(|name| name == only);
            counts.retain(|counts| counts.queue == *only);
            paused.retain(|queue| queue == only);
        }
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let since: BTreeMap<QueueName, Timestamp> =
            self.store.waiting_since(&names).await?.into_iter().collect();
        let recent = self.store.recent_runs(RECENT_MINUTES).await?;
        let served = self.store.served().await?;
        let recent_time = (recent.until - recent.since).to_std().unwrap_or_default();
        let waited = |since: &Timestamp| (recent.until - *since).to_std().unwrap_or_default();
        let reports = names.into_iter().map(|name| QueueReport {
            patterns: self.patterns(&name),
            is_fallback: *self.routes.fallback() == name,
            settings: self.routes.settings(&name).clone(),
            paused: paused.contains(&name),
            counts: counts_of(&counts, &name),
            oldest_waiting: since.get(&name).map(waited),
            recent: summary_of(&recent.records, &name),
            recent_time,
            workers: workers_of(&served, &name),
            name,
        });
        Ok(reports.collect())
    }

    fn patterns(&self, queue: &QueueName) -> Vec<String> {
        let rules = self.routes.rules().iter().filter(|rule| rule.queue() == queue);
        rules.map(|rule| rule.pattern().to_owned()).collect()
    }
}

fn counts_of(counts: &[QueueCounts], queue: &QueueName) -> Vec<(Status, u64)> {
    counts
        .iter()
        .filter(|counts| counts.queue == *queue)
        .map(|counts| (counts.status, counts.count))
        .collect()
}

fn summary_of(records: &[RunRecord], queue: &QueueName) -> Option<RunSummary> {
    let own = records.iter().filter(|record| record.queue == *queue);
    RunSummary::of(&own.map(|record| (record.length, record.runs)).collect::<Vec<_>>())
}

/// How many workers serve a queue.
pub(crate) fn workers_of(served: &[(Service, u64)], queue: &QueueName) -> u64 {
    served.iter().filter(|(service, _)| service.covers(queue)).map(|(_, workers)| workers).sum()
}

#[cfg(test)]
mod tests;
