//! A batch's live events: those of its task, and how its items stand, whenever that has changed, once a second at most.

use std::pin::Pin;

use domain::{TaskId, Tenant, flow::BatchCounts};
use futures_util::{Stream, StreamExt as _};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::{TaskEvent, Tasks};
use crate::{board::FRESH, ports::StoreError};

/// One event of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum BatchEvent {
    /// One of the task that stands for it.
    Task(TaskEvent),
    /// How its items stand: behind its first state, at changes, and before its last state.
    Counts(BatchCounts),
}

impl Tasks {
    /// Watches a batch; `None` for an unknown one. The stream ends after the state event of an ended one.
    pub async fn watch_batch(
        &self,
        tenant: &Tenant,
        id: TaskId,
    ) -> Result<Option<impl Stream<Item = BatchEvent> + Send + 'static + use<>>, StoreError> {
        let Some(events) = self.watch(tenant, id, (0, 0)).await? else { return Ok(None) };
        let mut look = tokio::time::interval_at(Instant::now() + FRESH, FRESH);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watcher = Watcher {
            tasks: self.clone(),
            tenant: tenant.clone(),
            id,
            events: Box::pin(events),
            look,
            told: None,
            ready: None,
        };
        Ok(Some(futures_util::stream::unfold(watcher, |mut watcher| async move {
            let event = watcher.next().await?;
            Some((event, watcher))
        })))
    }

    /// As they stood within the last second.
    async fn counts_of_late(&self, tenant: &Tenant, id: TaskId) -> Result<BatchCounts, StoreError> {
        self.batches_watched.look((tenant.clone(), id), self.counts_now(tenant, id)).await
    }

    async fn counts_now(&self, tenant: &Tenant, id: TaskId) -> Result<BatchCounts, StoreError> {
        Ok(self.batch_counts(tenant, &[id]).await?.pop().unwrap_or_default())
    }
}

struct Watcher {
    tasks: Tasks,
    tenant: Tenant,
    id: TaskId,
    events: Pin<Box<dyn Stream<Item = TaskEvent> + Send>>,
    look: Interval,
    /// What the reader was told last.
    told: Option<BatchCounts>,
    /// What comes next.
    ready: Option<BatchEvent>,
}

impl Watcher {
    async fn next(&mut self) -> Option<BatchEvent> {
        if let Some(event) = self.ready.take() {
            return Some(event);
        }
        loop {
            tokio::select! {
                event = self.events.next() => return Some(self.beside(event?).await),
                _ = self.look.tick() => {
                    let counts = self.tasks.counts_of_late(&self.tenant, self.id).await;
                    if let Some(event) = self.news(counts) {
                        return Some(event);
                    }
                }
            }
        }
    }

    /// An event of the task; with a state come the counts, which at the end are the exact ones and the last word but one.
    async fn beside(&mut self, event: TaskEvent) -> BatchEvent {
        let TaskEvent::State(task) = &event else { return BatchEvent::Task(event) };
        let ended = task.status.is_terminal();
        let counts = if ended {
            self.tasks.counts_now(&self.tenant, self.id).await
        } else {
            self.tasks.counts_of_late(&self.tenant, self.id).await
        };
        let state = BatchEvent::Task(event);
        match self.news(counts) {
            Some(counts) if ended => {
                self.ready = Some(state);
                counts
            }
            news => {
                self.ready = news;
                state
            }
        }
    }

    fn news(&mut self, counts: Result<BatchCounts, StoreError>) -> Option<BatchEvent> {
        match counts {
            Ok(counts) => (self.told.replace(counts) != Some(counts)).then_some(BatchEvent::Counts(counts)),
            Err(error) => Some(BatchEvent::Task(TaskEvent::Interrupted(error))),
        }
    }
}
