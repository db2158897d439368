//! What clients do: submit, read, wait, watch, list, cancel, retry, discard, delete, count.

mod backlog;
mod batches;
mod callbacks;
mod flows;
mod handle;
mod manual;
mod partial;
mod submit;
mod usage;
mod watch;
mod watch_batch;

use std::{sync::Arc, time::Duration};

use domain::{Attempt, Priority, Routes, Status, Task, TaskId, Tenant, flow::BatchCounts};

pub use batches::{After, ArticlesSubmission, BatchSubmission, ItemSubmission, MOST_ARTICLES};
pub use flows::FlowSubmission;
pub use handle::{Handle, NoResult};
pub use manual::{LARGEST_SWEEP, MOST_FAILURE_GROUPS, Swept};
pub use submit::{Admission, InvalidField, Submission, SubmitError};
pub use usage::{MOST_USAGE_DAYS, MOST_USAGE_GROUPS, UsageError, UsageReport};
pub use watch::TaskEvent;
pub use watch_batch::BatchEvent;

use self::backlog::Backlog;
use crate::{
    board::Board,
    ordering::Announcer,
    ports::{
        CancelOutcome, DeleteOutcome, Health, ListPage, Order, QueueCounts, Reprioritised, Signal, Signals,
        StoreError, TaskFilter, TaskStore,
    },
    registry::Registry,
};

/// The most tasks on one page of a list.
pub const LARGEST_PAGE: usize = 500;
/// The longest that a reader may wait for a task's end in one call.
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The largest input, in bytes, unless the configuration says otherwise.
pub const LARGEST_INPUT: usize = 1_048_576;

/// The clients' use cases.
#[derive(Clone)]
pub struct Tasks {
    store: Arc<dyn TaskStore>,
    order: Option<Arc<dyn Order>>,
    signals: Arc<dyn Signals>,
    registry: Arc<Registry>,
    routes: Arc<Routes>,
    backlog: Arc<Backlog>,
    announcer: Announcer,
    readers: watch::Readers,
    /// What the watchers of batches are shown.
    batches_watched: Arc<Board<(Tenant, TaskId), BatchCounts>>,
    largest_input: usize,
}

/// How a dependency fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DependencyHealth {
    /// Such as `postgresql`, `sqlite`, `redis`.
    pub name: &'static str,
    /// Whether it answered.
    pub healthy: bool,
    /// Whether the product can answer without it.
    pub required: bool,
    /// What was wrong.
    pub error: Option<String>,
}

impl Tasks {
    /// Wires the use cases. Without an order, workers take their tasks from the store alone.
    pub fn new(
        store: Arc<dyn TaskStore>,
        order: Option<Arc<dyn Order>>,
        signals: Arc<dyn Signals>,
        registry: Arc<Registry>,
        routes: Arc<Routes>,
    ) -> Self {
        let announcer = Announcer::new(order.clone(), Arc::clone(&signals));
        Self {
            store,
            order,
            signals,
            registry,
            routes,
            backlog: Arc::default(),
            announcer,
            readers: watch::Readers::default(),
            batches_watched: Arc::default(),
            largest_input: LARGEST_INPUT,
        }
    }

    /// Waits until what was submitted so far has been announced to the workers: for the end of a process, and for tests.
    pub async fn announced(&self) {
        self.announcer.announced().await;
    }

    /// Bounds how many tasks each tenant may have waiting (SCHEDULED and PENDING); `None` for no bound. Counts are half a
    /// second old at most, so a burst may pass it by a little.
    pub fn with_waiting_limit(self, limit: Option<u64>) -> Self {
        Self { backlog: Arc::new(Backlog::new(limit)), ..self }
    }

    /// Refuses inputs of more bytes than this; [`LARGEST_INPUT`] unless said otherwise.
    pub fn with_largest_input(self, largest_input: usize) -> Self {
        Self { largest_input, ..self }
    }

    /// The task types that can be submitted.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// One task.
    pub async fn read(&self, tenant: &Tenant, id: TaskId) -> Result<Option<Task>, StoreError> {
        let mut found = self.store.read(tenant, &[id]).await?;
        self.show_batches(tenant, &mut found).await?;
        Ok(found.pop())
    }

    /// One task as soon as it has ended, or as it stands after `patience` (at most [`LONGEST_WAIT`]).
    pub async fn wait(
        &self,
        tenant: &Tenant,
        id: TaskId,
        patience: Duration,
    ) -> Result<Option<Task>, StoreError> {
        let deadline = tokio::time::Instant::now() + patience.min(LONGEST_WAIT);
        // Listen before looking, so that an end between the two is not missed.
        let mut signals = self.signals.task(id).await;
        loop {
            let task = self.read(tenant, id).await?;
            let ended = task.as_ref().is_none_or(|task| task.status.is_terminal());
            if ended || tokio::time::Instant::now() >= deadline {
                return Ok(task);
            }
            let look_again =
                if self.signals.connected() { Duration::from_secs(2) } else { Duration::from_millis(250) };
            let until = deadline.min(tokio::time::Instant::now() + look_again);
            let news_of_an_end = async {
                loop {
                    match signals.recv().await {
                        Ok(Signal::State { status, .. }) if status.is_terminal() => return,
                        Ok(_) => {}
                        Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => return,
                        Err(tokio::sync::broadcast::error::RecvError::Closed) => std::future::pending().await,
                    }
                }
            };
            let _ = tokio::time::timeout_at(until, news_of_an_end).await;
        }
    }

    /// A page of tasks, newest first, at most [`LARGEST_PAGE`].
    pub async fn list(
        &self,
        tenant: &Tenant,
        filter: &TaskFilter,
        page: ListPage,
    ) -> Result<Vec<Task>, StoreError> {
        let limit = page.limit.clamp(1, LARGEST_PAGE);
        let mut found = self.store.list(tenant, filter, ListPage { limit, ..page }).await?;
        self.show_batches(tenant, &mut found).await?;
        Ok(found)
    }

    /// The attempts of a task, oldest first; `None` for an unknown id.
    pub async fn attempts(&self, tenant: &Tenant, id: TaskId) -> Result<Option<Vec<Attempt>>, StoreError> {
        self.store.attempts(tenant, id).await
    }

    /// How many tasks stand where.
    pub async fn counts(&self, tenant: &Tenant) -> Result<Vec<QueueCounts>, StoreError> {
        self.store.counts(tenant).await
    }

    /// Stops a task: one that waits ends at once, a running one is stopped by its worker. With a batch, all its items are
    /// stopped.
    pub async fn cancel(&self, tenant: &Tenant, id: TaskId) -> Result<CancelOutcome, StoreError> {
        let outcome = self.cancel_each(tenant, &[id]).await?.pop().unwrap_or(CancelOutcome::Unknown);
        // A batch is over when it is cancelled; should this process die now, asking again stops the items.
        if outcome != CancelOutcome::Unknown && outcome != CancelOutcome::Requested {
            let unfinished = [Status::Scheduled, Status::Pending, Status::Processing];
            let batch = !self.store.batch_counts(tenant, &[id]).await?.is_empty();
            let items = if batch { self.items_that_are(tenant, id, &unfinished).await? } else { Vec::new() };
            for page in items.chunks(LARGEST_PAGE) {
                self.cancel_each(tenant, page).await?;
            }
        }
        Ok(outcome)
    }

    /// Gives a task that waits another priority, also in the order.
    pub async fn reprioritise(
        &self,
        tenant: &Tenant,
        id: TaskId,
        priority: Priority,
    ) -> Result<Reprioritised, StoreError> {
        let outcomes = self.store.reprioritise(tenant, &[id], priority).await?;
        let outcome = outcomes.into_iter().next().unwrap_or(Reprioritised::Unknown);
        if let Reprioritised::Moved(place) = &outcome {
            // First out of its place: the order would keep a better one.
            if let Some(order) = &self.order
                && let Err(error) = order.withdraw(&place.queue, &[id]).await
            {
                tracing::debug!(%error, task_id = id.0, "the order still has a task in its old place");
            }
            self.announcer.announce(vec![place.clone()]);
        }
        Ok(outcome)
    }

    /// Stops these and tells of it.
    async fn cancel_each(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<CancelOutcome>, StoreError> {
        let outcomes = self.store.cancel(tenant, ids).await?;
        let (mut requested, mut news) = (Vec::new(), Vec::new());
        for (id, outcome) in ids.iter().zip(&outcomes) {
            match outcome {
                CancelOutcome::Requested => requested.push(*id),
                CancelOutcome::Cancelled => {
                    news.push(Signal::State { task: *id, attempt: 0, status: Status::Cancelled });
                }
                CancelOutcome::AlreadyEnded(_) | CancelOutcome::Unknown => {}
            }
        }
        if !requested.is_empty() {
            news.push(Signal::Cancel(requested));
        }
        if !news.is_empty() {
            self.signals.publish(&news).await;
        }
        Ok(outcomes)
    }

    /// Removes a task that does not run, with all that is kept of it.
    pub async fn delete(&self, tenant: &Tenant, id: TaskId) -> Result<DeleteOutcome, StoreError> {
        Ok(self.store.delete(tenant, &[id]).await?.pop().unwrap_or(DeleteOutcome::Unknown))
    }

    /// Asks every dependency.
    pub async fn health(&self) -> Vec<DependencyHealth> {
        let store = match self.store.ping().await {
            Ok(Health { kind, .. }) => {
                DependencyHealth { name: kind, healthy: true, required: true, error: None }
            }
            Err(error) => DependencyHealth {
                name: "store",
                healthy: false,
                required: true,
                error: Some(error.to_string()),
            },
        };
        let mut all = vec![store];
        if let Some(order) = &self.order {
            let error = order.ping().await.err().map(cause);
            all.push(DependencyHealth { name: "redis", healthy: error.is_none(), required: false, error });
        }
        all
    }
}

/// What a dependency said, without whose it is: that stands beside it.
fn cause(error: StoreError) -> String {
    match error {
        StoreError::Unavailable(cause) | StoreError::Corrupt(cause) => cause,
    }
}

#[cfg(test)]
mod flow_tests;
#[cfg(test)]
mod tests;
